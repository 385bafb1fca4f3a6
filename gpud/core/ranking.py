"""The nodes where one demand fits, the best first.

A heap by score in which a node may stand more than once: an entry counts while its version is the room's, and is
skipped when it surfaces otherwise, so that a change costs one look and one push. Rooms of the same shape have the same
score, which is worked out once: of a cluster's nodes most are alike, and are so again and again.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from gpud.core.fleet import Kind
from gpud.core.placement import admits, fit, wants
from gpud.core.room import Hold, Room, Shape, Stock, Stocks, share_of
from gpud.core.scoring import Placement, Score, Spread
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import Demand

Entry = tuple[Score, NodeName, int]  # of a node as it was at that version
Rooms = Mapping[NodeName, Room]
_SPREAD = Spread()
_LAST = 1 << 62  # more than any rule says
_SWEEP = 64  # entries that may stand for nothing, beside four for each node, before they are swept out
_SHAPES = 1 << 12  # that are remembered: where CPUs and memory are counted, few rooms are alike


class Ranking:
    """Where one demand fits; as of entry `read` of a log of changes, and of the placement rule's `epoch`."""

    __slots__ = (
        "_any_gpu",
        "_any_node",
        "_by_shape",
        "_count",
        "_demand",
        "_heap",
        "_held",
        "_least",
        "_needs",
        "_placement",
        "_plain",
        "epoch",
        "read",
    )

    def __init__(self, demand: Demand, placement: Placement) -> None:
        self._demand = demand
        self._placement: Placement = _SPREAD if demand.spread else placement
        self._count = demand.gpus // demand.nodes
        self._least = 0 if demand.shared else self._count  # GPUs that must be free
        self._any_node = not demand.excluded_nodes and not demand.node_labels
        self._any_gpu = not demand.gpu_ids and not demand.excluded_gpus
        counted = demand.cpus_counted or demand.memory_mib
        self._plain = self._any_node and not counted and not demand.shared  # any node with a free GPU may do
        self._needs: dict[Kind, int | None] = {}
        self._heap: list[Entry] = []
        self._by_shape: dict[Shape, Score | None] = {}
        self._held: dict[NodeName, tuple[int, Hold, tuple[Score, Allocation] | None]] = {}
        self.epoch = placement.epoch
        self.read = 0

    def fill(self, rooms: Rooms) -> None:
        """Look at every node."""
        scores = ((self._look(room), room) for room in rooms.values())
        self._heap = [(score, room.name, room.version) for score, room in scores if score is not None]
        heapify(self._heap)

    def look(self, changed: Iterable[NodeName], rooms: Rooms) -> None:
        """Look at the nodes that changed."""
        for name in changed:
            room = rooms.get(name)
            if room is None or len(room.free) < self._least:
                continue
            score = self._look(room)
            if score is not None:
                heappush(self._heap, (score, name, room.version))
        if len(self._heap) > 4 * len(rooms) + _SWEEP:
            self._heap = [each for each in self._heap if each[1] in rooms and rooms[each[1]].version == each[2]]
            heapify(self._heap)

    def first(self, rooms: Rooms) -> Entry | None:
        """Return the best node; it stays where it stands."""
        heap = self._heap
        while heap:
            room = rooms.get(heap[0][1])
            if room is not None and room.version == heap[0][2]:
                return heap[0]
            heappop(heap)
        return None

    def pop(self, rooms: Rooms) -> Iterator[Entry]:
        """Yield the nodes from the best on; whoever asked puts back what was yielded."""
        heap = self._heap
        while heap:
            entry = heappop(heap)
            room = rooms.get(entry[1])
            if room is not None and room.version == entry[2]:
                yield entry

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Let nodes stand where they stood."""
        for entry in entries:
            heappush(self._heap, entry)

    def under(self, room: Room, hold: Hold) -> tuple[Score, Allocation] | None:
        """Return what a node gives of which claims hold something, and its score; None if it does not fit then.

        Remembered until the node or the hold is another: pools and tenants' own GPUs hold much, and for long.
        """
        known = self._held.get(room.name)
        if known is None or known[0] != room.version or known[1] != hold:
            part = fit(self._demand, room, hold)
            found = None if part is None else (_last(self._score(room, part), room, part), part)
            known = self._held[room.name] = room.version, replace(hold, gpus=dict(hold.gpus)), found
        return known[2]

    def _score(self, room: Room, part: Allocation) -> Score:
        rest = room.copy()
        rest.take(part)
        return self._placement.score(self._demand, room, rest.stocks)

    def _look(self, room: Room) -> Score | None:
        """Return the node's score, None if it does not fit there; known already where another was like it."""
        if room.sick or not (self._any_node and self._any_gpu):
            score = self._fits(room)
            return score if score is None else _last(score, room, fit(self._demand, room))
        try:
            return self._by_shape[room.shape]
        except KeyError:
            if len(self._by_shape) >= _SHAPES:
                self._by_shape.clear()
            score = self._by_shape[room.shape] = self._fits(room)
            return score

    def _fits(self, room: Room) -> Score | None:
        """Return the node's score, None if it does not fit there: what `fit` and `score` say, from the counts alone."""
        demand = self._demand
        if not self._plain and (room.lacks(demand) is not None or not (self._any_node or admits(demand, room))):
            return None
        stocks = room.stocks
        if not self._count:
            return self._placement.score(demand, room, stocks)
        if not stocks:
            return None
        if not self._any_gpu or (len(stocks) > 1 and demand.shared):
            part = fit(demand, room)
            return None if part is None else self._score(room, part)
        if self._least:
            return self._whole(room, stocks)
        left = self._in_parts(stocks[0])
        return None if left is None else self._placement.score(demand, room, (left,))

    def _whole(self, room: Room, stocks: Stocks) -> Score | None:
        count, some = self._count, 0
        for at, (kind, full, parts) in enumerate(stocks):
            if self._need(kind) is None:
                continue
            if full >= count:
                after = (*stocks[:at], Stock(kind, full - count, parts), *stocks[at + 1 :])
                return self._placement.score(self._demand, room, after)
            some += full
        if some < count:
            return None
        part = fit(self._demand, room)
        return None if part is None else self._score(room, part)

    def _in_parts(self, stock: Stock) -> Stock | None:
        """Return what stays of GPUs of one kind of which shares are taken: from the fullest on, then from free ones."""
        kind, full, parts = stock
        need = self._need(kind)
        if need is None:
            return None
        first = bisect_left(parts, need)
        taken = parts[first : first + self._count]
        opened = self._count - len(taken)
        if opened > full:
            return None
        left = [*parts[:first], *parts[first + len(taken) :]]
        for part in taken:
            insort(left, part - need)
        for _ in range(opened):
            insort(left, kind.memory_mib - need)
        return Stock(kind, full - opened, tuple(left))

    def _need(self, kind: Kind) -> int | None:
        """Return how much of a GPU of a kind is taken; None if it does not suit."""
        if kind not in self._needs:
            self._needs[kind] = need_of(self._demand, kind)
        return self._needs[kind]


def _last(score: Score, room: Room, part: Allocation | None) -> Score:
    """Return a score that is behind all others where a degraded GPU is in what a node gives."""
    if part is None or not room.sick:
        return score
    worn = any(state.gpu.id in part.gpus and state.health.degraded for state in room.node.gpus)
    return (_LAST, *score) if worn else score


def need_of(demand: Demand, kind: Kind) -> int | None:
    """Return how many MiB of each GPU of a kind a demand that names none takes; None if it does not suit."""
    if not wants(demand, *kind):
        return None
    share = share_of(demand, kind.memory_mib)
    return kind.memory_mib if share is None else share
