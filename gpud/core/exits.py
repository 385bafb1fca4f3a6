"""An attempt is over: what it used is accounted for, what it took is learnt, and its job is over or waits again."""

from dataclasses import replace

from gpud.core import blame, jobs, lifecycle, nursing, retries, sampling
from gpud.core.active import ActiveJob
from gpud.core.backfill import STARTING_S, latest_end
from gpud.core.outcome import Outcome
from gpud.core.queue import owner_of
from gpud.core.world import World
from gpud.model.changes import AttemptEnded, Queued, TermsPut, Told
from gpud.model.effects import Forget
from gpud.model.gpu import GpuId
from gpud.model.job import End, Exit, StopCause, Stopping, index_of
from gpud.model.observations import Exited
from gpud.model.spec import Park, Place
from gpud.model.units import Seconds, Timestamp


def exited(world: World, out: Outcome, seen: Exited) -> None:
    """An attempt is over and nothing of it is left."""
    job, ended = seen.job, seen.exit
    out.effects.append(Forget(job, seen.attempt))
    active = jobs.current(world, job, seen.attempt)
    if active is None:
        return
    if world.reservations:
        _note_early(world, active, out.now)
    terms, since = active.terms, active.since
    ran_s = ended.at - since
    burst = world.bursts.of(job, terms)
    world.leave(job)
    world.books.spend(active, ended.at)
    cause = active.state.cause if isinstance(active.state, Stopping) else None
    clean = cause is None and (ended.exit_code == 0 or ended.timed_out)
    if world.real:
        _release(world, out, active)
    gpu_s = max(0.0, ran_s) * active.gpu_weight
    uses = sampling.end(world, job)
    out.changes.append(AttemptEnded(job, seen.attempt, ended, cause, terms.uid, terms.tenant, gpu_s, uses))
    if ended.containers is not None:
        out.changes.append(Told(out.now, "containers", {"reason": ended.containers, "attempt": seen.attempt}, job))
    out.changes += world.usage.charge(terms.tenant, terms.user, gpu_s, since, ended.at)
    if world.predictor.learn(terms, ran_s, own_end=clean, burst=burst):
        world.queue.lengths_anew(owner_of(terms))
    if clean:
        world.spaces.learn(terms.demand)
    if world.policy.ended(active, gpu_s, out.now):
        world.queue.rank_anew(owner_of(terms))
    _conclude(world, out, active, ended, cause, () if clean else retries.lost_gpus(world, active), gpu_s)


def _conclude(
    world: World,
    out: Outcome,
    active: ActiveJob,
    ended: Exit,
    cause: StopCause | None,
    lost: tuple[GpuId, ...],
    gpu_s: Seconds,
) -> None:
    """See what becomes of a job whose attempt had so many GPU-seconds: it is over, or waits again."""
    job, terms, rules = active.job, active.terms, world.rules
    gone = retries.named(world, lost[0]) if lost else None
    guest = blame.guest(world, active, ended)
    verdict = lifecycle.after(
        ended, cause, active.place, terms, out.now, most=rules.max_mishaps, gone=gone, guest=guest
    )
    if cause is None and world.real:
        nursing.died(world, out, active, ended, ended.at - active.since)
    world.care.forget(job)
    beside = blame.others(world, active, ended) if verdict.reason else ""
    reason = verdict.reason and f"{verdict.reason}{beside}"
    if isinstance(verdict, lifecycle.Over):
        _over(world, out, active, verdict.end, ended, reason)
        return
    if verdict.word == "retried" and guest is None:
        wanted, said = retries.terms_after(world, active, ended, lost)
        if wanted is None:
            over = f"{lifecycle.said(ended)}{beside}; not tried again: {said}"
            _over(world, out, active, End.FAILED, ended, over)
            return
        if said is not None:
            terms = wanted
            out.changes.append(TermsPut(job, out.now, terms))
            reason = f"{reason}; {said}"
    place = _again(world, active, replace(verdict.place, attained_s=active.place.attained_s + gpu_s))
    out.changes.append(Queued(job, out.now, place, verdict.word, reason))
    world.wait(job, terms, place)
    jobs.throttle(world, job)


def _over(world: World, out: Outcome, active: ActiveJob, end: End, ended: Exit, reason: str | None) -> None:
    """Let a job be over whose last attempt ended."""
    job = active.job
    world.groups.count(job, end, ended.at, ended.at - active.since, world.rules.group_failures)
    world.recent.ended(job, active.place.attempt, end)
    jobs.finish(world, out, job, end, ended, reason)


def _again(world: World, active: ActiveJob, place: Place) -> Place:
    """Return where a job waits again: held, if its group is.

    An element that did not fail goes before those of its array that have not started, whose place it has, too.
    """
    if index_of(active.job) is not None and active.place.attempt == 1 and not (place.failures or place.mishaps):
        place = replace(place, queued_us=place.queued_us - 1)
    held = world.groups.reason(world.groups.of(active.job)) is not None
    return replace(place, park=Park.HELD) if held else place


def _note_early(world: World, active: ActiveJob, now: Timestamp) -> None:
    """Take note of an end before it was expected, for those who reserved; a start may have taken less than it could."""
    early_s = latest_end(world, active) - now
    if early_s > 0:
        world.early |= early_s > STARTING_S
        world.ends_sooner(active)


def _release(world: World, out: Outcome, active: ActiveJob) -> None:
    """See to it that a job's GPUs are looked at before others get them."""
    for share in active.state.allocation.all_shares:
        state = world.gpus.get(share.gpu)
        if state is not None and not state.gpu.simulated:
            state.released_at = out.now
            state.asked_at = out.now
            out.look(state.node, share.gpu)
