"""Why a job waits: one type a reason, with the numbers that a person needs to act on it.

The same code that decided makes them, so what `gpuctl why` says is what the scheduler did.
"""

from gpud.core.claims import Claim
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import End, JobId
from gpud.model.spec import Dependency
from gpud.model.units import Seconds, Timestamp
from gpud.model.value import value


@value()
class Held:
    """Until released: by its owner, or for `reason`."""

    reason: str | None = None


@value()
class BeginsAt:
    """Submitted for later."""

    at: Timestamp


@value()
class RetriesAt:
    """Its last attempt failed, or the machine could not start it; `attempt` is the next."""

    at: Timestamp
    attempt: int


@value()
class After:
    """Another job has to end first, and `others` more; `state` is what it does now."""

    first: Dependency
    state: str
    others: int


@value()
class Unmet:
    """What it comes after ended otherwise than it must: it is held until that runs again, or it is released."""

    dependency: Dependency
    end: End


@value()
class Throttled:
    """As many elements of its array run as may."""

    limit: int


@value()
class Paused:
    """An operator stopped all starts."""

    reason: str


@value()
class NoGpus:
    """No GPU was ever seen here; `problem` is what the driver's library said."""

    problem: str


@value()
class OverQuota:
    """A limit of a user, of a tenant, or (`whose` "") of everybody.

    `used` of `limit` are taken, of `what`: "GPUs", "jobs" that run, or "GPU-hours", which are there again `until`.
    """

    whose: str
    what: str
    used: float
    limit: float
    wanted: float = 0.0
    until: Timestamp | None = None

    @property
    def never(self) -> bool:
        """Return whether more is asked for than the limit would allow to somebody who had nothing."""
        return self.wanted > self.limit


@value()
class Guaranteed:
    """What is free is guaranteed to other tenants, that many GPUs of it, and its own tenant may not borrow."""

    tenant: str
    gpus: float


@value()
class NoPool:
    """The pool that it asked for is not configured any more, or is for jobs of `most_s` now, which is less."""

    pool: str
    most_s: Seconds | None = None


@value()
class NoCapacity:
    """Everything that would suit is taken.

    `free` counts suitable GPUs on `node`, where most of them are free; there are `suitable` in all. `short` ("CPUs",
    "memory") is what else is missing: there, if the GPUs are not; beside these, if it is on each node that would do.
    `out` tells how many are drained, foreign, lost ... As many are `wanted` on so many `nodes` together.
    """

    wanted: int
    suitable: int
    free: int
    node: NodeName | None
    short: str | None = None
    out: tuple[tuple[str, int], ...] = ()
    nodes: int = 1

    @property
    def beside_gpus(self) -> bool:
        """Return whether it is not GPUs that are missing, but what jobs need beside them."""
        return self.free >= self.wanted // self.nodes and (self.short is not None or not self.wanted)


@value()
class YieldsTo:
    """There is room, but starting now could delay a job that comes first."""

    job: JobId
    at: Timestamp


@value()
class Barred:
    """What is free is claimed: set aside for a time, for a pool, for a tenant."""

    claim: Claim


@value()
class Full:
    """Everything that it may have is taken; what exactly is missing is found out when somebody asks."""


@value()
class Looking:
    """Its GPUs are being looked at: whether they are free in fact."""

    gpus: tuple[GpuId, ...]


@value()
class Next:
    """Not looked at yet: the next cycle will."""


Wait = (
    Held
    | BeginsAt
    | RetriesAt
    | After
    | Unmet
    | Throttled
    | Paused
    | NoGpus
    | NoPool
    | Guaranteed
    | OverQuota
    | NoCapacity
    | YieldsTo
    | Barred
    | Full
    | Looking
    | Next
)
