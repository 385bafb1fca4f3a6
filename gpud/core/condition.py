"""Whether a GPU may be given out: only what is known to be free is free.

A GPU that cannot be read, that a process which is not ours computes on, or that still holds memory of a job that
ended gets no new job. Free-looking is not free: 0 % utilisation with a process on it is occupied. For real GPUs the
answer needs a fresh look; simulated ones have nothing to look at.
"""

from enum import StrEnum

from gpud.core.fleet import GpuState
from gpud.core.world import World
from gpud.model.gpu import GpuProcess, ProcessIdentity, Reading, Unreadable
from gpud.model.job import Starting
from gpud.model.units import Mib, Seconds, Timestamp

FRESH_S: Seconds = 0.2  # what was heard longer ago is looked at again before the GPU is given out
SLOWEST_S: Seconds = 6.0  # a look may take this long (a sleeping driver wakes up for seconds) and count when it comes
RELEASE_S: Seconds = 30.0  # what is on a GPU this long after its job's end is foreign
SETTLED_MIB = 256  # a driver's own use moves by less than this; a CUDA context takes more (250 to 600 MiB)


class Condition(StrEnum):
    """The words that people see as a GPU's state (all but `unhealthy`, which needs more parts)."""

    FREE = "free"
    BUSY = "busy"
    SHARED = "shared"
    SPLIT = "split"
    RELEASING = "releasing"
    FOREIGN = "foreign"
    DRAINING = "draining"
    LOST = "lost"
    UNKNOWN = "unknown"


def condition(world: World, state: GpuState, now: Timestamp) -> Condition:
    """Return what a GPU is now, as far as the last look at it tells."""
    if is_lost(world, state):
        return Condition.LOST
    if state.gpu.split:
        return Condition.SPLIT
    shared = state.shared
    if state.holders and not shared:
        return Condition.BUSY
    if state.drained is not None or world.nodes[state.node].drained is not None:
        return Condition.DRAINING
    if not state.present:
        return Condition.UNKNOWN
    if state.gpu.simulated:
        return Condition.SHARED if shared else Condition.FREE
    if not isinstance(state.seen, Reading):
        return Condition.UNKNOWN
    if not shared and state.released_at is not None and now < state.released_at + RELEASE_S:
        # Our shim lets go before its end is told: who holds the GPU since then is another gpud.
        taken = state.seen.lease is not None and state.seen.at > state.released_at
        return Condition.FOREIGN if taken else Condition.RELEASING
    if state.seen.processes is None:
        return Condition.UNKNOWN
    if strangers(world, state, state.seen):
        return Condition.FOREIGN
    return Condition.SHARED if shared else Condition.FREE


def is_lost(world: World, state: GpuState) -> bool:
    """Return whether a GPU is known not to be there now. Before the first survey nothing is known to be missing."""
    return state.lost and (state.present or surveyed(world))


def surveyed(world: World) -> bool:
    """Return whether anything was heard of what there is since gpud began."""
    return any(node.present for node in world.nodes.values())


def strangers(world: World, state: GpuState, seen: Reading) -> bool:
    """Return whether somebody is on a GPU who does not hold it through us.

    Where our jobs share it, the lease is theirs, and so is what descends from their shims; what one of them that ended
    left behind is not.
    """
    if not state.holders:
        return seen.lease is not None or bool(occupants(world, seen))
    ours: set[ProcessIdentity | None] = set()
    for job in state.holders:
        holder = world.active[job].state
        if not isinstance(holder, Starting):
            ours |= {holder.shim, holder.process}
    return any(ours.isdisjoint(process.ancestors) for process in occupants(world, seen))


def fresh(state: GpuState, now: Timestamp) -> bool:
    """Return whether the last look is young enough to give the GPU out on it."""
    if state.gpu.simulated:
        return True
    heard = state.heard_at is not None and state.heard_at >= now - FRESH_S
    return heard and isinstance(state.seen, Reading) and state.seen.at >= now - SLOWEST_S


def occupants(world: World, reading: Reading) -> list[GpuProcess]:
    """Return the processes that make a GPU occupied: not those that only draw, nor the MPS server, nor ignored ones."""
    ignored = world.rules.foreign_ignore
    return [
        process
        for process in reading.processes or ()
        if process.kind == "compute" and not (ignored and _program(process) in ignored)
    ]


def take_in(world: World, state: GpuState, seen: Reading | Unreadable, now: Timestamp) -> None:
    """Take in one look: what was seen, and whether it shows the last job gone."""
    if state.seen is not None and seen.at < state.seen.at:
        return  # late: something newer is known
    state.seen, state.heard_at = seen, now
    world.dirty.add(state.node)
    if not isinstance(seen, Reading) or seen.processes is None:
        return
    empty = not occupants(world, seen) and seen.lease is None
    if state.released_at is not None and seen.at > state.released_at and empty and _settled(state, seen):
        state.released_at = None
    used = _used(seen)
    if empty and not state.holders and state.released_at is None and used is not None:
        state.baseline_mib = used if state.baseline_mib is None else Mib(min(state.baseline_mib, used))


def looks_wanted(world: World, state: GpuState, now: Timestamp) -> bool:
    """Return whether only another look can change a GPU's state: it is releasing, foreign, unreadable or lost."""
    if state.gpu.simulated or not state.present:
        return False
    waits = {Condition.RELEASING, Condition.FOREIGN, Condition.UNKNOWN, Condition.LOST}
    return condition(world, state, now) in waits


def _settled(state: GpuState, seen: Reading) -> bool:
    """Return whether the memory of the job that ended is back.

    What stays taken for `RELEASE_S` with no process to show for it is the idle use from now on: drivers and desktops
    grow too, and a GPU must not stay closed for that.
    """
    used = _used(seen)
    if used is None:
        return True  # this board does not tell; the empty process list must do
    if state.released_at is not None and seen.at >= state.released_at + RELEASE_S:
        state.baseline_mib = used
    baseline = state.baseline_mib if state.baseline_mib is not None else Mib(1024)
    return used <= baseline + SETTLED_MIB


def _used(seen: Reading) -> Mib | None:
    """Return the memory in use beside what drawing programs hold, which come and go as they like."""
    if seen.memory_used_mib is None:
        return None
    drawn = sum(process.memory_mib or 0 for process in seen.processes or () if process.kind != "compute")
    return Mib(max(0, seen.memory_used_mib - drawn))


def _program(process: GpuProcess) -> str:
    command = process.command or ""
    return command.split(" ", 1)[0].rsplit("/", 1)[-1]
