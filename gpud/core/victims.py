"""Who would have to give way on one node, so that there is room for a job, and what that would cost.

Of those who may, who stands worst with the policy; of equals those that together lose the fewest GPU-seconds.

Cost: of one node with few jobs a look at each set of them at most (`FITS`, `TRIED`); with many a look at each job.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf
from operator import attrgetter
from typing import NamedTuple

from gpud.core import jobs, quota
from gpud.core.active import ActiveJob
from gpud.core.backfill import left_of
from gpud.core.placement import fit
from gpud.core.queue import owner_of
from gpud.core.room import Hold, Room
from gpud.core.world import Parked, World
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import JobId, Stopping
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp

TRIED = 1024  # sets of victims on one node, and of those with as many GPUs as are missing
FITS = 64
_loss = attrgetter("lost_s", "job")

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


def outranks(world: World, place: Place, terms: Terms, below: Place, theirs: Terms) -> bool:
    """Return whether a job comes before another one for its priority, clearly so."""
    return (
        world.policy.reserves  # else two orders, its own and this, could preempt in turns
        and (not world.policy.personal or owner_of(terms) == owner_of(theirs))
        and place.priority >= below.priority + world.rules.preempt_margin
    )


def by_priority(world: World, active: ActiveJob, job: JobId, waiting: Parked) -> bool:
    """Return whether a running job gives way to one that waits, for its priority.

    Not to one that waited already, behind it, when it started: nobody starts to be stopped, time and again.
    """
    above, below = waiting, active.place
    if active.job not in world.preemptible or not outranks(world, above.place, above.terms, below, active.terms):
        return False
    if above.place.queued_us > 1_000_000 * active.since:
        return True
    return _stands(world, job, above.terms, above.place) < _stands(world, active.job, active.terms, below)


def _stands(world: World, job: JobId, terms: Terms, place: Place) -> tuple[int, int]:
    return world.policy.rank(terms, world.bursts.of(job, terms)), world.policy.order(place)


def takes_over(world: World, job: JobId, holder: JobId) -> bool:
    """Return whether a job that waits has what those leave who were stopped for another, which stands behind it."""
    above, below = world.waiting(job), world.waiting(holder)
    if above is None or below is None:
        return False
    tenant = world.tenants.get(below.terms.tenant)
    due = tenant is not None and tenant.guaranteed_gpus and tenant.name != above.terms.tenant
    if due or not outranks(world, above.place, above.terms, below.place, below.terms):
        return False
    return _stands(world, job, above.terms, above.place) < _stands(world, holder, below.terms, below.place)


def protected(world: World, terms: Terms, victim: ActiveJob, beside: Iterable[ActiveJob] = ()) -> bool:
    """Return whether a job runs on what is guaranteed to its tenant, and another's that is not would take it."""
    if not world.tenants or victim.terms.tenant == terms.tenant:
        return False
    return quota.keeps(world, victim, beside) and not quota.guaranteed(world, terms)


def cheapest(
    world: World,
    terms: Terms,
    room: Room,
    beneath: list[Victim],
    hold: Hold | None,
    taken: Iterable[Allocation] = (),
    below: Cost = (inf, inf),
) -> Option | None:
    """Return what making room on one node would cost; nothing, where there is room already, or will be.

    `taken` is what others have of it for whom somebody has been stopped, and `hold` what other claims leave.
    Victims are taken as they stand until there is room: nobody better is needed. Of all sets of those who stand no
    better the one is taken that loses the least; where these are too many, or lose no less than `below`, those of the
    first who are not needed are let off, who stands best first.
    """
    room = _without_leaving(world, room, taken)
    if (enough := fit(terms.demand, room, hold)) is not None:
        return Option((-inf, 0.0), [], enough)
    future = room.copy()
    chosen: list[Victim] = []
    part = None
    for victim in beneath:
        if not gives_way(world, terms, victim, chosen):
            continue
        chosen.append(victim)
        give_back(future, victim.active)
        part = fit(terms.demand, future, hold)
        if part is not None:
            break
    if part is None:
        return None
    if len(chosen) > 1:
        worst = chosen[-1].stands
        alike = [each for each in beneath if each.stands <= worst]
        least = _least(world, terms, room, alike, hold, inf if worst < below[0] else below[1])
        chosen, part = least or _fewest(terms, room, chosen, part, hold)
    return Option(lost_by(chosen), chosen, part)


def _least(
    world: World, terms: Terms, room: Room, among: list[Victim], hold: Hold | None, below_s: Seconds
) -> tuple[list[Victim], Allocation] | None:
    """Return whom of these it costs least to stop, and what a job gets then; None where no few sets tell, or lose less.

    A set without as many GPUs as are missing is passed over at once.
    """
    gives = {job: len(part.shares) for job, part in room.node.held.items()}
    missing = 0 if terms.demand.shared else terms.demand.gpus // terms.demand.nodes - len(room.free)
    if _bound_s(among, gives, missing) >= below_s:
        return None
    fits = 0
    for lost_s, victims in _by_loss(sorted(among, key=_loss)):
        if lost_s >= below_s or fits >= FITS:
            break
        if sum([gives[victim.job] for victim in victims]) < missing:
            continue
        fits += 1
        if all(gives_way(world, terms, each, [other for other in victims if other is not each]) for each in victims):
            part = _without(terms, room, victims, hold)
            if part is not None:
                return victims, part
    return None


def _bound_s(among: list[Victim], gives: dict[JobId, int], missing: int) -> Seconds:
    """Return what stopping these loses at least for so many GPUs: as if a part of a job could be stopped."""
    least_s = 0.0
    for each_s, gpus in sorted((each.lost_s / gpus, gpus) for each in among if (gpus := gives[each.job])):
        if missing <= 0:
            break
        least_s += each_s * min(gpus, missing)
        missing -= gpus
    return least_s


def _by_loss(victims: list[Victim]) -> Iterator[tuple[Seconds, list[Victim]]]:
    """Yield what sets of victims lose, and the sets, in that order; `TRIED` at most. Who loses least comes first."""
    heap: list[tuple[Seconds, int, tuple[int, ...]]] = [(victims[0].lost_s, 1, (0,))]
    for _ in range(TRIED):
        if not heap:
            return
        lost_s, count, chosen = heappop(heap)
        yield lost_s, [victims[at] for at in chosen]
        last = chosen[-1]
        if last + 1 < len(victims):
            more_s = victims[last + 1].lost_s
            heappush(heap, (lost_s + more_s, count + 1, (*chosen, last + 1)))
            heappush(heap, (lost_s - victims[last].lost_s + more_s, count, (*chosen[:-1], last + 1)))


def _fewest(
    terms: Terms, room: Room, chosen: list[Victim], part: Allocation, hold: Hold | None
) -> tuple[list[Victim], Allocation]:
    """Return who of these is needed: others are let off, who stands best first."""
    for victim in reversed(chosen.copy()):
        rest = [each for each in chosen if each is not victim]
        less = _without(terms, room, rest, hold) if rest else None
        if less is not None:
            chosen, part = rest, less
    return chosen, part


def gives_way(world: World, terms: Terms, victim: Victim, beside: list[Victim]) -> bool:
    """Return whether a victim gives way beside others: its tenant is left with no less than its own guarantee."""
    actives = [each.active for each in beside]
    if victim.borrowed and not quota.may_reclaim(world, terms, victim.active, actives):
        return False
    return not protected(world, terms, victim.active, actives)


def _without(terms: Terms, room: Room, victims: list[Victim], hold: Hold | None) -> Allocation | None:
    """Return what a job would get on a node without these."""
    future = room.copy()
    for victim in victims:
        give_back(future, victim.active)
    return fit(terms.demand, future, hold)


def _without_leaving(world: World, room: Room, taken: Iterable[Allocation]) -> Room:
    """Return a node's room without those who are being stopped, who go as it is, and without what is theirs then."""
    future = room.copy()
    for job in room.node.held:
        active = world.active[job]
        if isinstance(active.state, Stopping):
            give_back(future, active)
    for part in taken:
        if left_of(future, part) is not None:
            future.take(part)
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


def by_node(victims: Iterable[Victim]) -> dict[NodeName, list[Victim]]:
    """Return who is on which node, in the order in which they come."""
    found: dict[NodeName, list[Victim]] = {}
    for victim in victims:
        for part in victim.active.state.allocation.parts:
            found.setdefault(part.node, []).append(victim)
    return found


def victims_of(options: Iterable[Option]) -> list[Victim]:
    """Return those who give way on several nodes, each once."""
    return list({victim.job: victim for option in options for victim in option.victims}.values())


def lingers_s(victims: Iterable[Victim]) -> Seconds:
    """Return how long the last of them may still be there once they are stopped."""
    return max([victim.active.terms.grace_s for victim in victims], default=0.0) + jobs.KILL_SLACK_S


def joined(parts: list[Allocation]) -> Allocation:
    """Return one allocation of several nodes' parts."""
    first, *rest = sorted(parts, key=lambda part: part.node)
    return replace(first, rest=tuple(rest)) if rest else first


def lost_by(victims: list[Victim]) -> Cost:
    """Return what stopping these costs."""
    return max((each.stands for each in victims), default=-inf), sum(each.lost_s for each in victims)
