"""How much everybody has: jobs that run and wait, GPUs in use, GPU time of a window, by user and by tenant.

Counted as it changes, in whole numbers, so that nothing drifts: GPUs in thousandths, time in microseconds. A recount
from the jobs themselves gives the same to the last digit; `tests/core` compares after every step.

Cost: O(1) for each job that starts, ends, queues or leaves the queue; O(active jobs) when a window begins anew.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from gpud.core.active import ActiveJob
from gpud.core.prediction import kind_of_run
from gpud.model.gpu import Allocation, Share
from gpud.model.job import Demand, JobId, Stopping
from gpud.model.spec import Terms
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp

_HOUR = 3600 * 1_000_000 * 1000  # of GPU time, in thousandths of a GPU x microseconds


def _kind(terms: Terms) -> Hashable:
    """Return what jobs have in common that tell of each other how long they run, beside what their user says of it."""
    return kind_of_run(terms), terms.estimate_s


def milli(demand: Demand) -> int:
    """Return the GPUs that are asked for, in thousandths: whole ones where memory is shared, but see `parts`."""
    return demand.gpus * (1000 if demand.share_permille is None else demand.share_permille)


def held(demand: Demand, allocation: Allocation) -> int:
    """Return the GPUs that a job counts for with what it got, in thousandths.

    The demand says it of all but parts by memory. Of what was given before that was noted it does so, too.
    """
    if demand.share_mib is None:
        return milli(demand)
    return sum(held_of(demand, share) for share in allocation.all_shares) or milli(demand)


def held_of(demand: Demand, share: Share) -> int:
    """Return what a job has of one GPU, in thousandths."""
    return demand.share_permille or share.milli or 1000


@dataclass(slots=True)
class Tally:
    """What one user, one tenant, or everybody has.

    Of the GPUs in use `pooled` are those of jobs in pools, and of the others `leaving` those of jobs being stopped.
    """

    running: int = 0
    queued: int = 0
    milli: int = 0
    pooled: int = 0
    leaving: int = 0

    @property
    def counting(self) -> int:
        """Return what counts towards a guarantee, in thousandths of GPUs: pools are not what these are given of."""
        return self.milli - self.pooled - self.leaving


def _apart(active: ActiveJob) -> tuple[int, int]:
    """Return what of a job's GPUs is in a pool, and what is being left, in thousandths."""
    if active.terms.demand.pool is not None:
        return active.milli, 0
    return 0, active.milli if isinstance(active.state, Stopping) else 0


@dataclass(slots=True)
class Meter:
    """A tenant's GPU time since `start`: `spent` by attempts that ended; what runs has used milli x now - `base`."""

    start: Timestamp
    until: Timestamp
    spent: int = 0
    milli: int = 0
    base: int = 0

    def add(self, active: ActiveJob, sign: int) -> None:
        """Count an active job in, or out."""
        self.milli += sign * active.milli
        self.base += sign * active.milli * self._from(active)

    def spend(self, active: ActiveJob, at: Timestamp) -> None:
        """Count an attempt that ended then."""
        self.spent += active.milli * max(0, _us(at) - self._from(active))

    def hours(self, now: Timestamp) -> float:
        """Return the GPU-hours used until now."""
        return (self.spent + self.milli * _us(now) - self.base) / _HOUR

    def _from(self, active: ActiveJob) -> int:
        return max(_us(active.since), _us(self.start))


@dataclass(slots=True)
class Patience:
    """For whom quotas are kept: see `patience`.

    `kept` names a job for a tenant or a user ("tenant lab", "user ada"); `due` is when somebody who is over a quota now
    will have waited for too long. `at` is when what each of these jobs waits for was found to be there: it moves only
    to an earlier time, until it has passed. `fresh`: it was never asked who is over a quota.
    """

    kept: dict[str, JobId] = field(default_factory=dict)
    fresh: bool = True
    due: float = inf
    at: dict[JobId, Timestamp] = field(default_factory=dict)

    def settled(self, job: JobId, at: Timestamp, now: Timestamp) -> Timestamp:
        """Return when what a job waits for is there, if it was worked out anew to be at a moment."""
        before = self.at.get(job, now)
        self.at[job] = before if now < before < at else at
        return self.at[job]

    def forget(self, job: JobId) -> None:
        """Keep nothing for a job any more."""
        self.kept = {whose: each for whose, each in self.kept.items() if each != job}
        self.at.pop(job, None)


class Books:
    """Every tally. `all` is everybody's; `changed` tells that `spent()` is to be made durable."""

    def __init__(self) -> None:
        self.all = Tally()
        self.users: dict[str, Tally] = {}
        self.tenants: dict[str, Tally] = {}
        self.meters: dict[str, Meter] = {}
        self.changed = False
        self.rolls_at: float = inf  # when the next window begins anew
        self.parts: dict[Demand, int] = {}  # what jobs that wait for parts by memory count for: see `core.parts`
        self._alike: dict[Hashable, dict[JobId, Timestamp]] = {}  # since when who is active is, by kind of run
        self._pending: dict[JobId, int] = {}
        self._known: dict[tuple[str, str], tuple[Tally, Tally, Tally]] = {}

    def of_user(self, name: str) -> Tally:
        """Return a user's tally."""
        return self.users.get(name) or self.users.setdefault(name, Tally())

    def of_tenant(self, name: str) -> Tally:
        """Return a tenant's tally."""
        return self.tenants.get(name) or self.tenants.setdefault(name, Tally())

    # -- what runs

    def enter(self, active: ActiveJob) -> None:
        """Count a job that became active."""
        terms, weight = active.terms, active.milli
        pooled, leaving = _apart(active)
        self._alike.setdefault(_kind(terms), {})[active.job] = active.since
        for tally in self._tallies(terms):
            tally.running += 1
            tally.milli += weight
            tally.pooled += pooled
            tally.leaving += leaving
        meter = self.meters.get(terms.tenant)
        if meter is not None:
            meter.add(active, 1)

    def change(self, before: ActiveJob, active: ActiveJob) -> None:
        """Count an active job that is in another state now, or of other terms."""
        terms, since = active.terms, active.since
        if before.terms is not terms or before.since != since:
            self._unlike(before)  # it may be of another name now
            self._alike.setdefault(_kind(terms), {})[active.job] = since
        if isinstance(active.state, Stopping) and not isinstance(before.state, Stopping):
            for tally in self._tallies(terms):
                tally.leaving += _apart(active)[1]
        meter = self.meters.get(terms.tenant)
        if meter is not None:
            meter.add(before, -1)
            meter.add(active, 1)

    def oldest(self, terms: Terms) -> Timestamp | None:
        """Return since when the first of those runs that are as a job of these terms is, and of which the same is said.

        None where there is none.
        """
        alike = self._alike.get(_kind(terms))
        return None if alike is None else min(alike.values())

    def _unlike(self, active: ActiveJob) -> None:
        kind = _kind(active.terms)
        alike = self._alike[kind]
        del alike[active.job]
        if not alike:
            del self._alike[kind]

    def leave(self, active: ActiveJob) -> None:
        """Count a job that is active no more."""
        self._unlike(active)
        weight = active.milli
        pooled, leaving = _apart(active)
        for tally in self._tallies(active.terms):
            tally.running -= 1
            tally.milli -= weight
            tally.pooled -= pooled
            tally.leaving -= leaving
        meter = self.meters.get(active.terms.tenant)
        if meter is not None:
            meter.add(active, -1)

    def spend(self, active: ActiveJob, at: Timestamp) -> None:
        """Count the GPU time of an attempt that ended then."""
        meter = self.meters.get(active.terms.tenant)
        if meter is not None:
            meter.spend(active, at)
            self.changed = True

    # -- what waits

    def queue(self, terms: Terms, count: int) -> None:
        """Count jobs that wait, or (less than 0) wait no more."""
        for tally in self._tallies(terms):
            tally.queued += count

    def pend(self, array: JobId, terms: Terms, pending: int) -> None:
        """Count what of an array has not started; 0 once it is over."""
        before = self._pending.pop(array, 0)
        if pending:
            self._pending[array] = pending
        if pending != before:
            self.queue(terms, pending - before)

    # -- windows of GPU time

    def meter(self, tenant: Tenant, now: Timestamp, active: Iterable[ActiveJob]) -> None:
        """Begin to count a tenant's GPU time, from now on."""
        self.meters[tenant.name] = _begun(tenant, now, active)
        self._changed()

    def unmeter(self, name: str) -> None:
        """Count a tenant's GPU time no more."""
        if self.meters.pop(name, None) is not None:
            self._changed()

    def roll(self, tenants: Mapping[str, Tenant], now: Timestamp, active: Iterable[ActiveJob]) -> set[str]:
        """Begin windows anew that are over; return whose."""
        if now < self.rolls_at:
            return set()
        over = {name for name, meter in self.meters.items() if meter.until <= now}
        for name in over:
            self.meters[name] = _begun(tenants[name], now, active)
        self._changed()
        return over

    def spent(self) -> dict[str, object]:
        """Return what must survive a restart, as the store keeps it (JSON)."""
        return {name: [meter.start, meter.spent] for name, meter in self.meters.items()}

    def restore(self, tenants: Iterable[Tenant], spent: Mapping[str, Any]) -> None:
        """Take in what survived, before anything is active."""
        for tenant in tenants:
            start, used = spent.get(tenant.name, (tenant.since, 0))
            self.meters[tenant.name] = Meter(Timestamp(start), Timestamp(start + tenant.window_s), used)
        self._changed()
        self.changed = False

    def _changed(self) -> None:
        self.changed = True
        self.rolls_at = min((meter.until for meter in self.meters.values()), default=inf)

    def _tallies(self, terms: Terms) -> tuple[Tally, Tally, Tally]:
        who = terms.user, terms.tenant
        found = self._known.get(who)
        if found is None:
            found = self._known[who] = self.all, self.of_user(terms.user), self.of_tenant(terms.tenant)
        return found


def _begun(tenant: Tenant, now: Timestamp, active: Iterable[ActiveJob]) -> Meter:
    """Return the meter of a tenant's window that holds `now`, with what runs counted since it began."""
    passed = max(0.0, now - tenant.since) // tenant.window_s
    start = Timestamp(tenant.since + passed * tenant.window_s)
    meter = Meter(start, Timestamp(start + tenant.window_s))
    for each in active:
        if each.terms.tenant == tenant.name:
            meter.add(each, 1)
    return meter


def _us(at: Timestamp) -> int:
    return round(at * 1_000_000)
