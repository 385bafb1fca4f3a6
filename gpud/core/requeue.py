"""Jobs that run again: active ones are stopped first, ended ones come from the store, as they are there now.

One that was to come after others waits again for those that have not ended. Where one of them has ended otherwise
than it must, it waits for nothing: who asks for it now wants it now.

What is over queues anew, and may do so where a submit of it may: an array as a whole. What runs has its place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from gpud.core import jobs, quota
from gpud.core.ends import follow
from gpud.core.outcome import Outcome
from gpud.core.world import Array, World
from gpud.model.array import IndexSet, index_set
from gpud.model.changes import Unfolded
from gpud.model.job import End, JobId, StopCause, Stopping, array_of, format_job, index_of
from gpud.model.spec import LoadedJob, Park, Place, Terms


def requeue(world: World, out: Outcome, job: JobId) -> str | None:
    """Run a job that is not over again, or all of such an array; return why nothing was done, if so."""
    array = world.arrays.get(job)
    if array is not None and not array.state.pending:  # of what is pending nothing more comes back
        crowded = _crowded(world, array.terms, len(array.state.dropped))
        if crowded is not None:
            return crowded
    return jobs.every(world, out, job, _requeue)


def _requeue(world: World, out: Outcome, job: JobId) -> str | None:
    """Stop a running job and queue it again, in its old place; return why nothing was done, if so.

    What was cancelled of an array before it started is pending again.
    """
    active = world.active.get(job)
    if active is not None:
        if isinstance(active.state, Stopping) and active.state.cause is StopCause.CANCELLED:
            return "is being cancelled"
        return None if jobs.stop(world, out, active, StopCause.REQUEUED) else "is being requeued already"
    if world.waiting(job) is not None:
        return "is queued already"
    array = world.arrays.get(array_of(job))
    if array is None:
        return jobs.OVER
    index = index_of(job)
    if index is not None and index in array.state.dropped:
        crowded = _crowded(world, array.terms, 1)
        if crowded is not None:
            return crowded
    place = Place(
        priority=array.place.priority,
        queued_us=world.moment_us(out.now),
        not_before=array.place.not_before,
        awaits=array.place.awaits,
    )
    return _take_up(world, out, array, job, jobs.unheld(world, job, place, out.now))


def requeue_finished(world: World, out: Outcome, finished: Sequence[LoadedJob]) -> Iterator[tuple[JobId, str | None]]:
    """Queue jobs again that were over, first who others come after; yield what is to be said of one, None where it is.

    Of several of one key the newest runs again. Of an array that had begun it is said what does not run again.
    """
    again: list[JobId] = []
    by_number = sorted(finished, key=lambda loaded: loaded.job)
    rivals = _rivals(world, by_number)
    for loaded in _in_order(by_number):
        if loaded.job in rivals:
            rival = format_job(rivals[loaded.job])
            yield loaded.job, f"is not run again: job {rival} has its key in group {loaded.group}"
            continue
        note = _requeue_finished(world, out, loaded)
        if note is None:
            world.groups.join(array_of(loaded.job), loaded.terms.uid, loaded.group, loaded.key)
            again.append(loaded.job)
        yield loaded.job, note
    for array in again:
        if array in world.arrays and world.arrays[array].state.counts:
            yield array, "runs again without the elements that had started; name those that are to run again, too"


def meant(world: World, finished: Sequence[LoadedJob], *, cancelled: bool, named: bool) -> tuple[LoadedJob, ...]:
    """Return whom one means who names the state in which they ended: of a key the newest, of an array its elements.

    `cancelled`: also what was cancelled of an array before it started, of which only the array itself tells. `named`:
    each was named; of a key that another has it is said then.
    """
    rivals = {} if named else _rivals(world, sorted(finished, key=lambda loaded: loaded.job))
    begun = {array_of(loaded.job) for loaded in finished if index_of(loaded.job) is not None}
    return tuple(
        loaded
        for loaded in finished
        if loaded.job not in rivals
        and (loaded.job not in begun or (cancelled and loaded.array is not None and bool(loaded.array.dropped)))
    )


def _rivals(world: World, by_number: Sequence[LoadedJob]) -> dict[JobId, JobId]:
    """Return of each job, or element, whose key another has (which waits, runs, has completed or is newer) that one."""
    newest = {(loaded.terms.uid, loaded.group, loaded.key): array_of(loaded.job) for loaded in by_number}
    found = {}
    for loaded in by_number:
        rival = _rival(world, loaded)
        if rival is None and loaded.key is not None:
            rival = newest[(loaded.terms.uid, loaded.group, loaded.key)]
        if rival is not None and rival != array_of(loaded.job):
            found[loaded.job] = rival
    return found


def _in_order(by_number: list[LoadedJob]) -> list[LoadedJob]:
    """Return jobs in the order of their submission, but for those that were told later whom they come after."""
    after = {array_of(each.job): {array_of(other.job) for other in each.after} for each in by_number}
    if all(job > other for job, others in after.items() for other in others):
        return by_number
    try:
        order = {job: at for at, job in enumerate(TopologicalSorter(after).static_order())}
    except CycleError:  # each of them was told when the other had ended
        return by_number
    return sorted(by_number, key=lambda loaded: order[array_of(loaded.job)])


def _rival(world: World, loaded: LoadedJob) -> JobId | None:
    """Return another job that has a job's key: one that waits, runs, or has completed."""
    if loaded.group is None or loaded.key is None:
        return None
    key = (loaded.terms.uid, loaded.group, loaded.key)
    taken, ended = world.groups.taken(key), world.groups.ended(key)
    if taken is not None:
        return taken
    if ended is not None:
        return ended[0] if ended[1] is End.COMPLETED else None
    return loaded.rival


def _requeue_finished(world: World, out: Outcome, loaded: LoadedJob) -> str | None:
    """Queue a job again that was over: a new place, a new attempt, its retries whole; not before its begin time."""
    job, key = loaded.job, array_of(loaded.job)
    if job in world.active or world.waiting(job) is not None:
        return "is queued already"
    loaded = world.recent.as_it_is(loaded)
    array = world.arrays.get(key)
    crowded = _crowded(world, loaded.terms, _more(loaded, array))
    if crowded is not None:
        return crowded
    before = loaded.place
    place = Place(priority=before.priority, queued_us=world.moment_us(out.now), not_before=before.not_before)
    if array is not None:
        place = replace(place, awaits=array.place.awaits)
    elif loaded.array is not None or index_of(job) is None:
        place = replace(place, awaits=_comes_after(world, loaded))
    place = replace(jobs.unheld(world, job, place, out.now), attempt=before.attempt + 1)
    if array is None and loaded.array is None and index_of(job) is None:
        world.after.turn(job, None)
        jobs.wait(world, out, job, place, "requeued", terms=loaded.terms)
        return None
    if array is None:
        if loaded.array is None:
            return "has an array that is not known here"
        array = Array(loaded.array_terms or loaded.terms, replace(place, attempt=1), loaded.array)
    note = _take_up(world, out, array, job, replace(place, attempt=1))
    if note is not None and index_of(job) is None:
        world.after.forget(job)
        return "has started all its elements; name those that are to run again, or how they ended: --state failed"
    if note is None or loaded.end is None:
        return note
    world.arrays[key] = array
    array.elements[job] = None
    counts = array.state.counted(loaded.end, -1)
    array.state = replace(array.state, live=array.state.live + 1, counts=counts)
    out.touch(key)
    _turn(world, job)
    jobs.wait(world, out, job, place, "requeued", terms=loaded.terms)
    return None


def _more(loaded: LoadedJob, array: Array | None) -> int:
    """Return how many jobs wait more once one waits again that was over: all that was cancelled of an array."""
    if index_of(loaded.job) is not None:
        return 1
    state = loaded.array if array is None else array.state
    return 1 if state is None else len(state.dropped)


def _crowded(world: World, terms: Terms, more: int) -> str | None:
    """Return why so many jobs of these terms may not wait again, if so."""
    refused = quota.full(world, terms, more, more) if more else None
    return None if refused is None else f"is not run again: {refused.message}"


def _comes_after(world: World, loaded: LoadedJob) -> bool:
    """Have an ended job, or its array, wait again for what it was to come after; return whether there is anything."""
    key = array_of(loaded.job)
    after = tuple(each for each in loaded.after if key not in world.after.behind([each]))
    if follow(world, key, after, dict(loaded.ends)) is Park.AFTER:
        return True
    world.after.forget(key)
    return False


def _turn(world: World, job: JobId) -> None:
    """Tell those who come after a job, or after its whole array, that it runs again."""
    world.after.turn(job, None)
    world.after.turn(array_of(job), None)


def _take_up(world: World, out: Outcome, array: Array, job: JobId, place: Place) -> str | None:
    """Queue again what was cancelled before it started: all of an array, or one element of it."""
    state, index = array.state, index_of(job)
    if not (state.dropped if index is None else index in state.dropped):
        return jobs.OVER
    key = array_of(job)
    world.arrays[key] = array
    if index is None:
        for element in world.after.elements(key, state.dropped):
            world.after.turn(element, None)
        counts = state.counted(End.CANCELLED, -len(state.dropped))
        array.state = replace(state, pending=state.dropped, dropped=IndexSet(), counts=counts)
        world.books.pend(key, array.terms, len(array.state.pending))
    else:
        array.state = replace(
            state,
            dropped=state.dropped - index_set([index]),
            live=state.live + 1,
            counts=state.counted(End.CANCELLED, -1),
        )
        array.elements[job] = None
        out.changes.append(Unfolded(job, out.now, place))
    out.touch(key)
    _turn(world, job)
    jobs.wait(world, out, job, place, "requeued", terms=array.terms)
    return None
