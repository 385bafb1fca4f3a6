"""EASY backfill: the first job blocked by capacity reserves, and nothing later may delay it.

(Lifka, "The ANL/IBM SP scheduling system", 1995; Mu'alem and Feitelson, TPDS 2001.) The reservation names a node, its
GPUs there and the earliest moment at which everything it needs will be free: ends come from time limits, and where
there is none from `Rules.assumed_runtime_s`; an end that has passed is corrected to a minute from now. A later job may
use reserved GPUs only if its own time limit ends before that moment. A reservation is sticky: it moves only to a
strictly earlier moment, or when it can no longer be kept.
"""

from dataclasses import dataclass

from gpud.core.condition import Condition, condition
from gpud.core.placement import Room, place
from gpud.core.world import ActiveJob, Reservation, World
from gpud.model.gpu import Allocation, GpuId, NodeName
from gpud.model.job import Demand, JobId, Running, Starting, Stopping
from gpud.model.units import Seconds, Timestamp

OVERRUN_S: Seconds = 60.0


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
        if demand.cpus_counted > self.spare_cpus or demand.memory_mib > self.spare_memory_mib:
            return None
        return kept.gpus

    def took(self, demand: Demand, room: Room, now: Timestamp) -> None:
        """Count a start on the reservation's node that lasts beyond its moment."""
        if room.name == self.reservation.node and not self._over_in_time(demand, now):
            self.spare_cpus -= demand.cpus_counted
            self.spare_memory_mib -= demand.memory_mib

    def _over_in_time(self, demand: Demand, now: Timestamp) -> bool:
        return demand.time_limit_s is not None and now + demand.time_limit_s <= self.reservation.at


def reserve(world: World, job: JobId, demand: Demand, spaces: list[Room], now: Timestamp) -> Guard | None:
    """Return the reservation for a job that does not fit now; None where no end of any job would make it fit."""
    ends = _ends_by_node(world, now)
    options = [option for room in spaces if (option := _earliest(world, job, demand, room, ends, now)) is not None]
    if not options:
        return None
    chosen = min(options, key=lambda option: option.at)
    kept = world.reservation
    if kept is not None and kept.job == job and now < kept.at <= chosen.at and _can_be_kept(world, kept, now):
        chosen = kept
    room = next(room for room in spaces if room.name == chosen.node)
    freed = [allocation for at, allocation in ends[chosen.node] if at <= chosen.at]
    return Guard(
        chosen,
        room.cpus + sum(allocation.cpus for allocation in freed) - chosen.cpus,
        room.memory_mib + sum(allocation.memory_mib for allocation in freed) - chosen.memory_mib,
    )


def expected_end(world: World, active: ActiveJob, now: Timestamp) -> Timestamp:
    """Return when an active job will be over, as far as anything is known."""
    match active.state:
        case Stopping(kill_at=at):
            end = at
        case Starting(since=since) | Running(since=since):
            limit = active.terms.demand.time_limit_s
            end = Timestamp(since + (world.rules.assumed_runtime_s if limit is None else limit))
    return end if end > now else Timestamp(now + OVERRUN_S)


Ends = dict[NodeName, list[tuple[Timestamp, Allocation]]]


def _ends_by_node(world: World, now: Timestamp) -> Ends:
    ends: Ends = {}
    for active in world.active.values():
        allocation = active.state.allocation
        ends.setdefault(allocation.node, []).append((expected_end(world, active, now), allocation))
    for each in ends.values():
        each.sort(key=lambda end: end[0])
    return ends


def _earliest(world: World, job: JobId, demand: Demand, room: Room, ends: Ends, now: Timestamp) -> Reservation | None:
    """Return the first moment at which the node, as its jobs end one by one, has room."""
    future = Room(room.node, list(room.free), room.cpus, room.memory_mib)
    for at, allocation in ends.get(room.name, ()):
        future.cpus += allocation.cpus
        future.memory_mib += allocation.memory_mib
        future.free += [world.gpus[gpu] for gpu in allocation.gpus if _comes_back(world, gpu, now)]
        fit = place(demand, future)
        if fit is not None:
            return Reservation(
                job=job, at=at, node=room.name, gpus=frozenset(fit.gpus), cpus=fit.cpus, memory_mib=fit.memory_mib
            )
    return None


def _comes_back(world: World, gpu: GpuId, now: Timestamp) -> bool:
    """Return whether a GPU will be given out again when its job ends: not one that is drained or lost."""
    return world.gpus[gpu].drained is None and condition(world, world.gpus[gpu], now) is Condition.BUSY


def _can_be_kept(world: World, kept: Reservation, now: Timestamp) -> bool:
    usable = {Condition.FREE, Condition.BUSY, Condition.RELEASING}
    return all(
        gpu in world.gpus and world.gpus[gpu].drained is None and condition(world, world.gpus[gpu], now) in usable
        for gpu in kept.gpus
    )
