"""A world as the store remembers it, and what must be found out about it."""

from collections.abc import Iterable, Mapping

from gpud.core.world import ActiveJob, Array, World
from gpud.model.effects import Look
from gpud.model.gpu import GpuId, Node, NodeName
from gpud.model.job import JobId, Stopping, index_of
from gpud.model.spec import LoadedJob, Place, Terms


def restore(
    world: World,
    *,
    nodes: Iterable[Node],
    waiting: Iterable[tuple[JobId, Terms, int, int]],
    others: Iterable[LoadedJob],
    settings: Mapping[str, object],
    next_number: int,
) -> list[Look]:
    """Fill an empty world, and return a look at every attempt that may still be running.

    `waiting` are plain first attempts: (job, terms, priority, queued_us). `others` are arrays, parked, retried and
    active jobs.
    """
    world.next_number = next_number
    for node in nodes:
        world.remember(node)
    _restore_settings(world, settings)
    world.queue.fill(_plain(world, waiting))
    looks = []
    # Arrays first: their elements count against them.
    for loaded in sorted(others, key=lambda each: index_of(each.job) is not None):
        if loaded.array is not None and index_of(loaded.job) is None:
            world.arrays[loaded.job] = Array(loaded.terms, loaded.place, loaded.array)
        if loaded.active is None:
            if loaded.array is None or loaded.array.pending:
                world.wait(loaded.job, loaded.terms, loaded.place)
            continue
        world.enter(ActiveJob(loaded.job, loaded.terms, loaded.place, loaded.active))
        looks.append(Look(loaded.job, loaded.place.attempt, loaded.active.boot))
        if isinstance(loaded.active, Stopping):
            world.alarm(loaded.active.kill_at, loaded.job)
    for job in world.arrays:
        world.throttle(job)
    return looks


def _plain(world: World, waiting: Iterable[tuple[JobId, Terms, int, int]]) -> Iterable[tuple[JobId, Terms, int]]:
    order = world.policy.order
    for job, terms, priority, queued_us in waiting:
        if priority:
            place = world.places[job] = Place(priority=priority, queued_us=queued_us)
            yield job, terms, order(place)
        else:
            yield job, terms, queued_us


def _restore_settings(world: World, settings: Mapping[str, object]) -> None:
    paused = settings.get("paused")
    world.paused = paused if isinstance(paused, str) else None
    drained = settings.get("drained")
    if not isinstance(drained, dict):
        return
    for gpu, reason in drained.get("gpus", {}).items():
        if GpuId(gpu) in world.gpus:
            world.gpus[GpuId(gpu)].drained = str(reason)
    for name, reason in drained.get("nodes", {}).items():
        if NodeName(name) in world.nodes:
            world.nodes[NodeName(name)].drained = str(reason)
