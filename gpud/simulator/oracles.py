"""Policies that know how long each job will run: what the others can be compared with, and nobody can have.

The truth is looked up by the job: an oracle's jobs are submitted with their number in the trace, from 1, as priority.
`srtf` and `srsf` preempt: shortest remaining time, and shortest remaining service (time x GPUs), first. They look at
it at the full minute after something happened, as schedulers of real clusters do, or (`every_s` 0) at once.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from math import floor, inf

from gpud.core.active import ActiveJob
from gpud.core.policies.steady import Steady
from gpud.core.world import World
from gpud.model.job import JobId
from gpud.model.spec import Place
from gpud.model.units import Seconds, Timestamp
from gpud.simulator.engine import Run


class Smallest(Steady):
    """The job with the least work left comes first: seconds or, with `by_gpus`, GPU-seconds."""

    def __init__(self, runs: Sequence[Run], *, by_gpus: bool) -> None:
        self._runs = runs
        self._weights = [run.weight if by_gpus else 1.0 for run in runs]

    def order(self, place: Place) -> int:
        """Return the work that is left of a waiting job, in microseconds."""
        number = place.priority - 1
        return round(1_000_000 * self._runs[number].left_s * self._weights[number])


class Remaining(Smallest):
    """As above, and who has less left than one that runs may take its GPUs, every `every_s` seconds."""

    preemptive = True

    def __init__(self, runs: Sequence[Run], world: World, *, by_gpus: bool, every_s: Seconds) -> None:
        super().__init__(runs, by_gpus=by_gpus)
        self._world = world
        self._every_s = every_s
        self._known: dict[JobId, tuple[Run, float]] = {}  # of who runs, and its weight
        self._most: list[tuple[float, JobId]] = []  # of who runs, a heap: minus what each has left, or had before

    def preempts(self, now: Timestamp) -> bool:
        """Return whether it is time to look who has more left."""
        return not self._every_s or not now % self._every_s

    def wants(self, place: Place) -> bool:
        """Return whether somebody who runs has more left. What is left of one who runs only ever becomes less."""
        standing, now, most = self.standing(place), self._world.predictor.now, self._most
        while most and -most[0][0] > standing:
            job = most[0][1]
            left = _left(*self._known[job], now) if job in self._known else -inf
            if left > standing:
                return True
            heappop(most)
            if job in self._known:
                heappush(most, (-left, job))
        return False

    def standing(self, place: Place) -> float:
        """Return the work that is left of a waiting job."""
        number = place.priority - 1
        return self._runs[number].left_s * self._weights[number]

    def holding(self, running: Sequence[ActiveJob], now: Timestamp) -> list[float]:
        """Return the work that is left of running ones."""
        known = map(self._known.__getitem__, [each.job for each in running])
        return [weight * (run.left_s - (now - (run.since or now))) for run, weight in known]  # `_left`, of very many

    def started(self, active: ActiveJob, now: Timestamp) -> bool:
        """Take note of who runs; no line ranks anew."""
        number = active.place.priority - 1
        known = self._known[active.job] = self._runs[number], self._weights[number]
        heappush(self._most, (-_left(*known, now), active.job))
        return False

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Forget who does no more; no line ranks anew."""
        del self._known[active.job]
        return False

    def wake_at(self, now: Timestamp) -> Timestamp | None:
        """Return the next full minute, while somebody waits and this is not one."""
        if not self._every_s or not now % self._every_s or not len(self._world.queue):
            return None
        return Timestamp(self._every_s * (floor(now / self._every_s) + 1))


def _left(run: Run, weight: float, now: Timestamp) -> float:
    """Return the work that is left of one who runs, or is about to."""
    return weight * (run.left_s - (now - (run.since or now)))
