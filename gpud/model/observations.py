"""What the world tells gpud. Each may arrive twice, late, or for an earlier attempt, and must do no harm then."""

from gpud.model.gpu import GpuId, Node, NodeName, ProcessIdentity, Reading, Unreadable
from gpud.model.job import Exit, JobId
from gpud.model.units import Timestamp
from gpud.model.value import value


@value()
class Started:
    """The attempt's process won the claim and is about to exec."""

    job: JobId
    attempt: int
    at: Timestamp
    process: ProcessIdentity
    shim: ProcessIdentity


@value()
class Exited:
    """The attempt is over and nothing of it is left (or, where `exit.stuck`, cannot be killed)."""

    job: JobId
    attempt: int
    exit: Exit


@value()
class NodeSeen:
    """A node's inventory, whole: at start, after a rescan, when a driver came or went."""

    node: Node


@value()
class GpuSeen:
    """One look at one GPU."""

    node: NodeName
    gpu: GpuId
    reading: Reading | Unreadable


@value()
class XidSeen:
    """The driver reported an error of a GPU: its number in NVIDIA's catalogue of XIDs."""

    node: NodeName
    gpu: GpuId
    xid: int


@value()
class Noticed:
    """Something that administrators are to hear of, and that the daemon found out by itself: see core.alerts."""

    what: str
    message: str


Observation = Started | Exited | NodeSeen | GpuSeen | XidSeen | Noticed
