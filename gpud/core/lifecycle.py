"""What an end of an attempt means for its job: over for good, or back in the queue. One table, no world.

    how the attempt ended          being stopped because of     then
    ---------------------------    -------------------------    ------------------------------------------
    anything                       cancelled                    cancelled
    anything                       requeued, preempted          waits again, same place, next attempt
    could not start, machine's     -                            waits again after a delay; not counted
    could not start, its own       -                            failed
    lost                           -                            a retry if there is one left, else lost
    ended at its time limit        -                            timed out
    exit code 0                    -                            completed
    other exit code, or signal     -                            a retry if there is one left, else failed

What happens to waiting jobs (cancel, hold, release ...) moves them between places and needs no table.
"""

from dataclasses import dataclass, replace
from signal import Signals

from gpud.model.job import End, Exit, StopCause
from gpud.model.spec import Park, Place
from gpud.model.units import Seconds, Timestamp

RETRY_FIRST_S: Seconds = 2.0  # doubles with each try, up to
RETRY_LAST_S: Seconds = 300.0
MACHINE_LAST_S: Seconds = 30.0  # after a fault of the machine: once that is mended nobody shall wait for long


@dataclass(frozen=True, slots=True)
class Over:
    """The job has ended. `reason` is None where the state says it all."""

    end: End
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The job waits for its next attempt, at this place."""

    place: Place
    word: str
    reason: str


def after(outcome: Exit, cause: StopCause | None, place: Place, retries: int, now: Timestamp) -> Over | Again:
    """Return what becomes of a job whose attempt ended; `place` is where it stood when that attempt began."""
    if cause is StopCause.CANCELLED:
        return Over(End.CANCELLED)
    if cause in {StopCause.REQUEUED, StopCause.PREEMPTED}:
        return Again(replace(place, attempt=place.attempt + 1), "requeued", f"attempt {place.attempt} was {cause}")
    fault = outcome.fault
    if fault is not None and fault.machine:
        reason = f"could not start: {fault.reason}"
        return Again(_delayed(place, place.attempt, now, MACHINE_LAST_S), "retried", reason)
    if fault is not None:
        return Over(End.FAILED, fault.reason)
    if outcome.timed_out or cause is StopCause.TIMED_OUT:
        return Over(End.TIMED_OUT, "reached its time limit")
    if outcome.exit_code == 0:
        return Over(End.COMPLETED)
    reason = said(outcome)
    if place.failures < retries:
        again = replace(_delayed(place, place.failures + 1, now), failures=place.failures + 1)
        return Again(again, "retried", f"attempt {place.attempt} ended: {reason}")
    return Over(End.LOST if outcome.lost is not None else End.FAILED, reason)


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
