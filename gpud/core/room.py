"""What one node has left to give, and how much of it a claim leaves to those who would last beyond it."""

from bisect import insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from gpud.core.fleet import GpuState, Kind, NodeState, Slot
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


_INDEX = attrgetter("slot.index")


class Stock(NamedTuple):
    """GPUs of one kind that a node has left: so many whole ones, and so many MiB on each that is shared, ascending."""

    kind: Kind
    full: int
    parts: tuple[int, ...]


Stocks = tuple[Stock, ...]
Slots = tuple[Slot, ...]
Parts = tuple[tuple[Slot, int], ...]
Shape = tuple[Slots, Parts, int, int, int]


class Free(NamedTuple):
    """What is free on a node, or has to be: whole GPUs, CPUs, MiB of memory."""

    gpus: int
    cpus: int
    memory_mib: int


@dataclass(slots=True, eq=False)
class Room:
    """What one node has left: `free` GPUs, by index, and the MiB left on each of those `shared`. Starts take from it.

    A GPU is given out by its nominal size: three jobs that ask for 8 GiB share one that is sold with 24. `version` is
    whose it is that keeps rooms: another one means that something changed; and so is `counted`, how many were free
    then. `sick`: something is wrong with some of its GPUs. `later`: of equal GPUs those
    with the greatest number are taken last.
    """

    node: NodeState
    free: list[GpuState]
    cpus: int
    memory_mib: int
    shared: dict[GpuId, int] = field(default_factory=dict)
    version: int = 0
    counted: int = 0
    sick: bool = False
    later: Mapping[GpuId, int] | None = None
    _shape: Shape | None = None

    @property
    def name(self) -> NodeName:
        """Return the node's name."""
        return self.node.node.name

    @property
    def shape(self) -> Shape:
        """Return what rooms have in common that are the same to whoever names no GPU and no node, if nothing is sick.

        What is free, the MiB left of what is shared, the CPUs and the memory, and how many GPUs the node has.
        """
        if self._shape is None:
            slots = tuple([state.slot for state in self.free])
            self._shape = slots, self._left(), self.cpus, self.memory_mib, len(self.node.gpus)
        return self._shape

    @property
    def slots(self) -> Slots:
        """Return the slots of the free GPUs, in their order."""
        return self.shape[0]

    @property
    def stocks(self) -> Stocks:
        """Return what is left of each kind of GPU, by kind."""
        slots, parts, *_ = self.shape
        return _counted(slots, parts)

    @property
    def free_permille(self) -> int:
        """Return the thousandths of GPUs that are left."""
        return sum(map(_permille, self.stocks))

    def lacks(self, demand: Demand) -> str | None:
        """Return what there is too little of, GPUs apart. A node may have less than is taken: its CPUs can be cut."""
        if 0 < demand.cpus_counted > self.cpus:
            return "CPUs"
        return "memory" if 0 < demand.memory_mib > self.memory_mib else None

    def left_mib(self, gpu: GpuId) -> Mib:
        """Return how much of a GPU may be taken: all of it where it is free, nothing where it is not to be had."""
        if gpu in self.shared:
            return Mib(self.shared[gpu])
        return next((nominal_mib(state.gpu.memory_total_mib) for state in self.free if state.gpu.id == gpu), Mib(0))

    def copy(self) -> "Room":
        """Return a room of its own with the same in it."""
        return Room(self.node, list(self.free), self.cpus, self.memory_mib, dict(self.shared), sick=self.sick)

    def within(self, hold: Hold) -> "Room":
        """Return what of it claims leave."""
        return Room(
            self.node,
            [state for state in self.free if state.gpu.id not in hold.gpus],
            min(self.cpus, hold.cpus),
            min(self.memory_mib, hold.memory_mib),
            {gpu: min(left, hold.gpus.get(gpu, left)) for gpu, left in self._parts(hold).items()},
            sick=self.sick,
            later=self.later,
        )

    def _parts(self, hold: Hold) -> Mapping[GpuId, int]:
        """Return what is left to share: a free GPU of which a claim leaves a part can only be shared."""
        return self.shared | {gpu: self.left_mib(gpu) for gpu, left in hold.gpus.items() if left}

    def take(self, part: Allocation) -> None:
        """Count one node's part of an allocation as given."""
        shared = self.shared
        for share in part.shares:
            gpu, state = share.gpu, self.node.by_id[share.gpu]
            if gpu not in shared:
                self.free.remove(state)
            if share.memory_mib is not None:
                shared[gpu] = shared.get(gpu, state.kind.memory_mib) - share.memory_mib
        self.cpus -= part.cpus
        self.memory_mib -= part.memory_mib
        self._shape = None

    def give_back(self, part: Allocation) -> None:
        """Count one node's part of an allocation as over; what is drained or lost does not come back."""
        shared = self.shared
        for share in part.shares:
            gpu, share_mib = share.gpu, share.memory_mib
            state = self.node.by_id.get(gpu)
            if state is None or not state.comes_back:
                continue
            if share_mib is None or shared.get(gpu) == state.kind.memory_mib - share_mib:
                if shared:
                    shared.pop(gpu, None)
                insort(self.free, state, key=_INDEX)
            elif gpu in shared:
                shared[gpu] += share_mib
        self.cpus += part.cpus
        self.memory_mib += part.memory_mib
        self._shape = None

    def same(self, other: "Room") -> bool:
        """Return whether another count of the same node found the same."""
        return (
            self.free == other.free
            and self.shared == other.shared
            and self.sick == other.sick
            and self.shape == other.shape
        )

    def _left(self) -> Parts:
        """Return what is left of each GPU that is shared."""
        if not self.shared:
            return ()
        shared = [state for state in self.node.gpus if state.gpu.id in self.shared]
        return tuple([(state.slot, self.shared[state.gpu.id]) for state in shared])


def share_of(demand: Demand, capacity_mib: Mib) -> Mib | None:
    """Return how much of a GPU of that nominal size each share takes; None for all of it.

    Rounded down, so that fractions that add up to one fit on one GPU.
    """
    if demand.share_permille is not None:
        return Mib(capacity_mib * demand.share_permille // 1000)
    return demand.share_mib


def _permille(stock: Stock) -> int:
    kind, full, parts = stock
    return 1000 * full + (1000 * sum(parts) // kind.memory_mib if parts else 0)


@lru_cache(maxsize=1 << 12)
def _counted(slots: Slots, parts: Parts) -> Stocks:
    full = Counter(slot.kind for slot in slots)
    left: dict[Kind, list[int]] = {kind: [] for kind in full}
    for slot, left_mib in parts:
        left.setdefault(slot.kind, []).append(left_mib)
    return tuple(sorted(Stock(kind, full[kind], tuple(sorted(mibs))) for kind, mibs in left.items()))
