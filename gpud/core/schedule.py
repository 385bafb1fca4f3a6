"""The loop over the lines: who starts now, and why everyone else waits.

Jobs are considered in the policy's order. What fits starts; what does not closes its demand for this cycle, for
nobody after it in the same demand fits either. The first jobs that capacity blocks reserve, and who could delay them
is passed over. Whoever has waited longest reserves too, once that is longer than anybody should: see `Rules`;
and who has waited so long for a quota has it kept: see `patience`. Demands of which nobody can start are left out once
nothing can be reserved any more: see `sleeping`.

Cost: O(demands + lines passed over + starts x log lines), whatever the length of the queue.
"""

from heapq import heapify, heappop, heappush, heapreplace

from gpud.core import arrays, patience, quota
from gpud.core.claims import Passing
from gpud.core.giving import Giving
from gpud.core.guard import Guard
from gpud.core.out_of_turn import OutOfTurn
from gpud.core.outcome import Outcome
from gpud.core.queue import Group, Head, Line, job_of
from gpud.core.rivals import Rivals, Slots
from gpud.core.sleeping import Sleeping
from gpud.core.survey import refresh
from gpud.core.waits import Barred, Full, Wait, YieldsTo
from gpud.core.world import World
from gpud.model.gpu import Allocation
from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms

RESERVE_TRIES = 16  # a job that waits for no end of another (a foreign process) is passed over; not for ever


def schedule(world: World, out: Outcome) -> None:
    """Start every job that may start now, in order; those that capacity blocks first reserve."""
    queue = world.queue
    world.blocked.clear()
    world.lacking.clear()
    for line in world.aside:
        queue.let_in(line)
    world.aside.clear()
    patience.keep(world, out.now)
    if world.eased:
        patience.open_shut(world)
    world.rethink_at = None
    if len(queue) and world.policy.refresh(out.now):
        queue.rank_anew()
    if world.paused is not None or not len(queue):
        world.reservations.clear()
        return
    refresh(world, out.now)
    _Round(world, out).run()


class _Round:
    """One pass over the queue."""

    def __init__(self, world: World, out: Outcome) -> None:
        self.world, self.now = world, out.now
        self.giving = giving = Giving(world, out)
        self.guard, self.preemption, self.reserving = giving.guard, giving.preemption, giving.reserving
        self.kept, self.made, self.looking, self.unlimited = giving.kept, giving.made, giving.looking, giving.unlimited
        self.slots = Slots(world.rules.reservations if world.policy.reserves else 0)
        self.waiting: set[Rivals] | None = None  # of all demands, once that is asked
        self.tries = RESERVE_TRIES
        self.sleeping: Sleeping | None = None  # once whoever is blocked can neither reserve nor preempt
        # What was found not to fit under these claims; and why, if it is not for lack of anything.
        self.closed: dict[tuple[Group, tuple[int, ...]], Wait | None] = {}
        self.tried: dict[Line, int] = {}  # how many of a line have been blocked
        # Heads of groups, and (with their lines) blocked jobs behind them that may reserve too.
        self.heads: list[Head] = []

    def run(self) -> None:
        world, queue = self.world, self.world.queue
        OutOfTurn(self.giving).serve()
        heads = self.heads = queue.heads()
        self.preemption.hoped = self.preemption.possible
        while heads:
            rank, entry, group, behind = heads[0]
            if self.sleeping is None:
                group.asleep = None  # it is asked in full, and what has grown is told only once
            if behind is not None:
                heappop(heads)
                self._reserve(behind, job_of(entry), preempts=not isinstance(behind.aside, YieldsTo))
                continue
            first = queue.first(group)
            if first is None or (self.looking and group.demand in self.looking):
                heappop(heads)
            elif first[1] is not entry or first[0] != rank:
                heapreplace(heads, (first[0], first[1], group, None))
            elif not queue.moved(first[2]):  # what others of its kin got may have moved a line: it is looked at again
                was_awake = self.sleeping is None
                if not self._consider(first[2], job_of(entry)):
                    heappop(heads)
                    if not world.rules.backfill:
                        break
                if was_awake and self.sleeping is not None:
                    sleeps_on = self.sleeping.sleeps_on
                    heads = self.heads = [each for each in heads if each[3] is None and not sleeps_on(each[2])]
                    heapify(heads)
        world.sooner.clear()
        world.early = False
        if self.sleeping is None:  # else those who sleep know it by its place
            for job in [each for each in self.made if each not in queue] if self.made else ():
                del self.made[job]  # it has started elsewhere
        self.made.update(self.giving.unseen)
        if not len(queue):
            return
        starves_at = None if world.rail.job is not None else world.rail.again_at
        wakes = (world.policy.wake_at(self.now), starves_at, self.preemption.look_at)
        world.rethink_at = min([at for at in wakes if at is not None], default=None)

    def _is_idle(self) -> bool:
        """Return whether nothing is to be done any more for who does not fit. (Who is over a quota is shut out.)"""
        if not self.world.rules.backfill or self.preemption.hoped or not self.unlimited:
            return False
        if self.waiting is None:
            self.waiting = {self._rivals(demand) for demand in self.world.queue.demands()}
        return self.tries <= 0 or not self.slots.any(self.waiting)

    def _rivals(self, demand: Demand) -> Rivals:
        return self.world.suiting.of(demand, self.world.gpus.values())

    def _may_reserve(self, rivals: Rivals) -> bool:
        return self.tries > 0 and self.slots.open(rivals)

    def _consider(self, line: Line, job: JobId) -> bool:
        """Start a line's first job, or say why not. Return whether the demand is still open to others."""
        world, terms = self.world, line.terms
        sleeping = self.sleeping
        if sleeping is not None and self.giving.gave and sleeping.falls_asleep(line.group):
            return False
        wait = None if self.unlimited and terms.demand.pool is None else quota.over(world, terms, self.now)
        if wait is not None:
            patience.shut(world, line, wait)
            return True
        wait = None if self.unlimited and not world.patience.kept else self.giving.yields(job, terms)
        if wait is not None:
            self._set_aside(line, wait)
            return True
        binding = self.guard.binding(job, terms)
        allocation, closed = None, (line.group, binding)
        known = None if sleeping is None else self.closed.get(closed)
        if known is not None:
            self._set_aside(line, known)
            return True
        if closed not in self.closed:
            allocation = self.guard.best(terms, binding)
            if allocation is not None and job in self.kept:
                allocation = self._sparing(line, job, allocation)
                if allocation is None:
                    return True
        if allocation is None:
            self.closed[closed] = None
            more = self._no_room(line, job, binding)
            if self.sleeping is None and self._is_idle():
                self.sleeping, self.giving.gave = Sleeping(world, self.guard), False
            return more
        return self.giving.give(job, terms, allocation, binding)

    def _sparing(self, line: Line, job: JobId, allocation: Allocation) -> Allocation | None:
        """Return what who fits gets, so that others have what they reserved; None where it waits for its own."""
        spared = None
        for alike in (True, False):
            spared = self.reserving.sparing(job, alike=alike)
            found = None if spared is None else spared.best(line.terms, spared.binding(job, line.terms))
            if found is not None:
                return found
        if spared is not None and self.kept[job].at > self.now:
            self._reserve(line, job, preempts=False)
            if job in self.made:
                self._set_aside(line, YieldsTo(*spared.last))
                return None
        return allocation

    def _no_room(self, line: Line, job: JobId, binding: tuple[int, ...]) -> bool:
        """Say why a line's first job does not fit; return whether another with its demand might.

        Where the reservations of others are all that is in its way, a shorter job may go first; where nothing but what
        runs is, nobody may, and the job may reserve.
        """
        world, demand = self.world, line.terms.demand
        standing = self.guard.standing(binding) if binding else ()
        if len(standing) < len(binding) and world.spaces.fits(demand, self.guard.holds(standing)):
            claimed = next(self.guard.claimed[index] for index in binding if index not in standing)
            assert claimed.reservation is not None  # noqa: S101 - it does not stand
            wait: Wait = YieldsTo(claimed.reservation.job, claimed.reservation.clear_at)
            taken = self.guard.taken if self.preemption.possible else ()  # nobody passes these, however short
            preempts = bool(taken) and not world.spaces.fits(demand, self.guard.holds((*standing, *taken)))
            more = self._reserve(line, job, preempts=preempts)
            if preempts and job in self.made and self.made[job].taken:
                wait = Full()
            if not standing and not more and self.guard.binds_all(line.group, binding):
                world.blocked[demand] = wait
                return False
            self.closed[line.group, binding] = wait
            self._set_aside(line, wait)
            return True
        more = self._reserve(line, job) and world.rules.backfill
        if not standing and not more:
            world.blocked[demand] = Full()
            return False
        claim = self.guard.decisive(demand, standing) if standing and world.spaces.fits(demand) else None
        self._set_aside(line, Full() if claim is None or (claim.only and claim.pool) else Barred(claim))
        return True

    def _set_aside(self, line: Line, wait: Wait) -> None:
        self.world.queue.set_aside(line, wait)
        self.world.aside.append(line)

    def _reserve(self, line: Line, job: JobId, *, preempts: bool = True) -> bool:
        """Reserve for a blocked job of a line; return whether there may be more for others with its demand, in turn.

        It does not preempt where there is room that is only reserved.
        """
        more = self._reserve_for(job, line.terms, preempts=preempts)
        if more:
            tried = self.tried[line] = self.tried.get(line, 0) + 1
            for following in self.world.queue.following(line, tried + 1)[tried:]:
                heappush(self.heads, (line.rank, following, line.group, line))
        return more

    def _reserve_for(self, job: JobId, terms: Terms, *, preempts: bool) -> bool:
        """Reserve what was reserved before, what a job may preempt (for its elements, too), or its earliest start.

        Return whether others can have as much: of whom they may preempt, or since more of the blocked may reserve.
        """
        world, made = self.world, self.made
        if self.sleeping is not None:
            return False
        rivals = self._rivals(terms.demand)
        if not self.slots.open(rivals):
            self.slots.close(rivals)
        if not (made or self.preemption.possible or self._may_reserve(rivals)):
            return False
        preempted = job in made and made[job].taken
        while job not in made and job in world.queue and not arrays.full(world, job, made):
            may = self._may_reserve(rivals)
            asks = preempts and self.preemption.possible
            stopped = asks and self.giving.preempt(job, terms, Passing.LONGEST if may else None)
            if stopped is None:
                self.tries -= 1
                self._take_slot(rivals)
            elif not stopped:
                if may:
                    self.tries -= 1
                    if not self.giving.claim_start(job, terms, preempts=preempts):
                        if made and self.reserving.soonest(job, terms, Guard(world, self.now)) is not None:
                            self.slots.close(rivals)  # what others reserve after it would be its own once these started
                        return False
                    if arrays.more(world, job):  # the next elements come before others: no names yet to reserve under
                        self.slots.close(rivals)
                    self._take_slot(rivals)
                break
            preempted = True
        return (preempted and world.policy.reserves) or self._may_reserve(rivals)

    def _take_slot(self, rivals: Rivals) -> None:
        """Count what was reserved last as one of so many."""
        kept = next(reversed(self.made.values()))
        self.slots.take(rivals, (self.world.gpus[gpu] for gpu in kept.allocation.all_gpus))
