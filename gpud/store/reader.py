"""What people ask: rows, attempts, events. Its own connection, its own thread, so that asking holds up no commit.

Every question goes through an index: a listing costs what it shows, not what the history holds.
"""

import json
from collections import Counter
from collections.abc import Sequence

from gpud.model.array import IndexSet
from gpud.model.gpu import Node
from gpud.model.job import End, JobId, array_of, index_of
from gpud.model.spec import JobSpec, LoadedJob, Terms
from gpud.model.units import Timestamp
from gpud.store.coding import (
    ARRAY,
    ATTEMPT,
    CURRENT,
    PLACE,
    Columns,
    decode_after,
    decode_array,
    decode_attempt,
    decode_indices,
    decode_place,
    decode_terms,
    text,
    to_json,
)
from gpud.store.files import of_one_moment, open_reader, told
from gpud.store.groups import completed, groups
from gpud.store.history import Past, begun_at, past
from gpud.store.loading import Holders, finished, holders_of, known_ends, known_nonces, nodes, specs
from gpud.store.rows import AttemptRow, Event, GroupRow, JobQuery, JobRow, Standing
from gpud.store.spending import Spent, spent

MORE_MAX = 10_000  # how far a listing counts what it leaves out
_ENDS = frozenset(End)
_TERMS_REMEMBERED = 4_096
_ROW = (
    "job.id, job.state, job.reason, job.terms, job.name, job.command, job.workdir, job.labels, job.output, job.error,"
    " json_extract(job.submitted, '$.begin_at'), job.submitted_at, job.updated_at, job.ended_at, job.array,"
    " job.after, job.group_name, job.key, json_type(job.submitted, '$.terminal'),"
    f" {PLACE}, {ARRAY}, {ATTEMPT}"
)
_EVENT = (
    "SELECT seq, at, kind, event.job, event.attempt, job.user, detail, job.uid FROM event"
    " LEFT JOIN job ON job.id = event.job"
)
_NAMED = "BETWEEN json_extract(span.value, '$[0]') AND json_extract(span.value, '$[1]')"
Spans = Sequence[tuple[JobId, JobId]]


class Reader:
    """Questions to a database that a `Store` has opened. Every method may raise StoreError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._db = open_reader(path)
        self._terms: dict[int, Terms] = {}

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def nonces(self, nonces: Sequence[str]) -> dict[str, JobId]:
        """Return the jobs that were submitted with these nonces; those that are not known are left out."""
        with told(self._path):
            return known_nonces(self._db, nonces)

    def job(self, job: JobId) -> JobRow | None:
        """Return one job, None where there is none."""
        return next(iter(self.rows([job])), None)

    def rows(self, jobs: Sequence[JobId]) -> list[JobRow]:
        """Return those of these jobs that there are."""
        select = f"SELECT {_ROW} FROM job {CURRENT} WHERE job.id IN (SELECT value FROM json_each(?)) ORDER BY job.id"  # noqa: S608 - constants
        with told(self._path):
            return [self._row(columns) for columns in self._db.execute(select, (to_json(list(jobs)),)).fetchall()]

    def jobs(self, query: JobQuery) -> tuple[list[JobRow], int]:
        """Return at most `limit` rows, newest last, and how many more there are (`MORE_MAX`: that many or more).

        The newest of what has not ended; where there is room, the newest of what has.
        """
        with told(self._path), of_one_moment(self._db):
            kept, more = self._found(query)
            return self.rows(kept), more

    def standings(self, query: JobQuery) -> tuple[list[Standing], int]:
        """Return what it takes to choose among the jobs that `jobs` returns: of very many in a fraction of the time."""
        columns = f"id, state, terms, group_name, park, {ARRAY}"
        select = f"SELECT {columns} FROM job WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608 - constants
        with told(self._path), of_one_moment(self._db):
            kept, more = self._found(query)
            rows = self._db.execute(select, (to_json(kept),)).fetchall()
            return [
                Standing(job, state, self._terms_of(terms), group, park, decode_array(array))
                for job, state, terms, group, park, *array in rows
            ], more

    def anothers(self, spans: Spans, uid: int) -> tuple[JobId, str] | None:
        """Return a job in these ranges that is not this user's, and whose it is; None where all are."""
        select = f"SELECT job.id, user FROM json_each(?) AS span CROSS JOIN job NOT INDEXED WHERE job.id {_NAMED}"  # noqa: S608 - constants
        with told(self._path):
            return next(self._db.execute(f"{select} AND uid != ? LIMIT 1", (to_json(spans), uid)), None)

    def attempts(self, job: JobId) -> list[AttemptRow]:
        """Return the attempts of a job, oldest first."""
        select = f"SELECT {ATTEMPT} FROM attempt WHERE job = ? ORDER BY attempt"  # noqa: S608 - constants
        with told(self._path):
            rows = [decode_attempt(job, columns) for columns in self._db.execute(select, (job,))]
        return [row for row in rows if row is not None]

    def first_start(self, first: JobId, last: JobId) -> Timestamp | None:
        """Return when the first of a range of jobs began to run; None where none has."""
        select = "SELECT min(started_at) FROM attempt WHERE job BETWEEN ? AND ? AND fault IS NULL"
        with told(self._path):
            began: Timestamp | None = self._db.execute(select, (first, last)).fetchone()[0]
        return began

    def events(self, since: int | None = 0, spans: Spans | None = None, limit: int = 1000) -> list[Event]:
        """Return the first `limit` events after number `since` (None: the newest), of ranges of jobs or of everything.

        Oldest first in any case.
        """
        order = "ORDER BY seq DESC LIMIT ?" if since is None else "ORDER BY seq LIMIT ?"
        with told(self._path):
            if spans is None:
                rows = self._db.execute(f"{_EVENT} WHERE seq > ? {order}", (since or 0, limit)).fetchall()
            else:
                select = (
                    f"{_EVENT} WHERE seq IN (SELECT seq FROM json_each(?) AS span CROSS JOIN event INDEXED BY event_job"  # noqa: S608 - constants
                    f" WHERE event.job {_NAMED} AND seq > ?) {order}"
                )
                rows = self._db.execute(select, (to_json(spans), since or 0, limit)).fetchall()
        return [
            Event(seq, at, kind, job, attempt, user, json.loads(detail) if detail else {}, uid)
            for seq, at, kind, job, attempt, user, detail, uid in (reversed(rows) if since is None else rows)
        ]

    def environment(self, job: JobId) -> list[str] | None:
        """Return the names of the variables that a job was submitted with; None where they are not kept any more."""
        found = self.environments([job]).get(job)
        return None if found is None else sorted(json.loads(found))

    def without_environment(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Return those of these jobs, and elements' arrays, of whose environment nothing is kept: see `back_up`."""
        select = (
            "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?)) AND environment IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM environment WHERE environment.hash = job.environment)"
        )
        with told(self._path):
            return {job for (job,) in self._db.execute(select, (to_json([*jobs, *map(array_of, jobs)]),))}

    def beyond(self, jobs: Sequence[JobId], uid: int, gids: Sequence[int]) -> set[JobId]:
        """Return this user's of these jobs, and elements' arrays, that were submitted with a group not among these."""
        select = (
            "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?1)) AND uid = ?2 AND"
            " (json_extract(submitted, '$.gid') NOT IN (SELECT value FROM json_each(?3)) OR EXISTS (SELECT 1"
            " FROM json_each(submitted, '$.groups') WHERE value NOT IN (SELECT value FROM json_each(?3))))"
        )
        named = to_json([*jobs, *map(array_of, jobs)])
        with told(self._path):
            return {job for (job,) in self._db.execute(select, (named, uid, to_json(list(gids))))}

    def recorded(self, job: JobId) -> dict[str, object]:
        """Return the `commit` of the directory that a job was submitted in, and whether it was `dirty`, as known."""
        with told(self._path):
            (submitted,) = next(self._db.execute("SELECT submitted FROM job WHERE id = ?", (array_of(job),)), ("{}",))
        said = json.loads(submitted)
        return {"commit": said.get("commit"), "dirty": said.get("dirty")}

    def specs(self, jobs: Sequence[JobId]) -> tuple[JobSpec, ...]:
        """Return what each of these jobs was submitted with. Raises LookupError for one that there is not."""
        with told(self._path):
            return specs(self._db, jobs)

    def notice_rules(self, jobs: Sequence[JobId]) -> dict[JobId, list[tuple[str, str]]]:
        """Return whom to tell of what of these jobs, as pairs of event and target; those without are left out."""
        select = (
            "SELECT id, json_extract(submitted, '$.notify') AS notify FROM job"
            " WHERE id IN (SELECT value FROM json_each(?)) AND notify IS NOT NULL"
        )
        with told(self._path):
            rows = self._db.execute(select, (to_json(list(jobs)),)).fetchall()
        return {job: [(event, target) for event, target in json.loads(pairs)] for job, pairs in rows}

    def unfinished_with_notices(self, event: str) -> list[tuple[JobId, Timestamp]]:
        """Return the jobs that wait, and of which somebody wants to be told this, each with when it was submitted."""
        select = (
            "SELECT job.id, submitted_at FROM job INDEXED BY job_unfinished, json_each(submitted, '$.notify') AS pair"
            " WHERE ended_at IS NULL AND state IN ('queued', 'held') AND json_extract(pair.value, '$[0]') = ?"
        )
        with told(self._path):
            return self._db.execute(select, (event,)).fetchall()

    def group_ended_with(self, job: JobId) -> dict[str, int] | None:
        """Return how many jobs of a job's group ended how, if all have, this one as the last; None otherwise."""
        select = (
            "SELECT job.id, job.state, job.ended_at FROM job JOIN job AS one"
            " ON job.uid = one.uid AND job.group_name = one.group_name WHERE one.id = ?"
        )
        with told(self._path):
            rows = self._db.execute(select, (job,)).fetchall()
        alone = [(ended_at, id_) for id_, _, ended_at in rows if index_of(id_) is None]
        if not alone or any(ended_at is None for ended_at, _ in alone) or max(alone)[1] != job:
            return None
        return dict(Counter(state for id_, state, _ in rows if index_of(id_) is None))

    def finished(self, jobs: Sequence[JobId]) -> dict[JobId, LoadedJob | None]:
        """Return those of these jobs that ended, for a requeue; None for one whose environment is not kept any more."""
        with told(self._path):
            return finished(self._db, jobs)

    def ends(self, jobs: Sequence[JobId]) -> dict[JobId, End]:
        """Return how those of these jobs, elements and arrays ended that have."""
        with told(self._path):
            return known_ends(self._db, jobs)

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes, with every GPU ever seen on them."""
        with told(self._path):
            return tuple(nodes(self._db))

    def counts(self, ended_since: Timestamp) -> dict[str, int]:
        """Return rows by state: all that have not ended, and those that ended since."""
        with told(self._path):
            return dict(
                self._db.execute(
                    "SELECT state, count(*) FROM"
                    " (SELECT state FROM job INDEXED BY job_unfinished WHERE ended_at IS NULL"
                    " UNION ALL SELECT state FROM job INDEXED BY job_ended WHERE ended_at >= ?) GROUP BY state",
                    (ended_since,),
                )
            )

    def past(self, since: Sequence[Timestamp], active: Sequence[tuple[JobId, Timestamp]]) -> list[Past]:
        """Return what happened since each moment. `active` are jobs that run, in their first attempt, since when."""
        with told(self._path):
            return [past(self._db, each, [job for job, at in active if at >= each]) for each in since]

    def spent(self, by: str, since: Timestamp) -> list[Spent]:
        """Return what GPUs were used for since then: see `spending`."""
        with told(self._path):
            return spent(self._db, by, since)

    def begun_at(self) -> Timestamp | None:
        """Return when the history begins."""
        with told(self._path):
            return begun_at(self._db)

    def holders(self, keys: Sequence[tuple[int, str, str]]) -> Holders:
        """Return, by whose key of which group it is, the job that has completed under it or (None) has not ended."""
        with told(self._path):
            return holders_of(self._db, keys)

    def completed(self, uid: int, group: str, key: str) -> tuple[JobId, IndexSet] | None:
        """Return the newest array that had a key, and which elements have completed in any of them."""
        with told(self._path):
            return completed(self._db, uid, group, key)

    def groups(self, name: str | None, since: Timestamp) -> list[GroupRow]:
        """Return a group by its name, or those of which something has not ended, or has since then."""
        with told(self._path):
            return groups(self._db, name, since)

    def environments(self, jobs: Sequence[JobId]) -> dict[JobId, bytes]:
        """Return the variables that jobs were submitted with, as JSON, where they are kept still."""
        with told(self._path):
            select = (
                "SELECT job.id, data FROM job JOIN environment ON environment.hash = job.environment"
                " WHERE job.id IN (SELECT value FROM json_each(?))"
            )
            return dict(self._db.execute(select, (to_json(list(jobs)),)))

    def _found(self, query: JobQuery) -> tuple[list[JobId], int]:
        found: dict[JobId, int] = {}
        for rank, sources in enumerate(_sources(query)):
            for select, values in sources:
                limited = f"{select} ORDER BY job.id DESC LIMIT ?"
                for (job,) in self._db.execute(limited, (*values, query.limit + MORE_MAX)):
                    found.setdefault(job, rank)
        kept = sorted(found, key=lambda job: (found[job], -job))[: query.limit]
        return kept, min(len(found) - len(kept), MORE_MAX)

    def _row(self, columns: Columns) -> JobRow:
        job, state, reason, terms, name, command, workdir, labels, output, error = columns[:10]
        begin_at, submitted_at, updated_at, ended_at, array, after, group, key, terminal = columns[10:19]
        return JobRow(
            job=job,
            state=state,
            reason=reason,
            terms=self._terms_of(terms),
            place=decode_place(columns[19:28]),
            name=name,
            command=tuple(json.loads(command)),
            workdir=workdir,
            labels=json.loads(labels) if labels else {},
            output=output,
            error=error,
            begin_at=begin_at,
            submitted_at=submitted_at,
            updated_at=updated_at,
            ended_at=ended_at,
            array=None if array is None else decode_indices(array),
            array_state=decode_array(columns[28:33]),
            run=decode_attempt(job, columns[33:]),
            after=decode_after(after),
            group=group,
            key=key,
            terminal=terminal is not None,
        )

    def _terms_of(self, row: int) -> Terms:
        if row not in self._terms:
            if len(self._terms) >= _TERMS_REMEMBERED:
                self._terms.clear()
            (body,) = self._db.execute("SELECT body FROM terms WHERE id = ?", (row,)).fetchone()
            self._terms[row] = decode_terms(body)
        return self._terms[row]


Source = tuple[str, tuple[object, ...]]


def _sources(query: JobQuery) -> list[list[Source]]:
    """Return the selects that a listing is the union of, each along an index that has its order; what counts first."""
    unfinished = "job INDEXED BY job_unfinished WHERE ended_at IS NULL"
    if query.spans is not None:
        spans = (to_json(query.spans),)
        return [
            [_narrowed(f"json_each(?) AS span CROSS JOIN {unfinished} AND job.id {_NAMED}", spans, query)],
            [_narrowed(f"json_each(?) AS span CROSS JOIN job NOT INDEXED WHERE job.id {_NAMED}", spans, query)],
        ]
    sources = []
    if query.group is not None:
        return _of_group(query)
    if not query.states or query.states - _ENDS:
        first = "json_each(?) AS first CROSS JOIN job NOT INDEXED WHERE job.id = first.value AND ended_at IS NULL"
        sources.append([_narrowed(first, (to_json(query.first),), query)])
        sources.append([_narrowed(unfinished, (), query)])
    if query.states and not query.states & _ENDS:
        return sources
    if query.ended:
        sources.append(_all_ended(query))
    elif query.own is not None:
        user, since = query.own
        own = "job INDEXED BY job_ended WHERE ended_at >= ? AND user = CAST(? AS TEXT)"
        sources.append([_narrowed(own, (since, text(user)), query)])
    return sources


def _of_group(query: JobQuery) -> list[list[Source]]:
    """Return the selects of a group's jobs: those that have not ended, and of those that have what is asked for."""
    named = "job INDEXED BY job_group WHERE group_name IS NOT NULL AND group_name = CAST(? AS TEXT)"
    sources = [[_narrowed(f"{named} AND ended_at IS NULL", (text(query.group),), query)]]
    if query.ended:
        sources.append([_narrowed(f"{named} AND ended_at IS NOT NULL", (text(query.group),), query)])
    elif query.own is not None:
        user, since = query.own
        own = f"{named} AND ended_at >= ? AND user = CAST(? AS TEXT)"
        sources.append([_narrowed(own, (text(query.group), since, text(user)), query)])
    return sources


def _all_ended(query: JobQuery) -> list[Source]:
    if query.since is not None:
        return [_narrowed("job INDEXED BY job_ended WHERE ended_at >= ?", (query.since,), query)]
    if query.user is not None:
        return [_narrowed("job INDEXED BY job_owner WHERE ended_at IS NOT NULL", (), query)]
    return [
        _narrowed("job INDEXED BY job_outcome WHERE ended_at IS NOT NULL AND state = ?", (end.value,), query)
        for end in End
        if not query.states or end in query.states
    ]


def _narrowed(source: str, values: tuple[object, ...], query: JobQuery) -> Source:
    select = f"SELECT job.id FROM {source}"  # noqa: S608 - constants
    for column, word in (("user", query.user), ("group_name", query.group), ("name", query.name)):
        if word is not None:
            select, values = f"{select} AND job.{column} = CAST(? AS TEXT)", (*values, text(word))
    if query.states:
        marks = ", ".join("?" * len(query.states))
        select, values = f"{select} AND job.state IN ({marks})", (*values, *sorted(query.states))
    if query.shown:
        select += " AND (job.pending IS NULL OR job.pending != '' OR job.dropped != '')"
    for key, value in query.labels:
        label = "SELECT 1 FROM json_each(job.labels) AS label WHERE label.key = CAST(? AS TEXT)"
        values = (*values, text(key))
        if value is not None:
            label, values = f"{label} AND label.value = CAST(? AS TEXT)", (*values, text(value))
        select = f"{select} AND EXISTS ({label})"
    if query.since is not None:
        select, values = f"{select} AND job.updated_at >= ?", (*values, query.since)
    return select, values
