"""Whether a GPU may be given out: only what is known to be free is free.

A GPU that cannot be read, that a process which is not ours computes on, or that still holds memory of a job that
ended gets no new job. Free-looking is not free: 0 % utilisation with a process on it is occupied. For real GPUs the
answer needs a fresh look; simulated ones have nothing to look at.
"""

from enum import StrEnum

from gpud.core.fleet import GpuState
from gpud.core.world import World
from gpud.model.gpu import GpuProcess, Reading, Unreadable
from gpud.model.units import Mib, Seconds, Timestamp

FRESH_S: Seconds = 0.2  # what was heard longer ago is looked at again before the GPU is given out
SLOWEST_S: Seconds = 6.0  # a look may take this long (a sleeping driver wakes up for seconds) and count when it comes
RELEASE_S: Seconds = 30.0  # what is on a GPU this long after its job's end is foreign
_UNSEEN_MIB = 1024  # taken for the idle use of a GPU that was never seen idle
SETTLED_MIB = 256  # a driver's own use moves by less than this; a CUDA context takes more (250 to 600 MiB)


class Condition(StrEnum):
    """The words that people see as a GPU's state."""

    FREE = "free"
    BUSY = "busy"
    SHARED = "shared"
    SPLIT = "split"
    RELEASING = "releasing"
    FOREIGN = "foreign"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"
    LOST = "lost"
    UNKNOWN = "unknown"


def condition(world: World, state: GpuState, now: Timestamp) -> Condition:
    """Return what a GPU is now, as far as the last look at it tells."""
    ails = not state.present or isinstance(state.seen, Unreadable) or bool(state.health.faults)
    if None in state.holders.values() and not ails and not state.gpu.split:
        return Condition.BUSY  # as most are
    away = world.nodes[state.node].node.reboot  # the driver is: the GPUs are there
    if is_lost(world, state) and not away:
        return Condition.LOST
    if state.gpu.split:
        return Condition.SPLIT
    shared, parent = state.shared, _parent(world, state)
    if (state.holders and not shared) or (parent is not None and parent.holders):  # split under a job that has it all
        return Condition.BUSY
    if is_drained(world, state):
        return Condition.DRAINING
    if away:
        return Condition.UNHEALTHY
    if not state.present:
        return Condition.UNKNOWN
    if state.gpu.simulated:
        return Condition.SHARED if shared else Condition.FREE
    if not isinstance(state.seen, Reading):
        return Condition.UNKNOWN
    if is_closed(world, state):
        return Condition.UNHEALTHY
    settles = not shared and state.released_at is not None
    if settles and state.released_at is not None and now < state.released_at + RELEASE_S:
        # Our shim lets go before its end is told: who holds the GPU since then is another gpud.
        taken = state.seen.lease is not None and state.seen.at > state.released_at
        # Who was there beside the job goes with it no more than they came with it.
        stays = any(stranger.since < state.released_at for stranger in state.health.strangers.values())
        return Condition.FOREIGN if taken or stays else Condition.RELEASING
    if is_opaque(world, state.seen):
        return Condition.UNKNOWN
    if strangers(world, state, state.seen):
        return Condition.FOREIGN
    if settles:  # for too long, and nobody is seen on it
        return Condition.UNHEALTHY
    return Condition.SHARED if shared else Condition.FREE


def is_opaque(world: World, seen: Reading) -> bool:
    """Return whether it matters who is on a GPU, and its driver does not tell."""
    return seen.processes is None and world.rules.foreign != "ignore"


def is_lost(world: World, state: GpuState) -> bool:
    """Return whether a GPU is known not to be there now.

    Before the first survey nothing is known to be missing, nor while there are GPUs that do not say who they are.
    """
    return state.lost and (state.present or (surveyed(world) and not world.nodes[state.node].node.silent))


def is_drained(world: World, state: GpuState) -> bool:
    """Return whether somebody wants no new jobs on a GPU, or on its node; a job that runs there runs on."""
    return state.drained is not None or world.nodes[state.node].drained is not None


def is_closed(world: World, state: GpuState) -> bool:
    """Return whether a GPU is too sick for new jobs, or the one that it is a part of."""
    parent = _parent(world, state)
    return state.health.closed or (parent is not None and parent.health.closed)


def _parent(world: World, state: GpuState) -> GpuState | None:
    """Return the GPU that an instance is a part of."""
    return world.gpus.get(state.gpu.parent) if state.gpu.parent is not None else None


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
    if _blind(world, state, seen):
        used = _used(world, seen)
        return used is not None and used > idle_mib(state) + state.declared_mib
    return bool(foreigners(world, state, seen))


def foreigners(world: World, state: GpuState, seen: Reading) -> list[GpuProcess]:
    """Return the processes that make a GPU occupied and are no job's that holds it.

    Where pids mean nothing here, whoever is on a GPU that a job holds is taken for the job's.
    """
    there = occupants(world, seen)
    if not there or not state.holders:
        return there
    holders = [world.active[job] for job in state.holders]
    contained = world.nodes[state.node].node.contained
    strange = [each for each in there if each.ancestors or not contained]
    return [each for each in strange if not any(holder.owns(each) for holder in holders)]


def _blind(world: World, state: GpuState, seen: Reading) -> bool:
    """Return whether the driver knows those on a GPU by pids that mean nothing here: memory must tell instead."""
    return world.nodes[state.node].node.contained and any(not each.ancestors for each in occupants(world, seen))


def fresh(state: GpuState, now: Timestamp) -> bool:
    """Return whether the last look is young enough to give the GPU out on it."""
    if state.gpu.simulated:
        return True
    heard = state.heard_at is not None and state.heard_at >= now - FRESH_S
    return heard and isinstance(state.seen, Reading) and state.seen.at >= now - SLOWEST_S


def occupants(world: World, reading: Reading) -> list[GpuProcess]:
    """Return the processes that make a GPU occupied: not those that only draw, nor the MPS server, nor ignored ones."""
    ignored = world.rules.foreign_ignore
    if world.rules.foreign == "ignore":
        return []
    return [
        process
        for process in reading.processes or ()
        if process.kind == "compute" and not (ignored and _program(process) in ignored)
    ]


def take_in(world: World, state: GpuState, seen: Reading | Unreadable, now: Timestamp) -> None:
    """Take in one look: what was seen, and whether it shows the last job gone."""
    if state.seen is not None and seen.at < state.seen.at:
        return  # late: something newer is known
    state.see(seen)
    state.heard_at = now
    world.dirty.add(state.node)
    if not isinstance(seen, Reading) or is_opaque(world, seen):
        return
    empty = not occupants(world, seen) and seen.lease is None
    used = _used(world, seen)
    if not empty or state.holders:
        return
    if used is not None and used > idle_mib(state):
        if state.health.strangers:
            state.released_at = seen.at  # they have just gone, and what they had goes soon
        return
    if state.released_at is not None and seen.at > state.released_at:
        state.released_at = None  # a board that does not tell its memory, too: the empty list must do
    if state.released_at is None and used is not None:
        state.baseline_mib = used if state.baseline_mib is None else Mib(min(state.baseline_mib, used))


def hoard_mib(world: World, state: GpuState, seen: Reading, now: Timestamp) -> Mib | None:
    """Return the memory in use while nobody is on the GPU and none should be, None where all is well.

    Whoever has just ended is given time; after that it is a leak, or a process that cannot be seen from here.
    """
    used = _used(world, seen)
    if used is None or used <= idle_mib(state) or state.holders or seen.lease is not None or occupants(world, seen):
        return None
    return None if state.released_at is not None and now < state.released_at + RELEASE_S else used


def idle_mib(state: GpuState) -> Mib:
    """Return the most memory that counts as none in use: the least ever seen, and what a driver moves by."""
    return Mib((_UNSEEN_MIB if state.baseline_mib is None else state.baseline_mib) + SETTLED_MIB)


def looks_wanted(world: World, state: GpuState, now: Timestamp) -> bool:
    """Return whether only another look can change a GPU's state: it is releasing, foreign, unreadable, sick or lost."""
    if state.gpu.simulated or not state.present:
        return False
    now_is = condition(world, state, now)
    if now_is is Condition.UNHEALTHY:
        return not any(fault.person for fault in state.health.faults.values())
    return now_is in {Condition.RELEASING, Condition.FOREIGN, Condition.UNKNOWN, Condition.LOST}


def _used(world: World, seen: Reading) -> Mib | None:
    """Return the memory in use beside what those hold who are to be left out: who draws comes and goes as they like.

    None where that is not known of one of them.
    """
    counted = {process.pid for process in occupants(world, seen)}
    left_out = [process.memory_mib for process in seen.processes or () if process.pid not in counted]
    if seen.memory_used_mib is None or None in left_out:
        return None
    return Mib(max(0, seen.memory_used_mib - sum(mib or 0 for mib in left_out)))


def _program(process: GpuProcess) -> str:
    command = process.command or ""
    return command.split(" ", 1)[0].rsplit("/", 1)[-1]
