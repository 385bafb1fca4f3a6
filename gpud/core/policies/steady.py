"""What most policies answer to most questions."""

from collections.abc import Sequence
from typing import Self

from gpud.core.active import ActiveJob
from gpud.core.bursts import Burst
from gpud.core.policies.parameters import Surroundings
from gpud.model.job import JobId
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp


class Steady:
    """A policy by submission alone: all lines are equal, what runs and ends changes nothing, nobody is preempted."""

    def rank(self, terms: Terms, burst: Burst) -> int:  # noqa: ARG002 - the protocol's shape, here and below
        """Return 0: the jobs in the lines decide."""
        return 0

    def order(self, place: Place) -> int:
        """Return since when the job queues."""
        return place.queued_us

    def refresh(self, now: Timestamp) -> bool:  # noqa: ARG002 - see above
        """Return False: time changes nothing."""
        return False

    def started(self, active: ActiveJob, now: Timestamp) -> bool:  # noqa: ARG002 - see above
        """Return False: a start changes nothing."""
        return False

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - see above
        """Return False: an end changes nothing."""
        return False

    by_burst = False
    reserves = True
    preemptive = False
    personal = False

    def preempts(self, now: Timestamp) -> bool:  # noqa: ARG002 - see above
        """Return False: who runs stays."""
        return False

    def wants(self, place: Place) -> bool:  # noqa: ARG002 - see above
        """Return False: nobody yields."""
        return False

    def keeps_off(self, job: JobId) -> bool:  # noqa: ARG002 - see above
        """Return False: nobody yields."""
        return False

    def standing(self, place: Place) -> float:  # noqa: ARG002 - see above
        """Return 0: nobody stands better."""
        return 0.0

    def holding(self, running: Sequence[ActiveJob], now: Timestamp) -> list[float]:  # noqa: ARG002 - see above
        """Return 0 for each: nobody stands worse."""
        return [0.0] * len(running)

    def yields_at(self, active: ActiveJob, now: Timestamp) -> Timestamp | None:  # noqa: ARG002 - see above
        """Return None: nobody yields."""
        return None

    def wake_at(self, now: Timestamp) -> Timestamp | None:  # noqa: ARG002 - see above
        """Return None: time changes nothing."""
        return None

    def twin(self, surroundings: Surroundings) -> Self:  # noqa: ARG002 - see above
        """Return itself: it learns nothing."""
        return self
