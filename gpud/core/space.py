"""Where a job goes: the node, or the nodes, whose room its allocation leaves most useful.

A gang gets equal parts on several nodes, all or none, with GPUs of one kind where that can be.

For every demand that is asked for, the nodes where it fits are kept in a heap by score. What changes is written into a
log, and a demand that is asked again looks at the nodes in the log since then; entries of a node as it was before are
skipped when they surface. Nodes on which claims hold something are looked at apart. A demand that is not asked for
while much changes is forgotten.

Cost: O(nodes) the first time a demand is asked for; then a look at each node that changed since, and O(log nodes).
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gpud.core.fleet import Kind
from gpud.core.placement import given
from gpud.core.ranking import Entry, Ranking
from gpud.core.room import Hold, Room
from gpud.core.scoring import BestFit, Placement
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import Demand

NOTHING_HELD: Mapping[NodeName, Hold] = MappingProxyType({})
_LOG = 256  # entries of the log that are kept, beside four for each node


class Spaces:
    """The rooms of all nodes, kept between cycles: `put` and `drop` change what a node has, starts take from it."""

    def __init__(self, placement: Placement | None = None) -> None:
        self.placement = placement or BestFit()
        self.rooms: dict[NodeName, Room] = {}  # by name
        self._rankings: dict[Demand, Ranking] = {}
        self._log: list[NodeName] = []
        self._most = _LOG
        self._version = 0
        self.most_free = 0  # GPUs on one node
        self._nodes = [0]  # with so many free
        self._grown: dict[NodeName, None] = {}

    def put(self, room: Room) -> None:
        """Count a node anew."""
        before = self.rooms.get(room.name)
        if before is not None and before.node is room.node and before.same(room):
            return
        self.rooms[room.name] = room
        self._nodes[0] += 1
        if before is not None:
            self._count_out(before.counted)
        if before is None:
            self.rooms = dict(sorted(self.rooms.items()))
        self._most = 4 * len(self.rooms) + _LOG
        self._grown[room.name] = None
        self._changed(room.name, room)

    def drop(self, node: NodeName) -> None:
        """Give nothing of a node any more."""
        room = self.rooms.pop(node, None)
        if room is not None:
            self._count_out(room.counted)

    def take(self, allocation: Allocation) -> None:
        """Count an allocation as given."""
        for part in allocation.parts:
            room = self.rooms[part.node]
            room.take(part)
            self._changed(part.node, room)

    def give_back(self, part: Allocation) -> None:
        """Count what was given of one node as over."""
        room = self.rooms.get(part.node)
        if room is not None:
            room.give_back(part)
            self._grown[part.node] = None
            self._changed(part.node, room)

    def best(self, demand: Demand, holds: Mapping[NodeName, Hold] = NOTHING_HELD) -> Allocation | None:
        """Return the best allocation that leaves alone what claims hold; None if there is none."""
        ranking = self._ranking(demand)
        if demand.nodes > 1:
            return self._gang(demand, ranking, holds)
        if not holds:
            entry = ranking.first(self.rooms)
            return None if entry is None else given(demand, self.rooms[entry[1]])
        found, first = None, None
        passed: list[Entry] = []
        for entry in ranking.pop(self.rooms):
            passed.append(entry)
            if entry[1] not in holds:
                first = entry
                break
            under = ranking.under(self.rooms[entry[1]], holds[entry[1]])
            if under is not None and (found is None or (under[0], entry[1]) < found[0]):
                found = (under[0], entry[1]), under[1]
        ranking.put_back(passed)
        if first is None or (found is not None and found[0] < first[:2]):
            return None if found is None else found[1]
        return given(demand, self.rooms[first[1]])

    def fits(self, demand: Demand, holds: Mapping[NodeName, Hold] = NOTHING_HELD) -> bool:
        """Return whether there is room that leaves alone what claims hold."""
        if holds or demand.nodes > 1:
            return self.best(demand, holds) is not None
        return self._ranking(demand).first(self.rooms) is not None

    def grown(self) -> dict[NodeName, None]:
        """Return the nodes that may have more than when this was asked last."""
        grown, self._grown = self._grown, {}
        return grown

    def learn(self, demand: Demand, count: int = 1) -> None:
        """Tell the placement rule of what is asked for."""
        self.placement.learn(demand, count)

    def _gang(self, demand: Demand, ranking: Ranking, holds: Mapping[NodeName, Hold]) -> Allocation | None:
        """Return equal parts on the best nodes: of one kind of GPU, if so many have it."""
        parts: list[Allocation] = []
        kinds: dict[frozenset[Kind], list[Allocation]] = {}
        chosen: list[Allocation] | None = None
        passed: list[Entry] = []
        for entry in ranking.pop(self.rooms):
            passed.append(entry)
            room, hold = self.rooms[entry[1]], holds.get(entry[1])
            if hold is None:
                part = given(demand, room)
            else:
                under = ranking.under(room, hold)
                part = None if under is None else under[1]
            if part is None:
                continue
            parts.append(part)
            alike = kinds.setdefault(_kinds(self.rooms[part.node], part), [])
            alike.append(part)
            if len(alike) == demand.nodes:
                chosen = alike
                break
        ranking.put_back(passed)
        if chosen is None:
            if len(parts) < demand.nodes:
                return None
            chosen = parts[: demand.nodes]
        first, *rest = sorted(chosen, key=lambda part: part.node)
        return replace(first, rest=tuple(rest))

    def _ranking(self, demand: Demand) -> Ranking:
        ranking = self._rankings.get(demand)
        now = len(self._log)
        if ranking is None or ranking.epoch != self.placement.epoch:
            ranking = self._rankings[demand] = Ranking(demand, self.placement)
            ranking.fill(self.rooms)
        elif ranking.read < now:
            ranking.look(dict.fromkeys(self._log[ranking.read :]), self.rooms)
        ranking.read = now
        return ranking

    def _count(self, room: Room, free: int) -> None:
        """Count a node among those that have as many GPUs free, and no more where it was."""
        if free > self.most_free:
            self.most_free = free
            self._nodes.extend([0] * (free + 1 - len(self._nodes)))
        self._nodes[free] += 1
        self._count_out(room.counted)
        room.counted = free

    def _count_out(self, free: int) -> None:
        self._nodes[free] -= 1
        while self.most_free and not self._nodes[self.most_free]:
            self.most_free -= 1

    def _changed(self, name: NodeName, room: Room) -> None:
        self._version += 1
        room.version = self._version
        self._log.append(name)
        free = len(room.free)
        if room.counted != free:
            self._count(room, free)
        if len(self._log) > self._most:
            half = len(self._log) // 2
            del self._log[:half]
            self._rankings = {demand: each for demand, each in self._rankings.items() if each.read >= half}
            for each in self._rankings.values():
                each.read -= half


def _kinds(room: Room, part: Allocation) -> frozenset[Kind]:
    """Return what kinds of GPUs a node's part has."""
    chosen = set(part.gpus)
    return frozenset(state.kind for state in room.node.gpus if state.gpu.id in chosen)
