"""Reading back what deciding and launching need. History is reached only through an id; starts never scan it."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpud.model.changes import UsePut
from gpud.model.gpu import Gpu, GpuId, Node, NodeName
from gpud.model.job import End, JobId, array_of, index_of, number_of
from gpud.model.spec import JobSpec, LoadedJob, Terms
from gpud.model.units import Mib, Seconds, Timestamp
from gpud.store.coding import CURRENT, LOADED, SPEC, decode_indices, decode_loaded, decode_spec, decode_terms, to_json
from gpud.store.files import FIRST_NUMBER
from gpud.store.rows import Loaded

_PLAIN = "state = 'queued' AND attempt = 1 AND failures = 0 AND park IS NULL AND not_before IS NULL AND live IS NULL"
_UNFINISHED = "FROM job INDEXED BY job_unfinished WHERE ended_at IS NULL"
_SPEC = f"""SELECT terms.body, {SPEC} FROM job JOIN terms ON terms.id = job.terms
    LEFT JOIN environment ON environment.hash = job.environment LEFT JOIN script ON script.hash = job.script
    WHERE job.id = ?"""  # noqa: S608 - constants

_GROUPED = """SELECT id, uid, group_name, key FROM job INDEXED BY job_grouped
    WHERE group_name IS NOT NULL AND ended_at IS NULL ORDER BY id"""
_ACCOUNTS = "SELECT tenant, user, used_s, lifted_s, at FROM account ORDER BY tenant, user"
RUNS = 10_000  # jobs that ended last: enough to know the habits of those who are here
_RUNS = """SELECT terms.id, terms.body, attempt.ended_at - attempt.started_at,
        ended.state IN ('completed', 'timed_out')
    FROM (SELECT id, ended_at, state FROM job INDEXED BY job_ended WHERE ended_at IS NOT NULL
        ORDER BY ended_at DESC LIMIT ?) AS ended
    JOIN job ON job.id = ended.id
    JOIN attempt ON attempt.job = job.id AND attempt.attempt = job.attempt
    JOIN terms ON terms.id = job.terms
    WHERE attempt.ended_at > attempt.started_at
    ORDER BY ended.ended_at DESC"""


def load(connection: sqlite3.Connection, runs: int = RUNS) -> Loaded:
    """Return everything that has not ended, as of one moment, and what was learnt of so many that ended last."""
    connection.execute("BEGIN")
    try:
        terms = _terms_of_unfinished(connection)
        waiting = [
            (job, terms[row], priority, queued_us)
            for job, row, priority, queued_us in connection.execute(
                f"SELECT id, terms, priority, queued_us {_UNFINISHED} AND {_PLAIN} ORDER BY id"
            )
        ]
        others = connection.execute(
            f"SELECT {LOADED} FROM job {CURRENT} WHERE job.id IN"  # noqa: S608 - constants
            f" (SELECT id {_UNFINISHED} AND NOT ({_PLAIN})) ORDER BY job.id"
        )
        newest: int = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
        settings = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM setting")}
        rest = [decode_loaded(columns, terms[columns[1]]) for columns in others]
        ends = known_ends(connection, [each.job for job in rest if job.place.awaits for each in job.after])
        return Loaded(
            waiting=waiting,
            others=[_with_ends(job, ends) if job.place.awaits else job for job in rest],
            nodes=tuple(nodes(connection)),
            settings=settings,
            next_number=max(number_of(JobId(newest)) + 1, settings.get(FIRST_NUMBER, 1)),
            last_event=connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0],
            runs=_runs(connection, runs),
            grouped=[each for each in connection.execute(_GROUPED) if index_of(each[0]) is None],
            accounts=[UsePut(tenant, user or None, *rest) for tenant, user, *rest in connection.execute(_ACCOUNTS)],
        )
    finally:
        connection.execute("COMMIT")


def _runs(connection: sqlite3.Connection, most: int) -> list[tuple[Terms, Seconds, bool]]:
    known: dict[int, Terms] = {}
    runs = []
    for row, body, ran_s, own_end in connection.execute(_RUNS, (most,)):
        terms = known.get(row)
        if terms is None:
            terms = known[row] = decode_terms(body)
        runs.append((terms, ran_s, bool(own_end)))
    runs.reverse()
    return runs


def _terms_of_unfinished(connection: sqlite3.Connection) -> dict[int, Terms]:
    one: dict[Terms, Terms] = {}  # equal terms written by different gpuds are one object too
    found = {}
    bodies = f"SELECT id, body FROM terms WHERE id IN (SELECT terms {_UNFINISHED})"  # noqa: S608 - constants
    for row, body in connection.execute(bodies):
        terms = decode_terms(body)
        found[row] = one.setdefault(terms, terms)
    return found


def nodes(connection: sqlite3.Connection) -> Iterator[Node]:
    """Yield the nodes, with every GPU ever seen on them."""
    gpus: dict[str, list[Gpu]] = {}
    seen = connection.execute(
        "SELECT node, uuid, position, name, memory_total_mib, pci_id, simulated,"
        " nvlink, pcie, numa, mig, parent, split FROM gpu ORDER BY position, uuid"
    )
    for node, uuid, position, name, memory_total_mib, pci_id, simulated, nvlink, pcie, numa, mig, parent, split in seen:
        gpus.setdefault(node, []).append(
            Gpu(
                id=GpuId(uuid),
                index=position,
                name=name,
                memory_total_mib=Mib(memory_total_mib),
                pci_id=pci_id,
                simulated=bool(simulated),
                nvlink=nvlink,
                pcie=pcie,
                numa=numa,
                mig=mig,
                parent=parent,
                split=bool(split),
            )
        )
    for name, cpus, memory_mib, driver, problem in connection.execute(
        "SELECT name, cpus, memory_mib, driver, problem FROM node ORDER BY name"
    ):
        held = tuple(gpus.get(name, ()))
        yield Node(
            name=NodeName(name), cpus=cpus, memory_mib=Mib(memory_mib), gpus=held, driver=driver, problem=problem
        )


def specs(connection: sqlite3.Connection, jobs: Iterable[JobId]) -> tuple[JobSpec, ...]:
    """Return what each of these jobs was submitted with, in this order. Raises LookupError for one not there."""
    found = []
    for job in jobs:
        columns: Sequence[Any] | None = connection.execute(_SPEC, (job,)).fetchone()
        if columns is None:
            raise LookupError(job)
        spec = decode_spec(columns[1:], decode_terms(columns[0]))
        found.append(_of_array(connection, spec, job) if spec.sbatch and index_of(job) is not None else spec)
    return tuple(found)


def _of_array(connection: sqlite3.Connection, spec: JobSpec, job: JobId) -> JobSpec:
    """Return the spec of an element with the indices of its array, of which Slurm's scripts are told."""
    columns = connection.execute("SELECT array FROM job WHERE id = ?", (array_of(job),)).fetchone()
    return spec if columns is None or columns[0] is None else replace(spec, array=decode_indices(columns[0]))


def known_nonces(connection: sqlite3.Connection, nonces: Sequence[str]) -> dict[str, JobId]:
    """Return the jobs that were submitted with these nonces; those that are not known are left out."""
    return dict(
        connection.execute(
            "SELECT nonce, id FROM job INDEXED BY job_nonce WHERE nonce IN (SELECT value FROM json_each(?))"
            " AND nonce IS NOT NULL",
            (to_json(list(nonces)),),
        )
    )


def known_ends(connection: sqlite3.Connection, jobs: Iterable[JobId]) -> dict[JobId, End]:
    """Return how those of these jobs, elements and arrays ended that have."""
    wanted = set(jobs)
    if not wanted:
        return {}
    keys = to_json(sorted({*wanted, *map(array_of, wanted)}))
    ends: dict[JobId, End] = {}
    dropped: dict[JobId, str] = {}
    rows = connection.execute(
        "SELECT id, state, dropped, ended_at FROM job WHERE id IN (SELECT value FROM json_each(?))", (keys,)
    )
    for job, state, never_started, ended_at in rows:
        if ended_at is not None:
            ends[job] = End(state)
        if never_started:
            dropped[job] = never_started
    for job in wanted - ends.keys():
        index = index_of(job)
        if index is not None and index in decode_indices(dropped.get(array_of(job), "")):
            ends[job] = End.CANCELLED
    return {job: end for job, end in ends.items() if job in wanted}


def _with_ends(job: LoadedJob, ends: Mapping[JobId, End]) -> LoadedJob:
    return replace(job, ends=tuple((each.job, ends[each.job]) for each in job.after if each.job in ends))


def stored(connection: sqlite3.Connection, jobs: Iterable[JobId]) -> dict[JobId, LoadedJob]:
    """Return those of these jobs, elements and arrays that there are, whatever became of them."""
    rows = connection.execute(
        f"SELECT {LOADED}, terms.body FROM job {CURRENT} JOIN terms ON terms.id = job.terms"  # noqa: S608 - constants
        " WHERE job.id IN (SELECT value FROM json_each(?))",
        (to_json(sorted(jobs)),),
    )
    return {columns[0]: decode_loaded(columns, decode_terms(columns[-1])) for columns in rows}


def finished(connection: sqlite3.Connection, jobs: Sequence[JobId]) -> dict[JobId, LoadedJob | None]:
    """Return those of these jobs that ended, for a requeue; None for one whose environment is not kept any more.

    An element comes with the state of its array, which may have ended too. One that was cancelled before it started
    has no row: it comes with its array's place. What a place says of time is what was asked for at the submit.
    """
    arrays = {array_of(job) for job in jobs}
    rows = connection.execute(
        f"SELECT {LOADED}, json_extract(job.submitted, '$.begin_at'), terms.body, job.environment IS NULL OR EXISTS"  # noqa: S608 - constants
        " (SELECT 1 FROM environment WHERE environment.hash = job.environment)"
        f" FROM job {CURRENT} JOIN terms ON terms.id = job.terms"
        " WHERE job.id IN (SELECT value FROM json_each(?))",
        (to_json(sorted({*jobs, *arrays})),),
    )
    known = {
        columns[0]: (_begins(decode_loaded(columns, decode_terms(columns[-2])), columns[-3]), columns[-1])
        for columns in rows
    }
    found: dict[JobId, LoadedJob | None] = {}
    for job in jobs:
        index, (array, kept) = index_of(job), known.get(array_of(job), (None, False))
        state = None if array is None else array.array
        loaded, kept = known.get(job, (None, kept))
        if loaded is None and array is not None and state is not None and index is not None and index in state.dropped:
            loaded = replace(array, job=job, end=End.CANCELLED)
        if loaded is not None and loaded.end is not None:
            of = None if array is None or array.job == job else array.terms
            key = loaded.key if array is None else array.key
            found[job] = replace(loaded, array=state, array_terms=of, key=key) if kept else None
    ends = known_ends(connection, [each.job for loaded in found.values() if loaded for each in loaded.after])
    keys = {(each.terms.uid, each.group, each.key) for each in found.values() if each and each.group and each.key}
    holders = holders_of(connection, [(uid, str(group), str(key)) for uid, group, key in keys])
    return {job: loaded and _with_rival(_with_ends(loaded, ends), holders) for job, loaded in found.items()}


Holders = dict[tuple[int, str, str], tuple[JobId, End | None]]


def holders_of(connection: sqlite3.Connection, keys: Sequence[tuple[int, str, str]]) -> Holders:
    """Return, by whose key of which group it is, the job that has completed under it or (None) has not ended."""
    rows = connection.execute(
        "SELECT uid, group_name, job.key, job.id, state, ended_at FROM json_each(?) AS asked CROSS JOIN job"
        " INDEXED BY job_key WHERE uid = json_extract(asked.value, '$[0]')"
        " AND group_name = json_extract(asked.value, '$[1]') AND job.key = json_extract(asked.value, '$[2]')"
        " AND job.key IS NOT NULL AND (ended_at IS NULL OR state = 'completed')",
        (to_json([list(key) for key in keys]),),
    )
    return {
        (uid, group, key): (job, None if ended_at is None else End(state))
        for uid, group, key, job, state, ended_at in rows
    }


def _with_rival(job: LoadedJob, holders: Holders) -> LoadedJob:
    holder = holders.get((job.terms.uid, job.group or "", job.key or ""))
    return job if holder is None or holder[0] in {job.job, array_of(job.job)} else replace(job, rival=holder[0])


def _begins(job: LoadedJob, begin_at: Timestamp | None) -> LoadedJob:
    return replace(job, place=replace(job.place, not_before=begin_at))
