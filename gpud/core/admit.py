"""What is refused at the door: a job that this fleet, as large as it ever was, could never run.

Judged against everything ever seen, lost and drained GPUs included, so that a reboot or a maintenance never
refuses what fitted yesterday. Where no GPU was ever seen, a GPU job queues and says so.

Cost: O(GPUs) for a demand that is new since the inventory changed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from gpud.core.fleet import NodeState
from gpud.core.placement import admits, fit, to_be_had, type_matches
from gpud.core.room import Room
from gpud.core.world import World
from gpud.model.gpu import Gpu, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import format_size
from gpud.model.value import value

_REMEMBERED = 10_000


@value()
class Refused:
    """A request that is not done, with a stable code and what to do about it. `full`: until jobs that wait start."""

    code: str
    message: str
    hint: str | None = None
    full: bool = False


def never_fits(world: World, demand: Demand) -> Refused | None:
    """Return why a demand can never be met and what the largest possible would be; None if it can, or nobody knows."""
    words = world.judged.get(demand)
    if words is None:
        if len(world.judged) > _REMEMBERED:
            world.judged.clear()
        words = world.judged[demand] = _judge(world, demand) or _FITS
    return None if words is _FITS else Refused("never_fits", *words)


_Words = tuple[str, str | None]
_FITS: _Words = ("", None)


def _judge(world: World, demand: Demand) -> _Words | None:
    rooms = [_emptied(node) for node in world.nodes.values() if node.present or not _simulated(node)]
    gpus = [state.gpu for room in rooms for state in room.free]
    if not rooms or (demand.gpus and not any(room.node.gpus for room in rooms)):
        return None
    if sum(1 for room in rooms if fit(demand, room) is not None) >= demand.nodes:
        return None
    open_to = sum(1 for room in rooms if admits(demand, room))
    if open_to < demand.nodes:
        return _too_few_nodes(demand, rooms, open_to)
    return (
        _no_such_instance(demand, gpus)
        or (no_such_type(demand.gpu_type, gpus) if demand.gpus and demand.gpu_type is not None else None)
        or _no_such_memory(demand, gpus)
        or _too_many(demand, rooms)
        or _too_much(demand, rooms)
    )


def _emptied(node: NodeState) -> Room:
    """Return the room that a node has with all of its GPUs there and nothing taken."""
    return Room(node, [state for state in node.gpus if not state.gpu.split], node.node.cpus, node.node.memory_mib)


def _simulated(node: NodeState) -> bool:
    """Return whether a node was made up: one that is not here now never comes back."""
    return any(state.gpu.simulated for state in node.gpus)


def _too_few_nodes(demand: Demand, rooms: list[Room], able: int) -> _Words:
    labels = " ".join(f"{key}={value}" for key, value in demand.node_labels)
    if labels and not able and not any(set(demand.node_labels) <= set(room.node.node.labels) for room in rooms):
        known = sorted({f"{key}={value}" for room in rooms for key, value in room.node.node.labels})
        return f"no node has the label {labels}", f"there are: {', '.join(known)}" if known else "no node has labels"
    what = f" with the label {labels}" if labels else ""
    beside = f" that {'are' if able > 1 else 'is'} not excluded" if demand.excluded_nodes else ""
    asked = f"a node{what} is" if demand.nodes == 1 else f"{demand.nodes} nodes{what} are"
    message = f"{asked} asked for; there {_are(able)}{beside}"
    return message, "see what there is: gpuctl nodes"


def _no_such_instance(demand: Demand, gpus: list[Gpu]) -> _Words | None:
    profiles = Counter(gpu.mig for gpu in gpus if gpu.mig is not None)
    there = ", ".join(f"{count} x {profile}" for profile, count in sorted(profiles.items()))
    if not demand.gpus or any(gpu.mig == demand.mig for gpu in gpus):
        return None
    if demand.mig is None:
        hint = f"ask for one: --mig {min(profiles)} (there are: {there})" if there else "see them: gpuctl gpus"
        return "every GPU here is split into MIG instances", hint
    hint = f"there are: {there}" if there else "no GPU here is split: nvidia-smi mig -cgi makes instances"
    return f"there is no MIG instance {demand.mig} here", hint


def no_such_type(pattern: str, gpus: Sequence[Gpu]) -> _Words | None:
    """Return what is wrong with a type that none of these GPUs is of, and which there are; None if one is."""
    if any(type_matches(pattern, gpu.name) for gpu in gpus):
        return None
    return f"no GPU here is of type {pattern!r}", f"there are: {_types(gpus)}"


def _no_such_memory(demand: Demand, gpus: list[Gpu]) -> _Words | None:
    wanted, pattern = max(demand.gpu_memory_mib or 0, demand.share_mib or 0), demand.gpu_type
    if not demand.gpus or not wanted:
        return None
    kind = [gpu for gpu in gpus if gpu.mig == demand.mig and (pattern is None or type_matches(pattern, gpu.name))]
    largest = max((nominal_mib(gpu.memory_total_mib) for gpu in kind), default=0)
    if largest >= wanted:
        return None
    what = "no GPU" if pattern is None else f"no {pattern}"
    size = format_size(wanted) if wanted % 1024 == 0 else f"{wanted}M"  # 24577M is more than the 24G that there is
    return f"{what} here has {size} of memory", f"the largest has {format_size(largest)}"


def _too_many(demand: Demand, rooms: list[Room]) -> _Words | None:
    each = demand.gpus // demand.nodes
    counts = [to_be_had(demand, room) for room in rooms]
    able, most = sum(1 for count in counts if count >= each), max(counts)
    if able >= demand.nodes:
        return None
    named = demand.gpu_type, demand.gpu_memory_mib, demand.gpu_ids, demand.excluded_gpus, demand.mig, demand.shared
    kind = " that suit" if any(named) else ""
    if demand.nodes > 1 and able:
        gpus = "a GPU" if each == 1 else f"{each} GPUs"
        message = f"{demand.nodes} nodes with {gpus} each are asked for; there {_are(able)}{kind}"
        return message, f"the largest possible job of such nodes has --nodes {able}"
    where = "this machine has" if len(rooms) == 1 else "the largest node has"
    asked = f"{each} GPUs are" if each > 1 else "a GPU is"
    on_each = " on each node" if demand.nodes > 1 else ""
    problem = rooms[0].node.node.problem if len(rooms) == 1 else None  # a GPU may be there, and not say who it is
    message = f"{asked} asked for{on_each}; {where} {most or 'none'}{kind}" + (f" ({problem})" if problem else "")
    if not most:
        return message, "see what there is: gpuctl gpus"
    if demand.nodes > 1:
        return message, f"the largest possible job here has --gpus-per-node {most}"
    hint, nodes = f"the largest possible job here has --gpus {most}", _over_nodes(each, counts)
    return message, f"{hint}; over several nodes: --nodes {nodes} --gpus-per-node {each // nodes}" if nodes else hint


def _over_nodes(gpus: int, counts: list[int]) -> int | None:
    """Return on how few nodes, as many on each, so many GPUs are to be had; None where they are not."""
    splits = (nodes for nodes in range(2, len(counts) + 1) if gpus % nodes == 0)
    return next((nodes for nodes in splits if sum(count >= gpus // nodes for count in counts) >= nodes), None)


def _too_much(demand: Demand, rooms: list[Room]) -> _Words:
    each = demand.gpus // demand.nodes
    able = [room for room in rooms if to_be_had(demand, room) >= each]
    cpus, memory = _nth(demand, (room.cpus for room in able)), _nth(demand, (room.memory_mib for room in able))
    where = "on one node" if demand.nodes == 1 else f"on each of {demand.nodes} nodes"
    if demand.cpus_counted > cpus:
        asked = "a CPU is" if demand.cpus_counted == 1 else f"{demand.cpus_counted} CPUs are"
        return f"{asked} asked for; the most {where} is {cpus}", None
    if demand.memory_mib > memory:
        wanted, most = format_size(demand.memory_mib), format_size(memory)
        return f"{wanted} of memory is asked for; the most {where} is {most}", None
    nodes = "no single node has" if demand.nodes == 1 else f"no {demand.nodes} nodes have"
    message = f"{nodes} the GPUs, CPUs and memory that are asked for together"
    return message, "see what each node has: gpuctl nodes"


def _nth(demand: Demand, sizes: Iterable[int]) -> int:
    """Return the most that as many nodes have as are asked for."""
    return sorted(sizes, reverse=True)[demand.nodes - 1]


def _are(count: int) -> str:
    return f"are {count}" if count > 1 else "is one" if count else "is none"


def _types(gpus: Sequence[Gpu]) -> str:
    names = Counter(gpu.name for gpu in gpus)
    return ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
