"""Jobs enter the queue: one, or many at once, all of them or none.

A job whose key is taken in its group is not queued again: whoever asks is told which one is there. So a sweep that is
submitted a second time costs nothing, and runs again what has failed.
"""

from collections import Counter
from dataclasses import replace

from gpud.core import quota, tenants
from gpud.core.admit import Refused, never_fits
from gpud.core.commands import Accepted, Reply, Submit, SubmitMany, Submitted
from gpud.core.ends import follow, overlooked
from gpud.core.outcome import Outcome
from gpud.core.why import why
from gpud.core.world import Array, World
from gpud.model.array import IndexSet
from gpud.model.changes import Added
from gpud.model.job import End, JobId, format_job, job_id
from gpud.model.spec import ArrayState, Park, Place


def submit(world: World, out: Outcome, asked: Submit) -> None:
    """Queue a job, or say why not; `out.told` gathers those to be told what happens next, when that is decided."""
    out.count(world)
    there = _there(world, asked)
    if there is None:
        refused = _refused(world, out, asked, _count(asked))
        if refused is not None:
            out.replies.append((asked.token, refused))
            return
    done = asked.done if there is None else IndexSet()
    if asked.dry_run:
        out.replies.append((asked.token, Accepted(None, there=_state(world, there), done=done)))
        return
    job = _queue(world, out, asked) if there is None else there[0]
    if asked.tell and there is None and not done:
        out.told.append((asked.token, job))
    else:
        out.replies.append((asked.token, Accepted(job, there=_state(world, there), done=done)))


def submit_many(world: World, out: Outcome, asked: SubmitMany) -> None:
    """Queue many jobs, or none of them and say why not."""
    out.count(world)
    wanted: Counter[str] = Counter()
    for each in asked.jobs:
        spec = each.spec
        if _there(world, each) is not None:
            continue
        wanted[spec.terms.tenant] += _count(each)
        refused = _refused(world, out, each, wanted.total(), wanted[spec.terms.tenant])
        if refused is not None:
            where = f"{each.where}: " if each.where else ""
            out.replies.append((asked.token, replace(refused, message=f"{where}{refused.message}")))
            return
    jobs: list[tuple[JobId | None, str | None]] = []
    done: list[tuple[JobId, IndexSet]] = []
    for each in asked.jobs:
        there = _there(world, each)
        job = there[0] if there is not None else None if asked.dry_run else _queue(world, out, each)
        jobs.append((job, _state(world, there)))
        if job is not None and there is None and each.done:
            done.append((job, each.done))
    new = (world.waiting(job) for job, state in jobs if job is not None and state is None)
    held = sum(each is not None and each.place.park is Park.HELD for each in new)
    out.replies.append((asked.token, Submitted(tuple(jobs), tuple(done), held)))


def answer(world: World, out: Outcome) -> None:
    """Tell those who asked what happens next to their jobs."""
    reply: Reply
    for token, job in out.told:
        reply = Accepted(job, world.queue.position(job), why(world, job, out.now))
        out.replies.append((token, reply))


def _count(asked: Submit) -> int:
    return 1 if asked.left is None else len(asked.left)


def _there(world: World, asked: Submit) -> tuple[JobId, End | None] | None:
    """Return the job that waits, runs (None) or has completed under a job's key, if there is one.

    What the loop has seen to end is newer than what the edge has looked up.
    """
    spec = asked.spec
    if spec.group is None or spec.key is None:
        return None
    key = (spec.terms.uid, spec.group, spec.key)
    live, ended = world.groups.taken(key), world.groups.ended(key)
    if live is not None:
        return live, None
    known = (None if asked.left is not None and not asked.left else ended) or asked.there  # all of it is done
    return known if known is not None and known[1] is End.COMPLETED else None


def _state(world: World, there: tuple[JobId, End | None] | None) -> str | None:
    """Return the state of a job that is there, in the word that people see."""
    if there is None:
        return None
    job, end = there
    if end is not None:
        return end.value
    if job in world.active:
        return type(world.active[job].state).__name__.lower()
    waiting = world.waiting(job)
    if waiting is None:  # an array of which everything has started
        return "running"
    return "held" if waiting.place.park in {Park.HELD, Park.NEVER} else "queued"


def _refused(world: World, out: Outcome, asked: Submit, jobs: int, of_tenant: int | None = None) -> Refused | None:
    """Return why a job cannot be queued; it makes so many that are asked for, in all and of its tenant."""
    spec = asked.spec
    refused = never_fits(world, spec.terms.demand) or quota.refuses(world, spec.terms, out.now, jobs, of_tenant)
    if refused is not None:
        return refused
    missed = overlooked(world, spec.after, dict(asked.ends)) if spec.after else None
    if missed is not None:
        return Refused("busy", f"job {format_job(missed)} has just ended", "submit it again")
    if spec.key is not None and asked.there is not None and asked.there[1] is None:
        known = world.groups.ended((spec.terms.uid, spec.group or "", spec.key))
        # It waited or ran when somebody looked: nobody here knows how it ended, or which of its elements completed.
        if known is None or spec.array is not None:
            return Refused("busy", f"job {format_job(asked.there[0])} has just ended", "submit it again")
    return None


def _queue(world: World, out: Outcome, asked: Submit) -> JobId:
    spec = asked.spec
    job = job_id(world.next_number)
    world.next_number += 1
    later = spec.begin_at is not None and spec.begin_at > out.now
    awaits = bool(spec.after) and follow(world, job, spec.after, dict(asked.ends)) is not None
    park = Park.AFTER if awaits else Park.BEGIN if later else None
    world.groups.join(job, spec.terms.uid, spec.group, spec.key)
    held = spec.group is not None and world.groups.reason((spec.terms.uid, spec.group)) is not None
    place = Place(
        priority=spec.priority + tenants.boost(world, spec.terms),
        queued_us=world.moment_us(out.now),
        park=Park.HELD if spec.hold or held else park,
        not_before=spec.begin_at if later else None,
        awaits=awaits,
    )
    array = None
    if asked.left is not None:
        counts = ((End.COMPLETED, len(asked.done)),) if asked.done else ()
        array = ArrayState(pending=asked.left, throttle=spec.throttle, counts=counts)
        world.arrays[job] = Array(spec.terms, place, array)
        world.books.pend(job, spec.terms, len(array.pending))
    out.changes.append(Added(job, out.now, spec, place, array))
    world.wait(job, spec.terms, place)
    return job
