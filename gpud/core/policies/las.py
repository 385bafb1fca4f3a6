"""Least attained service first: nothing needs to be known of a job, short ones get through, long ones yield.

(Tiresias, NSDI'19, "discretized two-dimensional LAS".) Service is GPU-seconds. Jobs stand on levels: the first is left
after `first_level` of GPU-time, each next one after `level_factor` times as much. A job on a lower level goes first
and may preempt those on higher ones; inside a level whoever runs stays, and the rest go in order of submission. The
levels grow geometrically, so a job of any length is preempted a few times at most, whatever the mix of lengths is.
"""

from collections.abc import Mapping
from heapq import heappop, heappush
from math import log

from gpud.core.active import ActiveJob
from gpud.core.policies.parameters import Kind, Parameter, Surroundings
from gpud.core.policies.steady import Steady
from gpud.model.job import JobId
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp

SAYS = "least attained GPU-time first; who had more is preempted, who had as much stays"
FIRST = Parameter("first_level", Kind.DURATION, 900.0, "GPU-time that a job has before it yields to newer ones", 1.0)
FACTOR = Parameter("level_factor", Kind.NUMBER, 4.0, "how many times as much it has before it yields again", 1.1)

_LEVEL_BITS = 60  # a level is worth more than any moment in microseconds


class Las(Steady):
    """The policy `las`."""

    def __init__(self, first_s: Seconds, factor: float) -> None:
        self._first_s = first_s
        self._factor = factor
        self._running: dict[JobId, ActiveJob] = {}
        self._crossings: list[tuple[Timestamp, JobId]] = []

    def order(self, place: Place) -> int:
        """Return the level of what its attempts had, then since when it queues."""
        return self.level(place.attained_s) << _LEVEL_BITS | place.queued_us

    def level(self, attained_s: Seconds) -> int:
        """Return how many limits lie behind a job that had so many GPU-seconds."""
        if attained_s < self._first_s:
            return 0
        level = 1 + int(log(attained_s / self._first_s, self._factor))
        # The logarithm may be a hair off where it matters: just at a limit.
        return level + (attained_s >= self._limit_s(level)) - (attained_s < self._limit_s(level - 1))

    def started(self, active: ActiveJob, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Follow what the job attains; no line ranks anew."""
        self._running[active.job] = active
        self._expect(active, active.since)
        return False

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Forget the job; no line ranks anew."""
        self._running.pop(active.job, None)
        return False

    def outranks(self, terms: Terms, place: Place, active: ActiveJob, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Return whether the waiting job stands on a lower level than the running one has come to."""
        return self.level(place.attained_s) < self.level(active.attained_s(now))

    def wake_at(self, now: Timestamp) -> Timestamp | None:
        """Return when the next running job comes to a higher level."""
        crossings = self._crossings
        while crossings:
            at, job = crossings[0]
            active = self._running.get(job)
            if active is not None and at > now:
                return at
            heappop(crossings)
            if active is not None:
                self._expect(active, now)
        return None

    def _limit_s(self, level: int) -> Seconds:
        """Return how much a job has at most that is on this level."""
        return self._first_s * self._factor**level

    def _expect(self, active: ActiveJob, now: Timestamp) -> None:
        """Note when a job comes to its next level; one without GPUs stays where it is."""
        attained_s = active.attained_s(now)
        rate = active.terms.demand.gpu_weight
        if rate:
            left_s = self._limit_s(self.level(attained_s)) - attained_s
            heappush(self._crossings, (Timestamp(now + left_s / rate + 0.001), active.job))


def make(values: Mapping[str, float], surroundings: Surroundings) -> Las:  # noqa: ARG001 - it looks at nothing
    """Return the policy."""
    return Las(values[FIRST.name], values[FACTOR.name])
