"""Smallest expected GPU-time first: what takes little of the fleet gets it soon, and the average wait is short.

A line's rank is what one of its jobs is expected to run, times its GPUs; by time alone, one job on 64 GPUs would go
before sixty on one. Nobody who runs is preempted. What is predicted changes as jobs end: their own user's lines rank
anew at once, everybody else's, which may lean on those runs too, once a minute.
"""

from collections.abc import Mapping
from copy import copy
from typing import Self

from gpud.core.active import ActiveJob
from gpud.core.bursts import Burst
from gpud.core.policies.parameters import Surroundings
from gpud.core.policies.priority import AGING, Priority
from gpud.core.prediction import Predictor
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

SAYS = "smallest expected GPU-time first, as its estimate, its like or its time limit tell; equals by priority"

_CPU_ONLY = 0.01  # what a job without GPUs counts for
_EVERY_S: Seconds = 60.0


class Sjf(Priority):
    """The policy `sjf`."""

    def __init__(self, aging_per_hour: float, predictor: Predictor) -> None:
        super().__init__(aging_per_hour)
        self._predictor = predictor
        self._stale = False
        self._next: Timestamp | None = None

    by_burst = True

    def rank(self, terms: Terms, burst: Burst) -> int:
        """Return the GPU-milliseconds that one job is expected to take."""
        return round(1000 * self._predictor.seconds(terms, burst) * (terms.demand.gpu_weight or _CPU_ONLY))

    def refresh(self, now: Timestamp) -> bool:
        """Return whether jobs ended that others may lean on, once a minute."""
        if not self._stale or (self._next is not None and now < self._next):
            return False
        self._stale, self._next = False, Timestamp(now + _EVERY_S)
        return True

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Return True: the user's next jobs are expected to run as this one did."""
        self._stale = True
        return True

    def twin(self, surroundings: Surroundings) -> Self:
        """Return one that looks at another world's runs."""
        twin = copy(self)
        twin._predictor = surroundings.predictor  # noqa: SLF001 - its own
        return twin


def make(values: Mapping[str, float], surroundings: Surroundings) -> Sjf:
    """Return the policy."""
    return Sjf(values[AGING.name], surroundings.predictor)
