"""What of the GPUs a job counts for while it waits, where it asks for a part of each by memory.

What part that is depends on the GPU: it counts as the largest that it could come to on any GPU that there is and that
suits it, in its pool or beside all pools. That is what it will be charged where all are alike, and never less, so that
whoever was let in exceeds no quota. GPUs that are not there now count only where none that suits is; where none is
known, whole ones do.

Cost: O(GPUs) for a demand that is new since the inventory changed; nothing for jobs without such parts.
"""

from gpud.core import books
from gpud.core.placement import goes_to, suits
from gpud.core.windows import inside
from gpud.core.world import World
from gpud.model.gpu import milli_of
from gpud.model.job import Demand

_REMEMBERED = 10_000


def milli(world: World, demand: Demand) -> int:
    """Return the GPUs that a waiting job counts for, in thousandths: never less than it will be charged for."""
    if demand.share_mib is None:
        return books.milli(demand)
    known = world.books.parts
    found = known.get(demand)
    if found is None:
        if len(known) > _REMEMBERED:
            known.clear()
        found = known[demand] = demand.gpus * _largest(world, demand)
    return found


def _largest(world: World, demand: Demand) -> int:
    """Return the largest part, in thousandths, that a job could have of one GPU."""
    assert demand.share_mib is not None  # noqa: S101 - who calls has looked
    pools = {pool.name: inside(world, pool) for pool in world.rules.pools}
    within = None if demand.pool is None else pools.get(demand.pool, frozenset())
    others = frozenset[object]().union(*(gpus for name, gpus in pools.items() if name != demand.pool))
    open_to = {name for name, each in world.nodes.items() if goes_to(demand, each.node)}
    able = [
        state
        for gpu, state in world.gpus.items()
        if state.node in open_to
        and gpu not in others
        and (within is None or gpu in within)
        and suits(demand, state.gpu)
    ]
    there = [state for state in able if state.present] or able
    return max((milli_of(demand.share_mib, state.gpu.memory_total_mib) for state in there), default=1000)
