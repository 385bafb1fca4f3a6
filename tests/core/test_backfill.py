"""The first job that capacity blocks reserves, and nothing that comes later delays it."""

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf

import pytest
from hypothesis import example, given, settings, strategies as st
from playbook import NOON, Hardware, a_cluster, a_job, a_node, a_process, a_real_cluster, an_end, element

from gpud.core.commands import Cancel
from gpud.core.prediction import ENOUGH
from gpud.core.rules import Rules
from gpud.core.waits import NoCapacity, YieldsTo
from gpud.model.job import JobId
from gpud.model.window import Pool


def test_a_later_job_passes_only_if_it_ends_in_time():
    play = a_cluster(gpus="2xH100")
    play.submit(a_job(limit=100))
    wide, long, short = play.submit(a_job(2), a_job(limit=200), a_job(limit=50))
    assert play.state(short) == "starting"
    assert isinstance(play.why(wide), NoCapacity)
    kept = play.reserved
    assert kept is not None
    assert (kept.job, round(kept.at - NOON)) == (wide, 105)
    assert play.why(long) == YieldsTo(wide, kept.at)


def test_an_unlimited_job_does_not_pass_onto_reserved_gpus_but_onto_others():
    play = a_cluster(gpus="2xH100,1xT4")
    play.submit(a_job(limit=100, type="H100"))
    wide, onto_reserved, beside = play.submit(a_job(2, type="H100"), a_job(type="H100"), a_job(type="T4"))
    assert [play.state(job) for job in (wide, onto_reserved, beside)] == ["queued", "queued", "starting"]


@pytest.mark.parametrize(
    ("runs", "others_end", "passes"),
    [
        ([100] * 5, 151, True),
        ([100] * 5, 149, False),  # half as long again as they took
        ([100] * 4, 3_000, False),
        ([100] * 4 + [1_000], 1_400, False),  # one of its like took so long
        ([100] * 5 + [1_000] + [100] * 20, 151, True),  # that is long ago
    ],
)
def test_who_says_nothing_passes_by_the_longest_of_the_last_runs_of_its_like(runs, others_end, passes):
    play = a_cluster(gpus="3xH100")
    for seconds in runs[:-1]:
        play.starts(*play.submit(a_job(user="ada")))
        play.later(seconds)
        play.ends(*play.running)
    (last,) = play.submit(a_job(user="ada"))
    play.starts(last)
    play.submit(a_job(2, estimate=runs[-1] + others_end))
    wide, alike, like = play.submit(a_job(3), a_job(user="eve"), a_job(user="ada"))
    play.later(runs[-1])
    play.ends(last)
    kept = play.reserved
    assert kept is not None
    assert (kept.job, play.state(alike)) == (wide, "queued")
    assert (play.state(like) == "starting") is passes


def test_who_takes_longer_than_its_like_did_is_known_for_it_while_it_runs():
    play = a_cluster(gpus="2xH100")
    for _ in range(ENOUGH):
        play.starts(*play.submit(a_job()))
        play.later(100)
        play.ends(*play.running)
    (other,) = play.submit(a_job(user="bob", estimate=3_600))
    play.starts(other)
    wide, longer, like = play.submit(a_job(2, user="eve"), a_job(), a_job())
    play.starts(longer)
    play.later(3_600)
    play.ends(other)
    kept = play.reserved
    assert kept is not None
    assert kept.at - play.now > 2 * 150  # time enough for one that is as short as those that ended
    assert play.why(like) == YieldsTo(wide, kept.at)
    assert [play.state(job) for job in (longer, like)] == ["running", "queued"]


def test_who_is_called_otherwise_while_it_runs_says_no_more_of_those_of_its_old_name():
    play = a_cluster(gpus="1xH100")
    (job,) = play.submit(a_job())
    play.starts(job)
    active, books = play.world.active[job], play.world.books
    play.world.change(replace(active, terms=replace(active.terms, name_group="other")))
    assert books.oldest(active.terms) is None
    assert books.oldest(play.world.active[job].terms) == active.since
    play.ends(job)
    assert books.oldest(replace(active.terms, name_group="other")) is None


@pytest.mark.parametrize(("shorter", "passes"), [(0, False), (19, False), (20, True)])
def test_that_one_of_its_like_was_stopped_after_long_is_known_of_a_job_for_twenty_runs(shorter, passes):
    play = a_cluster(gpus="2xH100")
    for seconds in [100] * ENOUGH + [1_000] + [100] * shorter:
        (job,) = play.submit(a_job())
        play.starts(job)
        play.later(seconds)
        if seconds > 100:
            play.cancel(job)
        play.ends(job)
    play.starts(*play.submit(a_job(user="bob", estimate=1_000)))
    _, like = play.submit(a_job(2, user="eve"), a_job())
    assert (play.state(like) == "starting") is passes


def test_of_equal_gpus_those_that_are_free_now_are_reserved_last():
    play = a_cluster(gpus="4xRTX4090")
    over, running = play.submit(a_job(2, limit=100), a_job(2, limit=1000))
    play.starts(over, running)
    play.ends(over)
    jobs = play.submit(a_job(3), a_job(), a_job())
    assert [play.state(job) for job in jobs] == ["queued", "starting", "queued"]


def test_spare_cpus_may_be_used_beyond_the_reservation_and_others_not():
    play = a_cluster(gpus="1xH100", cpus=8)
    play.submit(a_job(1, cpus=2, limit=100))
    first, two, more = play.submit(a_job(1, cpus=6), a_job(0, cpus=2), a_job(0, cpus=1))
    assert [play.state(job) for job in (first, two, more)] == ["queued", "starting", "queued"]
    assert isinstance(play.why(more), YieldsTo)


def test_what_two_reservations_need_together_is_left_to_them():
    play = a_cluster(gpus="4xH100", cpus=10, rules=Rules(reservations=2))
    play.submit(a_job(cpus=9, limit=100))
    jobs = play.submit(a_job(cpus=6), a_job(cpus=4), a_job(cpus=1), a_job(cpus=1, limit=50))
    assert [play.state(job) for job in jobs] == ["queued", "queued", "queued", "starting"]


def test_who_has_reserved_takes_nothing_that_was_reserved_after_it_where_it_need_not():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xT4"), rules=Rules(reservations=2))
    running = play.submit(a_job(type="H100", limit=100), a_job(type="T4", limit=100))
    play.starts(*running)
    anywhere, there = play.submit(a_job(limit=1000), a_job(type="T4", limit=10))
    play.now = NOON + 100
    play.ends(*running)  # a T4 is the better place for who takes any
    assert [play.node(job) for job in (anywhere, there)] == ["n1", "n2"]


@pytest.mark.parametrize(("early", "states"), [(0, ["queued", "queued"]), (50, ["starting", "queued"])])
def test_before_its_moment_it_waits_for_who_comes_after_it_unless_something_ended_early(early, states):
    play = a_cluster(gpus="2xH100,2xT4", rules=Rules(reservations=2))
    play.starts(*play.submit(a_job(type="H100", limit=100), a_job(type="H100", limit=500)))
    soon, late = play.submit(a_job(type="T4", limit=97), a_job(type="T4", limit=99))
    anywhere, two = play.submit(a_job(limit=1000), a_job(2, type="T4", limit=10))
    assert list(play.world.reservations) == [anywhere, two]
    play.starts(soon, late)  # so that those GPUs are expected five seconds sooner
    play.now = NOON + 97 - early
    play.ends(soon)
    assert [play.state(job) for job in (anywhere, two)] == states
    assert early or play.why(anywhere) == YieldsTo(two, play.world.reservations[two].at)


def test_what_is_reserved_counts_on_time_limits_as_who_passes_does():
    """Else who runs for longer than its like did, within its limit, keeps others out, and GPUs idle."""
    play = a_cluster(gpus="2xH100")
    for _ in range(ENOUGH):
        play.starts(*play.submit(a_job(limit=10_000)))
        play.later(60)
        play.ends(*play.running)
    (runs,) = play.submit(a_job(limit=10_000))
    play.starts(runs)
    play.later(600)
    wide, passes, late = play.submit(a_job(2), a_job(limit=9_000), a_job(limit=9_500))
    assert play.world.reservations[wide].at - play.now == pytest.approx(9_400, abs=1)
    assert [play.state(job) for job in (passes, late)] == ["starting", "queued"]


def test_who_comes_first_from_now_on_leaves_nobody_what_they_reserved_before():
    nodes = a_node("n1", "2xH100", cpus=4), a_node("n2", "1xH100", cpus=4)
    play = a_cluster(*nodes, rules=Rules(reservations=2))
    play.starts(*play.submit(a_job(2, nodes=2, limit=3000), a_job(0, cpus=1, limit=27000)))
    wide, long = play.submit(a_job(2, limit=300), a_job(1, cpus=4, limit=90000))
    assert list(play.world.reservations) == [wide, long]
    play.prioritise(20, long)
    assert play.state(long) == "starting"


@pytest.mark.parametrize(
    ("specs", "reserve"),
    [
        # Of one demand, in lines of their own.
        ([a_job(2, type="H100"), a_job(2, type="H100", user="bob"), a_job()], [0, 1]),
        # What fits, but for who reserved before it, is blocked as well; for who takes a T4 two more may reserve.
        ([a_job(4, type="H100"), a_job(), a_job(type="T4"), a_job(type="T4")], [0, 1, 2]),
        # Who finds nothing beside what was reserved comes before who would, unless that can have nothing of the same.
        ([a_job(2, type="H100"), a_job(3, type="H100"), a_job()], [0]),
        ([a_job(2, type="H100"), a_job(3, type="H100"), a_job(type="T4")], [0, 2]),
        # So do an array's other elements.
        ([a_job(2, type="H100", array="0-9"), a_job()], [0]),
    ],
)
def test_blocked_jobs_reserve_in_the_order_of_the_queue(specs, reserve):
    play = a_cluster(gpus="4xH100,2xT4", rules=Rules(reservations=2))
    play.submit(*(a_job(limit=100, type="H100") for _ in range(3)), *(a_job(limit=50, type="T4") for _ in range(2)))
    jobs = play.submit(*specs)
    assert list(play.world.reservations) == [jobs[at] for at in reserve]


def test_a_job_that_counts_nothing_is_not_kept_out_by_a_shortage():
    play = a_cluster(gpus="2xH100", cpus=4)
    play.submit(a_job(cpus=4, limit=100))
    first, free = play.submit(a_job(0, cpus=4), a_job())
    assert [play.state(job) for job in (first, free)] == ["queued", "starting"]


def test_where_nothing_is_known_a_day_is_assumed_and_an_overrun_is_corrected():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    (next_one,) = play.submit(a_job())
    kept = play.reserved
    assert kept is not None
    assert round(kept.at - NOON) == 86_405
    play.later(90_000)
    kept = play.reserved
    assert kept is not None
    assert kept.job == next_one
    assert 0 < kept.at - play.now <= 900


def test_an_end_that_comes_a_moment_late_lets_nobody_pass():
    play = a_cluster(gpus="2xH100")
    play.submit(a_job(estimate=100))
    (wide,) = play.submit(a_job(2))
    play.later(105.05)
    (short,) = play.submit(a_job(estimate=30))
    kept = play.reserved
    assert kept is not None
    assert play.why(short) == YieldsTo(wide, kept.at)
    assert 0 < kept.at - play.now < 2


@pytest.mark.parametrize("took", [15, 110])
def test_an_estimate_is_believed_while_none_of_its_like_runs_for_longer(took):
    """Else whoever always says too little passes whoever waits for several GPUs, as long as they have jobs."""
    play = a_cluster(gpus="2xH100")
    first, second = play.submit(a_job(estimate=1), a_job(estimate=1))
    play.starts(first, second)
    play.later(took)
    wide, like = play.submit(a_job(2, user="eve"), a_job(estimate=1))
    play.ends(first)
    kept = play.reserved
    assert kept is not None
    assert kept.at - play.now > 10  # time enough for a second
    assert play.why(like) == YieldsTo(wide, kept.at)
    (other,) = play.submit(a_job(estimate=0.5))
    play.starts(other)  # of those of which that is said none runs for longer
    play.later(0.5)
    play.ends(other, second)
    assert (play.state(wide), play.state(like)) == ("starting", "queued")


def test_a_job_that_overruns_is_expected_to_end_by_its_time_limit():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job(estimate=1_000, limit=4_000))
    (next_one,) = play.submit(a_job())
    play.later(3_900)
    kept = play.reserved
    assert kept is not None
    assert (kept.job, round(kept.at - NOON)) == (next_one, 4_005)


def test_a_reservation_moves_only_to_an_earlier_moment():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"))
    slow, fast = play.submit(a_job(limit=500), a_job(limit=300))
    (next_one,) = play.submit(a_job())
    promised = play.reserved
    assert promised is not None
    assert (promised.allocation.node, play.node(fast)) == ("n2", "n2")
    play.now += 4  # starting took its time
    play.starts(slow, fast)
    kept = play.reserved
    assert kept is not None
    assert (kept.job, kept.allocation.node, round(promised.at - kept.at)) == (next_one, "n2", 1)
    play.ends(slow)
    assert play.state(next_one) == "starting"


def test_an_earlier_job_that_takes_what_was_reserved_moves_the_reservation():
    play = a_cluster(gpus="2xH100")
    play.submit(a_job(limit=100))
    (wide,) = play.submit(a_job(2))
    (urgent,) = play.submit(a_job(priority=10, limit=5000))
    assert play.state(urgent) == "starting"
    kept = play.reserved
    assert kept is not None
    assert (kept.job, round(kept.at - NOON)) == (wide, 5005)


@pytest.mark.parametrize("lasts", [200, 201])
def test_nobody_leaves_to_its_like_or_to_who_is_gone_what_these_had_reserved(lasts):
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "2xT4"), rules=Rules(reservations=2))
    first, _ = play.submit(a_job(2, limit=40, type="H100"), a_job(2, limit=80, type="T4"))
    play.starts(*play.started)
    second, third, fourth = play.submit(a_job(2, limit=20, type="H100"), a_job(2, limit=200), a_job(2, limit=lasts))
    play.now += 40
    play.ends(first)
    assert play.started == [second]
    assert play.world.reservations[third].at < play.world.reservations[fourth].at, "since the second runs"
    play.now += 20
    gone = [Cancel(1, (fourth,))] if lasts != 200 else []  # another than the third, and at the same moment
    play.cycle(*gone, an_end(second, 1, play.now))
    assert play.started == [third]


def test_the_next_element_of_an_array_gets_its_own_reservation():
    play = a_cluster(gpus="1xH100")
    (first,) = play.submit(a_job(limit=100))
    play.submit(a_job(limit=1000, estimate=1000, array="0-9"))
    play.later(50)
    play.ends(first)
    kept = play.reserved
    assert kept is not None
    assert round(kept.at - play.now) == 1005


def test_a_drained_node_keeps_no_reservation():
    play = a_cluster(a_node("n1", "", cpus=2), a_node("n2", "", cpus=2), a_node("n3", "", cpus=1))
    play.submit(a_job(0, cpus=2, limit=100), a_job(0, cpus=2, limit=500))
    (big,) = play.submit(a_job(0, cpus=2))
    first = play.reserved
    play.drain(nodes=("n1",))
    then = play.reserved
    assert first is not None
    assert then is not None
    assert (first.allocation.node, then.allocation.node) == ("n1", "n2")
    play.drain(nodes=("n2",))
    assert play.reserved is None
    assert play.state(big) == "queued"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"gpus": 1, "type": "T4"}, {"gpus": 2, "type": "H100"}),
        ({"gpus": 0, "cpus": 40}, {"gpus": 2, "type": "H100"}),
        ({"gpus": 1, "pool": "debug"}, {"gpus": 2, "type": "H100"}),
    ],
)
def test_who_waits_for_other_gpus_keeps_nobody_from_a_reservation(first, second):
    """Else small jobs pass the second for ever, for as long as the first one waits."""
    pools = (Pool(name="debug", gpus=("n3:0",)),)
    nodes = a_node("n1", "2xH100", cpus=8), a_node("n2", "1xT4", cpus=64), a_node("n3", "1xH100", cpus=8)
    play = a_cluster(*nodes, rules=Rules(pools=pools))
    play.submit(a_job(1, type="T4", cpus=60), a_job(1, pool="debug"), a_job(1, type="H100", limit=600))
    play.starts(*play.running)
    waiting = play.submit(a_job(**first), a_job(**second), a_job(**second), a_job(2, type="H100|T4"))
    (small,) = play.submit(a_job(1, type="H100", limit=9000))

    assert [job in play.world.reservations for job in waiting] == [True, True, False, False]
    assert play.state(small) == "queued"


@pytest.mark.parametrize("lasts", [20, 25])
def test_who_takes_any_type_keeps_others_from_no_reservation_of_a_type_that_it_has_not_reserved(lasts):
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xA100"))
    running = play.submit(a_job(3, type="H100", limit=20), a_job(3, type="A100", limit=30))
    play.starts(*running)
    anywhere, there, small = play.submit(
        a_job(4, limit=60), a_job(4, type="A100", limit=10), a_job(1, type="A100", limit=600)
    )
    assert [job in play.world.reservations for job in (anywhere, there)] == [True, True]
    another, last = play.submit(a_job(4, limit=60), a_job(4, type="A100", limit=10))
    assert [job in play.world.reservations for job in (another, last)] == [False, False]

    play.now = NOON + lasts
    play.ends(running[0])
    assert play.node(anywhere) == "n1"
    play.now = NOON + 30
    play.ends(running[1])
    assert play.node(there) == "n2"
    assert play.state(small) == "queued"


def test_of_equal_gpus_those_are_reserved_that_come_free_last_and_others_have_the_rest():
    play = a_cluster(gpus="4xH100")
    first, second, third = play.submit(a_job(1, limit=14), a_job(1, limit=30), a_job(2, limit=60))
    play.starts(first, second, third)
    rest = play.gpus(first)
    play.submit(a_job(3, limit=60))
    (long,) = play.submit(a_job(1, limit=9000))
    play.later(14)
    play.ends(first)
    assert play.started == [long]
    assert play.gpus(long) == rest


def test_what_is_reserved_is_what_comes_free_last_also_once_somebody_ended_early():
    play = a_cluster(gpus="4xH100")
    early, stays = play.submit(a_job(1, limit=9000), a_job(3, limit=9000))
    play.starts(early, stays)
    rest = play.gpus(early)
    (wide,) = play.submit(a_job(3, limit=60))
    assert set(rest) < set(play.world.reservations[wide].allocation.all_gpus), "of equal ones the first"
    play.later(2)
    play.ends(early)
    (long,) = play.submit(a_job(1, limit=90000))
    assert play.started == [long]
    assert play.gpus(long) == rest


def test_a_reservation_keeps_its_gpus_when_others_would_do_as_well():
    play = a_real_cluster("3xH100")
    play.submit(a_job(2, limit=100))
    play.settle()
    play.submit(a_job(2))
    first = play.reserved
    assert first is not None
    for gpu in play.hardware:
        play.hardware[gpu].temperature = 80 if gpu in frozenset(first.allocation.gpus) else 30
    play.look()
    assert play.reserved == first


def test_a_lost_node_keeps_no_reservation():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "1xT4"))
    play.submit(a_job(limit=100, type="H100"))
    play.submit(a_job(2))
    play.sees(a_node("n1", ""))
    assert play.reserved is None


def test_what_waits_for_no_end_of_a_job_reserves_nothing():
    play = a_real_cluster("2xH100")
    play.hardware["n1-H100-0"] = Hardware(processes=(a_process(),))
    play.look()
    play.submit(a_job(2), a_job(array="0-3%1", limit=10), a_job(hold=True), a_job(begin=100))
    play.settle()
    assert play.reserved is None
    assert len(play.running) == 1


def test_while_a_gpu_settles_after_an_end_those_beside_it_stay_reserved():
    play = a_real_cluster("3xH100")
    one, _ = play.submit(a_job(), a_job(limit=300))
    play.settle()
    (wide,) = play.submit(a_job(3))
    play.settle()
    play.ends(one)
    (later,) = play.submit(a_job())
    play.settle()
    assert [play.state(job) for job in (wide, later)] == ["queued", "queued"]


def test_a_throttled_array_lets_others_pass():
    play = a_cluster(gpus="4xH100")
    array, other = play.submit(a_job(array="0-9%2"), a_job(2))
    assert play.running == [element(array, 0), element(array, 1), other]


def test_the_last_of_a_thousand_blocked_demands_is_explained_too():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job(limit=9))
    jobs = play.submit(*(a_job(limit=10 + seconds) for seconds in range(100)))
    assert all(play.why(job) is not None for job in jobs)


# -- the promise itself

limits = st.sampled_from([5.0, 10.0, 17.0, 20.0, 33.0, 40.0, 80.0])
needs = st.fixed_dictionaries(
    {"gpus": st.integers(0, 4), "limit": st.sampled_from([None, 5.0, 10.0, 20.0, 40.0, 80.0])},
    optional={"cpus": st.integers(1, 8), "type": st.sampled_from(["H100", "T4"]), "ram": st.sampled_from([16, 48])},
)
shapes = st.one_of(
    st.fixed_dictionaries(
        {"gpus": st.integers(0, 4), "limit": limits},
        optional={"cpus": st.integers(1, 8), "type": st.sampled_from(["H100", "T4"]), "ram": st.sampled_from([16, 48])},
    ),
    st.fixed_dictionaries(
        {"gpus": st.sampled_from([2, 4]), "limit": limits, "nodes": st.just(2)},
        optional={"cpus": st.integers(1, 8), "type": st.just("T4"), "ram": st.sampled_from([16, 48])},
    ),
    st.fixed_dictionaries(
        {"gpus": st.just(1), "limit": limits, "share_permille": st.sampled_from([250, 400, 500])},
        optional={"cpus": st.integers(1, 8), "type": st.sampled_from(["H100", "T4"])},
    ),
)
thirds = st.sampled_from(["", "2xH100"])
arrivals = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 1.0, 7.0]), needs, st.floats(0.1, 1.0)), max_size=25)


@settings(max_examples=150, deadline=None)
@example(  # of two alike the first takes what the second has reserved
    2,
    "2xH100",
    [
        *[(0.0, {"gpus": 0, "limit": 5.0}, False)] * 3,
        (0.0, {"gpus": 1, "limit": 10.0}, False),
        (0.0, {"gpus": 3, "limit": 10.0}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
        *[(0.0, {"gpus": 2, "limit": 20.0, "nodes": 2}, True)] * 2,
    ],
)
@example(  # what comes after it has something reserved as well
    3,
    "2xH100",
    [
        *[(0.0, {"gpus": 0, "limit": 5.0}, False)] * 3,
        (0.0, {"gpus": 2, "limit": 20.0, "nodes": 2}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2, "type": "T4"}, False),
        (0.0, {"gpus": 1, "limit": 17.0, "share_permille": 250}, False),
        (0.0, {"gpus": 4, "limit": 5.0, "nodes": 2}, False),
        (0.0, {"gpus": 2, "limit": 10.0, "nodes": 2}, False),
        (0.0, {"gpus": 1, "limit": 10.0, "share_permille": 250}, False),
    ],
)
@example(  # what the fourth leaves is known once it runs: the sixth may have it before who comes later
    3,
    "2xH100",
    [
        (0.0, {"gpus": 1, "limit": 10.0}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
        (0.0, {"gpus": 4, "limit": 17.0, "nodes": 2}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
        (7.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
        (0.0, {"gpus": 2, "limit": 5.0, "nodes": 2}, False),
    ],
)
@given(
    st.integers(2, 4),
    thirds,
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 1.0, 7.0]), shapes, st.booleans()), max_size=25),
)
def test_whoever_reserved_starts_as_promised_if_all_end_as_they_said(several, third, stream):
    """Who says nothing ends as all of its like did."""
    play = a_cluster(
        a_node("n1", "3xH100,1xT4", cpus=12, memory=64),
        a_node("n2", "2xT4", cpus=8, memory=64),
        a_node("n3", third, cpus=6, memory=48),
        rules=Rules(reservations=several),
    )
    play.checked = False  # other tests do, at a price
    promised, begun, lasts = dict[JobId, float](), dict[JobId, float](), dict[JobId, float]()
    ends: list[tuple[float, JobId]] = []
    next_at, pending = play.now, [*stream]
    while pending or ends:
        wake, at = play.out.wake_at or inf, ends[0][0] if ends else inf
        if wake < min(at, next_at if pending else inf) - 0.1:
            play.now = max(play.now, wake)
            play.cycle()
        elif pending and next_at < at - 0.1:
            play.now = max(play.now, next_at)
            gap, spec, says = pending.pop(0)
            next_at, limit = play.now + gap, spec["limit"]
            job = a_job(**spec, estimate=limit) if says else a_job(**{**spec, "limit": None}, user=f"lasts {limit}")
            for _ in range(0 if says else ENOUGH):
                play.world.predictor.learn(job.terms, limit)
            lasts |= dict.fromkeys(play.submit(job), limit)
        else:  # what ends at one moment is told of at one, a little before it
            play.now = max(play.now, at - 0.001)
            play.ends(*(heappop(ends)[1] for _ in list(ends) if ends[0][0] <= at + 0.05))
        play.starts(*play.started)
        for job in sorted(play.world.active.keys() - begun.keys()):
            begun[job] = play.now
            heappush(ends, (play.now + lasts[job], job))
        for job, kept in play.world.reservations.items():
            if kept.at > play.now:
                promised[job] = min(promised.get(job, inf), kept.at)
    slack_s = 0.001 * 4 * (len(stream) + 1)  # every cycle takes its millisecond
    assert all(begun[job] <= at + slack_s for job, at in promised.items())


@dataclass
class Promises:
    """What every job was promised when it first came to be the first in line."""

    made: dict[JobId, float]

    def take(self, job: JobId, at: float, now: float) -> None:
        """A promise holds until its moment: right after it, an end that comes just then is not told yet."""
        before = self.made.get(job, at)
        assert at <= before or before <= now, "a promise was broken"
        self.made[job] = min(at, before)


@settings(max_examples=150, deadline=None)
@given(arrivals)
def test_a_reserved_job_never_starts_later_than_promised_if_all_keep_their_limits(stream):
    """Each job comes some seconds after the one before, and ends after a part of its limit, or of a day."""
    play = a_cluster(a_node("n1", "3xH100,1xT4", cpus=12, memory=64), a_node("n2", "2xT4", cpus=8, memory=64))
    promises, ends, begun = Promises({}), [], {}
    parts: dict[JobId, float] = {}
    pending = list(stream)
    next_at = play.now
    while pending or ends:
        if pending and (not ends or next_at <= ends[0][0]):
            play.now = max(play.now, next_at)
            gap, spec, part = pending.pop(0)
            next_at = play.now + gap
            # As told: what others' runs would let one guess is not what these jobs do.
            for job in play.submit(a_job(**spec, estimate=spec["limit"] or 86_400.0)):
                parts[job] = part
        else:
            at, job = heappop(ends)
            play.now = max(play.now, at - 0.001)
            play.ends(job)
        play.starts(*play.started)
        for job in sorted(play.world.active.keys() - begun.keys()):
            limit = play.world.active[job].terms.time_limit_s
            begun[job] = play.now
            heappush(ends, (play.now + parts[job] * (86_400.0 if limit is None else limit), job))
        kept = play.reserved
        if kept is not None:
            promises.take(kept.job, kept.at, play.now)
    slack_s = 0.001 * 3 * (len(stream) + 1)  # every cycle takes its millisecond
    assert all(begun[job] <= at + slack_s for job, at in promises.made.items())
