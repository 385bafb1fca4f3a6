"""An array is one row that unfolds as it starts; whatever concerns one element alone unfolds that one."""

import pytest
from playbook import Play, a_cluster, a_job, element

from gpud.core.commands import Requeue
from gpud.core.waits import Held, NoCapacity, Throttled
from gpud.model.array import index_set
from gpud.model.changes import Added, ArrayPut, Ended, Moved, Unfolded
from gpud.model.job import End, JobId


def of(play: Play, array: JobId) -> str:
    """Return what an array's row says: what is pending, how many live, how many ended how."""
    state = play.ledger.rows[array].array
    assert state is not None
    ends = " ".join(f"{end}:{count}" for end, count in state.counts)
    return f"{state.pending or '-'} {state.live} {ends}".strip()


def a_running_array(spec: str = "0-9", *, gpus: int = 2, **how: object) -> tuple[Play, JobId]:
    play = a_cluster(gpus=f"{gpus}xH100")
    (array,) = play.submit(a_job(array=spec, **how))
    return play, array


def test_elements_start_in_order_as_there_is_room():
    play, array = a_running_array()
    assert play.started == [element(array, 0), element(array, 1)]
    assert [type(change) for change in play.out.changes] == [Added, Unfolded, Moved, Unfolded, Moved, ArrayPut]
    assert of(play, array) == "2-9 2"
    play.ends(element(array, 1))
    assert play.started == [element(array, 2)]
    assert of(play, array) == "3-9 2 completed:1"


@pytest.mark.parametrize("throttle", ["", "%1"])
def test_an_element_that_was_stopped_to_run_again_goes_before_those_that_have_not(throttle: str):
    play, array = a_running_array(f"0-4{throttle}", gpus=1)
    first, second = element(array, 0), element(array, 1)
    play.starts(first)
    for job, attempt in ((first, 1), (first, 2), (second, 1)):
        if job != play.running[0]:
            play.ends(first)
        assert (play.running, play.attempt(job)) == ([job], attempt)
        play.requeue(job)
        play.ends(job)


def test_a_hundred_thousand_elements_cost_one_row():
    play, array = a_running_array("0-99999")
    assert len(play.ledger.rows) == 3
    assert len(play.world.queue) == 1
    play.cancel(array)
    assert of(play, array) == "- 2 cancelled:99998"


def test_an_array_ends_with_its_last_element_and_as_its_worst_one():
    play, array = a_running_array("0-2")
    play.ends(element(array, 0), code=3)
    play.ends(element(array, 1))
    assert play.state(array) == "nothing"
    play.ends(element(array, 2), timed_out=True, signal=15)
    assert of(play, array) == "- 0 completed:1 failed:1 timed_out:1"
    assert play.state(array) == "failed"
    assert not play.world.arrays


@pytest.mark.parametrize(
    ("ends", "whole"),
    [
        ([End.COMPLETED, End.COMPLETED], "completed"),
        ([End.COMPLETED, End.LOST], "lost"),
        ([End.LOST, End.TIMED_OUT], "timed_out"),
        ([End.TIMED_OUT, End.FAILED], "failed"),
    ],
)
def test_the_worst_end_is_the_end_of_the_whole(ends, whole):
    play, array = a_running_array("0-1")
    how = {
        End.COMPLETED: {"code": 0},
        End.FAILED: {"code": 1},
        End.LOST: {"lost": "rebooted"},
        End.TIMED_OUT: {"timed_out": True, "signal": 15},
    }
    for index, end in enumerate(ends):
        play.ends(element(array, index), **how[end])
    assert play.state(array) == whole


# -- the throttle


def test_no_more_run_than_the_throttle_lets():
    play, array = a_running_array("0-9%2", gpus=4)
    assert play.running == [element(array, 0), element(array, 1)]
    assert play.why(array) == Throttled(2)
    assert play.why(element(array, 7)) == Throttled(2)
    play.ends(element(array, 0))
    assert play.running == [element(array, 1), element(array, 2)]


def test_retried_elements_count_against_the_throttle_while_they_run():
    play, array = a_running_array("0-3%1", gpus=4, retries=1)
    first = element(array, 0)
    play.ends(first, code=1)
    assert play.running == [element(array, 1)]  # a retry's delay holds nobody up
    play.later(3)
    assert play.why(first) == Throttled(1)
    play.ends(element(array, 1))
    assert play.running == [element(array, 2)]  # what was never tried comes first
    play.ends(element(array, 2))
    play.ends(element(array, 3))
    assert play.running == [first]
    play.ends(first)
    assert of(play, array) == "- 0 completed:4"


def test_many_throttled_retries_cost_no_more_than_few():
    play, array = a_running_array("0-199%4", gpus=8, retries=1)
    play.checked = False
    for index in range(200):
        play.cycle()
        play.ends(element(array, index), code=1)
    play.later(3)
    assert len(play.world.arrays[array].kept) >= 190
    assert len(play.world.queue) == 0
    assert len(play.running) == 4


def test_a_released_element_waits_for_the_throttle_too():
    play, array = a_running_array("0-3%1", gpus=4)
    last = element(array, 3)
    play.hold(last)
    play.release(last)
    assert (play.state(last), play.why(last)) == ("queued", Throttled(1))


# -- parts


def test_a_part_is_cancelled_alone():
    play, array = a_running_array()
    play.cancel(element(array, 5), element(array, 0))
    assert play.state(element(array, 5)) == "cancelled"
    assert play.state(element(array, 0)) == "stopping(cancelled)"
    assert of(play, array) == "2-4,6-9 2 cancelled:1"


def test_a_part_is_held_and_released_alone():
    play, array = a_running_array("0-3")
    play.hold(element(array, 2))
    assert play.why(element(array, 2)) == Held()
    assert isinstance(play.why(array), NoCapacity)
    play.ends(element(array, 0), element(array, 1))
    assert play.running == [element(array, 3)]
    play.release(element(array, 2))
    assert play.running == [element(array, 2), element(array, 3)]


def test_a_part_may_go_first():
    play, array = a_running_array("0-9", gpus=1)
    play.prioritise(5, element(array, 8))
    play.ends(element(array, 0))
    assert play.running == [element(array, 8)]


def test_a_part_of_a_held_array_may_be_released():
    play, array = a_running_array(hold=True)
    play.release(element(array, 4))
    assert play.running == [element(array, 4)]
    assert of(play, array) == "0-3,5-9 1"
    assert play.state(array) == "held"


def test_what_has_ended_cannot_be_changed():
    play, array = a_running_array()
    play.ends(element(array, 0))
    assert play.hold(element(array, 0)) == ["has ended already"]
    assert play.cancel(element(array, 77)) == ["has ended already"]


# -- the whole


def test_the_whole_is_cancelled_in_one_change():
    play, array = a_running_array()
    play.hold(element(array, 9))
    play.cancel(array)
    assert [change.job for change in play.out.changes if isinstance(change, Ended)] == [element(array, 9)]
    assert of(play, array) == "- 2 cancelled:8"
    play.ends(*play.running)
    assert play.state(array) == "cancelled"
    assert of(play, array) == "- 0 cancelled:10"


def test_cancelling_the_whole_twice_says_so():
    play, array = a_running_array()
    assert play.cancel(array) == []
    assert play.cancel(array) == ["is being cancelled already"]


def test_the_whole_is_held_with_its_waiting_elements_and_released_with_them():
    play, array = a_running_array("0-3", retries=1)
    retried = element(array, 0)
    play.ends(retried, code=1)
    play.hold(array)
    play.later(60)
    play.ends(*play.running)
    assert [play.state(job) for job in (array, retried)] == ["held", "held"]
    assert not play.running
    play.release(array)
    assert play.running == [element(array, 0), element(array, 3)]


def test_holding_an_array_that_runs_whole_says_what_else_to_do():
    play, array = a_running_array("0-1")
    assert play.hold(array)[0].startswith("is running")


def test_the_priority_of_the_whole_is_that_of_its_retries_too():
    play, array = a_running_array("0-9", gpus=1, retries=1)
    (other,) = play.submit(a_job(priority=3))
    play.prioritise(9, array)
    play.ends(element(array, 0), code=1)
    play.ends(element(array, 1))
    assert play.ledger.rows[element(array, 0)].place.priority == 9
    assert play.state(other) == "queued"


def test_an_array_may_begin_later():
    play, array = a_running_array(begin=100)
    assert play.state(array) == "begin"
    play.later(101)
    assert len(play.running) == 2


def test_requeue_of_the_whole_stops_what_runs_and_takes_up_what_was_dropped():
    play, array = a_running_array("0-3")
    play.cancel(array)
    assert play.requeue(array) == []
    assert of(play, array) == "2-3 2"
    play.ends(*play.running)
    assert play.running == [element(array, 2), element(array, 3)]
    play.requeue(array)
    play.ends(*play.running)
    assert [play.attempt(job) for job in play.running] == [2, 2]


# -- after the end


def test_an_element_runs_again_after_its_array_was_over():
    play, array = a_running_array("0-1")
    play.ends(element(array, 0), code=1)
    play.ends(element(array, 1))
    assert play.state(array) == "failed"
    play.requeue(ended=[element(array, 0)])
    assert play.running == [element(array, 0)]
    assert of(play, array) == "- 1 completed:1"
    play.ends(element(array, 0))
    assert play.state(array) == "completed"


def test_what_was_dropped_runs_after_the_array_was_over():
    play, array = a_running_array("0-9")
    play.cancel(array)
    play.ends(*play.running)
    assert play.state(array) == "cancelled"
    play.requeue(ended=[element(array, 7)])
    assert play.running == [element(array, 7)]
    assert of(play, array) == "- 1 cancelled:9"
    told = play.requeue(ended=[array])
    assert told == ["runs again without the elements that had started; name those that are to run again, too"]
    assert of(play, array) == "3-6,8-9 2 cancelled:2"


def test_an_array_of_which_all_ran_is_not_run_again_as_a_whole():
    play, array = a_running_array("0-1")
    play.ends(*play.running)
    assert play.requeue(ended=[array]) == [
        "has started all its elements; name those that are to run again, or how they ended: --state failed"
    ]
    assert not play.world.arrays


def test_elements_and_their_array_may_be_requeued_together():
    play, array = a_running_array("0-3", gpus=8)
    play.ends(*play.running)
    play.requeue(ended=[array, *(element(array, index) for index in range(4))])
    assert len(play.running) == 4


def test_dropped_sets_are_ranges():
    play, array = a_running_array("0-99999:2")
    play.cancel(array)
    state = play.ledger.rows[array].array
    assert state is not None
    assert state.dropped == type(state.dropped)((range(4, 99_999, 2),))
    assert index_set(range(3)) == index_set([2, 0, 1])


def test_an_element_that_runs_again_brings_nothing_back_that_was_cancelled_since_somebody_looked():
    play = a_cluster(gpus="1xH100")
    (array,) = play.submit(a_job(array="0-3"))
    play.hold(array)
    play.starts(element(array, 0))
    play.ends(element(array, 0))
    looked = play.ledger.finished(element(array, 0))
    play.cancel(array)
    assert play.state(array) == "cancelled"

    play.cycle(Requeue(1, (), (looked,)))

    assert not play.world.arrays[array].state.pending
    assert play.running == [element(array, 0)]


def test_a_job_that_ran_again_since_somebody_looked_is_not_started_twice_under_one_attempt():
    play = a_cluster(gpus="1xH100")
    (job,) = play.submit(a_job())
    play.starts(job)
    play.ends(job, code=3)
    looked = play.ledger.finished(job)
    play.requeue(ended=[job])
    play.starts(job)
    play.ends(job)

    play.cycle(Requeue(1, (), (looked,)))

    assert play.attempt(job) == 3


@pytest.mark.parametrize("array", ["0-3", "0-3%1"])
@pytest.mark.parametrize("how", ["held", "requeued"])
def test_an_element_that_comes_back_without_a_failure_stands_before_later_ones(array, how):
    play = a_cluster(gpus="1xH100")
    (key,) = play.submit(a_job(array=array))
    play.starts(element(key, 0))
    if how == "held":
        play.hold(element(key, 1))
        play.release(element(key, 1))
        play.ends(element(key, 0))
    else:
        play.ends(element(key, 0))
        play.starts(element(key, 1))
        play.requeue(element(key, 1))
        play.ends(element(key, 1), signal=15)
    assert play.running == [element(key, 1)]
