"""Who would have to give way on one node, so that there is room for a job, and what that would cost.

Of those who may, as few as can be, and who stands worst with the policy; then those that lose the fewest GPU-seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from gpud.core import quota
from gpud.core.active import ActiveJob
from gpud.core.placement import fit
from gpud.core.room import Hold, Room
from gpud.core.world import World
from gpud.model.gpu import Allocation
from gpud.model.job import JobId, Stopping
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

Cost = tuple[float, Seconds]  # how well the best of the victims stands; GPU-seconds that they lose


class Victim(NamedTuple):
    """A running job that may have to give way; they sort as they are taken.

    `stands` is how it does with the policy, the lower the worse; `lost_s` are the GPU-seconds that are thrown away, a
    little for one without GPUs. `borrowed`: it gives way to this job only because its tenant borrowed.
    """

    stands: float
    lost_s: Seconds
    job: JobId
    active: ActiveJob
    since: Timestamp
    borrowed: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """What preempting on one node would cost, whom, and what it gives."""

    cost: Cost
    victims: list[Victim]
    part: Allocation


def protected(world: World, terms: Terms, victim: ActiveJob, beside: Iterable[ActiveJob] = ()) -> bool:
    """Return whether a job runs on what is guaranteed to its tenant, and another's that is not would take it."""
    if not world.tenants or victim.terms.tenant == terms.tenant:
        return False
    return quota.keeps(world, victim, beside) and not quota.guaranteed(world, terms)


def cheapest(world: World, terms: Terms, room: Room, beneath: list[Victim], hold: Hold | None) -> Option | None:
    """Return what making room on one node would cost; nothing, where there is room already, or will be.

    Victims are taken as they stand, then those that turn out not to be needed are let off, who stands best first.
    """
    future = _without_leaving(world, room)
    if (enough := fit(terms.demand, future, hold)) is not None:
        return Option((-inf, 0.0), [], enough)
    chosen: list[Victim] = []
    part = None
    for victim in beneath:
        beside = [each.active for each in chosen]
        if victim.borrowed and not quota.may_reclaim(world, terms, victim.active, beside):
            continue  # its tenant would be left with less than its own guarantee
        if protected(world, terms, victim.active, beside):
            continue
        chosen.append(victim)
        give_back(future, victim.active)
        part = fit(terms.demand, future, hold)
        if part is not None:
            break
    if part is None:
        return None
    for victim in list(reversed(chosen)) if len(chosen) > 1 else ():
        rest = [each for each in chosen if each is not victim]
        less = _without(world, terms, room, rest, hold) if rest else None
        if less is not None:
            chosen, part = rest, less
    return Option((max(each.stands for each in chosen), sum(each.lost_s for each in chosen)), chosen, part)


def _without(world: World, terms: Terms, room: Room, victims: list[Victim], hold: Hold | None) -> Allocation | None:
    """Return what a job would get on a node without these."""
    future = _without_leaving(world, room)
    for victim in victims:
        give_back(future, victim.active)
    return fit(terms.demand, future, hold)


def _without_leaving(world: World, room: Room) -> Room:
    """Return a node's room without those who are being stopped: they go as it is, nobody else has to."""
    future = room.copy()
    for job in room.node.held:
        active = world.active[job]
        if isinstance(active.state, Stopping):
            give_back(future, active)
    return future


def as_victim(stands: float, active: ActiveJob, now: Timestamp, *, borrowed: bool = False) -> Victim:
    """Return a running job as one that may have to give way now."""
    since = active.since
    lost_s = (now - since) * (active.milli / 1000 or 0.01) if since < now else 0.0
    return Victim(stands, lost_s, active.job, active, since, borrowed)


def give_back(room: Room, active: ActiveJob) -> None:
    """Count what a job has of a node as over."""
    for part in active.state.allocation.parts:
        if part.node == room.name:
            room.give_back(part)
