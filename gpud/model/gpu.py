"""GPUs and nodes: what they are, and what was last seen on them.

An identity never changes while the hardware does not; a reading is a moment's look at it. A reading
holds None for what could not be read: an unknown is never a zero, and never free.
"""

from dataclasses import field
from functools import lru_cache
from typing import NewType

from gpud.model.health import Signs
from gpud.model.units import Mib, Timestamp
from gpud.model.value import value

GpuId = NewType("GpuId", str)  # the vendor's UUID; an index appears only where a human reads it
NodeName = NewType("NodeName", str)

# What data sheets call the sizes of GPU memory, in GiB. 15 is not among them: a T4 with ECC shows 15 of its 16.
_MARKETED_GIB = (
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    11,
    12,
    16,
    20,
    22,
    24,
    32,
    40,
    48,
    64,
    72,
    80,
    94,
    96,
    141,
    144,
    180,
    186,
    192,
    288,
)


@lru_cache(maxsize=256)
def nominal_mib(total: Mib) -> Mib:
    """Return the size that a GPU is sold by, for the size that its vendor's library reports.

    ECC and the driver keep up to a twelfth for themselves (a 24 GB A10 reports 22731 MiB), and people ask for what
    the data sheet says. A size that is near no marketed one is rounded up to whole GiB, of which there is one at least.
    """
    for gib in _MARKETED_GIB:
        if total <= gib * 1024 <= total * 1.1:
            return Mib(gib * 1024)
    return Mib(max(1, -(-total // 1024)) * 1024)


def milli_of(share: Mib, total: Mib) -> int:
    """Return what a part of a GPU's memory comes to, in thousandths of the GPU: one at least, rounded down."""
    return max(1, 1000 * share // nominal_mib(total))


@value(kw_only=True)
class Gpu:
    """One GPU of a node, or one MIG instance: a device that a job can get.

    `memory_total_mib` is what the vendor's library says, below the nominal size. GPUs with the same `nvlink` reach
    each other over it, those with the same `pcie` share a switch, those with the same `numa` a socket; None where that
    is unknown, or there is none. `mig` is an instance's profile ("2g.10gb") and `parent` the GPU that it is a part of;
    such a GPU is `split` (it is in MIG mode, with instances or without), and is not given out itself. Instances are
    numbered after the GPUs of their node. `devices` are the numbers (major, minor) of the device nodes that are its
    own; none where they are not known.
    """

    id: GpuId
    index: int
    name: str  # as the vendor says it: "NVIDIA H100 80GB HBM3"
    memory_total_mib: Mib
    pci_id: str | None = None
    simulated: bool = False
    nvlink: str | None = None
    pcie: str | None = None
    numa: int | None = None
    mig: str | None = None
    parent: GpuId | None = None
    split: bool = False
    devices: tuple[tuple[int, int], ...] = ()


@value(kw_only=True)
class Node:
    """A machine: its GPUs by index, its CPUs and its memory. `problem` says why GPUs cannot be seen.

    `labels` are what the configuration calls it ("rack": "b2"), for jobs that ask for such a node. `reboot`: its driver
    was replaced while it was loaded (`problem` says how), and no GPU can be used anew before a reboot. `contained`:
    gpud has pids of its own there, as in a container, and the driver may know processes by others. `silent`: there are
    GPUs that do not say who they are; one that is not listed may be among them.
    """

    name: NodeName
    cpus: int
    memory_mib: Mib
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    problem: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    reboot: bool = False
    contained: bool = False
    silent: bool = False


@value()
class ProcessIdentity:
    """A process, told apart from a later one with the same pid by its start time (ticks since boot)."""

    pid: int
    start: int


@value(kw_only=True)
class GpuProcess:
    """A process that holds a GPU.

    `kind` is "compute", "graphics" (it only draws) or "mps" (the MPS server; its clients are "compute").
    `ancestors` is the chain of parents from the process itself up to pid 1, empty when the pid is not visible from
    here (another pid namespace). `user`, `uid` and `command` are None when they could not be read. `job` is the one
    (`12`, `12_7`) that it says in its environment to be of, None where it says none, or that could not be read.
    """

    pid: int
    kind: str
    memory_mib: Mib | None
    user: str | None
    command: str | None
    ancestors: tuple[ProcessIdentity, ...] = ()
    uid: int | None = None
    job: str | None = None


@value(kw_only=True)
class Reading:
    """What one look at a GPU gave.

    `processes` is None when the list could not be read. `lease` is the pid of the process of another
    gpud that holds this GPU, 0 when there is a holder whose pid is unknown, None when nobody holds it. `slowed` is what
    keeps its clocks down beside its power limit ("heat", "power brake"), None where it does not tell; `signs` is None
    where this look did not ask for them.
    """

    at: Timestamp
    memory_used_mib: Mib | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    processes: tuple[GpuProcess, ...] | None = None
    lease: ProcessIdentity | None = None
    slowed: tuple[str, ...] | None = None
    signs: Signs | None = None


@value()
class Unreadable:
    """A GPU that gave no reading. `lost`: the vendor's library says it fell off the bus; else not answering.

    `reset`: it says that nothing but a reset makes it answer again. `split`: nothing is wrong with it but that somebody
    has split it, and a survey has yet to tell into what.
    """

    at: Timestamp
    reason: str
    lost: bool = False
    reset: bool = False
    split: bool = False


@value(kw_only=True)
class Share:
    """One GPU in an allocation; `memory_mib` is None for the whole GPU.

    `milli` is what memory that was asked for comes to, in thousandths of this GPU; None where the demand says it all.
    """

    gpu: GpuId
    memory_mib: Mib | None = None
    milli: int | None = None


@value(kw_only=True)
class Allocation:
    """What a job holds: GPUs by identity, CPUs, memory in MiB (0: none counted), on the node where it is started.

    `rest` is what a gang holds on its other nodes, in the order of their ranks.
    """

    node: NodeName
    shares: tuple[Share, ...] = ()
    cpus: int = 0
    memory_mib: Mib = field(default=Mib(0))
    rest: tuple["Allocation", ...] = ()

    @property
    def parts(self) -> tuple["Allocation", ...]:
        """Return what is held on each node, the first one's first."""
        return (self, *self.rest)

    @property
    def gpus(self) -> tuple[GpuId, ...]:
        """Return the GPUs of the first node, by identity alone."""
        return tuple(share.gpu for share in self.shares)

    @property
    def all_shares(self) -> tuple[Share, ...]:
        """Return the GPUs of every node."""
        return self.shares if not self.rest else tuple(share for part in self.parts for share in part.shares)

    @property
    def all_gpus(self) -> tuple[GpuId, ...]:
        """Return the GPUs of every node, by identity alone."""
        return tuple(share.gpu for share in self.all_shares)
