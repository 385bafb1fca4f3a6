"""What is to be told to people elsewhere, and how far that has come: a database of its own, `notices.db`.

No job depends on it, so it is not synced at every commit, and is made when the first job asks to be told of. What was
on its way when gpud was killed is looked for again: a notice may arrive twice, and is never forgotten.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass

from gpud.model.job import JobId
from gpud.model.units import Timestamp
from gpud.store.files import told

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS mark (id INTEGER PRIMARY KEY CHECK (id = 0), seq INTEGER NOT NULL)",
    # `state`: due, sending, sent, failed. `body` is JSON; `uid` is whose notice it is, None for gpud's own.
    """CREATE TABLE IF NOT EXISTS notice (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, uid INTEGER, job INTEGER, event TEXT NOT NULL,
        target TEXT NOT NULL, body TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'due', tries INTEGER NOT NULL DEFAULT 0,
        due_at REAL NOT NULL, ended_at REAL, error TEXT
    )""",
    "CREATE INDEX IF NOT EXISTS notice_due ON notice (due_at, uid) WHERE state = 'due'",
    "CREATE INDEX IF NOT EXISTS notice_job ON notice (job)",
)
_COLUMNS = "id, at, uid, job, event, target, body, state, tries, due_at, ended_at, error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell one target. `number` is 0 before it is kept; `tries` counts those begun; `body` is JSON."""

    at: Timestamp
    uid: int | None
    job: JobId | None
    event: str
    target: str
    body: str
    number: int = 0
    state: str = "due"
    tries: int = 0
    due_at: Timestamp = Timestamp(0.0)
    ended_at: Timestamp | None = None
    error: str | None = None


class Outbox:
    """The notices of one gpud. Used from one thread at a time; every method may raise StoreError."""

    def __init__(self, path: str) -> None:
        self._path = path
        with told(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            for statement in _SCHEMA:
                self._db.execute(statement)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def mark(self, first: int) -> int:
        """Return up to which event everything is kept here; `first` where nothing ever was."""
        with told(self._path):
            self._db.execute("INSERT OR IGNORE INTO mark VALUES (0, ?)", (first,))
            seq: int = self._db.execute("SELECT seq FROM mark").fetchone()[0]
        return seq

    def add(self, notices: Sequence[Notice], seq: int) -> None:
        """Keep notices, which are all that the events up to `seq` come to."""
        with told(self._path), closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                cursor.executemany(
                    "INSERT INTO notice (at, uid, job, event, target, body, due_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(each.at, each.uid, each.job, each.event, each.target, each.body, each.at) for each in notices],
                )
                cursor.execute("INSERT OR REPLACE INTO mark VALUES (0, ?)", (seq,))
                cursor.execute("COMMIT")
            except BaseException:
                self._db.rollback()
                raise

    def due(self, now: Timestamp, busy: Collection[int | None]) -> Notice | None:
        """Return what has been due for longest of those who are not busy, and call it on its way."""
        which, who = _not_of(busy)
        with told(self._path):
            row = self._db.execute(
                f"UPDATE notice SET state = 'sending', tries = tries + 1 WHERE id = (SELECT id FROM notice"  # noqa: S608 - constants
                f" WHERE {which} AND due_at <= ? ORDER BY due_at LIMIT 1) RETURNING {_COLUMNS}",
                (*who, now),
            ).fetchone()
        return None if row is None else _notice(row)

    def next_due_at(self, busy: Collection[int | None]) -> Timestamp | None:
        """Return when the next one is due of those who are not busy."""
        which, who = _not_of(busy)
        with told(self._path):
            found: tuple[float | None] = self._db.execute(
                f"SELECT min(due_at) FROM notice WHERE {which}",  # noqa: S608 - constants
                who,
            ).fetchone()
        return None if found[0] is None else Timestamp(found[0])

    def sending(self) -> list[Notice]:
        """Return what was on its way when an earlier gpud ended."""
        return self._select("WHERE state = 'sending' ORDER BY id", ())

    def told(self, event: str, jobs: Sequence[JobId]) -> set[tuple[JobId, str]]:
        """Return of which of these jobs whom there is a notice of such an event for, delivered or not."""
        select = "SELECT job, target FROM notice WHERE event = ? AND job IN (SELECT value FROM json_each(?))"
        with told(self._path):
            return set(self._db.execute(select, (event, json.dumps(jobs))))

    def sent(self, number: int, at: Timestamp) -> None:
        """Note that it has arrived."""
        self._put(number, "sent", at, None, None)

    def failed(self, number: int, at: Timestamp, error: str, again_at: Timestamp | None) -> None:
        """Note that it has not arrived; it is tried again then, or (None) no more."""
        self._put(number, "failed" if again_at is None else "due", at, again_at, error)

    def history(self, uid: int | None, job: JobId | None, limit: int) -> list[Notice]:
        """Return the newest notices, oldest first: of one user or of everybody, of one job or of all."""
        rows = self._select(
            "WHERE (?1 IS NULL OR uid = ?1) AND (?2 IS NULL OR job = ?2) ORDER BY id DESC LIMIT ?3", (uid, job, limit)
        )
        return rows[::-1]

    def prune(self, before: Timestamp) -> None:
        """Forget what ended before."""
        with told(self._path):
            self._db.execute("DELETE FROM notice WHERE ended_at < ? AND state IN ('sent', 'failed')", (before,))

    def _put(self, number: int, state: str, at: Timestamp, due_at: Timestamp | None, error: str | None) -> None:
        with told(self._path):
            self._db.execute(
                "UPDATE notice SET state = ?, ended_at = ?, due_at = coalesce(?, due_at), error = ? WHERE id = ?",
                (state, None if state == "due" else at, due_at, error, number),
            )

    def _select(self, rest: str, values: Sequence[object]) -> list[Notice]:
        with told(self._path):
            return [_notice(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM notice {rest}", values)]  # noqa: S608 - constants


def _not_of(busy: Collection[int | None]) -> tuple[str, list[int]]:
    """Return the condition, and its values, for what is due of others than these."""
    places = ", ".join("?" * len(busy))
    return f"state = 'due' AND coalesce(uid, -1) NOT IN ({places})", [-1 if uid is None else uid for uid in busy]


def _notice(row: Sequence[object]) -> Notice:
    names = ("number", *(name.strip() for name in _COLUMNS.split(",")[1:]))
    return Notice(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]  # the columns are its fields
