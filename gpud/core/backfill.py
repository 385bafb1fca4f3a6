"""EASY backfill: the first job blocked by capacity reserves, and nothing later may delay it.

(Lifka, "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, TPDS 2001.) The reservation names a node, its
GPUs there and the earliest moment at which everything it needs will be free: ends come from time limits, and where
there is none from `Rules.assumed_runtime_s`; an end that has passed is corrected to one soon. A later job may
use reserved GPUs only if its own time limit ends before that moment. A reservation is sticky: it moves only to a
strictly earlier moment, or when it can no longer be kept.

Cost: O(active jobs) once a cycle, while a job is blocked.
"""

from dataclasses import dataclass

from gpud.core.active import ActiveJob
from gpud.core.condition import RELEASE_S, Condition, condition
from gpud.core.fleet import GpuState
from gpud.core.rooms import Room, place
from gpud.core.world import Reservation, World
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import Demand, JobId, Running, Starting, Stopping
from gpud.model.units import Seconds, Timestamp

STARTING_S: Seconds = 5.0  # may pass between a start and the moment from which the time limit counts
OVERRUN_S: Seconds = 60.0  # at least; and a quarter of what it has overrun already, so that a guess is not made often


@dataclass(slots=True)
class Guard:
    """A reservation in force during one cycle, and what may still be taken beside it beyond its moment."""

    reservation: Reservation
    spare_cpus: int
    spare_memory_mib: int

    def withheld(self, demand: Demand, room: Room, now: Timestamp) -> frozenset[GpuId] | None:
        """Return the GPUs of a node that this demand must leave alone; None if the whole node is closed to it."""
        kept = self.reservation
        if room.name != kept.node or self._over_in_time(demand, now):
            return frozenset()
        if 0 < demand.cpus_counted > self.spare_cpus or 0 < demand.memory_mib > self.spare_memory_mib:
            return None
        return kept.gpus

    def took(self, demand: Demand, room: Room, now: Timestamp) -> None:
        """Count a start on the reservation's node that lasts beyond its moment."""
        if room.name == self.reservation.node and not self._over_in_time(demand, now):
            self.spare_cpus -= demand.cpus_counted
            self.spare_memory_mib -= demand.memory_mib

    def _over_in_time(self, demand: Demand, now: Timestamp) -> bool:
        return demand.time_limit_s is not None and now + STARTING_S + demand.time_limit_s <= self.reservation.at


@dataclass(frozen=True, slots=True)
class _Freed:
    """What a node has again from `at` on."""

    at: Timestamp
    gpus: tuple[GpuState, ...] = ()
    cpus: int = 0
    memory_mib: int = 0


def reserve(world: World, job: JobId, demand: Demand, spaces: list[Room], now: Timestamp) -> Guard | None:
    """Return the reservation for a job that does not fit now; None where no end of any job would make it fit."""
    freed = _freed(world, now)
    options = [
        option for room in spaces if (option := _earliest(job, demand, room, freed.get(room.name, []))) is not None
    ]
    if not options:
        return None
    chosen = min(options, key=lambda option: option.at)
    kept = world.reservation
    if kept is not None and kept.job == job and now < kept.at <= chosen.at:
        guard = _guard(kept, spaces, freed)
        if guard is not None:
            return guard
    return _guard(chosen, spaces, freed)


def expected_end(world: World, active: ActiveJob, now: Timestamp) -> Timestamp:
    """Return when an active job will be over, as far as anything is known."""
    limit_s = active.terms.time_limit_s
    runs_s = world.rules.assumed_runtime_s if limit_s is None else limit_s
    match active.state:
        case Starting(since=since):
            end = since + STARTING_S + runs_s
        case Running(since=since):
            end = since + runs_s
        case Stopping(kill_at=kill_at, started=started):
            end = kill_at if started is None else min(kill_at, started + runs_s)
    return Timestamp(end) if end > now else Timestamp(now + max(OVERRUN_S, (now - end) / 4))


def _freed(world: World, now: Timestamp) -> dict[NodeName, list[_Freed]]:
    """Return what every node gets back, in order: as its jobs end, and as GPUs settle after the end of one."""
    freed: dict[NodeName, list[_Freed]] = {}
    for active in world.active.values():
        held = active.state.allocation
        # Not what is drained or lost: it will not be given out again when its job ends.
        gpus = [world.gpus[gpu] for gpu in held.gpus if gpu in world.gpus]
        back = tuple(gpu for gpu in gpus if gpu.drained is None and condition(world, gpu, now) is Condition.BUSY)
        at = expected_end(world, active, now)
        freed.setdefault(held.node, []).append(_Freed(at, back, held.cpus, held.memory_mib))
    for gpu in world.gpus.values():
        if gpu.released_at is not None and condition(world, gpu, now) is Condition.RELEASING:
            freed.setdefault(gpu.node, []).append(_Freed(Timestamp(gpu.released_at + RELEASE_S), (gpu,)))
    for each in freed.values():
        each.sort(key=lambda one: one.at)
    return freed


def _earliest(job: JobId, demand: Demand, room: Room, freed: list[_Freed]) -> Reservation | None:
    """Return the first moment at which the node, as it gets things back one by one, has room."""
    future = Room(room.node, list(room.free), room.cpus, room.memory_mib)
    for each in freed:
        _give_back(future, each)
        fit = place(demand, future)
        if fit is not None:
            gpus = frozenset(fit.gpus)
            return Reservation(job=job, at=each.at, node=room.name, gpus=gpus, cpus=fit.cpus, memory_mib=fit.memory_mib)
    return None


def _guard(kept: Reservation, spaces: list[Room], freed: dict[NodeName, list[_Freed]]) -> Guard | None:
    """Return a reservation put in force; None if what it names will not be there in time."""
    room = next((room for room in spaces if room.name == kept.node), None)
    if room is None:
        return None
    future = Room(room.node, list(room.free), room.cpus, room.memory_mib)
    for each in freed.get(room.name, []):
        if each.at <= kept.at:
            _give_back(future, each)
    there = kept.gpus <= {state.gpu.id for state in future.free}
    if not there or 0 < kept.cpus > future.cpus or 0 < kept.memory_mib > future.memory_mib:
        return None
    return Guard(kept, future.cpus - kept.cpus, future.memory_mib - kept.memory_mib)


def _give_back(room: Room, freed: _Freed) -> None:
    room.free += freed.gpus
    room.cpus += freed.cpus
    room.memory_mib += freed.memory_mib
