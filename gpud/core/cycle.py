"""Who runs next, and why everyone else waits.

`cycle` takes one batch of inputs into the world, decides, and returns what to make durable, what to do and what to
answer. It is deterministic: no clock, no disk, no GPU, no randomness. Every queued job leaves it with an allocation
or a reason to wait, so `gpuctl why` can never disagree with what the scheduler did.

Cost: O(inputs + demands + GPUs + starts x log lines). A million queued jobs cost what a thousand do.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from heapq import heappop, heapreplace

from gpud.core import arrays, jobs
from gpud.core.admit import never_fits
from gpud.core.backfill import Guard, reserve
from gpud.core.commands import (
    Accepted,
    Asked,
    Cancel,
    Changed,
    Command,
    Done,
    Drain,
    Hold,
    Interrupt,
    Pause,
    Release,
    Requeue,
    SetPriority,
    Submit,
)
from gpud.core.condition import fresh, looks_wanted, take_in
from gpud.core.fleet import GpuState, NodeState
from gpud.core.outcome import Outcome
from gpud.core.placement import suits
from gpud.core.queue import job_of
from gpud.core.rooms import Room, best, rooms
from gpud.core.waits import Looking, YieldsTo
from gpud.core.why import why
from gpud.core.world import Array, World
from gpud.model.changes import Added, InventoryPut, SettingPut, Told
from gpud.model.gpu import Allocation, GpuId
from gpud.model.job import Demand, JobId, job_id
from gpud.model.observations import Exited, GpuSeen, NodeSeen, Observation, Started
from gpud.model.spec import ArrayState, LoadedJob, Park, Place
from gpud.model.units import Seconds, Timestamp

Input = Command | Observation

RESERVE_TRIES = 16  # a job that waits for no end of another (a foreign process) is passed over; not for ever
LOOK_RELEASING_S: Seconds = 0.5
LOOK_BLOCKED_S: Seconds = 2.0


def cycle(world: World, inputs: Sequence[Input], now: Timestamp) -> Outcome:
    """Take the inputs in, in their order, start what can start, and return everything that follows."""
    out = Outcome(now)
    told: list[tuple[int, JobId]] = []
    # A reservation whose moment has come and gone was for a job that overruns: it moves.
    stirred = world.reservation is not None and world.reservation.at <= now
    for job in world.due(now):
        jobs.come_due(world, out, job)
        stirred = True
    for each in inputs:
        if isinstance(each, Asked):
            out.asked.append(each.token)
            continue
        stirred = True
        match each:
            case Started():
                jobs.started(world, out, each)
            case Exited():
                jobs.exited(world, out, each)
            case NodeSeen(node):
                world.see_node(node)
                out.changes.append(InventoryPut(now, node))
                for state in world.nodes[node.name].gpus:
                    if state.present and not state.gpu.simulated and state.seen is None:
                        out.look(state.node, state.gpu.id)
            case GpuSeen(_, gpu, reading):
                if gpu in world.gpus:
                    take_in(world, world.gpus[gpu], reading, now)
            case Submit():
                _submit(world, out, each, told)
            case _:
                _command(world, out, each)
    if stirred:
        schedule(world, out)
    for token, job in told:
        out.replies.append((token, Accepted(job, world.queue.position(job), why(world, job, now))))
    _look_around(world, out)
    out.close(world)
    return out


def schedule(world: World, out: Outcome) -> None:
    """Start every job that may start now, in order; the first that capacity blocks reserves."""
    world.blocked.clear()
    if world.paused is not None or not len(world.queue):
        world.reservation = None
        return
    spaces = rooms(world, out.now)
    guard: Guard | None = None
    tries = RESERVE_TRIES
    heads = world.queue.heads()
    while heads:
        _, entry, demand = heads[0]
        found = best(demand, _open_to(demand, spaces, guard, out.now))
        if found is None:
            heappop(heads)
            world.blocked[demand] = None
            if guard is not None:
                if best(demand, _open_to(demand, spaces, None, out.now)) is not None:
                    world.blocked[demand] = YieldsTo(guard.reservation.job, guard.reservation.at)
            elif tries:
                tries -= 1
                guard = reserve(world, job_of(entry), demand, spaces, out.now)
            continue
        room, allocation = found
        stale = _stale(world, room, demand, allocation, out.now)
        room.take(allocation)
        if guard is not None:
            guard.took(demand, room, out.now)
        if stale:
            heappop(heads)
            world.blocked[demand] = Looking(tuple(stale))
            continue
        first = world.queue.first(demand)
        assert first is not None and first[1] is entry, demand  # noqa: S101, PT018 - heads are as the queue has them
        jobs.start(world, out, job_of(entry), first[2].terms, allocation)
        following = world.queue.first(demand)
        if following is None:
            heappop(heads)
        else:
            heapreplace(heads, (following[0], following[1], demand))
    world.reservation = guard.reservation if guard is not None else None


def _open_to(
    demand: Demand, spaces: list[Room], guard: Guard | None, now: Timestamp
) -> Iterable[tuple[Room, frozenset[GpuId]]]:
    """Yield the nodes that a demand may use, each with the GPUs that it must leave alone."""
    for room in spaces:
        withheld = frozenset[GpuId]() if guard is None else guard.withheld(demand, room, now)
        if withheld is not None:
            yield room, withheld


def _stale(world: World, room: Room, demand: Demand, allocation: Allocation, now: Timestamp) -> list[GpuId]:
    """Return the GPUs to look at before this allocation may be given: with it all that the next alike could get."""
    if all(fresh(world.gpus[gpu], now) for gpu in allocation.gpus):
        return []
    return [
        state.gpu.id
        for state in room.free
        if not fresh(state, now) and (state.gpu.id in allocation.gpus or suits(demand, state.gpu))
    ]


def _look_around(world: World, out: Outcome) -> None:
    """Ask for looks that have something to tell, again and again until they do.

    At a GPU that a start waits for, or whose job has ended: soon; at one that only a look can free (foreign,
    unreadable): slowly, while a job waits.
    """
    wakes = [] if world.wake_at is None else [world.wake_at]
    if world.reservation is not None:
        wakes.append(world.reservation.at)
    soon = {gpu for wait in world.blocked.values() if isinstance(wait, Looking) for gpu in wait.gpus}
    for node in world.nodes.values():
        for state in node.gpus:
            if state.gpu.id in soon or (state.released_at is not None and looks_wanted(world, state, out.now)):
                every_s = LOOK_RELEASING_S
            elif world.blocked and looks_wanted(world, state, out.now):
                every_s = LOOK_BLOCKED_S
            else:
                continue
            if state.asked_at is None or state.asked_at + every_s <= out.now:
                state.asked_at = out.now
                out.look(state.node, state.gpu.id)
            wakes.append(Timestamp(state.asked_at + every_s))
    out.wake_at = min(wakes, default=None)


def _submit(world: World, out: Outcome, asked: Submit, told: list[tuple[int, JobId]]) -> None:
    spec = asked.spec
    refused = never_fits(world, spec.terms.demand)
    if refused is not None:
        out.replies.append((asked.token, refused))
        return
    if asked.dry_run:
        out.replies.append((asked.token, Accepted(None)))
        return
    job = job_id(world.next_number)
    world.next_number += 1
    later = spec.begin_at is not None and spec.begin_at > out.now
    place = Place(
        priority=spec.priority,
        queued_us=world.moment_us(out.now),
        park=Park.HELD if spec.hold else Park.BEGIN if later else None,
        not_before=spec.begin_at if later else None,
    )
    array = None
    if spec.array is not None:
        array = ArrayState(pending=spec.array, throttle=spec.throttle)
        world.arrays[job] = Array(spec.terms, place, array)
    out.changes.append(Added(job, out.now, spec, place, array))
    world.wait(job, spec.terms, place)
    if asked.tell:
        told.append((asked.token, job))
    else:
        out.replies.append((asked.token, Accepted(job)))


def _command(world: World, out: Outcome, asked: Command) -> None:
    """Do what was asked of many jobs, each for itself, or of the scheduler."""
    finished: tuple[LoadedJob, ...] = ()
    act: jobs.Act
    match asked:
        case Cancel():
            act = partial(jobs.cancel, force=asked.force)
        case Hold():
            act = jobs.hold
        case Release():
            act = jobs.release
        case Requeue():
            act, finished = jobs.requeue, asked.finished
        case SetPriority():
            act = partial(jobs.prioritise, priority=asked.priority)
        case Interrupt():
            act = jobs.interrupt
        case Drain():
            out.replies.append((asked.token, _drain(world, out, asked)))
            return
        case Pause(token, reason):
            changed = world.paused != reason
            world.paused = reason
            if changed:
                out.changes.append(SettingPut("paused", reason))
                kind = "paused" if reason is not None else "resumed"
                out.changes.append(Told(out.now, kind, {} if reason is None else {"reason": reason}))
            out.replies.append((token, Done(changed)))
            return
        case _:
            raise TypeError(asked)
    gone: set[JobId] = set()
    if isinstance(asked, Cancel):
        gone = arrays.drop_named(world, out, asked.jobs)
    elif isinstance(asked, Hold | Release | SetPriority):
        arrays.unfold_named(world, out, asked.jobs)
    notes = [(job, None if job in gone else jobs.every(world, out, job, act)) for job in asked.jobs]
    notes += [(loaded.job, jobs.requeue_finished(world, out, loaded)) for loaded in finished]
    changed_jobs = tuple(job for job, note in notes if note is None)
    out.replies.append((asked.token, Changed(changed_jobs, tuple((job, note) for job, note in notes if note))))


def _drain(world: World, out: Outcome, asked: Drain) -> Done:
    states: list[GpuState | NodeState] = [
        *(world.gpus[gpu] for gpu in asked.gpus if gpu in world.gpus),
        *(world.nodes[node] for node in asked.nodes if node in world.nodes),
    ]
    changed = any(state.drained != asked.reason for state in states)
    for state in states:
        state.drained = asked.reason
        if isinstance(state, GpuState):
            world.drained.pop(state.gpu.id, None)
            if asked.reason is not None:
                world.drained[state.gpu.id] = asked.reason
    if changed:
        nodes = {name: node.drained for name, node in world.nodes.items() if node.drained is not None}
        kind = "drained" if asked.reason is not None else "undrained"
        detail: dict[str, object] = {"gpus": list(asked.gpus), "nodes": list(asked.nodes), "reason": asked.reason}
        drained = {"gpus": dict(world.drained), "nodes": nodes}
        out.changes += [SettingPut("drained", drained), Told(out.now, kind, detail)]
    return Done(changed)
