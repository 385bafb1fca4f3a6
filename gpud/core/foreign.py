"""Who is on GPUs beside us: seen, told of, and counted, but never touched.

A stranger keeps a GPU from being given out from the first look on (see `condition`). An event is told only of one
that two looks in a row saw, for a check of the GPU that comes and goes is nobody's business; an alert after an hour.
Their time is counted by uid, from look to look, told among what GPUs were used for, and charged as use of that user
where the configuration says so. On a GPU that a job holds a stranger is an event of that job, and the first to be
named if the GPU runs out of memory.

Strangers have no job, so their use is charged to the first tenant that has them by name, or to `default`.

What is known of them is kept with each of these events, every `WRITE_S` while they are there, and when gpud ends: who
is still there after a restart (by pid, start time and boot) is the stranger of before. The time until the next look
counts as it does between two looks, so that a gpud that is back within `MOST_S` has lost nothing of it. One that was
killed and stays away for longer loses a minute and a look of it at most.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields

from gpud.core.alerts import FOREIGN_USE, JOB_IDLE, alert
from gpud.core.condition import foreigners
from gpud.core.fleet import GpuState
from gpud.core.health import Stranger
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import Change, SettingPut, StrangerSeen, Told
from gpud.model.gpu import GpuProcess, Reading, Unreadable
from gpud.model.job import Starting
from gpud.model.tenant import DEFAULT
from gpud.model.units import Seconds, Timestamp, format_size

LOOKS = 2  # that see a stranger before an event tells of it
LONG_S: Seconds = 3600.0
MOST_S: Seconds = 60.0  # a look stands for no more time before it: who knows what was then
WRITE_S: Seconds = 60.0
_TOLD_ONCE = {"foreign", "foreign_gone", "pids_unknown", "gpu_memory"}
_FIELDS = len(fields(Stranger))  # a newer gpud may have kept more


def note(world: World, out: Outcome, state: GpuState, seen: Reading | Unreadable) -> None:
    """Take in who a look found on a GPU, once the world knows the look."""
    known = state.health.strangers
    out.changes += world.care.untold
    world.care.untold.clear()
    if state.seen is not seen or not isinstance(seen, Reading) or seen.processes is None:
        return
    if state.gpu.split:
        return  # who is on it is on one of its instances, and told of there
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
    told = len(out.changes)
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
    _count(world, state, found, seen.at)
    care = world.care
    due = care.written_at is None or out.now - care.written_at >= WRITE_S
    if len(out.changes) > told or (care.unpaid_s and (due or not found)):
        out.changes += kept(world, out.now)


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


def _count(world: World, state: GpuState, found: list[GpuProcess], at: Timestamp) -> None:
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


def kept(world: World, now: Timestamp) -> list[Change]:
    """Return what makes durable what is known of strangers, and charge them for what they had since the last time."""
    care, changes = world.care, list[Change]()
    since, care.written_at = care.written_at if care.written_at is not None else now, now
    for (user, gpu), used_s in care.unpaid_s.items():
        tenant = next((each.name for each in world.tenants.values() if user in each.users), DEFAULT)
        changes.append(StrangerSeen(now, gpu, user, tenant, used_s))
        if world.rules.foreign_charge:
            changes += world.usage.charge(tenant, user, used_s, since, now)
    care.unpaid_s.clear()
    there = {
        gpu: [state.health.counted_at, *([*key, *astuple(each)] for key, each in state.health.strangers.items())]
        for gpu, state in world.gpus.items()
        if state.health.strangers
    }
    used = {str(uid): round(used_s, 3) for uid, used_s in care.foreign_s.items()}
    known = {"boot": world.boot, "there": there} if there else None
    return [*changes, SettingPut("foreign_s", used or None), SettingPut("strangers", known)]


def owe(world: World, lost: Iterable[Change]) -> None:
    """Take back what was charged and told, once, by changes that could not be kept: it still is to be."""
    for each in lost:
        if isinstance(each, StrangerSeen):
            of = each.user, each.gpu
            world.care.unpaid_s[of] = world.care.unpaid_s.get(of, 0.0) + each.gpu_s
        elif isinstance(each, Told) and (each.kind in _TOLD_ONCE or each.detail.get("what") in {FOREIGN_USE, JOB_IDLE}):
            world.care.untold.append(each)


def restore(world: World, settings: Mapping[str, object]) -> None:
    """Take in what was kept, once the GPUs are known; of strangers only what is of this boot: pids come again."""
    used, known = settings.get("foreign_s"), settings.get("strangers")
    if isinstance(used, dict):
        world.care.foreign_s = {int(uid): float(used_s) for uid, used_s in used.items()}
    if not isinstance(known, dict) or known["boot"] != world.boot:
        return
    for gpu, (counted_at, *strangers) in known["there"].items():
        if gpu in world.gpus:
            health = world.gpus[gpu].health
            health.counted_at = counted_at
            health.strangers = {(pid, start): Stranger(*rest[:_FIELDS]) for pid, start, *rest in strangers}


def key_of(process: GpuProcess) -> tuple[int, int]:
    """Return what a process is known by among strangers."""
    return process.pid, process.ancestors[0].start if process.ancestors else 0


def _about(state: GpuState) -> dict[str, object]:
    return {"gpu": state.gpu.id, "node": state.node, "index": state.gpu.index}
