"""EASY backfill: jobs that capacity blocks reserve, and nothing later may delay them.

(Lifka, "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, TPDS 2001.) A reservation names GPUs and
nodes and the earliest moment at which everything that the job needs will be free there. Ends come from time limits,
from estimates, from what like jobs took, and where nothing is known from `Rules.assumed_runtime_s`; an end that has
passed is corrected to one soon. (What like jobs took is often nearer than a limit. But who may pass is judged by its
own limit: hardly anybody passes before so near an end, and GPUs stand idle.) A later job may use what is reserved only
if it is over before that moment: one that takes longer than was told of it delays who reserved, once. A reservation is
sticky: it moves only to a strictly earlier moment, or when it can no longer be kept. Where several reserve, each leaves
the others what is theirs, also those behind it, until something ends earlier than was expected: then the first may have
it.

A reservation is one kind of claim, see `guard`. Maintenance windows, pools and a tenant's own GPUs are others (see
`windows`).

Cost: one look at each node when a job begins to be blocked, or something ended earlier than expected; else what the
reserved nodes cost.
"""

from bisect import insort
from collections.abc import Collection, Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush
from math import inf
from operator import itemgetter

from gpud.core.active import ActiveJob
from gpud.core.claims import Reservation
from gpud.core.condition import RELEASE_S, Condition, condition
from gpud.core.fleet import NodeState
from gpud.core.holds import Holds
from gpud.core.placement import fit
from gpud.core.room import Hold, Room
from gpud.core.world import World
from gpud.model.gpu import Allocation, GpuId, NodeName, Share, nominal_mib
from gpud.model.job import JobId, Running, Starting, Stopping
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

STARTING_S: Seconds = 5.0  # may pass between a start and the moment from which the time limit counts
SOON_S: Seconds = 1.0  # in which who was to be over by now is expected to be: a moment late is no long overrun
OVERRUN_S: Seconds = 60.0  # then; and a quarter of what it has overrun already, so that a guess is not made often
_first = itemgetter(0)
_first_two = itemgetter(0, 1)


def earliest(
    world: World, job: JobId, terms: Terms, now: Timestamp, holds: Holds, among: Collection[NodeName] | None = None
) -> Reservation | None:
    """Return the reservation of a job that does not fit now; None where no end of any job would make it fit.

    `among`: look only at these nodes.
    """
    demand, rooms = terms.demand, world.spaces.rooms
    each = demand.gpus // demand.nodes if not demand.shared else 0
    looked = rooms.values() if among is None else [rooms[name] for name in sorted(among) if name in rooms]
    for room in [room for room in looked if each not in room.node.bounds]:  # kept until the node changes
        room.node.bounds[each] = _soonest(world, room, each, now)
    bounds = [
        (bound, order, room) for order, room in enumerate(looked) if (bound := room.node.bounds[each]) is not None
    ]
    heapify(bounds)
    found: list[tuple[Timestamp, int, Allocation]] = []
    while bounds and not (len(found) >= demand.nodes and found[demand.nodes - 1][0] <= bounds[0][0]):
        bound, order, room = heappop(bounds)
        now_is = room.node.bounds[each] = _soonest(world, room, each, now)
        if now_is is None:
            continue
        if now_is > bound:  # what was overdue then is more so now, never less: others may come first
            heappush(bounds, (now_is, order, room))
            continue
        option = _earliest_on(world, terms, room, now, holds.get(room.name), bound)
        if option is not None:
            insort(found, (option[0], order, option[1]), key=_first_two)
    if len(found) < demand.nodes:
        return None
    first, *rest = [part for _, _, part in found[: demand.nodes]]
    return Reservation(
        job=job,
        at=found[demand.nodes - 1][0],
        allocation=replace(first, rest=tuple(rest)) if rest else first,
    )


def expected_end(world: World, active: ActiveJob, now: Timestamp) -> Timestamp:
    """Return when an active job will be over, as far as anything is known."""
    return Timestamp(_corrected(told_end(world, active), limit_end(active), now))


def freed_at(world: World, active: ActiveJob, now: Timestamp) -> Timestamp:
    """Return by when others may count on what an active job has."""
    return Timestamp(_corrected(latest_end(world, active), limit_end(active), now))


def latest_end(world: World, active: ActiveJob) -> float:
    """Return by when an active job would be over: at its time limit, where it has one, or as is expected."""
    limit = limit_end(active)
    return limit if limit < inf else told_end(world, active)


def _corrected(end: float, limit: float, now: Timestamp) -> float:
    """Return when what should be over by `end`, and is stopped at `limit`, will be, seen from now.

    At first it is expected any moment. With a minute at once whoever is shorter would pass who waits for that end, each
    time that one is known a moment late.
    """
    if end > now:
        return end
    over_s = now - (end if limit > now else limit)
    again = now + max(min(SOON_S + 2 * over_s, OVERRUN_S), over_s / 4)
    return min(again, limit) if limit > now else again


def limit_end(active: ActiveJob) -> float:
    """Return when an active job is stopped for its time limit; never (inf) where it has none, or is stopped already."""
    limit_s = active.terms.time_limit_s
    match active.state:
        case Starting(since=since) if limit_s is not None:
            return since + STARTING_S + limit_s
        case Running(since=since) if limit_s is not None:
            return since + limit_s
        case _:
            return inf


def told_end(world: World, active: ActiveJob) -> float:
    """Return when an active job would be over if it took as long as expected; it may have passed."""
    state = active.state
    if isinstance(state, Running):
        return state.since + world.expects_s[active.job]
    if isinstance(state, Stopping):
        return state.kill_at  # however long it was expected to run: it is what can be relied on
    return state.since + STARTING_S + world.expects_s[active.job]


def _ends(world: World, node: NodeState) -> list[tuple[float, JobId, float]]:
    """Return when a node's jobs would end, soonest first, and their limits. Kept until one of them changes."""
    if node.ends is None:
        actives = ((job, world.active[job]) for job in node.held)
        node.ends = sorted((latest_end(world, active), job, limit_end(active)) for job, active in actives)
    return node.ends


def _soonest(world: World, room: Room, gpus: int, now: Timestamp) -> float | None:
    """Return a moment before which a node cannot have that many whole GPUs free; None if it never has."""
    missing = gpus - len(room.free)
    if missing <= 0:
        return now
    releasing = sum(1 for state in room.node.gpus if state.released_at is not None and not state.holders)
    missing -= releasing
    if missing <= 0:
        return now
    ends, held = _ends(world, room.node), room.node.held
    if ends and ends[0][0] <= now:
        ends = sorted((_corrected(end, limit, now), job, limit) for end, job, limit in ends)
    for at, job, _ in ends:
        missing -= len(held[job].shares)
        if missing <= 0:
            return at
    return None


def returns(
    world: World, node: NodeState, now: Timestamp, yielding: Collection[JobId] = (), *, leaving: bool = False
) -> Iterator[tuple[Timestamp, Allocation]]:
    """Yield what a node gets back, in order: as its jobs end, and as GPUs settle after the end of one.

    What those have that are `yielding` it gets back at once. `leaving`: of the others only from who is being stopped.
    """
    late = []
    for state in node.gpus:
        if state.released_at is not None and condition(world, state, now) is Condition.RELEASING:
            share = _whole(node, state.gpu.id)
            late.append((Timestamp(state.released_at + RELEASE_S), share))
    for end, job, limit in _ends(world, node):
        if leaving and job not in yielding and not isinstance(world.active[job].state, Stopping):
            continue
        late.append((now if job in yielding else Timestamp(_corrected(end, limit, now)), node.held[job]))
    late.sort(key=_first)
    yield from late


def _whole(node: NodeState, gpu: GpuId) -> Allocation:
    return Allocation(node=node.node.name, shares=(Share(gpu=gpu),))


def _earliest_on(
    world: World, terms: Terms, room: Room, now: Timestamp, hold: Hold | None, bound: float
) -> tuple[Timestamp, Allocation] | None:
    """Return the first moment at which a node, as it gets things back one by one, has room, and what is taken then.

    It has none before `bound`. Of equal GPUs those are taken that come free last: others may have the rest until then,
    and longer.
    """
    future, last = room.copy(), now
    later = future.later = {state.gpu.id: 0 for state in room.free}
    part = None if bound > now else fit(terms.demand, future, hold)
    if part is not None:
        return now, part
    came = 0
    for at, back in returns(world, room.node, now):
        future.give_back(back)
        came, last = came - (at > last), at
        later.update(dict.fromkeys(back.gpus, came))
        if at < bound:
            continue
        part = fit(terms.demand, future, hold)
        if part is not None:
            return at, part
    return None


def left_at(world: World, kept: Reservation, part: Allocation, now: Timestamp) -> Hold | None:
    """Return what is left of a node once its part of what is kept is taken; None if it is not all there then.

    Where others were stopped for it, it is there as soon as they are gone, whoever else may have ended by then.
    """
    room = world.spaces.rooms.get(part.node)
    if room is None:
        return None
    future = room.copy()
    for at, back in returns(world, room.node, now, kept.yielding, leaving=kept.taken):
        if at > kept.at:
            break
        future.give_back(back)
    return left_of(future, part)


def back_at(world: World, allocation: Allocation, now: Timestamp) -> Timestamp | None:
    """Return when all that is named is there, once those are gone who are being stopped; None if it is not then."""
    found = [_back_at(world, part, now) for part in allocation.parts]
    there = [at for at in found if at is not None]
    return max(there) if len(there) == len(found) else None


def _back_at(world: World, part: Allocation, now: Timestamp) -> Timestamp | None:
    room = world.spaces.rooms.get(part.node)
    if room is None or left_of(room, part) is not None:
        return None if room is None else now
    future = room.copy()
    for at, back in returns(world, room.node, now, leaving=True):
        future.give_back(back)
        if left_of(future, part) is not None:
            return at
    return None


def left_of(future: Room, part: Allocation) -> Hold | None:
    """Return what is left of a node once a part of it is taken; None if it is not all there."""
    free = {state.gpu.id for state in future.free}
    left: dict[GpuId, int] = {}
    for share in part.shares:
        if share.memory_mib is None:
            if share.gpu not in free:
                return None
            left[share.gpu] = 0
        else:
            rest = _left_mib(future, share.gpu) - share.memory_mib
            if rest < 0:
                return None
            left[share.gpu] = rest
    if 0 < part.cpus > future.cpus or 0 < part.memory_mib > future.memory_mib:
        return None
    return Hold(gpus=left, cpus=future.cpus - part.cpus, memory_mib=future.memory_mib - part.memory_mib)


def _left_mib(room: Room, gpu: GpuId) -> int:
    """Return what of a GPU's memory can be shared out: all of a free one's."""
    whole = next((nominal_mib(state.gpu.memory_total_mib) for state in room.free if state.gpu.id == gpu), 0)
    return room.shared.get(gpu, whole)
