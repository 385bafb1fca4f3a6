"""What people see: rows of the store and the world, made into the protocol's maps.

A view computes nothing that the scheduler did not decide. What is not known is None, never a guess.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from gpud.core.condition import Condition, condition, occupants, surveyed
from gpud.core.fleet import GpuState, NodeState
from gpud.core.queue import job_of
from gpud.core.why import why
from gpud.core.world import World
from gpud.elements import elements_by_state
from gpud.launchers.logs import log_path
from gpud.model.gpu import Allocation, GpuId, GpuProcess, ProcessIdentity, Reading, Unreadable
from gpud.model.job import JobId, Running, Stopping, format_job, index_of
from gpud.model.spec import Dependency, When
from gpud.model.units import Timestamp
from gpud.reasons import in_words
from gpud.store.rows import AttemptRow, Event, JobRow
from gpud.wire.messages import Event as EventMap
from gpud.wire.messages import Job

COMMAND_MOST = 1_000  # characters
POSITIONS_MOST = 50_000  # beyond that, sorting everybody for a listing would hold up the loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who looks. `private`: sees what belongs to others too (their own gpud's user, or root)."""

    uid: int
    private: bool

    def may_read(self, row: JobRow) -> bool:
        """Return whether command line, directory and output of this job may leave the daemon for them."""
        return self.private or row.terms.uid == self.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The world at one moment, and the places that paths depend on. `log_dir` tells where a user's default logs are."""

    world: World
    now: Timestamp
    log_dir: Callable[[int], str]


def positions(world: World) -> dict[JobId, int] | None:
    """Return everybody's place in the queue, from 1; None where there are too many to count for a listing."""
    if len(world.queue) > POSITIONS_MOST:
        return None
    return {job_of(entry): place for place, (_, entry) in enumerate(sorted(world.queue.standing()), 1)}


def job_map(scene: Scene, row: JobRow, viewer: Viewer, place: int | None) -> Job:
    """Return a job as the protocol's page says."""
    world, demand, kept = scene.world, row.terms.demand, scene.world.reservations.get(row.job)
    run, ended = row.run, row.ended_at is not None
    over = None if run is None else run.exit
    shown = viewer.may_read(row)
    started_at = None if run is None else _started_at(run)
    output, error = _paths(scene, row) if shown and (started_at is not None or not ended) else (None, None)
    job: Job = {
        "id": format_job(row.job),
        "uid": row.terms.uid,
        "name": row.name,
        "user": row.terms.user,
        "tenant": row.terms.tenant,
        "group": None,
        "labels": row.labels,
        "state": row.state,
        "reason": row.reason if ended else _reason(scene, row),
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
        "expected_start_at": kept.at if kept is not None and not ended else None,
        "exit_code": None if over is None else over.exit_code,
        "signal": None if over is None else over.signal,
        "allocation": [_allocation(world, each) for each in (run.allocation if run is not None else ())],
        "output": output,
        "error": error,
        "queue_position": place,
        "array_limit": None,
    }
    if row.array is not None and row.array_state is not None and index_of(row.job) is None:
        job["array"] = str(row.array)
        job["array_pending"] = str(row.array_state.pending)
        job["array_limit"] = row.array_state.throttle
        job["array_counts"] = elements_by_state(world, row.job, row.array_state)
    return job


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
    return {
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
        "gpu_s": attempt.gpu_s,
        "leftovers": None if over is None else over.leftovers,
        "pid": None if attempt.process is None else attempt.process.pid,
        "allocation": [_allocation(scene.world, each) for each in attempt.allocation],
        "output": _output(scene, row, attempt.attempt) if viewer.may_read(row) else None,
    }


def event_map(event: Event) -> EventMap:
    """Return an event as it is pushed and listed."""
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "job": None if event.job is None else format_job(event.job),
        "attempt": event.attempt,
        "user": event.user,
        "detail": event.detail,
    }


def gpu_map(scene: Scene, state: GpuState, viewer: Viewer) -> dict[str, object]:
    """Return a GPU as the protocol's page says."""
    seen = state.seen
    reading = seen if isinstance(seen, Reading) else None
    now_is = condition(scene.world, state, scene.now)
    return {
        "index": None if now_is is Condition.LOST and not state.present else state.gpu.index,
        "uuid": state.gpu.id,
        "name": state.gpu.name,
        "node": state.node,
        "pci_id": state.gpu.pci_id,
        "memory_total_mib": state.gpu.memory_total_mib,
        "memory_used_mib": None if reading is None else reading.memory_used_mib,
        "memory_declared_mib": state.declared_mib if state.shared else None,
        "utilization_percent": None if reading is None else reading.utilization_percent,
        "temperature_c": None if reading is None else reading.temperature_c,
        "power_w": None if reading is None else reading.power_w,
        "health": {Condition.LOST: "lost", Condition.UNKNOWN: "unknown"}.get(
            now_is, "healthy" if _drained(scene.world, state) is None else "draining"
        ),
        "health_reason": health_reason(scene.world, state, now_is),
        "state": now_is.value,
        "simulated": state.gpu.simulated,
        **{key: getattr(state.gpu, key) for key in ("nvlink", "pcie", "numa", "mig", "parent")},
        "jobs": [format_job(job) for job in state.holders],
        "processes": [] if reading is None else _processes(scene.world, reading, viewer),
    }


def node_map(scene: Scene, state: NodeState) -> dict[str, object]:
    """Return a node as the protocol's page says."""
    free = [each for each in state.gpus if condition(scene.world, each, scene.now) is Condition.FREE]
    reason = (state.drained if state.drained is not None else state.node.problem) or None
    standing = "up" if state.drained is None else "draining"
    absent = "lost" if surveyed(scene.world) else "unknown"
    return {
        "name": state.node.name,
        "cpus": state.node.cpus,
        "cpus_used": state.cpus_used,
        "memory_mib": state.node.memory_mib,
        "memory_used_mib": state.memory_used_mib,
        "gpus": sum(not each.gpu.split for each in state.gpus),
        "gpus_free": len(free),
        "driver": state.node.driver,
        "state": standing if state.present else absent,
        "reason": reason,
        "simulated": bool(state.gpus) and all(each.gpu.simulated for each in state.gpus),
        "labels": dict(state.node.labels),
    }


def gpu_counts(scene: Scene) -> dict[str, int]:
    """Return how many GPUs are in each state."""
    counts: dict[str, int] = {}
    for state in scene.world.gpus.values():
        word = condition(scene.world, state, scene.now).value
        counts[word] = counts.get(word, 0) + 1
    return counts


def _reason(scene: Scene, row: JobRow) -> str | None:
    wait = why(scene.world, row.job, scene.now)
    if wait is not None:
        return in_words(scene.world, row.job, wait, scene.now)[1]
    active = scene.world.active.get(row.job)
    if active is not None and isinstance(active.state, Stopping):
        return f"being stopped: {active.state.cause.value.replace('_', ' ')}"
    return None


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


def default_log(log_dir: str, job: JobId, attempt: int) -> str:
    """Return where the output of an attempt goes that named no file."""
    return f"{log_dir}/{format_job(job)}.{attempt}.log"


def _allocation(world: World, allocation: Allocation) -> dict[str, object]:
    known = [world.gpus.get(gpu) for gpu in allocation.gpus]
    return {
        "node": allocation.node,
        "gpu_uuids": list(allocation.gpus),
        "gpu_indices": [None if state is None else state.gpu.index for state in known],
        "cpus": allocation.cpus,
        "memory_mib": allocation.memory_mib,
    }


def health_reason(world: World, state: GpuState, now_is: Condition) -> str | None:
    """Return why a GPU is what it is, in words; None where its state says it all."""
    match now_is:
        case Condition.DRAINING | Condition.BUSY | Condition.SHARED:
            return _drained(world, state) or None
        case Condition.LOST | Condition.UNKNOWN:
            if isinstance(state.seen, Unreadable):
                return state.seen.reason
            if now_is is Condition.LOST and not state.present:
                return world.nodes[state.node].node.problem or "it is not there any more"
            return "not read yet" if state.seen is None else "its processes cannot be read"
        case Condition.SPLIT if state.gpu.id not in {other.gpu.parent for other in world.gpus.values()}:
            return "in MIG mode, without instances: nvidia-smi mig -cgi makes them"
        case Condition.FOREIGN if isinstance(state.seen, Reading):
            who = [_who(process) for process in occupants(world, state.seen)]
            if not who and state.seen.lease is not None:
                who = [f"another gpud (pid {state.seen.lease.pid})"]
            return "used by " + ", ".join(who)
        case _:
            return None


def _drained(world: World, state: GpuState) -> str | None:
    """Return why a GPU, or its node, gets no new jobs; None where it does."""
    return state.drained if state.drained is not None else world.nodes[state.node].drained


def _who(process: GpuProcess) -> str:
    program = (process.command or "").split(" ", 1)[0].rsplit("/", 1)[-1]
    return " ".join(word for word in (process.user or "somebody", program, f"(pid {process.pid})") if word)


def _processes(world: World, reading: Reading, viewer: Viewer) -> list[dict[str, object]]:
    ours = _identities(world)
    return [
        {
            "pid": process.pid,
            "user": process.user,
            "command": process.command if viewer.private else (process.command or "").split(" ", 1)[0] or None,
            "memory_mib": process.memory_mib,
            "kind": process.kind,
            "job": next((ours[each] for each in process.ancestors if each in ours), None),
        }
        for process in reading.processes or ()
    ]


def _identities(world: World) -> dict[ProcessIdentity, str]:
    found: dict[ProcessIdentity, str] = {}
    for active in world.active.values():
        if isinstance(active.state, Running | Stopping):
            for identity in (active.state.process, active.state.shim):
                if identity is not None:
                    found[identity] = format_job(active.job)
    return found
