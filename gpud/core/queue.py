"""Who stands where: lines of interchangeable jobs, of which only the heads are ever compared.

Jobs with equal terms stand in one line (where the policy asks for it, one for each burst: see `bursts`, until there
are `MOST_SPLIT` lines), ordered by the policy's key. A waiting job is one packed integer (order, then
the job's key, then its line's number) in its line's heap, and the same integer again in a dict by job; everything
else about it stays in the store until it starts. An entry counts while the dict holds that very object, so what
leaves from the middle, or comes back elsewhere, needs no search: its old entry is skipped when it surfaces, or swept
out once there are more of its kind than others.

Lines of one demand form a group: what does not fit for one of them fits for none. A line that may not start for a
reason of its own (a quota, somebody's reservation) is set aside with that reason: its group goes on without it until
it is let in again.

Cost: O(log line) to add, O(1) to remove, O(lines whose head changed) to find the next. Memory: about 130 bytes a
job, however long the line.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from gpud.core.bursts import ALONE, Burst
from gpud.core.room import Free
from gpud.core.waits import Wait
from gpud.model.job import Demand, JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

_JOB_BITS = 64
_LINE_BITS = 32
_JOB_MASK = (1 << _JOB_BITS) - 1
_LINE_MASK = (1 << _LINE_BITS) - 1
MOST_SPLIT = 4096
_SWEEP = 64  # entries that may be left over, beside as many as count, before they are swept out

Rank = Callable[[Terms, Burst], int]
BurstOf = Callable[[JobId, Terms], Burst]
Owner = tuple[str, str]  # tenant and user
Kind = tuple[Terms, Burst]  # what is the same for all in a line
Bound = tuple[int, ...]  # whose, in the order in which they reserved
Head = tuple[int, int, "Group", "Line | None"]  # rank and entry of who is next of a demand, or (of a line) blocked


class Line:
    """Jobs of equal terms, and of one burst, unless that is `ALONE`: `count` of them.

    `head` is the packed entry of the first, None when nobody is left; no entry ever was greater than `last`.
    `lasts_s` is how short one of them is for who may be passed. `aside` says why the line is out of its group for now.
    """

    __slots__ = ("aside", "burst", "count", "group", "head", "heap", "last", "lasts_s", "number", "rank", "terms")

    def __init__(self, number: int, kind: "Kind", group: "Group", rank: int, lasts_s: Seconds) -> None:
        self.number = number
        self.terms, self.burst = kind
        self.group = group
        self.rank = rank
        self.lasts_s = lasts_s
        self.heap: list[int] = []
        self.head: int | None = None
        self.count = 0
        self.last = -inf
        self.aside: Wait | None = None

    def __lt__(self, other: "Line") -> bool:
        """Equal entries are of one line, whose order among themselves means nothing."""
        return self.number < other.number


class Group:
    """The lines of one demand: a heap by rank and head, one by how long their jobs last. Both hold stale entries.

    `terms` are those of all its lines, None where they differ. `needs` is what one node must have at least. `asleep`:
    nobody of them can start until something changes, for these reservations bind even who lasts for `lasts_s`, or, if
    there are none of them, because nothing fits. See `sleeping`.
    """

    __slots__ = ("asleep", "demand", "lasts_s", "lines", "needs", "order", "shortest", "terms")

    def __init__(self, terms: Terms) -> None:
        self.terms: Terms | None = terms
        self.demand = demand = terms.demand
        gpus = 0 if demand.shared else demand.gpus // demand.nodes
        self.needs = Free(gpus, demand.cpus_counted, demand.memory_mib)
        self.asleep: Bound | None = None
        self.lasts_s: Seconds = inf
        self.lines = 0
        self.order: list[tuple[int, int, Line]] = []
        self.shortest: list[tuple[Seconds, Line]] = []

    def __lt__(self, other: "Group") -> bool:
        """Of equal entries one at most still counts."""
        return False


@dataclass(frozen=True, slots=True)
class Longest:
    """Who had waited longest of each line at one moment: a heap by since when they queue. See `starvation`.

    `bound_s` is how long anybody should wait, as of then; from `strict_s` on their reservation is. `gangs` are those on
    several nodes, in order, who come first after `gang_s`, where there is room.
    """

    at: Timestamp
    bound_s: Seconds
    strict_s: Seconds
    gang_s: Seconds
    heads: list[tuple[int, JobId, Line]]
    gangs: list[tuple[int, JobId, Line]]


@dataclass(slots=True)
class Rail:
    """Who starves, and from when on nobody without a time limit passes them; else when to look again. See `starvation`.

    `longest` is what was found then, until it is too old.
    """

    job: JobId | None = None
    strict_at: Timestamp = Timestamp(inf)
    again_at: Timestamp | None = None
    longest: Longest | None = None


class Queue:
    """All lines, grouped by demand. `rank` (lower first) comes before the order of the jobs inside a line.

    `lasts` tells how short a job of these terms is for who may be passed, `burst` where lines are also of one burst,
    in which a job came.
    """

    __slots__ = ("_burst", "_by_kind", "_by_owner", "_entries", "_groups", "_lasts", "_lines", "_rank", "_unused")

    def __init__(
        self, rank: Rank, lasts: Callable[[Terms], Seconds] = lambda _: inf, burst: BurstOf | None = None
    ) -> None:
        self._lasts = lasts
        self._empty(rank, burst)

    def _empty(self, rank: Rank, burst: BurstOf | None) -> None:
        self._rank = rank
        self._burst = burst
        self._lines: list[Line] = []  # by number; one that ran empty is there until its number is used again
        self._unused: list[int] = []
        self._by_kind: dict[Kind, Line] = {}
        self._by_owner: dict[Owner, dict[Line, None]] = {}
        self._groups: dict[Demand, Group] = {}
        self._entries: dict[JobId, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job: JobId) -> bool:
        return job in self._entries

    def add(self, job: JobId, terms: Terms, order: int) -> None:
        """Put a job into its line; one that stands somewhere already moves."""
        if job in self._entries:
            self.remove(job)
        line = self._line(job, terms)
        entry = self._entries[job] = (order << _JOB_BITS | job) << _LINE_BITS | line.number
        heappush(line.heap, entry)
        line.count += 1
        line.last = max(line.last, entry)
        if line.heap[0] is entry:
            line.head = entry
            self._enter_group(line)

    def fill(self, jobs: Iterable[tuple[JobId, Terms, int]]) -> None:
        """Put many jobs into an empty queue at once, as after a restart."""
        entries, line = self._entries, None
        for job, terms, order in jobs:
            if line is None or line.terms is not terms or self._burst is not None:
                line = self._line(job, terms)
            entry = entries[job] = (order << _JOB_BITS | job) << _LINE_BITS | line.number
            line.heap.append(entry)
        for line in self._lines:
            line.count, line.last = len(line.heap), max(line.heap)
            heapify(line.heap)
            self._settle(line)

    def reorder(self, rank: Rank, order: Callable[[JobId, int], int], burst: BurstOf | None = None) -> None:
        """Order everybody anew, in new lines: those by another rank, jobs by what `order` makes of their order."""
        standing = [
            (job := job_of(entry), line.terms, order(job, entry >> _JOB_BITS + _LINE_BITS))
            for line in self.lines()
            for entry in self._alive(line)
        ]
        self._empty(rank, burst)
        self.fill(standing)

    def remove(self, job: JobId) -> bool:
        """Take a job out; False if it stood in no line."""
        entry = self._entries.pop(job, None)
        if entry is None:
            return False
        line = self._line_of(entry)
        line.count -= 1
        if line.count:
            self._settle(line)
        else:
            self._drop(line)
        return True

    def order(self, job: JobId) -> int:
        """Return the order with which a job was added. Raises KeyError if it stands in no line."""
        return self._entries[job] >> _JOB_BITS + _LINE_BITS

    def line(self, job: JobId) -> Line | None:
        """Return the line that a job stands in."""
        entry = self._entries.get(job)
        return None if entry is None else self._line_of(entry)

    def lines(self) -> Iterator[Line]:
        """Yield every line in which somebody stands."""
        yield from self._by_kind.values()

    def demands(self) -> Iterator[Demand]:
        """Yield every demand of which somebody stands in a line."""
        yield from (group.demand for group in self._groups.values() if group.lines)

    def heads(self) -> list[Head]:
        """Return (rank, entry, group, None) of every demand, as a heap: of its `first`, or of who was before that."""
        emptied = [group for group in self._groups.values() if not group.lines]
        for group in emptied:
            del self._groups[group.demand]
        heads: list[Head] = [(*group.order[0][:2], group, None) for group in self._groups.values() if group.order]
        heapify(heads)
        return heads

    def first(self, group: Group) -> tuple[int, int, Line] | None:
        """Return (rank, entry, line) of the job that comes first of all with a demand, lines set aside apart."""
        order = group.order
        while order:
            rank, entry, line = order[0]
            if line.head is entry and line.rank == rank and line.aside is None:
                return order[0]
            heappop(order)
        return None

    def shortest_s(self, group: Group) -> Seconds:
        """Return how short the shortest job with a demand is for who may be passed, lines set aside included."""
        shortest = group.shortest
        while shortest:
            if self._tells_length(shortest[0]):
                return shortest[0][0]
            heappop(shortest)
        return inf

    def following(self, line: Line, most: int) -> list[int]:
        """Return the packed entries of up to so many jobs of a line, in order."""
        heap, taken = line.heap, list[int]()
        while heap and len(taken) < most:
            entry = heappop(heap)
            if self._entries.get(job_of(entry)) is entry:
                taken.append(entry)
        for entry in taken:
            heappush(heap, entry)
        return taken

    def set_aside(self, line: Line, wait: Wait) -> None:
        """Take a line out of its group, for a reason of its own."""
        line.aside = wait

    def let_in(self, line: Line) -> None:
        """Put a line that was set aside back into its group."""
        if line.aside is not None:
            line.aside = None
            self._enter_group(line)

    def rank_anew(self, owner: Owner | None = None) -> None:
        """Ask for the ranks of an owner's lines again, or of all."""
        for line in self._by_kind.values() if owner is None else self._by_owner.get(owner, ()):
            self.moved(line)

    def lengths_anew(self, owner: Owner) -> None:
        """Ask for the lengths of an owner's lines again."""
        for line in self._by_owner.get(owner, ()):
            lasts_s = self._lasts(line.terms)
            if lasts_s != line.lasts_s:
                line.lasts_s = lasts_s
                self._note_length(line)

    def moved(self, line: Line) -> bool:
        """Ask for a line's rank again; return whether it is another."""
        rank = self._rank(line.terms, line.burst)
        if rank == line.rank:
            return False
        line.rank = rank
        self._enter_group(line)
        return True

    def standing(self) -> Iterator[tuple[int, int]]:
        """Yield (rank, entry) of everybody in a line, in no order; sorted, they give the positions."""
        for line in self._by_kind.values():
            yield from ((line.rank, entry) for entry in self._alive(line))

    def position(self, job: JobId) -> int | None:
        """Return a job's place among all that stand in lines, from 1.

        Costs a look at every line, and at everybody in those of which not all come before it: few, for a new job.
        """
        entry = self._entries.get(job)
        if entry is None:
            return None
        mine = (self._line_of(entry).rank, entry)
        position = 0
        for line in self._by_kind.values():
            if (line.rank, line.last) <= mine:
                position += line.count
            elif line.head is not None and (line.rank, line.head) <= mine:
                position += sum(1 for theirs in self._alive(line) if (line.rank, theirs) <= mine)
        return position

    def _line(self, job: JobId, terms: Terms) -> Line:
        split = self._burst if len(self._by_kind) < MOST_SPLIT else None
        kind = terms, ALONE if split is None else split(job, terms)
        line = self._by_kind.get(kind)
        if line is None:
            number = self._unused.pop() if self._unused else len(self._lines)
            group = self._groups.get(terms.demand)
            if group is None:
                group = self._groups[terms.demand] = Group(terms)
            elif group.terms is not terms and group.terms != terms:
                group.terms = terms if not group.lines else None
            group.lines += 1
            line = self._by_kind[kind] = Line(number, kind, group, self._rank(*kind), self._lasts(terms))
            self._by_owner.setdefault(owner_of(terms), {})[line] = None
            self._lines[number : number + 1] = [line]
            self._note_length(line)
        return line

    def _drop(self, line: Line) -> None:
        """Let a line go in which nobody stands any more."""
        line.heap.clear()
        line.head = None
        line.group.lines -= 1
        del self._by_kind[line.terms, line.burst]
        self._unused.append(line.number)
        owner = owner_of(line.terms)
        owned = self._by_owner[owner]
        del owned[line]
        if not owned:
            del self._by_owner[owner]

    def _note_length(self, line: Line) -> None:
        shortest = line.group.shortest
        if len(shortest) > 2 * len(self._by_kind) + _SWEEP:
            shortest[:] = {each[1]: each for each in shortest if self._tells_length(each)}.values()
            heapify(shortest)
        heappush(shortest, (line.lasts_s, line))
        line.group.asleep = None  # it may be short enough

    def _tells_length(self, entry: tuple[Seconds, Line]) -> bool:
        """Return whether somebody stands in a line (or is about to), and still lasts as long as was noted."""
        lasts_s, line = entry
        return line.lasts_s == lasts_s and bool(line.heap)

    def _line_of(self, entry: int) -> Line:
        return self._lines[entry & _LINE_MASK]

    def _alive(self, line: Line) -> Iterator[int]:
        return (entry for entry in line.heap if self._entries.get(job_of(entry)) is entry)

    def _settle(self, line: Line) -> None:
        """See to a line's head, and to its place in its group, after the line changed."""
        heap = line.heap
        entries = self._entries
        while heap and entries.get(job_of(heap[0])) is not heap[0]:
            heappop(heap)
        if len(heap) > 2 * line.count + _SWEEP:
            heap[:] = self._alive(line)
            heapify(heap)
        head = heap[0] if heap else None
        if head is line.head:
            return
        line.head = head
        if head is not None:
            self._enter_group(line)

    def _enter_group(self, line: Line) -> None:
        if line.head is None or line.aside is not None:
            return
        order = line.group.order
        if len(order) > 2 * len(self._by_kind) + _SWEEP:
            order[:] = {each[2]: each for each in order if each[2].head is each[1] and each[2].rank == each[0]}.values()
            heapify(order)
        heappush(order, (line.rank, line.head, line))


def job_of(entry: int) -> JobId:
    """Return the job of a packed entry."""
    return JobId(entry >> _LINE_BITS & _JOB_MASK)


def owner_of(terms: Terms) -> Owner:
    """Return whose line it is: tenant and user."""
    return terms.tenant, terms.user
