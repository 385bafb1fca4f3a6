"""What one round gives to whom: starts, what is reserved, and who is stopped for it.

A job that may start has it from here, whoever's turn it is (see `schedule` and `out_of_turn`).
"""

from dataclasses import replace

from gpud.core import arrays, jobs, patience, quota
from gpud.core.backfill import SOON_S, back_at, latest_end
from gpud.core.claims import Passing, Reservation
from gpud.core.guard import Guard
from gpud.core.outcome import Outcome
from gpud.core.preemption import MOMENT_S, Preemption
from gpud.core.queue import owner_of
from gpud.core.reserving import Reserving
from gpud.core.survey import stale
from gpud.core.victims import Victim, takes_over
from gpud.core.waits import Looking, YieldsTo
from gpud.core.world import World
from gpud.model.gpu import Allocation
from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms
from gpud.model.units import Timestamp


class Giving:
    """What is there to be given in one round, and what was.

    `made` is what is reserved in this round, `unseen` what is there of it and looked at first, `looking` for which
    demands GPUs are. `gave`: something was given since that was last said to be false.
    """

    def __init__(self, world: World, out: Outcome) -> None:
        self.world, self.out, self.now = world, out, out.now
        self.guard = Guard(world, out.now)
        self.preemption = Preemption(world, out)
        self.reserving = Reserving(world, self.guard, self.now)
        self.kept, self.made = self.reserving.kept, self.reserving.made
        self.unlimited = quota.unlimited(world)
        self.looking: set[Demand] = set()
        self.unseen: dict[JobId, Reservation] = {}
        self.gave = False

    def may(self, job: JobId, terms: Terms) -> bool:
        """Return whether no quota is in a job's way, nor somebody who waits for one."""
        return quota.over(self.world, terms, self.now) is None and self.yields(job, terms) is None

    def yields(self, job: JobId, terms: Terms) -> YieldsTo | None:
        """Return for whom a job waits whose quota it would use: who has waited for too long, or has others stopped."""
        return patience.yields(self.world, job, terms, self.now) or self.promised(job, terms)

    def promised(self, job: JobId, terms: Terms) -> YieldsTo | None:
        """Return who has others stopped, and would be over a quota if a job had started when these are gone."""
        world = self.world
        if self.unlimited or not self.preemption.possible:
            return None
        theirs = quota.taken(world, (*self.made.values(), *self.unseen.values()), job)
        if not theirs:
            return None
        gone = [
            each for each, _ in self.preemption.going([part for _, kept in theirs for part in kept.allocation.parts])
        ]
        if quota.over(world, terms, self.now, [each for each, _ in theirs], gone) is None:
            return None
        _, kept = max(theirs, key=lambda each: (each[0].user == terms.user, each[0].tenant == terms.tenant))
        return YieldsTo(kept.job, kept.clear_at)

    def serve(self, job: JobId, terms: Terms) -> bool | None:
        """Start a job out of turn; None if it does not fit, False if its GPUs must be looked at first."""
        binding = self.guard.binding(job, terms)
        allocation = self.guard.best(terms, binding)
        if allocation is None:
            return None
        given = self.give(job, terms, allocation, binding)
        if not given:
            self.looking.add(terms.demand)
        return given

    def give(self, job: JobId, terms: Terms, allocation: Allocation, binding: tuple[int, ...]) -> bool:
        """Start a job; False if its GPUs must be looked at first, and are given to nobody meanwhile."""
        world, now = self.world, self.now
        unseen = stale(world, terms.demand, allocation, now) if world.real else ()
        world.spaces.take(allocation)
        self.guard.took(binding, allocation)
        self.gave = True
        if unseen:
            world.dirty.update(part.node for part in allocation.parts)
            world.blocked[terms.demand] = Looking(tuple(unseen))
            return False
        if job in world.arrays:
            job = arrays.first(world, job, [each for each, kept in self.made.items() if kept.taken])
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

    def preempt(self, job: JobId, terms: Terms, waits: Passing | None = None) -> bool | None:
        """Stop those that must give way to a job, and keep what they have for it; False where none may be.

        None: it has reserved what others leave by themselves as soon, which it may where `waits` says who passes it.
        """
        found = self.preemption.find(job, terms, self.reserving.others)
        if found is not None and found[1] and waits is not None and self._waits(job, terms, waits, found[0].at):
            return None
        return (found is not None and self._keep_for(job, *found)) or self._take_over(job, terms)

    def _waits(self, job: JobId, terms: Terms, passing: Passing, at: Timestamp) -> bool:
        """Reserve what others leave a job by themselves as soon as those who give way by `at`; False where none do."""
        own = self.reserving.soonest(job, terms, self.guard)
        if own is None or not self.now < own.at <= at - jobs.KILL_SLACK_S or self._overrun(own):
            return False
        self.preemption.look_again(own.at)  # they may not have ended
        job = arrays.first_of(self.world, job)
        arrays.unfold_named(self.world, self.out, [job])
        return self.claim_start(job, terms, passing, preempts=False)

    def _overrun(self, own: Reservation) -> bool:
        """Return whether who is in the way has not ended as expected: it may run for long."""
        world = self.world
        for part in own.allocation.parts:
            for job, held in world.nodes[part.node].held.items():
                counted = (part.cpus and held.cpus) or (part.memory_mib and held.memory_mib)
                in_the_way = counted or not set(part.gpus).isdisjoint(held.gpus)
                if in_the_way and latest_end(world, world.active[job]) < self.now - SOON_S:
                    return True
        return False

    def _keep_for(self, job: JobId, preempting: Reservation, victims: list[Victim]) -> bool:
        """Stop these, and keep what they leave; False where it would not be there."""
        kept = replace(preempting, job=arrays.first_of(self.world, job))
        if not self.guard.reserve(kept):
            return False
        self.preemption.stop(victims, kept)
        arrays.unfold_named(self.world, self.out, [kept.job])  # others may be preempted for the next element as well
        self.made[kept.job] = replace(kept, yielding=frozenset())
        return True

    def _take_over(self, job: JobId, terms: Terms) -> bool:
        """Keep for a job what those leave who were stopped for others clearly beneath it; False where that will not do.

        Who had it stays with what the job leaves of it, and comes in its own turn for more.
        """
        theirs = [kept for kept in self.made.values() if kept.taken and takes_over(self.world, job, kept.job)]
        if not theirs:
            return False
        for kept in theirs:
            del self.made[kept.job]
        self.guard.release([kept.job for kept in theirs])
        self.preemption.forget()
        found = self.preemption.find(job, terms, self.reserving.others)
        taken = found is not None and self._keep_for(job, *found)
        for kept in theirs:
            at = back_at(self.world, kept.allocation, self.now)
            if at is None or not self.reserving.keep_taken(kept, at):
                self.kept.pop(kept.job, None)
        self.preemption.forget()
        if taken:  # what it leaves of theirs others may have
            self.preemption.look_again(Timestamp(self.now + MOMENT_S))
        return taken

    def claim_start(
        self, job: JobId, terms: Terms, passing: Passing = Passing.LONGEST, *, preempts: bool = True
    ) -> bool:
        """Reserve a job's earliest start: once others have ended, or can be stopped for it."""
        plan = self.preemption.plan(job, terms, self.reserving.others) if preempts else None
        return self.reserving.claim(job, terms, passing, plan)
