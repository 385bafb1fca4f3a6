"""How much a node would be missed by those who come later: what tells one node where a job fits from another.

A placement rule scores what is left after a job took its part; the lowest score is the best, and the node's name
decides between equals. Best fit needs to know nothing of the work: least free first, which allocates 94.0 % of the
openb trace's demand (Weng et al., ATC'23, compare it with others). `fragmentation` knows what usually comes.
"""

from typing import Protocol, Self

from gpud.core.placement import apart
from gpud.core.room import Room, Stocks
from gpud.model.job import Demand

Score = tuple[int, ...]


class Placement(Protocol):
    """A rule for choosing between nodes.

    `epoch` changes when the same node would get another score; `learn` tells of a job that came, and how many of it.
    """

    epoch: int

    def score(self, demand: Demand, room: Room, after: Stocks) -> Score:
        """Return how much a node would be missed that is left with `after` of its GPUs."""
        ...

    def learn(self, demand: Demand, count: int = 1) -> None:
        """Take note of what was asked for."""
        ...

    def twin(self) -> "Placement":
        """Return a rule that knows as much by now, and learns on its own from here."""
        ...


class BestFit:
    """GPUs that are shared already before others, the smallest memory that suits, the node with the least free."""

    epoch = 0

    def score(self, demand: Demand, room: Room, after: Stocks) -> Score:
        """Return the score; GPUs that are closer to each other and then CPUs decide between equally free nodes."""
        if not demand.gpus:
            return cpu_score(room)
        largest, opened = taken_of(room.stocks, after)
        new, many = (opened, 0) if demand.shared else (0, opened)
        return new, largest, room.free_permille, apart(room.slots, many), room.cpus

    def learn(self, demand: Demand, count: int = 1) -> None:
        """Take note of nothing."""

    def twin(self) -> Self:
        """Return itself: it learns nothing."""
        return self


class Spread:
    """The node with the most free: where jobs disturb each other least, and large ones find no room first."""

    epoch = 0

    def score(self, demand: Demand, room: Room, after: Stocks) -> Score:  # noqa: ARG002 - every rule is asked alike
        """Return the score: the most GPUs free, then the most CPUs."""
        return -room.free_permille if demand.gpus else len(room.node.gpus), -room.cpus

    def learn(self, demand: Demand, count: int = 1) -> None:
        """Take note of nothing."""

    def twin(self) -> Self:
        """Return itself: it learns nothing."""
        return self


def taken_of(before: Stocks, after: Stocks) -> tuple[int, int]:
    """Return the memory of the largest GPU that something is taken of, and how many free ones are taken or opened."""
    if len(before) == 1:
        kind, full, _ = before[0]
        return kind.memory_mib, full - (after[0].full if after else 0)
    largest = max(stock.kind.memory_mib for stock in before if stock not in after)
    return largest, sum(stock.full for stock in before) - sum(stock.full for stock in after)


def cpu_score(room: Room) -> Score:
    """Return how much a node would be missed by a job that takes only CPUs of it: those with GPUs most."""
    return len(room.node.gpus), room.free_permille, room.cpus
