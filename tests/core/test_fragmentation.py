"""Placement by what usually comes: where GPUs are of no use to others, jobs that can use them go."""

import pytest
from hypothesis import given, strategies as st
from playbook import a_node

from gpud.core.fleet import GpuState, Kind, NodeState
from gpud.core.fragmentation import Fragmentation
from gpud.core.room import Room, Stock
from gpud.core.scoring import BestFit
from gpud.core.space import Spaces
from gpud.model.job import Demand
from gpud.model.units import Mib

GPU = Kind(Mib(10_240), "NVIDIA A10", "")
WANTED = [
    Demand(gpus=1, share_permille=300, cpus=2),
    Demand(gpus=1, share_mib=Mib(8_000), cpus=1),
    Demand(gpus=1, cpus=4),
    Demand(gpus=4, nodes=2, cpus=6),
    Demand(gpus=1, gpu_type="H100", cpus=1),
    Demand(gpus=0, cpus=8),
]


def lost_to(demand: Demand, full: int, parts: list[int], cpus: int) -> float:
    """Return the GPUs of a node that one demand cannot use, by the definition of the paper."""
    left = [10_240] * full + parts
    need = demand.share_mib or 10_240 * (demand.share_permille or 0) // 1000
    count = demand.gpus // demand.nodes
    usable = [each for each in left if (each >= need if demand.shared else each == 10_240)]
    if demand.cpus > cpus or len(usable) < count or demand.gpu_type is not None or not count:
        usable = []
    return (sum(left) - sum(usable)) / 10_240


@given(
    st.integers(0, 4),
    st.lists(st.integers(0, 10_239), max_size=4),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(WANTED), st.integers(1, 9), min_size=1),
)
def test_what_is_lost_is_what_the_next_demand_can_be_expected_not_to_use(full, parts, cpus, seen):
    mix = Fragmentation(seen)._mix
    told = mix.lost((Stock(GPU, full, tuple(sorted(parts))),), cpus)
    by_definition = sum(lost_to(demand, full, parts, cpus) * weight for demand, weight in seen.items())
    assert told == pytest.approx(by_definition / sum(seen.values()))


NEEDS_CPUS = Demand(gpus=1, cpus=8)


def two_nodes(placement: BestFit | Fragmentation) -> Spaces:
    """One node with a GPU more than the other, and with no CPUs for what usually comes."""
    spaces = Spaces(placement)
    for name, gpus, cpus in (("few-cpus", "3xA10", 4), ("many-cpus", "2xA10", 64)):
        node = a_node(name, gpus, cpus=cpus)
        state = NodeState(node, [GpuState(gpu, node.name, present=True) for gpu in node.gpus], present=True)
        spaces.put(Room(state, list(state.gpus), cpus, node.memory_mib))
    return spaces


def test_a_job_goes_where_others_cannot():
    assert two_nodes(BestFit()).best(Demand()).node == "many-cpus"
    assert two_nodes(Fragmentation({NEEDS_CPUS: 1.0})).best(Demand()).node == "few-cpus"


def test_what_usually_comes_is_learned():
    spaces = two_nodes(Fragmentation())
    spaces.learn(NEEDS_CPUS, 63)
    assert spaces.best(Demand()).node == "many-cpus"
    spaces.learn(NEEDS_CPUS)
    assert spaces.best(Demand()).node == "few-cpus"


def test_a_known_mix_is_not_learned():
    spaces = two_nodes(Fragmentation({NEEDS_CPUS: 1.0}))
    spaces.learn(Demand(), 10_000)
    assert spaces.best(Demand()).node == "few-cpus"
