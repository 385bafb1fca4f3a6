"""Readings of GPUs while jobs hold them, and what they add up to for each attempt.

Every `Rules.sample_every_s` (15 s by the configuration, 0: never) each GPU that a job holds is looked at; in the first
moments of an attempt sooner, after 1, 2, 4 ... seconds, so that something is known of short ones. Where no job holds a
GPU nothing is looked at, and the daemon sleeps.

The readings come in as any others do (`GpuSeen`, whoever asked for them), and `cycle` hands each to `note` once the
world knows it. Whatever else is to be found out while jobs run (who is idle, whose memory grows) needs no clock and no
looks of its own: it is one more function beside `note`, called with the same reading. `world.gpus[gpu].seen` is the
newest, `world.samples.tallies[job][gpu]` what has added up.

A reading stands for the time since the one before. What was added up becomes durable with the attempt's end, and every
`KEEP_S` until then, and when gpud ends; of the time since, a kill of gpud loses what was seen. `seen_s` says how much
it stands for.

Cost: O(GPUs held) every `sample_every_s`; some microseconds a reading.
"""

from collections.abc import Mapping

from gpud.core.active import ActiveJob
from gpud.core.fleet import GpuState
from gpud.core.outcome import Outcome
from gpud.core.samples import Tally
from gpud.core.world import World
from gpud.model.changes import SettingPut
from gpud.model.gpu import Reading, Unreadable
from gpud.model.job import JobId, Starting
from gpud.model.units import Mib, Seconds, Timestamp
from gpud.model.use import GpuUse

FIRST_S: Seconds = 1.0
KEEP_S: Seconds = 300.0
_SETTING = "samples"
MOST = 2.0  # readings stand for so many times `sample_every_s` at most: more was missed, as in a laptop's sleep


def begin(world: World, active: ActiveJob) -> None:
    """Look at a job's GPUs from now on, if it has any. What was known of an earlier attempt is forgotten."""
    samples = world.samples
    samples.tallies.pop(active.job, None)
    if not world.rules.sample_every_s:
        return
    if not samples.tallies:
        samples.kept_at = max(samples.kept_at, active.since)
    if active.state.allocation.all_shares:
        samples.due.set(Timestamp(active.since + FIRST_S), active.job)


def end(world: World, job: JobId) -> tuple[GpuUse, ...]:
    """Return what was seen of an attempt that is over, and look no more."""
    samples = world.samples
    samples.due.silence(job)
    if job not in samples.tallies:
        return ()
    uses = samples.uses(job)
    del samples.tallies[job]
    return uses


def look(world: World, out: Outcome) -> Timestamp | None:
    """Ask for the looks that are due; return when the next one is, if any ever is."""
    due = world.samples.due
    if not world.rules.sample_every_s and not world.samples.tallies:
        return None
    for job in due.due(out.now):
        active = world.active.get(job)
        if active is None or not world.rules.sample_every_s:
            continue
        for share in active.state.allocation.all_shares:
            state = world.gpus.get(share.gpu)
            if state is not None and state.present:
                out.look(state.node, share.gpu)
        soon_s = max(FIRST_S, out.now - active.since)
        due.set(Timestamp(out.now + min(world.rules.sample_every_s, soon_s)), job)
    if out.now - world.samples.kept_at >= KEEP_S:
        out.changes += kept(world, out.now)
    return due.next_at


def kept(world: World, now: Timestamp) -> list[SettingPut]:
    """Return what makes durable what has added up."""
    world.samples.kept_at = now
    return [SettingPut(_SETTING, world.samples.plain(_attempts(world)))] if world.samples.tallies else []


def restore(world: World, settings: Mapping[str, object]) -> None:
    """Go on with what was seen of attempts that still run before gpud was restarted."""
    world.samples.restore(settings.get(_SETTING), _attempts(world))


def _attempts(world: World) -> dict[JobId, int]:
    return {job: active.place.attempt for job, active in world.active.items()}


def note(world: World, state: GpuState, seen: Reading | Unreadable) -> None:
    """Count a reading for everybody who holds the GPU."""
    if not isinstance(seen, Reading) or not world.rules.sample_every_s:
        return
    alone = len(state.holders) == 1
    for job, share in state.holders.items():
        active, tallies = world.active[job], world.samples.tallies.setdefault(job, {})
        tally = tallies.get(state.gpu.id)
        if tally is None:
            # Of what gpud did not see, as before a restart, it says nothing: the first reading stands for a moment.
            tally = tallies[state.gpu.id] = Tally(Timestamp(max(active.since, seen.at - FIRST_S)))
        memory_mib = _memory_mib(active, state, seen, whole=share is None)
        tally.add(seen, memory_mib, MOST * world.rules.sample_every_s, alone=alone)


def _memory_mib(active: ActiveJob, state: GpuState, seen: Reading, *, whole: bool) -> Mib | None:
    """Return what a job has of a GPU's memory: all that is in use on its own, what its processes have on a shared one.

    Processes of a container are no descendants of the shim; on its own GPU they count all the same.
    """
    if whole:
        return None if seen.memory_used_mib is None else Mib(max(0, seen.memory_used_mib - (state.baseline_mib or 0)))
    if isinstance(active.state, Starting) or seen.processes is None:
        return None
    known = [each.memory_mib for each in seen.processes if each.memory_mib is not None and active.owns(each)]
    return Mib(sum(known)) if known else None
