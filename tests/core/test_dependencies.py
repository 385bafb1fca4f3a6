"""Jobs that come after others: they start when these ended as they must, and otherwise say why they never will."""

import pytest
from hypothesis import given, settings, strategies as st
from playbook import Play, a_cluster, a_job, an_end, element

from gpud.core.admit import Refused
from gpud.core.commands import Accepted, Submit
from gpud.core.rules import Rules
from gpud.core.waits import After, Held, Unmet, Wait
from gpud.model.changes import Ended, Queued
from gpud.model.job import End, JobId, array_of, job_id
from gpud.model.spec import Dependency, Park, When

CANCELS = Rules(cancel_unmet=True)


def any_of(*jobs: JobId) -> tuple[Dependency, ...]:
    return tuple(Dependency(job, When.ANY) for job in jobs)


def failed(job: JobId) -> tuple[Dependency, ...]:
    return (Dependency(job, When.FAILED),)


def one(play: Play, **how: object) -> JobId:
    (job,) = play.submit(a_job(**how))
    return job


def test_a_job_starts_in_the_cycle_in_which_the_other_succeeds():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first)
    assert play.why(second) == After(Dependency(first), "starting", 0)
    play.starts(first)
    assert play.why(second) == After(Dependency(first), "running", 0)
    play.ends(first, code=0)
    assert play.started == [second]


@pytest.mark.parametrize(
    ("when", "end", "starts"),
    [
        (When.SUCCESS, {"code": 0}, True),
        (When.SUCCESS, {"code": 3}, False),
        (When.SUCCESS, {"signal": 15, "timed_out": True}, False),
        (When.ANY, {"code": 0}, True),
        (When.ANY, {"code": 3}, True),
        (When.ANY, {"lost": "the node was rebooted"}, True),
        (When.FAILED, {"code": 0}, False),
        (When.FAILED, {"code": 3}, True),
        (When.FAILED, {"signal": 15, "timed_out": True}, True),
        (When.FAILED, {"lost": "the node was rebooted"}, True),
    ],
)
def test_how_the_other_ends_decides(when: When, end: dict[str, object], starts: bool):
    play = a_cluster()
    first = one(play)
    second = one(play, after=(Dependency(first, when),))
    play.ends(first, **end)
    assert play.state(second) == ("starting" if starts else "never")
    assert isinstance(play.why(second), Unmet) is not starts


def test_a_cancelled_job_has_ended_but_has_not_failed():
    play = a_cluster()
    first = one(play, hold=True)
    whatever, cleanup = one(play, after=any_of(first)), one(play, after=failed(first))
    play.cancel(first)
    assert (play.state(whatever), play.state(cleanup)) == ("starting", "never")


def test_a_job_waits_for_all_that_it_comes_after():
    play = a_cluster()
    first, second = play.submit(a_job(), a_job())
    last = one(play, after=(Dependency(first), *any_of(second)))
    play.ends(second, code=1)
    assert play.why(last) == After(Dependency(first), "starting", 0)
    play.ends(first)
    assert play.started == [last]


def test_what_ended_before_is_met_at_once():
    play = a_cluster()
    first = one(play)
    play.ends(first)
    assert play.state(one(play, after=first)) == "starting"


def test_an_end_between_the_look_and_the_cycle_is_not_lost():
    play = a_cluster()
    first = one(play)
    play.ends(first)
    ((_, reply),) = play.cycle(Submit(1, a_job(after=first), ends=())).replies  # looked up while it ran
    assert isinstance(reply, Accepted)
    assert play.started == [reply.job]


def test_an_end_in_the_same_batch_is_not_lost():
    play = a_cluster()
    first = one(play)
    out = play.cycle(an_end(first, 1, play.now), Submit(1, a_job(after=first)))
    assert [effect.job for effect in out.effects if effect.job != first] == [job_id(2)]


def test_an_end_of_which_nobody_knows_is_looked_up_again():
    play = a_cluster()
    ((_, reply),) = play.cycle(Submit(1, a_job(after=job_id(1)))).replies
    assert isinstance(reply, Refused)
    assert reply.hint == "submit it again"


def test_an_array_is_waited_for_as_a_whole_and_each_element_alone():
    play = a_cluster(gpus="2xH100")
    array = one(play, array="0-1")
    after_all, after_one = one(play, gpus=0, after=array), one(play, gpus=0, after=element(array, 0))
    play.ends(element(array, 0))
    assert (play.state(after_all), play.state(after_one)) == ("after", "starting")
    play.ends(element(array, 1))
    assert play.state(after_all) == "starting"


def test_an_array_succeeds_only_if_every_element_did():
    play = a_cluster(gpus="2xH100")
    array = one(play, array="0-1")
    cleanup, goes_on = one(play, gpus=0, after=failed(array)), one(play, gpus=0, after=array)
    play.ends(element(array, 0), code=1)
    play.ends(element(array, 1))
    assert (play.state(cleanup), play.state(goes_on)) == ("starting", "never")


def test_an_element_that_was_cancelled_before_it_started_has_ended():
    play = a_cluster(gpus="1xH100")
    array = one(play, array="0-999")
    waits = one(play, gpus=0, after=any_of(element(array, 7)))
    play.cancel(array)
    assert play.state(waits) == "starting"


def test_an_array_that_waits_is_parked_as_a_whole_with_what_was_unfolded_of_it():
    play = a_cluster()
    first = one(play, gpus=4)
    array = one(play, array="0-3", after=first)
    play.hold(element(array, 2))
    play.prioritise(5, element(array, 1))
    play.ends(first)
    assert sorted(play.started) == [element(array, index) for index in (0, 1, 3)]
    play.release(element(array, 2))
    assert play.started == [element(array, 2)]


def test_a_held_job_waits_for_others_after_its_release():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first, hold=True)
    assert play.why(second) == Held()
    play.release(second)
    assert play.state(second) == "after"
    play.hold(second)
    play.ends(first)
    assert play.state(second) == "held"
    play.release(second)
    assert play.started == [second]


def test_a_time_to_begin_counts_after_what_it_comes_after():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first, begin=3600)
    play.ends(first)
    assert play.state(second) == "begin"
    play.later(3600)
    assert play.state(second) == "starting"


# -- what can never be


def test_who_can_never_start_is_held_and_says_why():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first)
    third = one(play, after=second)
    play.ends(first, code=1)
    said = [change.reason for change in play.out.changes if isinstance(change, Queued)]
    assert said == ["was to start after job 1 succeeded, but that failed"]
    assert play.why(second) == Unmet(Dependency(first), End.FAILED)
    assert play.why(third) == After(Dependency(second), "held", 0)


def test_who_is_held_so_starts_when_released():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first)
    play.ends(first, code=1)
    play.release(second)
    assert play.started == [second]


def test_who_is_held_so_waits_again_when_the_other_runs_again():
    play = a_cluster()
    first = one(play)
    second = one(play, after=first)
    play.ends(first, code=1)
    play.requeue(ended=[first])
    assert play.state(second) == "after"
    play.ends(first)
    assert play.started == [second]


def test_where_so_configured_a_chain_goes_down_in_one_cycle():
    play = a_cluster(rules=CANCELS)
    first = one(play)
    chain = [first]
    for _ in range(50):
        chain.append(one(play, after=chain[-1]))
    cleanup = one(play, after=any_of(chain[-1]))
    play.ends(first, code=1)
    ended = [change for change in play.out.changes if isinstance(change, Ended)]
    assert [change.job for change in ended] == chain
    assert ended[1].reason == "was to start after job 1 succeeded, but that failed"
    assert ended[2].reason == "was to start after job 2 succeeded, but that was cancelled"
    assert play.started == [cleanup]


def test_where_so_configured_an_array_is_cancelled_with_the_reason():
    play = a_cluster(rules=CANCELS)
    first = one(play)
    array = one(play, array="0-9", after=first)
    play.hold(element(array, 3))
    play.ends(first, code=1)
    assert play.state(element(array, 3)) == "cancelled"
    assert play.ledger.rows[array].end is End.CANCELLED


def test_who_is_requeued_waits_again_for_who_is_requeued_with_it():
    play = a_cluster(rules=CANCELS)
    first = one(play)
    second = one(play, after=first)
    play.ends(first, code=1)
    play.requeue(ended=[second, first])
    assert (play.state(first), play.state(second)) == ("starting", "after")


def test_who_is_requeued_alone_starts():
    play = a_cluster(rules=CANCELS)
    first = one(play)
    second = one(play, after=first)
    play.ends(first, code=1)
    play.requeue(ended=[second])
    assert play.started == [second]


def test_an_array_that_was_cancelled_so_is_requeued_whole():
    play = a_cluster(rules=CANCELS)
    first = one(play)
    array = one(play, array="0-1", after=first)
    play.ends(first, code=1)
    play.requeue(ended=[array, first])
    assert play.state(element(array, 0)) == "after"
    play.ends(first)
    assert play.started == [element(array, 0), element(array, 1)]


def test_a_finished_chain_leaves_nothing_behind():
    play = a_cluster()
    first = one(play)
    second, third = one(play, after=first), one(play, after=any_of(first))
    play.cancel(second)
    play.ends(first)
    play.ends(third)
    after = play.world.after
    assert not after.dependents(first)
    assert not after.awaited(second) + after.awaited(third)


def test_a_restart_knows_what_is_waited_for_and_what_ended():
    play = a_cluster()
    first, second = play.submit(a_job(), a_job())
    last = one(play, after=(Dependency(first), Dependency(second)))
    held = one(play, after=second, hold=True)
    play.ends(first)
    play = play.restarted()
    assert play.why(last) == After(Dependency(second), "starting", 0)
    play.ends(second, code=1)
    play = play.restarted()
    assert [play.state(job) for job in (last, held)] == ["never", "held"]
    play.requeue(ended=[second])
    play.ends(second)
    play.release(held)
    assert {play.state(job) for job in (last, held)} == {"starting"}


# -- whatever happens

STEP = st.sampled_from(["submit", "array", "end", "fail", "cancel", "hold", "release", "requeue", "restart"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 1000), st.sampled_from(When)), max_size=40), st.booleans())
def test_nobody_starts_before_its_time_and_nobody_waits_for_ever(steps: list[tuple[str, int, When]], cancels: bool):
    play = a_cluster(gpus="2xH100", rules=Rules(cancel_unmet=cancels))
    released: set[JobId] = set()
    bound_no_more: set[JobId] = set()
    for step, pick, when in steps:
        play = take(play, step, pick, when, released)
        check(play, released, bound_no_more)
    # With nobody to hold anything, everything comes to its end, or is held and says why.
    for _ in range(200):
        if play.world.active:
            play.ends(*play.running)
        play.release(*[job for job, each in play.world.parked.items() if each.place.park is Park.HELD])
    waiting = [job for job, row in play.ledger.unfinished().items()]
    for job in waiting:
        wait = reason(play, job)
        assert isinstance(wait, Unmet | After)
        while isinstance(wait, After):
            wait = reason(play, wait.first.job)
        assert isinstance(wait, Unmet)
        assert not cancels


def reason(play: Play, job: JobId) -> Wait | None:
    """Return why a job waits; of an array whose elements all have rows of their own, why the first of those does."""
    own = [each for each in play.ledger.unfinished() if each != job and array_of(each) == job]
    return play.why(job) or play.why(min(own))


def take(play: Play, step: str, pick: int, when: When, released: set[JobId]) -> Play:
    known = sorted(play.ledger.rows)
    chosen = known[pick % len(known)] if known else None
    live = [job for job in known if play.ledger.rows[job].end is None]
    target = live[pick % len(live)] if live else None
    running = play.running
    match step:
        case "submit" | "array":
            after = tuple({job: Dependency(job, when) for job in (chosen, *known[-1:]) if job is not None}.values())
            play.submit(a_job(after=after[: 1 + pick % 2], array="0-2%2" if step == "array" else None))
        case "end" | "fail" if running:
            play.ends(running[pick % len(running)], code=0 if step == "end" else 1)
        case "cancel" if target is not None:
            play.cancel(target)
        case "hold" if target is not None:
            array = play.world.arrays.get(target)
            inside = array is not None and array.state.pending and pick % 3
            play.hold(element(target, array.state.pending.first) if inside else target)
        case "release" if target is not None:
            array = play.world.arrays.get(target)
            each = [target, *(array.elements if array else ())]
            released.update(job for job in each if (w := play.world.waiting(job)) and w.place.park is Park.NEVER)
            play.release(target)
        case "requeue" if chosen is not None and play.ledger.rows[chosen].end is not None:
            released.add(chosen)
            play.requeue(ended=[chosen])
        case "restart":
            return play.restarted()
    return play


def check(play: Play, released: set[JobId], bound_no_more: set[JobId]) -> None:
    """Whoever waits for nothing any more since the last step had nothing left to wait for."""
    for job, row in play.ledger.rows.items():
        if row.place.awaits or row.end is not None or {job, job_id(job >> 24)} & (released | bound_no_more):
            continue
        bound_no_more.add(job)
        for each in row.after:
            end = play.ledger.end_of(each.job)
            assert end is not None
            assert each.when is When.ANY or (end is End.COMPLETED) == (each.when is When.SUCCESS)
    assert not any(play.ledger.rows[job].place.awaits for job in play.started)
