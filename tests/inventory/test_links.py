"""How GPUs are linked, and what MIG makes of them, as a driver tells it."""

import pytest
from fakenvml.fixture import fake_gpu, fake_instance, fake_mig_uuid, fake_uuid

from gpud.inventory.machine import numa_node
from gpud.model.gpu import Reading, Unreadable

A100 = "name NVIDIA A100-SXM4-80GB"
EIGHT = [fake_uuid(index) for index in range(8)]
SPLIT = (
    fake_gpu(0, A100, "mig 1", total_mib=81920, used_mib=600, temperature=44, numa=1),
    fake_instance(0, "2g.20gb"),
    fake_instance(1, "1g.10gb", used_mib=3),
    fake_gpu(1, A100, "mig 0"),
)


def groups(node, name):
    """Return which GPUs are in one group, by their indices; of those that are in one."""
    found = {}
    for gpu in node.gpus:
        if getattr(gpu, name) is not None:
            found.setdefault(getattr(gpu, name), []).append(gpu.index)
    return sorted(found.values())


# -- links


def test_gpus_that_nvlink_joins_directly_or_through_others_are_one_group(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, "nvlink 1"), fake_gpu(1), fake_gpu(2, "nvlink 3 4"), *map(fake_gpu, (3, 4, 5)))

    node = looking().node()

    assert groups(node, "nvlink") == [[0, 1], [2, 3, 4]]
    assert node.problem is None


def test_gpus_below_pcie_switches_are_one_group_and_those_that_meet_further_up_are_not(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, "level 1 10", "level 3 30"), fake_gpu(1, "level 2 20"), *map(fake_gpu, (2, 3)))

    assert groups(looking().node(), "pcie") == [[0, 1, 2]]


def test_a_gpu_is_in_the_numa_node_whose_memory_is_next_to_it(fake_nvml, looking):
    fake_nvml.write(*(fake_gpu(index, numa=index // 2 * 65) for index in range(4)))

    assert groups(looking().node(), "numa") == [[0, 1], [2, 3]]
    assert [gpu.numa for gpu in looking().node().gpus] == [0, 0, 65, 65]


@pytest.mark.parametrize(("written", "numa"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("", None)])
def test_where_the_driver_does_not_tell_linux_does(tmp_path, written, numa):
    (tmp_path / "0000:61:00.0").mkdir()
    (tmp_path / "0000:61:00.0" / "numa_node").write_text(written)

    assert numa_node("00000000:61:00.0", str(tmp_path)) == numa
    assert numa_node("00000000:62:00.0", str(tmp_path)) is None


@pytest.mark.parametrize("code", [3, 13, 15, 999])
@pytest.mark.parametrize("call", ["nvmlDeviceGetP2PStatus", "nvmlDeviceGetTopologyCommonAncestor"])
def test_a_link_that_cannot_be_asked_about_is_none_and_no_gpu_is_missing(fake_nvml, looking, call, code):
    mute = fake_gpu(1, f"error {call} {code}", "nvlink 0 2", "level 0 10", "level 2 10")
    fake_nvml.write(fake_gpu(0, "nvlink 2", "level 2 10"), mute, fake_gpu(2))
    seen = looking()

    node = seen.node()

    other, without = ("pcie", "nvlink") if call == "nvmlDeviceGetP2PStatus" else ("nvlink", "pcie")
    assert groups(node, without) == [[0, 2]]
    assert groups(node, other) == [[0, 1, 2]]
    assert node.problem is None
    assert isinstance(seen.reading(fake_uuid(1)), Reading)


def test_links_that_hang_hold_up_no_gpu_and_are_known_once_they_answer(fake_nvml, looking):
    linked = fake_gpu(0, "nvlink 1"), fake_gpu(1)
    fake_nvml.write("delay nvmlDeviceGetP2PStatus 600000", *linked)
    seen = looking(deadline_s=0.3, rescan_s=600.0)

    node = seen.node(lambda node: node.gpus)  # on a slow machine the driver is late, too
    assert [gpu.index for gpu in node.gpus] == [0, 1]
    assert groups(node, "nvlink") == []
    assert isinstance(seen.reading(fake_uuid(0)), Reading)

    fake_nvml.write(*linked)
    assert groups(seen.node(), "nvlink") == [[0, 1]]


def test_a_driver_that_cannot_tell_of_links_or_instances_has_plain_gpus(old_nvml, looking):
    old_nvml.write(fake_gpu(0, "nvlink 1", "level 1 10", "mig 1"), fake_gpu(1))

    node = looking().node()

    assert [(gpu.nvlink, gpu.pcie, gpu.split) for gpu in node.gpus] == [(None, None, False)] * 2
    assert node.problem is None


# -- instances


def test_instances_come_after_the_gpus_they_are_parts_of(fake_nvml, looking):
    fake_nvml.write(*SPLIT)
    seen = looking()

    parent, large, small, whole = seen.node().gpus

    assert (parent.id, parent.index, parent.split, parent.mig) == (EIGHT[0], 0, True, None)
    assert (whole.id, whole.index, whole.split) == (EIGHT[1], 1, False)
    assert [(gpu.id, gpu.index, gpu.mig, gpu.parent) for gpu in (large, small)] == [
        (fake_mig_uuid(0), 2, "2g.20gb", EIGHT[0]),
        (fake_mig_uuid(1), 3, "1g.10gb", EIGHT[0]),
    ]
    assert (large.name, large.memory_total_mib) == ("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 19460)
    assert (large.pci_id, large.numa, large.nvlink) == (parent.pci_id, 1, None)


def test_a_profile_that_the_name_does_not_tell_is_made_of_what_the_instance_has(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, "mig 1"), fake_instance(0, "3g.20gb", "name NVIDIA A100"))

    assert [gpu.mig for gpu in looking().node().gpus] == [None, "3g.20gb"]


def test_an_instance_is_read_by_itself(fake_nvml, looking, sleeper):
    mine = [f"live {sleeper.pid} 5000 compute"]
    fake_nvml.write(SPLIT[0], fake_instance(0, "2g.20gb", *mine, used_mib=5100), *SPLIT[2:])
    seen = looking()

    used, idle = seen.look(fake_mig_uuid(0)), seen.look(fake_mig_uuid(1))

    assert (used.memory_used_mib, [each.pid for each in used.processes]) == (5100, [sleeper.pid])
    assert (idle.memory_used_mib, idle.processes, idle.lease) == (3, (), None)
    assert (used.utilization_percent, used.temperature_c, used.power_w) == (None, None, None)
    parent = seen.look(EIGHT[0])
    assert (parent.memory_used_mib, parent.temperature_c) == (600, 44)


def test_instances_and_the_mode_itself_come_and_go_while_gpud_runs(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, A100, "mig 0"))
    seen = looking()
    assert [gpu.split for gpu in seen.node().gpus] == [False]

    fake_nvml.write(fake_gpu(0, A100, "mig 1"))
    assert [(gpu.id, gpu.split) for gpu in seen.node().gpus] == [(EIGHT[0], True)]
    fake_nvml.write(fake_gpu(0, A100, "mig 1"), fake_instance(0, "1g.10gb"))
    assert [gpu.mig for gpu in seen.node().gpus] == [None, "1g.10gb"]
    fake_nvml.write(fake_gpu(0, A100, "mig 1"), fake_instance(1, "1g.10gb"))
    assert [gpu.id for gpu in seen.node().gpus] == [EIGHT[0], fake_mig_uuid(1)]
    gone = seen.look(fake_mig_uuid(0))
    assert isinstance(gone, Unreadable)
    fake_nvml.write(fake_gpu(0, A100, "mig 0"))
    assert [gpu.split for gpu in seen.node().gpus] == [False]


def test_a_gpu_that_was_split_is_found_so_when_it_is_looked_at(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, A100, "mig 0"))
    seen = looking(rescan_s=300.0)
    assert [gpu.split for gpu in seen.node().gpus] == [False]
    seen.reading(EIGHT[0])

    fake_nvml.write(fake_gpu(0, A100, "mig 1"), fake_instance(0, "1g.10gb"))
    assert isinstance(seen.look(EIGHT[0]), Unreadable)
    assert [gpu.mig for gpu in seen.node().gpus] == [None, "1g.10gb"]


def test_a_gpu_that_was_just_put_into_mig_mode_is_not_read_as_a_free_one(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, "mig 0"))
    seen = looking(rescan_s=600.0).settled()

    fake_nvml.write(fake_gpu(0, "mig 1"))

    reading = seen.look(EIGHT[0])
    assert isinstance(reading, Unreadable)
    assert ("MIG" in reading.reason, reading.split) == (True, True)


def test_the_instances_of_a_lost_gpu_keep_their_identity(fake_nvml, looking):
    fake_nvml.write(*SPLIT)
    seen = looking().settled()

    fake_nvml.write(fake_gpu(0, "mig 1", "lost"), *SPLIT[1:])

    assert seen.look(fake_mig_uuid(0)).lost
    assert seen.look(EIGHT[0]).lost
    fake_nvml.write(*SPLIT[:2], fake_instance(2, "1g.10gb"), SPLIT[3])
    node = seen.node()
    assert [gpu.id for gpu in node.gpus] == [EIGHT[0], fake_mig_uuid(0), fake_mig_uuid(2), EIGHT[1]]


def test_a_part_of_the_machine_has_its_instances_and_no_others(fake_nvml, looking):
    fake_nvml.write(*SPLIT)

    assert [gpu.index for gpu in looking(only=[0]).node().gpus] == [0, 2, 3]
    assert [gpu.index for gpu in looking(only=[1]).node().gpus] == [1]
