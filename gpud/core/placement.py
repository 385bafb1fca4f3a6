"""Whether a demand fits on one node, and which of its GPUs it gets.

Of GPUs that suit: those of one kind, the one with the smallest memory that has enough of them; of these the ones that
are linked closest (NVLink, then a PCIe switch, then a socket), out of the smallest group that has enough; the coolest.
Degraded GPUs only where there are not enough others, and nodes that would give one after all others.
Shares go to GPUs that are shared already, where they fit tightest, and only then to a free one. A GPU is whole or
shared, never both.

Which of some free GPUs a demand gets is worked out once for all that lie in their nodes like these: most nodes of a
cluster are alike. Cost: O(GPUs of the node).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import attrgetter

from gpud.core.fleet import Kind, Slot
from gpud.core.room import Hold, Room, Slots, share_of
from gpud.model.gpu import Allocation, Gpu, GpuId, Node, NodeName, Share, milli_of, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import Mib

Link = Callable[[Slot], object]
# The closest first. What is unknown is no link.
LINKS: tuple[Link, ...] = (attrgetter("nvlink"), attrgetter("pcie"), attrgetter("numa"))
_NONE: frozenset[Slot] = frozenset()
Later = Mapping[Slot, int]

_Part = tuple[bool, bool, int, int, int, GpuId, Mib, Mib]


def fit(demand: Demand, room: Room, hold: Hold | None = None) -> Allocation | None:
    """Return what one node gives to a demand, to each of its nodes if it is a gang; None if it does not fit."""
    if len(room.free) < demand.gpus // demand.nodes and not demand.shared:
        return None
    if hold is not None:
        room = room.within(hold)
    return given(demand, room) if admits(demand, room) and room.lacks(demand) is None else None


def given(demand: Demand, room: Room) -> Allocation | None:
    """Return what a node gives that the demand would go to, and that has its CPUs and memory."""
    count = demand.gpus // demand.nodes
    if not count:
        return _part(demand, room.name, ())
    shares = _in_parts(demand, room, count) if demand.shared else _whole(demand, room)
    return None if shares is None else _part(demand, room.name, shares)


def admits(demand: Demand, room: Room) -> bool:
    """Return whether a node is one that the demand would go to."""
    return goes_to(demand, room.node.node)


def goes_to(demand: Demand, node: Node) -> bool:
    """Return whether a demand would go to a node: it is not excluded, and has the labels."""
    if node.name in demand.excluded_nodes:
        return False
    return not demand.node_labels or set(demand.node_labels) <= set(node.labels)


def suits(demand: Demand, gpu: Gpu) -> bool:
    """Return whether a GPU is of the kind, type and memory asked for, and not excluded. Says nothing of its being free.

    Who shares has no claim to a memory size: the share itself must fit. To name a GPU is to name all its instances.
    """
    if gpu.split or gpu.id in demand.excluded_gpus or gpu.parent in demand.excluded_gpus:
        return False
    if demand.gpu_ids and gpu.id not in demand.gpu_ids and gpu.parent not in demand.gpu_ids:
        return False
    return wants(demand, nominal_mib(gpu.memory_total_mib), gpu.name, gpu.mig or "")


def wants(demand: Demand, memory_mib: Mib, name: str, mig: str) -> bool:
    """Return whether GPUs of a kind are of the type and memory asked for."""
    if (demand.mig or "") != mig:
        return False
    if demand.gpu_memory_mib is not None and memory_mib < demand.gpu_memory_mib:
        return False
    if demand.share_mib is not None and memory_mib < demand.share_mib:
        return False
    return demand.gpu_type is None or type_matches(demand.gpu_type, name)


@lru_cache(maxsize=4096)
def type_matches(pattern: str, name: str) -> bool:
    """Return whether a type as people write it means a GPU as its vendor names it; case does not matter.

    Every word of the pattern must be a word of the name, or some that stand together: `RTX4090` and `4090` mean
    "NVIDIA GeForce RTX 4090", `A100-80GB` means "NVIDIA A100-SXM4-80GB", but `A10` does not mean an A100 nor
    `L40` an L40S. `*` and `?` stand for letters: `H*00`. `A|B` is either.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    runs = {"".join(words[low:high]) for low in range(len(words)) for high in range(low + 1, len(words) + 1)}
    return any(_means(one, runs) for one in pattern.split("|"))


def _means(pattern: str, runs: Iterable[str]) -> bool:
    wanted = [word for word in re.split(r"[^a-z0-9*?]+", pattern.lower()) if word]
    return bool(wanted) and all(any(fnmatchcase(run, word) for run in runs) for word in wanted)


def _part(demand: Demand, node: NodeName, shares: Iterable[Share]) -> Allocation:
    return Allocation(node=node, shares=tuple(shares), cpus=demand.cpus_counted, memory_mib=Mib(demand.memory_mib))


def _whole(demand: Demand, room: Room) -> list[Share] | None:
    able, slots = room.free, room.slots
    if demand.gpu_ids or demand.excluded_gpus:
        able = [state for state in able if suits(demand, state.gpu)]
        slots = tuple([state.slot for state in able])
    worn = frozenset([state.slot for state in able if state.health.degraded]) if room.sick else _NONE
    later = tuple([room.later.get(state.gpu.id, 0) for state in able]) if room.later else ()
    chosen = _which(demand, slots, worn, later)
    return None if chosen is None else [able[at].whole for at in chosen]


@lru_cache(maxsize=1 << 13)
def _which(demand: Demand, free: Slots, worn: frozenset[Slot], later: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return which of a node's free GPUs a demand for whole ones gets; None where there are not enough that suit."""
    count = demand.gpus // demand.nodes
    able = _alike([slot for slot in free if wants(demand, *slot.kind)], count)
    if len(able) < count:
        return None
    sound = [slot for slot in able if slot not in worn]
    chosen = set(_closest(sound if len(sound) >= count else able, count, dict(zip(free, later, strict=False))))
    return tuple([at for at, slot in enumerate(free) if slot in chosen])


def _alike(able: list[Slot], count: int) -> list[Slot]:
    """Return those of the kind with the smallest memory that has enough, or all."""
    kinds: dict[Kind, list[Slot]] = {}
    for slot in able:
        kinds.setdefault(slot.kind, []).append(slot)
    alike = min((kind for kind in kinds if len(kinds[kind]) >= count), default=None)
    return able if alike is None else kinds[alike]


def _in_parts(demand: Demand, room: Room, count: int) -> list[Share] | None:
    """Return shares of as many GPUs: of those shared already first, the fullest first; to spread, the emptiest."""
    parts = _parts(demand, room)
    found = sorted(parts, key=_emptiest if demand.spread else None)[:count]
    if len(found) < count:
        return None
    if demand.share_mib is None:
        return [Share(gpu=gpu, memory_mib=share) for *_, gpu, share, _ in found]
    return [Share(gpu=gpu, memory_mib=share, milli=milli_of(share, total)) for *_, gpu, share, total in found]


def _emptiest(part: _Part) -> tuple[bool, int, tuple[int, int, GpuId, Mib, Mib]]:
    return part[0], -part[2], part[3:]


def _parts(demand: Demand, room: Room) -> Iterator[_Part]:
    """Yield what a share could be of: is it degraded, not shared yet, what would be left, ... the share, of what."""
    free = {state.gpu.id for state in room.free}
    for state in room.node.gpus if room.shared else room.free:
        gpu = state.gpu
        left = room.shared.get(gpu.id)
        if left is None and gpu.id not in free:
            continue
        capacity = nominal_mib(gpu.memory_total_mib)
        share = share_of(demand, capacity) or Mib(0)
        rest = (capacity if left is None else left) - share
        if rest >= 0 and suits(demand, gpu):
            yield (
                state.health.degraded,
                left is None,
                rest,
                state.slot.warmth_c,
                gpu.index,
                gpu.id,
                share,
                gpu.memory_total_mib,
            )


def to_be_had(demand: Demand, room: Room) -> int:
    """Return how many of a node's GPUs the demand could get now, whatever else it lacks."""
    if demand.shared:
        return sum(1 for _ in _parts(demand, room))
    return sum(1 for state in room.free if suits(demand, state.gpu))


def _closest(able: list[Slot], count: int, later: Later, links: tuple[Link, ...] = LINKS) -> list[Slot]:
    """Return so many of these GPUs: those that reach each other best, and that break up the fewest that do.

    Of what is equal what is least for `later`, then what is coolest.
    """
    if len(able) <= count:
        return able
    largest: list[Slot] = []
    for at, link in enumerate(links):
        groups = _linked(able, link)
        enough = [group for group in groups if len(group) >= count]
        if enough:
            least = min(map(len, enough))
            fewest = [group for group in enough if len(group) == least]
            if count == 1:
                nearest = [slot for group in fewest for slot in group]
            else:
                nearest = min(fewest, key=lambda each: (_sum(later, each), _heat(each)))
            return _closest(nearest, count, later, links[:at] + links[at + 1 :])
        if groups:
            largest = max(largest, *groups, key=lambda each: (len(each), -_sum(later, each)))
    if len(largest) > 1:
        others = [slot for slot in able if slot not in largest]
        return largest + _closest(others, count - len(largest), later)
    return sorted(able, key=lambda each: (each.memory_total_mib, later.get(each, 0), each.warmth_c, each.index))[:count]


def _sum(later: Later, group: Sequence[Slot]) -> int:
    return sum([later.get(slot, 0) for slot in group])


def _heat(group: Sequence[Slot]) -> int:
    return sum(slot.warmth_c for slot in group)


def apart(able: Slots, count: int) -> int:
    """Return how far apart so many of these GPUs will be: 0 where NVLink joins them, to 3 where nothing does."""
    if count < 2:
        return 0
    reach = (far for far, link in enumerate(LINKS) if any(len(group) >= count for group in _linked(able, link)))
    return next(reach, len(LINKS))


def _linked(able: Sequence[Slot], link: Link) -> list[list[Slot]]:
    """Return those that a link joins, together, and each of the others alone; nothing where it joins none."""
    groups: dict[object, list[Slot]] = {}
    alone = []
    for slot in able:
        name = link(slot)
        if name is None:
            alone.append([slot])
        else:
            groups.setdefault(name, []).append(slot)
    return [*groups.values(), *alone] if groups else []
