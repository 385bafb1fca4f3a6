"""What an end of an attempt means for its job: over for good, or back in the queue. One table, no world.

    how the attempt ended          being stopped because of     then
    ---------------------------    -------------------------    ------------------------------------------
    anything                       cancelled                    cancelled
    anything                       requeued, preempted          waits again, same place, next attempt
    could not start, machine's     -                            waits again after a delay; not counted
    could not start, its own       -                            failed
    anything                       a GPU of it that was lost    a mishap: again if it may be, else failed
    anything                       too much of a shared GPU     failed
    ended at its time limit        -                            timed out; but a retry, if one is left, where it
                                                                ended by itself with an exit code that it named
    exit code 0                    -                            completed
    lost                           -                            a mishap: again if it may be, else lost
    anything else, its GPU lost    -                            a mishap: again if it may be, else failed
    out of a GPU's memory beside   -                            again if it may be, not counted as a retry; else failed
    a stranger
    other exit code, or signal     -                            a retry if there is one left, else failed (a job that
                                                                ran out of memory fails where there is no more of it:
                                                                see core.retries)

A mishap is not counted against the job's retries. But what takes down what it touches is poison: after so many
mishaps as the configuration says it is over. Both only where the job may be tried again at all, and for this kind of
end: see `Terms.retries` and `Terms.retry_on`, whose words are `failure` (any), `oom`, `lost` and `exit:N`.

What happens to waiting jobs (cancel, hold, release ...) moves them between places and needs no table.
"""

from dataclasses import replace
from signal import Signals

from gpud.model.job import End, Exit, StopCause
from gpud.model.spec import Park, Place, Terms
from gpud.model.units import Seconds, Timestamp, format_duration, plural
from gpud.model.value import value

RETRY_FIRST_S: Seconds = 2.0  # doubles with each try, up to
RETRY_LAST_S: Seconds = 300.0
MACHINE_LAST_S: Seconds = 30.0  # after a fault of the machine: once that is mended nobody shall wait for long


@value()
class Over:
    """The job has ended. `reason` is None where the state says it all."""

    end: End
    reason: str | None = None


@value()
class Again:
    """The job waits for its next attempt, at this place."""

    place: Place
    word: str
    reason: str


def after(
    outcome: Exit,
    cause: StopCause | None,
    place: Place,
    terms: Terms,
    now: Timestamp,
    *,
    most: int,
    gone: str | None,
    guest: str | None = None,
) -> Over | Again:
    """Return what becomes of a job whose attempt ended; `place` is where it stood when that attempt began.

    `most` is how many mishaps a job may have; `gone` names the GPU that was lost under it, if one was, and `guest` who
    was on its GPUs that should not have been.
    """
    if cause is StopCause.CANCELLED:
        return Over(End.CANCELLED)
    if cause is StopCause.UNUSED:
        return Over(
            End.CANCELLED, f"no process of {terms.user} used its GPUs for {format_duration(terms.idle_after_s or 0)}"
        )
    if cause is StopCause.REQUEUED or cause is StopCause.PREEMPTED:
        return Again(replace(place, attempt=place.attempt + 1), cause.value, f"attempt {place.attempt} was {cause}")
    fault = outcome.fault
    if fault is not None and fault.machine:
        reason = f"could not start: {fault.reason}"
        return Again(_delayed(place, place.attempt, now, MACHINE_LAST_S), "retried", reason)
    if fault is not None:
        return Over(End.FAILED, fault.reason)
    if cause is StopCause.GPU_LOST:
        over = Over(End.FAILED, f"{gone or 'its GPU'} was lost, and it was stopped ({said(outcome)})")
        return _after_mishap(place, terms, now, over, most)
    if cause is StopCause.GPU_MEMORY:
        return Over(End.FAILED, "used more of a shared GPU's memory than it declared: --gpu-memory")
    if outcome.timed_out or cause is StopCause.TIMED_OUT:
        if outcome.exit_code and f"exit:{outcome.exit_code}" in terms.retry_on and place.failures < terms.retries:
            return _retried(place, now, f"reached its time limit, {said(outcome)}")
        return Over(End.TIMED_OUT, "reached its time limit")
    if outcome.exit_code == 0:
        return Over(End.COMPLETED)
    if guest is not None and out_of_memory(outcome):
        over = Over(End.FAILED, f"{said(outcome)}; {guest}")
        return _after_mishap(place, terms, now, over, most, may=bool(terms.retries) and tried_again(terms, outcome))
    reason = said(outcome) if gone is None else f"{said(outcome)}; {gone} was lost"
    end = End.LOST if outcome.lost is not None else End.FAILED
    if outcome.lost is not None or gone is not None:
        # Where it was stopped, that is a failure, too.
        named = outcome.seen and terms.retries > 0 and tried_again(terms, outcome)
        return _after_mishap(place, terms, now, Over(end, reason), most, may=named or None)
    if place.failures < terms.retries and tried_again(terms, outcome):
        return _retried(place, now, reason)
    return Over(end, reason)


def tried_again(terms: Terms, outcome: Exit) -> bool:
    """Return whether a failure is of a kind that the job is tried again for, if it has tries left."""
    kinds = {"failure", f"exit:{outcome.exit_code}", *(["oom"] if out_of_memory(outcome) else [])}
    return not terms.retry_on or not kinds.isdisjoint(terms.retry_on)


def out_of_memory(outcome: Exit) -> bool:
    """Return whether an attempt ended for want of memory, the machine's or a GPU's."""
    return outcome.finding is not None and "out of memory" in outcome.finding


def _after_mishap(
    place: Place, terms: Terms, now: Timestamp, over: Over, most: int, *, may: bool | None = None
) -> Over | Again:
    if may is None:
        may = "lost" in (terms.retry_on or (["lost"] if terms.retries else []))
    if not may:
        return over
    mishaps = place.mishaps + 1
    if mishaps >= most:
        return Over(over.end, f"{over.reason}; not started again: what it runs on has failed {plural(mishaps, 'time')}")
    again = replace(_delayed(place, mishaps, now), mishaps=mishaps)
    return Again(again, "retried", f"attempt {place.attempt} ended: {over.reason}")


def _retried(place: Place, now: Timestamp, reason: str) -> Again:
    again = replace(_delayed(place, place.failures + 1, now), failures=place.failures + 1)
    return Again(again, "retried", f"attempt {place.attempt} ended: {reason}")


def said(outcome: Exit) -> str:
    """Return an end in words: `exit code 3`, `killed by SIGSEGV`, why it is lost; with what its log ended on."""
    if outcome.lost is not None:
        words = outcome.lost
    elif outcome.fault is not None:
        words = outcome.fault.reason
    elif outcome.signal is not None:
        words = f"killed by {_signal_name(outcome.signal)}"
    else:
        words = f"exit code {outcome.exit_code}"
    return f"{words} ({outcome.finding})" if outcome.finding else words


def _delayed(place: Place, tries: int, now: Timestamp, last_s: Seconds = RETRY_LAST_S) -> Place:
    delay = min(last_s, RETRY_FIRST_S * 2 ** min(tries - 1, 30))
    return replace(place, attempt=place.attempt + 1, park=Park.RETRY, not_before=Timestamp(now + delay))


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
