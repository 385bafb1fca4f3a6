"""Where a job goes: the node, or the nodes, where its allocation leaves the rest most useful.

Of GPUs the smallest that suit; of the nodes that have such, the one on which the least is free already. A job without
GPUs goes where the fewest are. A gang gets equal parts on several nodes, all or none, of one kind where that can be.
(Least free GPU first is the rule that allocates 94.0 % of the openb trace's demand without knowing the workload;
Weng et al., ATC'23, compare it with others.)
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gpud.core.placement import fit
from gpud.core.room import Hold, Room
from gpud.model.gpu import Allocation, NodeName, nominal_mib
from gpud.model.job import Demand

NOTHING_HELD: Mapping[NodeName, Hold] = MappingProxyType({})


class Spaces:
    """The rooms of all nodes, kept between cycles: `put` and `drop` change what a node has, starts take from it."""

    def __init__(self) -> None:
        self.rooms: dict[NodeName, Room] = {}

    def put(self, room: Room) -> None:
        """Count a node anew."""
        self.rooms[room.name] = room

    def drop(self, node: NodeName) -> None:
        """Give nothing of a node any more."""
        self.rooms.pop(node, None)

    def take(self, allocation: Allocation) -> None:
        """Count an allocation as given."""
        for part in allocation.parts:
            self.rooms[part.node].take(part)

    def best(self, demand: Demand, holds: Mapping[NodeName, Hold] = NOTHING_HELD) -> Allocation | None:
        """Return the best allocation that leaves alone what claims hold; None if there is none."""
        found = []
        for name, room in self.rooms.items():
            part = fit(demand, room, holds.get(name))
            if part is not None:
                found.append((score(demand, room, part), name, part))
        if len(found) < demand.nodes:
            return None
        found.sort(key=lambda each: each[:2])
        if demand.nodes == 1:
            return found[0][2]
        kinds: dict[str, list[Allocation]] = {}
        for _, name, part in found:
            kinds.setdefault(kind_of(self.rooms[name], part), []).append(part)
        enough = [parts for parts in kinds.values() if len(parts) >= demand.nodes]
        parts = enough[0] if enough else [part for _, _, part in found]
        first, *rest = sorted(parts[: demand.nodes], key=lambda part: part.node)
        return replace(first, rest=tuple(rest))


def score(demand: Demand, room: Room, part: Allocation) -> tuple[int, ...]:
    """Return how much a node would be missed: the lowest is the best."""
    free = sum(1000 * left // _capacity(room, gpu) for gpu, left in room.shared.items()) + 1000 * len(room.free)
    if demand.spread:
        free = -free
    if not part.shares:
        return len(room.node.gpus), free, room.cpus
    chosen = set(part.gpus)
    largest = max(state.gpu.memory_total_mib for state in room.node.gpus if state.gpu.id in chosen)
    opened = sum(1 for share in part.shares if share.memory_mib is not None and share.gpu not in room.shared)
    return opened, largest, free, room.cpus


def kind_of(room: Room, part: Allocation) -> str:
    """Return what GPUs a node's part has, by name."""
    chosen = set(part.gpus)
    return ",".join(sorted({state.gpu.name for state in room.node.gpus if state.gpu.id in chosen}))


def _capacity(room: Room, gpu: str) -> int:
    return next(nominal_mib(state.gpu.memory_total_mib) for state in room.node.gpus if state.gpu.id == gpu)
