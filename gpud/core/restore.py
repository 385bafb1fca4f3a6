"""A world as the store remembers it, and what must be found out about it."""

from collections.abc import Iterable, Mapping

from gpud.core import census, choice, foreign, nursing, sampling, tenants
from gpud.core.active import ActiveJob
from gpud.core.books import held
from gpud.core.world import Array, World
from gpud.model.changes import Change, UsePut
from gpud.model.effects import Look, SetLimit, look_at
from gpud.model.gpu import GpuId, Node, NodeName
from gpud.model.job import Active, JobId, Stopping, array_of, index_of
from gpud.model.spec import LoadedJob, Place, Terms
from gpud.model.units import Seconds, Timestamp


def restore(
    world: World,
    *,
    nodes: Iterable[Node],
    waiting: Iterable[tuple[JobId, Terms, int, int]],
    others: Iterable[LoadedJob],
    settings: Mapping[str, object],
    next_number: int,
    runs: Iterable[tuple[Terms, Seconds, bool]] = (),
    accounts: Iterable[UsePut] = (),
    grouped: Iterable[tuple[JobId, int, str, str | None]] = (),
) -> list[Look | SetLimit]:
    """Fill an empty world, and return a look at every attempt that may still be running, and how long it may.

    `waiting` are jobs and elements in line for their first attempt: (job, terms, priority, queued_us). `others` are
    arrays, and parked, retried and active ones. `runs` ended, the newest last, by themselves or not; `accounts` are
    what everybody has used; `grouped` are jobs and arrays of groups, with whose they are, their group and key.
    """
    for terms, ran_s, own_end in runs:
        world.predictor.learn(terms, ran_s, own_end=own_end)
        if own_end:
            world.spaces.learn(terms.demand)
    world.usage.restore(accounts)
    world.next_number = next_number
    for node in nodes:
        world.remember(node)
    _restore_settings(world, settings)
    world.groups.restore(grouped, settings)
    elements: list[LoadedJob] = []
    _note_active(world, others := list(others))
    world.queue.fill(_plain(world, waiting, elements))
    for line in world.queue.lines():
        world.books.queue(line.terms, line.count)
    looks: list[Look | SetLimit] = []
    # Arrays first: their elements count against them.
    for loaded in sorted([*others, *elements], key=lambda each: index_of(each.job) is not None):
        world.queued_us = max(world.queued_us, loaded.place.queued_us)
        if index_of(loaded.job) is not None:
            world.arrays[array_of(loaded.job)].elements[loaded.job] = None
        elif loaded.array is not None:
            world.arrays[loaded.job] = Array(loaded.terms, loaded.place, loaded.array)
        if loaded.place.awaits:  # an element may wait again where its array, once over, does not
            world.after.follow(array_of(loaded.job), loaded.after, dict(loaded.ends))
        if loaded.active is None:
            if loaded.array is None or loaded.array.pending:
                world.wait(loaded.job, loaded.terms, loaded.place)
            continue
        active = _active(loaded, loaded.active)
        world.enter(active)
        world.policy.started(active, active.since)
        sampling.begin(world, active)
        looks.append(look_at(loaded.job, loaded.place.attempt, loaded.active))
        looks.append(SetLimit(loaded.job, loaded.place.attempt, loaded.terms.time_limit_s))
        if isinstance(loaded.active, Stopping):
            world.alarms.set(loaded.active.kill_at, loaded.job)
    sampling.restore(world, settings)
    for job, array in world.arrays.items():
        world.throttle(job)
        world.books.pend(job, array.terms, len(array.state.pending))
    return looks


def parting(world: World, now: Timestamp) -> list[Change]:
    """Return what to keep of a world that ends in good order, of what is else kept now and then."""
    return [*foreign.kept(world, now), *sampling.kept(world, now)]


def carry_over(before: World, world: World, lost: Iterable[Change] = ()) -> None:
    """Take over what was seen of the hardware, and what it added up to, by the world before a reload.

    Of faults that need a person what is stored counts: what was not made durable is seen, and told, again. `lost` is
    what could not be kept: of it strangers' use is charged with the next.
    """
    for gpu, state in before.gpus.items():
        if gpu in world.gpus:
            now = world.gpus[gpu]
            passing = {cause: fault for cause, fault in state.health.faults.items() if not fault.person}
            state.health.faults = passing | now.health.faults
            state.health.heard.clear()
            now.see(state.seen)
            now.heard_at, now.health = state.heard_at, state.health
            now.baseline_mib, now.released_at = state.baseline_mib, state.released_at
    world.care = before.care
    world.rethink_at = Timestamp(0.0)  # under other settings somebody may start, though nothing happened
    foreign.owe(world, lost)
    known = before.samples.tallies.items()
    world.samples.tallies = {job: tallies for job, tallies in known if job in world.active}


def _note_active(world: World, others: Iterable[LoadedJob]) -> None:
    """Let the bursts of what runs be known before who waits is told of: that mostly came later."""
    for each in sorted((each for each in others if each.active is not None), key=lambda each: each.job):
        world.bursts.came(each.job, each.terms, each.place.queued_us)


def _active(loaded: LoadedJob, state: Active) -> ActiveJob:
    milli = held(loaded.terms.demand, state.allocation)
    return ActiveJob(loaded.job, loaded.terms, loaded.place, state, milli)


def _plain(
    world: World, waiting: Iterable[tuple[JobId, Terms, int, int]], elements: list[LoadedJob]
) -> Iterable[tuple[JobId, Terms, int]]:
    """Yield what stands in lines, and put elements of arrays aside."""
    order = world.policy.order
    for job, terms, priority, queued_us in waiting:
        world.queued_us = max(world.queued_us, queued_us)
        world.bursts.came(job, terms, queued_us)
        if index_of(job) is not None:
            place = Place(priority=priority, queued_us=queued_us)
            elements.append(LoadedJob(job=job, terms=terms, place=place))
        elif priority:
            place = world.places[job] = Place(priority=priority, queued_us=queued_us)
            yield job, terms, order(place)
        else:
            yield job, terms, queued_us


def _restore_settings(world: World, settings: Mapping[str, object]) -> None:
    tenants.restore(world, settings)
    census.restore(world, settings)
    nursing.restore(world, settings)
    foreign.restore(world, settings)
    choice.restore(world, settings)
    paused = settings.get("paused")
    world.paused = paused if isinstance(paused, str) else None
    drained = settings.get("drained")
    if not isinstance(drained, dict):
        return
    world.drained = {GpuId(gpu): str(reason) for gpu, reason in drained.get("gpus", {}).items()}
    for gpu, reason in world.drained.items():
        if gpu in world.gpus:
            world.gpus[gpu].drained = reason
    for name, reason in drained.get("nodes", {}).items():
        if NodeName(name) in world.nodes:
            world.nodes[NodeName(name)].drained = str(reason)
