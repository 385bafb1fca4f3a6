"""Simulated GPUs are as good as real ones to everybody who asks."""

import queue
import re

import pytest

from gpud.inventory.simulated import CATALOGUE, SimulatedInventory, parse_nodes
from gpud.model.gpu import GpuId, NodeName, Reading, Unreadable, nominal_mib
from gpud.model.observations import GpuSeen, NodeSeen
from gpud.model.units import Mib, Timestamp

HERE = NodeName("here")


def started(spec, at=1_000.0):
    inventory = SimulatedInventory(clock=lambda: Timestamp(at), spec=spec, node=HERE)
    seen = queue.SimpleQueue()
    inventory.start(seen.put)
    return inventory, seen


def everything(seen):
    found = []
    while not seen.empty():
        found.append(seen.get())
    return found


@pytest.mark.parametrize(
    ("spec", "machines"),
    [
        ("4xRTX4090", [("here", 4)]),
        ("H100", [("here", 1)]),
        ("2x8xH100", [("sim-1", 8), ("sim-2", 8)]),
        ("4xH100,2xA10", [("here", 6)]),
        ("2x8xH100, 4xL40S", [("sim-1", 8), ("sim-2", 8), ("sim-3", 4)]),
        ("1x8xrtx-4090", [("here", 8)]),
    ],
)
def test_a_specification_names_nodes_and_gpus(spec, machines):
    nodes = parse_nodes(spec, HERE)

    assert [(node.name, len(node.gpus)) for node in nodes] == machines
    assert all(gpu.simulated for node in nodes for gpu in node.gpus)
    assert all(node.cpus == 16 * len(node.gpus) for node in nodes)


@pytest.mark.parametrize("spec", ["", "4", "0xH100", "x", "4x", "-1xH100", "2x0xH100", "99999x99999xH100", "4xH100,"])
def test_nonsense_is_refused(spec):
    with pytest.raises(ValueError, match="simulated"):
        parse_nodes(spec, HERE)


@pytest.mark.parametrize(("wrong", "near"), [("4xRTX4080", "RTX4090"), ("A100", "A100-80GB"), ("2x8xH1000", "H100")])
def test_an_unknown_model_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=rf"did you mean .*{near}"):
        parse_nodes(wrong, HERE)


def test_the_same_specification_has_the_same_uuids_and_no_two_gpus_share_one():
    first, second = (parse_nodes("3x8xH100,4xA10", name) for name in (HERE, NodeName("renamed")))
    uuids = [gpu.id for node in first for gpu in node.gpus]

    assert uuids == [gpu.id for node in second for gpu in node.gpus]
    assert len(set(uuids)) == 28
    assert all(re.fullmatch(r"GPU-5111[0-9a-f]{4}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) for uuid in uuids)


@pytest.mark.parametrize(
    ("model", "gib"),
    [
        ("H200", 141),
        ("H100", 80),
        ("A100-80GB", 80),
        ("A100-40GB", 40),
        ("L40S", 48),
        ("A10", 24),
        ("V100", 16),
        ("T4", 16),
        ("RTX4090", 24),
        ("RTX3090", 24),
    ],
)
def test_the_catalogue_has_the_memory_that_data_sheets_promise(model, gib):
    assert nominal_mib(CATALOGUE[model].memory_mib) == gib * 1024


def test_every_node_comes_first_then_a_reading_of_each_of_its_gpus():
    _, seen = started("2x2xH100")
    found = everything(seen)

    nodes, readings = found[:2], found[2:]
    assert all(isinstance(observation, NodeSeen) for observation in nodes)
    assert [reading.gpu for reading in readings] == [gpu.id for seen in nodes for gpu in seen.node.gpus]
    assert [reading.node for reading in readings] == ["sim-1", "sim-1", "sim-2", "sim-2"]


def test_readings_follow_the_jobs():
    inventory, seen = started("2xH100")
    busy, idle = (gpu.id for gpu in inventory.nodes[0].gpus)
    everything(seen)

    inventory.follow({busy: 1})
    inventory.read([busy, idle])
    working, resting = (observation.reading for observation in everything(seen))

    assert 81_559 > working.memory_used_mib > 40_000
    assert resting.memory_used_mib < 100
    assert working.utilization_percent > 80 > resting.utilization_percent == 0
    assert 700 >= working.power_w > resting.power_w > 0
    assert working.temperature_c > resting.temperature_c
    assert working.processes == resting.processes == ()  # no process of a job touches a GPU that is not there
    assert working.lease is None

    inventory.follow({})
    inventory.read([busy])
    assert seen.get().reading.utilization_percent == 0


def test_a_gpu_that_does_not_exist_is_lost_and_not_free():
    inventory, seen = started("1xT4")
    everything(seen)

    inventory.read([GpuId("GPU-nobody")])

    reading = seen.get().reading
    assert isinstance(reading, Unreadable)
    assert reading.lost


def test_while_somebody_watches_readings_come_by_themselves_and_stop_with_the_last_look():
    inventory, seen = started("1xT4")
    everything(seen)

    inventory.watch(0.01)
    for _ in range(3):
        observation = seen.get(timeout=10)
        assert isinstance(observation, GpuSeen)
        assert isinstance(observation.reading, Reading)
    watching = inventory._watching
    inventory.watch(None)

    watching.join(timeout=10)
    assert not watching.is_alive()


def test_nothing_is_posted_after_close():
    inventory, seen = started("1xT4")
    inventory.watch(0.01)
    watching = inventory._watching
    inventory.close()
    watching.join(timeout=10)
    everything(seen)

    inventory.read([inventory.nodes[0].gpus[0].id])

    assert seen.empty()


@pytest.mark.parametrize(
    ("reported", "gib"),
    [
        (81_559, 80),  # H100 80GB
        (81_920, 80),  # A100 80GB
        (95_830, 94),  # H100 NVL
        (97_871, 96),  # GH200, H20
        (143_771, 141),  # H200
        (183_359, 180),  # B200
        (40_960, 40),  # A100 40GB
        (40_536, 40),
        (46_068, 48),  # L40S, A40
        (49_140, 48),  # RTX A6000
        (24_564, 24),  # RTX 4090
        (24_576, 24),  # RTX 3090
        (23_028, 24),  # A10
        (22_731, 24),  # A10, ECC
        (15_360, 16),  # T4, ECC
        (16_160, 16),  # V100, an older driver
        (32_510, 32),  # V100 32GB
        (32_607, 32),  # RTX 5090
        (11_264, 11),  # RTX 2080 Ti
        (11_441, 12),  # K80, ECC
        (12_288, 12),  # RTX 3060
        (8_188, 8),  # RTX 4060
        (100, 1),  # nothing that is sold: whole GiB
        (0, 1),  # a GPU that tells nonsense is not shared by so many
        (53_000, 52),
        (400_000, 391),
    ],
)
def test_a_reported_size_stands_for_the_size_that_is_sold(reported, gib):
    assert nominal_mib(Mib(reported)) == gib * 1024


def test_a_nominal_size_is_never_below_the_reported_one_and_grows_with_it():
    last = 0
    for reported in range(1, 400_000, 37):
        nominal = nominal_mib(Mib(reported))
        assert reported <= nominal <= max(reported * 1.1, reported + 1024)
        assert nominal >= last
        last = nominal


def groups(node, name):
    """Return how many GPUs are in each group."""
    named = [getattr(gpu, name) for gpu in node.gpus if getattr(gpu, name) is not None]
    return sorted(named.count(each) for each in set(named))


@pytest.mark.parametrize(
    ("spec", "nvlink", "pcie", "numa"),
    [
        ("8xH100", [8], [2, 2, 2, 2], [4, 4]),
        ("4xA100-80GB", [4], [2, 2], [2, 2]),
        ("8xL40S", [], [2, 2, 2, 2], [4, 4]),
        ("4xRTX4090", [], [], [2, 2]),
        ("1xH100", [], [], [1]),
        ("2xH100,2xA10", [2], [2, 2], [2, 2]),
    ],
)
def test_gpus_are_linked_as_machines_with_them_are_built(spec, nvlink, pcie, numa):
    (node,) = parse_nodes(spec, HERE)

    assert (groups(node, "nvlink"), groups(node, "pcie"), groups(node, "numa")) == (nvlink, pcie, numa)


def test_gpus_can_be_split_into_instances():
    (node,) = parse_nodes("2xA100-80GB:3g.40gb:4x1g.10gb,H100", HERE)

    gpus, instances = node.gpus[:3], node.gpus[3:]
    assert [(gpu.index, gpu.split, gpu.mig) for gpu in gpus] == [(0, True, None), (1, True, None), (2, False, None)]
    assert [gpu.mig for gpu in instances] == ["3g.40gb", *["1g.10gb"] * 4] * 2
    assert [gpu.parent for gpu in instances] == [gpus[0].id] * 5 + [gpus[1].id] * 5
    assert [gpu.index for gpu in instances] == list(range(3, 13))
    assert [nominal_mib(gpu.memory_total_mib) for gpu in instances[:2]] == [40 * 1024, 10 * 1024]
    assert len({gpu.id for gpu in node.gpus}) == 13
    assert node.cpus == 3 * 16


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("A100-80GB:8x1g.10gb", "7 slices and 80gb"),
        ("A100-40GB:2x3g.40gb", "7 slices and 40gb"),
        ("RTX4090:1g.10gb", "MIG does not split"),
        ("H100:xx1g.10gb", "is no simulated MIG instance"),
        ("H100:half", "is no simulated machine"),
    ],
)
def test_what_no_gpu_can_be_split_into_is_refused(spec, problem):
    with pytest.raises(ValueError, match=problem):
        parse_nodes(spec, HERE)


def test_an_instance_looks_busy_while_it_holds_a_job_and_tells_what_real_ones_tell():
    inventory, seen = started("H100:2g.20gb")
    gpu, instance = (each.id for each in inventory.nodes[0].gpus)
    everything(seen)

    inventory.follow({instance: 1})
    inventory.read([gpu, instance])
    parent, own = (observation.reading for observation in everything(seen))

    assert own.memory_used_mib > 10_000
    assert (own.utilization_percent, own.temperature_c, own.power_w) == (None, None, None)
    assert (parent.utilization_percent, parent.temperature_c is None) == (None, False)
