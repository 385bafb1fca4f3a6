"""The loop over the lines: who starts now, and why everyone else waits.

Jobs are considered in the policy's order. What fits starts; what does not closes its demand for this cycle, for
nobody after it in the same demand fits either. The first jobs that capacity blocks reserve, and who could delay them
is passed over. Whoever has waited longest reserves too, once that is longer than anybody should: see `Rules`;
and who has waited so long for a quota has it kept: see `patience`. Demands of which nobody can start are left out once
nothing can be reserved any more: see `sleeping`.

Cost: O(demands + lines passed over + starts x log lines), whatever the length of the queue.
"""

from dataclasses import replace
from heapq import heapify, heappop, heappush, heapreplace

from gpud.core import arrays, jobs, patience, quota
from gpud.core.backfill import back_at
from gpud.core.claims import Passing, Reservation
from gpud.core.guard import Guard
from gpud.core.outcome import Outcome
from gpud.core.preemption import Preemption
from gpud.core.queue import Group, Head, Line, job_of, owner_of
from gpud.core.reserving import Reserving
from gpud.core.sleeping import Sleeping
from gpud.core.starvation import gangs, starving
from gpud.core.survey import refresh, stale
from gpud.core.waits import Barred, Full, Looking, Wait, YieldsTo
from gpud.core.world import World
from gpud.model.gpu import Allocation
from gpud.model.job import Demand, JobId, array_of
from gpud.model.spec import Terms

MOST_OWED = 16  # demands of tenants that reserve what is guaranteed to these, however many others reserve
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
    if world.paused is not None or not len(queue):
        world.reservations.clear()
        return
    refresh(world, out.now)
    if world.policy.refresh(out.now):
        queue.rank_anew()
    _Round(world, out).run()


class _Round:
    """One pass over the queue. `slots` is how many more blocked jobs may reserve."""

    def __init__(self, world: World, out: Outcome) -> None:
        self.world, self.out, self.now = world, out, out.now
        self.guard = Guard(world, out.now)
        self.preemption = Preemption(world, out)
        self.slots = world.rules.reservations if world.policy.reserves else 0
        self.tries, self.owed = RESERVE_TRIES, MOST_OWED
        self.unlimited = quota.unlimited(world)
        self.reserving = Reserving(world, self.guard, self.now)
        self.kept, self.made = self.reserving.kept, self.reserving.made
        self.sleeping: Sleeping | None = None  # once whoever is blocked can neither reserve nor preempt
        # What was found not to fit under these claims; and why, if it is not for lack of anything.
        self.closed: dict[tuple[Group, tuple[int, ...]], Wait | None] = {}
        self.looking: set[Demand] = set()
        self.unseen: dict[JobId, Reservation] = {}  # what is there of it, and looked at first
        self.vain: set[tuple[str, Demand]] = set()  # for which nobody can be preempted
        self.tried: dict[Line, int] = {}  # how many of a line have been blocked
        # Heads of groups, and (with their lines) blocked jobs behind them that may reserve too.
        self.heads: list[Head] = []

    def run(self) -> None:
        world, queue = self.world, self.world.queue
        self._serve_out_of_turn()
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
        self.made.update(self.unseen)
        if not len(queue):
            return
        starves_at = None if world.rail.job is not None else world.rail.again_at
        wakes = (world.policy.wake_at(self.now), starves_at, self.preemption.look_at)
        world.rethink_at = min([at for at in wakes if at is not None], default=None)

    def _is_idle(self) -> bool:
        """Return whether nothing is to be done any more for who does not fit. (Who is over a quota is shut out.)"""
        reserves, passed = self.slots > 0 and self.tries > 0, self.world.rules.backfill
        return passed and not reserves and not self.preemption.hoped and self.unlimited

    def _consider(self, line: Line, job: JobId) -> bool:
        """Start a line's first job, or say why not. Return whether the demand is still open to others."""
        world, terms = self.world, line.terms
        sleeping = self.sleeping
        if sleeping is not None and sleeping.again and sleeping.falls_asleep(line.group):
            return False
        wait = None if self.unlimited and terms.demand.pool is None else quota.over(world, terms, self.now)
        if wait is not None:
            self._shut(line, wait)
            return True
        wait = patience.yields(world, job, terms, self.now) if world.patience.kept else None
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
                self.sleeping = Sleeping(world, self.guard)
            return more
        return self._give(job, terms, allocation, binding)

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

    def _give(self, job: JobId, terms: Terms, allocation: Allocation, binding: tuple[int, ...]) -> bool:
        """Start a job; False if its GPUs must be looked at first, and are given to nobody meanwhile."""
        world, now = self.world, self.now
        unseen = stale(world, terms.demand, allocation, now) if world.real else ()
        world.spaces.take(allocation)
        self.guard.took(binding, allocation)
        if self.sleeping is not None:
            self.sleeping.again = True
        if unseen:
            world.dirty.update(part.node for part in allocation.parts)
            world.blocked[terms.demand] = Looking(tuple(unseen))
            return False
        self._start(job, terms, allocation)
        return True

    def _start(self, job: JobId, terms: Terms, allocation: Allocation) -> None:
        world = self.world
        kept = self.kept.pop(job, None)  # of an array: the next element is another job
        if kept is not None:  # from now on it is known when that ends: others may have something sooner
            world.sooner.update(part.node for part in (*kept.allocation.parts, *allocation.parts))
        world.patience.forget(job)
        active = jobs.start(world, self.out, job, terms, allocation)
        if world.policy.started(active, self.now):
            world.queue.rank_anew(owner_of(terms))

    def _shut(self, line: Line, wait: Wait) -> None:
        """Set a line aside until its tenant or its user has less."""
        self.world.queue.set_aside(line, wait)
        patience.shut(self.world, line, wait)
        for who in owner_of(line.terms):
            self.world.shut.setdefault(who, {})[line] = None

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
            wait = YieldsTo(claimed.reservation.job, claimed.reservation.clear_at)
            more = self._reserve(line, job, preempts=False)
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
        free = bool(standing) and world.spaces.fits(demand)
        self._set_aside(line, Barred(self.guard.decisive(demand, standing)) if free else Full())
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
        if self.sleeping is not None or not (made or self.slots > 0 or self.preemption.possible):
            return False
        preempted = job in made and made[job].taken
        while job not in made and job in world.queue and not arrays.full(world, job, made):
            if not (preempts and self._preempt(job, terms)):
                if self.slots > 0 and self.tries > 0:
                    self.tries -= 1
                    if not self._claim_start(job, terms, preempts=preempts):
                        if made and self.reserving.soonest(job, terms, Guard(world, self.now)) is not None:
                            self.slots = 0  # what others reserve after it would be its own once these have started
                        return False
                    # The next elements come before others, and have no names yet to reserve under.
                    self.slots = 0 if arrays.more(world, job) else self.slots - 1
                break
            preempted = True
        return (preempted and world.policy.reserves) or (self.slots > 0 and self.tries > 0)

    def _preempt(self, job: JobId, terms: Terms) -> bool:
        """Stop those that must give way to a job, and keep what they have for it; False where none may be."""
        found = self.preemption.find(job, terms, self.reserving.others)
        if found is None or not self.guard.reserve(found[0]):
            return False
        preempting, victims = found
        self.preemption.stop(victims, preempting)
        if job in self.world.arrays:  # for its first element: others may be preempted for the next one as well
            job = arrays.unfold_first(self.world, self.out, job)
        self.made[job] = replace(preempting, job=job, yielding=frozenset())
        return True

    def _claim_start(
        self, job: JobId, terms: Terms, passing: Passing = Passing.LONGEST, *, preempts: bool = True
    ) -> bool:
        """Reserve a job's earliest start: once others have ended, or can be stopped for it."""
        plan = self.preemption.plan(job, terms, self.reserving.others) if preempts else None
        return self.reserving.claim(job, terms, passing, plan)

    def _serve(self, job: JobId, terms: Terms) -> bool | None:
        """Start a job out of turn; None if it does not fit, False if its GPUs must be looked at first."""
        binding = self.guard.binding(job, terms)
        allocation = self.guard.best(terms, binding)
        if allocation is None:
            return None
        given = self._give(job, terms, allocation, binding)
        if not given:
            self.looking.add(terms.demand)
        return given

    def _serve_out_of_turn(self) -> None:
        """Start those who come before all others, whatever the policy says of them."""
        world = self.world
        if self.kept:
            self._serve_preemptors()
        if world.patience.kept:
            self._serve_patient()
        if world.rules.starvation_s:
            self._serve_gangs()
            self._serve_starving()
        if world.tenants:
            self._serve_guaranteed()

    def _serve_preemptors(self) -> None:
        """Start those for whom others were preempted, whoever's turn it is, or keep for them what is theirs."""
        world = self.world
        for job, kept in list(self.kept.items()):
            line = world.queue.line(job) if kept.taken else None
            if line is None or line.aside is not None or quota.over(world, line.terms, self.now) is not None:
                continue
            at = back_at(world, kept.allocation, self.now)
            if at is None:
                continue  # some of it has failed, say
            taken = replace(kept, at=at)
            if at > self.now:
                self.reserving.keep(taken, kept.passing)
            elif not self.guard.permits(line.terms, taken):
                continue
            elif not self._give(job, line.terms, kept.allocation, self.guard.binding(job, line.terms)):
                self.unseen[job] = kept
                self.looking.add(line.terms.demand)

    def _serve_patient(self) -> None:
        """Start those for whom quotas are kept, before others use them."""
        world = self.world
        for job in dict.fromkeys(world.patience.kept.values()):
            line = world.queue.line(job)
            if line is not None and line.aside is None and quota.over(world, line.terms, self.now) is None:
                self._serve(job, line.terms)

    def _may(self, job: JobId, terms: Terms) -> bool:
        """Return whether no quota is in a job's way, nor somebody who waits for one."""
        world = self.world
        return quota.over(world, terms, self.now) is None and patience.yields(world, job, terms, self.now) is None

    def _serve_gangs(self) -> None:
        """Start those on several nodes that have waited for long, where as many are free: since who starved ended."""
        full: set[Demand] = set()
        for job, terms in gangs(self.world, self.now):
            if terms.demand not in full and job not in self.made and self._may(job, terms):
                full |= set() if self._serve(job, terms) else {terms.demand}

    def _serve_starving(self) -> None:
        """Start who has waited longest, if that is too long, or reserve for it before everybody else."""
        world = self.world
        while (job := starving(world, self.now)) is not None:
            line = world.queue.line(job)
            assert line is not None  # noqa: S101 - it was found there
            terms = line.terms
            if job in self.made or not self._may(job, terms):
                return
            served = self._serve(job, terms)
            # To starve gives no right to preempt, and takes none: only who is clearly beneath it yields to it.
            if served is None and not self._preempt(job, terms):
                self._claim_start(job, terms, Passing.LIMIT if world.rail.strict_at <= self.now else Passing.LIKELY)
            if not served:
                return
            world.rail.job = None

    def _serve_guaranteed(self) -> None:
        """Give tenants what is guaranteed to them, in the policy's order, before anybody borrows it or keeps it."""
        owed, queue = quota.owed(self.world), self.world.queue
        lines = [line for line in queue.lines() if line.terms.tenant in owed and line.aside is None] if owed else []
        heads = [(line.rank, line.head, line) for line in lines if line.head is not None]
        heapify(heads)
        while heads:
            _, _, line = heappop(heads)
            if self._serve_one(line) and line.head is not None and line.aside is None:
                heappush(heads, (line.rank, line.head, line))

    def _serve_one(self, line: Line) -> bool:
        """Start the first of a line for whom nothing is reserved yet, or preempt for it; False where neither can be."""
        world, terms = self.world, line.terms
        entries = world.queue.following(line, len(self.made) + 2)
        waiting = [each for entry in entries if (each := job_of(entry)) not in self.made]
        if not waiting or (terms.tenant, terms.demand) in self.vain:
            return False
        job = next((each for each in waiting[1:] if array_of(each) == waiting[0]), waiting[0])  # an element that is out
        if arrays.full(world, job, self.made) or not quota.guaranteed(world, terms) or not self._may(job, terms):
            return False
        served = self._serve(job, terms)
        if served is not None:
            return served
        if self._preempt(job, terms):
            return True
        self.vain.add((terms.tenant, terms.demand))
        if self.owed > 0 and job not in self.made:
            self.owed -= 1
            self._claim_start(job, terms)
        return False
