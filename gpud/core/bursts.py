"""Which jobs were submitted together: what one of them takes says more of the others than what any took before.

A user submits a sweep, looks at it, and submits the next, to run a hundred times as long. On traces of Philly's jobs
(`tests/data/muri64`) two that came within a minute, on as many GPUs, took equally long within a factor of two in 70 %
of all cases, any two in 15 %. A burst is a user's jobs on as many GPUs, whatever their name, that came one after the
other without a pause; a long row of them is several, of which some can be known to be short and others to be long.

Cost: O(log bursts) to find a job's. Memory: a number for each burst, of the `KEPT` last ones of such jobs.
"""

from bisect import bisect_right
from dataclasses import dataclass, field

from gpud.model.job import JobId, array_of
from gpud.model.spec import Terms
from gpud.model.units import Seconds

PAUSE_S: Seconds = 600.0
LEAST = 16  # jobs of a burst before another begins without a pause, and of a long row this part of it
PART = 8
KEPT = 1024

Burst = int  # the key of its first job
ALONE: Burst = 0  # where it is not known in which a job came


@dataclass(slots=True)
class _Row:
    """The bursts of one user's jobs on as many GPUs. `count` is of the last one, `total` since the last pause."""

    first: list[JobId] = field(default_factory=list)
    last: JobId = JobId(0)
    at_us: int = 0
    count: int = 0
    total: int = 0


class Bursts:
    """All bursts."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, float], _Row] = {}
        self._learns = True

    def twin(self) -> "Bursts":
        """Return what knows what these do, and learns nothing by itself."""
        twin = Bursts()
        twin._rows, twin._learns = self._rows, False
        return twin

    def came(self, job: JobId, terms: Terms, at_us: int) -> None:
        """Take note of a job that queues, since that moment (microseconds); one that did before changes nothing."""
        if not self._learns:
            return
        who, job = (terms.user, terms.demand.gpu_weight), array_of(job)
        row = self._rows.get(who) or _Row()
        if job <= row.last:
            return
        self._rows[who] = row
        if at_us - row.at_us > PAUSE_S * 1_000_000:
            row.total = 0
        if not row.total or row.count >= max(LEAST, row.total // PART):
            row.first.append(job)
            row.count = 0
            if len(row.first) >= 2 * KEPT:
                del row.first[:KEPT]
        row.last, row.at_us = job, at_us
        row.count += 1
        row.total += 1

    def of(self, job: JobId, terms: Terms) -> Burst:
        """Return the burst in which a job came."""
        row = self._rows.get((terms.user, terms.demand.gpu_weight)) if self._rows else None
        at = bisect_right(row.first, array_of(job)) if row is not None else 0
        return row.first[at - 1] if row is not None and at else ALONE
