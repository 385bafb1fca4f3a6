"""Opening the database file: what is not ours, not whole or newer than us is refused before a byte of it changes.

WAL with synchronous=FULL: a commit is on the disk when it returns (sqlite.org/wal.html), which is what a printed job
id promises. Everything is 0600: environments hold tokens.
"""

import ctypes
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from gpud.model.job import JobId, number_of
from gpud.store.schema import APPLICATION_ID, MIGRATIONS

FIRST_NUMBER = "first_number"  # the setting with the least number that the next job may get
COPIED_AT = "copied_at"  # the setting of a copy that says when it was made, until a gpud goes on from it
NO_ENVIRONMENT = "its environment is not in the backup; submit it again"
_SKIPPED = 10_000
_CACHE_KIB = 2048  # of the writer and of the reader each: what is read again and again is less
_WAL_KEPT = 64 * 1024 * 1024
_WAL_RESERVED = 8 * 1024 * 1024  # twice of what makes SQLite write it back, and begin at its head again
_fallocate: Any = ctypes.CDLL(None).fallocate
_KEEP_SIZE = 0x01  # linux/falloc.h
_FULL = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,  # a quota or a file size limit: EDQUOT, EFBIG
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ELSEWHERE = "is the directory there, and yours? or take another: --state-dir"
_UNREACHABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


class StoreError(Exception):
    """The database cannot be used. `hint` says what a person can do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class StoreFullError(StoreError):
    """Nothing could be written, and nothing was: no space, a quota, a failing disk."""


@contextmanager
def told(path: str) -> Iterator[None]:
    """Turn the world's errors into words for people. A broken constraint or statement is our own fault, and passes."""
    try:
        yield
    except sqlite3.Error as error:
        known = _in_words(path, error)
        if known is None:
            raise
        raise known from error


def _in_words(path: str, error: sqlite3.Error) -> StoreError | None:
    code = getattr(error, "sqlite_errorcode", 0)
    kind = code & 0xFF  # the rest of it says more closely what failed
    if code in _FULL:
        return StoreFullError(f"cannot write to {path}: {error}", "make space on that disk; nothing was lost")
    if kind in _BROKEN:
        return _damaged(path, error)
    if kind in _UNREACHABLE:
        return StoreError(f"cannot write to {path}: {error}", _ELSEWHERE)
    if kind in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"{path} is locked: {error}", "is another program writing to it? let it end, and try again")
    if kind == sqlite3.SQLITE_IOERR:
        return StoreError(
            f"cannot read or write {path}: {error}", "does the disk work? the kernel's log may say: dmesg"
        )
    return None


def _damaged(path: str, how: object) -> StoreError:
    hint = "it was left as it is; move it away to start with an empty queue, or put a backup in its place"
    return StoreError(f"{path} is damaged: {how}", hint)


def open_writer(
    path: str, *, backup_dir: str | None = None, migrations: Sequence[tuple[str, ...]] = MIGRATIONS
) -> sqlite3.Connection:
    """Return the one connection that writes, made or migrated as needed. Raises StoreError.

    An existing database is copied to `backup_dir` (None: beside it) before it is migrated.
    """
    _refuse_strange_log(path)
    with told(path):
        if _exists(path):
            _check(path, len(migrations))
        connection = _connect(path, "rw")
        try:
            _configure(path, connection)
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if version < len(migrations):
                if version:
                    _back_up(connection, Path(backup_dir or Path(path).parent) / f"{Path(path).name}.v{version}.backup")
                _migrate(connection, migrations, version)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else a damaged WAL would look like no jobs
            _reserve(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def check_database(path: str) -> None:
    """Return if a gpud could take a database, or make one, after reading all of it; nothing is changed.

    Raises StoreError.
    """
    _refuse_strange_log(path)
    with told(path):
        if Path(path).exists() and Path(path).stat().st_size > 0:
            _check(path, len(MIGRATIONS))
            with closing(_connect(path, "ro")) as connection:
                found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _damaged(path, found.splitlines()[-1])


def next_number(path: str) -> int | None:
    """Return the number of the next job; None where there is no database yet, and for a copy that is gone on from now.

    Nothing is changed. Raises StoreError.
    """
    _refuse_strange_log(path)
    with told(path):
        if not Path(path).exists() or Path(path).stat().st_size == 0:
            return None
        with closing(_connect(path, "ro")) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'job'").fetchone()[0]:
                return None
            newest: int = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
            kept = dict(connection.execute("SELECT key, value FROM setting"))
    if COPIED_AT in kept:
        return None
    return max(number_of(JobId(newest)) + 1, int(kept.get(FIRST_NUMBER, 1)))


def open_reader(path: str) -> sqlite3.Connection:
    """Return a connection that cannot write, to a database that a writer has opened. Raises StoreError."""
    with told(path):
        return _connect(path, "ro")


def back_up(path: str, target: str) -> None:
    """Copy the database that a writer has open, as it is now, without environments. Raises StoreError.

    What it takes is one read, in the caller's thread: neither commits nor other reads wait for it.
    """
    with told(path), closing(_connect(path, "ro")) as connection:
        _back_up(connection, Path(target))


def rollback(connection: sqlite3.Connection) -> None:
    """Give up the transaction, if SQLite has not done so itself."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # the first error is the one to tell
            connection.execute("ROLLBACK")


@contextmanager
def of_one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Have several reads see the same: between two of them a job that starts could be in neither."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        rollback(connection)


def close_writer(connection: sqlite3.Connection, path: str) -> None:
    """Close the database; its log goes, but keeps what it has of the disk, under another name, for the next gpud."""
    with suppress(OSError):
        os.link(f"{path}-wal", f"{path}-spare")
    connection.close()


def free_spare(path: str) -> None:
    """Give back what the last gpud kept, to open the database: a disk that is full by now has no room for its log."""
    with suppress(OSError):
        Path(f"{path}-spare").unlink()


def _exists(path: str) -> bool:
    """Return whether there is something to check; make an empty file, the owner's alone, where there is none."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return Path(path).stat().st_size > 0  # empty: a gpud was killed before its first commit
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}", _ELSEWHERE) from error
    return False


def _refuse_strange_log(path: str) -> None:
    """Raise StoreError for a log without its database, and beside a copy: SQLite would lose the one, mix the other.

    What a gpud wrote to says in its 19th byte that it has a log (sqlite.org/fileformat2.html), a copy that it has none.
    """
    log, head = Path(f"{path}-wal"), b""
    if not log.exists() or not log.stat().st_size:
        return
    with suppress(FileNotFoundError), Path(path).open("rb") as file:
        head = file.read(19)
    if not head:
        hint = "put it back; or move that away, too, to start with an empty queue"
        raise StoreError(f"{path} is gone, and {log}, which holds a part of it, is there", hint)
    if head[18:] == b"\x01":
        raise StoreError(f"{path} is a copy, and {log} beside it is not its own", f"move that and {path}-shm away")


def _connect(path: str, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,  # BEGIN and COMMIT are ours to say
        check_same_thread=False,  # opened by one thread, used by one other
    )
    connection.text_factory = _text
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")  # a path is bytes: see coding.text


def _check(path: str, known: int) -> None:
    """Look at an existing file through a connection that cannot change it."""
    with closing(_connect(path, "ro")) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreError(f"{path} is not gpud's database", "move it away, or take another directory: --state-dir")
    if version > known:
        raise StoreError(
            f"{path} was written by a newer gpud (schema {version}; this one knows up to {known})",
            "install that gpud again, or take another directory: --state-dir",
        )


def _configure(path: str, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA secure_delete = ON")  # a removed environment must not live on in free pages
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
    mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{path} is on a file system without shared memory", "take a local directory: --state-dir")
    connection.execute("PRAGMA synchronous = FULL")


def _reserve(connection: sqlite3.Connection, path: str) -> None:
    """Take space for the next commits now: who cancels the job that fills the disk must not be refused for want of it.

    It is beyond the log's end, where only its file system sees it; where that cannot do so, nothing is reserved.
    """
    connection.execute("SELECT count(*) FROM sqlite_master")  # makes the log
    with suppress(OSError):
        log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        _fallocate(log, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(_WAL_RESERVED))
        os.close(log)


def _migrate(connection: sqlite3.Connection, migrations: Sequence[tuple[str, ...]], version: int) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for migration in migrations[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        rollback(connection)
        raise


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the database, without environments (they hold tokens); what waits is held in the copy, and says why.

    Who goes on from the copy does not know which numbers were given since, and so begins well beyond.
    """
    unfinished = target.with_name(target.name + ".new")
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        unfinished.unlink()
    try:
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(_connect(str(unfinished), "rw")) as copy:
            connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("PRAGMA secure_delete = ON")
            copy.execute("DELETE FROM environment")
            newest: int = copy.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
            made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            told = {FIRST_NUMBER: number_of(JobId(newest)) + _SKIPPED, COPIED_AT: made}
            said = [(key, json.dumps(value)) for key, value in told.items()]
            copy.executemany("INSERT OR REPLACE INTO setting VALUES (?, ?)", said)
            copy.execute(
                "UPDATE job SET state = 'held', park = 'held', reason = ? WHERE state IN ('queued', 'held')",
                (NO_ENVIRONMENT,),
            )
        os.replace(unfinished, target)  # noqa: PTH105 - beside os.open; a pair reads better
    except OSError as error:
        raise StoreError(
            f"cannot write the backup {target}: {error.strerror}", "make space there; the database was left as it is"
        ) from error
    finally:
        with suppress(OSError):  # where it failed: the space that it took may be the last
            unfinished.unlink()
