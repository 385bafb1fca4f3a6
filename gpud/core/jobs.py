"""What happens to jobs: each function takes one command or observation into the world and tells the outcome.

An element of an array that has not started is a number in its array's row. Whatever concerns one element alone
(hold 12_7) first unfolds it: it gets a row of its own, and is a job like any other from then on.
"""

from collections.abc import Callable
from dataclasses import replace

from gpud.core import arrays, sampling
from gpud.core.active import ActiveJob
from gpud.core.books import held
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import Ended, Moved, Queued, Reprioritised, Told
from gpud.model.effects import Interrupt, Launch, SendSignal, Stop, look_at
from gpud.model.gpu import Allocation
from gpud.model.job import (
    End,
    Exit,
    JobId,
    Running,
    Starting,
    StopCause,
    Stopping,
    array_of,
    format_job,
    index_of,
    job_id,
    number_of,
)
from gpud.model.observations import Started
from gpud.model.spec import Park, Place, Terms
from gpud.model.units import Seconds, Timestamp

LOOK_AGAIN_S: Seconds = 60.0  # after a start or a stop that nothing was heard of, and again after each look
KILL_SLACK_S: Seconds = 40.0  # a shim gives up waiting for a process that cannot die after 30 s
OVER = "has ended already"
_GOES_ON = (StopCause.PREEMPTED, StopCause.REQUEUED)  # such a job runs again: it shall save what it has


def start(world: World, out: Outcome, job: JobId, terms: Terms, allocation: Allocation) -> ActiveJob:
    """Give a job at the head of its line, or the first element of an array there, its allocation."""
    waiting = world.waiting(job)
    assert waiting is not None, format_job(job)  # noqa: S101 - a head of a line waits, or the queue is broken
    place, array = waiting.place, world.arrays.get(array_of(job))
    if array is not None and index_of(job) is None:
        job = arrays.unfold(world, out, array, job_id(number_of(job), array.state.pending.first))
    world.unwait(job)
    state = Starting(out.now, allocation, world.boot)
    active = ActiveJob(job, terms, place, state, held(terms.demand, allocation))
    world.enter(active)
    out.changes.append(Moved(job, out.now, place.attempt, state))
    out.effects.append(Launch(job, place.attempt, allocation))
    sampling.begin(world, active)
    world.alarms.set(Timestamp(out.now + LOOK_AGAIN_S), job)  # should nobody ever tell what became of it
    if array is not None:
        throttle(world, job)
    return active


def throttle(world: World, job: JobId) -> None:
    """See to an array's limit after one of its elements started or ended."""
    array = world.arrays.get(array_of(job))
    if array is not None and array.state.throttle is not None:
        world.throttle(array_of(job))


def started(world: World, out: Outcome, seen: Started) -> None:
    """A process won the claim, or is found to hold it still."""
    active = current(world, seen.job, seen.attempt)
    if active is None:
        return
    match active.state:
        case Starting(_, allocation, boot):
            world.alarms.silence(seen.job)
            _move(world, out, active, Running(seen.at, allocation, boot, seen.process, seen.shim))
        case Stopping() as stopping:
            if stopping.started is None:
                state = replace(stopping, started=seen.at, process=seen.process, shim=seen.shim)
                _move(world, out, active, state)
            # The stop came before there was anything to stop, or went down with an earlier gpud.
            grace_s = max(0.0, stopping.kill_at - KILL_SLACK_S - out.now)
            out.effects.append(Stop(seen.job, seen.attempt, grace_s, saves=stopping.cause in _GOES_ON))


def finish(
    world: World,
    out: Outcome,
    job: JobId,
    end: End,
    exit_: Exit | None,
    reason: str | None = None,
    *,
    by: str | None = None,
) -> None:
    """A job that waits nowhere and holds nothing is over for good."""
    out.changes.append(Ended(job, out.now, end, exit_, reason, by or None))
    world.after.turn(job, end)
    if index_of(job) is None:
        world.after.forget(job)
        world.groups.leave(job, end)
    else:
        array = world.arrays[array_of(job)]
        del array.elements[job]
        array.state = replace(array.state, live=array.state.live - 1, counts=array.state.counted(end))
        out.touch(array_of(job))
        throttle(world, job)


def stop(
    world: World, out: Outcome, active: ActiveJob, cause: StopCause, *, force: bool = False, by: str | None = None
) -> bool:
    """Have an active job end; False if it is being stopped for that reason already. `by` is who asked, by name."""
    state, grace_s = active.state, 0.0 if force else active.terms.grace_s
    kill_at = Timestamp(out.now + grace_s + KILL_SLACK_S)
    match state:
        case Starting(_, allocation, boot):
            stopping = Stopping(out.now, allocation, boot, cause, kill_at, None, None, None)
        case Running(since, allocation, boot, process, shim):
            stopping = Stopping(out.now, allocation, boot, cause, kill_at, since, process, shim)
        case Stopping():
            if state.cause is cause and not force:
                return False
            # Whoever preempts or requeues yields to the user who cancels. A stop that is overdue begins anew.
            sooner = kill_at if state.kill_at <= out.now else min(state.kill_at, kill_at)
            stopping = replace(state, cause=cause, kill_at=sooner)
    _move(world, out, active, stopping, by)
    world.ends_sooner(active)
    saves = cause in _GOES_ON and not force
    out.effects.append(Stop(active.job, active.place.attempt, 0.0 if force else None, saves=saves))
    world.alarms.set(stopping.kill_at, active.job)
    return True


def every(world: World, out: Outcome, job: JobId, act: "Act") -> str | None:
    """Do something to a job; of an array to what is pending of it and to each of its elements that is not over.

    Return why nothing was done, if so.
    """
    array = world.arrays.get(job)
    if array is None:
        return act(world, out, job)
    notes = [act(world, out, each) for each in (job, *array.elements)]
    return None if None in notes else next((note for note in notes if note != OVER), OVER)


Act = Callable[[World, Outcome, JobId], str | None]


def cancel(
    world: World,
    out: Outcome,
    job: JobId,
    *,
    force: bool = False,
    reason: str | None = None,
    by: str | None = None,
    waiting: bool = False,
) -> str | None:
    """End a job, or what is pending of an array; return why nothing was done, if so. `by` is who asked, by name."""
    active = world.active.get(job)
    if active is not None and waiting:
        return "has started; to stop it: gpuctl cancel"
    if active is not None:
        stopped = stop(world, out, active, StopCause.CANCELLED, force=force, by=by)
        return None if stopped else "is being cancelled already"
    if alone(world, out, job) is None:
        return OVER
    world.unwait(job)
    array = world.arrays.get(job)
    if array is None:
        finish(world, out, job, End.CANCELLED, None, reason, by=by)
        return None
    arrays.drop(world, out, job, array.state.pending, reason, by=by)
    return None


def hold(world: World, out: Outcome, job: JobId, *, reason: str | None = None) -> str | None:
    """Park a waiting job, or what is pending of an array; return why nothing was done, if so."""
    if job in world.active:
        return "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    place = alone(world, out, job)
    if place is None:
        return OVER
    if place.park is Park.HELD:
        return "is held already"
    wait(world, out, job, replace(place, park=Park.HELD), "held", reason)
    return None


def release(world: World, out: Outcome, job: JobId) -> str | None:
    """Let a held job, or array, wait for its turn again; return why nothing was done, if so.

    One that is held because what it comes after can never be is bound no more.
    """
    waiting = world.waiting(job)
    if waiting is None or waiting.place.park not in {Park.HELD, Park.NEVER}:
        return "is not held" if waiting is not None or job in world.active else OVER
    place = alone(world, out, job) or waiting.place
    if place.park is Park.NEVER:
        place = replace(place, awaits=False)  # it is to start all the same
    wait(world, out, job, unheld(world, job, place, out.now), "released")
    return None


def unheld(world: World, job: JobId, place: Place, now: Timestamp) -> Place:
    """Return where a job stands that nobody holds: parked for others, for a time, or in its line."""
    park = world.after.park(array_of(job)) if place.awaits else None
    if park is not None:
        return replace(place, park=park)
    later = place.not_before is not None and place.not_before > now
    kind = (Park.BEGIN if place.attempt == 1 else Park.RETRY) if later else None
    return replace(place, park=kind, not_before=place.not_before if later else None, awaits=False)


def prioritise(world: World, out: Outcome, job: JobId, *, priority: int) -> str | None:
    """Change a job's priority; of a running one it counts when it queues again. Return why nothing was done, if so."""
    active = world.active.get(job)
    if active is not None:
        world.change(replace(active, place=replace(active.place, priority=priority)))
        out.changes.append(Reprioritised(job, out.now, priority))
        return None
    place = alone(world, out, job)
    if place is None:
        return OVER
    wait(world, out, job, replace(place, priority=priority), "priority")
    world.early = True
    return None


def interrupt(world: World, out: Outcome, job: JobId, *, by: str) -> str | None:
    """Pass a Ctrl-C on to a job that runs, and cancel one that waits; return why nothing was done, if so."""
    active = world.active.get(job)
    if active is None:
        return cancel(world, out, job, by=by)
    out.effects.append(Interrupt(job, active.place.attempt))
    return None


def send_signal(world: World, out: Outcome, job: JobId, *, number: int, by: str) -> str | None:
    """Send a signal to a job that runs; return why nothing was done, if so."""
    active = world.active.get(job)
    if active is None:
        return "does not run yet" if world.waiting(job) is not None else OVER
    if isinstance(active.state, Starting):
        return "is just starting; send it again when it runs"
    out.changes.append(Told(out.now, "signalled", {"signal": number, "by": by}, job))
    out.effects.append(SendSignal(job, active.place.attempt, number))
    return None


def come_due(world: World, out: Outcome, job: JobId) -> None:
    """A moment came that a job set an alarm for: time to begin, to retry, or to look why it neither starts nor ends."""
    parked = world.parked.get(job)
    if parked is not None:
        wait(world, out, job, replace(parked.place, park=None, not_before=None), "queued")
        return
    active = world.active[job]
    out.effects.append(look_at(job, active.place.attempt, active.state))
    world.alarms.set(Timestamp(out.now + LOOK_AGAIN_S), job)


def current(world: World, job: JobId, attempt: int) -> ActiveJob | None:
    """Return the active job if this is its attempt: what is said of an earlier one is late, and means nothing."""
    active = world.active.get(job)
    return active if active is not None and active.place.attempt == attempt else None


def alone(world: World, out: Outcome, job: JobId) -> Place | None:
    """Return a waiting job's place, unfolding it first if it is a pending element; None if it does not wait."""
    array = world.arrays.get(array_of(job))
    index = index_of(job)
    if array is not None and index is not None and index in array.state.pending:
        arrays.unfold(world, out, array, job)
        world.wait(job, array.terms, array.place)
    waiting = world.waiting(job)
    return None if waiting is None else waiting.place


def wait(
    world: World,
    out: Outcome,
    job: JobId,
    place: Place,
    word: str,
    reason: str | None = None,
    *,
    terms: Terms | None = None,
) -> None:
    """Put a job that waits, or is to wait again (with its terms), at another place."""
    array = world.arrays.get(job)
    if terms is None:
        waiting = world.waiting(job)
        of = waiting or array
        assert of is not None, format_job(job)  # noqa: S101 - callers looked
        terms = of.terms
    if array is not None:
        array.place = place
    out.changes.append(Queued(job, out.now, place, word, reason))
    if array is None or array.state.pending:
        world.wait(job, terms, place)


def _move(world: World, out: Outcome, active: ActiveJob, state: Running | Stopping, by: str | None = None) -> None:
    world.change(ActiveJob(active.job, active.terms, active.place, state, active.milli))
    out.changes.append(Moved(active.job, out.now, active.place.attempt, state, by or None))
