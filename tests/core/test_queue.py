"""Who comes first: priority with aging, then the order of submission, in whichever line one stands."""

import pytest
from hypothesis import given, strategies as st
from playbook import NOON, Play, a_cluster, a_job, a_node

from gpud.core.policies.priority import Priority
from gpud.core.queue import Queue, job_of
from gpud.core.waits import BeginsAt, Held, NoCapacity, Paused, RetriesAt
from gpud.model.effects import Look
from gpud.model.job import Demand, JobId, job_id
from gpud.model.spec import Terms
from gpud.model.units import Timestamp


def order_of(play: Play, jobs: list[JobId]) -> list[int]:
    """End whatever runs, again and again, and return in which order these jobs started (numbered as submitted)."""
    order: list[JobId] = []
    while len(order) < len(jobs):
        play.ends(*play.running)
        order += [job for job in play.started if job in jobs]
    return [jobs.index(job) for job in order]


def test_equals_start_in_the_order_of_submission_whatever_line_they_stand_in():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    jobs = play.submit(
        a_job(user="bob"), a_job(limit=5), a_job(), a_job(user="bob", retries=2), a_job(limit=5), a_job()
    )
    assert order_of(play, jobs) == [0, 1, 2, 3, 4, 5]


def test_higher_priority_goes_first():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    jobs = play.submit(a_job(), a_job(priority=5), a_job(priority=-5), a_job(priority=7), a_job())
    assert order_of(play, jobs) == [3, 1, 0, 4, 2]


def test_waiting_for_an_hour_is_worth_a_point():
    play = a_cluster(gpus="1xH100", aging=1.0)
    play.submit(a_job())
    (old,) = play.submit(a_job())
    play.later(3000)
    (newer,) = play.submit(a_job(priority=1))
    play.later(3000)
    (newest,) = play.submit(a_job(priority=1))
    assert order_of(play, [old, newer, newest]) == [1, 0, 2]


def test_without_aging_priority_outweighs_any_wait():
    play = a_cluster(gpus="1xH100", aging=0.0)
    play.submit(a_job())
    (old,) = play.submit(a_job())
    play.now += 1e8
    (new,) = play.submit(a_job(priority=1))
    assert order_of(play, [old, new]) == [1, 0]


def test_a_changed_priority_counts_at_once_and_a_running_jobs_when_it_queues_again():
    play = a_cluster(gpus="1xH100")
    (running,) = play.submit(a_job())
    first, second = play.submit(a_job(), a_job())
    play.prioritise(1, second)
    play.prioritise(5, running)
    play.requeue(running)
    assert order_of(play, [running, first, second]) == [0, 2, 1]


def test_a_requeued_job_keeps_its_place():
    play = a_cluster(gpus="1xH100")
    (first,) = play.submit(a_job())
    second, third = play.submit(a_job(), a_job())
    play.requeue(first)
    assert order_of(play, [first, second, third]) == [0, 1, 2]


def test_positions_count_everybody_in_line():
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    jobs = play.submit(a_job(), a_job(user="bob"), a_job(priority=2), a_job(hold=True), a_job(limit=7))
    assert [play.world.queue.position(job) for job in jobs] == [2, 3, 1, None, 4]


def test_a_job_that_can_not_start_does_not_hold_up_one_that_can():
    play = a_cluster(gpus="2xH100,1xT4")
    play.submit(a_job(type="H100", limit=50))
    wide, small = play.submit(a_job(2, type="H100"), a_job(type="T4"))
    assert play.state(small) == "starting"
    assert isinstance(play.why(wide), NoCapacity)


# -- parked


def test_a_held_job_waits_until_it_is_released_and_a_later_one_for_its_time():
    play = a_cluster()
    held, later = play.submit(a_job(hold=True), a_job(begin=100))
    assert (play.why(held), play.why(later)) == (Held(), BeginsAt(Timestamp(NOON + 100)))
    assert play.out.wake_at == NOON + 100
    play.later(101)
    assert play.running == [later]
    play.release(held)
    assert play.running == [held, later]


def test_a_begin_time_that_has_passed_is_now():
    play = a_cluster()
    (job,) = play.submit(a_job(begin=-5))
    assert play.state(job) == "starting"


def test_retries_wait_longer_each_time_up_to_five_minutes():
    play = a_cluster(gpus="1xH100")
    (job,) = play.submit(a_job(retries=10))
    delays = []
    for attempt in range(1, 11):
        play.starts(job)
        play.ends(job, code=1)
        reason = play.why(job)
        assert isinstance(reason, RetriesAt)
        assert reason.attempt == attempt + 1
        delays.append(round(reason.at - play.now))
        play.later(reason.at - play.now + 0.1)
    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    play.ends(job, code=1)
    assert play.state(job) == "failed"


def test_what_is_said_of_a_failure_names_signal_code_and_finding():
    play = a_cluster()
    job, other = play.submit(a_job(), a_job())
    play.ends(job, signal=9, finding="cuda out of memory")
    assert play.out.changes[-1].reason == "killed by SIGKILL (cuda out of memory)"
    play.ends(other, code=3)
    assert play.out.changes[-1].reason == "exit code 3"


def test_gpu_seconds_are_counted_from_the_start_also_where_only_the_end_was_heard_of():
    play = a_cluster()
    job, unheard = play.submit(a_job(2), a_job())
    play.starts(job)
    play.now += 100
    play.ends(job, unheard)
    used = [round(change.gpu_s) for change in play.out.changes if hasattr(change, "gpu_s")]
    assert used == [200, 100]


# -- operators


def test_a_pause_starts_nothing_and_says_why():
    play = a_cluster()
    play.pause("power cut at noon")
    (job,) = play.submit(a_job())
    assert play.why(job) == Paused("power cut at noon")
    assert play.restarted().why(job) == Paused("power cut at noon")
    play.pause(None)
    assert play.running == [job]


def test_pausing_what_is_paused_changes_nothing():
    play = a_cluster()
    assert play.pause("x").changed
    assert not play.pause("x").changed
    assert not play.out.changes


def test_when_nobody_waits_any_more_time_alone_changes_nothing():
    play = a_cluster(gpus="1xH100")
    first, second = play.submit(a_job(), a_job())
    play.starts(first)
    play.later(100)
    assert play.out.wake_at is not None
    play.ends(first)
    play.starts(second)
    assert play.out.wake_at is None


def test_a_drained_gpu_gets_no_new_job_and_keeps_its_old_one():
    play = a_cluster(gpus="2xH100")
    (job,) = play.submit(a_job())
    play.drain("n1-H100-0", "n1-H100-1")
    (waiting,) = play.submit(a_job())
    assert play.why(waiting) == NoCapacity(1, 2, 0, "n1", None, (("draining", 2),))
    play.ends(job)
    assert not play.running
    assert not play.restarted().running
    play.drain("n1-H100-1", reason=None)
    assert play.gpus(waiting) == ["n1-H100-1"]


def test_a_drained_node_gets_no_job_at_all():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"))
    play.drain(nodes=("n1",))
    one, other, cpu = play.submit(a_job(), a_job(), a_job(0))
    assert (play.node(one), play.state(other), play.node(cpu)) == ("n2", "queued", "n2")
    assert play.restarted().running == play.running


# -- stopping


def test_a_job_that_does_not_end_is_looked_at_again_every_minute():
    play = a_cluster()
    (job,) = play.submit(a_job(grace=10))
    play.starts(job)
    play.cancel(job)
    assert round(play.out.wake_at - play.now) == 50
    play.later(51)
    assert round(play.out.wake_at - play.now) == 59
    play.cancel(job, force=True)
    play.ends(job)
    assert play.out.wake_at is None


def test_a_start_of_which_nothing_is_heard_is_looked_at_every_minute():
    play = a_cluster()
    (job,) = play.submit(a_job())
    play.now += 60
    play.cycle()
    assert play.out.effects == [Look(job, 1, "boot-1")]
    play.starts(job)
    assert play.out.wake_at is None


def test_the_first_stop_that_went_down_with_gpud_is_sent_again():
    play = a_cluster()
    (job,) = play.submit(a_job(grace=10))
    play.starts(job)
    play.cancel(job)
    play = play.restarted()
    play.starts(job)  # what the look at it answers
    (stop,) = play.out.effects
    assert 9 < stop.grace_s <= 10


def test_a_stop_that_is_overdue_is_looked_at_after_a_restart_too():
    play = a_cluster()
    (job,) = play.submit(a_job(grace=10))
    play.starts(job)
    play.cancel(job)
    play = play.restarted()
    play.now += 51
    play.cycle()
    (look,) = play.out.effects
    assert isinstance(look, Look)
    assert (look.job, look.attempt, look.boot) == (job, 1, "boot-1")


def test_a_forced_stop_stays_forced():
    play = a_cluster()
    (job,) = play.submit(a_job(grace=1000))
    play.cancel(job)
    play.cancel(job, force=True)
    play.starts(job)
    assert [effect.grace_s for effect in play.out.effects] == [0.0]


# -- after a restart


@pytest.mark.parametrize("hold", [False, True])
def test_a_restart_keeps_the_order_of_submission(hold):
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    (first,) = play.submit(a_job(hold=hold))
    play = play.restarted()
    play.now -= 1000  # the clock's anchor moved
    (second,) = play.submit(a_job())
    play.release(first)
    assert order_of(play, [first, second]) == [0, 1]


def test_a_job_on_gpus_that_nobody_knows_any_more_lives_through_a_restart():
    play = a_cluster(gpus="4xH100")
    (job,) = play.submit(a_job(4, cpus=5))
    play.sees(a_node("n1", "2xH100"))
    again = play.restarted()
    assert again.running == [job]
    again.sees(a_node("n1", "4xH100"))
    (other,) = again.submit(a_job())
    assert again.state(other) == "queued"
    again.ends(job)
    assert again.state(other) == "starting"


# -- the queue itself

lines = st.integers(0, 5)
moves = st.lists(st.tuples(st.sampled_from(["add", "add", "remove"]), st.integers(1, 30), lines, st.integers(-50, 50)))


def a_line(number: int) -> Terms:
    """Return one of six lines, of three demands and two users."""
    return Terms(demand=Demand(gpus=number % 3), uid=number // 3, user=str(number // 3), tenant="")


@given(moves)
def test_the_queue_is_a_sorted_list(story):
    queue, model = Queue(Priority(1.0).rank), {}
    for verb, number, line, order in story:
        job = job_id(number)
        if verb == "add":
            queue.add(job, a_line(line), order)
            model.pop(job, None)
            model[job] = (order, a_line(line))
        else:
            assert queue.remove(job) == (model.pop(job, None) is not None)
    entries = sorted(entry for _, entry in queue.standing())
    assert sorted(job_of(entry) for entry in entries) == sorted(model)
    assert [model[job_of(entry)][0] for entry in entries] == sorted(order for order, _ in model.values())
    assert [queue.position(job_of(entry)) for entry in entries] == list(range(1, len(entries) + 1))
    heads = firsts(queue)
    for entry in entries:
        demand = queue.line(job_of(entry)).terms.demand
        assert heads[demand] <= entry
        assert queue.order(job_of(entry)) == model[job_of(entry)][0]
    while heads:
        demand, entry = min(heads.items(), key=lambda head: head[1])
        assert entry == entries.pop(0)
        queue.remove(job_of(entry))
        heads = firsts(queue)
    assert not entries


def firsts(queue):
    """Return the packed entry of the first job of every demand; what `heads` tells never stands behind it."""
    found = {}
    for rank, entry, group, _ in queue.heads():
        first = queue.first(group)
        if first is not None:
            assert (rank, entry) <= first[:2]
            found[group.demand] = first[1]
    return found


def test_what_left_a_line_leaves_nothing_behind():
    queue = Queue(Priority(1.0).rank)
    queue.add(job_id(1), a_line(0), -1)
    for number in range(2, 20_000):
        queue.add(job_id(number), a_line(number % 6), number if number % 2 else -number)
        queue.remove(job_id(number))
    left = sum(len(line.heap) for line in queue._by_kind.values())
    left += sum(len(group.order) + len(group.shortest) for group in queue._groups.values())
    assert len(queue) == 1
    assert left < 500
