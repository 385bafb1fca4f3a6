"""How full a cluster can be made: the experiment of Weng et al., "Beware of Fragmentation" (FGD), ATC'23.

The jobs of a trace come in a random order, and then random ones of them again, until so many times the cluster's GPUs
were asked for; each is placed at once or not at all, and none ever leaves. What counts is the part of the GPUs that is
given out in the end. The daemon's own placement decides; of a rule that knows what usually comes, the `mix` is the
trace.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import fmean, pstdev
from typing import Any

from gpud.core.cycle import cycle
from gpud.core.fragmentation import Fragmentation
from gpud.core.policies.fcfs import Fcfs
from gpud.core.rules import Rules
from gpud.core.scoring import BestFit, Placement, Spread
from gpud.core.space import Spaces
from gpud.core.survey import refresh
from gpud.core.world import World
from gpud.model.gpu import Node
from gpud.model.job import Demand
from gpud.model.observations import NodeSeen
from gpud.model.units import Timestamp
from gpud.simulator.cluster import gpu_count
from gpud.simulator.trace import Trace, TraceError

_START = Timestamp(0.0)
# Of `fgd` the mix is known, `fgd-blind` learns it from what came so far.
PLACEMENTS: dict[str, Callable[[Mapping[Demand, float]], Placement]] = {
    "best-fit": lambda _: BestFit(),
    "spread": lambda _: Spread(),
    "fgd": Fragmentation,
    "fgd-blind": lambda _: Fragmentation(),
}


def pack(
    trace: Trace, nodes: tuple[Node, ...], placement: str, over: float, seeds: int, tell: Callable[[float], None]
) -> dict[str, Any]:
    """Return what part of the GPUs was given out, on average over so many orders. Raises TraceError."""
    if placement not in PLACEMENTS:
        raise TraceError(f"there is no placement {placement!r}", f"there is: {', '.join(PLACEMENTS)}")
    began = time.perf_counter()
    gpus = gpu_count(nodes)
    demands = [job.terms.demand for job in trace.jobs]
    if not gpus or not any(demand.gpus for demand in demands):
        raise TraceError("there are no GPUs to fill, or no job asks for one")
    runs = []
    for seed in range(seeds):
        spaces = _spaces(nodes, PLACEMENTS[placement](Counter(demands)))
        runs.append(_fill(spaces, _arrivals(demands, over * gpus, Random(seed)), gpus))  # noqa: S311 - an experiment
        tell((seed + 1) / seeds)
    return {
        "trace": trace.name,
        "placement": placement,
        "gpus": gpus,
        "saturate": over,
        "seeds": seeds,
        "jobs": len(demands),
        "rounded": trace.rounded,
        "gpu_allocation_percent": 100 * fmean(end for end, _ in runs),
        "gpu_allocation_percent_sd": 100 * pstdev(end for end, _ in runs),
        "gpu_allocation_percent_at_100": 100 * fmean(full for _, full in runs),
        "wall_s": time.perf_counter() - began,
    }


def _spaces(nodes: Sequence[Node], placement: Placement) -> Spaces:
    world = World(Fcfs(), Rules(), "simulated")
    world.spaces = Spaces(placement)
    cycle(world, [NodeSeen(node) for node in nodes], _START)
    refresh(world, _START)
    return world.spaces


def _arrivals(demands: Sequence[Demand], wanted: float, random: Random) -> list[Demand]:
    """Return demands in a random order, each once and then random ones of them, until so many GPUs are asked for."""
    once = random.sample(demands, len(demands))
    arrivals, asked = list[Demand](), 0.0
    while asked < wanted:
        arrivals.append(once[len(arrivals)] if len(arrivals) < len(once) else random.choice(demands))
        asked += arrivals[-1].gpu_weight
    return arrivals


def _fill(spaces: Spaces, arrivals: Sequence[Demand], gpus: int) -> tuple[float, float]:
    """Return the part of the GPUs that is given out in the end, and that was when as many had been asked for."""
    asked = given = 0.0
    at_full: float | None = None
    for demand in arrivals:
        if at_full is None and asked >= gpus:
            at_full = given
        asked += demand.gpu_weight
        spaces.learn(demand)
        allocation = spaces.best(demand)
        if allocation is not None:
            spaces.take(allocation)
            given += demand.gpu_weight
    return given / gpus, (given if at_full is None else at_full) / gpus
