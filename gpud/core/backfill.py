"""EASY backfill: jobs that capacity blocks reserve, and nothing later may delay them.

(Lifka, "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, TPDS 2001.) A reservation names GPUs and
nodes and the earliest moment at which everything that the job needs will be free there. Ends come from estimates,
from what like jobs took, from time limits, and where nothing is known from `Rules.assumed_runtime_s`; an end that has
passed is corrected to one soon. A later job may use what is reserved only if it is over before that moment, as its
user says or, where nothing is said, as all of the last runs of its like were (`passing_s`): one that takes
longer than those delays who reserved, once. A reservation is sticky: it moves only to a strictly earlier moment, or
when it can no longer be kept. Where several reserve, each leaves the others what is theirs, also those behind it, until
something ends earlier than was expected: then the first may have it.

A reservation is one kind of claim. Maintenance windows, pools and a tenant's own GPUs are others (see `windows`): who
is bound by a claim leaves alone what it holds.

Cost: one look at each node when a job begins to be blocked, or something ended earlier than expected; else what the
reserved nodes cost.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import inf
from operator import itemgetter

from gpud.core import quota
from gpud.core.active import ActiveJob
from gpud.core.claims import Claim, Passing, Reservation
from gpud.core.condition import RELEASE_S, Condition, condition
from gpud.core.fleet import NodeState
from gpud.core.holds import Holds, all_but, count, kept_back, leaves, merge
from gpud.core.placement import fit
from gpud.core.room import Hold, Room
from gpud.core.space import Spaces
from gpud.core.windows import claims
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

_NOTHING: Holds = {}


@dataclass(slots=True)
class _Claimed:
    """A claim in force during one cycle, and what it leaves of its nodes to those whom it binds."""

    at: Timestamp
    holds: dict[NodeName, Hold]
    reservation: Reservation | None = None
    claim: Claim | None = None
    borrower: str | None = None  # the tenant of a job that reserves beyond its guarantee: it yields to those of others


class Guard:
    """Every claim in force during one cycle."""

    def __init__(self, world: World, now: Timestamp, claimed: list[_Claimed] | None = None) -> None:
        self._world = world
        self._now = now
        if claimed is None:
            claimed = [_Claimed(claim.at, kept_back(world, claim), claim=claim) for claim in claims(world, now)]
        self.claimed = claimed
        self._merged: dict[tuple[int, ...], Holds] = {}

    def reserve(self, reservation: Reservation) -> bool:
        """Put a reservation in force; False if what it names will not be there in time, beside what others reserved."""
        holds: dict[NodeName, Hold] = {}
        for part in reservation.allocation.parts:
            hold = _left_at(self._world, part, reservation.at, self._now)
            if hold is None:
                return False
            holds[part.node] = hold
        borrower = None
        waiting = self._world.waiting(reservation.job) if self._world.tenants else None
        if waiting is not None and not reservation.taken and reservation.passing is Passing.LONGEST:
            borrower = None if quota.guaranteed(self._world, waiting.terms) else waiting.terms.tenant
        later = list[_Claimed]()
        for other in self.claimed:
            if other.reservation is None or holds.keys().isdisjoint(other.holds):
                continue
            before = other.at <= reservation.at  # it is taken by then
            if before and leaves(holds, other.reservation.allocation):
                count(holds, other.reservation.allocation)
            elif not before and leaves(other.holds, reservation.allocation):
                later.append(other)
            else:
                return False
        for other in later:
            count(other.holds, reservation.allocation)
        self.claimed.append(_Claimed(reservation.at, holds, reservation, borrower=borrower))
        self._merged.clear()
        return True

    def binding(self, job: JobId, terms: Terms) -> tuple[int, ...]:
        """Return which claims a job must respect if it starts now."""
        if not self.claimed:
            return ()
        end = Timestamp(self._now + STARTING_S + self._world.lasting_s(terms))
        ways = {each.reservation.passing for each in self.claimed if each.reservation is not None}
        over_by = {way: self._now + STARTING_S + passing_s(self._world, job, terms, self._now, way) for way in ways}
        own = any(each.borrower is not None for each in self.claimed) and quota.guaranteed(self._world, terms)
        return tuple(
            index
            for index, each in enumerate(self.claimed)
            if (
                each.claim.forbids(terms, self._now, end)
                if each.claim is not None
                else each.reservation is not None
                and over_by[each.reservation.passing] > each.at
                and not (own and each.borrower not in {None, terms.tenant})
            )
        )

    def sparing(self, kept: Iterable[Reservation]) -> "Guard":
        """Return one in which these are in force as well, as far as they can be."""
        guard = Guard(self._world, self._now, [replace(each, holds=merge([each.holds])) for each in self.claimed])
        for each in kept:
            guard.reserve(each)
        return guard

    @property
    def last(self) -> tuple[JobId, Timestamp]:
        """Return who reserved last, and for when."""
        kept = next(each.reservation for each in reversed(self.claimed) if each.reservation is not None)
        return kept.job, kept.at

    @property
    def reserved(self) -> tuple[int, ...]:
        """Return everybody's reservations until now."""
        return tuple(index for index, each in enumerate(self.claimed) if each.claim is None)

    def standing(self, binding: tuple[int, ...]) -> tuple[int, ...]:
        """Return those that are nobody's reservation: waiting for an end will not lift them."""
        return tuple(index for index in binding if self.claimed[index].claim is not None)

    def standing_at(self, terms: Terms, at: Timestamp) -> tuple[int, ...]:
        """Return the claims, nobody's reservation, that a job must respect if it starts then."""
        end = Timestamp(at + STARTING_S + self._world.lasting_s(terms))
        return tuple(
            index
            for index, each in enumerate(self.claimed)
            if each.claim is not None and each.claim.forbids(terms, at, end)
        )

    def permits(self, terms: Terms, kept: Reservation) -> bool:
        """Return whether no claim, nobody's reservation, forbids a job what it has reserved."""
        return leaves(self.holds(self.standing_at(terms, kept.at)), kept.allocation)

    def over_at(self, standing: tuple[int, ...]) -> Timestamp | None:
        """Return when the first of these claims is over, if one ever is."""
        ends = [claimed.claim.until for index in standing if (claimed := self.claimed[index]).claim is not None]
        return min((at for at in ends if at < inf), default=None)

    def holds(self, binding: tuple[int, ...]) -> Holds:
        """Return what these claims leave together."""
        if not binding:
            return _NOTHING
        merged = self._merged.get(binding)
        if merged is None:
            merged = self._merged[binding] = merge(self.claimed[index].holds for index in binding)
        return merged

    def best(self, terms: Terms, binding: tuple[int, ...]) -> Allocation | None:
        """Return the best allocation that these claims leave: of its tenant's own GPUs, as long as it fits there."""
        spaces, tenant = self._world.spaces, self._world.tenants.get(terms.tenant)
        holds = self.holds(binding) if binding else _NOTHING
        if tenant is not None and tenant.gpus and terms.demand.gpus:
            own = Spaces(spaces.placement)
            for node, hold in all_but(self._world, tenant.gpus).items():
                if node in spaces.rooms:
                    room = spaces.rooms[node].within(hold)
                    own.put(room.within(holds[node]) if node in holds else room)
            found = own.best(terms.demand)
            if found is not None:
                return found
        return spaces.best(terms.demand, holds)

    def took(self, binding: tuple[int, ...], allocation: Allocation) -> None:
        """Count a start that lasts beyond the moments of these claims."""
        for index in binding:
            count(self.claimed[index].holds, allocation)
        if binding:
            self._merged.clear()

    def horizon_s(self, binding: tuple[int, ...]) -> Seconds:
        """Return how short a job must be to be over before the last of these reservations; inf: any may be likely."""
        each = [self.claimed[index] for index in binding]
        if any(one.reservation is not None and one.reservation.passing is Passing.LIKELY for one in each):
            return inf
        return max(one.at for one in each) - self._now - STARTING_S


def earliest(
    world: World, job: JobId, terms: Terms, now: Timestamp, holds: Holds, among: Collection[NodeName] | None = None
) -> Reservation | None:
    """Return the reservation of a job that does not fit now; None where no end of any job would make it fit.

    `among`: look only at these nodes.
    """
    demand, rooms = terms.demand, world.spaces.rooms
    each = demand.gpus // demand.nodes if not demand.shared else 0
    bounds: list[tuple[float, int, Room]] = []
    for order, room in enumerate(rooms.values() if among is None else [rooms[n] for n in sorted(among) if n in rooms]):
        known = room.node.bounds  # kept until the node changes
        bound = known[each] if each in known else known.setdefault(each, _soonest(world, room, each, now))
        if bound is not None:
            bounds.append((bound, order, room))
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


def passing_s(world: World, job: JobId, terms: Terms, now: Timestamp, passing: Passing = Passing.LONGEST) -> Seconds:
    """Return for how long at most a job that starts now may keep GPUs from who waits for them, to be let pass."""
    if passing is Passing.LIMIT:
        return inf if terms.time_limit_s is None else terms.time_limit_s
    since = world.books.oldest(terms)
    longest_s = world.predictor.passing_s(terms, 0 if since is None else now - since)
    return (
        longest_s
        if passing is Passing.LONGEST
        else min(longest_s, world.predictor.likely_s(terms, world.bursts.of(job, terms)))
    )


def expected_end(world: World, active: ActiveJob, now: Timestamp) -> Timestamp:
    """Return when an active job will be over, as far as anything is known."""
    return Timestamp(_corrected(told_end(world, active), _limit_end(active), now))


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


def _limit_end(active: ActiveJob) -> float:
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
    runs_s = world.expects_s[active.job]
    match active.state:
        case Starting(since=since):
            return since + STARTING_S + runs_s
        case Running(since=since):
            return since + runs_s
        case Stopping(kill_at=kill_at):
            return kill_at  # however long it was expected to run: it is what can be relied on


def _ends(world: World, node: NodeState) -> list[tuple[float, JobId, float]]:
    """Return when a node's jobs would end, soonest first, and their limits. Kept until one of them changes."""
    if node.ends is None:
        actives = ((job, world.active[job]) for job in node.held)
        node.ends = sorted((told_end(world, active), job, _limit_end(active)) for job, active in actives)
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


def _returns(world: World, node: NodeState, now: Timestamp) -> Iterator[tuple[Timestamp, Allocation]]:
    """Yield what a node gets back, in order: as its jobs end, and as GPUs settle after the end of one."""
    late = []
    for state in node.gpus:
        if state.released_at is not None and condition(world, state, now) is Condition.RELEASING:
            share = _whole(node, state.gpu.id)
            late.append((Timestamp(state.released_at + RELEASE_S), share))
    for end, job, limit in _ends(world, node):
        late.append((Timestamp(_corrected(end, limit, now)), node.held[job]))
    late.sort(key=_first)
    yield from late


def _whole(node: NodeState, gpu: GpuId) -> Allocation:
    return Allocation(node=node.node.name, shares=(Share(gpu=gpu),))


def _earliest_on(
    world: World, terms: Terms, room: Room, now: Timestamp, hold: Hold | None, bound: float
) -> tuple[Timestamp, Allocation] | None:
    """Return the first moment at which a node, as it gets things back one by one, has room, and what is taken then.

    It has none before `bound`. Of equal GPUs those are taken that are not free now: others may have these until then,
    and longer.
    """
    future = room.copy()
    future.later = frozenset(state.gpu.id for state in room.free)
    part = None if bound > now else fit(terms.demand, future, hold)
    if part is not None:
        return now, part
    for at, back in _returns(world, room.node, now):
        future.give_back(back)
        if at < bound:
            continue
        part = fit(terms.demand, future, hold)
        if part is not None:
            return at, part
    return None


def _left_at(world: World, part: Allocation, at: Timestamp, now: Timestamp) -> Hold | None:
    """Return what is left of a node once a part of it is taken at that moment; None if it is not all there then."""
    room = world.spaces.rooms.get(part.node)
    if room is None:
        return None
    future = room.copy()
    for back_at, back in _returns(world, room.node, now):
        if back_at > at:
            break
        future.give_back(back)
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
