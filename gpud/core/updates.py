"""A change of mind: what waiting jobs ask for, and how long running ones may run.

A job that waits goes to the line of its new terms, since when it queues is kept: it was not asked for anew. Of an
array it is what has not started that changes. What is asked for is judged as a submit is, for all before any changes.
What it comes after, its group and its key are an array's as a whole, and the latter two until it begins. What runs is
not prolonged into what is set aside for others by then: it was let in because it would be over.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from math import inf

from gpud.core import jobs
from gpud.core.active import ActiveJob
from gpud.core.admit import Refused, never_fits
from gpud.core.arrays import unfold_named
from gpud.core.claims import ClaimKind
from gpud.core.commands import Changed, Update
from gpud.core.ends import follow, overlooked
from gpud.core.groups import Key
from gpud.core.outcome import Outcome
from gpud.core.quota import impossible
from gpud.core.windows import claims
from gpud.core.world import Array, World
from gpud.model.changes import Change, Queued, Reprioritised, Rewritten, TermsPut, Told
from gpud.model.effects import SetLimit
from gpud.model.job import Demand, End, JobId, Stopping, array_of, format_job, index_of
from gpud.model.spec import Park, Place, Terms
from gpud.model.units import Seconds, Timestamp, format_duration


def update(world: World, out: Outcome, asked: Update) -> Changed | Refused:
    """Change jobs, or say what of it cannot be; then none was changed."""
    wanted = {job: _terms(world, job, terms, asked) for job, terms in asked.jobs}
    for terms in dict.fromkeys((*wanted.values(), *asked.in_all)):
        refused = never_fits(world, terms.demand) or impossible(world, terms, out.now)
        if refused is not None:
            return refused
    refused = _goes_round(world, asked) or _key_taken(world, asked) or _runs_into(world, out, asked, wanted)
    if refused is not None:
        return refused
    if asked.begin_at is not None:
        asked = _kept(asked, asked.begin_at if asked.begin_at > out.now else None)
    unfold_named(world, out, wanted)
    notes = {job: _update(world, out, asked, job, terms) for job, terms in wanted.items()}
    done = tuple(job for job, note in notes.items() if note is None)
    return Changed(done, tuple((job, note) for job, note in notes.items() if note is not None))


def _kept(asked: Update, begin_at: Timestamp | None) -> Update:
    """Return an update with its begin time among what the store keeps: waits count from it, a requeue keeps to it."""
    submitted = *asked.rewrite.submitted, ("begin_at", begin_at)
    return replace(asked, rewrite=replace(asked.rewrite, submitted=submitted))


def _terms(world: World, job: JobId, terms: Terms, asked: Update) -> Terms:
    """Return what a job's terms are to be: of one that runs only the time limit may be another."""
    active, waiting = world.active.get(job), world.waiting(job)
    now = active.terms if active is not None else None if waiting is None else waiting.terms
    if active is not None:
        terms = replace(active.terms, time_limit_s=terms.time_limit_s)
    if asked.more_s and now is not None and now.time_limit_s is not None:
        terms = replace(terms, time_limit_s=max(1.0, now.time_limit_s + asked.more_s))
    return terms


def _goes_round(world: World, asked: Update) -> Refused | None:
    """Return why jobs cannot come after those that are said, if so: one of them would wait for itself."""
    after = asked.rewrite.after
    if not after:
        return None
    missed = overlooked(world, after, dict(asked.ends))
    if missed is not None:
        return Refused("busy", f"job {format_job(missed)} has just ended", "try again")
    behind = world.after.behind(after)
    job = next((job for job in asked.named if array_of(job) in behind), None)
    if job is None:
        return None
    itself = any(array_of(each.job) == array_of(job) for each in after)
    names = " ".join(format_job(each.job) for each in after)
    why = "cannot come after itself" if itself else f"cannot come after {names}, which waits for it"
    return Refused("refused", f"job {format_job(job)} {why}", "see what it waits for: gpuctl why JOB")


def _key_taken(world: World, asked: Update) -> Refused | None:
    """Return whose the key is that a job is to have in its group, if it is another's."""
    new = asked.rewrite
    if new.group is None and new.key is None:
        return None
    wanted: dict[Key, JobId] = {}
    uids = {job: terms.uid for job, terms in asked.jobs}
    for job in asked.named:
        group, key = world.groups.named(job, new.group, new.key)
        of = world.groups.of(job)
        if group is None or key is None:
            continue
        whole = (of[0] if of is not None else uids[job], group, key)
        holder, ended = world.groups.taken(whole), world.groups.ended(whole) or asked.there.get(whole)
        if holder is None and ended is not None:
            if ended[1] is None:
                return Refused("busy", f"job {format_job(ended[0])} has just ended", "try again")
            holder = ended[0] if ended[1] is End.COMPLETED else None
        rival = wanted.setdefault(whole, job) if holder is None else holder
        if rival != job:
            hint = "a key names one job: give it another with --key"
            return Refused("refused", f"job {format_job(rival)} has the key {key!r} in group {group!r}", hint)
    return None


def _runs_into(world: World, out: Outcome, asked: Update, wanted: dict[JobId, Terms]) -> Refused | None:
    """Return into what that is set aside for others a running job would be prolonged, if one would.

    One that may run that long already, and so was there first, may do so for longer.
    """
    now, running = out.now, () if asked.waiting_only else _prolonged(world, wanted)
    for active, limit_s in running:
        had_s, gpus = active.terms.time_limit_s, active.state.allocation.all_gpus
        for claim in claims(world, now):
            if claim.kind is not ClaimKind.WINDOW or claim.at <= now or claim.gpus.isdisjoint(gpus):
                continue
            may_s = claim.at - active.since
            if claim.binds(active.terms) and (had_s or inf) <= may_s < limit_s:
                begins = f"reservation {claim.name}, which begins in {format_duration(claim.at - now)}"
                longest = f"its time limit may be {format_duration(may_s // 1)} at most"
                said = f"job {format_job(active.job)} would run into {begins}"
                return Refused("refused", said, f"{longest}; see for whom: gpuctl reserve list")
    return None


def _prolonged(world: World, wanted: dict[JobId, Terms]) -> Iterator[tuple[ActiveJob, Seconds]]:
    """Yield the running jobs that may run for longer then, elements among them, and for how long."""
    for job, terms in wanted.items():
        array, active = world.arrays.get(job), world.active.get(job)
        ran = [active] if active is not None else []
        if array is not None and terms.time_limit_s != array.terms.time_limit_s:
            ran = [world.active[each] for each in array.elements if each in world.active]
        limit_s = inf if terms.time_limit_s is None else terms.time_limit_s
        yield from ((each, Seconds(limit_s)) for each in ran if limit_s > (each.terms.time_limit_s or inf))


def _never(world: World, asked: Update, job: JobId) -> str | None:
    """Return what of this is not to be had of such a job, if anything."""
    new, array = asked.rewrite, world.arrays.get(job)
    moved = new.group is not None or new.key is not None
    if index_of(job) is not None and (new.after is not None or moved or asked.throttle is not None):
        return f"is an element: that is its array's to have, gpuctl update {format_job(array_of(job))}"
    if array is None and asked.throttle is not None:
        return "is no array"
    if array is not None and moved and (array.elements or array.state.counts):
        return "has begun: its elements stay in their group"
    return None


def _update(world: World, out: Outcome, asked: Update, job: JobId, terms: Terms) -> str | None:
    never = _never(world, asked, job)
    if never is not None:
        return never
    array = world.arrays.get(job)
    if array is not None:
        return _update_array(world, out, asked, job, array, terms)
    if job in world.active:
        return _update_active(world, out, asked, job, terms)
    waiting = world.waiting(job)
    if waiting is None:
        return jobs.OVER
    _keep(out, asked, job, waiting.terms, terms)
    _wait(world, out, asked, job, terms, waiting.place)
    return None


def _update_array(world: World, out: Outcome, asked: Update, job: JobId, array: Array, terms: Terms) -> str | None:
    """Change what is pending of an array, and its elements that wait again or run."""
    waiting = {each: parked for each in array.elements if (parked := world.waiting(each)) is not None}
    for each in waiting:
        world.unwait(each)
    world.unwait(job)
    before, array.terms = array.terms, terms
    _keep(out, asked, job, before, terms)
    if asked.throttle is not None:
        array.state = replace(array.state, throttle=asked.throttle or None)
    _wait(world, out, asked, job, terms, array.place)
    out.touch(job)
    for each, parked in waiting.items():
        own = _changed_alike(parked.terms, before, terms)
        _keep(out, asked, each, parked.terms, own)
        _wait(world, out, asked, each, own, parked.place)
    world.throttle(job)
    if asked.waiting_only:  # elements that run stay as they are: they are told of where they are named
        return None
    for each in array.elements:
        if each in world.active:
            _update_active(world, out, asked, each, _changed_alike(world.active[each].terms, before, terms))
    return None


def _changed_alike(own: Terms, before: Terms, after: Terms) -> Terms:
    """Return an element's terms with what is new in its array's: what it has of its own (more memory) stays."""
    new = {
        field.name: value
        for field in fields(Terms)
        if (value := getattr(after, field.name)) != getattr(before, field.name)
    }
    if "demand" in new:
        wanted, had = after.demand, before.demand
        parts = {field.name: getattr(wanted, field.name) for field in fields(Demand)}
        changed = {name: value for name, value in parts.items() if value != getattr(had, name)}
        new["demand"] = replace(own.demand, **changed)
    return replace(own, **new)


def _update_active(world: World, out: Outcome, asked: Update, job: JobId, terms: Terms) -> str | None:
    active = world.active[job]
    if asked.waiting_only:
        return f"runs already: {' and '.join(asked.waiting_only)} cannot be changed any more"
    if isinstance(active.state, Stopping):
        return "is being stopped"
    place = active.place if asked.priority is None else replace(active.place, priority=asked.priority)
    if asked.rewrite != type(asked.rewrite)():
        out.changes.append(Rewritten(job, out.now, asked.rewrite))
    changed = terms != active.terms
    world.change(replace(active, terms=terms, place=place))
    world.ends_sooner(active)
    world.expects_s[job] = world.predictor.seconds(terms, world.bursts.of(job, terms))
    if asked.priority is not None:
        out.changes.append(Reprioritised(job, out.now, asked.priority))
    if changed:
        out.changes.append(TermsPut(job, out.now, terms))
        out.changes.append(_told(out, asked, job))
        out.effects.append(SetLimit(job, place.attempt, terms.time_limit_s))
    return None


def _keep(out: Outcome, asked: Update, job: JobId, before: Terms, terms: Terms) -> None:
    """Have the store keep what is new in a job's terms and in its spec."""
    if terms != before:
        out.changes.append(TermsPut(job, out.now, terms))
    environments = asked.environments
    rewrite = replace(asked.rewrite, environment=environments.get(job, environments.get(array_of(job))))
    if rewrite != type(rewrite)():
        out.changes.append(Rewritten(job, out.now, rewrite))


def _wait(world: World, out: Outcome, asked: Update, job: JobId, terms: Terms, place: Place) -> None:
    """Put a job in the line of its new terms, or let it go on waiting for what it waits for."""
    world.reservations.pop(job, None)  # that was for what it asked before
    if asked.priority is not None:
        place = replace(place, priority=asked.priority)
    if asked.begin_at is not None and (place.attempt == 1 or place.park is Park.BEGIN):  # not a delay of retries
        place = replace(place, not_before=asked.begin_at)
        if place.park in {None, Park.BEGIN}:
            place = jobs.unheld(world, job, place, out.now)
    if asked.rewrite.after is not None:
        place = _bound(world, out, asked, job, place)
    if asked.rewrite.group is not None or asked.rewrite.key is not None:
        world.groups.move(job, terms.uid, asked.rewrite.group, asked.rewrite.key)
        if world.groups.reason(world.groups.of(job)) is not None:
            place = replace(place, park=Park.HELD)
    array = world.arrays.get(job)
    if array is not None:
        array.place = place
    out.changes.append(Queued(job, out.now, place, "updated", ", ".join(asked.said)))
    if array is None or array.state.pending:
        world.wait(job, terms, place)


def _bound(world: World, out: Outcome, asked: Update, job: JobId, place: Place) -> Place:
    """Return where a job stands that is to come after others now, or after nobody; that it never can is seen later."""
    if index_of(job) is None:
        world.after.forget(job)
        follow(world, job, asked.rewrite.after or (), dict(asked.ends))
    awaits = world.after.park(array_of(job)) is not None
    if place.park is Park.HELD:
        return replace(place, awaits=awaits)
    if awaits:
        return replace(place, awaits=True, park=Park.AFTER)
    return jobs.unheld(world, job, replace(place, awaits=False), out.now)


def _told(out: Outcome, asked: Update, job: JobId) -> Change:
    return Told(out.now, "updated", {"reason": ", ".join(asked.said), "by": asked.by}, job)
