"""What people see of GPUs and nodes; of jobs: `jobs`."""

from gpud.core.active import ActiveJob
from gpud.core.condition import Condition, condition, foreigners, is_closed, occupants, surveyed
from gpud.core.fleet import GpuState, NodeState
from gpud.core.foreign import key_of, who
from gpud.core.health import Health, Level
from gpud.core.world import World
from gpud.model.gpu import GpuProcess, ProcessIdentity, Reading, Unreadable
from gpud.model.job import Running, Stopping, format_job
from gpud.model.units import Timestamp, format_duration
from gpud.views.jobs import Scene, Viewer

_NAMED = 8  # of the processes on a GPU, in one line
_OPAQUE = 'its driver does not list processes (foreign = "ignore" gives it out all the same)'


def gpu_map(scene: Scene, state: GpuState, viewer: Viewer) -> dict[str, object]:
    """Return a GPU as the protocol's page says."""
    now_is = condition(scene.world, state, scene.now)
    reading = state.seen if isinstance(state.seen, Reading) and now_is is not Condition.LOST else None
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
        "health": _level(scene.world, state, now_is),
        "health_reason": health_reason(scene.world, state, now_is, scene.now),
        "faults": _faults(state.health),
        "state": now_is.value,
        "simulated": state.gpu.simulated,
        **{key: getattr(state.gpu, key) for key in ("nvlink", "pcie", "numa", "mig", "parent")},
        "jobs": [format_job(job) for job in state.holders],
        "processes": [] if reading is None else _processes(scene.world, state, reading, viewer),
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


def health_reason(world: World, state: GpuState, now_is: Condition, now: Timestamp) -> str | None:
    """Return why a GPU is what it is, in words; None where its state says it all."""
    parent = world.gpus.get(state.gpu.parent) if state.gpu.parent is not None else None
    worst = state.health.worst() or (parent.health.worst() if parent is not None and parent.health.closed else None)
    fault = None if worst is None else worst[1].says
    match now_is:
        case Condition.DRAINING | Condition.BUSY | Condition.SHARED | Condition.FREE | Condition.RELEASING:
            absent = None if state.present else world.nodes[state.node].node.problem
            left = _used_by(world, state, now) if now_is is Condition.RELEASING else None
            return _drained(world, state) or fault or absent or left
        case Condition.UNHEALTHY if world.nodes[state.node].node.reboot:
            return world.nodes[state.node].node.problem
        case Condition.UNHEALTHY:
            return fault or "its memory is not back"
        case Condition.LOST | Condition.UNKNOWN:
            if worst is not None and worst[0].startswith("xid"):
                return fault
            if isinstance(state.seen, Unreadable):
                return state.seen.reason
            if not state.present:
                absent = "it is not there any more" if now_is is Condition.LOST else "not read yet"
                return world.nodes[state.node].node.problem or absent
            return "not read yet" if state.seen is None else _OPAQUE
        case Condition.SPLIT if state.gpu.id not in {other.gpu.parent for other in world.gpus.values()}:
            return "in MIG mode, without instances: nvidia-smi mig -cgi makes them"
        case Condition.FOREIGN:
            return _used_by(world, state, now)
        case _:
            return None


def _drained(world: World, state: GpuState) -> str | None:
    """Return why a GPU, or its node, gets no new jobs; None where it does."""
    return state.drained if state.drained is not None else world.nodes[state.node].drained


def _level(world: World, state: GpuState, now_is: Condition) -> str:
    """Return how well a GPU is; drained by a person counts as draining."""
    level = state.health.level
    if now_is is Condition.LOST:
        return Level.LOST.value
    if (now_is is Condition.UNKNOWN or not state.present) and level is Level.HEALTHY:
        return "unknown"
    drains = _drained(world, state) is not None or now_is is Condition.UNHEALTHY or is_closed(world, state)
    return Level.DRAINING.value if drains else level.value


def _faults(health: Health) -> list[dict[str, object]]:
    return [
        {
            "cause": cause,
            "level": fault.level.value,
            "since": fault.since,
            "reason": fault.says,
            "clears": fault.clears,
            "person": fault.person,
        }
        for cause, fault in sorted(health.faults.items(), key=lambda each: each[1].since)
    ]


def _used_by(world: World, state: GpuState, now: Timestamp) -> str | None:
    """Return who is on a GPU and keeps it from being given out; None where nobody was seen there."""
    if not isinstance(state.seen, Reading):
        return None
    found = foreigners(world, state, state.seen) or occupants(world, state.seen)
    there = [_stranger(state, process, now) for process in found[:_NAMED]]
    there += [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    if not there and state.seen.lease is not None:
        there = [f"another gpud (pid {state.seen.lease.pid})"]
    return "used by " + ", ".join(there) if there else None


def _stranger(state: GpuState, process: GpuProcess, now: Timestamp) -> str:
    """Return who a stranger is, since when it is seen there, and since when it does nothing."""
    known, words = state.health.strangers.get(key_of(process)), who(process)
    if known is None:
        return words
    idle = "" if known.idle_since is None else f", idle for {format_duration(now - known.idle_since)}"
    return f"{words} for {format_duration(now - known.since)}{idle}"


def _processes(world: World, state: GpuState, reading: Reading, viewer: Viewer) -> list[dict[str, object]]:
    ours, strangers = _identities(world), state.health.strangers
    return [
        {
            "pid": process.pid,
            "user": process.user,
            "command": process.command if (private := _theirs(process, ours, viewer)) else _program(process),
            "memory_mib": process.memory_mib if private or _job_of(process, ours) is None else None,
            "kind": process.kind,
            "job": None if (active := _job_of(process, ours)) is None else format_job(active.job),
            "since": known.since if (known := strangers.get(key_of(process))) is not None else None,
            "idle_since": None if known is None else known.idle_since,
        }
        for process in reading.processes or ()
    ]


def _theirs(process: GpuProcess, ours: dict[ProcessIdentity, ActiveJob], viewer: Viewer) -> bool:
    """Return whether all of a process is a viewer's to see: one of their own jobs."""
    active = _job_of(process, ours)
    return viewer.private or (active is not None and viewer.owns(active.terms.uid))


def _job_of(process: GpuProcess, ours: dict[ProcessIdentity, ActiveJob]) -> ActiveJob | None:
    return next((ours[each] for each in process.ancestors if each in ours), None)


def _program(process: GpuProcess) -> str | None:
    """Return the name of a process's program, without where it lies or what it was told."""
    return (process.command or "").split(" ", 1)[0].rsplit("/", 1)[-1] or None


def _identities(world: World) -> dict[ProcessIdentity, ActiveJob]:
    found: dict[ProcessIdentity, ActiveJob] = {}
    for active in world.active.values():
        if isinstance(active.state, Running | Stopping):
            for identity in (active.state.process, active.state.shim):
                if identity is not None:
                    found[identity] = active
    return found
