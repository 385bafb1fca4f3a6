"""The tenant first that has used least against its share, then of its users the one that has; then by priority.

Use is GPU-time, and the older it is the less it counts (see core.usage). To it comes what a job that runs has had so
far, or, from the moment it starts, what it is expected to have, up to `_UPFRONT_S`: so the second job of a burst
stands behind everybody else's first.

Who has nothing waiting and nothing running saves nothing: whoever comes (back) is counted as having used what the
least of those who are there had, less a `head_start`. So a newcomer is served next, and nobody's burst pushes the
others aside for as long as they had been working while it was away. What is only expected of the others' jobs does not
count here: it may never come, and the newcomer would stay behind for it. Without tenants users alone are compared.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import Self

from gpud.core.active import ActiveJob
from gpud.core.bursts import Burst
from gpud.core.policies.parameters import Kind, Parameter, Surroundings
from gpud.core.policies.priority import AGING, Priority
from gpud.core.usage import HALF_LIFE_S
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

SAYS = "the tenant, then the user, that has used least of late against its share; then by priority"
HALF_LIFE = Parameter("half_life", Kind.DURATION, HALF_LIFE_S, "after how long GPU-time counts half", 60.0)
HEAD_START = Parameter(
    "head_start", Kind.DURATION, 3600.0, "GPU-time by which who used less may get ahead; older savings lapse"
)

_UPFRONT_S: Seconds = 3600.0
_EVERY = 1e-3  # of a half-life: how often everybody is counted anew
_EVERY_LEAST_S: Seconds = 60.0
_PER_CPU = 0.01  # what a CPU of a job without GPUs counts, while it runs, of a GPU
_NAME_BYTES = 32  # the lowest of a rank; no user has a longer name
_USER_BITS = 64 + 8 * _NAME_BYTES  # of a rank; above them stands the tenant

Whose = tuple[str, str | None]  # a tenant and one of its users, or (None) the tenant as a whole


@dataclass(slots=True)
class _Job:
    """A job that runs: what it is counted for at least, and is counted for as of the last time."""

    active: ActiveJob
    upfront_s: Seconds
    counted_s: Seconds

    def ran_s(self, now: Timestamp) -> Seconds:
        """Return what it has had."""
        return _weight(self.active) * max(0.0, now - self.active.since)

    def count(self, now: Timestamp) -> None:
        """Bring what it is counted for up to now."""
        self.counted_s = max(self.upfront_s, self.ran_s(now))


class FairShare(Priority):
    """The policy `fair_share`.

    Users who used the same stand in the order of their names until one of them starts something: a priority shall not
    count between them.
    """

    personal = True

    def __init__(self, aging_per_hour: float, head_start_s: Seconds, surroundings: Surroundings) -> None:
        super().__init__(aging_per_hour)
        self._head_start_s = head_start_s
        self._world = surroundings
        self._active: dict[JobId, _Job] = {}
        self._running_s: dict[Whose, Seconds] = {}  # what jobs that run count for
        self._counts_s: dict[Whose, Seconds] = {}  # of all who are there: use against share
        self._to_come_s: dict[Whose, Seconds] | None = None  # what of that their jobs have not had yet; None: not known
        self._seen: set[Whose] = set()
        self._tenants = surroundings.tenants  # as they were at the last count
        self._now = Timestamp(0.0)
        self._next: Timestamp | None = None  # when to count anew; None before the first time

    def rank(self, terms: Terms, burst: Burst) -> int:  # noqa: ARG002 - the protocol's shape
        """Return the tenant's and the user's use against their shares, in milliseconds."""
        user: Whose = (terms.tenant, terms.user)
        self._seen.add(user)
        used_s = self._counts_s.get(user)
        if used_s is None:
            used_s = self._enter(user)
        name = int.from_bytes(terms.user.encode(errors="surrogateescape")[:_NAME_BYTES].ljust(_NAME_BYTES), "big")
        within = round(1000 * used_s) << 8 * _NAME_BYTES | name
        if not self._world.tenants:
            return within
        tenant: Whose = (terms.tenant, None)
        self._seen.add(tenant)
        tenant_s = self._counts_s.get(tenant)
        if tenant_s is None:
            tenant_s = self._enter(tenant)
        return round(1000 * tenant_s) << _USER_BITS | within

    def refresh(self, now: Timestamp) -> bool:
        """Count everybody anew, now and then, and when shares changed; who has gone is forgotten."""
        if self._next is not None and now < self._next and self._tenants is self._world.tenants:
            return False
        self._now, self._tenants = now, self._world.tenants
        self._running_s = {}
        for job in self._active.values():
            job.count(now)
            for whose in _both(job.active.terms):
                self._running_s[whose] = self._running_s.get(whose, 0.0) + job.counted_s
        # Those who came before the first count were there: nobody knows since when.
        there = {*self._running_s, *self._seen}
        self._counts_s, self._to_come_s = {whose: self._count(whose) for whose in there}, None
        self._seen.clear()
        self._next = Timestamp(now + max(_EVERY_LEAST_S, _EVERY * self._world.usage.half_life_s))
        return True

    def started(self, active: ActiveJob, now: Timestamp) -> bool:
        """Count what the job is expected to have."""
        expected_s = min(_UPFRONT_S, self._world.predictor.seconds(active.terms))
        job = self._active[active.job] = _Job(active, _weight(active) * expected_s, 0.0)
        job.count(now)
        self._now = now
        self._change(active.terms, job.counted_s)
        return True

    def ended(self, active: ActiveJob, gpu_s: Seconds, now: Timestamp) -> bool:  # noqa: ARG002 - the protocol's shape
        """Count what the job had: it is in its user's account."""
        self._now = now
        self._change(active.terms, -self._active.pop(active.job).counted_s)
        return True

    def twin(self, surroundings: Surroundings) -> Self:
        """Return one that counts on, for another world."""
        twin = copy(self)
        twin._world = surroundings  # noqa: SLF001 - its own
        twin._active = {job: copy(each) for job, each in self._active.items()}  # noqa: SLF001 - its own
        twin._running_s, twin._counts_s = dict(self._running_s), dict(self._counts_s)  # noqa: SLF001 - its own
        twin._seen = set(self._seen)  # noqa: SLF001 - its own
        return twin

    def _change(self, terms: Terms, by_s: Seconds) -> None:
        self._to_come_s = None
        for whose in _both(terms):
            self._running_s[whose] = self._running_s.get(whose, 0.0) + by_s
            self._counts_s[whose] = self._count(whose)

    def _count(self, whose: Whose) -> Seconds:
        account = self._world.usage.account(*whose, self._now)
        return (account.used_s + account.lifted_s + self._running_s.get(whose, 0.0)) / self._share(whose)

    def _share(self, whose: Whose) -> float:
        tenant = self._world.tenants.get(whose[0]) if whose[1] is None else None
        return 1.0 if tenant is None else tenant.share

    def _enter(self, whose: Whose) -> Seconds:
        """Count who was not there until now: as the least of those who were, less a head start."""
        used_s = self._count(whose)
        if self._next is not None:
            if self._to_come_s is None:
                self._to_come_s = self._expected()
            alike = (
                used - self._to_come_s.get(other, 0.0) / self._share(other)
                for other, used in self._counts_s.items()
                if _beside(whose, *other)
            )
            least_s = min(alike, default=-inf) - self._head_start_s
            if used_s < least_s:
                running_s = self._running_s.get(whose, 0.0)
                self._world.usage.lift(*whose, least_s * self._share(whose) - running_s, self._now)
                used_s = least_s
        self._counts_s[whose] = used_s
        return used_s

    def _expected(self) -> dict[Whose, Seconds]:
        """Return what everybody is counted for that their jobs have not had yet."""
        to_come_s: dict[Whose, Seconds] = {}
        for job in self._active.values():
            for whose in _both(job.active.terms):
                ahead_s = max(0.0, job.counted_s - job.ran_s(self._now))
                to_come_s[whose] = to_come_s.get(whose, 0.0) + ahead_s
        return to_come_s


def _weight(active: ActiveJob) -> float:
    """Return how many GPUs a job counts for: a little without any, so that turns are taken at the CPUs, too."""
    return active.gpu_weight or _PER_CPU * active.terms.demand.cpus_counted


def _both(terms: Terms) -> tuple[Whose, Whose]:
    return (terms.tenant, terms.user), (terms.tenant, None)


def _beside(whose: Whose, tenant: str, user: str | None) -> bool:
    """Return whether these two are compared with each other: tenants, or users of one tenant."""
    if whose[1] is None:
        return user is None
    return user is not None and tenant == whose[0]


def make(values: Mapping[str, float], surroundings: Surroundings) -> FairShare:
    """Return the policy; use halves at its pace from now on."""
    surroundings.usage.half_life_s = values[HALF_LIFE.name]
    return FairShare(values[AGING.name], values[HEAD_START.name], surroundings)
