"""What happens to jobs: each function takes one command or observation into the world and tells the outcome.

An element of an array that has not started is a number in its array's row. Whatever concerns one element alone
(hold 12_7) first unfolds it: it gets a row of its own, and is a job like any other from then on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gpud.core import lifecycle
from gpud.core.outcome import Outcome
from gpud.core.world import ActiveJob, Array, World
from gpud.model.changes import AttemptEnded, Ended, Moved, Queued, Reprioritised, Unfolded
from gpud.model.effects import Forget, Interrupt, Launch, Look, Stop
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
from gpud.model.observations import Exited, Started
from gpud.model.spec import LoadedJob, Park, Place, Terms
from gpud.model.units import Seconds, Timestamp

LOOK_AGAIN_S: Seconds = 60.0
KILL_SLACK_S: Seconds = 40.0  # a shim gives up waiting for a process that cannot die after 30 s


def start(world: World, out: Outcome, job: JobId, terms: Terms, allocation: Allocation) -> None:
    """Give a job at the head of its line, or the first element of an array there, its allocation."""
    waiting = world.waiting(job)
    assert waiting is not None, format_job(job)  # noqa: S101 - a head of a line waits, or the queue is broken
    place = waiting.place
    array = world.arrays.get(array_of(job))
    if array is not None and index_of(job) is None:
        job = unfold(world, out, array, job_id(number_of(job), array.state.pending.first))
    world.unwait(job)
    state = Starting(out.now, allocation, world.boot)
    world.enter(ActiveJob(job, terms, place, state))
    out.changes.append(Moved(job, out.now, place.attempt, state))
    out.effects.append(Launch(job, place.attempt, allocation))
    throttle(world, job)


def unfold(world: World, out: Outcome, array: Array, element: JobId) -> JobId:
    """Give a pending element a row of its own; it waits nowhere yet."""
    pending = array.state.pending
    index = index_of(element)
    assert index is not None, format_job(element)  # noqa: S101 - only elements unfold
    rest = pending.without_first() if index == pending.first else pending.without(index)
    array.state = replace(array.state, pending=rest, live=array.state.live + 1)
    if not rest:
        world.unwait(array_of(element))
    out.changes.append(Unfolded(element, out.now, array.place))
    out.touch(array_of(element))
    return element


def throttle(world: World, job: JobId) -> None:
    """See to an array's limit after one of its elements started or ended."""
    array = world.arrays.get(array_of(job))
    if array is not None and array.state.throttle is not None:
        world.throttle(array_of(job))


def started(world: World, out: Outcome, seen: Started) -> None:
    """A process won the claim."""
    active = _current(world, seen.job, seen.attempt)
    if active is None:
        return
    match active.state:
        case Starting(_, allocation, boot):
            state = Running(seen.at, allocation, boot, seen.process, seen.shim)
        case Stopping(started=None) as stopping:
            stopped = replace(stopping, started=seen.at, process=seen.process, shim=seen.shim)
            _move(world, out, active, stopped)
            # The stop may have come before there was anything to stop.
            out.effects.append(Stop(seen.job, seen.attempt, None))
            return
        case _:
            return
    _move(world, out, active, state)


def exited(world: World, out: Outcome, seen: Exited) -> None:
    """An attempt is over and nothing of it is left."""
    out.effects.append(Forget(seen.job, seen.attempt))
    active = _current(world, seen.job, seen.attempt)
    if active is None:
        return
    world.leave(seen.job)
    since, cause = _since_and_cause(active)
    for gpu in active.state.allocation.gpus:
        state = world.gpus[gpu]
        if not state.gpu.simulated:
            state.released_at = out.now
            state.asked_at = out.now
            out.look(state.node, gpu)
    held_s = 0.0 if since is None else max(0.0, seen.exit.at - since)
    gpu_s = held_s * len(active.state.allocation.shares)
    terms = active.terms
    out.changes.append(AttemptEnded(seen.job, seen.attempt, seen.exit, cause, terms.uid, terms.tenant, gpu_s))
    verdict = lifecycle.after(seen.exit, cause, active.place, terms.retries, out.now)
    if isinstance(verdict, lifecycle.Over):
        finish(world, out, seen.job, verdict.end, seen.exit, verdict.reason)
    else:
        out.changes.append(Queued(seen.job, out.now, verdict.place, verdict.word, verdict.reason))
        world.wait(seen.job, terms, verdict.place)
        throttle(world, seen.job)


def finish(world: World, out: Outcome, job: JobId, end: End, exit_: Exit | None, reason: str | None = None) -> None:
    """A job that waits nowhere and holds nothing is over for good."""
    out.changes.append(Ended(job, out.now, end, exit_, reason))
    if index_of(job) is not None:
        array = world.arrays[array_of(job)]
        array.state = replace(array.state, live=array.state.live - 1, counts=array.state.counted(end))
        out.touch(array_of(job))
        throttle(world, job)


def stop(world: World, out: Outcome, active: ActiveJob, cause: StopCause, *, force: bool = False) -> bool:
    """Have an active job end; False if it is being stopped for that reason already."""
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
            # Whoever preempts or requeues yields to the user who cancels.
            stopping = replace(state, cause=cause, kill_at=min(state.kill_at, kill_at))
    _move(world, out, active, stopping)
    out.effects.append(Stop(active.job, active.place.attempt, 0.0 if force else None))
    world.alarm(stopping.kill_at, active.job)
    return True


def cancel(world: World, out: Outcome, job: JobId, *, force: bool) -> str | None:
    """End a job, or all of an array; return why nothing was done, if so."""
    if job in world.arrays:
        array = world.arrays[job]
        pending = array.state.pending
        if pending:
            counts = array.state.counted(End.CANCELLED, len(pending))
            array.state = replace(array.state, pending=type(pending)(), dropped=pending, counts=counts)
            world.unwait(job)
            out.touch(job)
        for element in list(elements(world, job)):
            cancel(world, out, element, force=force)
        return None
    active = world.active.get(job)
    if active is not None:
        return None if stop(world, out, active, StopCause.CANCELLED, force=force) else "is being cancelled already"
    if _alone(world, out, job) is None:
        return "has ended already"
    world.unwait(job)
    finish(world, out, job, End.CANCELLED, None)
    return None


def hold(world: World, out: Outcome, job: JobId) -> str | None:
    """Park a waiting job; return why nothing was done, if so."""
    if job in world.active:
        return "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    place = _alone(world, out, job)
    if place is None:
        return _nothing_waits(world, job)
    if place.park is Park.HELD:
        return "is held already"
    _wait(world, out, job, replace(place, park=Park.HELD), "held")
    return None


def release(world: World, out: Outcome, job: JobId) -> str | None:
    """Let a held job wait for its turn again; return why nothing was done, if so."""
    waiting = world.waiting(job)
    place = None if waiting is None else waiting.place
    if place is None or place.park is not Park.HELD:
        return "is not held" if place is not None or job in world.active else _nothing_waits(world, job)
    later = place.not_before is not None and place.not_before > out.now
    kind = (Park.BEGIN if place.attempt == 1 else Park.RETRY) if later else None
    _wait(world, out, job, replace(place, park=kind, not_before=place.not_before if later else None), "released")
    return None


def prioritise(world: World, out: Outcome, job: JobId, priority: int) -> str | None:
    """Change a job's priority; of a running one it counts when it queues again."""
    active = world.active.get(job)
    if active is not None:
        world.enter(replace(active, place=replace(active.place, priority=priority)))
        out.changes.append(Reprioritised(job, out.now, priority))
        return None
    place = _alone(world, out, job)
    if place is None:
        return _nothing_waits(world, job)
    _wait(world, out, job, replace(place, priority=priority), "priority")
    return None


def requeue(world: World, out: Outcome, job: JobId) -> str | None:
    """Stop a running job, or an array's running elements, and queue it again, in its old place."""
    if job in world.arrays:
        notes = [requeue(world, out, element) for element in list(elements(world, job)) if element in world.active]
        return None if None in notes else "has nothing that runs"
    active = world.active.get(job)
    if active is None:
        return "is queued already" if world.waiting(job) is not None else "has ended already"
    if isinstance(active.state, Stopping) and active.state.cause is StopCause.CANCELLED:
        return "is being cancelled"
    return None if stop(world, out, active, StopCause.REQUEUED) else "is being requeued already"


def requeue_finished(world: World, out: Outcome, loaded: LoadedJob) -> None:
    """Queue a job again that was over: a new place, a new attempt, its retries whole."""
    job, state = loaded.job, loaded.array
    place = Place(priority=loaded.place.priority, queued_us=world.moment_us(out.now), attempt=loaded.place.attempt + 1)
    key = array_of(job)
    if state is not None:
        array = world.arrays.setdefault(key, Array(loaded.terms, replace(place, attempt=1), state))
        if index_of(job) is None:
            counts = array.state.counted(End.CANCELLED, -len(array.state.dropped))
            again = array.state.dropped
            array.state = replace(array.state, pending=again, dropped=type(again)(), counts=counts)
            place = array.place
        elif loaded.end is not None:
            counts = array.state.counted(loaded.end, -1)
            array.state = replace(array.state, live=array.state.live + 1, counts=counts)
        out.touch(key)
    _wait(world, out, job, place, "requeued", loaded.terms)


def interrupt(world: World, out: Outcome, job: JobId) -> str | None:
    """Pass a Ctrl-C on, to a job or to all of an array that runs."""
    running = [each for each in (elements(world, job) if job in world.arrays else [job]) if each in world.active]
    out.effects += [Interrupt(each, world.active[each].place.attempt) for each in running]
    return None if running else "is not running"


def come_due(world: World, out: Outcome, job: JobId) -> None:
    """A moment came that a job had set an alarm for: time to begin, to retry, or to look why it does not end."""
    parked = world.parked.get(job)
    if parked is not None and parked.place.park is not Park.HELD:
        at = parked.place.not_before
        if at is not None and at <= out.now:
            _wait(world, out, job, replace(parked.place, park=None, not_before=None), "queued")
        return
    active = world.active.get(job)
    if active is not None and isinstance(active.state, Stopping) and active.state.kill_at <= out.now:
        out.effects.append(Look(job, active.place.attempt, active.state.boot))
        world.alarm(Timestamp(out.now + LOOK_AGAIN_S), job)


def elements(world: World, array: JobId) -> Iterator[JobId]:
    """Yield an array's elements that have rows of their own and are not over."""
    pools: tuple[Iterable[JobId], ...] = (world.active, world.parked, world.arrays[array].waiting)
    for pool in pools:
        yield from (job for job in pool if array_of(job) == array and job != array)


def _current(world: World, job: JobId, attempt: int) -> ActiveJob | None:
    """Return the active job if this is its attempt: what is said of an earlier one is late, and means nothing."""
    active = world.active.get(job)
    return active if active is not None and active.place.attempt == attempt else None


def _alone(world: World, out: Outcome, job: JobId) -> Place | None:
    """Return a waiting job's place, unfolding it first if it is a pending element; None if it does not wait."""
    array = world.arrays.get(array_of(job))
    index = index_of(job)
    if array is not None and index is not None and index in array.state.pending:
        unfold(world, out, array, job)
        world.wait(job, array.terms, array.place)
    waiting = world.waiting(job)
    return None if waiting is None else waiting.place


def _nothing_waits(world: World, job: JobId) -> str:
    return "has started all its elements" if job in world.arrays else "has ended already"


def _wait(world: World, out: Outcome, job: JobId, place: Place, word: str, terms: Terms | None = None) -> None:
    if terms is None:
        waiting = world.waiting(job)
        assert waiting is not None, format_job(job)  # noqa: S101 - callers looked
        terms = waiting.terms
    if job in world.arrays:
        world.arrays[job].place = place
    out.changes.append(Queued(job, out.now, place, word))
    world.wait(job, terms, place)


def _move(world: World, out: Outcome, active: ActiveJob, state: Running | Stopping) -> None:
    world.enter(replace(active, state=state))
    out.changes.append(Moved(active.job, out.now, active.place.attempt, state))


def _since_and_cause(active: ActiveJob) -> tuple[Timestamp | None, StopCause | None]:
    match active.state:
        case Running(since=since):
            return since, None
        case Stopping(started=since, cause=cause):
            return since, cause
        case _:
            return None, None
