"""What one node has left to give, and how much of it a claim leaves to those who would last beyond it."""

from dataclasses import dataclass, field

from gpud.core.fleet import GpuState, NodeState
from gpud.model.gpu import Allocation, GpuId, NodeName, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import Mib


@dataclass(slots=True)
class Hold:
    """What claims leave of a node to a job that lasts beyond them.

    `gpus` are those claimed, with the MiB of each that may still be taken (0: none; whole GPUs are not, in any case);
    `cpus` and `memory_mib` are what may be taken of the node's.
    """

    gpus: dict[GpuId, int]
    cpus: int
    memory_mib: int


@dataclass(slots=True)
class Room:
    """What one node has left: `free` GPUs, by index, and the MiB left on each of those `shared`. Starts take from it.

    A GPU is given out by its nominal size: three jobs that ask for 8 GiB share one that is sold with 24.
    """

    node: NodeState
    free: list[GpuState]
    cpus: int
    memory_mib: int
    shared: dict[GpuId, int] = field(default_factory=dict)

    @property
    def name(self) -> NodeName:
        """Return the node's name."""
        return self.node.node.name

    def lacks(self, demand: Demand, hold: Hold | None = None) -> str | None:
        """Return what there is too little of, GPUs apart. A node may have less than is taken: its CPUs can be cut."""
        cpus, memory_mib = self.cpus, self.memory_mib
        if hold is not None:
            cpus, memory_mib = min(cpus, hold.cpus), min(memory_mib, hold.memory_mib)
        if 0 < demand.cpus_counted > cpus:
            return "CPUs"
        return "memory" if 0 < demand.memory_mib > memory_mib else None

    def left_mib(self, gpu: GpuId) -> Mib:
        """Return how much of a GPU may be taken: all of it where it is free, nothing where it is not to be had."""
        if gpu in self.shared:
            return Mib(self.shared[gpu])
        return next((nominal_mib(state.gpu.memory_total_mib) for state in self.free if state.gpu.id == gpu), Mib(0))

    def copy(self) -> "Room":
        """Return a room of its own with the same in it."""
        return Room(self.node, list(self.free), self.cpus, self.memory_mib, dict(self.shared))

    def take(self, part: Allocation) -> None:
        """Count one node's part of an allocation as given."""
        gone = {share.gpu for share in part.shares if share.gpu not in self.shared}
        if gone:
            states = {state.gpu.id: state for state in self.free if state.gpu.id in gone}
            self.free = [state for state in self.free if state.gpu.id not in gone]
        for share in part.shares:
            if share.memory_mib is not None:
                if share.gpu in gone:
                    self.shared[share.gpu] = nominal_mib(states[share.gpu].gpu.memory_total_mib)
                self.shared[share.gpu] -= share.memory_mib
        self.cpus -= part.cpus
        self.memory_mib -= part.memory_mib

    def give_back(self, part: Allocation) -> None:
        """Count one node's part of an allocation as over; what is drained or lost does not come back."""
        back = {share.gpu: share.memory_mib for share in part.shares}
        for state in self.node.gpus:
            gpu = state.gpu.id
            if gpu not in back or state.drained is not None or state.lost:
                continue
            share_mib = back[gpu]
            if share_mib is None or self.shared.get(gpu) == nominal_mib(state.gpu.memory_total_mib) - share_mib:
                self.shared.pop(gpu, None)
                self.free.append(state)
            elif gpu in self.shared:
                self.shared[gpu] += share_mib
        self.free.sort(key=lambda state: state.gpu.index)
        self.cpus += part.cpus
        self.memory_mib += part.memory_mib


def share_of(demand: Demand, capacity_mib: Mib) -> Mib | None:
    """Return how much of a GPU of that nominal size each share takes; None for all of it.

    Rounded down, so that fractions that add up to one fit on one GPU.
    """
    if demand.share_permille is not None:
        return Mib(capacity_mib * demand.share_permille // 1000)
    return demand.share_mib
