"""What people see of jobs: rows of the store and the world, made into the protocol's maps. GPUs: `gpus`.

A view computes nothing that the scheduler did not decide. What is not known is None, never a guess.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

from gpud.core.forecast import Forecast
from gpud.core.queue import job_of
from gpud.core.waits import Next, Wait
from gpud.core.why import why
from gpud.core.world import World
from gpud.launchers.logs import log_path
from gpud.model.gpu import Allocation, GpuId
from gpud.model.job import End, JobId, Stopping, format_job, index_of
from gpud.model.spec import Dependency, When
from gpud.model.units import Timestamp
from gpud.orders import default_log, progress_file, terminal_path
from gpud.store.rows import AttemptRow, Event, GroupRow, JobRow
from gpud.views.elements import elements_by_state
from gpud.views.forecasting import group_end, outlook
from gpud.views.reasons import in_a_sentence
from gpud.wire.changes import Group
from gpud.wire.messages import Event as EventMap, Job

COMMAND_MOST = 1_000  # characters
POSITIONS_MOST = 50_000  # beyond that, sorting everybody for a listing would hold up the loop


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What everybody may see of anybody's job, its attempts and its events; whatever else there is, is its owner's alone.
OF_OTHERS = _keys(
    "id uid name user tenant group state reason priority gpus gpu_memory_mib gpu_type gpu_ids excluded share mig nodes "
    "pool cpus memory_mib array_index attempt retries retry_on preemptible after time_limit_s estimate_s submitted_at "
    "begin_at started_at ended_at updated_at expected_start_at exit_code signal allocation queue_position claim "
    "array_limit array array_pending array_counts expected_start_unknown"
)
OF_OTHERS_ATTEMPTS = _keys(
    "attempt starting_at started_at ended_at exit_code signal timed_out could_not_start stop_cause gpu_s allocation"
)
OF_OTHERS_EVENTS = _keys("name array priority not_before node nodes gpus cause by exit_code signal counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who looks. `private`: sees what belongs to others too (their own gpud's user, or an admin)."""

    uid: int
    private: bool

    def may_read(self, row: JobRow) -> bool:
        """Return whether all that is known of this job may leave the daemon for them; else what `OF_OTHERS` names."""
        return self.owns(row.terms.uid)

    def owns(self, uid: int | None) -> bool:
        """Return whether what is this user's is theirs to see."""
        return self.private or uid == self.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The world at one moment, what is expected of it if that is known, and where a user's default logs are."""

    world: World
    now: Timestamp
    log_dir: Callable[[int], str]
    forecast: Forecast | None = None


def positions(world: World) -> dict[JobId, int] | None:
    """Return everybody's place in the queue, from 1; None where there are too many to count for a listing."""
    if len(world.queue) > POSITIONS_MOST:
        return None
    return {job_of(entry): place for place, (_, entry) in enumerate(sorted(world.queue.standing()), 1)}


def waits(scene: Scene, row: JobRow) -> Wait | None:
    """Return why a job waits, if it does so by its row: the world may be a commit ahead of what is durable."""
    if row.array is None and row.state not in ("held", "queued"):
        return None
    wait = why(scene.world, row.job, scene.now)
    return wait if row.array is not None or wait is not None else Next()


def job_map(scene: Scene, row: JobRow, viewer: Viewer, place: int | None) -> Job:
    """Return a job as the protocol's page says."""
    world, demand, wait = scene.world, row.terms.demand, waits(scene, row)
    expected_at, unknown = outlook(scene.forecast, row.job, wait, scene.now)
    run, ended, over = row.run, row.ended_at is not None, None if row.run is None else row.run.exit
    shown, started_at = viewer.may_read(row), None if run is None else _started_at(run)
    output, error = _paths(scene, row) if shown and (started_at is not None or not ended) else (None, None)
    job: Job = {
        "id": format_job(row.job),
        "uid": row.terms.uid,
        "name": row.name,
        "user": row.terms.user,
        "tenant": row.terms.tenant,
        "group": row.group,
        "key": row.key,
        "labels": row.labels,
        "state": row.state,
        "reason": _reason(scene, row, wait, shown=shown) if not ended else row.reason if shown else None,
        "priority": row.place.priority,
        "command": list(row.command) if shown else None,
        "workdir": row.workdir if shown else None,
        "gpus": demand.gpus if demand.share_permille is None else demand.gpu_weight,
        "gpu_memory_mib": demand.gpu_memory_mib if demand.share_mib is None else demand.share_mib,
        "gpu_type": demand.gpu_type,
        "gpu_ids": gpu_names(world, demand.gpu_ids),
        "excluded": [*gpu_names(world, demand.excluded_gpus), *demand.excluded_nodes],
        "share": demand.shared,
        "mig": demand.mig,
        "nodes": demand.nodes,
        "pool": demand.pool,
        "cpus": demand.cpus,
        "memory_mib": demand.memory_mib or None,
        "array_index": index_of(row.job),
        "attempt": row.place.attempt,
        "retries": row.terms.retries,
        "retry_on": list(row.terms.retry_on),
        "preemptible": row.terms.preemptible,
        "after": [_written_after(each) for each in row.after],
        "time_limit_s": row.terms.time_limit_s,
        "estimate_s": row.terms.estimate_s,
        "submitted_at": row.submitted_at,
        "begin_at": row.begin_at,
        "started_at": started_at,
        "ended_at": row.ended_at,
        "updated_at": row.updated_at,
        "expected_start_at": expected_at,
        "expected_start_unknown": unknown,
        "exit_code": None if over is None else over.exit_code,
        "signal": None if over is None else over.signal,
        "allocation": [_allocation(world, each) for each in (run.allocation if run is not None else ())],
        "output": output,
        "error": error,
        "progress_file": _progress_file(scene, row) if shown else None,
        "queue_position": place,
        "claim": row.terms.claim,
        "terminal": _terminal(scene, row) if shown and row.terminal and row.array is None else None,
        "array_limit": None,
    }
    _add_array(job, world, row)
    return job if shown else cast("Job", _without(dict(job), OF_OTHERS))


def _without(told: dict[str, object], public: frozenset[str]) -> dict[str, object]:
    """Return a map with what is not public left empty."""
    return {key: value if key in public else {} if isinstance(value, dict) else None for key, value in told.items()}


def _add_array(job: Job, world: World, row: JobRow) -> None:
    if row.array is not None and row.array_state is not None and index_of(row.job) is None:
        job["array"] = str(row.array)
        job["array_pending"] = str(row.array_state.pending)
        job["array_limit"] = row.array_state.throttle
        job["array_counts"] = elements_by_state(world, row.job, row.array_state)


def gpu_names(world: World, gpus: Iterable[GpuId]) -> list[str]:
    """Return GPUs by node and number; those that are not there any more by UUID."""
    return [f"{world.gpus[gpu].node}:{world.gpus[gpu].gpu.index}" if gpu in world.gpus else gpu for gpu in gpus]


def _written_after(dependency: Dependency) -> str:
    """Return a dependency as the command line has it: `12`, `any:12`."""
    job = format_job(dependency.job)
    return job if dependency.when is When.SUCCESS else f"{dependency.when}:{job}"


def _started_at(attempt: AttemptRow) -> Timestamp | None:
    """Return since when an attempt ran: where its program could not be started, it never did."""
    could_not = attempt.exit is not None and attempt.exit.fault is not None
    return None if could_not else attempt.started_at


def row_map(scene: Scene, row: JobRow, viewer: Viewer, place: int | None) -> Job:
    """Return a job as `job_map` does, for a listing: of a long command its beginning."""
    job = job_map(scene, row, viewer, place)
    command = job["command"]
    if command is not None and sum(map(len, command)) > COMMAND_MOST:
        ends = accumulate(map(len, command))
        job["command"] = [word for word, end in zip(command, ends, strict=True) if end <= COMMAND_MOST] + ["..."]
    return job


def attempt_map(scene: Scene, row: JobRow, attempt: AttemptRow, viewer: Viewer) -> dict[str, object]:
    """Return one attempt, for `show`."""
    over = attempt.exit
    reason = None
    if over is not None:
        reason = over.lost or (over.fault.reason if over.fault is not None else over.finding)
    told: dict[str, object] = {
        "attempt": attempt.attempt,
        "starting_at": attempt.starting_at,
        "started_at": _started_at(attempt),
        "ended_at": None if over is None else over.at,
        "exit_code": None if over is None else over.exit_code,
        "signal": None if over is None else over.signal,
        "timed_out": over is not None and over.timed_out,
        "could_not_start": over is not None and over.fault is not None,
        "reason": reason,
        "stop_cause": None if attempt.cause is None else attempt.cause.value,
        "cpu_s": None if over is None else over.cpu_s,
        "max_rss_mib": None if over is None else over.max_rss_mib,
        "peak_mib": None if over is None else over.peak_mib,
        "gpu_s": attempt.gpu_s,
        "leftovers": None if over is None else over.leftovers,
        "pid": None if attempt.process is None else attempt.process.pid,
        "allocation": [_allocation(scene.world, each) for each in attempt.allocation],
        "output": _output(scene, row, attempt.attempt),
    }
    return told if viewer.may_read(row) else _without(told, OF_OTHERS_ATTEMPTS)


def event_map(event: Event, viewer: Viewer) -> EventMap:
    """Return an event as it is pushed and listed."""
    detail = event.detail
    if event.job is not None and not viewer.owns(event.uid):
        detail = {key: value for key, value in detail.items() if key in OF_OTHERS_EVENTS}
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "job": None if event.job is None else format_job(event.job),
        "attempt": event.attempt,
        "user": event.user,
        "detail": detail,
    }


def _reason(scene: Scene, row: JobRow, wait: Wait | None, *, shown: bool) -> str | None:
    if wait is not None:
        last = row.reason if shown else None
        return in_a_sentence(scene.world, row.job, wait, scene.now, last, forecast=scene.forecast)
    active = scene.world.active.get(row.job)
    if active is not None and isinstance(active.state, Stopping):
        return f"being stopped: {active.state.cause.value.replace('_', ' ')}"
    _, said = scene.world.care.over.get(row.job, (None, None))
    return said if shown else None


def _paths(scene: Scene, row: JobRow) -> tuple[str | None, str | None]:
    """Return where output and errors go; of an array, whose elements each have their own, nothing."""
    if row.array is not None:
        return None, None
    error = None
    if row.error is not None:
        error = log_path(row.error, job=row.job, name=row.name, workdir=row.workdir)
    return _output(scene, row, row.place.attempt), error


def _output(scene: Scene, row: JobRow, attempt: int) -> str:
    if row.output is not None:
        return log_path(row.output, job=row.job, name=row.name, workdir=row.workdir)
    return default_log(scene.log_dir(row.terms.uid), row.job, attempt)


def _terminal(scene: Scene, row: JobRow) -> str | None:
    """Return where the terminal of a job's attempt is attached to, which may not have started; None once it is over."""
    if row.ended_at is not None:
        return None
    return terminal_path(scene.log_dir(row.terms.uid), f"{format_job(row.job)}.{row.place.attempt}")


def _progress_file(scene: Scene, row: JobRow) -> str | None:
    """Return where a job that runs may tell how far it is; gpuctl reads it, as the user."""
    if row.state not in {"running", "stopping"} or row.array is not None:
        return None
    return progress_file(scene.log_dir(row.terms.uid), f"{format_job(row.job)}.{row.place.attempt}")


def _allocation(world: World, allocation: Allocation) -> dict[str, object]:
    known = [world.gpus.get(gpu) for gpu in allocation.gpus]
    return {
        "node": allocation.node,
        "gpu_uuids": list(allocation.gpus),
        "gpu_indices": [None if state is None else state.gpu.index for state in known],
        "cpus": allocation.cpus,
        "memory_mib": allocation.memory_mib,
    }


def group_map(scene: Scene, row: GroupRow) -> Group:
    """Return a group as the protocol's page says. When it ends is told from when one like it has: before, who knows."""
    ends = group_end(scene.world, scene.forecast, (row.uid, row.name)) if row.counts.get(End.COMPLETED) else None
    return {
        "name": row.name,
        "uid": row.uid,
        "user": row.user,
        "counts": row.counts,
        "total": sum(row.counts.values()),
        "done": sum(row.counts.get(end, 0) for end in End),
        "held": scene.world.groups.reason((row.uid, row.name)),
        "failed": None if row.failed is None else format_job(row.failed),
        "submitted_at": row.submitted_at,
        "ended_at": row.ended_at,
        "expected_end_at": None if ends is None else max(ends, scene.now),
    }
