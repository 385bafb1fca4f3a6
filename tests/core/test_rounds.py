"""Which rounds are made though nobody came or went, and which are not."""

import pytest
from playbook import NOON, Play, a_cluster, a_job, a_node
from test_policies import choose

from gpud.core.rules import Rules
from gpud.model.job import JobId

FIRST_LEVEL_S, PREEMPT_AFTER_S = 60.0, 300.0


def under_las(every_s: float, after_s: float = PREEMPT_AFTER_S, gpus: int = 2) -> Play:
    play = a_cluster(gpus=f"{gpus}xH100", rules=Rules(preempt_after_s=after_s))
    choose(play, "las", first_level=FIRST_LEVEL_S, level_factor=1000.0, preempt_every=every_s)
    return play


def cycles(play: Play, seconds: float) -> int:
    """Let time pass; return how many cycles the daemon asked for meanwhile."""
    until, made = play.now + seconds, 0
    while play.out.wake_at is not None and play.out.wake_at < until:
        play.now = max(play.now, play.out.wake_at)
        play.cycle()
        made += 1
    play.now = until
    return made


def one_who_had_more_goes_first(play: Play) -> tuple[JobId, JobId]:
    """Return who starts though it had more, as there is room for it, and who waits for all that there is."""
    old, other = play.submit(a_job(grace=0.0), a_job(grace=0.0))
    play.starts(old, other)
    play.later(FIRST_LEVEL_S + 40.0)
    play.ends(other)
    (other,) = play.submit(a_job(grace=0.0))
    play.starts(other)
    (large,) = play.submit(a_job(2))
    play.requeue(old)
    play.ends(old, signal=15)
    assert (play.state(old), play.state(large)) == ("starting", "queued")
    play.ends(other)
    return old, large


@pytest.mark.parametrize("every_s", [0.0, 1.0, 20.0, 60.0])
@pytest.mark.parametrize("starts_in_s", [0.0, 0.5, 3.0, 30.0, 200.0])
@pytest.mark.parametrize("after_s", [0.0, PREEMPT_AFTER_S])
@pytest.mark.parametrize("again", [False, True])
def test_who_started_and_had_more_yields_under_las_once_it_has_run_though_nothing_happens(
    every_s, starts_in_s, after_s, again
):
    play = under_las(every_s, after_s)
    old, large = one_who_had_more_goes_first(play)
    play.later(starts_in_s)
    play = play.restarted() if again else play
    play.starts(old)
    since = play.now
    play.later(after_s + every_s + 2.0)
    assert play.state(old) == "stopping(preempted)"
    assert play.world.active[old].state.since - since >= after_s - 0.01
    play.ends(old, signal=15)
    assert play.started == [large]


def test_a_start_that_leaves_one_who_had_less_waiting_is_looked_at_within_the_time_that_las_is_given():
    play = under_las(60.0)
    old, _ = one_who_had_more_goes_first(play)
    assert play.out.wake_at - play.now <= 60.0
    play.starts(old)
    assert play.out.wake_at - play.now <= 60.0


def test_nobody_wakes_gpud_under_las_while_nobody_has_more_than_who_waits():
    play = under_las(10.0)
    jobs = play.submit(*[a_job() for _ in range(2)])
    play.starts(*jobs)
    play.submit(*[a_job(2) for _ in range(5)])
    assert cycles(play, FIRST_LEVEL_S - 10.0) == 0
    play.ends(*jobs)  # the next one runs, on the level on which the others wait
    (job,) = play.running
    play.starts(job)
    assert cycles(play, FIRST_LEVEL_S / 2 - 1.0) == 0
    assert 0 < cycles(play, 2 * PREEMPT_AFTER_S) < 15  # it comes to the next level, and yields, and is late to go
    assert play.state(job) == "stopping(preempted)"


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("late_s", [0.0, 2.0, 40.0, 240.0])
def test_a_start_that_comes_at_another_time_than_expected_moves_what_is_reserved_for_the_end(nodes, late_s):
    play = a_cluster(*[a_node(f"n{number}", "2xH100") for number in range(nodes)])
    jobs = play.submit(*[a_job(2, estimate=1_000.0) for _ in range(nodes)])
    began = play.now
    (waits,) = play.submit(a_job(2 * nodes, nodes=nodes, estimate=50.0))
    assert play.world.reservations[waits].at == pytest.approx(began + 1_005.0, abs=0.1)
    play.later(late_s)
    play.starts(*jobs)
    assert play.world.reservations[waits].at == pytest.approx(began + late_s + 1_000.0, abs=0.1)


def test_a_start_later_than_the_whole_run_was_expected_to_be_moves_what_is_reserved_for_the_end():
    play = a_cluster(gpus="2xH100")
    late, _ = play.submit(a_job(estimate=20.0), a_job(estimate=10_000.0))
    (waits,) = play.submit(a_job(estimate=5_000.0))
    play.later(120.0)
    assert play.world.reservations[waits].at > play.now + 30.0  # nobody knows: it was to be over by now
    play.starts(late)
    assert play.world.reservations[waits].at == pytest.approx(play.now + 20.0, abs=0.1)


def test_a_start_on_which_nothing_that_is_reserved_depends_causes_no_round(monkeypatch):
    play = a_cluster(gpus="3xH100")
    short, long, longer = play.submit(a_job(estimate=100.0), a_job(estimate=1_000.0), a_job(estimate=5_000.0))
    (waits,) = play.submit(a_job(2, estimate=50.0))
    at, rounds = play.world.reservations[waits].at, []
    assert at == pytest.approx(NOON + 1_005.0, abs=0.1)
    monkeypatch.setattr("gpud.core.cycle.schedule", lambda *_: rounds.append(play.now))
    play.starts(short)
    play.starts(longer)
    assert not rounds
    play.starts(long)
    assert len(rounds) == 1
