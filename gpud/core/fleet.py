"""What there is to run on, as gpud knows it: nodes, their GPUs, and who holds what of them."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from gpud.core.health import Health, Level
from gpud.model.gpu import Allocation, Gpu, GpuId, Node, NodeName, Reading, Share, Unreadable, nominal_mib
from gpud.model.job import JobId
from gpud.model.units import Mib, Timestamp


class Kind(NamedTuple):
    """What tells one GPU from another where any will do: by the size that it is sold by, the smaller first."""

    memory_mib: Mib
    name: str
    mig: str  # the profile of an instance, empty for a whole GPU


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """All that tells a GPU from the others of its node to those who name none, its health apart.

    `warmth_c` is how hot it was when it was last looked at, 0 if nobody knows. GPUs of which all this is the same, on
    whatever nodes, have the same slot, one object: what was worked out for some slots is found again without a look
    into them.
    """

    kind: Kind
    memory_total_mib: Mib
    index: int
    nvlink: str | None
    pcie: str | None
    numa: int | None
    warmth_c: int


_one_slot = lru_cache(maxsize=1 << 14)(Slot)


@dataclass(slots=True, eq=False)
class GpuState:
    """A GPU and all that decides whether it may be given out.

    `heard_at` is when `seen` came in; `baseline_mib` is the least memory seen in use with nobody on it; `released_at`
    is set from a job's end, or that of strangers who left memory behind, until a reading shows it gone; `asked_at` is
    when a look was last asked for. `kind`, `slot` and `whole`, the share of who has it alone, follow from the GPU and
    what was seen of it: `be` and `see` change these.
    """

    gpu: Gpu
    node: NodeName
    present: bool = False
    seen: Reading | Unreadable | None = None
    heard_at: Timestamp | None = None
    baseline_mib: Mib | None = None
    released_at: Timestamp | None = None
    asked_at: Timestamp | None = None
    drained: str | None = None
    health: Health = field(default_factory=Health)
    holders: dict[JobId, Mib | None] = field(default_factory=dict)  # with their shares of it; None: the whole GPU
    kind: Kind = field(init=False)
    slot: Slot = field(init=False)
    whole: Share = field(init=False)

    def __post_init__(self) -> None:
        self.be(self.gpu)

    def be(self, gpu: Gpu) -> None:
        """Take in what the GPU is; its identity stays."""
        self.gpu, self.whole = gpu, Share(gpu=gpu.id)
        self.kind = Kind(nominal_mib(gpu.memory_total_mib), gpu.name, gpu.mig or "")
        self.see(self.seen)

    def see(self, seen: Reading | Unreadable | None) -> None:
        """Take in what was last seen on it."""
        self.seen, gpu = seen, self.gpu
        warmth_c = (seen.temperature_c or 0) if isinstance(seen, Reading) else 0
        self.slot = _one_slot(self.kind, gpu.memory_total_mib, gpu.index, gpu.nvlink, gpu.pcie, gpu.numa, warmth_c)

    @property
    def shared(self) -> bool:
        """Return whether it is given out in parts now."""
        return bool(self.holders) and None not in self.holders.values()

    @property
    def declared_mib(self) -> Mib:
        """Return how much of its memory those who share it have declared."""
        return Mib(sum(share or 0 for share in self.holders.values()))

    @property
    def lost(self) -> bool:
        """Return whether it is not there now."""
        gone = isinstance(self.seen, Unreadable) and self.seen.lost
        return not self.present or gone or (bool(self.health.faults) and self.health.level is Level.LOST)

    @property
    def comes_back(self) -> bool:
        """Return whether others may have it once nobody holds it, as far as is known now."""
        if not self.present or self.drained is not None or self.gpu.split:
            return False
        return (not self.health.faults and not isinstance(self.seen, Unreadable)) or not (self.closed or self.lost)

    @property
    def closed(self) -> bool:
        """Return whether it gets no new jobs, as far as its own health and people's word go."""
        return self.drained is not None or self.health.closed


@dataclass(slots=True)
class NodeState:
    """A node, its GPUs by index (and by identity: `add` and `remove` keep both), and what of it is taken."""

    node: Node
    gpus: list[GpuState] = field(default_factory=list)
    present: bool = False
    drained: str | None = None
    cpus_used: int = 0
    memory_used_mib: int = 0
    held: dict[JobId, Allocation] = field(default_factory=dict)  # by whom, what of it
    # When those are expected to end, in order, and when their limits stop them; None: not known yet.
    ends: list[tuple[float, JobId, float]] | None = None
    bounds: dict[int, float | None] = field(default_factory=dict)  # before when so many GPUs are not free: see backfill
    by_id: dict[GpuId, GpuState] = field(init=False)

    def __post_init__(self) -> None:
        self.by_id = {state.gpu.id: state for state in self.gpus}

    def add(self, state: GpuState) -> None:
        """Count a GPU as one of its own."""
        self.gpus.append(state)
        self.by_id[state.gpu.id] = state

    def remove(self, state: GpuState) -> None:
        """Count a GPU as none of its own any more."""
        self.gpus.remove(state)
        del self.by_id[state.gpu.id]

    def hold(self, job: JobId, part: Allocation) -> None:
        """Count what a job has of it."""
        self.held[job] = part
        self.cpus_used += part.cpus
        self.memory_used_mib += part.memory_mib
        self.changed()

    def let_go(self, job: JobId, part: Allocation) -> None:
        """Count what a job had of it as over."""
        self.held.pop(job, None)
        self.cpus_used -= part.cpus
        self.memory_used_mib -= part.memory_mib
        self.changed()

    def changed(self) -> None:
        """Forget what was worked out from who holds what."""
        self.ends = None
        self.bounds.clear()
