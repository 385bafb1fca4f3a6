"""What follows for those who come after a job that ended, or that is to run again: in the same cycle.

Who waits for nothing more stands in line. Who can never start any more is held and says why, or is cancelled where the
configuration says so; that is an end too, and others may come after it: a chain goes down in one cycle. If the other
job is queued again, who was held for it waits again.
"""

from collections.abc import Mapping

from gpud.core import jobs
from gpud.core.dependencies import unmet_words
from gpud.core.outcome import Outcome, aggregate
from gpud.core.world import World
from gpud.model.job import End, JobId, array_of, index_of
from gpud.model.spec import Dependency, Park


def settle(world: World, out: Outcome) -> None:
    """See to everybody who comes after what turned in this cycle."""
    over: set[JobId] = set()
    while True:
        for key in out.touched:
            array = world.arrays[key]
            if key not in over and not array.state.pending and not array.state.live:
                over.add(key)
                world.after.forget(key)
                world.after.turn(key, aggregate(array.state))
        if not world.after.unsettled:
            return
        unsettled, world.after.unsettled = world.after.unsettled, {}
        for job in unsettled:
            _settle(world, out, job)


def _settle(world: World, out: Outcome, job: JobId) -> None:
    array = world.arrays.get(job)
    unmet, park = world.after.unmet(job), world.after.park(job)
    reason = None if unmet is None else unmet_words(*unmet)
    awaiting = False
    for each in (job, *(array.elements if array is not None else ())):
        waiting = world.waiting(each)
        place = waiting.place if waiting is not None else array.place if array is not None and each == job else None
        if place is None or not place.awaits:
            continue
        if unmet is not None and world.rules.cancel_unmet:
            jobs.cancel(world, out, each, reason=reason)
        elif place.park is Park.HELD:
            awaiting = True
        else:
            awaiting |= park is not None
            if place.park is not park:
                word = "held" if park is Park.NEVER else "queued"
                jobs.wait(world, out, each, jobs.unheld(world, each, place, out.now), word, reason)
    if not awaiting:
        world.after.forget(job)


def follow(world: World, job: JobId, after: tuple[Dependency, ...], known: Mapping[JobId, End]) -> Park | None:
    """Have a job, or an array, wait for others; return how it is parked for that, None where there is nothing to await.

    `known` is how those ended that the edge found ended when it looked; what the loop has seen since is newer.
    """
    if not after:
        return None
    ends = {each.job: end for each in after if (end := _end_of(world, each.job, known)) is not None}
    world.after.follow(job, after, ends)
    park = world.after.park(job)
    if park is None:
        world.after.forget(job)
    return park


def overlooked(world: World, after: tuple[Dependency, ...], known: Mapping[JobId, End]) -> JobId | None:
    """Return a job of which nobody here knows how it ended, if there is one: it is to be looked up again."""
    missing = (each.job for each in after if not _is_live(world, each.job) and _end_of(world, each.job, known) is None)
    return next(missing, None)


def _end_of(world: World, job: JobId, known: Mapping[JobId, End]) -> End | None:
    if _is_live(world, job):
        return None
    array = world.arrays.get(array_of(job))
    index = index_of(job)
    if array is not None and index is not None and index in array.state.dropped:
        return End.CANCELLED
    return world.after.ended(job) or known.get(job)


def _is_live(world: World, job: JobId) -> bool:
    return job in world.active or job in world.arrays or world.waiting(job) is not None
