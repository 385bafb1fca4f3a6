"""What looks at GPUs mean for the jobs that hold them.

A job whose GPU is lost is ended: it could only hang. One that uses more of a shared GPU than it declared takes it from
its neighbours: its people are told, and after a while it is stopped where the configuration says so. One that does
nothing with its GPUs for half an hour is told to administrators, once. A claim that nobody uses for as long as its user
said is ended.

Cost: constant for each look and each job on the GPU.
"""

from gpud.core import jobs
from gpud.core.active import ActiveJob
from gpud.core.alerts import JOB_IDLE, alert
from gpud.core.condition import is_lost
from gpud.core.fleet import GpuState
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import Told
from gpud.model.gpu import Reading, Unreadable
from gpud.model.job import Running, StopCause, Stopping, format_job
from gpud.model.units import Mib, Seconds, format_size

SURE_S: Seconds = 2.0  # for which a GPU is lost before its jobs are ended: a driver may stumble
OVER_S: Seconds = 60.0  # over its declared memory before a job is stopped
IDLE_S: Seconds = 1800.0


def note(world: World, out: Outcome, state: GpuState, seen: Reading | Unreadable) -> None:
    """Take in a look at a GPU on behalf of those who hold it, once the world knows the look."""
    if state.seen is not seen:
        return
    end_lost(world, out, state)
    if isinstance(seen, Reading) and state.holders:
        percent = seen.utilization_percent
        if percent != 0:
            state.health.idle_since = None
        elif state.health.idle_since is None:
            state.health.idle_since = seen.at
        for job, share in list(state.holders.items()):
            active = world.active[job]
            if share is not None and isinstance(active.state, Running):
                _watch_memory(world, out, state, seen, active, share)
            _watch_idle(world, out, active)
            if active.terms.idle_after_s is not None and isinstance(active.state, Running):
                _end_unused(world, out, active, active.terms.idle_after_s)


def end_lost(world: World, out: Outcome, state: GpuState) -> None:
    """End the jobs on a GPU that is lost, once that is sure; look again where it is not yet.

    Where the driver as a whole is away nothing is sure.
    """
    node = world.nodes[state.node].node
    if not state.holders or not is_lost(world, state) or node.driver is None or node.reboot:
        return
    worst = state.health.worst()
    sure = worst is not None and (worst[0].startswith("xid") or out.now - worst[1].since >= SURE_S)
    for job in list(state.holders):
        active = world.active[job]
        if isinstance(active.state, Stopping):
            continue
        if sure:
            jobs.stop(world, out, active, StopCause.GPU_LOST)
        else:
            world.care.attended[state.gpu.id] = None
            world.care.due = out.later(SURE_S)


def _watch_memory(
    world: World, out: Outcome, state: GpuState, seen: Reading, active: ActiveJob, declared_mib: Mib
) -> None:
    """See that a job keeps to what it declared of a shared GPU."""
    known = [each.memory_mib for each in seen.processes or () if each.memory_mib is not None and active.owns(each)]
    used, over = sum(known), world.care.over
    if used <= declared_mib:
        over.pop(active.job, None)
        return
    stops = world.rules.gpu_memory_watch == "stop"
    if active.job not in over:
        said = f"it uses {format_size(used)} of GPU {state.gpu.index}, and declared {format_size(declared_mib)}"
        over[active.job] = out.now, said
        detail: dict[str, object] = {"gpu": state.gpu.id, "node": state.node, "index": state.gpu.index}
        detail |= {"used_mib": used, "declared_mib": declared_mib, "stops_after_s": OVER_S if stops else None}
        out.changes.append(Told(out.now, "gpu_memory", detail | {"reason": said}, active.job))
    if not stops:
        return
    if out.now - over[active.job][0] >= OVER_S:
        jobs.stop(world, out, active, StopCause.GPU_MEMORY)
    else:
        world.samples.due.set(out.later(min(OVER_S, world.rules.sample_every_s or OVER_S)), active.job)


def _watch_idle(world: World, out: Outcome, active: ActiveJob) -> None:
    """Tell of a job all of whose GPUs have done nothing since long."""
    told = world.care.idle
    since = active.since
    for share in active.state.allocation.all_shares:
        state = world.gpus.get(share.gpu)
        idle_since = None if state is None or len(state.holders) > 1 else state.health.idle_since
        if idle_since is None:
            told.pop(active.job, None)
            return
        since = max(since, idle_since)
    if active.job not in told and out.now - since >= IDLE_S and isinstance(active.state, Running):
        told[active.job] = None
        gpus = [share.gpu for share in active.state.allocation.all_shares]
        message = f"job {format_job(active.job)} of {active.terms.user} has not used its GPUs for half an hour"
        alert(out, JOB_IDLE, message, job=active.job, gpus=gpus, user=active.terms.user, idle_since=since)


def _end_unused(world: World, out: Outcome, active: ActiveJob, idle_after_s: Seconds) -> None:
    """End a claim on whose GPUs its user has had no process, and which computed nothing, for so long.

    A GPU that cannot be read may be in use.
    """
    unused = world.care.unused
    for share in active.state.allocation.all_shares:
        seen = world.gpus[share.gpu].seen if share.gpu in world.gpus else None
        if not isinstance(seen, Reading) or seen.processes is None or any(map(active.owns, seen.processes)):
            unused.pop(active.job, None)
            return
        if seen.utilization_percent:
            unused.pop(active.job, None)
            return
    since = unused.setdefault(active.job, out.now)
    if out.now - since >= idle_after_s:
        jobs.stop(world, out, active, StopCause.UNUSED)
