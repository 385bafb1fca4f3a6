"""Who stands where: lines of interchangeable jobs, of which only the heads are ever compared.

Jobs with equal terms stand in one line, ordered by the policy's key. A waiting job is one packed integer (order, then
the line's number, then the job's key) in its line's heap, and the same integer again in a dict by job; everything
else about it stays in the store until it starts. An entry counts while the dict holds that very object, so what
leaves from the middle, or comes back elsewhere, needs no search: its old entry is skipped when it surfaces.

Cost: O(log line) to add, O(1) to remove, O(lines whose head changed) to find the next. Memory: about 150 bytes a
job, however long the line.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms

_JOB_BITS = 64
_LINE_BITS = 32
_JOB_MASK = (1 << _JOB_BITS) - 1
_LINE_MASK = (1 << _LINE_BITS) - 1

Rank = Callable[[Terms], int]


class Line:
    """Jobs of equal terms. `head` is the packed entry of the first, None when nobody is left."""

    __slots__ = ("head", "heap", "number", "terms")

    def __init__(self, number: int, terms: Terms) -> None:
        self.number = number
        self.terms = terms
        self.heap: list[int] = []
        self.head: int | None = None

    def __lt__(self, other: "Line") -> bool:
        """Equal entries are of one line, whose order among themselves means nothing."""
        return self.number < other.number


class Queue:
    """All lines, grouped by demand. `rank` (lower first) comes before the order of the jobs inside a line."""

    __slots__ = ("_by_terms", "_entries", "_groups", "_lines", "_rank")

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._lines: list[Line] = []
        self._by_terms: dict[Terms, Line] = {}
        self._groups: dict[Demand, list[tuple[int, int, Line]]] = {}
        self._entries: dict[JobId, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job: JobId) -> bool:
        return job in self._entries

    def add(self, job: JobId, terms: Terms, order: int) -> None:
        """Put a job into its line; one that stands somewhere already moves."""
        self.remove(job)
        line = self._line(terms)
        entry = self._entries[job] = _pack(order, line, job)
        heappush(line.heap, entry)
        self._settle(line)

    def fill(self, jobs: Iterable[tuple[JobId, Terms, int]]) -> None:
        """Put many jobs into an empty queue at once, as after a restart."""
        for job, terms, order in jobs:
            line = self._line(terms)
            entry = self._entries[job] = _pack(order, line, job)
            line.heap.append(entry)
        for line in self._lines:
            heapify(line.heap)
            self._settle(line)

    def remove(self, job: JobId) -> bool:
        """Take a job out; False if it stood in no line."""
        entry = self._entries.pop(job, None)
        if entry is None:
            return False
        self._settle(self._line_of(entry))
        return True

    def terms(self, job: JobId) -> Terms:
        """Return the terms of a job in a line. Raises KeyError if it stands in none."""
        return self._line_of(self._entries[job]).terms

    def order(self, job: JobId) -> int:
        """Return the order with which a job was added. Raises KeyError if it stands in no line."""
        return self._entries[job] >> _JOB_BITS + _LINE_BITS

    def heads(self) -> list[tuple[int, int, Demand]]:
        """Return (rank, entry, demand) of the first job of every demand, as a heap."""
        heads = []
        for demand in list(self._groups):
            first = self.first(demand)
            if first is None:
                del self._groups[demand]
            else:
                heads.append((first[0], first[1], demand))
        heapify(heads)
        return heads

    def first(self, demand: Demand) -> tuple[int, int, Line] | None:
        """Return (rank, entry, line) of the job that comes first of all with this demand."""
        group = self._groups.get(demand)
        while group:
            if group[0][2].head is group[0][1]:
                return group[0]
            heappop(group)
        return None

    def standing(self) -> Iterator[tuple[int, int]]:
        """Yield (rank, entry) of everybody in a line, in no order; sorted, they give the positions."""
        for line in self._lines:
            if line.head is not None:
                rank = self._rank(line.terms)
                yield from ((rank, entry) for entry in line.heap if self._entries.get(job_of(entry)) is entry)

    def position(self, job: JobId) -> int | None:
        """Return a job's place among all that stand in lines, from 1. Costs a look at every one of them."""
        entry = self._entries.get(job)
        if entry is None:
            return None
        mine = (self._rank(self._line_of(entry).terms), entry)
        return 1 + sum(1 for theirs in self.standing() if theirs < mine)

    def _line(self, terms: Terms) -> Line:
        line = self._by_terms.get(terms)
        if line is None:
            line = self._by_terms[terms] = Line(len(self._lines), terms)
            self._lines.append(line)
        return line

    def _line_of(self, entry: int) -> Line:
        return self._lines[entry >> _JOB_BITS & _LINE_MASK]

    def _settle(self, line: Line) -> None:
        heap = line.heap
        while heap and self._entries.get(job_of(heap[0])) is not heap[0]:
            heappop(heap)
        head = heap[0] if heap else None
        if head is not line.head:
            line.head = head
            if head is not None:
                heappush(self._groups.setdefault(line.terms.demand, []), (self._rank(line.terms), head, line))


def job_of(entry: int) -> JobId:
    """Return the job of a packed entry."""
    return JobId(entry & _JOB_MASK)


def _pack(order: int, line: Line, job: JobId) -> int:
    return (order << _LINE_BITS | line.number) << _JOB_BITS | job
