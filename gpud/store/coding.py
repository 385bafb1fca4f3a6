"""Values to columns and back.

JSON leaves out what has its default, so that a field which a later gpud adds does not make old terms look new. Any
string can be stored, half a UTF-8 sequence in a directory's name included: see `text`.
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

from gpud.model.array import IndexSet, parse_indices
from gpud.model.gpu import Allocation, NodeName, ProcessIdentity, Share
from gpud.model.job import (
    Active,
    Demand,
    End,
    Exit,
    Fault,
    JobId,
    Running,
    Starting,
    StopCause,
    Stopping,
)
from gpud.model.spec import (
    ArrayState,
    Dependency,
    JobSpec,
    LoadedJob,
    Park,
    Place,
    Rewrite,
    Terms,
    When,
    name_group,
)
from gpud.model.units import Mib, Timestamp
from gpud.model.use import GpuUse
from gpud.store.rows import AttemptRow

Columns = Sequence[Any]  # what SQLite gives: its types are the schema's word

_SUBMITTED = ("gid", "groups", "umask", "limits", "priority", "hold", "begin_at", "throttle")
_COMFORTS = (
    *("checkpoint_signal", "checkpoint_every_s", "checkpoint_before_s", "checkpoint_to"),
    *("terminal", "unattended_s"),
    *("notify", "commit", "dirty", "sbatch", "mount"),
)
_PLAIN = {field.name: field.default for field in fields(JobSpec) if field.name in _COMFORTS}
_USE = tuple(field.name for field in fields(GpuUse))
_ENDS = frozenset(End)

PLACE = (
    "job.priority, job.queued_us, job.attempt, job.failures, job.park, job.not_before, job.mishaps, job.attained_s,"
    " job.awaits"
)
ARRAY = "job.live, job.pending, job.throttle, job.dropped, job.counts"
ATTEMPT = (
    "attempt.attempt, attempt.starting_at, attempt.since, attempt.started_at, attempt.boot, attempt.allocation,"
    " attempt.pid, attempt.pid_start, attempt.shim, attempt.shim_start, attempt.cause, attempt.kill_at,"
    " attempt.ended_at, attempt.exit_code, attempt.signal, attempt.fault, attempt.fault_machine,"
    " attempt.fault_not_found, attempt.lost, attempt.timed_out, attempt.cpu_s, attempt.max_rss_mib, attempt.leftovers,"
    " attempt.finding, attempt.stuck, attempt.peak_mib, attempt.gpu_s, attempt.gpu_uses"
)
SPEC = (
    "job.nonce, job.name, job.command, job.workdir, job.labels, job.output, job.error, job.array,"
    " job.after, job.group_name, job.key, job.submitted, environment.data, script.data"
)
CURRENT = "LEFT JOIN attempt ON attempt.job = job.id AND attempt.attempt = job.attempt"
LOADED = f"job.id, job.terms, job.state, {PLACE}, {ARRAY}, job.after, job.group_name, job.key, {ATTEMPT}"


def text(value: str | None) -> str | bytes | None:
    """Return a value to bind to `CAST(? AS TEXT)`: sqlite3 refuses lone surrogates, bytes pass."""
    return value if value is None or value.isascii() else value.encode("utf-8", "surrogatepass")


def to_json(value: object) -> str:
    """Return compact JSON; ASCII, so that lone surrogates live through it."""
    return _ENCODE(value)


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def encode_terms(terms: Terms) -> str:
    """Return terms as JSON; equal terms have equal JSON (60 seconds are 60.0)."""
    return to_json({**_said(terms), "demand": _said(terms.demand)})


def decode_terms(body: str) -> Terms:
    """Return what `encode_terms` was given."""
    said = json.loads(body)
    demand: dict[str, Any] = said.pop("demand")
    if "time_limit_s" in demand:  # where the first release wrote it
        said["time_limit_s"] = demand.pop("time_limit_s")
    return Terms(demand=Demand(**_tuples(demand)), **_tuples(said))


def _tuples(said: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def _tuple(value: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuple(each) if isinstance(each, list) else each for each in value)


def _said(value: Terms | Demand) -> dict[str, object]:
    said = {}
    for field in fields(value):
        member = getattr(value, field.name)
        if field.default is MISSING or member != field.default:
            said[field.name] = float(member) if type(member) is int and field.name.endswith("_s") else member
    return said


def encode_submitted(spec: JobSpec) -> str:
    """Return what of a spec is read only to start it, as JSON."""
    said = {name: getattr(spec, name) for name in _SUBMITTED}
    return to_json(said | {name: each for name, plain in _PLAIN.items() if (each := getattr(spec, name)) != plain})


def encode_rewrite(rewrite: Rewrite) -> tuple[object, ...]:
    """Return what is new of a job's row, None for what stays, in the order in which the store writes it."""
    name = rewrite.name
    return (
        text(name),
        None if name is None else text(name_group(name)),
        text(rewrite.workdir),
        text(rewrite.output),
        text(rewrite.error),
        to_json(dict(rewrite.labels)) if rewrite.labels else None,
        to_json(dict(rewrite.submitted)),
        text(rewrite.group),
        text(rewrite.key),
        rewrite.after is not None,
        encode_after(rewrite.after or ()),
    )


def decode_spec(columns: Columns, terms: Terms) -> JobSpec:
    """Return the spec of the columns `SPEC`."""
    nonce, name, command, workdir, labels, output, error, array, after, *rest_of = columns
    group, key, submitted, environment, script = rest_of
    rest = _tuples(json.loads(submitted))
    rest["limits"] = {limit: (soft, hard) for limit, (soft, hard) in rest["limits"].items()}
    return JobSpec(
        nonce=nonce or "",
        terms=terms,
        name=name,
        command=tuple(json.loads(command)),
        workdir=workdir,
        environment=environment or b"",
        script=script,
        output=output,
        error=error,
        labels=json.loads(labels) if labels else {},
        array=None if array is None else decode_indices(array),
        after=decode_after(after),
        group=group,
        key=key,
        **rest,
    )


def encode_after(after: Sequence[Dependency]) -> str | None:
    """Return what a job waits for as JSON, None where that is nothing."""
    return to_json([[each.job, each.when] for each in after]) if after else None


def decode_after(body: str | None) -> tuple[Dependency, ...]:
    """Return what `encode_after` was given."""
    return () if body is None else tuple(Dependency(JobId(job), When(when)) for job, when in json.loads(body))


def encode_allocation(allocation: Allocation) -> str:
    """Return a list: a gang's is longer than one."""
    return to_json(
        [
            {
                "node": part.node,
                "shares": [_said_of(share) for share in part.shares],
                "cpus": part.cpus,
                "memory_mib": part.memory_mib,
            }
            for part in allocation.parts
        ]
    )


def _said_of(share: Share) -> dict[str, object]:
    said: dict[str, object] = {"gpu": share.gpu, "memory_mib": share.memory_mib}
    return said if share.milli is None else said | {"milli": share.milli}


def decode_allocation(body: str) -> tuple[Allocation, ...]:
    """Return the allocation on each node."""
    return tuple(
        Allocation(
            node=NodeName(part["node"]),
            shares=tuple(
                Share(gpu=each["gpu"], memory_mib=each["memory_mib"], milli=each.get("milli"))
                for each in part["shares"]
            ),
            cpus=part["cpus"],
            memory_mib=Mib(part["memory_mib"]),
        )
        for part in json.loads(body)
    )


def decode_indices(written: str) -> IndexSet:
    """Return the set that `str` wrote; an empty one has no written form that people could type."""
    return parse_indices(written) if written else IndexSet()


def decode_place(columns: Columns) -> Place:
    """Return the place of the columns `PLACE`."""
    priority, queued_us, attempt, failures, park, not_before, mishaps, attained_s, awaits = columns
    return Place(
        priority=priority,
        queued_us=queued_us,
        attempt=attempt,
        failures=failures,
        park=None if park is None else Park(park),
        not_before=not_before,
        mishaps=mishaps,
        attained_s=attained_s,
        awaits=bool(awaits),
    )


def encode_counts(array: ArrayState) -> str:
    """Return the counters by end as JSON."""
    return to_json(dict(array.counts))


def decode_array(columns: Columns) -> ArrayState | None:
    """Return the array of the columns `ARRAY`, None for what is no array's own row."""
    live, pending, throttle, dropped, counts = columns
    if live is None:
        return None
    return ArrayState(
        pending=decode_indices(pending),
        throttle=throttle,
        live=live,
        dropped=decode_indices(dropped),
        counts=tuple((End(word), count) for word, count in json.loads(counts).items()),
    )


def _process(pid: int | None, start: int | None) -> ProcessIdentity | None:
    return None if pid is None or start is None else ProcessIdentity(pid, start)


def decode_active(state: str, columns: Columns) -> Active | None:
    """Return what a job of this state holds, given the columns `ATTEMPT`; None unless it is active."""
    if state not in {"starting", "running", "stopping"} or columns[0] is None:
        return None
    _, _, since, started, boot, held, pid, pid_start, shim_pid, shim_start, cause, kill_at = columns[:12]
    first, *rest = decode_allocation(held)
    allocation = replace(first, rest=tuple(rest))
    process, shim = _process(pid, pid_start), _process(shim_pid, shim_start)
    if state == "stopping":
        return Stopping(since, allocation, boot, StopCause(cause), Timestamp(kill_at), started, process, shim)
    if state == "running" and process and shim:
        return Running(since, allocation, boot, process, shim)
    return Starting(since, allocation, boot)


def decode_loaded(columns: Columns, terms: Terms) -> LoadedJob:
    """Return the job of the columns `LOADED`."""
    job, _, state = columns[:3]
    array = decode_array(columns[12:17])
    return LoadedJob(
        job=JobId(job),
        terms=terms,
        place=decode_place(columns[3:12]),
        active=None if array else decode_active(state, columns[20:]),
        array=array,
        end=End(state) if state in _ENDS else None,
        after=decode_after(columns[17]),
        group=columns[18],
        key=columns[19],
    )


def decode_attempt(job: JobId, columns: Columns) -> AttemptRow | None:
    """Return the attempt of the columns `ATTEMPT`, None where there is none."""
    if columns[0] is None:
        return None
    attempt, starting_at, _, started_at, boot, held, pid, pid_start, shim_pid, shim_start, cause, kill_at = columns[:12]
    return AttemptRow(
        job=job,
        attempt=attempt,
        starting_at=starting_at,
        started_at=started_at,
        boot=boot,
        allocation=decode_allocation(held),
        process=_process(pid, pid_start),
        shim=_process(shim_pid, shim_start),
        cause=None if cause is None else StopCause(cause),
        kill_at=kill_at,
        exit=_decode_exit(columns[12:26]),
        gpu_s=columns[26],
        uses=decode_uses(columns[27]),
    )


def encode_uses(uses: Sequence[GpuUse]) -> str | None:
    """Return what was seen of GPUs as JSON, None where that is nothing."""
    return to_json([{name: _short(getattr(use, name)) for name in _USE} for use in uses]) if uses else None


def decode_uses(body: str | None) -> tuple[GpuUse, ...]:
    """Return what `encode_uses` was given, seconds and joules to a thousandth."""
    known = [] if body is None else json.loads(body)
    return tuple(GpuUse(**{name: value for name, value in use.items() if name in _USE}) for use in known)


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def encode_exit(ended: Exit) -> tuple[object, ...]:
    """Return the columns of `ATTEMPT` from `ended_at` to `peak_mib`."""
    fault = ended.fault
    return (
        ended.at,
        ended.exit_code,
        ended.signal,
        None if fault is None else text(fault.reason),
        None if fault is None else fault.machine,
        None if fault is None else fault.not_found,
        text(ended.lost),
        ended.timed_out,
        ended.cpu_s,
        ended.max_rss_mib,
        ended.leftovers,
        text(ended.finding),
        ended.stuck,
        ended.peak_mib,
    )


def _decode_exit(columns: Columns) -> Exit | None:
    at, code, signal, reason, machine, not_found, lost, timed_out, cpu_s, rss, leftovers, finding, stuck, peak = columns
    if at is None:
        return None
    return Exit(
        at=at,
        exit_code=code,
        signal=signal,
        fault=None if reason is None else Fault(reason, bool(machine), bool(not_found)),
        lost=lost,
        timed_out=bool(timed_out),
        cpu_s=cpu_s,
        max_rss_mib=rss,
        peak_mib=peak,
        leftovers=leftovers,
        finding=finding,
        stuck=bool(stuck),
    )
