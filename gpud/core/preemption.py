"""Who gives way to whom.

A blocked job may preempt jobs that are clearly beneath it: by priority, where they are preemptible; by the policy's
own order; or because they run on what is guaranteed to its tenant. Of all sets of victims that make room on one node
(on as many as it needs, for a gang) the one is taken whose members stand worst with the policy, then the one that
loses the fewest GPU-seconds. Nobody is preempted before they have run for `Rules.preempt_after_s`. What they held is
reserved for whom they were preempted for, and nobody else has it, however soon they are gone; they get their grace, and
go back to their place in the queue.

Where those who may give way do not suffice yet, for having run too briefly, or since others must end first who do not
give way, what they will leave is reserved for the moment at which they can: who comes in between has it until then.

A victim never outranks whom it gave way to, so who waits rises until nothing moves: there is no livelock.

Cost: O(active jobs) once in a cycle in which anybody may preempt at all, and for each blocked job that may.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from operator import itemgetter

from gpud.core import jobs, quota
from gpud.core.active import ActiveJob
from gpud.core.backfill import expected_end, limit_end
from gpud.core.claims import Passing, Reservation
from gpud.core.condition import RELEASE_S
from gpud.core.holds import Holds
from gpud.core.outcome import Outcome
from gpud.core.room import Hold, Room
from gpud.core.victims import Cost, Option, Victim, cheapest, give_back, lost_s, protected
from gpud.core.world import World
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import JobId, Running, StopCause, Stopping
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp

MOST = 64  # for so many is it done in one cycle: the others come to it a moment later, and nobody waits for an answer
MOMENT_S: Seconds = 1.0
_first = itemgetter(0)
_first_two = itemgetter(0, 1)


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
        self._leaving: dict[NodeName, None] = {}  # nodes of those who are being stopped
        self.look_at: Timestamp | None = None
        self.hoped = self.possible

    @property
    def possible(self) -> bool:
        """Return whether anybody may ever have to give way."""
        world = self._world
        return bool(world.preemptible or world.tenants) or world.policy.preemptive

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
                    self._leaving.update(dict.fromkeys(part.node for part in active.state.allocation.parts))
            holding = self._world.policy.holding(running, self._out.now) if self._own else [0.0] * len(running)
            self._running = list(zip(holding, running, strict=True))
            self._worst = max(holding, default=-inf)
        return self._running

    def preempt(self, job: JobId, terms: Terms, others: Callable[[Terms, Seconds], Holds]) -> Reservation | None:
        """Stop the jobs that must give way to this one and return what is reserved for it; None where none may.

        Or return what may be reserved for it, for when they can be stopped. `others` tells what others leave of the
        nodes to a job of these terms that starts within so long.
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
        found = self._make_room(job, terms, old, others(terms, _lingers_s(old))) if old or self._leaving else None
        self._served += found is not None
        if found is None and beneath and self._entitled:
            found = self._plan(job, terms, sorted(beneath), others(terms, _lingers_s(beneath)))
        spared = (victim.active.since for victim in beneath if victim.active.since > oldest)
        since = min(spared, default=None) if found is None or found.yielding else None
        if since is not None:
            self._look_again(Timestamp(since + world.rules.preempt_after_s))
        return found

    def carry_out(self, kept: Reservation, terms: Terms) -> Reservation | None:
        """Stop those who were to give way from now on; None where somebody need not any more, or it is too early."""
        world, waiting = self._world, self._world.waiting(kept.job)
        if waiting is None or kept.stops_at > self._out.now:
            self._look_again(kept.stops_at)
            return None
        victims = [each for each in self._beneath(terms, waiting.place) if each.job in kept.yielding]
        run = [job for job in kept.yielding if job in world.active and job not in self._gone]
        if len(victims) < len([job for job in run if not isinstance(world.active[job].state, Stopping)]):
            return None
        states = [world.gpus[gpu] for gpu in kept.allocation.all_gpus if gpu in world.gpus]
        stay = {holder for state in states for holder in state.holders} - kept.yielding
        if any(limit_end(world.active[job]) > kept.at for job in stay):
            return None  # who was to end before overruns: they would give way in vain
        self._stop(victims)
        going = [state.kill_at for job in run if isinstance(state := world.active[job].state, Stopping)]
        at = max([kept.at, *going])
        return replace(kept, at=at, passing=Passing.NOBODY, taken=True, yielding=frozenset(), stops_at=Timestamp(inf))

    def gone_at(self, kept: Reservation) -> Timestamp | None:
        """Return when those will be gone, as far as is known, who have what is reserved; None where nobody goes."""
        world, now = self._world, self._out.now
        states = [world.gpus[gpu] for gpu in kept.allocation.all_gpus if gpu in world.gpus]
        holders = {holder for state in states for holder in state.holders}
        ends = [expected_end(world, world.active[job], now) for job in holders]
        settled = [state.released_at + RELEASE_S for state in states if state.released_at is not None]
        return max((at for at in [*ends, *map(Timestamp, settled)] if at > now), default=None)

    def _stop(self, victims: Iterable[Victim]) -> None:
        for victim in victims:
            jobs.stop(self._world, self._out, victim.active, StopCause.PREEMPTED)
            self._gone.add(victim.active.job)
            self._leaving.update(dict.fromkeys(part.node for part in victim.active.state.allocation.parts))

    def _look_again(self, at: Timestamp) -> None:
        self.look_at = at if self.look_at is None else min(self.look_at, at)

    def _make_room(self, job: JobId, terms: Terms, among: list[Victim], holds: Holds) -> Reservation | None:
        beneath: dict[NodeName, list[Victim]] = {}
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
            if (count > 1 or name in beneath or (name in self._leaving and self._entitled))
            and (len(room.free) + gpus[name] >= wanted or name in self._leaving)  # else there cannot be enough
        ]
        found: list[tuple[Cost, int, Option]] = []
        for stands, order, name in sorted(least):
            if len(found) >= count and stands > found[count - 1][0][0]:
                break
            option = cheapest(self._world, terms, rooms[name], beneath.get(name, []), holds.get(name))
            if option is not None:
                insort(found, (option.cost, order, option), key=_first_two)
        if len(found) < count:
            return None
        chosen = [option for _, _, option in found[:count]]
        victims = list({each.active.job: each for option in chosen for each in option.victims}.values())
        if count > 1 and not self._may_all(terms, victims):
            return None
        self._stop(victims)
        gone = {victim.active.job for victim in victims}
        return self._kept(job, terms, gone, [option.part for option in chosen])

    def _kept(self, job: JobId, terms: Terms, victims: set[JobId], parts: list[Allocation]) -> Reservation | None:
        """Return what these leave to a job, and those who are being stopped already; None where nobody is.

        For whom they are is not known any more after a restart. If it were not kept for whom they may have been
        stopped, others would have it reserved, and more would be stopped.
        """
        world = self._world
        holders = {holder for part in parts for gpu in part.gpus for holder in world.gpus[gpu].holders}
        going = [active for each in victims | holders if isinstance((active := world.active[each]).state, Stopping)]
        if not victims and not quota.guaranteed(world, terms):
            waiting = world.waiting(job)
            if waiting is None or not any(self._gave_way(each, terms, waiting.place) for each in going):
                return None
        kill_at = [each.state.kill_at for each in going if isinstance(each.state, Stopping)]
        if not kill_at:
            return None
        return Reservation(
            job=job,
            at=max(kill_at),  # sooner they may still be there
            allocation=_joined(parts),
            passing=Passing.NOBODY,
            taken=True,
        )

    def _plan(self, job: JobId, terms: Terms, beneath: list[Victim], holds: Holds) -> Reservation | None:
        """Return what a job may have once those beneath it can be stopped; None where that is never enough."""
        world, count = self._world, terms.demand.nodes
        by_node: dict[NodeName, list[Victim]] = {}
        for victim in beneath:
            for part in victim.active.state.allocation.parts:
                by_node.setdefault(part.node, []).append(victim)
        rooms = world.spaces.rooms
        found: list[tuple[Timestamp, Cost, NodeName, Option]] = []
        for name in rooms if count > 1 else by_node.keys() & rooms.keys():
            planned = self._plan_on(terms, rooms[name], by_node.get(name, []), holds.get(name))
            if planned is not None:
                found.append((planned[0], planned[1].cost, name, planned[1]))
        if len(found) < count:
            return None
        chosen = sorted(found, key=itemgetter(0, 1, 2))[:count]
        victims = list({each.job: each for _, _, _, option in chosen for each in option.victims}.values())
        if not victims or (count > 1 and not self._may_all(terms, victims)):
            return None
        stops_at = max(at for at, *_ in chosen)
        return Reservation(
            job=job,
            at=Timestamp(stops_at + _lingers_s(victims)),
            allocation=_joined([option.part for *_, option in chosen]),
            passing=Passing.LIMIT,
            yielding=frozenset(victim.job for victim in victims),
            stops_at=stops_at,
        )

    def _plan_on(
        self, terms: Terms, room: Room, beneath: list[Victim], hold: Hold | None
    ) -> tuple[Timestamp, Option] | None:
        """Return when, and how, there is room on one node as others end and those beneath a job give way."""
        world, now = self._world, self._out.now
        future, giving = room.copy(), {victim.job for victim in beneath}
        stays = [world.active[job] for job in room.node.held if job not in giving]
        ends = [(expected_end(world, each, now), each) for each in stays if not isinstance(each.state, Stopping)]
        for at, active in [(now, None), *sorted(ends, key=_first)]:
            if active is not None:
                give_back(future, active)
            option = cheapest(self._world, terms, future, beneath, hold)
            if option is not None:
                old_at = [victim.active.since + world.rules.preempt_after_s for victim in option.victims]
                return Timestamp(max([at, *old_at])), option
        return None

    def _gave_way(self, active: ActiveJob, terms: Terms, place: Place) -> bool:
        """Return whether a job that is being stopped may have been preempted for this one."""
        state = active.state
        preempted = isinstance(state, Stopping) and state.cause is StopCause.PREEMPTED
        return preempted and self._outranks(place, terms, active)

    def _outranks(self, place: Place, terms: Terms, active: ActiveJob) -> bool:
        """Return whether a job gives way to another for its priority."""
        world = self._world
        return (
            world.policy.reserves  # else two orders, its own and this, could preempt in turns
            and active.job in world.preemptible
            and (not world.policy.personal or active.terms.user == terms.user)
            and place.priority >= active.place.priority + world.rules.preempt_margin
        )

    def _beneath(self, terms: Terms, place: Place) -> list[Victim]:
        """Return those who run that this job may preempt, had they run for long enough."""
        world = self._world
        standing = world.policy.standing(place) if self._own else inf
        by_order = not world.preemptible and not world.tenants  # and for no other reason
        found: list[Victim] = []
        running = self._runs()
        if by_order:
            running = [each for each in running if each[0] > standing] if self._worst > standing else []
        for holding, active in running:
            if active.job in self._gone:
                continue
            said = active.terms.preemptible
            yields = self._outranks(place, terms, active)
            own = (yields or (said is not False and standing < holding)) and not protected(self._world, terms, active)
            if own or (world.tenants and quota.may_reclaim(world, terms, active)):
                found.append(Victim(-holding, lost_s(active, self._out.now), active.job, active, borrowed=not own))
        return found

    def _may_all(self, terms: Terms, victims: list[Victim]) -> bool:
        """Return whether a gang may preempt on all its nodes at once what it may preempt on each."""
        actives = [victim.active for victim in victims]
        return all(
            quota.may_reclaim(self._world, terms, victim.active, actives[:at])
            for at, victim in enumerate(victims)
            if victim.borrowed
        )


def _lingers_s(victims: Iterable[Victim]) -> Seconds:
    """Return how long the last of them may still be there once they are stopped."""
    return max([victim.active.terms.grace_s for victim in victims], default=0.0) + jobs.KILL_SLACK_S


def _joined(parts: list[Allocation]) -> Allocation:
    """Return one allocation of several nodes' parts."""
    first, *rest = sorted(parts, key=lambda part: part.node)
    return replace(first, rest=tuple(rest)) if rest else first
