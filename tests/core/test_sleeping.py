"""Demands of which nobody can start are left out of rounds, and wake for whatever may let one of them start."""

from playbook import Play, a_cluster, a_job, a_node

from gpud.core.queue import Group
from gpud.core.rules import Rules
from gpud.core.waits import NoCapacity, YieldsTo
from gpud.model.job import JobId

HOUR = 3600.0


def a_full_cluster(rules: Rules | None = None) -> tuple[Play, dict[str, JobId]]:
    """Return two nodes of which one has two GPUs free, kept for a wide job, and four demands that wait behind it.

    One is too long to pass, one names too many CPUs for any node, one waits on the node that is full, one is a gang.
    """
    play = a_cluster(a_node("n1", "4xH100", cpus=8), a_node("n2", "4xA100", cpus=8), rules=rules or Rules())
    running = play.submit(
        a_job(2, limit=2 * HOUR, type="H100"), a_job(2, limit=HOUR, type="A100"), a_job(2, limit=3 * HOUR, type="A100")
    )
    play.starts(*running)
    (wide,) = play.submit(a_job(4, limit=HOUR, type="H100", cpus=1))
    specs = {
        "long": a_job(1, limit=9 * HOUR, type="H100", cpus=2),
        "other": a_job(1, limit=9 * HOUR, type="A100", cpus=3),
        "busy": a_job(2, limit=9 * HOUR, type="A100", cpus=7),
        "gang": a_job(4, limit=9 * HOUR, nodes=2),
    }
    waiting = {name: play.submit(spec)[0] for name, spec in specs.items()}
    assert asleep(play) == set(waiting)
    return play, waiting | {"h": running[0], "a": running[1], "b": running[2], "wide": wide}


def asleep(play: Play) -> set[str]:
    """Return which of them sleep."""
    names = {2: "long", 3: "other", 7: "busy", 0: "gang"}
    return {names[group.demand.cpus] for group in groups_asleep(play)}


def groups_asleep(play: Play) -> list[Group]:
    groups = {line.group.demand: line.group for line in play.world.queue.lines()}
    return [group for group in groups.values() if group.asleep is not None]


def test_who_sleeps_is_told_why():
    play, jobs = a_full_cluster()
    assert play.why(jobs["long"]) == YieldsTo(jobs["wide"], play.reserved.at)
    for name in ("other", "busy"):
        assert isinstance(play.why(jobs[name]), NoCapacity)
    play.later(HOUR / 2)
    play.submit(a_job(1, limit=9 * HOUR, type="H100", cpus=2))
    assert play.why(jobs["long"]) == YieldsTo(jobs["wide"], play.reserved.at)


def test_who_sleeps_starts_where_enough_was_given_back():
    play, jobs = a_full_cluster()
    play.ends(jobs["a"])
    assert play.started == [jobs["other"]]
    assert {"long", "busy"} <= asleep(play)
    play.ends(jobs["b"])
    assert play.started == [], "seven CPUs are not free"
    play.starts(jobs["other"])
    play.ends(jobs["other"])
    assert play.started == [jobs["busy"]]


def test_who_sleeps_starts_when_nothing_is_reserved_any_more():
    play, jobs = a_full_cluster()
    play.cancel(jobs["wide"])
    assert play.started == [jobs["long"]]


def test_who_sleeps_starts_when_who_reserved_has_come_and_gone():
    play, jobs = a_full_cluster()
    play.ends(jobs["h"])
    assert play.started == [jobs["wide"]]
    play.starts(jobs["wide"])
    play.ends(jobs["wide"])
    assert jobs["long"] in play.started


def test_who_comes_with_a_demand_that_sleeps_and_is_short_passes():
    play, jobs = a_full_cluster()
    (short,) = play.submit(a_job(1, limit=HOUR, type="H100", cpus=2))
    assert play.started == [short]
    assert play.state(jobs["long"]) == "queued"


def test_who_sleeps_starts_on_a_gpu_that_is_drained_no_more_or_is_new():
    play, jobs = a_full_cluster()
    play.drain(*[each.gpu.id for each in play.world.nodes["n2"].gpus])
    play.ends(jobs["a"])
    assert play.started == []
    play.drain(*[each.gpu.id for each in play.world.nodes["n2"].gpus], reason=None)
    assert play.started == [jobs["other"]]
    play.sees(a_node("n3", "2xA100", cpus=8))
    assert play.started == [jobs["busy"]]


def test_a_gang_that_sleeps_starts_when_its_last_node_is_free():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "2xH100"), a_node("n3", "1xT4"))
    running = play.submit(*[a_job(2, limit=HOUR, type="H100") for _ in range(2)], a_job(1, limit=HOUR, type="T4"))
    play.starts(*running)
    _, gang = play.submit(a_job(1, limit=HOUR, type="T4", cpus=1), a_job(4, limit=HOUR, type="H100", nodes=2, cpus=2))
    assert [group.demand.nodes for group in groups_asleep(play)] == [2]
    play.ends(running[0])
    assert play.started == []
    play.ends(running[1])
    assert play.started == [gang]


def test_a_fraction_that_sleeps_starts_on_what_others_give_back_of_a_gpu():
    play = a_cluster(a_node("n1", "1xH100", cpus=8))
    parts = play.submit(*[a_job(1, share_permille=400, limit=HOUR) for _ in range(2)])
    play.starts(*parts)
    play.submit(a_job(1, limit=HOUR))
    (larger, smaller) = play.submit(
        a_job(1, share_permille=500, limit=9 * HOUR), a_job(1, share_permille=300, limit=HOUR / 2)
    )
    assert {group.demand.share_permille for group in groups_asleep(play)} == {500, 300}
    play.ends(parts[0])
    assert play.started == [smaller]
    assert play.state(larger) == "queued"


def test_who_slept_while_others_reserved_is_not_forgotten_once_they_reserve_elsewhere():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "2xT4"), rules=Rules(reservations=2))
    running = play.submit(a_job(2, type="T4", limit=25 * HOUR), a_job(1, limit=HOUR / 2), a_job(1, limit=HOUR))
    play.starts(*running)
    _, other = play.submit(a_job(2, priority=10, type="H100", cpus=1), a_job(2, priority=9, type="H100", cpus=2))
    (sleeper,) = play.submit(a_job(1, type="H100"))
    play.cancel(other)
    play.ends(running[1])
    assert play.state(sleeper) == "queued"
    play.submit(a_job(2, type="T4", priority=20, cpus=1), a_job(2, type="T4", priority=20, cpus=2))
    assert play.state(sleeper) == "starting", "what is free is nobody's now"


def test_who_sleeps_beside_a_reservation_is_told_what_is_missing_once_others_have_it():
    play = a_cluster(gpus="2xH100")
    (first,) = play.submit(a_job(1, limit=2 * HOUR))
    play.starts(first)
    (wide,) = play.submit(a_job(2, priority=10, limit=HOUR))
    (sleeper,) = play.submit(a_job(1, cpus=1))
    assert play.why(sleeper) == YieldsTo(wide, play.reserved.at)
    play.submit(a_job(1, limit=HOUR / 2, cpus=2))
    play.submit(a_job(2, cpus=3))
    assert isinstance(play.why(sleeper), NoCapacity)


def test_who_waits_for_a_type_that_is_gone_keeps_nobody_awake():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xT4"))
    play.starts(*play.submit(a_job(1, type="H100", limit=HOUR)))
    (gone,) = play.submit(a_job(1, type="T4", hold=True))
    play.sees(a_node("n2", ""))
    play.release(gone)
    _, late = play.submit(a_job(1, type="H100"), a_job(1, type="H100", cpus=1))
    assert play.world.queue.line(late).group.asleep is not None
