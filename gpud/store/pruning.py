"""What may be removed from the database, a bite at a time: each is one transaction, and soon over.

Jobs go with their attempts and their events, arrays once all of it has ended so long ago. The newest job and the newest
event stay, so that no number is ever given twice. What was used is counted by the day, and stays.
"""

import sqlite3

from gpud.model.units import Timestamp
from gpud.store.coding import to_json
from gpud.store.files import rollback

BITE = 500  # jobs, or events: some 10 ms
# Elements end before their array does, so they are chosen before it.
_ENDED = """SELECT id FROM job INDEXED BY job_ended WHERE ended_at IS NOT NULL AND ended_at < :before
    AND id != (SELECT max(id) FROM job) AND NOT EXISTS (SELECT 1 FROM job AS whole WHERE whole.id = job.id >> 24 << 24
        AND (whole.ended_at IS NULL OR whole.ended_at >= :before))
    ORDER BY ended_at, id DESC LIMIT :most"""
_PAST_EVENTS = """DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE seq < (SELECT max(seq) FROM event)
    ORDER BY seq LIMIT :most) AND at < :before"""
_UNUSED = """DELETE FROM {table} WHERE used_at < ? AND hash NOT IN (SELECT {table} FROM job INDEXED BY job_unfinished
    WHERE ended_at IS NULL AND {table} IS NOT NULL)"""


def environments(connection: sqlite3.Connection, before: Timestamp) -> int:
    """Remove environments and scripts that nothing has used since then and no unfinished job needs; return how many.

    A job that ended before cannot be requeued afterwards.
    """
    tables = ("environment", "script")
    return sum(connection.execute(_UNUSED.format(table=table), (before,)).rowcount for table in tables)


def jobs(connection: sqlite3.Connection, before: Timestamp) -> int:
    """Remove jobs that ended before, those that ended first; return how many."""
    chosen = [job for (job,) in connection.execute(_ENDED, {"before": before, "most": BITE})]
    if chosen:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for table, key in (("event", "job"), ("attempt", "job"), ("job", "id")):
                connection.execute(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))",  # noqa: S608 - constants
                    (to_json(chosen),),
                )
            connection.execute("COMMIT")
        except BaseException:
            rollback(connection)
            raise
    return len(chosen)


def events(connection: sqlite3.Connection, before: Timestamp) -> int:
    """Remove the oldest events, as far as they are from before; return how many."""
    return connection.execute(_PAST_EVENTS, {"before": before, "most": BITE}).rowcount
