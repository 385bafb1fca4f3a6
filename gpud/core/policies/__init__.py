"""In which order jobs are considered. A policy is one file and one line in the table below.

The loop of a cycle asks a policy where lines stand, tells it what starts and ends, and asks it whether a waiting job
may take a running one's GPUs. What it knows of the world beside its own parameters is `Surroundings`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpud.core.active import ActiveJob
from gpud.core.bursts import Burst
from gpud.core.policies import fair_share, fcfs, las, priority, sjf
from gpud.core.policies.parameters import Parameter, Surroundings
from gpud.model.job import JobId
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp


class Policy(Protocol):
    """Order = (rank of the line, key of the job inside it), lower first.

    A rank may change while jobs wait; a key is fixed when a job enters its line, so that a million waiting jobs are
    never sorted again.
    """

    by_burst: bool  # jobs of equal terms that came in different bursts stand in different lines
    reserves: bool
    preemptive: bool  # for reasons of its own, whatever the priorities
    personal: bool  # a priority counts among one user's jobs only

    def rank(self, terms: Terms, burst: Burst) -> int:
        """Return the rank of a whole line, of that burst, as of the last `refresh`, `started` or `ended`."""
        ...

    def order(self, place: Place) -> int:
        """Return the key of one job inside its line; `queued_us` itself for a place that is nothing special."""
        ...

    def refresh(self, now: Timestamp) -> bool:
        """Bring ranks up to now, once in a cycle that decides; True: rank all lines anew."""
        ...

    def started(self, active: ActiveJob, now: Timestamp) -> bool:
        """Take note that a job holds an allocation since `active.since`; True: its (tenant, user)'s lines rank anew.

        Told of all that are active after a restart, too.
        """
        ...

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:
        """Take note that an attempt is over that had `gpu_s`; True: its (tenant, user)'s lines rank anew."""
        ...

    def preempts(self, now: Timestamp) -> bool:
        """Return whether waiting jobs may preempt running ones now, for the policy's own reasons."""
        ...

    def wants(self, place: Place) -> bool:
        """Take note that a waiting job is blocked; return whether somebody runs who may have to yield to it.

        Asked in the policy's order: where the answer is False nobody who comes later is asked.
        """
        ...

    def keeps_off(self, job: JobId) -> bool:
        """Return whether a job has what somebody may want to whom it may have to yield, as of the last round."""
        ...

    def standing(self, place: Place) -> float:
        """Return how a waiting job stands: it may preempt those whose `holding` is greater."""
        ...

    def holding(self, running: Sequence[ActiveJob], now: Timestamp) -> list[float]:
        """Return how each of these running jobs stands among all."""
        ...

    def yields_at(self, active: ActiveJob, now: Timestamp) -> Timestamp | None:
        """Return from when on a running job may have to yield to one that had nothing; None: not for all it knows."""
        ...

    def wake_at(self, now: Timestamp) -> Timestamp | None:
        """Return when time alone will have changed what should run; None: never."""
        ...

    def twin(self, surroundings: Surroundings) -> "Policy":
        """Return a policy that knows as much by now, and goes its own way from here, with another world."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A policy that can be chosen: what it does in a line, its parameters, and how it is made from their values."""

    says: str
    make: Callable[[Mapping[str, float], Surroundings], Policy]
    parameters: tuple[Parameter, ...] = ()

    def values(self, said: Mapping[str, float]) -> dict[str, float]:
        """Return its parameters' values: what was said of them, else their defaults."""
        return {each.name: said.get(each.name, each.default) for each in self.parameters}


POLICIES = {
    "priority": Described(says=priority.SAYS, make=priority.make, parameters=(priority.AGING,)),
    "fcfs": Described(says=fcfs.SAYS, make=fcfs.make),
    "sjf": Described(says=sjf.SAYS, make=sjf.make, parameters=(priority.AGING,)),
    "fair_share": Described(
        says=fair_share.SAYS,
        make=fair_share.make,
        parameters=(fair_share.HALF_LIFE, fair_share.HEAD_START, priority.AGING),
    ),
    "las": Described(says=las.SAYS, make=las.make, parameters=(las.FIRST, las.FACTOR, las.EVERY)),
}
