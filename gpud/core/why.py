"""The reason of one waiting job, from what the last cycle decided."""

from collections import Counter
from collections.abc import Collection
from math import inf

from gpud.core import quota
from gpud.core.backfill import STARTING_S
from gpud.core.condition import Condition, condition, is_drained
from gpud.core.fleet import GpuState
from gpud.core.placement import admits, goes_to, suits, to_be_had
from gpud.core.room import Hold
from gpud.core.survey import refresh
from gpud.core.waits import (
    After,
    BeginsAt,
    Full,
    Guaranteed,
    Held,
    Next,
    NoCapacity,
    NoGpus,
    OverQuota,
    Paused,
    RetriesAt,
    Throttled,
    Unmet,
    Wait,
    YieldsTo,
)
from gpud.core.windows import claims
from gpud.core.world import World
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import Demand, JobId, array_of
from gpud.model.spec import Park, Terms
from gpud.model.units import Timestamp

_IN_USE = (Condition.FREE, Condition.BUSY, Condition.SHARED)


def why(world: World, job: JobId, now: Timestamp) -> Wait | None:
    """Return why a job, an element, or what is pending of an array, waits; None if it does not."""
    waiting = world.waiting(job)
    if waiting is None:
        return None
    place = waiting.place
    match place.park:
        case Park.HELD:
            return Held(world.groups.reason(world.groups.of(job)))
        case Park.BEGIN if place.not_before is not None:
            return BeginsAt(place.not_before)
        case Park.RETRY if place.not_before is not None:
            return RetriesAt(place.not_before, place.attempt)
        case Park.AFTER | Park.NEVER:
            return _after(world, array_of(job))
    if world.paused is not None:
        return Paused(world.paused)
    array = world.arrays.get(array_of(job))
    if array is not None and not array.room and array.state.throttle is not None:
        return Throttled(array.state.throttle)
    if waiting.terms.demand.gpus and not world.any_gpu():
        return NoGpus(world.problem() or "no GPU was found")
    found = _found(world, job, waiting.terms.demand)
    if isinstance(found, Full | YieldsTo | OverQuota | Guaranteed):  # with the numbers of now
        over = quota.over(world, waiting.terms, now)
        return over or (_lack(world, waiting.terms, now) if isinstance(found, Full) else found)
    return found


def _found(world: World, job: JobId, demand: Demand) -> Wait:
    """Return what the last round found to be in a job's way."""
    line = world.queue.line(job)
    if line is not None and line.aside is not None:
        return line.aside
    if demand in world.blocked:
        return world.blocked[demand]
    if line is None or not world.rules.backfill:  # else it came to everybody
        return Next()
    bound = line.group.asleep
    if not bound or bound[0] >= len(world.reservations) or not world.spaces.fits(demand):
        return Full()
    kept = list(world.reservations.values())[bound[0]]
    return YieldsTo(kept.job, kept.clear_at)


def _lack(world: World, terms: Terms, now: Timestamp) -> NoCapacity:
    """Return what is missing of what a job may have; the next with its demand asks the same."""
    demand, end = terms.demand, Timestamp(now + STARTING_S + world.lasting_s(terms))
    claimed = claims(world, now)
    never = tuple(each for each in claimed if each.until == inf and each.binds(terms))
    kept = tuple(each for each in claimed if each.until < inf and each.forbids(terms, now, end))
    if (demand, never + kept) not in world.lacking:
        closed, later = (frozenset[GpuId]().union(*(each.gpus for each in some)) for some in (never, kept))
        world.lacking[demand, never + kept] = capacity(world, demand, now, closed, later)
    return world.lacking[demand, never + kept]


def _after(world: World, job: JobId) -> Wait:
    unmet, awaited = world.after.unmet(job), world.after.awaited(job)
    if unmet is not None:
        return Unmet(*unmet)
    if not awaited:
        return Next()
    active, waiting = world.active.get(awaited[0].job), world.waiting(awaited[0].job)
    if active is not None:
        state = type(active.state).__name__.lower()
    elif waiting is not None:
        state = "held" if waiting.place.park in {Park.HELD, Park.NEVER} else "queued"
    else:
        state = "running"  # an array of which every element has started
    return After(awaited[0], state, len(awaited) - 1)


def capacity(
    world: World, demand: Demand, now: Timestamp, closed: Collection[GpuId] = (), kept: Collection[GpuId] = ()
) -> NoCapacity:
    """Return what is missing, on the node where the least is.

    GPUs that are `closed` to the job would not do; those that are `kept` for others for a time are not free to it.
    """
    out: dict[str, int] = {}
    able = suitable(world, demand, closed)
    for state in able:
        now_is = condition(world, state, now)
        if now_is is Condition.BUSY and is_drained(world, state):
            now_is = Condition.DRAINING
        if now_is not in _IN_USE:
            word = "reboot" if world.nodes[state.node].node.reboot else now_is.value
            out[word] = out.get(word, 0) + 1
    most, where, lacks = -1, None, dict[NodeName, str | None]()
    enough = {state.node for state in able} or world.spaces.rooms.keys()
    refresh(world, now)
    for each in world.spaces.rooms.values():
        held = dict.fromkeys([*closed, *kept], 0)
        room = each.within(Hold(held, each.cpus, each.memory_mib)) if held else each
        free = to_be_had(demand, room)
        if room.name in enough and admits(demand, room):
            lacks[room.name] = room.lacks(demand)
            if free > most:
                most, where = free, room.name
    elsewhere = lacks.values() if most < demand.gpus // demand.nodes else ()
    short = lacks[where] if where is not None and all(elsewhere) else None
    return NoCapacity(demand.gpus, len(able), max(most, 0), where, short, tuple(sorted(out.items())), demand.nodes)


def suitable(world: World, demand: Demand, closed: Collection[GpuId] = ()) -> list[GpuState]:
    """Return the GPUs that suit a demand, whatever is on them, on nodes that have enough which are not `closed` to it.

    GPUs of one kind are asked about once.
    """
    kinds: dict[tuple[object, ...], bool] = {}
    by_name = bool(demand.gpu_ids or demand.excluded_gpus)
    found = []
    elsewhere = {name for name, each in world.nodes.items() if not goes_to(demand, each.node)}
    for state in world.gpus.values():
        gpu = state.gpu
        kind = (gpu.name, gpu.memory_total_mib, gpu.mig, gpu.split, gpu.id if by_name else None)
        if kind not in kinds:
            kinds[kind] = suits(demand, gpu)
        if kinds[kind] and state.node not in elsewhere and gpu.id not in closed:
            found.append(state)
    there, least = Counter(state.node for state in found), 1 if demand.shared else demand.gpus // demand.nodes
    return [state for state in found if there[state.node] >= least]
