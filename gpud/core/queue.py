"""Who stands where: lines of interchangeable jobs, of which only the heads are ever compared.

Jobs with equal terms stand in one line, ordered by the policy's key. A waiting job is one packed integer (order, then
the line's number, then the job's key) in its line's heap, and the same integer again in a dict by job; everything
else about it stays in the store until it starts. An entry counts while the dict holds that very object, so what
leaves from the middle, or comes back elsewhere, needs no search: its old entry is skipped when it surfaces, or swept
out once there are more of its kind than others.

Cost: O(log line) to add, O(1) to remove, O(lines whose head changed) to find the next. Memory: about 130 bytes a
job, however long the line.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from math import inf

from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms

_JOB_BITS = 64
_LINE_BITS = 32
_JOB_MASK = (1 << _JOB_BITS) - 1
_LINE_MASK = (1 << _LINE_BITS) - 1
_SWEEP = 64  # entries that may be left over, beside as many as count, before they are swept out

Rank = Callable[[Terms], int]


class Line:
    """Jobs of equal terms: `count` of them.

    `head` is the packed entry of the first, None when nobody is left; no entry ever was greater than `last`.
    """

    __slots__ = ("count", "head", "heap", "last", "number", "terms")

    def __init__(self, number: int, terms: Terms) -> None:
        self.number = number
        self.terms = terms
        self.heap: list[int] = []
        self.head: int | None = None
        self.count = 0
        self.last = -inf

    def __lt__(self, other: "Line") -> bool:
        """Equal entries are of one line, whose order among themselves means nothing."""
        return self.number < other.number


class Queue:
    """All lines, grouped by demand. `rank` (lower first) comes before the order of the jobs inside a line."""

    __slots__ = ("_by_terms", "_entries", "_groups", "_lines", "_rank", "_unused")

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._lines: list[Line] = []  # by number; one that ran empty is there until its number is used again
        self._unused: list[int] = []
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
        entry = self._entries[job] = (order << _LINE_BITS | line.number) << _JOB_BITS | job
        heappush(line.heap, entry)
        line.count += 1
        line.last = max(line.last, entry)
        self._settle(line)

    def fill(self, jobs: Iterable[tuple[JobId, Terms, int]]) -> None:
        """Put many jobs into an empty queue at once, as after a restart."""
        entries = self._entries
        for job, terms, order in jobs:
            line = self._line(terms)
            entry = entries[job] = (order << _LINE_BITS | line.number) << _JOB_BITS | job
            line.heap.append(entry)
        for line in self._lines:
            line.count, line.last = len(line.heap), max(line.heap)
            heapify(line.heap)
            self._settle(line)

    def remove(self, job: JobId) -> bool:
        """Take a job out; False if it stood in no line."""
        entry = self._entries.pop(job, None)
        if entry is None:
            return False
        line = self._line_of(entry)
        line.count -= 1
        self._settle(line)
        if not line.count:
            del self._by_terms[line.terms]
            self._unused.append(line.number)
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
        for line in self._by_terms.values():
            rank = self._rank(line.terms)
            yield from ((rank, entry) for entry in self._alive(line))

    def position(self, job: JobId) -> int | None:
        """Return a job's place among all that stand in lines, from 1.

        Costs a look at every line, and at everybody in those of which not all come before it: few, for a new job.
        """
        entry = self._entries.get(job)
        if entry is None:
            return None
        mine = (self._rank(self._line_of(entry).terms), entry)
        position = 0
        for line in self._by_terms.values():
            rank = self._rank(line.terms)
            if (rank, line.last) <= mine:
                position += line.count
            elif line.head is not None and (rank, line.head) <= mine:
                position += sum(1 for theirs in self._alive(line) if (rank, theirs) <= mine)
        return position

    def _line(self, terms: Terms) -> Line:
        line = self._by_terms.get(terms)
        if line is None:
            number = self._unused.pop() if self._unused else len(self._lines)
            line = self._by_terms[terms] = Line(number, terms)
            self._lines[number : number + 1] = [line]
        return line

    def _line_of(self, entry: int) -> Line:
        return self._lines[entry >> _JOB_BITS & _LINE_MASK]

    def _alive(self, line: Line) -> Iterator[int]:
        return (entry for entry in line.heap if self._entries.get(job_of(entry)) is entry)

    def _settle(self, line: Line) -> None:
        """See to a line's head, and to its place in its group, after the line changed."""
        heap = line.heap
        while heap and self._entries.get(job_of(heap[0])) is not heap[0]:
            heappop(heap)
        if len(heap) > 2 * line.count + _SWEEP:
            heap[:] = self._alive(line)
            heapify(heap)
        head = heap[0] if heap else None
        if head is line.head:
            return
        line.head = head
        if head is not None:
            group = self._groups.setdefault(line.terms.demand, [])
            if len(group) > 2 * len(self._by_terms) + _SWEEP:
                group[:] = {each[2]: each for each in group if each[2].head is each[1]}.values()
                heapify(group)
            heappush(group, (self._rank(line.terms), head, line))


def job_of(entry: int) -> JobId:
    """Return the job of a packed entry."""
    return JobId(entry & _JOB_MASK)
