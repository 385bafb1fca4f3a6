"""What the last hour, day or week was like: counted in an index, and waits from a sample of the jobs in it.

Counts and GPU time come from every attempt that ended since: one pass along an index that holds all that is asked for.
Percentiles come from about `SAMPLE` of the jobs, chosen by their numbers, so that a week of a million jobs costs what
ten thousand rows cost; with so many, the 99th percentile lies within half a percent of its rank.

Cost: 0.2 us for each attempt in the period, 20 us for each job in the sample.
"""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from gpud.model.job import JobId
from gpud.model.tenant import Tenant, tenant_from
from gpud.model.units import Seconds, Timestamp
from gpud.store.coding import to_json
from gpud.store.files import open_reader, told

SAMPLE = 5_000
PERCENTS = (50, 90, 99)

_ATTEMPTS = """SELECT count(*), coalesce(sum(starting_at >= :since), 0), coalesce(sum(gpu_s * CASE
        WHEN starting_at >= :since OR ended_at <= starting_at THEN 1.0
        ELSE (ended_at - :since) / (ended_at - starting_at) END), 0.0),
    coalesce(sum(CASE WHEN cause = 'preempted' THEN gpu_s END), 0.0)
    FROM attempt INDEXED BY attempt_ended WHERE ended_at >= :since"""
# Numbers and indices of elements follow each other, so they are scattered before one in so many is taken.
_CHOSEN = "((({job} >> 24 & 16777215) * 2654435761 + ({job} & 16777215) * 40503) >> 9) % :every = 0"
_WAITS = f"""SELECT max(0.0, attempt.starting_at - max(job.submitted_at,
        coalesce(json_extract(job.submitted, '$.begin_at'), 0.0)))
    FROM (SELECT job FROM attempt INDEXED BY attempt_ended
            WHERE ended_at >= :since AND starting_at >= :since AND attempt = 1 AND {_CHOSEN.format(job="job")}
        UNION ALL SELECT value FROM json_each(:active) WHERE {_CHOSEN.format(job="value")}) AS chosen
    CROSS JOIN job ON job.id = chosen.job CROSS JOIN attempt ON attempt.job = chosen.job AND attempt.attempt = 1"""  # noqa: S608 - constants
_TURNAROUNDS = f"""SELECT job.ended_at - job.submitted_at
    FROM (SELECT id FROM job INDEXED BY job_ended WHERE ended_at >= :since AND {_CHOSEN.format(job="id")}) AS chosen
    CROSS JOIN job ON job.id = chosen.id
    WHERE job.array IS NULL AND EXISTS (SELECT 1 FROM attempt WHERE attempt.job = chosen.id)"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened since a moment. `gpu_s` are those of attempts that ended, as far as they fall into it.

    `lost_gpu_s` is what attempts had that were preempted. `waits_s`, of jobs that started for the first time, and
    `turnarounds_s`, of jobs that ran and ended, are percentiles (`PERCENTS`) of one in `every` of them; None of nobody.
    A wait begins with the submission, or a later begin time: until when a job was held, or behind others, only its
    events tell, and a week has too many of them to be read.
    """

    since: Timestamp
    starts: int
    ended: int
    gpu_s: Seconds
    lost_gpu_s: Seconds
    every: int
    waits_s: tuple[Seconds, ...] | None
    turnarounds_s: tuple[Seconds, ...] | None


def past(connection: sqlite3.Connection, since: Timestamp, active: Sequence[JobId]) -> Past:
    """Return what happened since then. `active` are jobs in their first attempt that started since then and run."""
    asked: dict[str, object] = {"since": since}
    ended, starts, gpu_s, lost_gpu_s = connection.execute(_ATTEMPTS, asked).fetchone()
    every = 1 + (ended + len(active)) // SAMPLE
    asked |= {"every": every}
    waits = connection.execute(_WAITS, asked | {"active": to_json(list(active))})
    turnarounds = connection.execute(_TURNAROUNDS, asked)
    return Past(
        since=since,
        starts=starts,
        ended=ended,
        gpu_s=gpu_s,
        lost_gpu_s=lost_gpu_s,
        every=every,
        waits_s=_percentiles([wait for (wait,) in waits]),
        turnarounds_s=_percentiles([took for (took,) in turnarounds]),
    )


def begun_at(connection: sqlite3.Connection) -> Timestamp | None:
    """Return when the history begins; None while there is none."""
    row: tuple[Timestamp] | None = connection.execute("SELECT at FROM event ORDER BY seq LIMIT 1").fetchone()
    return None if row is None else row[0]


def tenants_of(path: str) -> list[Tenant]:
    """Return the tenants that there are. Raises StoreError."""
    with told(path), closing(open_reader(path)) as connection:
        row = connection.execute("SELECT value FROM setting WHERE key = 'tenants'").fetchone()
    return [] if row is None else [tenant_from(plain) for plain in json.loads(row[0])]


def _percentiles(values: list[Seconds]) -> tuple[Seconds, ...] | None:
    """Return the values at each percent, by nearest rank."""
    values.sort()
    return tuple(values[max(0, -(-len(values) * percent // 100) - 1)] for percent in PERCENTS) if values else None
