"""Who gives way to whom.

A blocked job may preempt jobs that are clearly beneath it: by priority, where they are preemptible; by the policy's
own order; or because they run on what is guaranteed to its tenant. Of all sets of victims that make room on one node
(on as many as it needs, for a gang) the one is taken whose members stand worst with the policy, then the one that
loses the fewest GPU-seconds. Nobody is preempted before they have run for `Rules.preempt_after_s`. What they held is
reserved for whom they were preempted for; they get their grace, and go back to their place in the queue.

A victim never outranks whom it gave way to, so who waits rises until nothing moves: there is no livelock.

Cost: O(active jobs) once in a cycle in which anybody may preempt at all, and for each blocked job that may.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from operator import itemgetter
from typing import NamedTuple

from gpud.core import jobs, quota
from gpud.core.active import ActiveJob
from gpud.core.claims import Passing, Reservation
from gpud.core.holds import Holds
from gpud.core.outcome import Outcome
from gpud.core.placement import fit
from gpud.core.room import Hold, Room
from gpud.core.world import World
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import JobId, Running, StopCause, Stopping
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp

MOST = 64  # for so many is it done in one cycle: the others come to it a moment later, and nobody waits for an answer
MOMENT_S: Seconds = 1.0
_first = itemgetter(0)
_first_two = itemgetter(0, 1)
_Cost = tuple[float, Seconds]  # how well the best of the victims stands; GPU-seconds that they lose


class _Victim(NamedTuple):
    """A running job that may have to give way; they sort as they are taken.

    `stands` is how it does with the policy, the lower the worse. `borrowed`: it gives way to this job only because its
    tenant borrowed.
    """

    stands: float
    lost_s: Seconds
    job: JobId
    active: ActiveJob
    borrowed: bool = False


@dataclass(frozen=True, slots=True)
class _Option:
    """What preempting on one node would cost, whom, and what it gives."""

    cost: _Cost
    victims: list[_Victim]
    part: Allocation


class Preemption:
    """Who may be preempted in one cycle, and who was.

    `look_at` is when somebody who is spared now, for having run too briefly, has run for long enough.
    `hoped`: whoever asked last might have found somebody to preempt. If not, nobody who comes later in line will.
    """

    def __init__(self, world: World, out: Outcome) -> None:
        self._world = world
        self._out = out
        self._gone: set[JobId] = set()
        self._served = 0
        self._asked: bool | None = None
        self._running: list[tuple[float, ActiveJob]] | None = None
        self._worst = -inf  # of those
        self._leaving: set[NodeName] = set()  # nodes of those who are being stopped
        self.look_at: Timestamp | None = None
        self.hoped = self.possible

    @property
    def possible(self) -> bool:
        """Return whether anybody may ever have to give way."""
        world = self._world
        return bool(world.preemptible or world.tenants) or world.policy.preemptive

    @property
    def _own(self) -> bool:
        """Return whether the policy has reasons of its own now."""
        if self._asked is None:
            self._asked = self._world.policy.preempts(self._out.now)
        return self._asked

    def _runs(self) -> list[tuple[float, ActiveJob]]:
        """Return every running job, and how it holds its own with the policy: the more the worse."""
        if self._running is None:
            actives = self._world.active.values()
            running = [active for active in actives if isinstance(active.state, Running)]
            for active in actives if len(running) < len(actives) else ():
                if isinstance(active.state, Stopping):
                    self._leaving.update(part.node for part in active.state.allocation.parts)
            holding = self._world.policy.holding(running, self._out.now) if self._own else [0.0] * len(running)
            self._running = list(zip(holding, running, strict=True))
            self._worst = max(holding, default=-inf)
        return self._running

    def preempt(self, job: JobId, terms: Terms, others: Callable[[Terms], Holds]) -> Reservation | None:
        """Stop the jobs that must give way to this one and return what is reserved for it; None where none may.

        `others` tells what others leave of the nodes to a job of these terms.
        """
        world = self._world
        if not self.possible:
            return None
        waiting = world.waiting(job)
        wants = waiting is not None and world.policy.wants(waiting.place) and self._own
        self.hoped = bool(world.preemptible or world.tenants or wants)
        if not self.hoped:
            return None
        if waiting is None or quota.over(world, terms, self._out.now, quota.promised(world)) is not None:
            return None
        if self._served >= MOST:
            self._look_again(Timestamp(self._out.now + MOMENT_S))
            return None
        oldest = self._out.now - world.rules.preempt_after_s
        beneath = self._beneath(terms, waiting.place)
        old = sorted(victim for victim in beneath if victim.active.since <= oldest)
        found = self._make_room(job, terms, old, others(terms)) if old else None
        spared = (victim.active.since for victim in beneath if victim.active.since > oldest)
        since = min(spared, default=None) if found is None else None
        if since is not None:
            self._look_again(Timestamp(since + world.rules.preempt_after_s))
        self._served += found is not None
        return found

    def _look_again(self, at: Timestamp) -> None:
        self.look_at = at if self.look_at is None else min(self.look_at, at)

    def _make_room(self, job: JobId, terms: Terms, among: list[_Victim], holds: Holds) -> Reservation | None:
        beneath: dict[NodeName, list[_Victim]] = {}
        gpus: Counter[NodeName] = Counter()
        for victim in among:
            for part in victim.active.state.allocation.parts:
                beneath.setdefault(part.node, []).append(victim)
                gpus[part.node] += len(part.shares)
        count, rooms = terms.demand.nodes, self._world.spaces.rooms
        wanted = 0 if terms.demand.shared else terms.demand.gpus // count
        # The least that a node may cost: nothing, where enough may be there without victims, else who stands worst.
        least = [
            (beneath[name][0].stands if name in beneath and name not in self._leaving else -inf, order, name)
            for order, (name, room) in enumerate(rooms.items())
            if (count > 1 or name in beneath)
            and (len(room.free) + gpus[name] >= wanted or name in self._leaving)  # else there cannot be enough
        ]
        found: list[tuple[_Cost, int, _Option]] = []
        for stands, order, name in sorted(least):
            if len(found) >= count and stands > found[count - 1][0][0]:
                break
            option = self._cheapest(terms, rooms[name], beneath.get(name, []), holds.get(name))
            if option is not None:
                insort(found, (option.cost, order, option), key=_first_two)
        if len(found) < count:
            return None
        chosen = [option for _, _, option in found[:count]]
        victims = list({each.active.job: each for option in chosen for each in option.victims}.values())
        if count > 1 and not self._may_all(terms, victims):
            return None
        for victim in victims:
            jobs.stop(self._world, self._out, victim.active, StopCause.PREEMPTED)
            self._gone.add(victim.active.job)
            self._leaving.update(part.node for part in victim.active.state.allocation.parts)
        if not victims and not quota.guaranteed(self._world, terms):
            return None
        gone = {victim.active.job for victim in victims}
        return self._kept(job, gone, sorted((option.part for option in chosen), key=lambda part: part.node))

    def _kept(self, job: JobId, victims: set[JobId], parts: list[Allocation]) -> Reservation | None:
        """Return what these leave to a job, and those who are being stopped already; None where nobody is.

        For whom they are is not known any more after a restart. If it were not kept for who is guaranteed it, others
        would have it reserved, and more would be stopped.
        """
        world = self._world
        holders = {holder for part in parts for gpu in part.gpus for holder in world.gpus[gpu].holders}
        going = [state for each in victims | holders if isinstance(state := world.active[each].state, Stopping)]
        if not going:
            return None
        first, *rest = parts
        return Reservation(
            job=job,
            at=max(state.kill_at for state in going),  # sooner they may still be there
            allocation=replace(first, rest=tuple(rest)) if rest else first,
            passing=Passing.LIMIT,
            taken=True,
        )

    def _beneath(self, terms: Terms, place: Place) -> list[_Victim]:
        """Return those who run that this job may preempt, had they run for long enough."""
        world, rules = self._world, self._world.rules
        standing = world.policy.standing(place) if self._own else inf
        by_order = not world.preemptible and not world.tenants  # and for no other reason
        found: list[_Victim] = []
        by_priority = world.policy.reserves  # else two orders, its own and this, could preempt in turns
        running = self._runs()
        if by_order:
            running = [each for each in running if each[0] > standing] if self._worst > standing else []
        for holding, active in running:
            if active.job in self._gone:
                continue
            said = active.terms.preemptible
            yields = (
                by_priority
                and active.job in world.preemptible
                and (not world.policy.personal or active.terms.user == terms.user)
                and place.priority >= active.place.priority + rules.preempt_margin
            )
            own = (yields or (said is not False and standing < holding)) and not self._protected(terms, active)
            if own or (world.tenants and quota.may_reclaim(world, terms, active)):
                found.append(_Victim(-holding, lost_s(active, self._out.now), active.job, active, borrowed=not own))
        return found

    def _protected(self, terms: Terms, victim: ActiveJob, beside: Iterable[ActiveJob] = ()) -> bool:
        """Return whether a job runs on what is guaranteed to its tenant, and another's that is not would take it."""
        if not self._world.tenants or victim.terms.tenant == terms.tenant:
            return False
        return quota.keeps(self._world, victim, beside) and not quota.guaranteed(self._world, terms)

    def _may_all(self, terms: Terms, victims: list[_Victim]) -> bool:
        """Return whether a gang may preempt on all its nodes at once what it may preempt on each."""
        actives = [victim.active for victim in victims]
        return all(
            quota.may_reclaim(self._world, terms, victim.active, actives[:at])
            for at, victim in enumerate(victims)
            if victim.borrowed
        )

    def _cheapest(self, terms: Terms, room: Room, beneath: list[_Victim], hold: Hold | None) -> _Option | None:
        """Return what making room on one node would cost; nothing, where there is room already, or will be.

        Victims are taken as they stand, then those that turn out not to be needed are let off, who stands best first.
        """
        future = self._without_leaving(room)
        if (enough := fit(terms.demand, future, hold)) is not None:
            return _Option((-inf, 0.0), [], enough)
        chosen: list[_Victim] = []
        part = None
        for victim in beneath:
            beside = [each.active for each in chosen]
            if victim.borrowed and not quota.may_reclaim(self._world, terms, victim.active, beside):
                continue  # its tenant would be left with less than its own guarantee
            if self._protected(terms, victim.active, beside):
                continue
            chosen.append(victim)
            _give_back(future, victim.active)
            part = fit(terms.demand, future, hold)
            if part is not None:
                break
        if part is None:
            return None
        for victim in list(reversed(chosen)) if len(chosen) > 1 else ():
            rest = [each for each in chosen if each is not victim]
            less = self._without(terms, room, rest, hold) if rest else None
            if less is not None:
                chosen, part = rest, less
        return _Option((max(each.stands for each in chosen), sum(each.lost_s for each in chosen)), chosen, part)

    def _without(self, terms: Terms, room: Room, victims: list[_Victim], hold: Hold | None) -> Allocation | None:
        """Return what a job would get on a node without these."""
        future = self._without_leaving(room)
        for victim in victims:
            _give_back(future, victim.active)
        return fit(terms.demand, future, hold)

    def _without_leaving(self, room: Room) -> Room:
        """Return a node's room without those who are being stopped: they go as it is, nobody else has to."""
        future = room.copy()
        for job in room.node.held:
            active = self._world.active[job]
            if isinstance(active.state, Stopping):
                _give_back(future, active)
        return future


def lost_s(active: ActiveJob, now: Timestamp) -> Seconds:
    """Return the GPU-seconds that are thrown away when a job is preempted now; a little for one without GPUs."""
    return max(0.0, now - active.since) * (active.gpu_weight or 0.01)


def _give_back(room: Room, active: ActiveJob) -> None:
    for part in active.state.allocation.parts:
        if part.node == room.name:
            room.give_back(part)
