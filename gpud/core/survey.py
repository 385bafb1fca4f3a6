"""What every node has to give now, counted anew only where something changed."""

from gpud.core.condition import RELEASE_S, Condition, condition, fresh
from gpud.core.fleet import NodeState
from gpud.core.placement import suits
from gpud.core.room import Room
from gpud.core.world import World
from gpud.model.gpu import Allocation, GpuId, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import Timestamp


def refresh(world: World, now: Timestamp) -> None:
    """Bring `world.spaces` up to date: nodes that are dirty, and those whose GPUs' condition changes with time.

    However old the look at a GPU is: whether it is fresh enough is asked when it is to be given out. Nodes on paper
    get back what jobs had, and are not counted.
    """
    if world.settling:
        world.dirty.update([name for name, at in world.settling.items() if at <= now])
    for part in world.vacated:
        if part.node not in world.dirty:
            world.spaces.give_back(part)
    world.vacated.clear()
    for name in sorted(world.dirty):
        world.settling.pop(name, None)
        node = world.nodes.get(name)
        if node is None or not node.present or node.drained is not None:
            world.spaces.drop(name)
            continue
        node.changed()
        world.spaces.put(room_of(world, node, now))
        if not node.gpus or node.gpus[0].gpu.simulated:
            continue  # nothing settles
        released = [state.released_at for state in node.gpus if state.released_at is not None]
        if released:
            world.settling[name] = Timestamp(min(released) + RELEASE_S)
    world.dirty.clear()


def stale(world: World, demand: Demand, allocation: Allocation, now: Timestamp) -> list[GpuId]:
    """Return the GPUs to look at before an allocation may be given: with it all that the next alike could get."""
    found = list[GpuId]()
    if not world.real:
        return found
    for part in allocation.parts:
        if part.node not in world.real or all(fresh(world.gpus[gpu], now) for gpu in part.gpus):
            continue
        room = world.spaces.rooms[part.node]
        able = {state.gpu.id for state in room.free if suits(demand, state.gpu)} | set(part.gpus)
        found += [gpu for gpu in able if not fresh(world.gpus[gpu], now)]
    return sorted(found)


def room_of(world: World, node: NodeState, now: Timestamp) -> Room:
    """Return what a node has to give."""
    room = Room(node, [], node.node.cpus - node.cpus_used, node.node.memory_mib - node.memory_used_mib)
    room.sick = any(state.health.faults for state in node.gpus)
    for state in node.gpus:
        if state.gpu.split or None in state.holders.values():
            continue
        if not state.holders and state.gpu.simulated and state.present and state.drained is None:
            room.free.append(state)  # nothing to look at: most of what a simulation counts
            continue
        match condition(world, state, now):
            case Condition.FREE:
                room.free.append(state)
            case Condition.SHARED:
                room.shared[state.gpu.id] = nominal_mib(state.gpu.memory_total_mib) - state.declared_mib
    return room
