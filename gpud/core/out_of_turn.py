"""Who comes before all others, whatever the policy says of them.

Those for whom others were stopped have what these leave; who has waited for a quota for too long, or for GPUs, comes
next (see `patience` and `starvation`); then tenants have what is guaranteed to them.
"""

from dataclasses import replace
from heapq import heapify, heappop, heappush

from gpud.core import arrays, quota
from gpud.core.backfill import back_at
from gpud.core.claims import Passing
from gpud.core.giving import Giving
from gpud.core.queue import Line, job_of
from gpud.core.starvation import gangs, starving
from gpud.model.job import Demand, JobId, array_of
from gpud.model.spec import Terms

MOST_OWED = 16  # demands of tenants that reserve what is guaranteed to these, however many others reserve


class OutOfTurn:
    """One round of them."""

    def __init__(self, giving: Giving) -> None:
        self._giving = giving
        self._world, self._now = giving.world, giving.now
        self._owed = MOST_OWED
        self._vain: set[tuple[str, Demand]] = set()  # for which nobody can be preempted

    def serve(self) -> None:
        """Start them, or keep or reserve for them what they are to have."""
        world = self._world
        if self._giving.kept:
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
        world, giving = self._world, self._giving
        for job, kept in list(giving.kept.items()):
            line = world.queue.line(job) if kept.taken else None
            at = None if line is None else back_at(world, kept.allocation, self._now)
            if line is None or at is None:
                continue  # some of it has failed, say
            taken = replace(kept, at=at)
            if at > self._now:  # whatever quotas say: they count who is still to go
                giving.reserving.keep_taken(kept, at)
                continue
            if line.aside is not None or self._over(job, line.terms) or not giving.guard.permits(line.terms, taken):
                continue
            if not giving.give(job, line.terms, kept.allocation, giving.guard.binding(job, line.terms)):
                giving.unseen[job] = kept
                giving.looking.add(line.terms.demand)

    def _over(self, job: JobId, terms: Terms) -> bool:
        """Return whether a quota keeps a job, also once others have what is kept for them: that may be a guarantee."""
        world = self._world
        if quota.over(world, terms, self._now) is None:
            return False
        beside = [each for each, _ in quota.taken(world, self._giving.kept.values(), job)]
        return not beside or quota.over(world, terms, self._now, beside) is not None

    def _serve_patient(self) -> None:
        """Start those for whom quotas are kept, before others use them."""
        world = self._world
        for job in dict.fromkeys(world.patience.kept.values()):
            line = world.queue.line(job)
            if line is None or line.aside is not None or quota.over(world, line.terms, self._now) is not None:
                continue
            if self._giving.promised(job, line.terms) is None:
                self._giving.serve(job, line.terms)

    def _serve_gangs(self) -> None:
        """Start those on several nodes that have waited for long, where as many are free: since who starved ended."""
        full: set[Demand] = set()
        for job, terms in gangs(self._world, self._now):
            if terms.demand not in full and job not in self._giving.made and self._giving.may(job, terms):
                full |= set() if self._giving.serve(job, terms) else {terms.demand}

    def _serve_starving(self) -> None:
        """Start who has waited longest, if that is too long, or reserve for it before everybody else."""
        world, giving = self._world, self._giving
        while (job := starving(world, self._now)) is not None:
            line = world.queue.line(job)
            assert line is not None  # noqa: S101 - it was found there
            terms = line.terms
            if job in giving.made or arrays.full(world, job, giving.made) or not giving.may(job, terms):
                return
            served = giving.serve(job, terms)
            # To starve gives no right to preempt, and takes none: only who is clearly beneath it yields to it.
            passing = Passing.LIMIT if world.rail.strict_at <= self._now else Passing.LIKELY
            if served is None and giving.preempt(job, terms, passing) is False:
                giving.claim_start(job, terms, passing)
            if not served:
                return
            world.rail.job = None

    def _serve_guaranteed(self) -> None:
        """Give tenants what is guaranteed to them, in the policy's order, before anybody borrows it or keeps it."""
        owed, queue = quota.owed(self._world), self._world.queue
        lines = [line for line in queue.lines() if line.terms.tenant in owed and line.aside is None] if owed else []
        heads = [(line.rank, line.head, line) for line in lines if line.head is not None]
        heapify(heads)
        while heads:
            _, _, line = heappop(heads)
            if self._serve_one(line) and line.head is not None and line.aside is None:
                heappush(heads, (line.rank, line.head, line))

    def _serve_one(self, line: Line) -> bool:
        """Start the first of a line for whom nothing is reserved yet, or preempt for it; False where neither can be."""
        world, terms, giving = self._world, line.terms, self._giving
        entries = world.queue.following(line, len(giving.made) + 2)
        waiting = [each for entry in entries if (each := job_of(entry)) not in giving.made]
        if not waiting or (terms.tenant, terms.demand) in self._vain:
            return False
        job = next((each for each in waiting[1:] if array_of(each) == waiting[0]), waiting[0])  # an element that is out
        if arrays.full(world, job, giving.made) or not quota.guaranteed(world, terms) or not giving.may(job, terms):
            return False
        served = giving.serve(job, terms)
        if served is not None:
            return served
        stopped = giving.preempt(job, terms, Passing.LONGEST if self._owed > 0 else None)
        if stopped is not False:
            self._owed -= stopped is None
            return True
        self._vain.add((terms.tenant, terms.demand))
        if self._owed > 0:
            self._owed -= 1
            giving.claim_start(job, terms)
        return False
