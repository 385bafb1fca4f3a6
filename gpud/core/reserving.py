"""What who is blocked reserves: the earliest start that claims, and what others have reserved, leave to them.

See `backfill` for what a reservation is. Those of the last round are kept where they still can be, and each leaves the
others what is theirs.
"""

from collections.abc import Collection
from dataclasses import replace

from gpud.core.backfill import SOON_S, earliest
from gpud.core.claims import Passing, Reservation
from gpud.core.guard import Guard
from gpud.core.holds import Holds
from gpud.core.world import World
from gpud.model.gpu import NodeName
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

WINDOW_TRIES = 4  # windows in a row that a reservation is looked for after


class Reserving:
    """What is reserved in one round: `kept` from the last one, and `made` anew, which is the world's from now on."""

    def __init__(self, world: World, guard: Guard, now: Timestamp) -> None:
        self._world = world
        self._guard = guard
        self._now = now
        self.kept = world.reservations
        self.made: dict[JobId, Reservation] = {}
        world.reservations = self.made

    def claim(
        self, job: JobId, terms: Terms, passing: Passing = Passing.LONGEST, plan: Reservation | None = None
    ) -> bool:
        """Reserve the earliest start there is for a job, or what it has reserved already if that is no later.

        Or that for which others are to give way, if that is sooner than all who are in the way end by themselves.
        """
        if plan is not None and self._guard.permits(terms, plan):
            own = self.soonest(job, terms, self._guard)
            if (own is None or plan.at < own.at) and self.keep(plan, passing):
                return True
        kept, spared = self.kept.get(job), self.sparing(job)
        # Else it was for the end of a job that overruns, or who was to give way need not; or somebody has claimed it.
        if kept is not None and kept.at > self._now and not kept.yielding and self._guard.permits(terms, kept):
            sooner = self._world.sooner
            among = sooner if terms.demand.nodes == 1 else None
            better = self.soonest(job, terms, spared or self._guard, among) if sooner else None
            if self.keep(kept if better is None or self._merit(kept) <= self._merit(better) else better, passing):
                return True
        found = self.soonest(job, terms, self._guard)
        beside = None if found is None or spared is None else self.soonest(job, terms, spared)
        if found is not None and beside is not None and beside.at <= found.at + SOON_S:
            found = beside
        return found is not None and self.keep(found, passing)

    def _merit(self, kept: Reservation) -> tuple[Timestamp, int]:
        """Return when it is for, and how much of it is free: others would have that until then, and longer."""
        gpus = self._world.gpus
        return kept.at, sum([gpu in gpus and not gpus[gpu].holders for gpu in kept.allocation.all_gpus])

    def soonest(
        self, job: JobId, terms: Terms, guard: Guard, among: Collection[NodeName] | None = None
    ) -> Reservation | None:
        """Return the earliest start of a job at which no claim forbids it what it gets: before a window, or after."""
        reserved, at = guard.reserved, self._now
        for _ in range(WINDOW_TRIES):
            standing = guard.standing_at(terms, at)
            found = earliest(self._world, job, terms, self._now, guard.holds(standing + reserved), among)
            then = guard.over_at(standing) if found is None else max(at, found.at)
            if then is None:
                return None
            if found is not None and set(guard.standing_at(terms, then)) <= set(standing):
                return found if then == found.at else replace(found, at=then)
            at = then
        return None

    def sparing(self, job: JobId, *, alike: bool = False) -> Guard | None:
        """Return the claims with what others keep that come after a job: who has reserved too leaves them that.

        Who is in no line any more does not count; nor do its like, unless that is asked: they stand behind it in line,
        and would start no sooner for its waiting. None where nobody does, or something ended so early that everybody
        may have something else, in their order.
        """
        if self._world.early or len(self.kept) < 2 or job not in self.kept:
            return None
        line, later = self._world.queue.line, [each for each in self.kept.values() if each.job not in self.made]
        own = None if alike else line(job)
        others = [each for each in later if each.job != job and line(each.job) not in {None, own}]
        return self._guard.sparing(others) if others else None

    def keep(self, reservation: Reservation, passing: Passing) -> bool:
        """Put a reservation in force; False if it is for now, or its GPUs will not be there in time."""
        if reservation.passing is not passing:
            reservation = replace(reservation, passing=passing)
        if reservation.at <= self._now or not self._guard.reserve(reservation):
            return False
        self.made[reservation.job] = reservation
        return True

    def keep_taken(self, kept: Reservation, at: Timestamp) -> bool:
        """Put in force again what others were stopped for: for then, or for later where they leave it to several."""
        return self.keep(replace(kept, at=at), kept.passing) or self.keep(kept, kept.passing)

    def others(self, terms: Terms, latest_s: Seconds) -> Holds:
        """Return what claims, and the reservations until now, leave to a job that starts within so long.

        Those for which others have been stopped are not among them: what they leave grows with each who is, too.
        """
        standing_at = self._guard.standing_at
        standing = standing_at(terms, self._now)
        later = [each for each in standing_at(terms, Timestamp(self._now + latest_s)) if each not in standing]
        taken = self._guard.taken
        return self._guard.holds((*standing, *later, *(each for each in self._guard.reserved if each not in taken)))
