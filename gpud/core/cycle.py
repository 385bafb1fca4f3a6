"""Who runs next, and why everyone else waits.

`cycle` takes one batch of inputs into the world, decides, and returns what to make durable, what to do and what to
answer. It is deterministic: no clock, no disk, no GPU, no randomness. Every queued job leaves it with an allocation
or a reason to wait, so `gpuctl why` can never disagree with what the scheduler did.

Cost: O(inputs + demands + GPUs + starts x log lines). A million queued jobs cost what a thousand do.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gpud.core import (
    arrays,
    census,
    choice,
    exits,
    foreign,
    jobs,
    nursing,
    oversight,
    sampling,
    submits,
    tenants,
    updates,
)
from gpud.core.active import ActiveJob
from gpud.core.alerts import alert
from gpud.core.backfill import freed_at, latest_end
from gpud.core.commands import (
    Asked,
    Cancel,
    Changed,
    ChoosePolicy,
    Command,
    DeleteReservation,
    DeleteTenant,
    Done,
    Drain,
    Hold,
    Interrupt,
    Pause,
    PutTenant,
    Release,
    Reply,
    Requeue,
    Reserve,
    SetPriority,
    Signal,
    Submit,
    SubmitMany,
    Update,
)
from gpud.core.condition import RELEASE_S, looks_wanted, take_in
from gpud.core.ends import settle
from gpud.core.failing import hold_failing, let_go_released
from gpud.core.fleet import GpuState, NodeState
from gpud.core.health import LATE
from gpud.core.outcome import Outcome
from gpud.core.requeue import requeue, requeue_finished
from gpud.core.schedule import schedule
from gpud.core.waits import Looking
from gpud.core.world import World
from gpud.model.changes import InventoryPut, SettingPut, Told
from gpud.model.job import JobId
from gpud.model.observations import Exited, GpuSeen, NodeSeen, Noticed, Observation, Started, XidSeen
from gpud.model.spec import LoadedJob
from gpud.model.units import Seconds, Timestamp

Input = Command | Observation

LOOK_RELEASING_S: Seconds = 0.5
LOOK_BLOCKED_S: Seconds = 2.0


def cycle(world: World, inputs: Sequence[Input], now: Timestamp) -> Outcome:
    """Take the inputs in, in their order, start what can start, and return everything that follows."""
    out = Outcome(now)
    world.predictor.now = now
    # A reservation whose moment has come and gone was for a job that overruns: it moves.
    stirred = bool(world.reservations) and any(kept.at <= now for kept in world.reservations.values())
    stirred |= world.rethink_at is not None and world.rethink_at <= now
    if world.windows or world.tenants:
        stirred |= tenants.turn(world, out)
    for job in world.alarms.due(now):
        jobs.come_due(world, out, job)
        stirred = True
    for each in inputs:
        stirred |= _TAKES.get(type(each), _command)(world, out, each)
    stirred |= bool(world.real) and _blame_late(world, out)
    if out.surveyed:
        census.take(world, out)
    if stirred:
        if world.groups.due:
            hold_failing(world, out)
        if out.touched or world.after.unsettled:
            settle(world, out)
        schedule(world, out)
    out.changes += world.usage.lifted()
    if out.told:
        submits.answer(world, out)
    _look_around(world, out)
    out.close(world)
    return out


def _ask(world: World, out: Outcome, asked: Asked) -> bool:  # noqa: ARG001 - each takes one input in alike
    out.asked.append(asked.token)
    return False


def _start(world: World, out: Outcome, seen: Started) -> bool:
    active = world.active.get(seen.job)
    stirs = active is not None and start_matters(world, active, seen.at)
    if active is not None and stirs:
        world.ends_sooner(active)
    jobs.started(world, out, seen)
    if not stirs and len(world.queue) and world.policy.keeps_off(seen.job):
        # Whoever looked who must yield meanwhile did not see it: only who runs can be preempted, and only then.
        yields_at = Timestamp(seen.at + world.rules.preempt_after_s)
        world.rethink_at = yields_at if world.rethink_at is None else min(world.rethink_at, yields_at)
        return yields_at <= out.now
    return stirs


def _end(world: World, out: Outcome, seen: Exited) -> bool:
    exits.exited(world, out, seen)
    return True


def _submit(world: World, out: Outcome, asked: Submit) -> bool:
    submits.submit(world, out, asked)
    return world.rules.backfill or not world.blocked  # else it stands behind who does not fit, and passes nobody


def _submit_many(world: World, out: Outcome, asked: SubmitMany) -> bool:
    submits.submit_many(world, out, asked)
    return True


def _notice(world: World, out: Outcome, noticed: Noticed) -> bool:  # noqa: ARG001 - as above
    alert(out, noticed.what, noticed.message)
    return True


def _see_node(world: World, out: Outcome, seen: NodeSeen) -> bool:
    node = seen.node
    out.surveyed = True
    world.see_node(node)
    world.sooner.add(node.name)
    world.eased.update(world.shut)  # what is guaranteed depends on what there is
    out.changes.append(InventoryPut(out.now, node))
    nursing.surveyed(world, out, world.nodes[node.name])
    for state in world.nodes[node.name].gpus:
        if state.present and not state.gpu.simulated and state.seen is None:
            out.look(state.node, state.gpu.id)
        if not state.present:
            oversight.end_lost(world, out, state)
    return True


def _see_xid(world: World, out: Outcome, seen: XidSeen) -> bool:
    state = world.gpus.get(seen.gpu)
    if state is not None:
        nursing.reported(world, out, state, seen.xid)
        oversight.end_lost(world, out, state)
    return True


def _see_gpu(world: World, out: Outcome, seen: GpuSeen) -> bool:
    state = world.gpus.get(seen.gpu)
    if state is None:
        return True
    take_in(world, state, seen.reading, out.now)
    sampling.note(world, state, seen.reading)
    if not state.gpu.simulated:  # what is on paper is never ill, and has no strangers
        for heed in (nursing.note, foreign.note, oversight.note):
            heed(world, out, state, seen.reading)
    world.dirty.add(state.node)
    world.sooner.add(state.node)
    return True


def start_matters(world: World, active: ActiveJob, at: Timestamp) -> bool:
    """Return whether it depends on when a job started what others may have, or when.

    A start frees nothing, and where nobody waits nobody asks. At most it brings an end some seconds nearer, or makes it
    as much later, and with it what is reserved for about then. Nobody is preempted at once who has just started: who
    waits for that has asked for a look later.
    """
    if not len(world.queue):
        return False
    if world.preemptible or world.tenants:
        return True
    if world.policy.preemptive and not world.rules.preempt_after_s and world.policy.preempts(at):
        return True
    if not world.reservations:
        return False
    # Where it should be over already, its end is moved on from round to round: it was expected somewhere in between.
    limit_s = active.terms.time_limit_s
    was, will_be = latest_end(world, active), at + (world.expects_s[active.job] if limit_s is None else limit_s)
    first, last = min(was, will_be), max(was, will_be, freed_at(world, active, at))
    return any(first <= kept.at <= last for kept in world.reservations.values())


def _look_around(world: World, out: Outcome) -> None:
    """Ask for looks that have something to tell, again and again until they do.

    At a GPU that a start waits for, or whose job has ended: soon; at one that only a look can free (foreign,
    unreadable): slowly, while a job waits.
    """
    wakes = [world.alarms.next_at, world.rethink_at, sampling.look(world, out), nursing.look(world, out)]
    if world.reservations:
        wakes += [kept.at for kept in world.reservations.values()]
    if world.windows or world.tenants:
        wakes.append(tenants.wake_at(world))
    if world.real:
        wakes.append(_look_at_real(world, out))
    out.wake_at = min([at for at in wakes if at is not None], default=None)


def _blame_late(world: World, out: Outcome) -> bool:
    """See which GPUs that starts wait for have not answered when others have: who can go elsewhere need not wait."""
    waited = {gpu for wait in world.blocked.values() if isinstance(wait, Looking) for gpu in wait.gpus}
    late = [state for gpu in sorted(waited) if _due(state := world.gpus[gpu], LOOK_RELEASING_S, out.now)]
    late = [state for state in late if "late" not in state.health.faults and _is_behind(world, state)]
    for state in late:
        nursing.blame(world, out, state, "late", LATE)
    return bool(late)


def _is_behind(world: World, state: GpuState) -> bool:
    asked_at = state.asked_at or 0.0
    heard = {each.gpu.id for each in world.nodes[state.node].gpus if (each.heard_at or 0.0) >= asked_at}
    return bool(heard) and state.gpu.id not in heard


def _look_at_real(world: World, out: Outcome) -> Timestamp | None:
    """Ask for looks at GPUs that are not on paper, as above; return when to ask for the next, if ever.

    Where one is due, those go along that were looked at half as long ago, so that many do not wake us one by one.
    """
    looks: list[tuple[GpuState, Seconds]] = []
    wanted = [wait.gpus for wait in world.blocked.values() if isinstance(wait, Looking)]
    soon = {gpu for gpus in wanted for gpu in gpus}
    # What one job waits for is looked at together: one by one, the first would be stale when the last is fresh.
    together = {
        gpu for gpus in wanted if any(_due(world.gpus[gpu], LOOK_RELEASING_S, out.now) for gpu in gpus) for gpu in gpus
    }
    waits = len(world.queue) and world.paused is None
    for name in world.real:
        for state in world.nodes[name].gpus:
            settles = state.released_at is not None and out.now < state.released_at + RELEASE_S
            if state.gpu.id in soon or (settles and looks_wanted(world, state, out.now)):
                every_s = LOOK_RELEASING_S
            elif waits and looks_wanted(world, state, out.now):
                every_s = LOOK_BLOCKED_S
            else:
                continue
            looks.append((state, every_s))
    if together or any(_due(state, every_s, out.now) for state, every_s in looks):
        for state, every_s in looks:
            if state.gpu.id in together or _due(state, every_s / 2, out.now):
                state.asked_at = out.now
                out.look(state.node, state.gpu.id)
    return min((Timestamp((state.asked_at or out.now) + every_s) for state, every_s in looks), default=None)


def _due(state: GpuState, every_s: Seconds, now: Timestamp) -> bool:
    return state.asked_at is None or state.asked_at + every_s <= now


def _command(world: World, out: Outcome, asked: Command) -> bool:
    """Do what was asked of many jobs, each for itself, or of the scheduler."""
    reply = _of_scheduler(world, out, asked)
    out.replies.append((asked.token, _of_jobs(world, out, asked) if reply is None else reply))
    return True


def _of_scheduler(world: World, out: Outcome, asked: Command) -> Reply | None:
    """Do what is not asked of each job for itself; None where it is."""
    match asked:
        case Update():
            return updates.update(world, out, asked)
        case Drain():
            return _drain(world, out, asked)
        case ChoosePolicy():
            return choice.choose(world, out, asked)
        case PutTenant() | DeleteTenant() | Reserve() | DeleteReservation():
            return tenants.change(world, out, asked)
        case Pause(_, reason, by):
            changed = world.paused != reason
            world.paused = reason
            if changed:
                out.changes.append(SettingPut("paused", reason))
                kind = "paused" if reason is not None else "resumed"
                out.changes.append(Told(out.now, kind, {"by": by} if reason is None else {"by": by, "reason": reason}))
            return Done(changed)
        case _:
            return None


def _of_jobs(world: World, out: Outcome, asked: Command) -> Changed:
    finished: tuple[LoadedJob, ...] = ()
    named: tuple[JobId, ...] = ()
    act: jobs.Act
    match asked:
        case Cancel(_, named):
            act = partial(jobs.cancel, force=asked.force, by=asked.by, waiting=asked.waiting)
        case Hold(_, named):
            act = jobs.hold
        case Release(_, named):
            act = jobs.release
        case Requeue(_, named, finished):
            act = requeue
        case SetPriority(_, named):
            act = partial(jobs.prioritise, priority=asked.priority)
        case Interrupt(_, named):
            act = partial(jobs.interrupt, by=asked.by)
        case Signal(_, named):
            act = partial(jobs.send_signal, number=asked.number, by=asked.by)
        case _:
            raise TypeError(asked)
    gone: set[JobId] = set()
    if isinstance(asked, Requeue):
        out.count(world)  # how many wait is asked of the books
    else:
        act = partial(jobs.every, act=act)
    if isinstance(asked, Cancel):
        gone = arrays.drop_named(world, out, named, asked.by)
    elif isinstance(asked, Hold | Release | SetPriority):
        arrays.unfold_named(world, out, named)
    notes = [(job, None if job in gone else act(world, out, job)) for job in named]
    notes += requeue_finished(world, out, finished)
    changed_jobs = tuple(job for job, note in notes if note is None)
    if isinstance(asked, Release):
        let_go_released(world, changed_jobs)
    return Changed(changed_jobs, tuple((job, note) for job, note in notes if note))


def _drain(world: World, out: Outcome, asked: Drain) -> Done:
    states: list[GpuState | NodeState] = [
        *(world.gpus[gpu] for gpu in asked.gpus if gpu in world.gpus),
        *(world.nodes[node] for node in asked.nodes if node in world.nodes),
    ]
    changed = any(state.drained != asked.reason for state in states)
    absolved = False
    if asked.reason is None:  # who gives a drained node back has not looked at each of its GPUs
        looked_at = [state for state in states if isinstance(state, GpuState) or state.drained is None]
        meant = [gpu for state in looked_at for gpu in (state.gpus if isinstance(state, NodeState) else [state])]
        absolved = nursing.absolve(world, out, meant)
    for state in states:
        state.drained = asked.reason
        node = state.node if isinstance(state, GpuState) else state.node.name
        world.dirty.add(node)
        world.sooner.add(node)
        if isinstance(state, GpuState):
            world.drained.pop(state.gpu.id, None)
            if asked.reason is not None:
                world.drained[state.gpu.id] = asked.reason
    if changed:
        nodes = {name: node.drained for name, node in world.nodes.items() if node.drained is not None}
        kind = "drained" if asked.reason is not None else "undrained"
        detail: dict[str, object] = {"by": asked.by, "gpus": list(asked.gpus), "nodes": list(asked.nodes)}
        detail |= {"reason": asked.reason}
        drained = {"gpus": dict(world.drained), "nodes": nodes}
        out.changes += [SettingPut("drained", drained), Told(out.now, kind, detail)]
    return Done(changed or absolved)


# How each kind of input is taken in, and whether that may let somebody start. What is not here is a command.
_TAKES: dict[type, Callable[[World, Outcome, Any], bool]] = {
    Asked: _ask,
    Started: _start,
    Exited: _end,
    Submit: _submit,
    SubmitMany: _submit_many,
    NodeSeen: _see_node,
    GpuSeen: _see_gpu,
    XidSeen: _see_xid,
    Noticed: _notice,
}
