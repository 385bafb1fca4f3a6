"""Who is on GPUs beside us: seen, told of, and counted, but never touched.

A stranger keeps a GPU from being given out from the first look on (see `condition`). An event is told only of one
that two looks in a row saw, for a check of the GPU that comes and goes is nobody's business; an alert after an hour.
Their time is counted by uid, from look to look, told among what GPUs were used for, and charged as use of that user
where the configuration says so. On a GPU that a job holds a stranger is an event of that job, and the first to be
named if the GPU runs out of memory.

Strangers have no job, so their use is charged to the first tenant that has them by name, or to `default`.
"""

from gpud.core.alerts import FOREIGN_USE, alert
from gpud.core.condition import foreigners
from gpud.core.fleet import GpuState
from gpud.core.health import Stranger
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import SettingPut, StrangerSeen, Told
from gpud.model.gpu import GpuProcess, Reading, Unreadable
from gpud.model.job import Starting
from gpud.model.tenant import DEFAULT
from gpud.model.units import Seconds, Timestamp, format_size

LOOKS = 2  # that see a stranger before an event tells of it
LONG_S: Seconds = 3600.0
MOST_S: Seconds = 60.0  # a look stands for no more time before it: who knows what was then
WRITE_S: Seconds = 60.0


def note(world: World, out: Outcome, state: GpuState, seen: Reading | Unreadable) -> None:
    """Take in who a look found on a GPU, once the world knows the look."""
    known = state.health.strangers
    if state.seen is not seen or not isinstance(seen, Reading) or seen.processes is None:
        return
    if any(isinstance(world.active[job].state, Starting) for job in state.holders):
        return  # whose processes these are is not known yet
    found = foreigners(world, state, seen)
    if not found and not known:
        state.health.counted_at = None
        return
    there = {key_of(process): process for process in found}
    if not world.care.puzzled and world.nodes[state.node].node.contained and any(not each.ancestors for each in found):
        world.care.puzzled = True
        said = "gpud runs in a container, where the driver's pids mean nothing: GPU memory tells instead who is there"
        out.changes.append(Told(out.now, "pids_unknown", {"node": state.node, "reason": said}))
    for key, process in there.items():
        stranger = known.setdefault(key, Stranger(seen.at, who(process)))
        stranger.looks += 1
        if seen.utilization_percent != 0:
            stranger.idle_since = None
        elif stranger.idle_since is None:
            stranger.idle_since = seen.at
        _tell(world, out, state, process, stranger)
    for job in state.holders if not found else ():
        if world.care.guests.get(job, (None,))[0] == state.gpu.id:
            del world.care.guests[job]
    for key in known.keys() - there.keys():
        gone = known.pop(key)
        if gone.looks >= LOOKS:
            detail = {**_about(state), "who": gone.words, "since": gone.since}
            out.changes += [Told(out.now, "foreign_gone", detail, job) for job in state.holders or (None,)]
    _count(world, out, state, found, seen.at)


def who(process: GpuProcess) -> str:
    """Return a process as people know it: `eve python (pid 4242) with 2.9 GiB`."""
    program = (process.command or "").split(" ", 1)[0].rsplit("/", 1)[-1]
    words = [process.user or "somebody", program, f"(pid {process.pid})"]
    if process.memory_mib is not None:
        words.append(f"with {format_size(process.memory_mib)}")
    return " ".join(word for word in words if word)


def _tell(world: World, out: Outcome, state: GpuState, process: GpuProcess, stranger: Stranger) -> None:
    for job in state.holders:
        world.care.guests[job] = state.gpu.id, f"{stranger.words} was on GPU {state.gpu.index} of {state.node} too"
    if stranger.looks == LOOKS:
        detail = {**_about(state), "who": stranger.words, "pid": process.pid, "uid": process.uid}
        detail |= {"user": process.user, "memory_mib": process.memory_mib, "since": stranger.since}
        out.changes += [Told(out.now, "foreign", detail, job) for job in state.holders or (None,)]
    if not stranger.alarmed and out.now - stranger.since >= LONG_S:
        stranger.alarmed = True
        message = f"{stranger.words} has been on GPU {state.gpu.index} of {state.node} for an hour, without a job"
        gpu = state.gpu
        alert(
            out,
            FOREIGN_USE,
            message,
            gpu=gpu.id,
            node=state.node,
            index=gpu.index,
            uid=process.uid,
            user=process.user,
            pid=process.pid,
        )


def _count(world: World, out: Outcome, state: GpuState, found: list[GpuProcess], at: Timestamp) -> None:
    """Count the time since the last look for those who are there, in equal parts.

    Root's processes on a job's GPU are not counted: they are as likely the job's own, in a container.
    """
    health, care = state.health, world.care
    before, health.counted_at = health.counted_at, at
    passed_s = min(MOST_S, at - before) if before is not None else 0.0
    users = {each.uid: each.user or str(each.uid) for each in found if each.uid or not state.holders}
    for uid, user in users.items():
        if uid is not None and passed_s > 0:
            care.foreign_s[uid] = care.foreign_s.get(uid, 0.0) + passed_s / len(users)
            of = user, state.gpu.id
            care.unpaid_s[of] = care.unpaid_s.get(of, 0.0) + passed_s / len(users)
    if care.unpaid_s and (care.written_at is None or at - care.written_at >= WRITE_S):
        _charge(world, out, at)


def _charge(world: World, out: Outcome, at: Timestamp) -> None:
    care = world.care
    since = care.written_at if care.written_at is not None else at
    care.written_at = at
    for (user, gpu), used_s in care.unpaid_s.items():
        tenant = next((each.name for each in world.tenants.values() if user in each.users), DEFAULT)
        out.changes.append(StrangerSeen(at, gpu, user, tenant, used_s))
        if world.rules.foreign_charge:
            out.changes += world.usage.charge(tenant, user, used_s, since, at)
    care.unpaid_s.clear()
    out.changes.append(SettingPut("foreign_s", {str(uid): round(used_s, 1) for uid, used_s in care.foreign_s.items()}))


def restore(world: World, kept: object) -> None:
    """Take in what was counted before."""
    if isinstance(kept, dict):
        world.care.foreign_s = {int(uid): float(used_s) for uid, used_s in kept.items()}


def key_of(process: GpuProcess) -> tuple[int, int]:
    """Return what a process is known by among strangers."""
    return process.pid, process.ancestors[0].start if process.ancestors else 0


def _about(state: GpuState) -> dict[str, object]:
    return {"gpu": state.gpu.id, "node": state.node, "index": state.gpu.index}
