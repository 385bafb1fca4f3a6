"""Least attained service first: nothing needs to be known of a job, short ones get through, long ones yield.

(Tiresias, NSDI'19, "discretized two-dimensional LAS".) Service is GPU-seconds. Jobs stand on levels: the first
is left after `first_level` of GPU-time, each next one after `level_factor` times as much. A job on a lower level goes
first and may preempt those on higher ones. Inside a level what was begun is finished before more is begun: whoever runs
stays, then those go that were preempted, who had most first, and then, on the first level, those who had nothing yet,
in order of submission.

The levels grow geometrically, and steeply: on 8 GPUs, half an hour, a working day, a week. Finer ones gain little
where lengths vary without bound, and lose much where they do not: jobs of one size then take turns, and all end late.

Nothing is reserved for who is blocked. How long others run is what nobody knows here, and once they have had more
they yield anyhow.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from heapq import heappop, heappush
from math import inf
from typing import Self

from gpud.core.active import ActiveJob
from gpud.core.policies.parameters import Kind, Parameter, Surroundings
from gpud.core.policies.steady import Steady
from gpud.model.job import JobId
from gpud.model.spec import Place
from gpud.model.units import Seconds, Timestamp

SAYS = "least attained GPU-time first; who had more is preempted, who had as much stays"
FIRST = Parameter(
    "first_level", Kind.DURATION, 4 * 3600.0, "GPU-time that a job has before it yields to newer ones", 1.0
)
FACTOR = Parameter("level_factor", Kind.NUMBER, 16.0, "how many times as much it has before it yields again", 1.1)
EVERY = Parameter("preempt_every", Kind.DURATION, 60.0, "how often it is asked who must yield")

_SOON_S: Seconds = 1.0
_LEVEL_BITS = 60  # a level is worth more than any moment in microseconds, and any GPU-time in milliseconds


class Las(Steady):
    """The policy `las`."""

    reserves = False
    preemptive = True

    def __init__(self, first_s: Seconds, factor: float, every_s: Seconds) -> None:
        self._first_s = max(1.0, first_s)
        self._factor = max(1.01, factor)
        self._limits_s = [self._first_s]  # how much a job has at most that is on each level, as far as was asked
        self._every_s = every_s
        self._look_at = Timestamp(-inf)  # when to look again who must yield
        self._looks = False
        self._wanted = False  # somebody would have preempted meanwhile
        self._blocked: float = inf  # the lowest level of who was blocked since the last refresh
        self._running: dict[JobId, ActiveJob] = {}
        self._levels: dict[JobId, int] = {}
        self._on: Counter[int] = Counter()  # how many of those stand on each level
        self._crosses: dict[JobId, Timestamp] = {}  # when each comes to its next level
        self._crossings: list[tuple[Timestamp, JobId]] = []

    def order(self, place: Place) -> int:
        """Return since when it queues, or the level of what its attempts had, less what that was."""
        had_s = place.attained_s
        return (self.level(had_s) << _LEVEL_BITS) - round(1000 * had_s) if had_s else place.queued_us

    def level(self, attained_s: Seconds) -> int:
        """Return how many limits lie behind a job that had so many GPU-seconds."""
        limits = self._limits_s
        while limits[-1] <= attained_s:
            limits.append(self._first_s * self._factor ** len(limits))
        return bisect_right(limits, attained_s)

    def refresh(self, now: Timestamp) -> bool:
        """Bring the levels of who runs up to now, and say whether it is time to look who must yield."""
        crossings = self._crossings
        while crossings and crossings[0][0] <= now:
            at, job = heappop(crossings)
            if self._crosses.get(job) == at:
                self._expect(job, now)
        self._blocked = inf
        self._looks = now >= self._look_at
        if self._looks:
            self._look_at, self._wanted = Timestamp(now + self._every_s), False
        return False

    def started(self, active: ActiveJob, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Follow what the job attains; no line ranks anew."""
        self._running[active.job] = active
        self._expect(active.job, active.since)
        self._wanted |= self._yields(self._levels[active.job], self._blocked)
        return False

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Forget the job; no line ranks anew."""
        self._running.pop(active.job, None)
        self._crosses.pop(active.job, None)
        self._stand(active.job, None)
        return False

    def preempts(self, now: Timestamp) -> bool:  # noqa: ARG002 - as of the last refresh
        """Return whether it is time again to look who must yield."""
        return self._looks

    def wants(self, place: Place) -> bool:
        """Return whether somebody runs on a higher level; if it is not the time, it is soon."""
        level = self.level(place.attained_s)
        self._blocked = min(self._blocked, level)
        wants = self._yields(max(self._on, default=-1), level)
        self._wanted |= wants and not self._looks
        return wants

    def keeps_off(self, job: JobId) -> bool:
        """Return whether a job is on a higher level than somebody who was blocked since the last refresh."""
        return self._yields(self._levels.get(job, -1), self._blocked)

    def _yields(self, holds: int, level: float) -> bool:
        """Return whether who runs on one level may have to yield to who waits on another."""
        return holds > level

    def standing(self, place: Place) -> float:
        """Return the level of what its attempts had."""
        return self.level(place.attained_s)

    def holding(self, running: Sequence[ActiveJob], now: Timestamp) -> list[float]:  # noqa: ARG002 - see above
        """Return the level that each has come to."""
        levels = self._levels
        return [levels[active.job] for active in running]

    def yields_at(self, active: ActiveJob, now: Timestamp) -> Timestamp | None:
        """Return when it leaves the first level, or now; without GPUs it stays where it is."""
        return now if self.level(active.attained_s(now)) else self._crosses.get(active.job)

    def wake_at(self, now: Timestamp) -> Timestamp | None:
        """Return when somebody who runs may have to yield."""
        if self._wanted:
            return max(self._look_at, Timestamp(now + _SOON_S))
        crossings = self._crossings
        while crossings and self._crosses.get(crossings[0][1]) != crossings[0][0]:
            heappop(crossings)
        return max(self._look_at, crossings[0][0]) if crossings else None

    def twin(self, surroundings: Surroundings) -> Self:  # noqa: ARG002 - it looks at nothing
        """Return one that follows on from here."""
        twin = copy(self)
        twin._running, twin._levels = dict(self._running), dict(self._levels)  # noqa: SLF001 - its own
        twin._crosses, twin._crossings = dict(self._crosses), list(self._crossings)  # noqa: SLF001 - its own
        twin._on = self._on.copy()  # noqa: SLF001 - its own
        return twin

    def _expect(self, job: JobId, now: Timestamp) -> None:
        """Note a job's level, and when it comes to the next one; without GPUs it stays where it is."""
        active = self._running[job]
        attained_s = active.attained_s(now)
        level = self.level(attained_s)
        self._stand(job, level)
        rate = active.gpu_weight
        if rate:
            at = self._crosses[job] = Timestamp(now + (self._limits_s[level] - attained_s) / rate + 0.001)
            heappush(self._crossings, (at, job))

    def _stand(self, job: JobId, level: int | None) -> None:
        """Let a job that runs stand on a level, or on none any more."""
        before = self._levels.pop(job, None)
        if before is not None:
            self._on[before] -= 1
            if not self._on[before]:
                del self._on[before]
        if level is not None:
            self._levels[job] = level
            self._on[level] += 1


def make(values: Mapping[str, float], surroundings: Surroundings) -> Las:  # noqa: ARG001 - it looks at nothing
    """Return the policy."""
    return Las(values[FIRST.name], values[FACTOR.name], values[EVERY.name])
