"""What looks at GPUs and reports of their driver mean for them, and that it is told: every change is an event.

The rules are `health`'s and `xids`'; here they meet the world. Each fault that comes or goes is an event `health`; a
GPU that is lost, or gets no more jobs, is an alert too. What needs a person is kept, so that a restart of gpud forgets
nothing. Where jobs hold GPUs `sampling` looks at them; those that are sick, or occupied by strangers, are looked at as
often by `look`, so that their recovery is seen; where there are none, nobody looks.

Cost: constant for each look; nothing for a cycle without one.
"""

from collections.abc import Mapping
from dataclasses import replace

from gpud.core.active import ActiveJob
from gpud.core.alerts import GPU_DRAINED, GPU_LOST, alert
from gpud.core.condition import SETTLED_MIB, Condition, condition, hoard_mib, idle_mib
from gpud.core.fleet import GpuState, NodeState
from gpud.core.health import DEATHS, EARLY_S, Fault, Level, deadly, findings, hoarded, kept, restored
from gpud.core.lifecycle import out_of_memory
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.core.xids import FALLEN, Remedy, entry, to_do
from gpud.model.changes import SettingPut, Told
from gpud.model.gpu import Reading, Unreadable
from gpud.model.job import Exit, array_of, format_job
from gpud.model.units import Mib, Seconds, Timestamp

AGAIN_S: Seconds = 60.0  # before the same XID of a GPU is told of again: some come by the thousand
_ALERT_AGAIN_S: Seconds = 600.0  # of the same cause: some GPUs answer every other time
# No GPU's doing: what shells end with where they cannot start a program, and programs that are called wrongly; the
# exceptions of a Python program's own mistakes.
_NO_PROGRAM = (2, 126, 127)
_MISTAKES = {
    "SyntaxError",
    "ModuleNotFoundError",
    "FileNotFoundError",
    "NameError",
    "AttributeError",
    "TypeError",
    "ValueError",
    "KeyError",
}
_OF_THE_WHOLE = {"lost", "unreadable", "driver"}  # what instances have with their GPU
_WORSE = (Level.LOST, Level.DRAINING)


def note(world: World, out: Outcome, state: GpuState, seen: Reading | Unreadable) -> None:
    """Take in what a look says of a GPU's health, once the world knows the look."""
    if state.seen is not seen:
        return  # it came late: something newer is known
    for cause, fault in list(findings(state.health, seen, world.rules.thermal_limit_c)):
        if fault is None:
            forgive(world, out, state, cause)
        else:
            blame(world, out, state, cause, fault)
    if isinstance(seen, Reading) and seen.processes is not None and not state.gpu.simulated:
        used = None if state.gpu.split else hoard_mib(world, state, seen, out.now)  # its instances tell of their own
        if used is not None:
            idle, contained = Mib(idle_mib(state) - SETTLED_MIB), world.nodes[state.node].node.contained
            blame(world, out, state, "memory in use", hoarded(used, idle, contained=contained))
        else:
            forgive(world, out, state, "memory in use")
    _attend(world, state, out.now)


def reported(world: World, out: Outcome, state: GpuState, xid: int) -> None:
    """Take in an XID: an event of the jobs on the GPU, and where it is the hardware's, a fault."""
    told_at = state.health.heard.get(xid)
    known = entry(xid)
    all_of_it = [state, *(each for each in world.gpus.values() if each.gpu.parent == state.gpu.id and state.gpu.split)]
    if told_at is None or out.now - told_at >= AGAIN_S:
        state.health.heard[xid] = out.now
        detail = _about(state) | {"xid": xid, "says": known.says, "remedy": known.remedy.value or None}
        jobs = {job: None for each in all_of_it for job in each.holders}
        out.changes += [Told(out.now, "xid", detail, job) for job in jobs or (None,)]
    if known.remedy is not Remedy.NOTHING:
        level = Level.DEGRADED if known.remedy is Remedy.WATCH else Level.DRAINING
        says = f"XID {xid}: {known.says}"
        boot = None if known.remedy is Remedy.INSPECT else world.boot
        level = Level.LOST if xid == FALLEN else level
        fault = Fault(level=level, says=says, clears=to_do(known.remedy), person=True, boot=boot)
        blame(world, out, state, f"xid {xid}", fault)
    for each in all_of_it:
        if each.present:
            out.look(each.node, each.gpu.id)  # what else is there to see of it


def surveyed(world: World, out: Outcome, node: NodeState) -> None:
    """Take in that a node's GPUs were counted: some may be gone, or back; a reboot has cured what it cures."""
    reboot = node.node.reboot
    for state in node.gpus:
        if state.gpu.simulated:
            continue
        if reboot:
            says, clears = node.node.problem or "reboot needed", "a reboot, or the module reloaded and gpud restarted"
            blame(world, out, state, "driver", Fault(level=Level.DRAINING, says=says, clears=clears))
        else:
            forgive(world, out, state, "driver")
        if not state.present and node.node.driver is not None and not reboot and not node.node.silent:
            says = "it is not there any more"
            gone = Fault(level=Level.LOST, says=says, clears="by itself, when the driver has it; mostly a reboot")
            blame(world, out, state, "lost", gone)
        for cause, fault in list(state.health.faults.items()):
            if fault.boot is not None and fault.boot != world.boot:
                forgive(world, out, state, cause)
        _attend(world, state, out.now)


def died(world: World, out: Outcome, active: ActiveJob, exited: Exit, ran_s: Seconds) -> None:
    """Note how a job that nobody stopped ended: where one after another dies at its start, it may be the GPU.

    Elements of an array are one job: they do the same. Of users whose jobs die on another GPU as well it is the jobs,
    and they do not count.
    """
    if exited.fault is not None or exited.lost is not None:
        return
    if exited.exit_code in _NO_PROGRAM or exited.finding in _MISTAKES or out_of_memory(exited):
        return
    states = [world.gpus[share.gpu] for share in active.state.allocation.all_shares if share.gpu in world.gpus]
    for state in states:
        if state.gpu.simulated:
            continue
        deaths = state.health.deaths
        if exited.exit_code == 0 or exited.timed_out or ran_s > EARLY_S:
            deaths.clear()
            continue
        deaths.setdefault(array_of(active.job), active.terms.user)
        others = (other.health for other in world.nodes[state.node].gpus if other is not state)
        elsewhere = {user for health in others if "deaths" in health.faults for user in health.deaths.values()}
        counted = [f"{format_job(job)} of {user}" for job, user in deaths.items() if user not in elsewhere]
        if len(counted) >= DEATHS:
            blame(world, out, state, "deaths", deadly(", ".join(counted)))


def absolve(world: World, out: Outcome, states: list[GpuState]) -> bool:
    """Forget what needs a person, since one has looked: `gpuctl undrain`. Return whether there was anything."""
    before = len(out.changes)
    for state in states:
        health = state.health
        health.heard.clear()
        health.alerted.clear()
        health.deaths.clear()
        if "memory in use" in health.faults and isinstance(state.seen, Reading):
            state.baseline_mib = hoard_mib(world, state, state.seen, out.now) or state.baseline_mib
            state.released_at = None
            forgive(world, out, state, "memory in use")
            _keep(world, out)
        for cause in [cause for cause, fault in health.faults.items() if fault.person]:
            forgive(world, out, state, cause)
    return len(out.changes) > before


def blame(world: World, out: Outcome, state: GpuState, cause: str, fault: Fault) -> None:
    """A GPU has a fault, from now on or still."""
    health = state.health
    before, known = health.level, health.faults.get(cause)
    health.faults[cause] = replace(fault, since=out.now if known is None else known.since)
    if known is not None and (known.level, known.boot) == (fault.level, fault.boot):
        return  # nothing new but its words
    _changed(world, out, state, cause, health.faults[cause], found=True)
    whole = world.gpus.get(state.gpu.parent) if state.gpu.parent is not None else None
    if whole is not None and cause in _OF_THE_WHOLE:
        out.look(whole.node, whole.gpu.id)  # to tell of it once; where somebody splits that anew, nothing is wrong
        return
    told_at = health.alerted.get(cause)
    again = told_at is None or out.now - told_at >= _ALERT_AGAIN_S
    if again and health.level is not before and health.level in _WORSE:
        health.alerted[cause] = out.now
        what, done = (GPU_LOST, "is lost") if health.level is Level.LOST else (GPU_DRAINED, "gets no new jobs")
        message = f"GPU {state.gpu.index} of {state.node} {done}: {fault.says}; what clears it: {fault.clears}"
        alert(out, what, message, gpu=state.gpu.id, node=state.node, index=state.gpu.index, cause=cause)


def forgive(world: World, out: Outcome, state: GpuState, cause: str) -> None:
    """A GPU has that fault no more, if it had."""
    fault = state.health.faults.pop(cause, None)
    if fault is not None:
        _changed(world, out, state, cause, fault, found=False)


def look(world: World, out: Outcome) -> Timestamp | None:
    """Ask for the looks that are due at GPUs that are sick or occupied; return when the next ones are, if ever."""
    care, every_s = world.care, world.rules.sample_every_s
    if not care.attended:
        care.due = None
        return None
    if care.due is not None and care.due <= out.now:
        for gpu in care.attended:
            state = world.gpus.get(gpu)
            if state is not None:
                out.look(state.node, gpu)
        care.due = None
    if care.due is None and every_s:
        care.due = out.later(every_s)
    return care.due


def restore(world: World, settings: Mapping[str, object]) -> None:
    """Take in what was kept of GPUs' health, once the GPUs are known."""
    faults, idle = settings.get("health"), settings.get("idle_mib")
    for gpu, causes in (faults if isinstance(faults, dict) else {}).items():
        if gpu in world.gpus:
            world.gpus[gpu].health.faults = {cause: restored(plain) for cause, plain in causes.items()}
    for gpu, mib in (idle if isinstance(idle, dict) else {}).items():
        if gpu in world.gpus:
            world.gpus[gpu].baseline_mib = Mib(mib)


def _changed(world: World, out: Outcome, state: GpuState, cause: str, fault: Fault, *, found: bool) -> None:
    world.dirty.add(state.node)
    world.sooner.add(state.node)
    detail = _about(state) | {"health": state.health.level.value, "cause": cause, "found": found}
    out.changes.append(Told(out.now, "health", detail | {"reason": fault.says, "clears": fault.clears}))
    if fault.person:
        _keep(world, out)


def _keep(world: World, out: Outcome) -> None:
    """Make durable what needs a person, and what one took for a GPU's idle use."""
    lasting: dict[str, object] = {}
    idle: dict[str, object] = {}
    for gpu, state in world.gpus.items():
        causes = {cause: kept(fault) for cause, fault in state.health.faults.items() if fault.person}
        if causes:
            lasting[gpu] = causes
        if state.baseline_mib is not None and state.baseline_mib > _REMARKABLE_MIB:
            idle[gpu] = state.baseline_mib
    out.changes += [SettingPut("health", lasting or None), SettingPut("idle_mib", idle or None)]


_REMARKABLE_MIB = 1024


def _attend(world: World, state: GpuState, now: Timestamp) -> None:
    """Look at a GPU that no job holds while only looks can tell that it is well again, or empty, or who is on it."""
    if not state.holders and not state.gpu.simulated and state.present:
        mends = any(not fault.person for fault in state.health.faults.values())
        if mends or condition(world, state, now) in {Condition.FOREIGN, Condition.RELEASING}:
            world.care.attended[state.gpu.id] = None
            return
    world.care.attended.pop(state.gpu.id, None)


def _about(state: GpuState) -> dict[str, object]:
    return {"gpu": state.gpu.id, "node": state.node, "index": state.gpu.index}
