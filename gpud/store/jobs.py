"""What was promised, kept: one transaction for each batch of changes, on the disk before anybody hears of it.

A `Store` belongs to one thread at a time, the writer. A commit that fails leaves the database as it was, and the
store as good as newly opened. Deciding never reads from here: `load` gives it all at start, and whatever is read
while gpud runs is read by `Reader`.

Cost: a submit in a batch of 50 takes about 40 microseconds and one fdatasync for them all; opening and loading do
not depend on history, and 100,000 waiting jobs take 0.2 s.
"""

import sqlite3
from collections.abc import Callable, Sequence
from hashlib import blake2b

from gpud.model.changes import (
    Added,
    ArrayPut,
    AttemptEnded,
    Change,
    Ended,
    InventoryPut,
    Moved,
    Queued,
    Reprioritised,
    Rewritten,
    SettingPut,
    StrangerSeen,
    TermsPut,
    Told,
    Unfolded,
    UsePut,
)
from gpud.model.job import Active, Exit, JobId, Running, Stopping, array_of
from gpud.model.spec import ArrayState, Park, Place, Terms
from gpud.model.units import Timestamp
from gpud.store.coding import (
    encode_after,
    encode_allocation,
    encode_counts,
    encode_exit,
    encode_rewrite,
    encode_submitted,
    encode_terms,
    encode_uses,
    text,
    to_json,
)
from gpud.store.events import event_of
from gpud.store.files import close_writer, open_writer, rollback, told
from gpud.store.loading import RUNS, known_nonces, load, specs
from gpud.store.rows import Committed, Event, Loaded
from gpud.store.spending import spend, spend_foreign

_DAY_S = 86_400.0
_REMEMBERED = 4_096  # contents and terms known to be stored; beyond that they are looked up again

_TEXTS = {"nonce", "user", "tenant", "name", "name_group", "group_name", "key", "workdir", "output", "error"}
_ADDED = """
    id, state, attempt, failures, park, not_before, priority, queued_us, mishaps, attained_s, awaits, terms,
    submitted_at, updated_at, array, live, pending, throttle, dropped, counts, nonce, uid, user, tenant, name,
    name_group, group_name, key, command, workdir, labels, output, error, after, estimate_s, preemptible, submitted,
    environment, script
"""
_ADD = (
    f"INSERT INTO job ({_ADDED})"  # noqa: S608 - constants
    f" VALUES ({', '.join('CAST(? AS TEXT)' if column.strip() in _TEXTS else '?' for column in _ADDED.split(','))})"
)
_COPIED = """terms, submitted_at, uid, user, tenant, name, name_group, group_name, after, estimate_s, preemptible,
    command, workdir, labels, output, error, submitted, environment, script"""
_UNFOLD = f"""INSERT INTO job (id, state, attempt, failures, park, not_before, priority, queued_us, mishaps, attained_s,
    awaits, updated_at, {_COPIED})
    SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {_COPIED} FROM job WHERE id = ?"""  # noqa: S608 - constants
_ARRAY = """UPDATE job SET live = ?, pending = ?, throttle = ?, dropped = ?, counts = ?, updated_at = ?, ended_at = ?,
    reason = coalesce(CAST(? AS TEXT), reason),
    state = coalesce(?, CASE WHEN park IN ('held', 'never') THEN 'held' ELSE 'queued' END) WHERE id = ?"""
_QUEUE = """UPDATE job SET state = CASE WHEN pending = '' THEN 'running' ELSE ? END, attempt = ?, failures = ?,
    park = ?, not_before = ?, priority = ?, queued_us = ?, mishaps = ?, attained_s = ?, awaits = ?,
    updated_at = ?, reason = CASE WHEN ? THEN reason ELSE CAST(? AS TEXT) END, ended_at = NULL WHERE id = ?"""
_MOVE = """UPDATE job SET state = ?, attempt = ?, park = NULL, not_before = NULL, updated_at = ?, reason = NULL
    WHERE id = ?"""
_ATTEMPT = """INSERT INTO attempt (job, attempt, starting_at, since, boot, allocation, started_at, pid, pid_start, shim,
    shim_start, cause, kill_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (job, attempt) DO UPDATE SET since = excluded.since, boot = excluded.boot,
    allocation = excluded.allocation, started_at = excluded.started_at, pid = excluded.pid,
    pid_start = excluded.pid_start, shim = excluded.shim, shim_start = excluded.shim_start, cause = excluded.cause,
    kill_at = excluded.kill_at"""
_ATTEMPT_ENDED = """UPDATE attempt SET ended_at = ?, exit_code = ?, signal = ?, fault = CAST(? AS TEXT),
    fault_machine = ?, fault_not_found = ?, lost = CAST(? AS TEXT), timed_out = ?, cpu_s = ?, max_rss_mib = ?,
    leftovers = ?, finding = CAST(? AS TEXT), stuck = ?,
    peak_mib = ?, cause = coalesce(?, cause), gpu_s = ?, gpu_uses = ?
    WHERE job = ? AND attempt = ?"""
_USED = """INSERT INTO usage (uid, tenant, day, outcome, gpu_s, cpu_s) VALUES (?, CAST(? AS TEXT), ?, ?, ?, ?)
    ON CONFLICT (uid, tenant, day, outcome) DO UPDATE SET gpu_s = gpu_s + excluded.gpu_s,
    cpu_s = cpu_s + excluded.cpu_s"""
_COUNTED = """INSERT INTO usage (uid, tenant, day, outcome, jobs) SELECT uid, tenant, ?, ?, 1 FROM job WHERE id = ?
    ON CONFLICT (uid, tenant, day, outcome) DO UPDATE SET jobs = jobs + 1"""
_TERMS = "UPDATE job SET terms = ?, estimate_s = ?, preemptible = ?, updated_at = ? WHERE id = ?"
_REWRITE = """UPDATE job SET name = coalesce(CAST(?1 AS TEXT), name),
    name_group = coalesce(CAST(?2 AS TEXT), name_group), workdir = coalesce(CAST(?3 AS TEXT), workdir),
    output = coalesce(CAST(?4 AS TEXT), output), error = coalesce(CAST(?5 AS TEXT), error),
    labels = coalesce(json_patch(coalesce(labels, '{}'), ?6), labels), submitted = json_patch(submitted, ?7),
    group_name = nullif(coalesce(CAST(?8 AS TEXT), group_name), ''), key = nullif(coalesce(CAST(?9 AS TEXT), key), ''),
    after = CASE WHEN ?10 THEN ?11 ELSE after END,
    environment = coalesce(?12, environment), updated_at = ?13 WHERE id = ?14"""
_END = "UPDATE job SET state = ?, ended_at = ?, updated_at = ?, park = NULL, reason = CAST(? AS TEXT) WHERE id = ?"
_NODE = """INSERT INTO node VALUES (CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)
    ON CONFLICT (name) DO UPDATE SET cpus = excluded.cpus, memory_mib = excluded.memory_mib, driver = excluded.driver,
    problem = excluded.problem, seen_at = excluded.seen_at"""
_GPU = """INSERT OR REPLACE INTO gpu VALUES
    (CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_ACCOUNT = "INSERT OR REPLACE INTO account VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"
_EVENT = "INSERT INTO event (seq, at, kind, job, attempt, detail) VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?)"


class NonceTakenError(Exception):
    """Submits that were committed before: nothing of the batch was written. `jobs` says what they became."""

    def __init__(self, jobs: dict[str, JobId]) -> None:
        super().__init__(f"{len(jobs)} submitted before")
        self.jobs = jobs


class Store:
    """The database of one gpud. Made by `open`."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._last_event: int = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]
        self._terms: dict[Terms, int] = {}
        self._kept: dict[bytes, Timestamp] = {}  # content known to be stored, and its used_at

    @classmethod
    def open(cls, path: str, *, backup_dir: str | None = None) -> "Store":
        """Open, or make, the database at this path. Raises StoreError; what cannot be used is left as it was.

        One of an older schema is migrated, after a copy to `backup_dir` (None: beside it).
        """
        connection = open_writer(path, backup_dir=backup_dir)
        try:
            with told(path):
                return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def load(self, runs: int = RUNS) -> Loaded:
        """Return everything that has not ended, and the newest runs. Raises StoreError."""
        with told(self.path):
            return load(self._db, runs)

    def commit(self, changes: Sequence[Change], launches: Sequence[tuple[JobId, int]] = ()) -> Committed:
        """Make changes durable, all or none; return their events, and the spec for each launch (job, attempt).

        Raises StoreFullError, StoreError, or NonceTakenError when one of the submits was committed before.
        """
        try:
            with told(self.path):
                self._db.execute("BEGIN IMMEDIATE")
                for change in changes:
                    self._write(change)
                events = self._tell(changes)
                wanted = specs(self._db, [job for job, _ in launches])
                self._db.execute("COMMIT")
        except BaseException as error:
            rollback(self._db)
            self._terms.clear()  # may name what was rolled back
            self._kept.clear()
            if isinstance(error, sqlite3.IntegrityError):
                self._refuse_known(changes)
            raise
        self._last_event += len(events)
        return Committed(events, wanted)

    def prune(self, bite: Callable[[sqlite3.Connection, Timestamp], int], before: Timestamp) -> int:
        """Remove a bite (see `pruning`) of what is from before; return how much it was. Raises StoreError."""
        self._kept.clear()
        with told(self.path):
            return bite(self._db, before)

    def close(self) -> None:
        """Close the database. What was committed needs no close to be safe."""
        close_writer(self._db, self.path)

    def _write(self, change: Change) -> None:
        execute = self._db.execute
        match change:
            case Added():
                self._add(change)
            case Unfolded(job, at, place):
                execute(_UNFOLD, (job, _waiting(place), *_place(place), at, array_of(job)))
            case ArrayPut(job, at, array, end, reason):
                word = end or (None if array.pending else "running")
                execute(_ARRAY, (*_array(array), at, None if end is None else at, text(reason), word, job))
            case Queued(job, at, place, word, reason):  # of an update the event tells; why it waits is as before
                execute(_QUEUE, (_waiting(place), *_place(place), at, word == "updated", text(reason), job))
            case Moved(job, at, attempt, state):
                execute(_MOVE, (type(state).__name__.lower(), attempt, at, job))
                execute(_ATTEMPT, (job, attempt, at, *_active(state)))
            case AttemptEnded():
                self._end_attempt(change)
            case Ended(job, at, end, over, reason):
                ended_at = at if over is None else over.at  # it may have ended while gpud was not there
                execute(_END, (end, ended_at, at, text(reason), job))
                execute(_COUNTED, (int(at // _DAY_S), end, job))
                self._touch(job, at)
            case Reprioritised(job, at, priority):
                execute("UPDATE job SET priority = ?, updated_at = ? WHERE id = ?", (priority, at, job))
            case TermsPut() | Rewritten():
                self._revise(change)
            case InventoryPut():
                self._put_inventory(change)
            case UsePut() | StrangerSeen():
                self._count(change)
            case SettingPut(key, value):
                if value is None:
                    execute("DELETE FROM setting WHERE key = ?", (key,))
                else:
                    execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, to_json(value)))
            case Told():
                pass  # an event, and nothing else

    def _count(self, change: UsePut | StrangerSeen) -> None:
        if isinstance(change, StrangerSeen):
            spend_foreign(self._db, change)
            return
        whose = text(change.tenant), text(change.user or "")
        self._db.execute(_ACCOUNT, (*whose, change.used_s, change.lifted_s, change.at))

    def _revise(self, change: TermsPut | Rewritten) -> None:
        if isinstance(change, TermsPut):
            terms, row = change.terms, self._terms_id(change.terms)
            self._db.execute(_TERMS, (row, terms.estimate_s, terms.preemptible, change.at, change.job))
            return
        new = change.rewrite.environment
        environment = None if new is None else self._keep("environment", new, change.at)
        self._db.execute(_REWRITE, (*encode_rewrite(change.rewrite), environment, change.at, change.job))

    def _add(self, change: Added) -> None:
        spec, terms = change.spec, change.spec.terms
        submitted = (
            change.job,
            _waiting(change.place),
            *_place(change.place),
            self._terms_id(terms),
            change.at,
            change.at,
            None if spec.array is None else str(spec.array),
            *((None,) * 5 if change.array is None else _array(change.array)),
            text(spec.nonce),
            terms.uid,
            text(terms.user),
            text(terms.tenant),
            text(spec.name),
            text(terms.name_group),
            text(spec.group),
            text(spec.key),
            to_json(spec.command),
            text(spec.workdir),
            to_json(spec.labels) if spec.labels else None,
            text(spec.output),
            text(spec.error),
            encode_after(spec.after),
            terms.estimate_s,
            terms.preemptible,
            encode_submitted(spec),
            self._keep("environment", spec.environment, change.at) if spec.environment else b"",  # not known
            None if spec.script is None else self._keep("script", spec.script, change.at),
        )
        self._db.execute(_ADD, submitted)

    def _terms_id(self, terms: Terms) -> int:
        known = self._terms.get(terms)
        if known is not None:
            return known
        body = encode_terms(terms)
        self._db.execute("INSERT OR IGNORE INTO terms (body) VALUES (?)", (body,))
        row: int = self._db.execute("SELECT id FROM terms WHERE body = ?", (body,)).fetchone()[0]
        if len(self._terms) >= _REMEMBERED:
            self._terms.clear()
        self._terms[terms] = row
        return row

    def _keep(self, table: str, data: bytes, at: Timestamp) -> bytes:
        """Store content unless it is there, and return its hash."""
        name = blake2b(data, digest_size=16, person=table.encode()).digest()
        if self._kept.get(name, float("-inf")) <= at - _DAY_S:
            self._db.execute(
                f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE"  # noqa: S608 - constants
                " SET used_at = max(used_at, excluded.used_at)",
                (name, at, data),
            )
            if len(self._kept) >= _REMEMBERED:
                self._kept.clear()
            self._kept[name] = at
        return name

    def _touch(self, job: JobId, at: Timestamp) -> None:
        """Note that a job which could be requeued used its environment and script until now."""
        for table in ("environment", "script"):
            self._db.execute(
                f"UPDATE {table} SET used_at = ? WHERE used_at < ?"  # noqa: S608 - constants
                f" AND hash = (SELECT {table} FROM job WHERE id = ?)",
                (at, at - _DAY_S, job),
            )

    def _end_attempt(self, change: AttemptEnded) -> None:
        ended, cause = change.exit, change.cause
        seen = (cause, change.gpu_s, encode_uses(change.uses), change.job, change.attempt)
        self._db.execute(_ATTEMPT_ENDED, (*encode_exit(ended), *seen))
        used = (int(ended.at // _DAY_S), cause or _outcome(ended), change.gpu_s, ended.cpu_s or 0.0)
        self._db.execute(_USED, (change.uid, text(change.tenant), *used))
        spend(self._db, change)

    def _put_inventory(self, change: InventoryPut) -> None:
        node, at = change.node, change.at
        columns = (node.cpus, node.memory_mib, text(node.driver), text(node.problem), at)
        self._db.execute(_NODE, (text(node.name), *columns))
        # A lost GPU stays known. One that another replaced in its slot does not; nor do simulated ones, never lost.
        self._db.execute("DELETE FROM gpu WHERE node = CAST(? AS TEXT) AND simulated", (text(node.name),))
        for gpu in node.gpus:
            if gpu.pci_id is not None and gpu.mig is None:
                slot = (text(node.name), gpu.pci_id)
                self._db.execute("DELETE FROM gpu WHERE node = CAST(? AS TEXT) AND pci_id = ?", slot)
            seen = (gpu.index, text(gpu.name), gpu.memory_total_mib, gpu.pci_id, gpu.simulated, at)
            links = (gpu.nvlink, gpu.pcie, gpu.numa, gpu.mig, gpu.parent, gpu.split)
            self._db.execute(_GPU, (text(gpu.id), text(node.name), *seen, *links))

    def _tell(self, changes: Sequence[Change]) -> tuple[Event, ...]:
        """Write the events of these changes and return them."""
        tellings = [telling for telling in map(event_of, changes) if telling is not None]
        terms = {change.job: change.spec.terms for change in changes if isinstance(change, Added)}
        whose: dict[JobId | None, tuple[str, int]] = {job: (each.user, each.uid) for job, each in terms.items()}
        others = {job for _, _, job, _, _ in tellings if job is not None and job not in whose}
        if others:
            select = "SELECT id, user, uid FROM job WHERE id IN (SELECT value FROM json_each(?))"
            rows = self._db.execute(select, (to_json(list(others)),))
            whose |= {job: (user, uid) for job, user, uid in rows}
        nobody = (None, None)
        events = tuple(
            Event(seq, at, kind, job, attempt, whose.get(job, nobody)[0], detail, whose.get(job, nobody)[1])
            for seq, (at, kind, job, attempt, detail) in enumerate(tellings, self._last_event + 1)
        )
        self._db.executemany(_EVENT, map(_event, events))
        return events

    def _refuse_known(self, changes: Sequence[Change]) -> None:
        """Raise NonceTakenError if one of these submits was committed before."""
        with told(self.path):
            known = known_nonces(self._db, [change.spec.nonce for change in changes if isinstance(change, Added)])
        if known:
            raise NonceTakenError(known)


def _event(event: Event) -> tuple[object, ...]:
    detail = to_json(event.detail) if event.detail else None
    return event.seq, event.at, text(event.kind), event.job, event.attempt, detail


def _waiting(place: Place) -> str:
    return "held" if place.park in {Park.HELD, Park.NEVER} else "queued"


def _place(place: Place) -> tuple[object, ...]:
    return (
        place.attempt,
        place.failures,
        place.park,
        place.not_before,
        place.priority,
        place.queued_us,
        place.mishaps,
        place.attained_s,
        place.awaits,
    )


def _array(array: ArrayState) -> tuple[object, ...]:
    return array.live, str(array.pending), array.throttle, str(array.dropped), encode_counts(array)


def _active(state: Active) -> tuple[object, ...]:
    """Return the columns of `attempt` from `since` to `kill_at`."""
    held = (state.since, state.boot, encode_allocation(state.allocation))
    process = shim = started = cause = kill_at = None
    if isinstance(state, Running):
        process, shim, started = state.process, state.shim, state.since
    elif isinstance(state, Stopping):
        process, shim, started, cause, kill_at = state.process, state.shim, state.started, state.cause, state.kill_at
    pids = [number for one in (process, shim) for number in ((None, None) if one is None else (one.pid, one.start))]
    return (*held, started, *pids, cause, kill_at)


def _outcome(ended: Exit) -> str:
    """Return how an attempt that nobody stopped ended, in the words of jobs' ends."""
    if ended.timed_out:
        return "timed_out"
    if ended.lost is not None:
        return "lost"
    return "completed" if ended.exit_code == 0 else "failed"
