"""What NVML tells of a GPU's health, through the real nvidia-ml-py: errors, counters, a driver that was replaced."""

import shutil

import pytest
from fakenvml.fixture import fake_gpu, fake_uuid

from gpud.inventory.version import installed_version
from gpud.model.gpu import Reading, Unreadable
from gpud.model.health import Signs
from gpud.model.observations import NodeSeen, XidSeen

ZERO, ONE = fake_uuid(0), fake_uuid(1)
MISMATCH = 18


def next_xid(seen):
    while not isinstance(found := seen.next(), XidSeen):
        pass
    return found


def test_an_xid_is_told_of_as_it_happens_each_and_the_same_again(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0), fake_gpu(1, "xid 1 48"))  # of before anybody listened
    seen = looking().settled()

    fake_nvml.write(fake_gpu(0, "xid 2 31"), fake_gpu(1, "xid 1 48"))
    first = next_xid(seen)
    fake_nvml.write(fake_gpu(0, "xid 2 31", "xid 3 31"), fake_gpu(1, "xid 1 48", "xid 4 79"))
    others = {(each.gpu, each.xid) for each in (next_xid(seen), next_xid(seen))}

    assert first == XidSeen("here", ZERO, 31)
    assert others == {(ZERO, 31), (ONE, 79)}


def test_a_driver_that_tells_of_no_events_is_no_worse_for_it(fake_nvml, looking):
    for call in ("nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"):
        fake_nvml.write(f"error {call} 3", fake_gpu(0))
        seen = looking().settled()
        assert not isinstance(seen.look(), Unreadable)


def test_the_first_look_asks_for_signs_of_health(fake_nvml, looking):
    lines = ["ecc 3", "remap 1 2 1 0", "pcie_width 8 16", "power_limit 300000 350000", "recovery 1", "throttle 0x60"]
    fake_nvml.write(fake_gpu(0, *lines), fake_gpu(1))
    seen = looking()
    seen.node()

    found = {each.gpu: each.reading for each in (seen.next(), seen.next())}

    assert found[ZERO].signs == Signs(
        ecc_uncorrected=3,
        remap_pending=True,
        remap_failed=False,
        pcie_width=8,
        pcie_width_max=16,
        power_limit_w=300.0,
        power_default_w=350.0,
        recovery="reset",
    )
    assert found[ZERO].slowed == ("heat",)
    assert (found[ONE].signs, found[ONE].slowed) == (Signs(), ())
    assert seen.look().signs is None  # they change slowly


def test_a_gpu_that_is_lost_to_one_call_only_is_lost_until_that_is_answered(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, "error nvmlDeviceGetRemappedRows 15"))
    seen = looking().settled()
    assert [seen.look().lost for _ in range(3)] == [True] * 3
    fake_nvml.write(fake_gpu(0))
    assert isinstance(seen.look(), Reading)


def test_an_old_driver_tells_what_it_can(old_nvml, looking):
    old_nvml.write(fake_gpu(0, "ecc 3", "throttle 0x80", "recovery 1", "remap 0 0 1 0"))
    seen = looking()
    seen.node()
    reading = seen.reading()
    assert reading.signs == Signs(ecc_uncorrected=3)
    assert reading.slowed == ("its power brake",)


@pytest.mark.parametrize("how", ["another version", "a mismatch"])
def test_a_driver_that_is_replaced_needs_a_reboot_and_takes_no_gpu_away(fake_nvml, looking, how):
    seen = looking().settled()
    lines = ["driver 555.42.02"] if how == "another version" else [f"error nvmlDeviceGetCount_v2 {MISMATCH}"]

    fake_nvml.write(*lines, fake_gpu(0), fake_gpu(1))
    replaced = seen.node(lambda node: node.reboot)
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    back = seen.node(lambda node: not node.reboot)

    assert replaced.problem.startswith("reboot needed")
    assert [gpu.id for gpu in replaced.gpus] == [gpu.id for gpu in back.gpus] == [ZERO, ONE]
    assert back.problem is None


def test_a_look_finds_a_driver_that_was_replaced_before_the_next_survey_does(fake_nvml, looking):
    seen = looking(rescan_s=600.0).settled()
    fake_nvml.write("driver 555.42.02", fake_gpu(0), fake_gpu(1))

    seen.inventory.read([ZERO])
    first = seen.next()
    assert isinstance(first, NodeSeen)  # before any look that something could be given out on
    assert first.node.problem.startswith("reboot needed")
    assert isinstance(seen.reading(), Reading)  # what runs there is watched


def test_a_driver_that_is_back_is_found_sooner_than_a_new_gpu(fake_nvml, looking):
    seen = looking(rescan_s=600.0, deadline_s=0.2).settled()
    fake_nvml.write("driver 555.42.02", fake_gpu(0), fake_gpu(1))
    seen.inventory.read([ZERO])
    seen.node(lambda node: node.reboot)
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    seen.node(lambda node: not node.reboot)


def test_a_library_that_is_of_another_version_than_the_module_needs_a_reboot(fake_nvml, looking, tmp_path):
    old, new = tmp_path / "libnvidia-ml.so.550.54.15", tmp_path / "libnvidia-ml.so.555.42.02"
    link = tmp_path / "libnvidia-ml.so.1"
    for each in (old, new):
        shutil.copy(fake_nvml.library, each)
    link.symlink_to(old)
    fake_nvml.library = str(link)
    seen = looking()
    assert not seen.node().reboot

    link.unlink()
    link.symlink_to(new)  # as a package's upgrade does, under a module that stays

    assert "555.42.02" in seen.node(lambda node: node.reboot).problem


def test_a_machine_that_starts_with_two_versions_says_what_to_do(fake_nvml, looking):
    fake_nvml.write(f"error nvmlInitWithFlags {MISMATCH}", fake_gpu(0))
    first = looking().next()
    assert isinstance(first, NodeSeen)
    assert (first.node.reboot, first.node.gpus) == (True, ())
    assert first.node.problem.startswith("reboot needed")


def test_the_version_of_the_systems_library_is_read_off_where_this_process_has_it_from(tmp_path):
    (tmp_path / "libnvidia-ml.so.555.42.02").touch()
    (tmp_path / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.555.42.02")
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 00000000 08:01 42   {tmp_path}/libnvidia-ml.so.550.54.15 (deleted)\n")
    assert installed_version(None, str(maps)) == "555.42.02"
    maps.write_text("7f00-7f01 r-xp 00000000 08:01 42   /usr/lib/libc.so.6\n")
    assert installed_version(None, str(maps)) is None
