"""Who gives way to whom.

A blocked job may preempt jobs that are clearly beneath it: by priority, where they are preemptible; by the policy's
own order; or because they run on what is guaranteed to its tenant. Of all sets of victims that make room on one node
(on as many as it needs, for a gang) the one is taken whose members stand worst with the policy, then the one that
loses the fewest GPU-seconds. Nobody is preempted before they have run for `Rules.preempt_after_s`. What they held is
reserved for whom they were preempted for, and nobody else has it, however soon they are gone, but who could preempt
that job in turn (see `victims.takes_over`); they get their grace, and go back to their place in the queue.

Where those who may give way do not suffice yet, for having run too briefly, or since others must end first who do not
give way, a job that may reserve does so for the moment at which they can: who comes in between has it until then. Where
others end by themselves as soon as those who give way would be gone, it reserves that, and nobody is stopped.

A victim never may preempt whom it gave way to, and nobody starts to give way to who stood behind it: no livelock.

Cost: O(active jobs) once in a cycle in which anybody may preempt at all, and for each blocked job that may.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import NamedTuple

from gpud.core import jobs, quota
from gpud.core.active import ActiveJob
from gpud.core.backfill import freed_at
from gpud.core.claims import Passing, Reservation
from gpud.core.holds import Holds
from gpud.core.outcome import Outcome
from gpud.core.room import Hold, Room
from gpud.core.victims import (
    Cost,
    Option,
    Victim,
    as_victim,
    by_node,
    by_priority,
    cheapest,
    give_back,
    gives_way,
    joined,
    lingers_s,
    lost_by,
    outranks,
    protected,
    victims_of,
)
from gpud.core.world import Parked, World
from gpud.model.gpu import Allocation, GpuId, NodeName
from gpud.model.job import JobId, Running, StopCause, Stopping
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp

# So many looks at a node may be had in one cycle by those for whom others are stopped: whoever is left comes to it a
# moment later, and nobody waits for an answer.
MOST = 8192
MOMENT_S: Seconds = 1.0
TOGETHER_S: Seconds = 1.0  # who has run for long enough a second after others is taken as they are: it may lose less
_first = itemgetter(0)
_first_two = itemgetter(0, 1)


class _Leaves(NamedTuple):
    """From when on a job is not in the way any more: it has ended, or gives way, as a victim."""

    at: Timestamp
    active: ActiveJob
    victim: Victim | None


class Preemption:
    """Who may be preempted in one cycle, and who was.

    `look_at` is when somebody who is spared now, for having run too briefly, has run for long enough.
    `possible`: anybody may ever have to give way. `hoped`: whoever asked last might have found somebody to preempt. If
    not, nobody who comes later in line will.
    """

    def __init__(self, world: World, out: Outcome) -> None:
        self._world = world
        self._out = out
        self._gone: set[JobId] = set()
        self._looks = 0  # at nodes, for whoever asked last
        self._served = 0  # looks for those for whom others were stopped
        self._asked: bool | None = None
        self._running: list[tuple[float, ActiveJob]] | None = None
        self._worst = -inf  # of those
        self._leaving: dict[NodeName, None] = {}  # nodes of those who are being stopped
        self._left: dict[GpuId, NodeName] = {}  # of those, what nobody has for whom they are
        self._kept_on: dict[NodeName, list[Allocation]] = {}  # of each node what somebody has
        self.look_at: Timestamp | None = None
        self.possible = self.hoped = bool(world.preemptible or world.tenants) or world.policy.preemptive

    @property
    def _entitled(self) -> bool:
        """Return whether anybody may have to give way for another reason than the policy's own order."""
        world = self._world
        return bool(world.preemptible or world.tenants) and world.policy.reserves

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
                    self._leave_what_they_have(active)
            self._kept_on.clear()
            for kept in self._world.reservations.values():
                self._take(kept)
            holding = self._world.policy.holding(running, self._out.now) if self._own else [0.0] * len(running)
            self._running = list(zip(holding, running, strict=True))
            self._worst = max(holding, default=-inf)
        return self._running

    def find(
        self, job: JobId, terms: Terms, others: Callable[[Terms, Seconds], Holds]
    ) -> tuple[Reservation, list[Victim]] | None:
        """Return what is to be reserved for a job, and who must give way to it now; None where none may.

        `others` tells what others leave of the nodes to a job of these terms that starts within so long.
        """
        world = self._world
        if not self.possible:
            return None
        waiting = world.waiting(job)
        wants = waiting is not None and world.policy.wants(waiting.place) and self._own
        self.hoped = bool(world.preemptible or world.tenants or wants)
        if self.hoped and self._served >= MOST:
            self.look_again(Timestamp(self._out.now + MOMENT_S))
            return None
        beneath = self._may_preempt(job, terms, waiting) if self.hoped else None
        if beneath is None:
            return None
        now = self._out.now
        soon = now + TOGETHER_S if self._entitled else now
        young = [at for victim in beneath if (at := self._old_at(victim)) > soon]
        old = sorted([victim for victim in beneath if self._old_at(victim) <= soon] if young else beneath)
        found = self._make_room(job, terms, old, others(terms, lingers_s(old))) if old or self._left else None
        waits = young if found is None else [at for each in found[1] if (at := self._old_at(each)) > now]
        if waits:
            self.look_again(min(waits))
        return None if waits else found

    def stop(self, victims: Iterable[Victim], kept: Reservation) -> None:
        """Stop those who give way, for whom what they leave is kept."""
        for victim in victims:
            jobs.stop(self._world, self._out, victim.active, StopCause.PREEMPTED)
            self._gone.add(victim.job)
            self._leave_what_they_have(victim.active)
        self._take(kept)
        self._served += self._looks

    def _leave_what_they_have(self, active: ActiveJob) -> None:
        for part in active.state.allocation.parts:
            self._leaving[part.node] = None
            self._left.update(dict.fromkeys(part.gpus, part.node))

    def _take(self, kept: Reservation) -> None:
        for part in kept.allocation.parts if kept.taken else ():
            self._kept_on.setdefault(part.node, []).append(part)
            for gpu in part.gpus:
                self._left.pop(gpu, None)

    def plan(self, job: JobId, terms: Terms, others: Callable[[Terms, Seconds], Holds]) -> Reservation | None:
        """Return what a job may have for whom nobody can be stopped yet; None where nobody will be, but others end.

        It is for the moment at which those who give way have run for long enough, and those who do not have ended.
        Nobody is bound by it to give way: whoever's turn it is then is decided then.
        """
        entitled = self._entitled or quota.guaranteed(self._world, terms)
        waiting = self._world.waiting(job) if entitled and self._served < MOST else None
        beneath = self._may_preempt(job, terms, waiting)
        if not beneath:
            return None
        count, giving = terms.demand.nodes, by_node(beneath)
        rooms, holds = self._world.spaces.rooms, others(terms, lingers_s(beneath))
        wanted = 0 if terms.demand.shared else terms.demand.gpus // count
        bounds: list[tuple[Timestamp, NodeName, list[_Leaves]]] = []
        for name in rooms if count > 1 else giving.keys() & rooms.keys():
            leave = self._leave(rooms[name], giving.get(name, []))
            bound = _bound(rooms[name], leave, wanted)
            if bound is not None:
                bounds.append((max(bound, self._out.now), name, leave))
        found: list[tuple[Timestamp, NodeName, Option]] = []
        for bound, name, leave in sorted(bounds, key=_first_two):
            if len(found) >= count and bound >= found[count - 1][0]:
                break
            planned = self._plan_on(terms, rooms[name], leave, bound, holds.get(name))
            if planned is not None:
                insort(found, (planned[0], name, planned[1]), key=_first_two)
        chosen = [option for *_, option in found[:count]]
        victims, parts = victims_of(chosen), [option.part for option in chosen]
        stops_at = found[count - 1][0] if len(found) >= count else self._out.now
        if stops_at <= self._out.now or not victims or (count > 1 and not self._may_all(terms, victims)):
            return None
        return Reservation(
            job=job,
            at=max([Timestamp(stops_at + lingers_s(victims)), *(state.kill_at for _, state in self.going(parts))]),
            allocation=joined(parts),
            yielding=frozenset(victim.job for victim in victims),
            stops_at=stops_at,
        )

    def _may_preempt(self, job: JobId, terms: Terms, waiting: Parked | None) -> list[Victim] | None:
        """Return those who run that a job may preempt, had they run for long enough; None where it may not start."""
        world = self._world
        beside = () if quota.unlimited(world) else quota.promised(world)
        if waiting is None or quota.over(world, terms, self._out.now, beside) is not None:
            return None
        return self._beneath(job, waiting)

    def _old_at(self, victim: Victim) -> Timestamp:
        """Return when a job has run for long enough to give way."""
        return Timestamp(victim.since + self._world.rules.preempt_after_s)

    def look_again(self, at: Timestamp) -> None:
        """Have this asked again by then, with nothing else happening."""
        self.look_at = at if self.look_at is None else min(self.look_at, at)

    def _make_room(
        self, job: JobId, terms: Terms, among: list[Victim], holds: Holds
    ) -> tuple[Reservation, list[Victim]] | None:
        chosen = self._cheapest(terms, among, holds)
        if chosen and terms.demand.nodes > 1 and any(each.active.state.allocation.rest for each in among):
            # A gang that goes loses once what it loses, on however many nodes: as if it lost a part of that on each.
            whole = {each.job: each for each in among}
            apart = [each._replace(lost_s=each.lost_s / len(each.active.state.allocation.parts)) for each in among]
            both = chosen, self._cheapest(terms, sorted(apart), holds)
            by_set = [([whole[each.job] for each in victims_of(options)], options) for options in both]
            victims, chosen = min(by_set, key=lambda each: lost_by(each[0]))
        else:
            victims = victims_of(chosen)
        if not chosen or (terms.demand.nodes > 1 and not self._may_all(terms, victims)):
            return None
        kept = self._kept(job, terms, victims, [option.part for option in chosen])
        return None if kept is None else (kept, victims)

    def _cheapest(self, terms: Terms, among: list[Victim], holds: Holds) -> list[Option]:
        """Return what making room on as many nodes as are needed would cost on each; nothing where it cannot be."""
        beneath = by_node(among)
        count, rooms = terms.demand.nodes, self._world.spaces.rooms
        wanted = 0 if terms.demand.shared else terms.demand.gpus // count
        left = set(self._left.values()) if self._entitled else set[NodeName]()
        # The least that a node may cost: nothing, where enough may be there without victims, else who stands worst.
        least = [
            (beneath[name][0].stands if name in beneath and name not in self._leaving else -inf, name)
            for name in (rooms if count > 1 else rooms.keys() & (beneath.keys() | left))
            if name in self._leaving or _may_have(rooms[name], beneath.get(name, ()), wanted)
        ]
        found: list[tuple[Cost, NodeName, Option]] = []
        self._looks = len(least)
        for stands, name in sorted(least):
            if len(found) >= count and stands > found[count - 1][0][0]:
                break
            below = found[count - 1][0] if len(found) >= count else (inf, inf)
            those, kept = beneath.get(name, []), self._kept_on.get(name, ())
            option = cheapest(self._world, terms, rooms[name], those, holds.get(name), kept, below)
            if option is not None:
                insort(found, (option.cost, name, option), key=_first_two)
        return [option for _, _, option in found[:count]] if len(found) >= count else []

    def _kept(self, job: JobId, terms: Terms, victims: list[Victim], parts: list[Allocation]) -> Reservation | None:
        """Return what these leave to a job, and those who are being stopped already; None where nobody is.

        For whom they are is not known any more after a restart. If it were not kept for whom they may have been
        stopped, others would have it reserved, and more would be stopped.
        """
        world, going = self._world, self.going(parts)
        if not victims and not quota.guaranteed(world, terms):
            waiting = world.waiting(job)
            if waiting is None or not any(self._gave_way(each, state, terms, waiting.place) for each, state in going):
                return None
        gone_at = [state.kill_at for _, state in going]
        if victims:
            gone_at.append(Timestamp(self._out.now + lingers_s(victims)))
        if not gone_at:
            return None
        return Reservation(
            job=job,
            at=max(gone_at),  # sooner they may still be there
            allocation=joined(parts),
            passing=Passing.NOBODY,
            taken=True,
            yielding=frozenset(victim.job for victim in victims),
        )

    def forget(self) -> None:
        """Ask anew who runs, and for whom is what those leave who are being stopped: others have reserved it."""
        self._running = None

    def going(self, parts: list[Allocation]) -> list[tuple[ActiveJob, Stopping]]:
        """Return those who are being stopped on these GPUs."""
        world = self._world
        holders = {holder for part in parts for gpu in part.gpus for holder in world.gpus[gpu].holders}
        actives = [world.active[job] for job in holders]
        return [(active, state) for active in actives if isinstance(state := active.state, Stopping)]

    def _leave(self, room: Room, beneath: list[Victim]) -> list[_Leaves]:
        """Return from when on those on a node are not in the way any more, in order, who give way and who do not."""
        world, now, giving = self._world, self._out.now, {victim.job: victim for victim in beneath}
        leave = []
        for job in room.node.held:
            active, victim = world.active[job], giving.get(job)
            if not isinstance(active.state, Stopping):  # for these everybody waits
                ends_at = freed_at(world, active, now)
                old_at = ends_at if victim is None else max(now, self._old_at(victim))
                leave.append(_Leaves(min(ends_at, old_at), active, victim if old_at < ends_at else None))
        return sorted(leave, key=_first)

    def _plan_on(
        self, terms: Terms, room: Room, leave: list[_Leaves], bound: Timestamp, hold: Hold | None
    ) -> tuple[Timestamp, Option] | None:
        """Return when, not before that bound, there is room on one node as others end and give way, and how."""
        future, giving = room.copy(), list[Victim]()
        now: tuple[Timestamp, list[_Leaves]] = (self._out.now, [])
        for at, those in [now, *((at, list(those)) for at, those in groupby(leave, key=_first))]:
            for _, active, victim in those:
                if victim is None:
                    give_back(future, active)
                else:
                    giving.append(victim)
            if at < bound:
                continue
            option = cheapest(self._world, terms, future, sorted(giving), hold, self._kept_on.get(room.name, ()))
            if option is not None:
                return at, option
        return None

    def _gave_way(self, active: ActiveJob, state: Stopping, terms: Terms, place: Place) -> bool:
        """Return whether a job that is being stopped may have been preempted for this one."""
        world, preempted = self._world, state.cause is StopCause.PREEMPTED and active.job in self._world.preemptible
        return preempted and outranks(world, place, terms, active.place, active.terms)

    def _beneath(self, job: JobId, waiting: Parked) -> list[Victim]:
        """Return those who run that this job may preempt, had they run for long enough."""
        world, now, terms = self._world, self._out.now, waiting.terms
        standing = world.policy.standing(waiting.place) if self._own else inf
        found: list[Victim] = []
        running = self._runs()
        if not world.preemptible and not world.tenants:  # it is by the policy's order, and for no other reason
            running = [each for each in running if each[0] > standing] if self._worst > standing else []
            found = [
                as_victim(-holding, active, now) for holding, active in running if active.terms.preemptible is not False
            ]
            return [each for each in found if each.job not in self._gone] if self._gone else found
        for holding, active in running:
            if active.job in self._gone:
                continue
            said = active.terms.preemptible
            yields = by_priority(world, active, job, waiting)
            own = (yields or (said is not False and standing < holding)) and not protected(self._world, terms, active)
            if own or (world.tenants and quota.may_reclaim(world, terms, active)):
                found.append(as_victim(-holding, active, now, borrowed=not own))
        return found

    def _may_all(self, terms: Terms, victims: list[Victim]) -> bool:
        """Return whether a gang may preempt on all its nodes at once what it may preempt on each."""
        return all(gives_way(self._world, terms, victim, victims[:at]) for at, victim in enumerate(victims))


def _may_have(room: Room, beneath: Iterable[Victim], gpus: int) -> bool:
    """Return whether a node may have that many GPUs once these gave way."""
    missing = gpus - len(room.free)
    for each in beneath if missing > 0 else ():
        missing -= len(room.node.held[each.job].shares)
        if missing <= 0:
            break
    return missing <= 0


def _bound(room: Room, leave: list[_Leaves], gpus: int) -> Timestamp | None:
    """Return a moment before which a node cannot have that many GPUs; None if it never has."""
    held, leaving = room.node.held, {active.job for _, active, _ in leave}
    missing = gpus - len(room.free) - sum(len(part.shares) for job, part in held.items() if job not in leaving)
    if missing <= 0:
        return Timestamp(0.0)
    for at, active, _ in leave:
        missing -= len(held[active.job].shares)
        if missing <= 0:
            return at
    return None
