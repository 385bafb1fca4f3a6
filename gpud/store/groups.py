"""How far groups are: their jobs by state, and which failed last.

Cost: what the groups that are shown have; of all others one look each.
"""

import sqlite3
from collections import Counter

from gpud.model.array import IndexSet, index_set, parse_indices
from gpud.model.job import JobId, array_of, index_of, job_id, number_of
from gpud.model.units import Timestamp
from gpud.store.coding import text
from gpud.store.rows import GroupRow

# One look for each name that there is, however many jobs bear it: https://www.sqlite.org/optoverview.html, "skip-scan".
_NAMES = """WITH RECURSIVE name (word) AS (
    SELECT min(group_name) FROM job INDEXED BY job_group WHERE group_name IS NOT NULL
    UNION ALL
    SELECT (SELECT min(group_name) FROM job INDEXED BY job_group WHERE group_name IS NOT NULL AND group_name > word)
    FROM name WHERE word IS NOT NULL
) SELECT word FROM name WHERE word IS NOT NULL AND (
    EXISTS (SELECT 1 FROM job INDEXED BY job_group WHERE group_name IS NOT NULL AND group_name = word
        AND ended_at IS NULL)
    OR EXISTS (SELECT 1 FROM job INDEXED BY job_group WHERE group_name IS NOT NULL AND group_name = word
        AND ended_at >= ?))"""
_JOBS = """SELECT uid, user, state, live IS NOT NULL, coalesce(pending, ''), coalesce(dropped, ''), submitted_at,
    ended_at, max(id) FROM job INDEXED BY job_group WHERE group_name IS NOT NULL AND group_name = CAST(? AS TEXT)
    GROUP BY uid, coalesce(key, id)"""
_ENDS = frozenset({"completed", "failed", "cancelled", "timed_out", "lost"})

_ARRAYS = """SELECT job.id FROM job INDEXED BY job_group WHERE group_name IS NOT NULL
    AND group_name = CAST(? AS TEXT) AND job.uid = ? AND job.key = CAST(? AS TEXT) AND job.array IS NOT NULL"""
_COMPLETED = "SELECT id FROM job WHERE id > ? AND id < ? AND state = 'completed'"


def completed(connection: sqlite3.Connection, uid: int, group: str, key: str) -> tuple[JobId, IndexSet] | None:
    """Return the newest array that had a key, and which elements have completed in any of them."""
    arrays = [JobId(job) for (job,) in connection.execute(_ARRAYS, (text(group), uid, text(key)))]
    found = [
        index_of(JobId(job))
        for array in arrays
        for (job,) in connection.execute(_COMPLETED, (array, job_id(number_of(array) + 1)))
    ]
    return (max(arrays), index_set(index for index in found if index is not None)) if arrays else None


def groups(connection: sqlite3.Connection, name: str | None, since: Timestamp) -> list[GroupRow]:
    """Return a group by its name, of every user who has one; or those with something unfinished, or ended since."""
    names = [name] if name is not None else [word for (word,) in connection.execute(_NAMES, (since,))]
    return [row for each in names for row in _group(connection, each)]


def _group(connection: sqlite3.Connection, name: str) -> list[GroupRow]:
    users: dict[int, str] = {}
    counts: dict[int, Counter[str]] = {}
    times: dict[int, list[Timestamp]] = {}
    ends: dict[int, list[Timestamp]] = {}
    failed: dict[int, tuple[Timestamp, JobId]] = {}
    rows = connection.execute(_JOBS, (text(name),)).fetchall()
    arrays = {job for _, _, _, is_array, *_, job in rows if is_array}
    for uid, user, state, is_array, pending, dropped, submitted_at, ended_at, job in rows:
        if index_of(job) is not None and array_of(job) not in arrays and state != "completed":
            continue  # its array was submitted again: there it runs
        users[uid] = user
        count = counts.setdefault(uid, Counter())
        times.setdefault(uid, []).append(submitted_at)
        if ended_at is not None:
            ends.setdefault(uid, []).append(ended_at)
        if is_array:  # what has started has rows of its own
            count["held" if state == "held" else "queued"] += _length(pending)
            count["cancelled"] += _length(dropped)
        else:
            count[state] += 1
            if state == "failed":
                failed[uid] = max(failed.get(uid, (ended_at, job)), (ended_at, job))
    return [
        GroupRow(
            name=name,
            uid=uid,
            user=user,
            counts=dict(+counts[uid]),
            submitted_at=min(times[uid]),
            ended_at=max(ends.get(uid, ()), default=None) if _ENDS.issuperset(+counts[uid]) else None,
            failed=failed[uid][1] if uid in failed else None,
        )
        for uid, user in users.items()
    ]


def _length(indices: str) -> int:
    return len(parse_indices(indices)) if indices else 0
