"""What a job asks for when it is tried again: more memory where it ran out, not what broke under it.

Only where there is such: a job whose one node was rebooted goes back to that node. Who ran out of memory gets all
that there is where a quarter more is too much, and is not tried again once it had that. Its terms are others from
then on, so it stands in another line.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from gpud.core.active import ActiveJob
from gpud.core.admit import never_fits
from gpud.core.condition import is_lost, surveyed
from gpud.core.lifecycle import out_of_memory
from gpud.core.world import World
from gpud.model.gpu import GpuId, nominal_mib
from gpud.model.job import Demand, Exit
from gpud.model.spec import Terms
from gpud.model.units import Mib, format_size

MORE = 1.25  # of what was used when there was not enough


def lost_gpus(world: World, active: ActiveJob) -> tuple[GpuId, ...]:
    """Return the GPUs of a job that are known to be lost, as far as was seen."""
    states = (world.gpus.get(share.gpu) for share in active.state.allocation.all_shares)
    return tuple(state.gpu.id for state in states if state is not None and is_lost(world, state))


def named(world: World, gpu: GpuId) -> str:
    """Return what people call a GPU."""
    state = world.gpus[gpu]
    return f"GPU {state.gpu.index} of {state.node}"


def terms_after(
    world: World, active: ActiveJob, outcome: Exit, lost: tuple[GpuId, ...]
) -> tuple[Terms | None, str | None]:
    """Return the terms with which a job is tried again after this end, and what is new in them, for people.

    They are its own, and nothing is new, where there is no use in a change; None, and why, where there is none in
    trying.
    """
    demand, said = active.terms.demand, None
    if outcome.lost is not None:
        gone = {part.node for part in active.state.allocation.parts}
        wanted = replace(demand, excluded_nodes=tuple(sorted({*demand.excluded_nodes, *gone})))
        said = f"not on {', '.join(sorted(gone))} again"
    elif lost:
        wanted = replace(demand, excluded_gpus=tuple(sorted({*demand.excluded_gpus, *lost})))
        said = f"not on {', '.join(named(world, gpu) for gpu in lost)} again"
    elif out_of_memory(outcome):
        return _with_more(world, active, outcome)
    else:
        return active.terms, None
    if wanted == demand or not surveyed(world) or never_fits(world, wanted) is not None:
        return active.terms, None  # of a reboot gpud knows before it has seen what else there is
    return replace(active.terms, demand=wanted), said


def _with_more(world: World, active: ActiveJob, outcome: Exit) -> tuple[Terms | None, str | None]:
    """Return the terms with more of the memory that was short: of GPUs where CUDA said so, else of the machine."""
    demand = active.terms.demand
    of_gpus = (outcome.finding or "").startswith("cuda")
    if of_gpus and not demand.gpus:
        return active.terms, None
    wider = _on_gpus(world, active) if of_gpus else _on_nodes(world, demand, outcome)
    for wanted, said in wider:
        if never_fits(world, wanted) is None:
            return replace(active.terms, demand=wanted), said
    return None, "there is no larger GPU here" if of_gpus else "no node here has more memory"


def _on_nodes(world: World, demand: Demand, outcome: Exit) -> Iterator[tuple[Demand, str]]:
    """Yield demands with more of the machine's memory than there was, the best first, and what is new in words."""
    peak = max(outcome.max_rss_mib or 0, demand.memory_mib)
    most = max((node.node.memory_mib for node in world.nodes.values()), default=0)
    for more in (ceil(peak * MORE), most):
        if more > demand.memory_mib:
            yield replace(demand, memory_mib=Mib(more)), f"now with {format_size(more)} of memory"


def _on_gpus(world: World, active: ActiveJob) -> Iterator[tuple[Demand, str]]:
    """Yield demands with more of a GPU's memory than there was, the best first, and what is new in words."""
    demand = active.terms.demand
    if demand.share_mib is not None:
        sizes = {nominal_mib(state.gpu.memory_total_mib) for state in world.gpus.values()}
        for more in (ceil(demand.share_mib * MORE), *sorted(sizes, reverse=True)):
            if more > demand.share_mib:
                yield replace(demand, share_mib=Mib(more)), f"now with {format_size(more)} of each GPU"
        return
    if demand.share_permille is not None and demand.share_permille < 1000:
        permille = min(1000, ceil(demand.share_permille * MORE))
        yield replace(demand, share_permille=permille), f"now with {permille / 1000:g} of a GPU"
        return
    had = [world.gpus[share.gpu] for share in active.state.allocation.all_shares if share.gpu in world.gpus]
    if had and demand.mig is None:
        largest = max(nominal_mib(state.gpu.memory_total_mib) for state in had)
        yield replace(demand, gpu_memory_mib=Mib(largest + 1)), "now on a larger GPU"  # than any it had
