"""A claim: GPUs that some jobs must leave alone, from some moment on, until another; and what a job has reserved.

A reservation, a maintenance window, a pool, GPUs owned by a tenant, the GPU types that a tenant may use: all are
claims, and nothing else keeps a job off a GPU that is free.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from math import inf

from gpud.model.gpu import Allocation, GpuId
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Timestamp
from gpud.model.value import value


class ClaimKind(StrEnum):
    """What a claim comes from; its `name` tells which of them."""

    WINDOW = "reservation"
    POOL = "pool"
    OWNED = "tenant"
    TYPES = "types"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim binds a job that is not entitled: one that could last into [`at`, `until`) must not get these GPUs.

    Entitled are the jobs of `users`, of `tenants`, and those that asked for `pool`. With `only` it is the other way
    round: they alone are bound (who asked for a pool gets no other GPUs). A standing claim is always in force.
    """

    kind: ClaimKind
    name: str
    gpus: frozenset[GpuId]
    at: Timestamp = Timestamp(0.0)
    until: Timestamp = Timestamp(inf)
    users: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    pool: str | None = None
    only: bool = False

    def binds(self, terms: Terms) -> bool:
        """Return whether jobs of these terms must keep to it."""
        asked = self.pool is not None and terms.demand.pool == self.pool
        named = asked or terms.tenant in self.tenants or terms.user in self.users
        return named is self.only

    def forbids(self, terms: Terms, now: Timestamp, end: Timestamp) -> bool:
        """Return whether a job that started now, and could last until `end`, would break it."""
        return now < self.until and self.at < end and self.binds(terms)


class Passing(Enum):
    """Who may use before its moment what another has reserved: who is over by then, as is told in one of these ways."""

    LIKELY = "half of the last jobs of its like took no longer"
    LONGEST = "no job of its like took longer, with a margin"
    LIMIT = "its time limit"
    NOBODY = "nobody: whoever was stopped for it may be gone any moment"


@value(kw_only=True)
class Reservation:
    """What a blocked job will get: named devices at `at`, its earliest start. Nothing that comes later may delay it.

    `passing`: who may use them before. `taken`: jobs were preempted for it. `yielding`: these are to be, at `stops_at`.
    """

    job: JobId
    at: Timestamp
    allocation: Allocation
    passing: Passing = Passing.LONGEST
    taken: bool = False
    yielding: frozenset[JobId] = frozenset()
    stops_at: Timestamp = Timestamp(inf)

    @property
    def clear_at(self) -> Timestamp:
        """Return when who uses it before must be over: those who give way may be gone as soon as they are told."""
        return min(self.at, self.stops_at)
