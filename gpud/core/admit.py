"""What is refused at the door: a job that this fleet, as large as it ever was, could never run.

Judged against everything ever seen, lost and drained GPUs included, so that a reboot or a maintenance never
refuses what fitted yesterday. Where no GPU was ever seen, a GPU job queues and says so.
"""

from dataclasses import dataclass

from gpud.core.placement import suits, type_matches
from gpud.core.world import NodeState, World
from gpud.model.gpu import nominal_mib
from gpud.model.job import Demand
from gpud.model.units import format_size


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not done, with a stable code and what to do about it."""

    code: str
    message: str
    hint: str | None = None


def never_fits(world: World, demand: Demand) -> Refused | None:
    """Return why a demand can never be met and what the largest possible would be; None if it can."""
    nodes = list(world.nodes.values())
    if demand.gpus and not world.any_gpu():
        return None
    if any(_fits(demand, node) for node in nodes):
        return None
    return (
        _no_such_type(world, demand)
        or _no_such_memory(world, demand)
        or _too_many(demand, nodes)
        or _too_much(demand, nodes)
    )


def _fits(demand: Demand, node: NodeState) -> bool:
    suitable = sum(1 for state in node.gpus if suits(demand, state.gpu))
    return (
        suitable >= demand.gpus
        and node.node.cpus >= demand.cpus_counted
        and node.node.memory_mib >= demand.memory_mib
        and node.node.name not in demand.excluded_nodes
    )


def _no_such_type(world: World, demand: Demand) -> Refused | None:
    pattern = demand.gpu_type
    if not demand.gpus or pattern is None:
        return None
    if any(type_matches(pattern, state.gpu.name) for state in world.gpus.values()):
        return None
    return Refused("never_fits", f"no GPU here is of type {pattern!r}", f"there are: {_types(world)}")


def _no_such_memory(world: World, demand: Demand) -> Refused | None:
    wanted, pattern = demand.gpu_memory_mib, demand.gpu_type
    if not demand.gpus or wanted is None:
        return None
    sizes = [
        nominal_mib(state.gpu.memory_total_mib)
        for state in world.gpus.values()
        if pattern is None or type_matches(pattern, state.gpu.name)
    ]
    if max(sizes) >= wanted:
        return None
    what = "no GPU" if pattern is None else f"no {pattern}"
    message = f"{what} here has {format_size(wanted)} of memory"
    return Refused("never_fits", message, f"the largest has {format_size(max(sizes))}")


def _too_many(demand: Demand, nodes: list[NodeState]) -> Refused | None:
    most = max((sum(1 for state in node.gpus if suits(demand, state.gpu)) for node in nodes), default=0)
    if most >= demand.gpus:
        return None
    kind = " that suit" if demand.gpu_type or demand.gpu_memory_mib or demand.gpu_ids else ""
    where = "this machine has" if len(nodes) == 1 else "the largest node has"
    message = f"{demand.gpus} GPUs are asked for; {where} {most}{kind}"
    hint = f"the largest possible job here has --gpus {most}" if most else "see what there is: gpuctl gpus"
    return Refused("never_fits", message, hint)


def _too_much(demand: Demand, nodes: list[NodeState]) -> Refused:
    able = [node for node in nodes if sum(1 for state in node.gpus if suits(demand, state.gpu)) >= demand.gpus]
    cpus = max((node.node.cpus for node in able), default=0)
    memory = max((node.node.memory_mib for node in able), default=0)
    if demand.cpus_counted > cpus:
        return Refused("never_fits", f"{demand.cpus_counted} CPUs are asked for; the most on one node is {cpus}")
    if demand.memory_mib > memory:
        wanted, most = format_size(demand.memory_mib), format_size(memory)
        return Refused("never_fits", f"{wanted} of memory is asked for; the most on one node is {most}")
    message = "no single node has the GPUs, CPUs and memory that are asked for together"
    return Refused("never_fits", message, "see what each node has: gpuctl nodes")


def _types(world: World) -> str:
    names: dict[str, int] = {}
    for state in world.gpus.values():
        names[state.gpu.name] = names.get(state.gpu.name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
