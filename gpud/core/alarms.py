"""When jobs must be looked at again, even if nothing happens: deadlines are moments in a heap, not timers."""

from heapq import heappop, heappush

from gpud.model.job import JobId
from gpud.model.units import Timestamp


class Alarms:
    """A job has one alarm: the one set last."""

    def __init__(self) -> None:
        self._heap: list[tuple[Timestamp, JobId]] = []
        self._at: dict[JobId, Timestamp] = {}

    def set(self, at: Timestamp, job: JobId) -> None:
        """See to it that a cycle runs at that moment."""
        self._at[job] = at
        heappush(self._heap, (at, job))

    def silence(self, job: JobId) -> None:
        """Forget a job's alarm."""
        self._at.pop(job, None)

    def due(self, now: Timestamp) -> list[JobId]:
        """Return the jobs whose moment has come, and forget their alarms."""
        if not self._heap or self._heap[0][0] > now:
            return []
        found: list[JobId] = []
        while (at := self.next_at) is not None and at <= now:
            _, job = heappop(self._heap)
            del self._at[job]
            found.append(job)
        return found

    @property
    def next_at(self) -> Timestamp | None:
        """Return when the next cycle must run even if nothing happens."""
        heap = self._heap
        while heap:
            at, job = heap[0]
            if self._at.get(job) == at:
                return at
            heappop(heap)
        return None
