"""Who has waited too long for a quota, and what of it the others of its tenant, or its user, may have until it starts.

Small jobs fit into what is left of a quota and a large one does not, so that it might wait for ever. Once it has waited
for `Rules.starvation_s` the quota is kept for it: others that count against it start only where they are over before
what it waits for is there, or leave it enough. That is EASY backfilling (Lifka 1995) over a quota in place of GPUs.

Cost: a look at every line after a restart; then nothing until somebody has waited for so long, and from then on a look
at the lines over quotas in each cycle, and at what runs for each line of the same tenant or user.
"""

from math import inf

from gpud.core import quota
from gpud.core.active import ActiveJob
from gpud.core.backfill import freed_at
from gpud.core.parts import milli
from gpud.core.queue import Line, job_of, owner_of
from gpud.core.waits import OverQuota, Wait, YieldsTo
from gpud.core.world import World
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Timestamp


def shut(world: World, line: Line, wait: Wait) -> None:
    """Set a line aside that is over a quota, until its tenant or its user has less."""
    world.queue.set_aside(line, wait)
    for who in owner_of(line.terms):
        world.shut.setdefault(who, {})[line] = None
    if line.head is not None and world.rules.starvation_s and _for_gpus(wait):
        world.patience.due = min(world.patience.due, _due(world, job_of(line.head)))


def open_shut(world: World) -> None:
    """Let lines in again that were over a quota of somebody who has less now."""
    if world.shut and quota.opens_to_all(world):
        world.eased |= world.shut.keys()
    for who in world.eased & world.shut.keys():
        for line in world.shut.pop(who):
            world.queue.let_in(line)
    world.eased.clear()


def keep(world: World, now: Timestamp) -> None:
    """See for whom quotas are kept, before lines are let in again: for who has waited longest for each.

    After a restart nobody is known to be over a quota: that is asked before others start.
    """
    patience = world.patience
    if patience.fresh:
        patience.fresh = False
        for line in world.queue.lines() if not quota.unlimited(world) else ():
            wait = quota.over(world, line.terms, now)
            if wait is not None:
                shut(world, line, wait)
    for job in set(patience.kept.values()) if patience.kept else ():
        if world.queue.line(job) is None:
            patience.forget(job)
    if now < patience.due:
        return
    patience.due = inf
    longest: dict[str, tuple[float, JobId]] = {}
    for lines in world.shut.values():
        for line in lines:
            wait = line.aside
            if line.head is None or not isinstance(wait, OverQuota) or not _for_gpus(wait):
                continue
            job = job_of(line.head)
            due = _due(world, job)
            patience.due = min(patience.due, due)
            if due <= now:
                longest[wait.whose] = min(longest.get(wait.whose, (inf, job)), (due, job))
    patience.kept = {whose: job for whose, (_, job) in longest.items()} | patience.kept


def yields(world: World, job: JobId, terms: Terms, now: Timestamp) -> YieldsTo | None:
    """Return for whom a job waits whose quota it would use; None where there is nobody."""
    if not world.patience.kept:
        return None
    wanted = milli(world, terms.demand)
    for whose in (f"tenant {terms.tenant}", f"user {terms.user}") if wanted else ():
        kept = world.patience.kept.get(whose)
        waiting = None if kept is None or kept == job else world.waiting(kept)
        found = None if kept is None or waiting is None else _there(world, whose, kept, waiting.terms, now)
        if kept is not None and found is not None:
            at, spare = world.patience.settled(kept, found[0], now), found[1]
            if wanted > spare and now + world.lasting_s(terms) > at:
                return YieldsTo(kept, at)
    return None


def _there(world: World, whose: str, job: JobId, terms: Terms, now: Timestamp) -> tuple[Timestamp, int] | None:
    """Return when there will be enough of a quota for a job, and the thousandths of GPUs that will be left then.

    None where it is there, and the job waits for GPUs that nothing is reserved of: nobody knows for how long.
    """
    kind, _, name = whose.partition(" ")
    tenant = world.tenants.get(name)
    if kind == "tenant":
        tally, most = world.books.of_tenant(name), None if tenant is None else tenant.max_gpus
    else:
        tally, most = world.books.of_user(name), world.rules.limits.gpus_per_user
    if most is None or milli(world, terms.demand) > 1000 * most:
        return None
    lacks = tally.milli + milli(world, terms.demand) - 1000 * most
    if lacks <= 0:
        reservation = world.reservations.get(job)
        return None if reservation is None else (reservation.at, -lacks)

    def ours(active: ActiveJob) -> bool:
        return (active.terms.tenant if kind == "tenant" else active.terms.user) == name

    at = now
    ends = ((freed_at(world, each, now), each.milli) for each in world.active.values() if ours(each))
    for end, freed in sorted(ends):
        if lacks <= 0:
            break
        lacks, at = lacks - freed, Timestamp(max(now, end))
    return at, -lacks


def _for_gpus(wait: Wait) -> bool:
    return isinstance(wait, OverQuota) and wait.what == "GPUs" and wait.wanted <= wait.limit


def _due(world: World, job: JobId) -> float:
    return world.queued_since_us(job) / 1_000_000 + world.rules.starvation_s
