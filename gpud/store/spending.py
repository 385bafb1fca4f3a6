"""What GPUs were used for, by the hour: added up as attempts end, so that a year is told without a look at its jobs.

A row of `spent` is what one user's jobs of one tenant and group had of one GPU in one hour (UTC); `gpu` is '' for jobs
without one. An attempt's time falls into the hours in which it ran, of one that ran for days into days; whatever is
counted once (that it ended, and how long it had waited for its first start) into its last, on its first GPU.
`foreign_s` is what the user had of the GPU without any job, in the hour in which it was last seen.

Cost: some microseconds for each hour and GPU as an attempt ends; to ask, a row for each hour, GPU and user.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from gpud.model.changes import AttemptEnded, StrangerSeen
from gpud.model.gpu import GpuId, Share
from gpud.model.units import Seconds, Timestamp
from gpud.store.coding import decode_allocation, text

_HOUR_S, _DAY_S = 3_600, 86_400
_FINE_S = 2 * _DAY_S  # attempts up to this long are counted by the hour

_OF = """SELECT CAST(job.user AS BLOB), CAST(job.tenant AS BLOB), CAST(coalesce(job.group_name, '') AS BLOB),
    max(job.submitted_at, coalesce(json_extract(job.submitted, '$.begin_at'), 0.0)), attempt.starting_at,
    coalesce(attempt.started_at, attempt.starting_at), attempt.allocation
    FROM attempt JOIN job ON job.id = attempt.job WHERE attempt.job = ? AND attempt.attempt = ?"""
_ADD = """INSERT INTO spent (hour, user, tenant, group_name, gpu, gpu_s, known_s, busy_s, idle_s, energy_j, attempts,
    starts, wait_s) VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET gpu_s = gpu_s + excluded.gpu_s, known_s = known_s + excluded.known_s,
    busy_s = busy_s + excluded.busy_s, idle_s = idle_s + excluded.idle_s, energy_j = energy_j + excluded.energy_j,
    attempts = attempts + excluded.attempts, starts = starts + excluded.starts, wait_s = wait_s + excluded.wait_s"""
_ADD_FOREIGN = """INSERT INTO spent VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), '', ?, 0, 0, 0, 0, 0, 0, 0, 0, ?)
    ON CONFLICT DO UPDATE SET foreign_s = foreign_s + excluded.foreign_s"""
_KEYS = {"user": "spent.user", "tenant": "spent.tenant", "group": "spent.group_name", "gpu": "spent.gpu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one user, tenant, group or GPU had of GPUs of one model ("": of none, or of one that is forgotten).

    See `GpuUse` for `known_s`, `busy_s` and `idle_s`. `attempts` ended, and `wait_s` is what `starts` first ones of
    them had waited, all together. `foreign_s` is without any job.
    """

    key: str
    model: str
    gpu_s: Seconds
    known_s: Seconds
    busy_s: Seconds
    idle_s: Seconds
    energy_j: float
    attempts: int
    starts: int
    wait_s: Seconds
    foreign_s: Seconds = 0.0


def spend(connection: sqlite3.Connection, change: AttemptEnded) -> None:
    """Count an attempt that ended, whose row says so already."""
    found = connection.execute(_OF, (change.job, change.attempt)).fetchone()
    if found is None:
        return
    user, tenant, group, queued_at, starting_at, since, allocation = found
    shares = [share for part in decode_allocation(allocation) for share in part.shares] or [Share(gpu=GpuId(""))]
    parts = [share.milli or 1000 for share in shares]  # as `books.held_of` has it; a fraction is the same of each
    uses = {use.gpu: use for use in change.uses}
    slices = list(_slices(since, max(since, change.exit.at)))
    first = change.attempt == 1
    for at, share in enumerate(shares):
        gpu, use = share.gpu, uses.get(share.gpu)
        seen = (0.0,) * 4 if use is None else (use.known_s, use.busy_s, use.idle_s, use.energy_j or 0.0)
        for hour, part in slices:
            once = at == 0 and hour == slices[-1][0]
            counts = (once, once and first, max(0.0, starting_at - queued_at) if once and first else 0.0)
            told = (change.gpu_s * parts[at] / sum(parts), *seen)
            connection.execute(_ADD, (hour, user, tenant, group, gpu, *(each * part for each in told), *counts))


def spend_foreign(connection: sqlite3.Connection, change: StrangerSeen) -> None:
    """Count what somebody had of a GPU without a job."""
    key = (hour_of(change.at), text(change.user), text(change.tenant), change.gpu)
    connection.execute(_ADD_FOREIGN, (*key, change.gpu_s))


def spent(connection: sqlite3.Connection, by: str, since: Timestamp) -> list[Spent]:
    """Return what was spent from the hour on in which that moment lies, for each `by` (a word of `_KEYS`) and model."""
    key = _KEYS[by]
    rows = connection.execute(
        f"SELECT {key}, coalesce(gpu.name, ''), sum(gpu_s), sum(known_s), sum(busy_s), sum(idle_s), sum(energy_j),"  # noqa: S608 - constants
        " sum(attempts), sum(starts), sum(wait_s), sum(foreign_s) FROM spent LEFT JOIN gpu ON gpu.uuid = spent.gpu"
        " WHERE hour >= ? GROUP BY 1, 2",
        (hour_of(since),),
    )
    names = Spent.__dataclass_fields__.keys()
    return [Spent(**dict(zip(names, row, strict=True))) for row in rows]


def hour_of(at: Timestamp) -> int:
    """Return the beginning of the hour in which a moment lies."""
    return int(at // _HOUR_S) * _HOUR_S


def _slices(since: Timestamp, until: Timestamp) -> Iterator[tuple[int, float]]:
    """Yield the beginning of each hour, or day, that a span of time touches, and the part of the span that is in it."""
    step = _HOUR_S if until - since <= _FINE_S else _DAY_S
    begin = int(since // step) * step
    while until > since and begin + step < until:
        yield begin, (begin + step - max(since, begin)) / (until - since)
        begin += step
    yield begin, 1.0 if until <= since else (until - max(since, begin)) / (until - since)
