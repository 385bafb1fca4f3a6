"""What stands between a waiting job and its GPUs, and what may take a running one's away: looked up when asked.

The deciding itself needs none of it: a cycle knows that something does not fit, not all that would have to change.

Cost: O(GPUs + active jobs).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpud.core import quota
from gpud.core.active import ActiveJob
from gpud.core.backfill import STARTING_S, expected_end
from gpud.core.books import milli
from gpud.core.claims import Claim, Reservation
from gpud.core.condition import Condition, condition, is_closed, is_drained
from gpud.core.fleet import GpuState
from gpud.core.guard import passing_s
from gpud.core.placement import admits
from gpud.core.room import share_of
from gpud.core.victims import by_priority
from gpud.core.waits import OverQuota
from gpud.core.why import suitable
from gpud.core.windows import claims
from gpud.core.world import Parked, World
from gpud.model.gpu import Allocation, GpuId, NodeName, nominal_mib
from gpud.model.job import Demand, JobId, Running, StopCause, Stopping, array_of
from gpud.model.spec import Terms
from gpud.model.units import Mib, Timestamp

_TAKEN = (Condition.BUSY, Condition.SHARED)


@dataclass(frozen=True, slots=True)
class Blocker:
    """An active job that has what another needs, on these GPUs (none: `holds`); `ends_at` is when it should end.

    `yields_at`: when it will have run for long enough to give way to the other, where it may have to; `yields`: it has
    run for so long, and is to be stopped for the other at `yields_at`, when there will be room.
    """

    job: JobId
    gpus: tuple[GpuId, ...]
    ends_at: Timestamp
    yields_at: Timestamp | None = None
    yields: bool = False
    holds: str = "CPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A GPU that would suit, and the first of the reasons for which it is not given.

    Its `condition`, where that is one in which nobody gets it; a `claim`; a `reservation` of another; for one that is
    shared, too little `left_mib`; its node is `short` of CPUs or memory, or will be for the `reservation`. None of
    them: there are not enough of its kind on its node; where there are `enough`, only a quota is in the way.
    """

    state: GpuState
    condition: Condition
    claim: Claim | None = None
    reservation: Reservation | None = None
    left_mib: Mib | None = None
    short: str | None = None
    enough: bool = False


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What is in the way: who would have to end, the soonest first; what is denied; how many nodes have room now."""

    blockers: list[Blocker]
    denied: list[Denied]
    nodes_ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What may make a running job give way, from `at` on: a job of `priority`, the policy, a tenant's guarantee."""

    at: Timestamp
    priority: int | None
    policy: bool
    borrowed: bool


def obstacles(world: World, job: JobId, terms: Terms, now: Timestamp) -> Obstacles:
    """Return what keeps a job from starting, apart from quotas."""
    demand, rooms = terms.demand, world.spaces.rooms
    claimed, reserved = _claimed(world, terms, now), _reserved(world, job, terms, now)
    open_to = {name for name, node in world.nodes.items() if name in rooms and admits(demand, rooms[name])}
    holders: list[tuple[NodeName, JobId, GpuId]] = []
    denied: list[Denied] = []
    ready: dict[NodeName, int] = dict.fromkeys(open_to, 0)
    for state in suitable(world, demand) if demand.gpus else ():
        gpu = state.gpu.id
        now_is = condition(world, state, now)
        if now_is in _TAKEN:
            size = nominal_mib(state.gpu.memory_total_mib)
            share = share_of(demand, size) if now_is is Condition.SHARED else None
            left = None if share is None else Mib(size - state.declared_mib)
            if share is None or share > (left or 0):
                claim, drained = claimed.get(gpu), is_drained(world, state)
                free_it = () if drained else _releasing(world, state, claim, now)
                holders += [(state.node, holder, gpu) for holder in free_it]
                if left is not None or claim is not None or drained:
                    denied.append(Denied(state=state, condition=now_is, left_mib=left, claim=claim))
                continue
        elif now_is is not Condition.FREE:
            denied.append(Denied(state=state, condition=now_is))
            continue
        elif state.node not in open_to:
            continue
        claim, kept = claimed.get(gpu), reserved.get(gpu)
        if claim is None and kept is None and state.node in ready:
            ready[state.node] += 1
        short = rooms[state.node].lacks(demand) if state.node in rooms else None
        denied.append(Denied(state=state, condition=now_is, claim=claim, reservation=kept, short=short))
    enough = demand.gpus // demand.nodes
    held: dict[JobId, list[GpuId]] = {}
    for name, holder, gpu in holders:
        if ready.get(name, enough) < enough:  # elsewhere its end would give nothing that is missing
            held.setdefault(holder, []).append(gpu)
    with_gpus = {name for name, _, _ in holders} | {name for name, count in ready.items() if count or not demand.gpus}
    of_memory: set[JobId] = set()
    for name in open_to & with_gpus:
        for holder, part in world.nodes[name].held.items():
            cpus = part.cpus > 0 and 0 < demand.cpus_counted > rooms[name].cpus
            if cpus or (part.memory_mib > 0 and 0 < demand.memory_mib > rooms[name].memory_mib):
                held.setdefault(holder, list(part.gpus))
                of_memory |= set() if cpus else {holder}
    fitting = {name for name, count in ready.items() if count >= enough and rooms[name].lacks(demand) is None}
    fits = len(fitting) >= demand.nodes
    denied = [_beside(world, job, demand, each, fits) if each.state.node in fitting else each for each in denied]
    waiting = world.waiting(job)
    blockers = [
        replace(each, holds="memory") if each.job in of_memory else each for each in _in_order(world, held, now)
    ]
    if waiting is not None:
        kept = world.reservations.get(job)
        blockers = [_yielding(world, job, waiting, each, kept, now) for each in blockers]
    return Obstacles(blockers, denied, len(fitting))


def over_quota(world: World, wait: OverQuota, now: Timestamp) -> list[Blocker]:
    """Return the jobs that count towards a limit, the soonest to end first."""
    if wait.until is not None or wait.never:
        return []  # GPU-hours that were used do not come back; and nobody's end raises a limit
    kind, _, name = wait.whose.partition(" ")
    counted = {
        job: _gpus(active)
        for job, active in world.active.items()
        if not kind or name == (active.terms.user if kind == "user" else active.terms.tenant)
    }
    return _in_order(world, counted, now)


def of_array(world: World, job: JobId, now: Timestamp) -> list[Blocker]:
    """Return the elements of an array that run, the soonest to end first."""
    elements = world.arrays[array_of(job)].elements if array_of(job) in world.arrays else ()
    running = {each: _gpus(world.active[each]) for each in elements if each in world.active}
    return _in_order(world, running, now)


def gives_way_to(world: World, active: ActiveJob) -> JobId | None:
    """Return for whom a job is being preempted, where that is still so."""
    if not isinstance(active.state, Stopping) or active.state.cause is not StopCause.PREEMPTED:
        return None
    mine = _devices(active.state.allocation)
    taken = (each for each in world.reservations.values() if each.taken)
    return next((each.job for each in taken if mine & _devices(each.allocation)), None)


def exposure(world: World, active: ActiveJob, now: Timestamp) -> Exposure | None:
    """Return what a running job may have to give way to; None where nothing is."""
    rules, place, terms = world.rules, active.place, active.terms
    by_priority = world.policy.reserves and active.job in world.preemptible
    priority = place.priority + rules.preempt_margin if by_priority else None
    # Not `policy.preempts`: a policy counts who asked it; nor `holding`, which is as of when somebody last waited.
    policy_at = None if terms.preemptible is False else world.policy.yields_at(active, now)
    borrowed = milli(terms.demand) > 0 and quota.lends(world, active) and quota.borrows(world, terms.tenant) > 0
    at = Timestamp(max(now, active.since + rules.preempt_after_s))
    if priority is None and not borrowed:
        if policy_at is None:
            return None
        at = max(at, policy_at)
    policy = policy_at is not None and policy_at <= at
    return Exposure(at=at, priority=priority, policy=policy, borrowed=borrowed)


def _yielding(
    world: World, job: JobId, waiting: Parked, blocker: Blocker, kept: Reservation | None, now: Timestamp
) -> Blocker:
    """Say of a job in the way when it gives way to a waiting one that has `kept` this, or may have to."""
    at = _yields_at(world, job, waiting, world.active[blocker.job], now)
    if at is None and kept is not None and blocker.job in kept.yielding:
        return replace(blocker, yields_at=Timestamp(max(now, kept.stops_at)), yields=True)
    return blocker if at is None else replace(blocker, yields_at=at)


def _yields_at(world: World, job: JobId, waiting: Parked, active: ActiveJob, now: Timestamp) -> Timestamp | None:
    """Return when a job may have to give way to a waiting one, where it has not run for long enough yet."""
    exposed = exposure(world, active, now) if isinstance(active.state, Running) else None
    if exposed is None or exposed.at <= now:
        return None
    standing = world.policy.standing(waiting.place)
    has = replace(active.place, attained_s=active.attained_s(exposed.at))
    yields = (
        by_priority(world, active, job, waiting)
        or (exposed.policy and standing < world.policy.standing(has))
        or (exposed.borrowed and quota.may_reclaim(world, waiting.terms, active))
    )
    return exposed.at if yields else None


def _releasing(world: World, state: GpuState, claim: Claim | None, now: Timestamp) -> Iterable[JobId]:
    """Return those whose end would give a GPU to a job that the claim binds; of one too sick for new jobs, none."""
    if is_closed(world, state):
        return ()
    if claim is None:
        return state.holders
    return [holder for holder in state.holders if claim.until <= expected_end(world, world.active[holder], now)]


def _beside(world: World, job: JobId, demand: Demand, denied: Denied, fits: bool) -> Denied:
    """Name for whom a node's CPUs or memory are kept, where of GPUs there are enough."""
    if denied.claim is not None or denied.reservation is not None or denied.left_mib is not None:
        return denied
    for kept in world.reservations.values():
        for part in kept.allocation.parts if kept.job != job else ():
            short = "CPUs" if part.cpus and demand.cpus_counted else None
            short = short or ("memory" if part.memory_mib and demand.memory_mib else None)
            if part.node == denied.state.node and short:
                return replace(denied, reservation=kept, short=short)
    return replace(denied, enough=fits)


def _claimed(world: World, terms: Terms, now: Timestamp) -> dict[GpuId, Claim]:
    end = Timestamp(now + STARTING_S + world.lasting_s(terms))
    found: dict[GpuId, Claim] = {}
    for claim in claims(world, now):
        if claim.forbids(terms, now, end):
            for gpu in claim.gpus:
                found.setdefault(gpu, claim)
    return found


def _reserved(world: World, job: JobId, terms: Terms, now: Timestamp) -> dict[GpuId, Reservation]:
    return {
        share.gpu: kept
        for kept in world.reservations.values()
        if kept.job != job and now + STARTING_S + passing_s(world, job, terms, now, kept.passing) > kept.at
        for share in kept.allocation.all_shares
    }


def _gpus(active: ActiveJob) -> list[GpuId]:
    return [share.gpu for share in active.state.allocation.all_shares]


def _devices(allocation: Allocation) -> set[GpuId | NodeName]:
    """Return the GPUs of an allocation; of one without, its nodes."""
    return {share.gpu for share in allocation.all_shares} or {part.node for part in allocation.parts}


def _in_order(world: World, held: dict[JobId, list[GpuId]], now: Timestamp) -> list[Blocker]:
    found = [Blocker(job, tuple(gpus), expected_end(world, world.active[job], now)) for job, gpus in held.items()]
    return sorted(found, key=lambda each: (each.ends_at, each.job))
