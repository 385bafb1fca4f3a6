"""What the books say that everybody has, and a recount of it from the jobs alone."""

from collections import defaultdict
from typing import Any

from ledger import Ledger

from gpud.core.active import ActiveJob
from gpud.core.books import Tally
from gpud.core.world import World
from gpud.model.gpu import nominal_mib
from gpud.model.job import Stopping
from gpud.model.spec import Terms

NOTHING = Tally()


def counted(world: World) -> dict[str, Any]:
    """Return the tallies of all who have something."""
    return _some(world.books.all, world.books.users, world.books.tenants)


def recounted(world: World, ledger: Ledger) -> dict[str, Any]:
    """Return the same, from what runs and from what the changes say is not over."""
    everybody, users, tenants = Tally(), defaultdict[str, Tally](Tally), defaultdict[str, Tally](Tally)

    def add(
        terms: Terms, *, running: int = 0, milli: int = 0, pooled: int = 0, leaving: int = 0, queued: int = 0
    ) -> None:
        for tally in (everybody, users[terms.user], tenants[terms.tenant]):
            tally.running += running
            tally.milli += milli
            tally.pooled += pooled
            tally.leaving += leaving
            tally.queued += queued

    for active in world.active.values():
        weight = held(world, active)
        if active.terms.demand.pool is None:
            add(active.terms, running=1, milli=weight, leaving=weight * isinstance(active.state, Stopping))
        else:
            add(active.terms, running=1, milli=weight, pooled=weight)
    for job, row in ledger.unfinished().items():
        if row.array is not None:
            add(row.terms, queued=len(row.array.pending))
        elif job not in world.active:
            add(row.terms, queued=1)
    return _some(everybody, users, tenants)


def held(world: World, active: ActiveJob) -> int:
    """Return what a job holds in thousandths of a GPU, as its allocation has it and the GPUs are there."""
    demand, weight = active.terms.demand, 0
    for share in active.state.allocation.all_shares:
        if demand.share_mib is None:
            weight += demand.share_permille or 1000
        elif share.gpu in world.gpus:
            weight += max(1, 1000 * demand.share_mib // nominal_mib(world.gpus[share.gpu].gpu.memory_total_mib))
        else:  # of a node that was not seen since a restart its allocation alone tells
            weight += share.milli
    return weight


def _some(everybody: Tally, users: dict[str, Tally], tenants: dict[str, Tally]) -> dict[str, Any]:
    return {
        "all": everybody,
        "users": {name: tally for name, tally in users.items() if tally != NOTHING},
        "tenants": {name: tally for name, tally in tenants.items() if tally != NOTHING},
    }
