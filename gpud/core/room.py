"""What one node has left to give, and how much of it a claim leaves to those who would last beyond it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from gpud.core.fleet import GpuState, Kind, NodeState
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


_INDEX = attrgetter("gpu.index")


class Stock(NamedTuple):
    """GPUs of one kind that a node has left: so many whole ones, and so many MiB on each that is shared, ascending."""

    kind: Kind
    full: int
    parts: tuple[int, ...]


Stocks = tuple[Stock, ...]


@dataclass(slots=True, eq=False)
class Room:
    """What one node has left: `free` GPUs, by index, and the MiB left on each of those `shared`. Starts take from it.

    A GPU is given out by its nominal size: three jobs that ask for 8 GiB share one that is sold with 24. `version` is
    whose it is that keeps rooms: another one means that something changed. `sick`: it has degraded GPUs. `later`: of
    equal GPUs these are taken last.
    """

    node: NodeState
    free: list[GpuState]
    cpus: int
    memory_mib: int
    shared: dict[GpuId, int] = field(default_factory=dict)
    version: int = 0
    sick: bool = False
    later: frozenset[GpuId] = frozenset()
    _stocks: Stocks | None = None
    _free_permille: int = 0

    @property
    def name(self) -> NodeName:
        """Return the node's name."""
        return self.node.node.name

    @property
    def stocks(self) -> Stocks:
        """Return what is left of each kind of GPU, by kind."""
        if self._stocks is None:
            self._stocks = _counted(self)
            self._free_permille = sum(map(_permille, self._stocks))
        return self._stocks

    @property
    def free_permille(self) -> int:
        """Return the thousandths of GPUs that are left."""
        return self._free_permille if self._stocks is not None else sum(map(_permille, self.stocks))

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
        return Room(self.node, list(self.free), self.cpus, self.memory_mib, dict(self.shared))

    def within(self, hold: Hold) -> "Room":
        """Return what of it claims leave."""
        return Room(
            self.node,
            [state for state in self.free if state.gpu.id not in hold.gpus],
            min(self.cpus, hold.cpus),
            min(self.memory_mib, hold.memory_mib),
            {gpu: min(left, hold.gpus.get(gpu, left)) for gpu, left in self._parts(hold).items()},
            later=self.later,
        )

    def _parts(self, hold: Hold) -> Mapping[GpuId, int]:
        """Return what is left to share: a free GPU of which a claim leaves a part can only be shared."""
        return self.shared | {gpu: self.left_mib(gpu) for gpu, left in hold.gpus.items() if left}

    def take(self, part: Allocation) -> None:
        """Count one node's part of an allocation as given."""
        states = {state.gpu.id: state for state in self.free}
        for share in part.shares:
            state = states.pop(share.gpu, None)
            if share.memory_mib is not None:
                if state is not None:
                    self.shared[share.gpu] = nominal_mib(state.gpu.memory_total_mib)
                self.shared[share.gpu] -= share.memory_mib
        self.free = list(states.values())
        self.cpus -= part.cpus
        self.memory_mib -= part.memory_mib
        self._stocks = None

    def give_back(self, part: Allocation) -> None:
        """Count one node's part of an allocation as over; what is drained or lost does not come back."""
        back = {share.gpu: share.memory_mib for share in part.shares}
        for state in self.node.gpus:
            gpu = state.gpu.id
            if gpu not in back or not state.comes_back:
                continue
            share_mib = back[gpu]
            if share_mib is None or self.shared.get(gpu) == nominal_mib(state.gpu.memory_total_mib) - share_mib:
                self.shared.pop(gpu, None)
                self.free.append(state)
            elif gpu in self.shared:
                self.shared[gpu] += share_mib
        self.free.sort(key=_INDEX)
        self.cpus += part.cpus
        self.memory_mib += part.memory_mib
        self._stocks = None

    def same(self, other: "Room") -> bool:
        """Return whether another count of the same node found the same."""
        return (
            self.free == other.free
            and self.shared == other.shared
            and self.cpus == other.cpus
            and self.memory_mib == other.memory_mib
            and self.sick == other.sick
        )


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


def _counted(room: Room) -> Stocks:
    kinds = [state.kind for state in room.free]
    alike = bool(kinds) and kinds.count(kinds[0]) == len(kinds)
    full = {kinds[0]: len(kinds)} if alike else Counter(kinds)
    if not room.shared:
        stocks = [Stock(kind, count, ()) for kind, count in full.items()]
    else:
        parts: dict[Kind, list[int]] = {kind: [] for kind in full}
        for state in room.node.gpus:
            if state.gpu.id in room.shared:
                parts.setdefault(state.kind, []).append(room.shared[state.gpu.id])
        stocks = [Stock(kind, full.get(kind, 0), tuple(sorted(left))) for kind, left in parts.items()]
    return tuple(sorted(stocks)) if len(stocks) > 1 else tuple(stocks)
