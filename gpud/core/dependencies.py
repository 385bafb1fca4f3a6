"""Which jobs come after which others, and whether that has happened, may still happen, or never can.

Kept of a job, or an array as a whole, while it is to wait for others, also while it is held: so long what it comes
after counts as it is now. An end decides, and the other's return to the queue (requeue) opens the question again. Once
a job stands in its line it is bound no more. Nobody can wait in a circle: whom a submit names is there already, and
who is changed, or runs again, is bound to nobody who waits for it (`behind`).

Cost: O(edges of those concerned) an end.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpud.model.array import IndexSet
from gpud.model.job import End, JobId, array_of, format_job, index_of
from gpud.model.spec import Dependency, Park, When

REMEMBERED = 4_096  # ends: a job may end between the look that the edge takes at it and the cycle that a submit is in
_MEETS = {
    When.SUCCESS: frozenset({End.COMPLETED}),
    When.ANY: frozenset(End),
    When.FAILED: frozenset({End.FAILED, End.TIMED_OUT, End.LOST}),
}
_PAST = {When.SUCCESS: "succeeded", When.ANY: "ended", When.FAILED: "failed"}


@dataclass(slots=True)
class _Edges:
    """What one job comes after, and how those of them ended that have."""

    after: tuple[Dependency, ...]
    ends: dict[JobId, End]


class Dependencies:
    """Who waits for whom. `unsettled` are those of whom something has to be decided anew."""

    def __init__(self) -> None:
        self.unsettled: dict[JobId, None] = {}
        self._edges: dict[JobId, _Edges] = {}
        self._dependents: dict[JobId, dict[JobId, None]] = {}
        self._ended: OrderedDict[JobId, End] = OrderedDict()

    def follow(self, job: JobId, after: tuple[Dependency, ...], ends: Mapping[JobId, End]) -> None:
        """Have a job wait for others, of which some may have ended."""
        self._edges[job] = _Edges(after, {each.job: ends[each.job] for each in after if each.job in ends})
        for each in after:
            self._dependents.setdefault(each.job, {})[job] = None
        self.unsettled[job] = None

    def forget(self, job: JobId) -> None:
        """Bind a job no more: it stands in its line, or is over."""
        self.unsettled.pop(job, None)
        edges = self._edges.pop(job, None)
        for each in () if edges is None else edges.after:
            dependents = self._dependents.get(each.job, {})
            dependents.pop(job, None)
            if not dependents:
                self._dependents.pop(each.job, None)

    def turn(self, job: JobId, end: End | None) -> None:
        """Take in that a job ended, or (None) that it is to run again."""
        self._ended.pop(job, None)
        if end is not None:
            self._ended[job] = end
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
        for dependent in self._dependents.get(job, ()):
            ends = self._edges[dependent].ends
            if end is None:
                ends.pop(job, None)
            else:
                ends[job] = end
            self.unsettled[dependent] = None

    def ended(self, job: JobId) -> End | None:
        """Return how a job ended lately; None where that is not known here."""
        return self._ended.get(job)

    def park(self, job: JobId) -> Park | None:
        """Return how a job is parked that nobody holds; None where nothing is to be waited for any more."""
        if self.unmet(job) is not None:
            return Park.NEVER
        return Park.AFTER if self.awaited(job) else None

    def unmet(self, job: JobId) -> tuple[Dependency, End] | None:
        """Return what a job comes after that ended otherwise than it must, if anything did."""
        edges = self._edges.get(job)
        for each in () if edges is None else edges.after:
            end = edges.ends.get(each.job) if edges is not None else None
            if end is not None and end not in _MEETS[each.when]:
                return each, end
        return None

    def awaited(self, job: JobId) -> list[Dependency]:
        """Return what a job comes after that has not ended."""
        edges = self._edges.get(job)
        return [] if edges is None else [each for each in edges.after if each.job not in edges.ends]

    def behind(self, after: Iterable[Dependency]) -> set[JobId]:
        """Return these, and all that they come after themselves, arrays as a whole: who is among them cannot."""
        found: set[JobId] = set()
        left = [array_of(each.job) for each in after]
        while left:
            job = left.pop()
            if job not in found:
                found.add(job)
                edges = self._edges.get(job)
                left += [array_of(each.job) for each in edges.after] if edges is not None else ()
        return found

    def twin(self, jobs: Iterable[JobId]) -> "Dependencies":
        """Return what these jobs wait for, for a world of its own."""
        twin = Dependencies()
        for job in jobs:
            edges = self._edges.get(job)
            if edges is not None:
                twin.follow(job, edges.after, edges.ends)
        twin.unsettled.clear()
        return twin

    def dependents(self, job: JobId) -> list[JobId]:
        """Return who waits for a job."""
        return sorted(self._dependents.get(job, ()))

    def elements(self, array: JobId, indices: IndexSet) -> list[JobId]:
        """Return those of an array's elements that somebody waits for."""
        found = ((job, index_of(job)) for job in self._dependents if array_of(job) == array)
        return [job for job, index in found if index is not None and index in indices]


def unmet_words(dependency: Dependency, end: End) -> str:
    """Return why a job can never start, in words for people."""
    how = {End.CANCELLED: "was cancelled", End.LOST: "was lost"}.get(end, end.value.replace("_", " "))
    return f"was to start after job {format_job(dependency.job)} {_PAST[dependency.when]}, but that {how}"
