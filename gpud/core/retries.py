"""What a job asks for when it is tried again: more memory where it ran out, not what broke under it.

Only where there is such: a job whose one node was rebooted goes back to that node, and one that had the largest GPU
asks for it again. Its terms are others from then on, so it stands in another line.
"""

from dataclasses import replace
from math import ceil

from gpud.core.active import ActiveJob
from gpud.core.admit import never_fits
from gpud.core.lifecycle import out_of_memory
from gpud.core.world import World
from gpud.model.gpu import GpuId, Unreadable, nominal_mib
from gpud.model.job import Demand, Exit
from gpud.model.spec import Terms
from gpud.model.units import Mib

MORE = 1.25  # of what was used when there was not enough


def lost_gpus(world: World, active: ActiveJob) -> tuple[GpuId, ...]:
    """Return the GPUs of a job that are known to be lost, as far as was seen."""
    states = (world.gpus.get(share.gpu) for share in active.state.allocation.all_shares)
    return tuple(
        state.gpu.id
        for state in states
        if state is not None and (not state.present or (isinstance(state.seen, Unreadable) and state.seen.lost))
    )


def named(world: World, lost: tuple[GpuId, ...]) -> str | None:
    """Return what people call the first of these GPUs."""
    if not lost:
        return None
    state = world.gpus[lost[0]]
    return f"GPU {state.gpu.index} of {state.node}"


def terms_after(world: World, active: ActiveJob, outcome: Exit, lost: tuple[GpuId, ...]) -> Terms:
    """Return the terms with which a job is tried again after this end; its own where nothing is to change."""
    demand = active.terms.demand
    if outcome.lost is not None:
        gone = {part.node for part in active.state.allocation.parts}
        wanted = replace(demand, excluded_nodes=tuple(sorted({*demand.excluded_nodes, *gone})))
    elif lost:
        wanted = replace(demand, excluded_gpus=tuple(sorted({*demand.excluded_gpus, *lost})))
    elif out_of_memory(outcome):
        wanted = _with_more(world, active, outcome)
    else:
        return active.terms
    if wanted == demand or never_fits(world, wanted) is not None:
        return active.terms
    return replace(active.terms, demand=wanted)


def _with_more(world: World, active: ActiveJob, outcome: Exit) -> Demand:
    """Return the demand with more of the memory that was short: of GPUs where CUDA said so, else of the machine."""
    demand = active.terms.demand
    if not (outcome.finding or "").startswith("cuda"):
        peak = max(outcome.max_rss_mib or 0, demand.memory_mib)
        return replace(demand, memory_mib=Mib(ceil(peak * MORE)))
    if demand.share_mib is not None:
        return replace(demand, share_mib=Mib(ceil(demand.share_mib * MORE)))
    if demand.share_permille is not None:
        return replace(demand, share_permille=min(1000, ceil(demand.share_permille * MORE)))
    had = [world.gpus[share.gpu] for share in active.state.allocation.all_shares if share.gpu in world.gpus]
    if not had or demand.mig is not None:
        return demand
    largest = max(nominal_mib(state.gpu.memory_total_mib) for state in had)
    return replace(demand, gpu_memory_mib=Mib(largest + 1))  # whatever is larger
