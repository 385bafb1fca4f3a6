"""Every claim in force in one round, reservations among them: whom each binds, and what they leave.

Who is bound by a claim leaves alone what it holds. A reservation binds who may not be over before its moment, as its
user says or, where nothing is said, as all of the last runs of its like were (`passing_s`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import inf

from gpud.core import quota
from gpud.core.backfill import STARTING_S, left_at
from gpud.core.claims import Claim, Passing, Reservation
from gpud.core.holds import Holds, all_but, count, kept_back, leaves, merge
from gpud.core.queue import Bound, Group
from gpud.core.room import Hold
from gpud.core.space import Spaces
from gpud.core.windows import claims
from gpud.core.world import World
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

CLAIMS_TRIED = 8  # when it is asked which of them keeps a job off
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
        self._horizons_s: dict[int, Seconds] = {}  # how short a job must be to be over before each reservation
        self._merged: dict[tuple[int, ...], Holds] = {}
        self._bound: dict[Terms, tuple[int, ...]] | None = {}  # None: it is not the terms alone that count

    def reserve(self, reservation: Reservation) -> bool:
        """Put a reservation in force; False if what it names will not be there in time, beside what others reserved."""
        claimed = self._beside(reservation)
        if claimed is None:
            return False
        self.claimed.append(claimed)
        self._bind_by(len(self.claimed) - 1, reservation, claimed)
        return True

    def _beside(self, reservation: Reservation) -> _Claimed | None:
        """Return what a reservation leaves, and let those that are in force leave it; None if it cannot be kept."""
        holds: dict[NodeName, Hold] = {}
        for part in reservation.allocation.parts:
            hold = left_at(self._world, reservation, part, self._now)
            if hold is None:
                return None
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
                return None
        for other in later:
            count(other.holds, reservation.allocation)
        return _Claimed(reservation.at, holds, reservation, borrower=borrower)

    def _bind_by(self, index: int, reservation: Reservation, claimed: _Claimed) -> None:
        likely = reservation.passing is Passing.LIKELY  # then there is no telling by its length
        horizon_s = -inf if reservation.passing is Passing.NOBODY else reservation.clear_at - self._now - STARTING_S
        self._horizons_s[index] = inf if likely else horizon_s
        self._merged.clear()
        by_terms = self._bound is not None and claimed.borrower is None and not likely
        self._bound = {} if by_terms else None

    def release(self, jobs: Collection[JobId]) -> None:
        """Let go of what these jobs have reserved: it binds nobody, and others are as if it had never been."""
        kept = [(at, each.reservation) for at, each in enumerate(self.claimed) if each.reservation and each.at < inf]
        for index, each in kept:
            never = replace(each, at=Timestamp(inf), stops_at=Timestamp(inf))
            self.claimed[index] = _Claimed(never.at, {}, never)
            self._horizons_s[index] = inf
        for index, each in kept:
            claimed = None if each.job in jobs else self._beside(each)
            if claimed is not None:
                self.claimed[index] = claimed
                self._bind_by(index, each, claimed)
        self._merged.clear()
        self._bound = None if self._bound is None else {}

    def binding(self, job: JobId, terms: Terms) -> tuple[int, ...]:
        """Return which claims a job must respect if it starts now."""
        if not self.claimed:
            return ()
        if self._bound is None:
            return self._binding(job, terms)
        binding = self._bound.get(terms)
        if binding is None:
            binding = self._bound[terms] = self._binding(job, terms)
        return binding

    def _binding(self, job: JobId, terms: Terms) -> tuple[int, ...]:
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
                and over_by[each.reservation.passing] > each.reservation.clear_at
                and not (own and each.borrower not in {None, terms.tenant})
            )
        )

    def sparing(self, kept: Iterable[Reservation]) -> "Guard":
        """Return one in which these are in force as well, as far as they can be."""
        guard = Guard(self._world, self._now, [replace(each, holds=merge([each.holds])) for each in self.claimed])
        guard._horizons_s |= self._horizons_s
        guard._bound = None if self._bound is None else {}
        for each in kept:
            guard.reserve(each)
        return guard

    @property
    def reserved(self) -> Bound:
        """Return everybody's reservations until now."""
        return tuple(self._horizons_s)

    @property
    def taken(self) -> Bound:
        """Return those for which others have been stopped: nobody passes them."""
        kept = ((index, self.claimed[index].reservation) for index in self._horizons_s)
        return tuple(index for index, each in kept if each is not None and each.taken)

    @property
    def last(self) -> tuple[JobId, Timestamp]:
        """Return who reserved last, and by when whoever passes must be over."""
        kept = next(each.reservation for each in reversed(self.claimed) if each.reservation and each.at < inf)
        return kept.job, kept.clear_at

    def standing(self, binding: tuple[int, ...]) -> tuple[int, ...]:
        """Return those that are nobody's reservation: waiting for an end will not lift them."""
        return tuple(index for index in binding if self.claimed[index].claim is not None)

    def standing_at(self, terms: Terms, at: Timestamp) -> tuple[int, ...]:
        """Return the claims, nobody's reservation, that a job must respect if it starts then."""
        if len(self._horizons_s) == len(self.claimed):
            return ()
        end = Timestamp(at + STARTING_S + self._world.lasting_s(terms))
        return tuple(
            index
            for index, each in enumerate(self.claimed)
            if each.claim is not None and each.claim.forbids(terms, at, end)
        )

    def permits(self, terms: Terms, kept: Reservation) -> bool:
        """Return whether no claim, nobody's reservation, forbids a job what it has reserved."""
        return leaves(self.holds(self.standing_at(terms, kept.at)), kept.allocation)

    def decisive(self, demand: Demand, standing: tuple[int, ...]) -> Claim:
        """Return the claim without which there would be room, the soonest over; of several together, too."""
        ends = {index: claim.until for index in standing if (claim := self.claimed[index].claim) is not None}
        standing = tuple(sorted(standing, key=ends.__getitem__))
        one = standing[0]
        for index in standing[:CLAIMS_TRIED] if len(standing) > 1 else ():
            others = tuple(each for each in standing if each != index)
            if self._world.spaces.fits(demand, self.holds(others)):
                one = index
                break
        claim = self.claimed[one].claim
        assert claim is not None  # noqa: S101 - it stands
        return claim

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

    def bind(self, lasts_s: Seconds) -> Bound:
        """Return which reservations bind everybody who lasts for as long; none where there are other claims."""
        if len(self._horizons_s) < len(self.claimed):
            return ()
        return tuple([index for index, horizon_s in self._horizons_s.items() if lasts_s > horizon_s])

    def binds_all(self, group: Group, binding: tuple[int, ...]) -> bool:
        """Return whether nobody with a demand is bound by less than one of them who is bound by these reservations."""
        alike = group.terms is not None and self._bound is not None
        return alike or self._world.queue.shortest_s(group) > max(self._horizons_s[index] for index in binding)


def passing_s(world: World, job: JobId, terms: Terms, now: Timestamp, passing: Passing = Passing.LONGEST) -> Seconds:
    """Return for how long at most a job that starts now may keep GPUs from who waits for them, to be let pass."""
    if passing is Passing.NOBODY:
        return inf
    if passing is Passing.LIMIT:
        return inf if terms.time_limit_s is None else terms.time_limit_s
    since = world.books.oldest(terms)
    longest_s = world.predictor.passing_s(terms, 0 if since is None else now - since)
    return (
        longest_s
        if passing is Passing.LONGEST
        else min(longest_s, world.predictor.likely_s(terms, world.bursts.of(job, terms)))
    )
