"""Tiresias as it was published (Gu et al., NSDI'19), with the limits of Muri's comparison (SIGCOMM'22).

Three queues by GPU-seconds had, 3250 and 7200. In a queue those that run come first, who was preempted goes ahead of
the others that wait, and who comes down from the queue above goes to the tail: behind all that wait there, which may
take its GPUs at that moment.
"""

from collections.abc import Sequence
from itertools import count
from math import inf

from gpud.core.active import ActiveJob
from gpud.core.policies.las import Las
from gpud.model.job import JobId
from gpud.model.spec import Place
from gpud.model.units import Seconds, Timestamp

_LIMITS_S = [3250.0, 7200.0, inf]
_LEVEL_BITS = 60
_MIDDLE = 1 << _LEVEL_BITS - 1  # more than any moment in microseconds


class Tiresias(Las):
    """`las` with the published queues. A job is known by the moment at which it was submitted: no two share one."""

    def __init__(self, every_s: Seconds) -> None:
        super().__init__(1.0, 2.0, every_s)
        self._limits_s = _LIMITS_S
        self._now = Timestamp(-inf)
        self._came_down: dict[int, Timestamp] = {}
        self._preempted = count(1)
        self._joins = count(1)
        self._joined: dict[JobId, int] = {}  # when, of those that run, each came to its queue or started in it

    def order(self, place: Place) -> int:
        """Return the queue, then the place in it."""
        if place.attempt == 1:
            key = _MIDDLE + place.queued_us
        elif self._comes_now(place):
            key = _MIDDLE + round(self._came_down[place.queued_us] * 1_000_000)
        else:
            key = _MIDDLE - next(self._preempted)
        return self.level(place.attained_s) << _LEVEL_BITS | key

    def standing(self, place: Place) -> float:
        """Return the queue, behind all that run in it."""
        return self.level(place.attained_s) + 1.0

    def holding(self, running: Sequence[ActiveJob], now: Timestamp) -> list[float]:
        """Return the queue; of those that run in it the last to come gives way first, and to all in it on coming."""
        return [
            level + (1.5 if self._comes_now(active.place) else 1.0 - 1.0 / self._joined[active.job])
            for active, level in zip(running, super().holding(running, now), strict=True)
        ]

    def _yields(self, holds: int, level: float) -> bool:
        """Return whether who runs in one queue may have to yield to who waits in another, or in the same one."""
        return holds >= level

    def _comes_now(self, place: Place) -> bool:
        """Return whether a job has just come down from the queue above."""
        return self._came_down.get(place.queued_us, -inf) >= self._now - 0.01

    def refresh(self, now: Timestamp) -> bool:
        """Bring queues up to now."""
        self._now = now
        return super().refresh(now)

    def _expect(self, job: JobId, now: Timestamp) -> None:
        before = self._levels.get(job)
        active: ActiveJob = self._running[job]
        if self.level(active.attained_s(now)) < len(_LIMITS_S) - 1:
            super()._expect(job, now)
        else:  # nothing comes after the last
            self._stand(job, len(_LIMITS_S) - 1)
            self._crosses.pop(job, None)
        if before is not None and self._levels[job] > before:
            self._came_down[active.place.queued_us] = now
        if before != self._levels[job]:
            self._joined[job] = next(self._joins)
