"""Elements of an array that have not started: numbers in its row, until something is said of one of them.

What is asked of many at once (hold 12_0-9999) looks at the array once, and at their ranges, not at each.
"""

from collections.abc import Iterable
from dataclasses import replace

from gpud.core.outcome import Outcome
from gpud.core.queue import job_of
from gpud.core.world import Array, World
from gpud.model.array import IndexSet, index_set
from gpud.model.changes import Told, Unfolded
from gpud.model.job import End, JobId, array_of, format_job, index_of, job_id, number_of

FEW = 100  # elements that are worth rows of their own when they are cancelled before they start


def unfold(world: World, out: Outcome, array: Array, element: JobId) -> JobId:
    """Give a pending element a row of its own; it waits nowhere yet."""
    pending, index = array.state.pending, _index(element)
    rest = pending.without_first() if index == pending.first else pending - index_set([index])
    _unfolded(world, out, array, [element], rest)
    return element


def _index(element: JobId) -> int:
    index = index_of(element)
    assert index is not None, format_job(element)  # noqa: S101 - only elements unfold
    return index


def unfold_named(world: World, out: Outcome, named: Iterable[JobId]) -> None:
    """Give all of these that are pending elements rows of their own, at the cost of one look at each array."""
    for key, indices in _pending(world, named).items():
        array = world.arrays[key]
        elements = [job_id(number_of(key), index) for index in indices]
        _unfolded(world, out, array, elements, array.state.pending - indices)
        for element in elements:
            world.wait(element, array.terms, array.place)


def full(world: World, job: JobId, reserved: Iterable[JobId]) -> bool:
    """Return whether a job is of an array of which no more may run, once those run for whom something is reserved."""
    array = world.arrays.get(array_of(job))
    return array is not None and sum(array_of(each) == array_of(job) for each in reserved) >= array.room


def first(world: World, job: JobId, kept: Iterable[JobId]) -> JobId:
    """Return which element starts as an array is to.

    Of no more than those for whom something is kept may start, one of these; else who comes before all that have no
    rows yet, and was held or preempted. (Who failed comes after those that were never tried.)
    """
    array, queue = world.arrays[job], world.queue
    if not array.lined:
        return job
    theirs = [each for each in kept if each in array.elements and each in queue]
    if theirs and len(theirs) >= array.room:
        return theirs[0]
    line = queue.line(job)
    for each in [] if line is None else [job_of(entry) for entry in queue.following(line, 2)[1:]]:
        waiting = world.waiting(each) if each in array.elements and _index(each) < array.state.pending.first else None
        if waiting is not None and not waiting.place.failures:
            return each
    return job


def more(world: World, job: JobId) -> bool:
    """Return whether a job is an array with more than one element that may start now."""
    array = world.arrays.get(job)
    return array is not None and min(len(array.state.pending), array.room) > 1


def first_of(world: World, job: JobId) -> JobId:
    """Return the first element of an array that has no row of its own; of another job, itself."""
    array = world.arrays.get(job)
    return job if array is None else job_id(number_of(job), array.state.pending.first)


def drop_named(world: World, out: Outcome, named: Iterable[JobId], by: str) -> set[JobId]:
    """Cancel pending elements, where they are many, without a row for each; return which."""
    gone: set[JobId] = set()
    for key, indices in _pending(world, named).items():
        if len(indices) > FEW:
            gone.update(job_id(number_of(key), index) for index in indices)
            drop(world, out, key, indices, by=by)
            if not world.arrays[key].state.pending:
                world.unwait(key)
    return gone


def _pending(world: World, named: Iterable[JobId]) -> dict[JobId, IndexSet]:
    """Return which of these are pending elements, by their array."""
    found: dict[JobId, list[int]] = {}
    for job in named:
        index, key = index_of(job), array_of(job)
        if index is not None and key in world.arrays:
            found.setdefault(key, []).append(index)
    sets = {key: index_set(indices) & world.arrays[key].state.pending for key, indices in found.items()}
    return {key: indices for key, indices in sets.items() if indices}


def _unfolded(world: World, out: Outcome, array: Array, elements: list[JobId], rest: IndexSet) -> None:
    array.state = replace(array.state, pending=rest, live=array.state.live + len(elements))
    key = array_of(elements[0])
    for element in elements:
        array.elements[element] = None
        out.changes.append(Unfolded(element, out.now, array.place))
    if not rest:
        world.unwait(key)
    out.touch(key)


def drop(
    world: World, out: Outcome, key: JobId, indices: IndexSet, reason: str | None = None, *, by: str | None = None
) -> None:
    """Cancel pending elements that have no rows; one event tells of them all. `by` is who asked, by name."""
    array = world.arrays[key]
    state = array.state
    counts = state.counted(End.CANCELLED, len(indices))
    array.state = replace(state, pending=state.pending - indices, dropped=state.dropped | indices, counts=counts)
    for element in world.after.elements(key, indices):
        world.after.turn(element, End.CANCELLED)
    detail: dict[str, object] = {"elements": str(indices)}
    if reason is not None:
        detail["reason"] = reason
    if by:
        detail["by"] = by
    out.changes.append(Told(out.now, "elements_cancelled", detail, key))
    out.touch(key, reason)
