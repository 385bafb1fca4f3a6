"""What becomes of a group whose jobs fail one after the other: those that wait are held, with the reason."""

from functools import partial

from gpud.core import jobs
from gpud.core.groups import Group
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import Told
from gpud.model.job import JobId
from gpud.model.spec import Park


def hold_failing(world: World, out: Outcome) -> None:
    """Hold the groups of which too many failed in this cycle."""
    due, world.groups.due = world.groups.due, {}
    for group in due:
        reason = world.groups.reason(group)
        hold = partial(jobs.hold, reason=reason)
        held = [job for job in world.groups.members(group) if jobs.every(world, out, job, hold) is None]
        if held:
            world.groups.held_for(group)
            out.changes.append(Told(out.now, "group_held", {"group": group[1], "reason": reason}))
        _let_go(world, group)


def let_go_released(world: World, released: tuple[JobId, ...]) -> None:
    """Hold groups no more of which no job is held any more."""
    for group in {group for job in released if (group := world.groups.of(job)) is not None}:
        _let_go(world, group)


def _let_go(world: World, group: Group) -> None:
    if world.groups.reason(group) is None:
        return
    for job in world.groups.members(group):
        array = world.arrays.get(job)
        for each in (job, *(array.elements if array is not None else ())):
            waiting = world.waiting(each)
            if waiting is not None and waiting.place.park is Park.HELD:
                return
    world.groups.let_go(group)
