"""What users and tenants may have: asked when a job is submitted, when its turn comes, and when others must give way.

`refuses` says what can never be, and that the queue is full: the user hears it at once. `over` says what may not be
now: the job waits, with the numbers. What runs is never stopped for a limit; the one exception is a guarantee, which
its tenant may take back from who borrowed it (`may_reclaim`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

from gpud.core import census
from gpud.core.active import ActiveJob
from gpud.core.admit import Refused
from gpud.core.books import Tally, held_of
from gpud.core.claims import ClaimKind, Reservation
from gpud.core.parts import milli
from gpud.core.placement import goes_to, suits
from gpud.core.waits import Guaranteed, NoPool, OverQuota, Wait
from gpud.core.windows import claims
from gpud.core.world import World
from gpud.model.gpu import GpuId
from gpud.model.job import Demand, JobId, Stopping
from gpud.model.spec import Terms
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp, format_duration, format_size, plural
from gpud.model.window import Pool


def refuses(world: World, terms: Terms, now: Timestamp, jobs: int = 1, of_tenant: int | None = None) -> Refused | None:
    """Return why a submit of that many jobs is refused; None where nothing speaks against it.

    `of_tenant` is how many of them are this job's tenant's; None: all.
    """
    return impossible(world, terms, now) or full(world, terms, jobs, jobs if of_tenant is None else of_tenant)


def impossible(world: World, terms: Terms, now: Timestamp) -> Refused | None:
    """Return why a job of these terms can never start, whatever else waits; None where it can."""
    return _never_allowed(world, terms, now) or _nowhere(world, terms, now)


def over(
    world: World, terms: Terms, now: Timestamp, beside: Sequence[Terms] = (), gone: Sequence[ActiveJob] = ()
) -> Wait | None:
    """Return why a job may not start now, though it might fit; None if it may.

    Jobs `beside` it count as running, those `gone` as over.
    """
    limits = world.rules.limits
    if terms.demand.pool is not None:
        pool = next((each for each in world.rules.pools if each.name == terms.demand.pool), None)
        if pool is None or _too_long(pool, terms):
            return NoPool(terms.demand.pool, None if pool is None else pool.max_time_s)
    if unlimited(world):
        return None
    books, wanted = world.books, milli(world, terms.demand)
    everybody, user, of_tenant = books.all, books.of_user(terms.user), books.of_tenant(terms.tenant)
    if beside:
        everybody = _with(world, everybody, beside, gone)
        theirs = [each for each in gone if each.terms.user == terms.user]
        user = _with(world, user, [each for each in beside if each.user == terms.user], theirs)
        theirs = [each for each in gone if each.terms.tenant == terms.tenant]
        of_tenant = _with(world, of_tenant, [each for each in beside if each.tenant == terms.tenant], theirs)
    tenant, whose = world.tenants.get(terms.tenant), f"user {terms.user}"
    return (
        _busy("", everybody, limits.running)
        or _busy(whose, user, limits.running_per_user)
        or _greedy(whose, user, limits.gpus_per_user, wanted)
        or (None if tenant is None else _tenant_over(world, tenant, of_tenant, terms.demand, now, beside))
    )


def unlimited(world: World) -> bool:
    """Return whether nobody is limited in what they may have at a time."""
    limits = world.rules.limits
    free = limits.running is None and limits.running_per_user is None and limits.gpus_per_user is None
    return free and not world.tenants


def opens_to_all(world: World) -> bool:
    """Return whether anybody's end may be what a line over a quota waits for, not only its tenant's or its user's."""
    return world.rules.limits.running is not None or any(not each.borrow for each in world.tenants.values())


def roll(world: World, now: Timestamp) -> bool:
    """Begin windows of GPU-hours anew that are over; return whether any did."""
    over_for = world.books.roll(world.tenants, now, world.active.values())
    world.eased |= over_for
    return bool(over_for)


def wake_at(world: World) -> Timestamp | None:
    """Return when GPU-hours are there again with nothing happening: the end of the next window of a limited tenant."""
    meters = world.books.meters
    limited = (meters[name].until for name, each in world.tenants.items() if each.gpu_hours is not None)
    return min(limited, default=None)


def borrows(world: World, tenant: str) -> int:
    """Return how many GPUs, in thousandths, a tenant has beyond its guarantee: those of `Tally.counting`."""
    known = world.tenants.get(tenant)
    return max(0, world.books.of_tenant(tenant).counting - 1000 * (0 if known is None else known.guaranteed_gpus))


def borrowed(world: World, tenant: str) -> int:
    """Return how many of those, in thousandths, others may take back. For people: costs a look at every active job."""
    theirs = [each for each in world.active.values() if each.terms.tenant == tenant]
    return min(borrows(world, tenant), sum(each.milli for each in theirs if lends(world, each)))


def lends(world: World, active: ActiveJob) -> bool:
    """Return whether others may have to get back what a job has: it is neither a pool's nor its own tenant's."""
    if active.terms.demand.pool is not None or isinstance(active.state, Stopping):
        return False
    if not any(each.guaranteed_gpus and each.name != active.terms.tenant for each in world.tenants.values()):
        return False
    tenant = world.tenants.get(active.terms.tenant)
    own = frozenset[GpuId]() if tenant is None else frozenset(tenant.gpus)
    gpus = active.state.allocation.all_gpus
    return not own or not all(gpu in own or world.gpus[gpu].gpu.parent in own for gpu in gpus)


def guaranteed(world: World, terms: Terms) -> bool:
    """Return whether what a job asks for is guaranteed to its tenant, beside all that the tenant has."""
    tenant, wanted = world.tenants.get(terms.tenant), milli(world, terms.demand)
    if tenant is None or not tenant.guaranteed_gpus or not wanted or terms.demand.pool is not None:
        return False
    beside = [each.demand for each in promised(world) if each.tenant == tenant.name and each.demand.pool is None]
    theirs = world.books.of_tenant(tenant.name).counting + sum(milli(world, each) for each in beside)
    return theirs + wanted <= 1000 * tenant.guaranteed_gpus


def owed(world: World) -> frozenset[str]:
    """Return the tenants whose jobs wait and who have less than is guaranteed to them."""
    books = world.books
    return frozenset(
        each.name
        for each in world.tenants.values()
        if each.guaranteed_gpus
        and (tally := books.of_tenant(each.name)).queued
        and tally.counting < 1000 * each.guaranteed_gpus
    )


def keeps(world: World, victim: ActiveJob, beside: Iterable[ActiveJob] = ()) -> bool:
    """Return whether its tenant would have less than its guarantee without a job, once those `beside` it are gone.

    Who takes more from it would give it back as soon as the tenant asks for it, and so in turns.
    """
    known, theirs = world.tenants.get(victim.terms.tenant), victim.terms.tenant
    if known is None or not known.guaranteed_gpus:
        return False
    gone = [victim, *(each for each in beside if each.terms.tenant == theirs and each.job != victim.job)]
    return borrows(world, theirs) < sum(each.milli for each in gone if each.terms.demand.pool is None)


def may_reclaim(world: World, terms: Terms, victim: ActiveJob, beside: Iterable[ActiveJob] = ()) -> bool:
    """Return whether a job may take back what another tenant's borrowed.

    With it its own tenant stays within its guarantee; the victim's has more than its own, also after losing what is
    taken `beside`. The victim could not take anything back for itself, so that nobody gives way in turns.
    """
    if victim.terms.tenant == terms.tenant or not guaranteed(world, terms) or not lends(world, victim):
        return False
    theirs = victim.terms.tenant
    taken = sum(
        each.milli
        for each in beside
        if each.terms.tenant == theirs and each.job != victim.job and not isinstance(each.state, Stopping)
    )
    return victim.milli > 0 and borrows(world, theirs) > taken


def promised(world: World) -> list[Terms]:
    """Return the terms of the waiting jobs that have GPUs as soon as those who give way to them are gone."""
    waiting = (world.waiting(job) for job, kept in world.reservations.items() if kept.taken or kept.yielding)
    return [each.terms for each in waiting if each is not None]


def taken(world: World, kept: Iterable[Reservation], job: JobId) -> list[tuple[Terms, Reservation]]:
    """Return those of these, beside a job's own, for whom others are stopped, with the terms of who waits for that."""
    found = [(world.waiting(each.job), each) for each in kept if each.taken and each.job != job]
    return [(waiting.terms, each) for waiting, each in found if waiting is not None]


def _never_allowed(world: World, terms: Terms, now: Timestamp) -> Refused | None:
    demand, limits = terms.demand, world.rules.limits
    if demand.pool is None and limits.gpus_per_user is None and not world.tenants:
        return None
    tenant, pools = world.tenants.get(terms.tenant), {each.name: each for each in world.rules.pools}
    if demand.pool is not None:
        pool = pools.get(demand.pool)
        if pool is None:
            there = f"there are: {', '.join(sorted(pools))}" if pools else "none is configured"
            return Refused("refused", f"there is no pool {demand.pool!r}", there)
        if pool.max_time_s is not None and _too_long(pool, terms):
            most = format_duration(pool.max_time_s)
            return Refused("never_fits", f"pool {pool.name} is for jobs of {most} at most", f"--time-limit {most}")
    allowed: tuple[tuple[str, int | None, str], ...] = (
        (f"user {terms.user}", limits.gpus_per_user, "that is max_gpus_per_user in the configuration"),
        (
            f"tenant {terms.tenant}",
            None if tenant is None else tenant.max_gpus,
            f"see its limits: gpuctl tenant show {terms.tenant}",
        ),
    )
    for who, may, hint in allowed:
        if may is not None and (wanted := milli(world, demand)) > 1000 * may:
            asked = _asked(demand, wanted)
            return Refused("never_fits", f"{asked}; {who} may have {may or 'none'} at once", hint)
    return None if tenant is None or tenant.borrow else _never_lent(world, tenant, demand, now)


def _asked(demand: Demand, wanted: int) -> str:
    """Return what a job asks for, and what it counts for where that is another number."""
    if demand.share_mib is None:
        return f"{plural(wanted / 1000, 'GPU')} {'is' if wanted == 1000 else 'are'} asked for"
    size = format_size(demand.share_mib) if demand.share_mib % 1024 == 0 else f"{demand.share_mib}M"
    of = "a GPU is" if demand.gpus == 1 else f"each of {demand.gpus} GPUs is"
    return f"{size} of {of} asked for, which counts for {wanted / 1000:g}"


def _never_lent(world: World, tenant: Tenant, demand: Demand, now: Timestamp) -> Refused | None:
    """Return why a tenant that may not borrow never has so much beside what is others' guarantee."""
    apart = _apart(world, now)
    own = Counter(apart.values())
    guarantees = {each.name: max(0, each.guaranteed_gpus - own[each.name]) for each in world.tenants.values()}
    others = sum(guarantees.values()) - guarantees.get(tenant.name, 0)
    there = sum(not state.gpu.split for gpu, state in world.gpus.items() if gpu not in apart)
    most = max(tenant.guaranteed_gpus, own[tenant.name], there - others)
    if not there or not others or demand.pool is not None or milli(world, demand) <= 1000 * most:
        return None
    message = f"{others} of {plural(there, 'GPU')} are guaranteed to others, and tenant {tenant.name} may not borrow"
    return Refused("never_fits", message, f"to let it: gpuctl tenant set {tenant.name} --borrow")


def _too_long(pool: Pool, terms: Terms) -> bool:
    """Return whether a job could run for longer than a pool lets."""
    return pool.max_time_s is not None and (terms.time_limit_s is None or terms.time_limit_s > pool.max_time_s)


def _nowhere(world: World, terms: Terms, now: Timestamp) -> Refused | None:
    """Return what is wrong where a job would fit, but only on GPUs that are never for it."""
    demand = terms.demand
    standing = [claim for claim in claims(world, now) if claim.until == inf and claim.binds(terms)]
    if not standing or not demand.gpus or not world.gpus:
        return None
    closed = frozenset[GpuId]().union(*(claim.gpus for claim in standing))
    open_to = {name for name, each in world.nodes.items() if goes_to(demand, each.node)}
    able = (state for state in world.gpus.values() if state.node in open_to and suits(demand, state.gpu))
    counts = Counter(state.node for state in able if state.gpu.id not in closed)
    each = -(-demand.gpus // demand.nodes)
    enough = sum(1 for count in counts.values() if count >= each)
    if enough >= demand.nodes:
        return None
    most = max(counts.values(), default=0) if demand.nodes == 1 else enough
    names = ", ".join(f"{claim.kind} {claim.name}" for claim in standing if not claim.only)
    tenant = world.tenants.get(terms.tenant)
    types = ""
    if tenant is not None and tenant.gpu_types:
        types = f"tenant {tenant.name} may use only {' and '.join(tenant.gpu_types)}: "
    there, suit = ("there is", "suits") if most == 1 else ("there are", "suit")
    where = there if not names else f"beside those for {names} {there}"
    if demand.pool is not None:
        where = f"pool {demand.pool} has"
    asked = f"{each} GPUs of one node are" if each > 1 else "a GPU is"
    if demand.nodes > 1:
        asked = f"{demand.nodes} nodes with {plural(each, 'GPU')} each are"
    message = f"{asked} asked for; {types}{where} {most or 'none'} that {suit}"
    return Refused("never_fits", message, "see whose they are: gpuctl gpus")


def full(world: World, terms: Terms, jobs: int, of_tenant: int) -> Refused | None:
    """Return why so many more jobs may not wait, `of_tenant` of them of this job's tenant; None where they may."""
    limits, books, tenant = world.rules.limits, world.books, world.tenants.get(terms.tenant)
    most_of_tenant = limits.queued_per_tenant if tenant is None or tenant.max_queued is None else tenant.max_queued
    if most_of_tenant is None and limits.queued is None and limits.queued_per_user is None:
        return None
    for whose, tally, most, more in (
        ("the queue", books.all, limits.queued, jobs),
        (f"user {terms.user}", books.of_user(terms.user), limits.queued_per_user, jobs),
        (f"tenant {terms.tenant}", books.of_tenant(terms.tenant), most_of_tenant, of_tenant),
    ):
        if most is not None and tally.queued + more > most:
            many = "this is one" if more == 1 else f"these are {more}"
            message = f"{whose} has {tally.queued} of {plural(most, 'job')} waiting, and {many} more"
            hint = "submit it when some have started" if most else "see the limits: gpuctl config, gpuctl tenant list"
            return Refused("refused", message, hint, full=most > 0)
    return None


def _tenant_over(
    world: World, tenant: Tenant, tally: Tally, demand: Demand, now: Timestamp, beside: Sequence[Terms]
) -> Wait | None:
    books, whose, wanted = world.books, f"tenant {tenant.name}", milli(world, demand)
    running = world.rules.limits.running_per_tenant if tenant.max_running is None else tenant.max_running
    wait = _busy(whose, tally, running) or _greedy(whose, tally, tenant.max_gpus, wanted)
    if wait is not None:
        return wait
    if wanted and tenant.gpu_hours is not None:
        meter = books.meters[tenant.name]
        used = meter.hours(now)
        if used >= tenant.gpu_hours:
            return OverQuota(whose, "GPU-hours", used, tenant.gpu_hours, until=meter.until)
    if wanted and not tenant.borrow and tally.milli - tally.pooled + wanted > 1000 * tenant.guaranteed_gpus:
        return _lent(world, tenant, demand, now, beside)
    return None


def _lent(world: World, tenant: Tenant, demand: Demand, now: Timestamp, beside: Sequence[Terms]) -> Wait | None:
    """Return what keeps a tenant that may not borrow from GPUs of which others have guarantees.

    Pools, and what belongs to a tenant, are not what guarantees are given of; whose own is idle has that first.
    """
    books, wanted, apart = world.books, milli(world, demand), _apart(world, now)
    states = [state for gpu in apart if (state := world.gpus[gpu]).present and not state.gpu.split]
    idle = Counter(apart[state.gpu.id] for state in states if not state.holders)
    if demand.pool is not None or 1000 * idle[tenant.name] >= wanted:
        return None
    more = Counter[str]()
    for each in beside:
        more[each.tenant] += milli(world, each.demand) if each.demand.pool is None else 0
    others = [(each, books.of_tenant(each.name)) for each in world.tenants.values() if each.name != tenant.name]
    kept = sum(
        max(0, 1000 * (each.guaranteed_gpus - idle[each.name]) - tally.milli + tally.pooled - more[each.name])
        for each, tally in others
    )
    taken = (
        books.all.milli
        + more.total()
        - sum(_held_of(world.active[job], state.gpu.id) for state in states for job in state.holders)
    )
    there = 1000 * (census.present(world) - len(states))
    return Guaranteed(tenant.name, kept / 1000) if kept and taken + wanted + kept > there else None


def _held_of(active: ActiveJob, gpu: GpuId) -> int:
    return sum(held_of(active.terms.demand, each) for each in active.state.allocation.all_shares if each.gpu == gpu)


def _apart(world: World, now: Timestamp) -> dict[GpuId, str | None]:
    """Return the GPUs that guarantees are not given of, with the tenant that each belongs to; None: it is a pool's."""
    standing = [each for each in claims(world, now) if each.kind in {ClaimKind.POOL, ClaimKind.OWNED} and not each.only]
    return {gpu: next(iter(claim.tenants), None) for claim in standing for gpu in claim.gpus}


def _with(world: World, tally: Tally, more: Sequence[Terms], gone: Sequence[ActiveJob]) -> Tally:
    counts = [(milli(world, each.demand), each.demand.pool) for each in more]
    counts += [(-each.milli, each.terms.demand.pool) for each in gone]
    return replace(
        tally,
        running=tally.running + len(more) - len(gone),
        milli=tally.milli + sum(count for count, _ in counts),
        pooled=tally.pooled + sum(count for count, pool in counts if pool is not None),
    )


def _busy(whose: str, tally: Tally, most: int | None) -> Wait | None:
    return None if most is None or tally.running < most else OverQuota(whose, "jobs", tally.running, most)


def _greedy(whose: str, tally: Tally, most: int | None, wanted: int) -> Wait | None:
    if most is None or not wanted or tally.milli + wanted <= 1000 * most:
        return None
    return OverQuota(whose, "GPUs", tally.milli / 1000, most, wanted / 1000)
