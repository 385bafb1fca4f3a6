"""Who gives way to whom.

A blocked job may preempt jobs that are clearly beneath it: by priority, where they are preemptible; by the policy's
own order; or because they run on what is guaranteed to its tenant. Of all sets of victims that make room on one node
(on as many as it needs, for a gang) the one is taken that loses the fewest GPU-seconds. Nobody is preempted before
they have run for `Rules.preempt_after_s`. What they held is reserved for whom they were preempted for; they get their
grace, and go back to their place in the queue.

A victim never outranks whom it gave way to, so who waits rises until nothing moves: there is no livelock.

Cost: O(active jobs) when a job begins to be blocked, and may preempt at all.
"""

from collections.abc import Mapping
from dataclasses import replace
from heapq import nsmallest

from gpud.core import jobs, quota
from gpud.core.active import ActiveJob
from gpud.core.outcome import Outcome
from gpud.core.placement import fit
from gpud.core.room import Room
from gpud.core.world import Reservation, World
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import JobId, Running, StopCause
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp


def preempt(world: World, out: Outcome, job: JobId, terms: Terms) -> Reservation | None:
    """Stop the jobs that must give way to this one and return what is reserved for it; None where none may."""
    waiting = world.waiting(job)
    if waiting is None:
        return None
    beneath: dict[NodeName, list[tuple[ActiveJob, bool]]] = {}
    for active, borrowed in _beneath(world, terms, waiting.place, out.now):
        for part in active.state.allocation.parts:
            beneath.setdefault(part.node, []).append((active, borrowed))
    count = terms.demand.nodes
    names = list(world.spaces.rooms) if count > 1 else [name for name in world.spaces.rooms if name in beneath]
    found = [
        (option, order)
        for order, name in enumerate(names)
        if beneath
        and (option := _fewest(world, terms, world.spaces.rooms[name], beneath.get(name, []), out.now)) is not None
    ]
    if len(found) < count:
        return None
    chosen = [option for option, _ in nsmallest(count, found, key=lambda each: (each[0][0], each[1]))]
    victims = list({victim.job: victim for _, here, _ in chosen for victim in here}.values())
    if count > 1 and not _may_all(world, terms, victims, beneath):
        return None
    first, *rest = sorted((part for _, _, part in chosen), key=lambda part: part.node)
    allocation = replace(first, rest=tuple(rest)) if rest else first
    for victim in victims:
        jobs.stop(world, out, victim, StopCause.PREEMPTED)
    # Not before they count as gone: a reservation whose GPUs may come later than its moment is none.
    at = max(Timestamp(out.now + victim.terms.grace_s + jobs.KILL_SLACK_S) for victim in victims)
    return Reservation(job=job, at=at, allocation=allocation, strict=True, taken=True)


def _beneath(world: World, terms: Terms, place: Place, now: Timestamp) -> list[tuple[ActiveJob, bool]]:
    """Return the running jobs that this one may preempt, each with whether only because its tenant borrowed."""
    rules = world.rules
    found = []
    for active in world.active.values():
        if not isinstance(active.state, Running) or now - active.since < rules.preempt_after_s:
            continue
        said = active.terms.preemptible
        yields = rules.preemptible if said is None else said
        beneath = (yields and place.priority >= active.place.priority + rules.preempt_margin) or (
            said is not False and world.policy.outranks(terms, place, active, now)
        )
        if beneath or quota.may_reclaim(world, terms, active):
            found.append((active, not beneath))
    return found


def _may_all(
    world: World, terms: Terms, victims: list[ActiveJob], beneath: Mapping[NodeName, list[tuple[ActiveJob, bool]]]
) -> bool:
    """Return whether a gang may preempt on all its nodes at once what it may preempt on each."""
    borrowers = {active.job for here in beneath.values() for active, borrowed in here if borrowed}
    return all(
        quota.may_reclaim(world, terms, victim, victims[:at])
        for at, victim in enumerate(victims)
        if victim.job in borrowers
    )


def lost_s(active: ActiveJob, now: Timestamp) -> Seconds:
    """Return the GPU-seconds that are thrown away when a job is preempted now; a little for one without GPUs."""
    return max(0.0, now - active.since) * (active.terms.demand.gpu_weight or 0.01)


def _fewest(
    world: World, terms: Terms, room: Room, beneath: list[tuple[ActiveJob, bool]], now: Timestamp
) -> tuple[Seconds, list[ActiveJob], Allocation] | None:
    """Return what is lost, by whom, and what is gained, on one node; None if all together make no room.

    Nobody is, and nothing, where there is room already: for a part of a gang.

    Victims are taken by what they lose, then those that turn out not to be needed are let off, the costliest first.
    """
    chosen: list[ActiveJob] = []
    enough = _without(terms, room, chosen) if terms.demand.nodes > 1 else None
    if enough is not None:
        return 0.0, chosen, enough
    for active, borrowed in sorted(beneath, key=lambda each: (lost_s(each[0], now), each[0].job)):
        if borrowed and not quota.may_reclaim(world, terms, active, chosen):
            continue  # its tenant would be left with less than its own guarantee
        chosen.append(active)
        if _without(terms, room, chosen) is not None:
            break
    else:
        return None
    for active in sorted(chosen, key=lambda each: (-lost_s(each, now), each.job)):
        rest = [each for each in chosen if each is not active]
        if rest and _without(terms, room, rest) is not None:
            chosen = rest
    allocation = _without(terms, room, chosen)
    assert allocation is not None  # noqa: S101 - it was tried
    return sum(lost_s(active, now) for active in chosen), chosen, allocation


def _without(terms: Terms, room: Room, victims: list[ActiveJob]) -> Allocation | None:
    """Return what a job would get on a node without these."""
    future = room.copy()
    for active in victims:
        for part in active.state.allocation.parts:
            if part.node == room.name:
                future.give_back(part)
    return fit(terms.demand, future)
