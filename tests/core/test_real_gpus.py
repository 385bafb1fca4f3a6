"""A real GPU is given out only on a fresh look that shows it free; an unknown is never free."""

from dataclasses import replace

import pytest
from playbook import Hardware, Play, a_job, a_node, a_process, a_real_cluster

from gpud.core.condition import Condition, condition
from gpud.core.rules import Rules
from gpud.core.waits import Looking, NoCapacity
from gpud.model.gpu import GpuId, ProcessIdentity
from gpud.model.observations import GpuSeen
from gpud.model.units import Timestamp
from gpud.model.window import Pool
from gpud.views.gpus import gpu_map
from gpud.views.jobs import Scene, Viewer

ONE, TWO = GpuId("n1-H100-0"), GpuId("n1-H100-1")


def state_of(play: Play, gpu: GpuId = ONE) -> str:
    return condition(play.world, play.world.gpus[gpu], Timestamp(play.now))


def test_a_gpu_is_looked_at_before_it_is_given_out():
    play = a_real_cluster("2xH100")
    play.later(60)
    (job,) = play.submit(a_job())
    assert isinstance(play.why(job), Looking)
    assert play.asked() == [ONE, TWO]  # with the one all that the next alike could get
    play.look(ONE)
    assert play.state(job) == "starting"


def test_a_look_seconds_ago_is_not_enough():
    play = a_real_cluster()
    play.later(3)
    (job,) = play.submit(a_job())
    assert isinstance(play.why(job), Looking)


def test_a_look_a_moment_ago_is_enough():
    play = a_real_cluster()
    play.later(0.1)
    (job,) = play.submit(a_job())
    assert play.state(job) == "starting"


def test_what_was_seen_half_a_second_ago_is_looked_at_again():
    play = a_real_cluster()
    play.later(0.5)
    (job,) = play.submit(a_job())
    assert play.state(job) == "queued"


def test_a_slow_look_counts_when_it_comes():
    play = a_real_cluster("1xH100")
    play.later(60)
    (job,) = play.submit(a_job())
    seen = play.seen(ONE)
    play.now += 4  # the driver had to wake up
    play.cycle(seen)
    assert play.state(job) == "starting"


def test_a_look_that_lay_around_does_not_count():
    play = a_real_cluster("1xH100")
    play.later(60)
    (job,) = play.submit(a_job())
    seen = play.seen(ONE)
    play.now += 10  # gpud was stopped
    play.cycle(seen)
    assert play.state(job) == "queued"
    assert play.asked() == [ONE]


def test_a_look_that_is_not_answered_is_asked_for_again_but_not_all_the_time():
    play = a_real_cluster("1xH100")
    play.later(60)
    play.submit(a_job())
    for _ in range(20):
        play.wanted.clear()
        assert play.out.wake_at is not None
        assert play.out.wake_at >= play.now + 0.4
        play.now = play.out.wake_at
        play.cycle()
        assert play.asked() == [ONE]


@pytest.mark.parametrize(
    ("there", "word"),
    [
        (Hardware(processes=(a_process(),)), Condition.FOREIGN),
        (Hardware(used=5, processes=(a_process(memory=0),)), Condition.FOREIGN),
        (Hardware(lease=ProcessIdentity(77, 1)), Condition.FOREIGN),
        (Hardware(lease=ProcessIdentity(0, 0)), Condition.FOREIGN),
        (Hardware(processes=None), Condition.UNKNOWN),
        (Hardware(broken="not answering"), Condition.UNKNOWN),
        (Hardware(broken="fell off the bus", lost=True), Condition.LOST),
    ],
)
def test_what_is_not_known_to_be_free_is_not_given_out_until_it_is(there, word):
    play = a_real_cluster("1xH100")
    play.hardware[ONE] = there
    play.look()
    (job,) = play.submit(a_job())
    assert (play.state(job), state_of(play)) == ("queued", word)
    assert play.why(job) == NoCapacity(1, 1, 0, "n1", None, ((str(word), 1),))
    play.later(10)
    play.settle()
    assert play.state(job) == "queued"
    play.hardware[ONE] = Hardware()
    play.later(2.1)
    if word != Condition.LOST:
        assert play.asked() == [ONE]
    play.settle()
    assert play.state(job) == "starting"


@pytest.mark.parametrize(
    "harmless",
    [
        a_process(kind="graphics", command="/usr/lib/xorg/Xorg :0", memory=900),
        a_process(kind="mps", command="nvidia-cuda-mps-server", memory=30),
        a_process(command="/opt/dcgm/bin/nv-hostengine -n", memory=200),
    ],
)
def test_what_draws_serves_or_is_ignored_is_not_foreign(harmless):
    play = a_real_cluster("1xH100", rules=Rules(foreign_ignore=("nv-hostengine",)))
    play.hardware[ONE] = Hardware(used=50 + harmless.memory_mib, processes=(harmless,))
    play.look()
    (job,) = play.submit(a_job())
    assert play.state(job) == "starting"


def test_a_foreign_process_keeps_its_gpu_and_the_job_takes_another():
    play = a_real_cluster("2xH100")
    play.hardware[ONE] = Hardware(used=20_000, processes=(a_process(),))
    play.look()
    (job,) = play.submit(a_job())
    assert play.gpus(job) == [TWO]


def test_nobody_looks_at_foreign_gpus_while_nobody_waits():
    play = a_real_cluster("1xH100")
    play.hardware[ONE] = Hardware(processes=(a_process(),))
    play.look()
    assert play.out.wake_at is None


def busy(play: Play) -> None:
    """Run a job on the only GPU, and end it; its memory is not back yet."""
    (job,) = play.submit(a_job())
    play.settle()
    play.starts(job)
    its = ProcessIdentity(4242, 7), ProcessIdentity(99, 1)  # its shim is what the playbook starts jobs with
    play.hardware[ONE] = Hardware(used=40_000, processes=(replace(a_process(), ancestors=its),))
    play.look()
    assert state_of(play) == Condition.BUSY
    play.ends(job)
    assert play.asked() == [ONE]


def test_after_an_end_a_gpu_is_releasing_until_a_look_shows_it_gone():
    play = a_real_cluster("1xH100")
    busy(play)
    (job,) = play.submit(a_job())
    assert (play.state(job), state_of(play)) == ("queued", Condition.RELEASING)
    play.look()  # its process is still there
    assert state_of(play) == Condition.RELEASING
    play.hardware[ONE] = Hardware(used=39_000)
    play.look()  # the process is gone, its memory is not
    assert state_of(play) == Condition.RELEASING
    play.hardware[ONE] = Hardware(used=200)  # drivers use a little more after a first job
    play.later(0.6)
    assert play.asked() == [ONE]
    play.settle()
    assert play.state(job) == "starting"


def test_gpus_that_were_given_back_one_after_the_other_are_looked_at_together():
    play = a_real_cluster("3xH100")
    jobs = play.submit(a_job(), a_job(), a_job())
    play.settle()
    play.starts(*jobs)
    for gpu in play.hardware:
        play.hardware[gpu] = Hardware(used=40_000)  # memory that does not come back
    for job in jobs:
        play.ends(job)
        play.later(0.15)
    play.submit(a_job(3))

    until, wakes = play.now + 10.0, 0
    while play.now < until:
        play.now = play.out.wake_at
        play.cycle()
        play.settle()
        wakes += 1

    assert 15 <= wakes <= 25, "twice a second"


def test_a_look_from_before_the_end_releases_nothing():
    play = a_real_cluster("1xH100")
    (job,) = play.submit(a_job())
    play.settle()
    play.starts(job)
    early = play.seen(ONE)
    play.ends(job)
    play.cycle(early)
    assert state_of(play) == Condition.RELEASING


def test_what_is_still_there_after_half_a_minute_is_foreign():
    play = a_real_cluster("1xH100")
    busy(play)
    play.later(31)
    play.look()
    assert state_of(play) == Condition.FOREIGN


def test_who_came_while_a_job_had_the_gpu_is_foreign_at_its_end_and_may_go_like_any_other():
    play = a_real_cluster("1xH100")
    stranger = replace(a_process(), ancestors=(ProcessIdentity(4243, 1), ProcessIdentity(1, 0)))
    (job,) = play.submit(a_job())
    play.starts(job)
    play.hardware[ONE] = Hardware(used=9_000, processes=(stranger,))
    play.later(15)
    play.look()
    play.ends(job)
    play.look()
    assert state_of(play) == Condition.FOREIGN
    scene = Scene(world=play.world, now=Timestamp(play.now), log_dir="")
    told = gpu_map(scene, play.world.gpus[ONE], Viewer(uid=0, private=True))
    assert str(told["health_reason"]).startswith("used by eve python (pid 4242)")
    play.later(60)
    play.look()
    play.hardware[ONE] = Hardware(used=9_000)  # it has just gone, and its memory goes in a moment
    play.look()
    assert state_of(play) == Condition.RELEASING


def test_memory_that_stays_taken_with_nobody_there_makes_a_gpu_unhealthy_until_it_is_back():
    play = a_real_cluster("1xH100")
    busy(play)
    play.hardware[ONE] = Hardware(used=900)
    play.look()
    assert state_of(play) == Condition.RELEASING
    play.later(31)
    assert state_of(play) == Condition.UNHEALTHY
    play.look()
    assert state_of(play) == Condition.UNHEALTHY
    play.hardware[ONE] = Hardware(used=200)
    play.look()
    assert state_of(play) == Condition.FREE


def test_memory_that_stays_taken_is_the_idle_use_once_a_person_says_so():
    play = a_real_cluster("1xH100")
    busy(play)
    play.hardware[ONE] = Hardware(used=900)
    play.later(31)
    play.look()
    assert play.drain(ONE, reason=None).changed
    play.look()
    assert state_of(play) == Condition.FREE
    assert play.restarted().world.gpus[ONE].baseline_mib is None  # near enough to what any GPU may have


def test_a_board_that_does_not_tell_its_memory_is_released_by_its_empty_process_list():
    play = a_real_cluster("1xH100")
    busy(play)
    play.hardware[ONE] = Hardware(used=None)
    play.look()
    assert state_of(play) == Condition.FREE


def test_a_late_look_does_not_undo_a_newer_one():
    play = a_real_cluster("1xH100")
    early = play.seen(ONE)
    play.now += 0.1
    play.hardware[ONE] = Hardware(processes=(a_process(),))
    play.look()
    play.cycle(early)
    assert state_of(play) == Condition.FOREIGN


def test_a_gpu_that_vanishes_under_its_job_comes_back_as_the_jobs():
    play = a_real_cluster("2xH100")
    (job,) = play.submit(a_job())
    play.settle()
    play.sees(a_node("n1", "", simulated=False))
    assert state_of(play) == Condition.LOST
    play.ends(job)
    play.sees(a_node("n1", "2xH100", simulated=False))
    assert state_of(play) == Condition.RELEASING


def test_a_look_at_a_gpu_that_nobody_knows_is_ignored():
    play = a_real_cluster("1xH100")
    seen = play.seen(ONE)
    play.cycle(GpuSeen(seen.node, GpuId("other"), seen.reading))
    assert play.out.wake_at is None


def test_a_host_with_a_new_name_has_its_gpus_still():
    play = a_real_cluster("1xH100")
    before = play.world.gpus[ONE].gpu
    renamed = a_node("n1-lan", "", simulated=False)
    play.sees(type(renamed)(name=renamed.name, cpus=64, memory_mib=renamed.memory_mib, gpus=(before,)))
    (job,) = play.submit(a_job())
    play.settle()
    assert play.node(job) == "n1-lan"


@pytest.mark.parametrize("pools", [(), (Pool(name="p", gpus=(TWO,)),)])
def test_a_foreign_gpu_is_looked_at_again_while_anybody_waits_whatever_the_reason(pools):
    play = a_real_cluster("2xH100", rules=Rules(pools=pools))
    play.hardware[ONE].processes, play.hardware[ONE].used = (a_process(),), 5000
    play.look(ONE)
    jobs = play.submit(a_job(), a_job())
    play.settle()
    waiting = [job for job in jobs if play.state(job) == "queued"]
    assert waiting
    asked = []
    for _ in range(4):
        play.now = max(play.now, play.out.wake_at)
        play.cycle()
        asked += play.asked()
        play.settle()
    assert ONE in asked
    play.hardware[ONE].processes, play.hardware[ONE].used = (), 5
    play.look(ONE)
    play.settle()
    assert play.state(waiting[0]) == "starting"
