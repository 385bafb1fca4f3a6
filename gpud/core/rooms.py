"""Where a job goes: best fit, the allocation that leaves the rest most useful.

Of GPUs the smallest that suit, then the coolest; of the nodes that have such, the one on which the fewest free GPUs
stay behind. A job without GPUs goes where the fewest free GPUs need the CPUs. A job never spans nodes.
(Least free GPU first is the rule that allocates 94.0 % of the openb trace's demand without knowing the workload;
Weng et al., ATC'23, compare it with others.)

Cost: O(GPUs) a try.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from gpud.core.condition import Condition, condition
from gpud.core.fleet import GpuState, NodeState
from gpud.core.placement import suits
from gpud.core.world import World
from gpud.model.gpu import Allocation, GpuId, NodeName, Reading, Share
from gpud.model.job import Demand
from gpud.model.units import Mib, Timestamp


@dataclass(slots=True)
class Room:
    """What one node has left in this cycle; starts take from it. `free` is by index."""

    node: NodeState
    free: list[GpuState]
    cpus: int
    memory_mib: int

    @property
    def name(self) -> NodeName:
        """Return the node's name."""
        return self.node.node.name

    def lacks(self, demand: Demand) -> str | None:
        """Return what there is too little of, GPUs apart. A node may have less than is taken: its CPUs can be cut."""
        if 0 < demand.cpus_counted > self.cpus:
            return "CPUs"
        return "memory" if 0 < demand.memory_mib > self.memory_mib else None

    def take(self, allocation: Allocation) -> None:
        """Count an allocation as given."""
        gone = set(allocation.gpus)
        self.free = [state for state in self.free if state.gpu.id not in gone]
        self.cpus -= allocation.cpus
        self.memory_mib -= allocation.memory_mib


def rooms(world: World, now: Timestamp) -> list[Room]:
    """Return what every node has to give now: free GPUs, however old the look at them is."""
    return [
        Room(
            node,
            [state for state in node.gpus if condition(world, state, now) is Condition.FREE],
            node.node.cpus - node.cpus_used,
            node.node.memory_mib - node.memory_used_mib,
        )
        for node in world.nodes.values()
        if node.present and node.drained is None
    ]


def place(demand: Demand, room: Room, without: frozenset[GpuId] = frozenset()) -> Allocation | None:
    """Return the best allocation on one node, leaving the GPUs `without` alone; None if it does not fit."""
    if demand.gpus > len(room.free) or room.name in demand.excluded_nodes or room.lacks(demand) is not None:
        return None
    if not demand.gpus:
        return _allocation(demand, room.name, ())
    free = [state for state in room.free if state.gpu.id not in without and suits(demand, state.gpu)]
    if len(free) < demand.gpus:
        return None
    free.sort(key=lambda state: (state.gpu.memory_total_mib, _warmth(state), state.gpu.index))
    chosen = sorted(free[: demand.gpus], key=lambda state: state.gpu.index)
    return _allocation(demand, room.name, [state.gpu.id for state in chosen])


def best(demand: Demand, candidates: Iterable[tuple[Room, frozenset[GpuId]]]) -> tuple[Room, Allocation] | None:
    """Return the best of the nodes, each with the GPUs that must be left alone there."""
    found = None
    for room, without in candidates:
        allocation = place(demand, room, without)
        if allocation is not None:
            score = _score(demand, room, allocation)
            if found is None or score < found[0]:
                found = score, room, allocation
    return None if found is None else (found[1], found[2])


def _allocation(demand: Demand, node: NodeName, gpus: Iterable[GpuId]) -> Allocation:
    shares = tuple(Share(gpu=gpu) for gpu in gpus)
    return Allocation(node=node, shares=shares, cpus=demand.cpus_counted, memory_mib=Mib(demand.memory_mib))


def _score(demand: Demand, room: Room, allocation: Allocation) -> tuple[int, int, int]:
    if not demand.gpus:
        return len(room.free), room.cpus, 0
    chosen = set(allocation.gpus)
    largest = max(state.gpu.memory_total_mib for state in room.free if state.gpu.id in chosen)
    return largest, len(room.free) - len(chosen), room.cpus


def _warmth(state: GpuState) -> int:
    seen = state.seen
    return seen.temperature_c if isinstance(seen, Reading) and seen.temperature_c is not None else 0
