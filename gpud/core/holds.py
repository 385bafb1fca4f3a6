"""What claims leave of the nodes on which they hold something, and how that is counted."""

from collections.abc import Iterable, Mapping
from math import inf

from gpud.core.claims import Claim
from gpud.core.room import Hold
from gpud.core.world import World
from gpud.model.gpu import Allocation, GpuId, NodeName

Holds = Mapping[NodeName, Hold]
_PLENTY = 1 << 60


def leaves(holds: Holds, allocation: Allocation) -> bool:
    """Return whether what a claim leaves is enough for an allocation."""
    return all(
        not 0 < part.cpus > hold.cpus
        and not 0 < part.memory_mib > hold.memory_mib
        and all(hold.gpus.get(share.gpu, inf) >= (share.memory_mib or inf) for share in part.shares)
        for part in allocation.parts
        if (hold := holds.get(part.node)) is not None
    )


def count(holds: Holds, allocation: Allocation) -> None:
    """Take an allocation off what a claim leaves."""
    for part in allocation.parts:
        hold = holds.get(part.node)
        if hold is not None:
            hold.cpus -= part.cpus
            hold.memory_mib -= part.memory_mib
            for share in part.shares:
                if share.gpu in hold.gpus and share.memory_mib is not None:
                    hold.gpus[share.gpu] -= share.memory_mib


def kept_back(world: World, claim: Claim) -> dict[NodeName, Hold]:
    """Return what a claim withholds; of those that stand, worked out once. (Whom one binds takes nothing of it.)"""
    if claim.until < inf or world.standing is None:
        return _withheld(world, claim)
    if world.withheld is None or world.withheld[0] is not world.standing:
        world.withheld = world.standing, {each: _withheld(world, each) for each in world.standing}
    return world.withheld[1][claim]


def _withheld(world: World, claim: Claim) -> dict[NodeName, Hold]:
    holds: dict[NodeName, Hold] = {}
    for gpu in claim.gpus:
        state = world.gpus.get(gpu)
        if state is not None:
            hold = holds.setdefault(state.node, Hold(gpus={}, cpus=_PLENTY, memory_mib=_PLENTY))
            hold.gpus[gpu] = 0
    return holds


def all_but(world: World, gpus: tuple[GpuId, ...]) -> dict[NodeName, Hold]:
    """Return, of the nodes of these GPUs, holds on all the others there."""
    nodes = dict.fromkeys(world.gpus[gpu].node for gpu in gpus if gpu in world.gpus)
    return {
        name: Hold(
            gpus={state.gpu.id: 0 for state in world.nodes[name].gpus if state.gpu.id not in gpus},
            cpus=_PLENTY,
            memory_mib=_PLENTY,
        )
        for name in nodes
    }


def merge(all_holds: Iterable[Holds]) -> dict[NodeName, Hold]:
    """Return what claims leave together, counted apart from what each leaves."""
    merged: dict[NodeName, Hold] = {}
    for holds in all_holds:
        for node, hold in holds.items():
            known = merged.get(node)
            if known is None:
                merged[node] = Hold(gpus=dict(hold.gpus), cpus=hold.cpus, memory_mib=hold.memory_mib)
                continue
            known.cpus, known.memory_mib = min(known.cpus, hold.cpus), min(known.memory_mib, hold.memory_mib)
            for gpu, left in hold.gpus.items():
                known.gpus[gpu] = min(left, known.gpus.get(gpu, left))
    return merged
