"""Why a job waits: one type a reason, with the numbers that a person needs to act on it.

The same code that decided makes them, so what `gpuctl why` says is what the scheduler did.
"""

from dataclasses import dataclass

from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import JobId
from gpud.model.units import Timestamp


@dataclass(frozen=True, slots=True)
class Held:
    """By its owner, until released."""


@dataclass(frozen=True, slots=True)
class BeginsAt:
    """Submitted for later."""

    at: Timestamp


@dataclass(frozen=True, slots=True)
class RetriesAt:
    """Its last attempt failed, or the machine could not start it; `attempt` is the next."""

    at: Timestamp
    attempt: int


@dataclass(frozen=True, slots=True)
class Throttled:
    """As many elements of its array run as may."""

    limit: int


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator stopped all starts."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoGpus:
    """No GPU was ever seen here; `problem` is what the driver's library said."""

    problem: str


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """Everything that would suit is taken.

    `free` counts suitable GPUs on `node`, where most of them are free; there are `suitable` in all. `short` ("CPUs",
    "memory") is what else is missing there, if the GPUs are not. `out` tells how many are drained, foreign, lost ...
    """

    wanted: int
    suitable: int
    free: int
    node: NodeName | None
    short: str | None = None
    out: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class YieldsTo:
    """There is room, but starting now could delay a job that comes first."""

    job: JobId
    at: Timestamp


@dataclass(frozen=True, slots=True)
class Looking:
    """Its GPUs are being looked at: whether they are free in fact."""

    gpus: tuple[GpuId, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """Not looked at yet: the next cycle will."""


Wait = Held | BeginsAt | RetriesAt | Throttled | Paused | NoGpus | NoCapacity | YieldsTo | Looking | Next
