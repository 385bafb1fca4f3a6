"""A GPU that misbehaves is told of, kept from new jobs as far as it must be, and given out again when it is well."""

from dataclasses import replace

import pytest
from playbook import NOON, Hardware, Play, a_cluster, a_job, a_node, a_process, element

from gpud.core.census import there_s
from gpud.core.condition import Condition, condition
from gpud.core.cycle import cycle
from gpud.core.policies.fair_share import FairShare
from gpud.core.restore import carry_over, parting
from gpud.core.rules import Rules
from gpud.model.changes import Queued, StrangerSeen, Told, UsePut
from gpud.model.gpu import GpuId, NodeName, ProcessIdentity, Unreadable
from gpud.model.health import Signs
from gpud.model.job import JobId, format_job
from gpud.model.observations import GpuSeen, NodeSeen, XidSeen
from gpud.model.units import Mib, Timestamp
from gpud.views.gpus import gpu_map
from gpud.views.jobs import Scene, Viewer

ONE, TWO, THREE = GpuId("n1-H100-0"), GpuId("n1-H100-1"), GpuId("n1-H100-2")
LOOKING = Rules(sample_every_s=15.0)
APPLICATION, HARDWARE = (13, 31, 43, 45, 68, 109), (48, 62, 64, 74, 95, 119, 120, 140, 12345)


def real(gpus: str = "1xH100", **more: object) -> Play:
    return a_cluster(replace(a_node("n1", gpus, simulated=False), driver="550.54.15"), **more)


def told(play: Play, kind: str) -> list[Told]:
    return [each for each in play.out.changes if isinstance(each, Told) and each.kind == kind]


def alerts(play: Play) -> list[object]:
    return [each.detail["what"] for each in told(play, "alert")]


def state_of(play: Play, gpu: GpuId = ONE) -> str:
    return condition(play.world, play.world.gpus[gpu], Timestamp(play.now))


def level(play: Play, gpu: GpuId = ONE) -> str:
    return play.world.gpus[gpu].health.level


def with_signs(**signs: object) -> Hardware:
    return Hardware(signs=Signs(**signs))


def running(play: Play, *jobs: JobId) -> None:
    play.settle()
    play.starts(*jobs)


# -- XIDs


@pytest.mark.parametrize("number", APPLICATION)
def test_an_error_that_a_program_caused_is_told_to_its_job_and_drains_nothing(number):
    play = real("1xH100")
    (job,) = play.submit(a_job())
    running(play, job)

    play.xid(ONE, number)

    assert [(each.job, each.detail["xid"]) for each in told(play, "xid")] == [(job, number)]
    assert (level(play), alerts(play), play.state(job)) == ("healthy", [], "running")


@pytest.mark.parametrize("number", HARDWARE)
def test_an_error_of_the_hardware_keeps_new_jobs_away_and_leaves_the_running_one(number):
    play = real("2xH100")
    (job,) = play.submit(a_job())
    running(play, job)

    play.xid(ONE, number)

    assert alerts(play) == ["gpu_drained"]
    (event,) = told(play, "health")
    assert (event.detail["gpu"], event.detail["health"], event.detail["found"]) == (ONE, "draining", True)
    assert event.detail["clears"]
    assert play.state(job) == "running"
    play.ends(job)
    play.settle()
    assert state_of(play) == Condition.UNHEALTHY
    (both,) = play.submit(a_job(gpus=2))
    play.settle()
    assert play.state(both) == "queued"


def test_an_error_that_comes_by_the_thousand_is_told_of_once_a_minute():
    play = real("1xH100")
    events = 0
    for _ in range(100):
        play.xid(ONE, 31)
        events += len(told(play, "xid"))
    assert events == 1
    play.later(61)
    play.xid(ONE, 31)
    assert len(told(play, "xid")) == 1


def test_what_needs_a_person_survives_a_restart_of_gpud_and_ends_with_undrain():
    play = real("1xH100")
    play.xid(ONE, 48)

    play = play.restarted()
    play.look()
    assert state_of(play) == Condition.UNHEALTHY
    assert play.drain(ONE, reason=None).changed
    assert [each.detail["found"] for each in told(play, "health")] == [False]
    assert state_of(play) == Condition.FREE
    play = play.restarted()
    play.look()
    assert state_of(play) == Condition.FREE


def test_a_drained_node_that_is_given_back_keeps_its_sick_gpus_out_of_use():
    play = real("2xH100")
    play.xid(ONE, 48)
    node = play.world.gpus[ONE].node
    play.drain(nodes=(node,), reason="new kernel")

    assert play.drain(nodes=(node,), reason=None).changed
    play.look()
    assert state_of(play) == Condition.UNHEALTHY

    assert play.drain(nodes=(node,), reason=None).changed
    assert state_of(play) == Condition.FREE


def test_a_reboot_ends_what_a_reboot_cures_and_says_so():
    play = real("1xH100")
    play.xid(ONE, 48)
    play.xid(ONE, 12345)  # nobody knows what would cure it
    play.world.boot = "boot-2"

    again = play.restarted()

    assert [(each.detail["cause"], each.detail["found"]) for each in told(again, "health")] == [("xid 48", False)]
    assert list(again.world.gpus[ONE].health.faults) == ["xid 12345"]


# -- readings


@pytest.mark.parametrize(
    ("signs", "word"),
    [
        ({"ecc_uncorrected": 2}, "degraded"),
        ({"remap_pending": True}, "draining"),
        ({"remap_failed": True}, "draining"),
        ({"pcie_width": 8, "pcie_width_max": 16}, "degraded"),
        ({"power_limit_w": 100.0, "power_default_w": 350.0}, "degraded"),
        ({"recovery": "reset"}, "draining"),
        ({"ecc_uncorrected": 0, "remap_pending": False, "pcie_width": 16, "pcie_width_max": 16}, "healthy"),
        ({"power_limit_w": 300.0, "power_default_w": 350.0}, "healthy"),
    ],
)
def test_signs_of_its_health_count_while_they_are_there(signs, word):
    play = real("1xH100")
    play.hardware[ONE] = with_signs(**signs)
    play.look()
    assert level(play) == word
    play.hardware[ONE] = Hardware()  # a look that does not ask for them
    play.look()
    assert level(play) == word
    play.hardware[ONE] = with_signs()
    play.look()
    assert level(play) == "healthy"


def test_a_node_that_would_give_a_degraded_gpu_is_used_after_all_others():
    play = a_cluster(*[a_node(*each, simulated=False) for each in (("n1", "1xH100"), ("n2", "2xH100"))])
    for ill, nodes in ((False, ["n1", "n2", "n2"]), (True, ["n2", "n2", "n1"])):
        play.hardware[ONE] = with_signs(ecc_uncorrected=2 if ill else 0)
        play.look()
        jobs = play.submit(*[a_job() for _ in nodes])
        play.settle()
        assert [play.node(job) for job in jobs] == nodes
        play.starts(*jobs)
        play.ends(*jobs)
        play.settle()


def test_a_degraded_gpu_is_used_when_the_others_are():
    play = real("2xH100")
    play.hardware[ONE] = with_signs(pcie_width=1, pcie_width_max=16)
    play.look()
    first, second = play.submit(a_job(), a_job())
    play.settle()
    assert (play.gpus(first), play.gpus(second)) == ([TWO], [ONE])


def test_a_gpu_that_is_too_hot_gets_no_job_until_it_is_cooler_by_a_margin():
    play = real("1xH100", rules=Rules(thermal_limit_c=85))
    for degrees, word in ((84, "healthy"), (85, "draining"), (81, "draining"), (80, "healthy"), (84, "healthy")):
        play.hardware[ONE] = Hardware(temperature=degrees)
        play.look()
        assert level(play) == word, degrees


def test_slowing_down_counts_after_a_minute_of_it_and_is_over_after_one_without():
    play = real("1xH100")
    words = []
    for slowed in (("heat",), ("heat",), ("heat",), (), (), ()):
        play.hardware[ONE] = Hardware(slowed=slowed)
        play.look()
        words.append(level(play))
        play.later(40)
    assert words == ["healthy", "healthy", "degraded", "degraded", "degraded", "healthy"]


def test_a_gpu_that_does_not_answer_drains_and_is_well_again_by_itself():
    play = real("1xH100")
    play.hardware[ONE] = Hardware(broken="a call does not return")
    play.look()
    assert (level(play), state_of(play), alerts(play)) == ("draining", Condition.UNKNOWN, ["gpu_drained"])
    play.hardware[ONE] = Hardware()
    play.look()
    assert (level(play), state_of(play)) == ("healthy", Condition.FREE)


def test_a_gpu_that_begins_to_hang_holds_up_nobody_who_can_go_elsewhere():
    play = real("3xH100")
    play.hardware[TWO] = Hardware(temperature=90)
    play.hardware[THREE] = Hardware(temperature=90)
    play.look()
    play.later(60)
    (first,) = play.submit(a_job())
    play.look(TWO, THREE)  # the coolest does not answer: it is waited for, a moment
    assert play.state(first) == "queued"
    play.later(0.5)
    assert play.asked() == [ONE, TWO, THREE]
    play.look(TWO, THREE)
    assert (play.state(first), level(play)) == ("starting", "degraded")
    (next_,) = play.submit(a_job())
    assert play.state(next_) == "starting"

    play.look(ONE)
    assert level(play) == "healthy"


def test_a_gpu_of_which_the_driver_wants_a_reset_says_that_a_reset_clears_it():
    play = real("1xH100")
    play.cycle(GpuSeen(NodeName("n1"), ONE, Unreadable(Timestamp(play.now), "it needs a reset", reset=True)))
    assert play.world.gpus[ONE].health.faults["unreadable"].clears == (
        "by itself, after a reset (nvidia-smi --gpu-reset) or a reboot"
    )


def test_sick_gpus_are_looked_at_until_they_are_well_and_then_nobody_looks():
    play = real("1xH100", rules=LOOKING)
    play.hardware[ONE] = with_signs(remap_pending=True)
    play.look()
    play.later(16)
    assert play.asked() == [ONE]
    play.hardware[ONE] = with_signs()
    play.settle()
    play.later(100)
    assert (play.asked(), play.out.wake_at) == ([], None)


def test_a_driver_that_was_replaced_starts_nothing_and_ends_nothing():
    play = real("2xH100")
    (job,) = play.submit(a_job())
    running(play, job)
    node = play.world.nodes[NodeName("n1")].node
    play.cycle(NodeSeen(replace(node, reboot=True, problem="reboot needed", driver=None)))
    play.hardware[ONE] = Hardware(broken="gone", lost=True)
    play.look(ONE)
    play.later(30)
    play.look(ONE)
    (other,) = play.submit(a_job())
    play.settle()
    assert (play.state(job), play.state(other)) == ("running", "queued")
    assert play.why(other).out == (("reboot", 1),)

    (fault,) = [each for each in play.world.gpus[TWO].health.faults.values() if each.level == "draining"]
    assert (fault.says, "a reboot" in fault.clears) == ("reboot needed", True)
    play.cycle(NodeSeen(replace(node, driver="550.54.15")))
    assert level(play, TWO) == "healthy"


# -- a GPU that is lost


def lose(play: Play, gpu: GpuId = ONE) -> None:
    play.hardware[gpu] = Hardware(broken="fell off the bus", lost=True)
    play.look(gpu)


def test_a_job_whose_gpu_is_lost_for_sure_is_ended_and_says_why():
    play = real("2xH100")
    job, other = play.submit(a_job(), a_job())
    running(play, job, other)
    lose(play)
    assert (alerts(play), play.state(job)) == (["gpu_lost"], "running")
    play.later(2.1)
    assert play.asked() == [ONE]
    play.settle()
    assert (play.state(job), play.state(other)) == ("stopping(gpu_lost)", "running")
    play.ends(job, code=0)  # it took the signal well, and yet did not do what it was to do
    assert play.state(job) == "failed"
    assert "GPU 0 of n1 was lost" in play.ledger.reasons[job]


def test_a_gpu_that_was_lost_for_a_moment_costs_nobody_a_job():
    play = real("1xH100")
    (job,) = play.submit(a_job())
    running(play, job)
    lose(play)
    play.hardware[ONE] = Hardware()
    play.later(2.1)
    play.settle()
    assert (play.state(job), level(play)) == ("running", "healthy")


def test_a_gpu_that_does_not_say_who_it_is_after_a_restart_of_gpud_costs_nobody_a_job():
    play = real("2xH100")
    job, other = play.submit(a_job(), a_job())
    running(play, job, other)

    play = play.restarted(surveyed=False)
    said = "GPU 1 is not answering"
    play.sees(replace(a_node("n1", "1xH100", simulated=False), driver="550.54.15", silent=True, problem=said))
    scene = Scene(world=play.world, now=Timestamp(play.now), log_dir=str)
    shown = gpu_map(scene, play.world.gpus[TWO], Viewer(uid=0, private=True))
    assert (shown["state"], shown["health"], shown["health_reason"]) == ("busy", "unknown", said)
    play.later(60)
    play.settle()
    assert (level(play, TWO), state_of(play, TWO)) == ("healthy", Condition.BUSY)
    assert [play.state(each) for each in (job, other)] == ["running", "running"]
    play.ends(other)
    assert state_of(play, TWO) == Condition.UNKNOWN

    play.sees(replace(a_node("n1", "1xH100", simulated=False), driver="550.54.15"))  # it is none that is there
    assert (level(play, TWO), state_of(play, TWO)) == ("lost", Condition.LOST)


def test_with_retries_a_job_whose_gpu_is_lost_goes_elsewhere():
    play = real("2xH100")
    (job,) = play.submit(a_job(retries=1))
    running(play, job)
    play.xid(ONE, 79)
    assert play.state(job) == "stopping(gpu_lost)"
    play.ends(job, signal=15)
    play.later(5)
    play.settle()
    assert (play.state(job), play.gpus(job)) == ("starting", [TWO])
    assert play.world.active[job].place.failures == 0


def test_a_gpu_that_vanished_is_lost_and_comes_back():
    play = real("2xH100")
    play.sees(replace(a_node("n1", "1xH100", simulated=False), driver="550.54.15"))
    assert (level(play, TWO), alerts(play)) == ("lost", ["gpu_lost"])
    play.sees(a_node("n1", "2xH100", simulated=False))
    play.look(TWO)
    assert level(play, TWO) == "healthy"


# -- jobs that die one after the other


def die(play: Play, *jobs: JobId, after: float = 1.0, code: int = 1, finding: str | None = None) -> None:
    for job in jobs:
        running(play, job)
        play.now += after
        play.ends(job, code=code, finding=finding)
        play.settle()


def test_a_gpu_on_which_three_jobs_died_at_once_gets_no_more():
    play = real("1xH100")
    jobs = play.submit(*(a_job(user=user) for user in ("ada", "bob", "eve")))
    die(play, *jobs)
    assert level(play) == "draining"
    assert play.drain(ONE, reason=None).changed
    assert level(play) == "healthy"


def test_a_person_who_has_looked_at_gpus_has_looked_at_all_that_died_on_them():
    play = real("2xH100")
    die(play, *play.submit(*(a_job(2, user="ada") for _ in range(3))))
    assert (level(play, ONE), level(play, TWO)) == ("draining", "healthy")
    play.drain(ONE, TWO, reason=None)
    die(play, *play.submit(a_job(2, user="ada")))
    assert (level(play, ONE), level(play, TWO)) == ("healthy", "healthy")


def test_deaths_that_are_the_jobs_own_blame_no_gpu():
    play = real("1xH100")
    (array,) = play.submit(a_job(array="0-9"))
    die(play, *(element(array, index) for index in range(10)))  # they all do the same
    late = play.submit(a_job(), a_job(), a_job())
    die(play, *late, after=31)
    die(play, *play.submit(a_job(), a_job(), a_job()), code=127)  # as of a shell that finds no such program
    die(play, *play.submit(a_job(), a_job(), a_job()), code=2)  # or of what knows no such option
    die(play, *play.submit(a_job(), a_job(), a_job()), finding="ModuleNotFoundError")
    die(play, *play.submit(a_job(), a_job(), a_job()), finding="cuda out of memory")
    mixed = play.submit(a_job(), a_job(), a_job(), a_job())
    die(play, *mixed[:2])
    running(play, mixed[2])
    play.ends(mixed[2])
    die(play, mixed[3])
    assert level(play) == "healthy"


def test_one_users_broken_jobs_cost_one_gpu_and_not_the_machine():
    play = real("2xH100")
    for _ in range(9):
        die(play, *play.submit(a_job()))
    die(play, *play.submit(a_job(user="bob")))
    assert [level(play, gpu) for gpu in (ONE, TWO)].count("draining") == 1
    for _ in range(2):
        die(play, *play.submit(a_job(user="bob")))
    assert [level(play, gpu) for gpu in (ONE, TWO)].count("draining") == 2, "another's jobs die there as well"


# -- strangers

EVE = replace(a_process(memory=9000), uid=1001, ancestors=(ProcessIdentity(4242, 7),))


def looks(play: Play, times: int, every_s: float = 15.0) -> list[Told]:
    """Look so often, and return every event."""
    found = []
    for _ in range(times):
        play.now += every_s
        play.look()
        found += [each for each in play.out.changes if isinstance(each, Told)]
    return found


def test_a_stranger_is_told_of_at_the_second_look_and_after_an_hour_alarms():
    play = real("1xH100")
    play.hardware[ONE] = Hardware(used=9000, processes=(EVE,))
    assert [each.kind for each in looks(play, 1)] == []
    assert state_of(play) == Condition.FOREIGN
    assert [each.kind for each in looks(play, 10)] == ["foreign"]
    hour = looks(play, 60, every_s=60.0)
    assert [each.detail["what"] for each in hour] == ["foreign_use"]
    play.hardware[ONE] = Hardware()
    assert [each.kind for each in looks(play, 1)] == ["foreign_gone"]


def test_their_time_is_counted_by_uid_and_charged_where_that_is_configured():
    for charge in (False, True):
        play = real("1xH100", rules=Rules(foreign_charge=charge))
        play.hardware[ONE] = Hardware(used=9000, processes=(EVE,))
        changes = []
        for _ in range(21):
            play.now += 15
            play.look()
            changes += play.out.changes
        paid = [each for each in changes if isinstance(each, UsePut) and each.user == "eve"]
        counted = [each for each in changes if isinstance(each, StrangerSeen)]
        assert {(each.gpu, each.user, each.tenant) for each in counted} == {(ONE, "eve", "default")}
        assert sum(each.gpu_s for each in counted) == pytest.approx(300, abs=61)  # what is left is told a minute later
        assert play.world.care.foreign_s[1001] == pytest.approx(300, abs=1)
        assert play.restarted().world.care.foreign_s[1001] == pytest.approx(300, abs=61)
        assert bool(paid) == charge


def test_what_a_stranger_had_is_given_time_to_be_free_before_it_is_a_fault():
    play = real("1xH100", rules=LOOKING)
    play.look()
    play.hardware[ONE] = Hardware(used=40_000, processes=(EVE,))
    play.look()
    for used in (40_000, 0, 40_000):  # it is gone, and its memory soon; the next one's stays
        play.hardware[ONE] = Hardware(used=40_000, processes=(EVE,))
        play.look()
        play.hardware[ONE] = Hardware(used=used)
        play.look()
        assert (level(play), alerts(play)) == ("healthy", [])
        assert state_of(play) == (Condition.RELEASING if used else Condition.FREE)
        play.later(5)
    play.later(26)
    assert play.asked() == [ONE]
    play.look()
    assert (state_of(play), alerts(play)) == (Condition.UNHEALTHY, ["gpu_drained"])


def test_who_is_still_there_after_a_restart_is_the_stranger_of_before_and_none_of_their_time_is_lost():
    play = real("1xH100")
    play.hardware[ONE] = Hardware(used=9000, utilization=50, processes=(EVE,))
    assert [each.kind for each in looks(play, 2)] == ["foreign"]
    since = play.now - 15
    play.hardware[ONE] = Hardware(used=9000, utilization=0, processes=(EVE,))
    seen = []
    for orderly in (True, False) * 2:
        seen += looks(play, 59)
        if orderly:
            play.ledger.write(parting(play.world, Timestamp(play.now)))
            play.now += 300
        play = play.restarted()
    seen += looks(play, 10)
    (stranger,) = play.world.gpus[ONE].health.strangers.values()
    assert (stranger.since, stranger.idle_since) == (pytest.approx(since, abs=1), pytest.approx(since + 30, abs=1))
    assert [each.detail["what"] for each in seen] == ["foreign_use"]
    down_s = 2 * (300 + 15 - 60)  # who knows what was then
    assert play.world.care.foreign_s[1001] == pytest.approx(play.now - since - down_s, abs=2)
    play.hardware[ONE] = Hardware()
    assert [each.kind for each in looks(play.restarted(), 1)] == ["foreign_gone"]


def test_of_a_stranger_nothing_is_known_any_more_after_a_reboot():
    play = real("1xH100")
    play.hardware[ONE] = Hardware(used=9000, processes=(EVE,))
    looks(play, 10)
    play.world.boot = "another"
    assert play.restarted().world.gpus[ONE].health.strangers == {}


def test_what_strangers_had_while_nothing_could_be_kept_is_charged_and_told_once_it_can():
    play = real("1xH100")
    play.hardware[ONE] = Hardware(used=9000, processes=(EVE,))
    kept: list[object] = []
    for disk_is_full, times in ((True, 2), (False, 20), (True, 40), (False, 20), (True, 1), (False, 1)):
        play.hardware[ONE] = Hardware(used=9000, processes=(EVE,)) if times > 1 else Hardware()
        for _ in range(times):
            play.now += 15
            play.checked = not disk_is_full
            play.look()
            if disk_is_full:
                again = play.restarted()
                carry_over(play.world, again.world, play.out.changes)
                play = again
            else:
                kept += play.out.changes
    assert [each.kind for each in kept if isinstance(each, Told)] == ["foreign", "foreign_gone"]
    charged_s = sum(each.gpu_s for each in kept if isinstance(each, StrangerSeen))
    assert charged_s == pytest.approx(play.world.care.foreign_s[1001], abs=61)


def test_who_went_around_the_queue_comes_later_in_it():
    play = real("2xH100", rules=Rules(foreign_charge=True))
    play.world.set_policy(FairShare(0.0, 0.0, play.world))
    play.hardware[ONE] = Hardware(used=9000, processes=(EVE,))
    looks(play, 60, every_s=60.0)
    first = play.submit(a_job())
    running(play, *first)
    eve, bob = play.submit(a_job(user="eve"), a_job(user="bob"))
    play.later(1800)
    play.ends(*first)
    play.later(1)
    play.settle()
    assert (play.state(eve), play.state(bob)) == ("queued", "starting")


@pytest.mark.parametrize("processes", [(EVE,), None], ids=["strangers", "a driver that lists nobody"])
def test_where_strangers_are_ignored_nobody_is_kept_away_whoever_is_there(processes):
    play = real("1xH100", rules=Rules(foreign="ignore"))
    play.hardware[ONE] = Hardware(used=200, processes=processes)
    for job in play.submit(a_job(), a_job()):
        running(play, job)
        play.ends(job)
    play.look()
    assert state_of(play) == Condition.FREE


def test_a_stranger_on_a_jobs_gpu_is_named_when_memory_runs_out_and_the_retry_is_not_counted():
    play = real("1xH100")
    (job,) = play.submit(a_job(retries=1))
    running(play, job)
    play.hardware[ONE] = Hardware(used=70_000, processes=(EVE,))
    assert [(each.kind, each.job) for each in looks(play, 2)] == [("foreign", job)]
    play.ends(job, code=1, finding="cuda out of memory")
    waiting = play.world.waiting(job)
    assert waiting is not None
    assert (waiting.place.failures, waiting.place.mishaps) == (0, 1)
    assert waiting.terms.demand.gpu_memory_mib is None  # it had enough, but for the stranger
    (queued,) = [each for each in play.out.changes if isinstance(each, Queued)]
    assert queued.reason is not None
    assert "eve python (pid 4242) with 8.8G was on GPU 0 of n1 too" in queued.reason


def test_the_other_jobs_on_a_gpu_whose_memory_ran_out_are_named():
    play = a_cluster(a_node("n1", "1xH100"))
    first, second, third = play.submit(*[a_job(share_mib=Mib(20_000), user=user) for user in ("ann", "bob", "cyd")])
    for job in (first, second, third):
        running(play, job)
    play.ends(second, code=1, finding="cuda out of memory")
    others = f"job {format_job(first)} of ann, job {format_job(third)} of cyd shared GPU 0 of n1"
    assert play.ledger.reasons[second] == f"exit code 1 (cuda out of memory); {others}"
    play.ends(first, code=1)
    assert play.ledger.reasons[first] == "exit code 1"


def test_a_stranger_who_has_left_is_not_to_blame():
    play = real("1xH100")
    (job,) = play.submit(a_job())
    running(play, job)
    play.hardware[ONE] = Hardware(used=70_000, processes=(EVE,))
    looks(play, 2)
    play.hardware[ONE] = Hardware()
    looks(play, 1)
    play.ends(job, code=1, finding="cuda out of memory")
    assert play.ledger.reasons[job] == "exit code 1 (cuda out of memory)"


def test_memory_that_nobody_seen_uses_keeps_jobs_away():
    play = a_cluster(replace(a_node("n1", "1xH100", simulated=False), contained=True))
    play.hardware[ONE] = Hardware(used=20_000)
    play.look()
    assert state_of(play) == Condition.UNHEALTHY
    assert "container" in play.world.gpus[ONE].health.faults["memory in use"].says


def test_memory_of_a_desktop_that_does_not_tell_how_much_it_has_is_nobodys_leak():
    play = real("1xH100")
    desktop = replace(a_process(memory=None), kind="graphics")
    for processes, word in (((desktop,), Condition.FREE), ((), Condition.UNHEALTHY)):
        play.hardware[ONE] = Hardware(used=3_000, processes=processes)
        play.look()
        assert state_of(play) == word


def test_who_is_on_an_instance_is_told_of_there_and_not_of_the_gpu_that_is_split():
    node = a_node("n1", "1xH100", simulated=False)
    play = a_cluster(replace(node, gpus=(replace(node.gpus[0], split=True),)))
    for processes in ((EVE,), ()):  # as the driver lists them to root, and to others
        play.hardware[ONE] = Hardware(used=30_000, processes=processes)
        looks(play, 3)
        assert (level(play), told(play, "foreign"), play.world.gpus[ONE].health.strangers) == ("healthy", [], {})


def test_what_is_told_of_a_gpu_that_is_split_has_its_instances_looked_at():
    node = a_node("n1", "1xH100", simulated=False)
    part = replace(node.gpus[0], id=GpuId("MIG-1"), index=1, mig="1g.10gb", parent=ONE)
    play = a_cluster(replace(node, gpus=(replace(node.gpus[0], split=True), part)))
    play.settle()
    play.xid(ONE, 79)
    assert set(play.asked()) == {ONE, part.id}


def test_a_lost_gpu_that_is_split_is_one_alert_and_instances_that_are_gone_are_none():
    node = a_node("n1", "1xH100", simulated=False)
    parts = [replace(node.gpus[0], id=GpuId(f"MIG-{at}"), index=at, mig="1g.10gb", parent=ONE) for at in (1, 2)]
    for lost in (True, False):
        play = a_cluster(replace(node, gpus=(replace(node.gpus[0], split=True), *parts), driver="550.54.15"))
        play.settle()
        for gpu in (ONE, *(part.id for part in parts)) if lost else (parts[0].id,):
            play.hardware[gpu] = Hardware(broken="the driver has lost it", lost=True)
        found = []
        for gpu in (parts[0].id, *((parts[1].id, ONE) if lost else ())):
            play.look(gpu)
            found += told(play, "alert")
        assert lost or play.asked() == [ONE]
        assert [(each.detail["what"], each.detail["gpu"]) for each in found] == [("gpu_lost", ONE)] * lost
        assert state_of(play, parts[0].id) == Condition.LOST


def test_a_gpu_that_somebody_splits_is_given_to_nobody_and_has_nothing_wrong_with_it():
    play = real("1xH100")
    play.cycle(GpuSeen(NodeName("n1"), ONE, Unreadable(Timestamp(play.now), "it was put into MIG mode", split=True)))
    assert (state_of(play), level(play), alerts(play)) == (Condition.UNKNOWN, "healthy", [])


def test_an_instance_of_a_gpu_that_was_split_under_its_job_is_given_to_nobody_before_that_ends():
    node = a_node("n1", "1xH100", simulated=False)
    play = a_cluster(node)
    (job,) = play.submit(a_job())
    running(play, job)
    part = replace(node.gpus[0], id=GpuId("MIG-1"), index=1, mig="1g.10gb", parent=ONE)
    play.sees(replace(node, gpus=(replace(node.gpus[0], split=True), part)))
    play.look(part.id)
    assert state_of(play, part.id) == Condition.BUSY
    play.ends(job, code=0)
    play.look(part.id)
    assert state_of(play, part.id) == Condition.FREE


def test_a_gpu_that_answers_every_other_time_is_an_alert_now_and_then_and_an_event_each_time():
    play = real("1xH100")
    found = []
    for broken in 50 * ["Unknown Error", None]:
        play.hardware[ONE] = Hardware(broken=broken)
        found += looks(play, 1)
    assert [sum(each.kind == kind for each in found) for kind in ("health", "alert")] == [100, 3]


def test_in_a_container_memory_tells_whether_a_shared_gpu_is_used_by_others():
    play = a_cluster(replace(a_node("n1", "1xH100", simulated=False), contained=True))
    (job,) = play.submit(a_job(share_mib=Mib(20_000)))
    running(play, job)
    unknown = replace(a_process(), ancestors=(), user=None, command=None)
    for used, word in ((15_000, Condition.SHARED), (30_000, Condition.FOREIGN)):
        play.hardware[ONE] = Hardware(used=used, processes=(unknown,))
        play.look()
        assert state_of(play) == word


def test_a_fault_that_could_not_be_made_durable_is_told_again_and_kept_once_it_is():
    play = real("1xH100")
    lost = cycle(play.world, [XidSeen(NodeName("n1"), ONE, 79)], Timestamp(play.now))  # and then the disk was full
    assert any(isinstance(each, Told) and each.kind == "health" for each in lost.changes)
    again = play.restarted()
    carry_over(play.world, again.world)
    assert again.world.gpus[ONE].health.faults == {}
    again.xid(ONE, 79)
    assert [each.detail["cause"] for each in told(again, "health")] == ["xid 79"]
    assert len(told(again, "xid")) == 1
    assert again.restarted().world.gpus[ONE].health.faults.keys() == {"xid 79"}


# -- what jobs do with their GPUs


def sharing(rules: Rules) -> tuple[Play, JobId]:
    play = real("1xH100", rules=rules)
    (job,) = play.submit(a_job(share_mib=Mib(8192)))
    running(play, job)
    mine = replace(a_process(memory=9000), ancestors=(ProcessIdentity(100, 1), ProcessIdentity(99, 1)))
    play.hardware[ONE] = Hardware(used=9000, processes=(mine,))
    return play, job


def test_a_job_over_what_it_declared_of_a_shared_gpu_is_told_of_once():
    play, job = sharing(LOOKING)
    assert [(each.kind, each.job) for each in looks(play, 10)] == [("gpu_memory", job)]
    assert play.state(job) == "running"


def test_where_configured_it_is_stopped_after_a_while():
    play, job = sharing(Rules(sample_every_s=15.0, gpu_memory_watch="stop"))
    looks(play, 1)
    assert play.state(job) == "running"
    looks(play, 5)
    assert play.state(job) == "stopping(gpu_memory)"
    play.ends(job, signal=15)
    assert "than it declared" in play.ledger.reasons[job]


def test_a_job_that_leaves_its_gpus_idle_for_half_an_hour_alarms_once():
    play = real("1xH100", rules=LOOKING)
    (job,) = play.submit(a_job())
    running(play, job)
    play.hardware[ONE] = Hardware(utilization=50)
    assert looks(play, 60, 60.0) == []
    play.hardware[ONE] = Hardware(utilization=0)
    assert [(each.detail["what"], each.job) for each in looks(play, 60, 60.0)] == [("job_idle", job)]


def test_what_there_was_to_use_is_by_the_gpus_that_were_known_and_a_restart_changes_nothing():
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xH100"))
    play.later(3600)
    play.sees(a_node("n2", ""))
    play.later(3600)
    for each in (play, play.restarted(surveyed=False), play.restarted()):
        found = [there_s(each.world.census, NOON + since, NOON + 7200) for since in (-3600, 0, 1800, 5400)]
        assert [round(seconds / 3600, 2) for seconds in found] == [12, 12, 8, 2]
