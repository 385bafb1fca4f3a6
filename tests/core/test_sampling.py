"""Readings while jobs hold GPUs: asked for only then, and what they add up to at an attempt's end."""

import json

import pytest
from playbook import Play, a_job, a_node, a_process

from gpud.core.choice import world_of
from gpud.core.rules import Rules
from gpud.core.sampling import KEEP_S
from gpud.model.changes import AttemptEnded
from gpud.model.effects import ReadGpus
from gpud.model.gpu import ProcessIdentity, Reading
from gpud.model.observations import GpuSeen, NodeSeen
from gpud.model.units import Mib, Timestamp


def a_watched_cluster(gpus="2xH100", every=15.0):
    play = Play(world_of(Rules(sample_every_s=every, starvation_s=0.0), "boot-1"))
    play.cycle(NodeSeen(a_node(gpus=gpus)))
    return play


def see(play, *percents, memory=4_000, watts=100.0, processes=()):
    """Answer what was asked for: how busy each GPU is, in the order of their numbers."""
    asked = [effect for effect in play.out.effects if isinstance(effect, ReadGpus)]
    wanted = {gpu for effect in asked for gpu in effect.gpus}
    readings = []
    for gpu, percent in zip(sorted(play.world.gpus), percents, strict=True):
        if gpu in wanted:
            reading = Reading(
                at=Timestamp(play.now),
                memory_used_mib=Mib(memory),
                utilization_percent=percent,
                power_w=watts,
                processes=processes,
            )
            readings.append(GpuSeen(play.world.gpus[gpu].node, gpu, reading))
    play.cycle(*readings)
    return len(readings)


def run(play, seconds, *percents, **seen):
    """Let time pass, and answer every look; return how many there were."""
    until, looks = play.now + seconds, 0
    while play.out.wake_at is not None and play.out.wake_at < until:
        play.now = max(play.now, play.out.wake_at)
        play.cycle()
        looks += see(play, *percents, **seen)
    play.now = until
    return looks


def ended(play, job):
    play.ends(job)
    (change,) = [each for each in play.out.changes if isinstance(each, AttemptEnded)]
    return {use.gpu: use for use in change.uses}


def test_where_no_job_holds_a_gpu_nothing_is_looked_at():
    play = a_watched_cluster()
    (job,) = play.submit(a_job(0))
    play.starts(job)
    assert play.out.wake_at is None

    (other,) = play.submit(a_job(1))
    play.starts(other)
    assert play.out.wake_at is not None
    play.ends(other)

    assert play.out.wake_at is None
    assert play.world.samples.tallies == {}


def test_a_jobs_gpus_are_looked_at_soon_and_then_every_15_seconds():
    play = a_watched_cluster()
    (job,) = play.submit(a_job(1))
    play.starts(job)

    assert 3 <= run(play, 10.0, 50, 50) <= 5
    run(play, 20.0, 50, 50)
    assert 39 <= run(play, 600.0, 50, 50) <= 41


def test_at_the_end_it_is_told_how_busy_each_gpu_was_its_memory_and_its_energy():
    play = a_watched_cluster()
    (job,) = play.submit(a_job(2))
    play.starts(job)
    run(play, 1000.0, 80, 0, memory=9_000, watts=200.0)
    run(play, 1000.0, 40, 0, memory=6_000, watts=100.0)

    busy, idle = (use for _, use in sorted(ended(play, job).items()))

    assert busy.seen_s == pytest.approx(2000, abs=16)
    assert busy.busy_s / busy.known_s == pytest.approx(0.6, abs=0.01)
    assert (busy.busiest_percent, busy.memory_peak_mib, busy.idle_s) == (80, 9_000, 0.0)
    assert busy.energy_j == pytest.approx(300_000, rel=0.02)
    assert (idle.busiest_percent, idle.busy_s, idle.idle_s) == (0, 0.0, idle.known_s)


def test_of_a_shared_gpu_a_job_has_the_memory_of_its_own_processes_and_nobody_knows_whose_the_load_is():
    play = a_watched_cluster("1xH100")
    jobs = play.submit(a_job(1, share_mib=Mib(8_192)), a_job(1, share_mib=Mib(8_192)))
    play.starts(*jobs)
    mine = a_process(memory=3_000)
    mine = type(mine)(
        **{name: getattr(mine, name) for name in mine.__slots__} | {"ancestors": (ProcessIdentity(100, 1),)}
    )
    run(play, 100.0, 90, processes=(mine,))

    (use,) = ended(play, jobs[0]).values()

    assert (use.memory_peak_mib, use.known_s, use.busiest_percent, use.energy_j) == (3_000, 0.0, None, None)
    assert use.readings > 5


def test_what_was_seen_of_a_job_outlives_a_restart_of_gpud_but_for_the_last_minutes():
    play = a_watched_cluster()
    (job,) = play.submit(a_job(1))
    play.starts(job)
    run(play, 1000.0, 100, 100)
    play.ledger.settings = json.loads(json.dumps(play.ledger.settings))

    again = play.restarted()
    run(again, 100.0, 0, 0)
    (use,) = ended(again, job).values()

    assert 1000 - KEEP_S < use.seen_s <= 1060
    assert use.busiest_percent == 100
    assert 70 < use.idle_s <= 131
    assert use.energy_j == pytest.approx(100.0 * use.seen_s)


def test_nothing_is_written_for_short_jobs_and_nothing_of_an_earlier_attempt_goes_on():
    play = a_watched_cluster()
    (job,) = play.submit(a_job(1))
    play.starts(job)
    run(play, KEEP_S - 20, 100, 100)
    assert "samples" not in play.ledger.settings
    run(play, 100.0, 100, 100)
    (kept,) = play.ledger.settings["samples"]
    kept[1] += 1

    again = play.restarted()
    run(again, 100.0, 0, 0)
    (use,) = ended(again, job).values()

    assert use.seen_s <= 101


def test_with_sampling_off_nobody_looks():
    play = a_watched_cluster(every=0.0)
    play.starts(*play.submit(a_job(1)))

    assert play.out.wake_at is None
