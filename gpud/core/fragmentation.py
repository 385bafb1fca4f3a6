"""Placement by what usually comes: a job goes where the room it leaves is of use to the most of those to come.

(Weng et al., "Beware of Fragmentation", USENIX ATC'23.) A GPU of a node is a fragment to a demand that cannot use it:
the node has too few CPUs for it, too few free GPUs, or too little left on that GPU. What a node has left, counted by
how often each demand comes, is its fragmentation, and a job goes where it grows the least; by steps of a twenty-fifth
of a GPU, as theirs (a hundredth of a logistic function of the growth), among equals the smallest memory that
suits, then least free first. (Finer steps are worse.)

The mix of demands is known, or learned: the rule starts as best fit, and counts what comes. It weighs anew whenever
it has seen three times as much, so that what was learned costs little.

Cost: O(GPUs shared on the node) a score; a table for each kind of GPU and number of CPUs that tells demands apart.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from copy import copy
from math import exp
from typing import Self

from gpud.core.fleet import Kind
from gpud.core.placement import apart
from gpud.core.ranking import need_of
from gpud.core.room import Room, Stocks
from gpud.core.scoring import BestFit, Placement, Score, Spread, cpu_score, taken_of
from gpud.model.gpu import NodeName
from gpud.model.job import Demand

LEAST = 64  # demands to be seen before they are taken for what usually comes


class Fragmentation:
    """The rule, for a known mix (how often each demand comes) or, without one, for what it is told of."""

    def __init__(self, mix: Mapping[Demand, float] | None = None, *, least: int = LEAST) -> None:
        self.epoch = 0
        self._learns = mix is None
        self._seen: dict[Demand, float] = {}
        self._total = 0.0
        self._next = float(least)
        self._best_fit = BestFit()
        self._mix: _Mix | None = None if mix is None else _Mix(mix)
        self._before: dict[NodeName, tuple[Room, int, float]] = {}

    def learn(self, demand: Demand, count: int = 1) -> None:
        """Count a demand that came, unless the mix is known."""
        if not self._learns:
            return
        self._seen[demand] = self._seen.get(demand, 0.0) + count
        self._total += count
        if self._total >= self._next:
            self._next = 3 * self._total
            self._mix = _Mix(self._seen)
            self._before.clear()
            self.epoch += 1

    def twin(self) -> Self:
        """Return a rule that has learned as much; what it worked out of the mix is the same for both."""
        twin = copy(self)
        twin._seen, twin._before = dict(self._seen), {}  # noqa: SLF001 - its own
        return twin

    def score(self, demand: Demand, room: Room, after: Stocks) -> Score:
        """Return the score."""
        if self._mix is None:
            return self._best_fit.score(demand, room, after)
        if not demand.gpus:
            return cpu_score(room)
        before = self._before.get(room.name)
        if before is None or before[0] is not room or before[1] != room.version:
            before = self._before[room.name] = room, room.version, self._mix.lost(room.stocks, room.cpus)
        grows = self._mix.lost(after, room.cpus - demand.cpus_counted) - before[2]
        largest, _ = taken_of(room.stocks, after)
        reach = 0 if demand.shared else apart(room.slots, demand.gpus // demand.nodes)
        return -int(100 / (1 + exp(grows))), largest, room.free_permille, reach, room.cpus


PLACEMENTS: Mapping[str, Callable[[], Placement]] = {"fgd": Fragmentation, "best-fit": BestFit, "spread": Spread}


class _Mix:
    """Demands by how often they come, as tables: what of a GPU is lost to them, for a node with so many CPUs left."""

    def __init__(self, seen: Mapping[Demand, float]) -> None:
        total = sum(seen.values())
        self._needs = [(demand, weight / total) for demand, weight in seen.items() if demand.gpus]
        self._cpus = sorted({demand.cpus_counted for demand, _ in self._needs})
        self._tables: dict[tuple[Kind, int], _Table] = {}

    def lost(self, stocks: Stocks, cpus: int) -> float:
        """Return how many GPUs of these the next demand can be expected not to be able to use."""
        lost = 0.0
        row = bisect_right(self._cpus, cpus)
        for kind, full, parts in stocks:
            table = self._tables.get((kind, row))
            if table is None:
                table = self._tables[kind, row] = self._table(kind, row)
            lost += table.full[min(full, len(table.full) - 1)] * full
            for part in parts:
                lost += table.part(part)
        return lost

    def _table(self, kind: Kind, row: int) -> "_Table":
        """Return the table of a kind of GPU for a node with CPUs for the demands of the first rows."""
        most = self._cpus[row - 1] if row else -1
        parts: dict[int, float] = {}
        wholes: dict[int, float] = {}
        for demand, weight in self._needs:
            need = need_of(demand, kind) if demand.cpus_counted <= most else None
            if need is None:
                continue
            if demand.shared:
                parts[need] = parts.get(need, 0.0) + weight
            else:
                count = demand.gpus // demand.nodes
                wholes[count] = wholes.get(count, 0.0) + weight
        return _Table(kind.memory_mib, parts, wholes)


class _Table:
    """For one kind of GPU: `full[n]` is the part of a free GPU that is lost where n are free."""

    __slots__ = ("_capacity_mib", "_lost", "_needs", "full")

    def __init__(self, capacity_mib: int, parts: Mapping[int, float], wholes: Mapping[int, float]) -> None:
        self._capacity_mib = capacity_mib
        self._needs = sorted(parts)
        self._lost = [1.0]
        for need in self._needs:
            self._lost.append(self._lost[-1] - parts[need])
        self.full = [self._lost[-1]]
        for count in range(1, max(wholes, default=0) + 1):
            self.full.append(self.full[-1] - wholes.get(count, 0.0))

    def part(self, left_mib: int) -> float:
        """Return how much of a GPU, as a part of it, is lost where so much of it is left."""
        return left_mib / self._capacity_mib * self._lost[bisect_right(self._needs, left_mib)]
