"""What is refused at the door: a job that this fleet, as large as it ever was, could never run.

Judged against everything ever seen, lost and drained GPUs included, so that a reboot or a maintenance never
refuses what fitted yesterday. Where no GPU was ever seen, a GPU job queues and says so.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from gpud.core.fleet import NodeState
from gpud.core.placement import suits, type_matches
from gpud.core.world import World
from gpud.model.gpu import Gpu, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import format_size


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not done, with a stable code and what to do about it."""

    code: str
    message: str
    hint: str | None = None


def never_fits(world: World, demand: Demand) -> Refused | None:
    """Return why a demand can never be met and what the largest possible would be; None if it can, or nobody knows."""
    able = (node for node in world.nodes.values() if _fits(demand, node) and (node.present or not _simulated(node)))
    if len(list(islice(able, demand.nodes))) == demand.nodes:
        return None
    nodes = [node for node in world.nodes.values() if node.present or not _simulated(node)]
    gpus = [state.gpu for node in nodes for state in node.gpus]
    if not nodes or (demand.gpus and not gpus):
        return None
    return (
        _no_such_type(demand, gpus)
        or _no_such_memory(demand, gpus)
        or _too_many(demand, nodes)
        or _too_much(demand, nodes)
    )


def _simulated(node: NodeState) -> bool:
    """Return whether a node was made up: one that is not here now never comes back."""
    return any(state.gpu.simulated for state in node.gpus)


def _suitable(demand: Demand, node: NodeState) -> int:
    return sum(1 for state in node.gpus if suits(demand, state.gpu))


def _fits(demand: Demand, node: NodeState) -> bool:
    return (
        _suitable(demand, node) >= demand.gpus // demand.nodes
        and node.node.cpus >= demand.cpus_counted
        and node.node.memory_mib >= demand.memory_mib
        and node.node.name not in demand.excluded_nodes
    )


def _no_such_type(demand: Demand, gpus: list[Gpu]) -> Refused | None:
    pattern = demand.gpu_type
    if not demand.gpus or pattern is None or any(type_matches(pattern, gpu.name) for gpu in gpus):
        return None
    return Refused("never_fits", f"no GPU here is of type {pattern!r}", f"there are: {_types(gpus)}")


def _no_such_memory(demand: Demand, gpus: list[Gpu]) -> Refused | None:
    wanted, pattern = demand.gpu_memory_mib, demand.gpu_type
    if not demand.gpus or wanted is None:
        return None
    sizes = [nominal_mib(gpu.memory_total_mib) for gpu in gpus if pattern is None or type_matches(pattern, gpu.name)]
    if max(sizes) >= wanted:
        return None
    what = "no GPU" if pattern is None else f"no {pattern}"
    message = f"{what} here has {format_size(wanted)} of memory"
    return Refused("never_fits", message, f"the largest has {format_size(max(sizes))}")


def _too_many(demand: Demand, nodes: list[NodeState]) -> Refused | None:
    most = max(_suitable(demand, node) for node in nodes)
    if most >= demand.gpus:
        return None
    kind = " that suit" if demand.gpu_type or demand.gpu_memory_mib or demand.gpu_ids else ""
    where = "this machine has" if len(nodes) == 1 else "the largest node has"
    asked = f"{demand.gpus} GPUs are" if demand.gpus > 1 else "a GPU is"
    message = f"{asked} asked for; {where} {most or 'none'}{kind}"
    hint = f"the largest possible job here has --gpus {most}" if most else "see what there is: gpuctl gpus"
    return Refused("never_fits", message, hint)


def _too_much(demand: Demand, nodes: list[NodeState]) -> Refused:
    able = [node for node in nodes if _suitable(demand, node) >= demand.gpus]
    cpus = max(node.node.cpus for node in able)
    memory = max(node.node.memory_mib for node in able)
    if demand.cpus_counted > cpus:
        return Refused("never_fits", f"{demand.cpus_counted} CPUs are asked for; the most on one node is {cpus}")
    if demand.memory_mib > memory:
        wanted, most = format_size(demand.memory_mib), format_size(memory)
        return Refused("never_fits", f"{wanted} of memory is asked for; the most on one node is {most}")
    message = "no single node has the GPUs, CPUs and memory that are asked for together"
    return Refused("never_fits", message, "see what each node has: gpuctl nodes")


def _types(gpus: list[Gpu]) -> str:
    names = Counter(gpu.name for gpu in gpus)
    return ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
