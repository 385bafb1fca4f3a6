"""A job: its name on paper, what it demands, and the one state that it is in.

Every job, and every element of an array that has a story of its own, is one 63-bit key: the number that
people see times 2^24, plus one more than the index for an element. The keys of an array's elements follow
the array's own, so "all of 12" is a range of keys, in a dict and in SQLite alike.
"""

from enum import StrEnum
from typing import NewType

from gpud.model.gpu import Allocation, GpuId, NodeName, ProcessIdentity
from gpud.model.units import Mib, Seconds, Timestamp
from gpud.model.value import Key, value

JobId = NewType("JobId", int)
_ELEMENT_BITS = 24
_ELEMENT = (1 << _ELEMENT_BITS) - 1  # the bits of an array index, plus one
NUMBER_MAX = (1 << (63 - _ELEMENT_BITS)) - 1


def job_id(number: int, index: int | None = None) -> JobId:
    """Return the key of job `number`, or of its element `index`."""
    return JobId(number << _ELEMENT_BITS | (0 if index is None else index + 1))


def number_of(job: JobId) -> int:
    """Return the number that people see."""
    return job >> _ELEMENT_BITS


def index_of(job: JobId) -> int | None:
    """Return the array index; None for a job that is no element."""
    element = job & _ELEMENT
    return element - 1 if element else None


def array_of(job: JobId) -> JobId:
    """Return the key of the whole array that an element belongs to; a job's own key otherwise."""
    return JobId(job & ~_ELEMENT)


def format_job(job: JobId) -> str:
    """Return the written form: `12`, or `12_7` for an element."""
    index = index_of(job)
    return str(number_of(job)) if index is None else f"{number_of(job)}_{index}"


@value(kw_only=True)
class Demand(Key):
    """What a job needs before it can start; jobs with equal demands are interchangeable to placement.

    `gpus` are counted in total: a gang of two `nodes` gets half of them on each. Whole ones, or, where one of the
    next two is set, shares of them: `share_mib` of each one's memory, or `share_permille` thousandths of it.
    `mig` asks for instances of that profile instead. `cpus` (0: none asked, and nothing is counted, except one for a
    job without GPUs) and `memory_mib` are what each node must give. `gpu_memory_mib` is the nominal size that each
    whole GPU must have. `gpu_type` is a pattern as given (case does not matter; `A|B` is either). `node_labels` are
    labels that a node must have. `excluded` names nodes and GPUs it must not get. `spread` puts it where the most is
    free instead of the least.
    """

    gpus: int = 1
    nodes: int = 1
    share_mib: Mib | None = None
    share_permille: int | None = None
    mig: str | None = None
    gpu_memory_mib: Mib | None = None
    gpu_type: str | None = None
    gpu_ids: tuple[GpuId, ...] = ()
    cpus: int = 0
    memory_mib: Mib = Mib(0)
    node_labels: tuple[tuple[str, str], ...] = ()
    excluded_nodes: tuple[NodeName, ...] = ()
    excluded_gpus: tuple[GpuId, ...] = ()
    pool: str | None = None
    spread: bool = False

    @property
    def cpus_counted(self) -> int:
        """Return the CPUs that a job is counted for: one where it has neither asked nor a GPU."""
        return self.cpus or (0 if self.gpus else 1)

    @property
    def shared(self) -> bool:
        """Return whether it takes a part of each GPU and leaves the rest to others."""
        return self.share_mib is not None or self.share_permille is not None

    @property
    def gpu_weight(self) -> float:
        """Return how many GPUs it is worth: a quarter of one for 250 thousandths; whole ones where memory is shared."""
        return self.gpus if self.share_permille is None else self.gpus * self.share_permille / 1000


class StopCause(StrEnum):
    """Why a running job is being stopped."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REQUEUED = "requeued"
    PREEMPTED = "preempted"
    GPU_LOST = "gpu_lost"
    GPU_MEMORY = "gpu_memory"  # it used more than it declared
    UNUSED = "unused"  # a claim that nobody used for as long as its user said


class End(StrEnum):
    """How a job ended for good; the words that people see as its state."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


@value()
class Waiting:
    """In the queue: in a line, or parked with a reason."""


@value()
class Starting:
    """Allocated and durable; the launcher was told, and has not said that it runs."""

    since: Timestamp
    allocation: Allocation
    boot: str  # the node's boot id: another one means that this attempt is over


@value()
class Running:
    """A process holds the claim on this attempt."""

    since: Timestamp
    allocation: Allocation
    boot: str
    process: ProcessIdentity
    shim: ProcessIdentity


@value()
class Stopping:
    """Told to stop. `process` and `shim` are None while the launcher has not said that it started.

    `started` is None for the same case. `kill_at` is when nothing of it should be left; a job that is still there
    then is looked at again.
    """

    since: Timestamp
    allocation: Allocation
    boot: str
    cause: StopCause
    kill_at: Timestamp
    started: Timestamp | None
    process: ProcessIdentity | None
    shim: ProcessIdentity | None


@value()
class Finished:
    """Over for good."""

    at: Timestamp
    end: End


Active = Starting | Running | Stopping
JobState = Waiting | Active | Finished


@value()
class Fault:
    """Why a job could not be started.

    `machine`: the machine's fault (no space, no process to be had, a GPU held by another gpud), so the job goes
    back to the queue and the attempt is not counted; else its own (no such program), which ends it.
    `not_found` tells exit status 127 from 126.
    """

    reason: str
    machine: bool
    not_found: bool = False


@value(kw_only=True)
class Exit:
    """How an attempt ended, as its record tells.

    One of `exit_code`, `signal`, `fault` and `lost` is set: why nobody knows, or, beside the first two, that a shutdown
    ended it.
    `timed_out`: the shim ended it at its time limit. `max_rss_mib` is the largest process's, `peak_mib` the most that
    all of them had at once, None where nobody counted it.
    `leftovers` counts processes that had to be killed after the end. `finding`: what stood in the log's tail.
    `containers`: what came of those that it left, for the event that tells it.
    `stuck`: a process could not be killed; its GPU must not be given out before a reading clears it.
    """

    at: Timestamp
    exit_code: int | None = None
    signal: int | None = None
    fault: Fault | None = None
    lost: str | None = None
    timed_out: bool = False
    cpu_s: Seconds | None = None
    max_rss_mib: Mib | None = None
    peak_mib: Mib | None = None
    leftovers: int = 0
    finding: str | None = None
    containers: str | None = None
    stuck: bool = False

    @property
    def seen(self) -> bool:
        """Return whether somebody saw its process end."""
        return self.exit_code is not None or self.signal is not None
