"""Which device nodes are a GPU's own: what a fence lets its job open."""

import pytest
from fakenvml.fixture import fake_gpu, fake_instance

from gpud.inventory.machine import instance_devices

DEVICES = "Character devices:\n  1 mem\n195 nvidia\n508 nvidia-caps\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n"


def capabilities(proc, minor, gpu_instance, compute_instance, numbers):
    """Make what the driver shows of an instance below /proc."""
    (proc / "devices").write_text(DEVICES)
    place = proc / f"driver/nvidia/capabilities/gpu{minor}/mig/gi{gpu_instance}"
    (place / f"ci{compute_instance}").mkdir(parents=True)
    for folder, number in zip((place, place / f"ci{compute_instance}"), numbers, strict=True):
        (folder / "access").write_text(f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")


def test_an_instance_has_its_gpus_node_and_its_two_capabilities(tmp_path):
    capabilities(tmp_path, 2, 1, 0, (30, 31))
    of_gpu = ((195, 2),)

    assert instance_devices(of_gpu, 1, 0, str(tmp_path)) == ((195, 2), (508, 30), (508, 31))


@pytest.mark.parametrize("numbers", [(None, 0), (1, None), (7, 0), (1, 7)])
def test_an_instance_whose_capabilities_are_not_known_has_no_numbers(tmp_path, numbers):
    capabilities(tmp_path, 2, 1, 0, (30, 31))

    assert instance_devices(((195, 2),), *numbers, str(tmp_path)) == ()
    assert instance_devices((), 1, 0, str(tmp_path)) == ()


def test_a_gpus_number_is_what_the_driver_says_and_not_its_index(fake_nvml, looking):
    instance = fake_instance(0, "1g.10gb")
    fake_nvml.write(fake_gpu(0, minor=3), fake_gpu(1), fake_gpu(2, minor=0, mig=1), instance)

    found = [gpu.devices for gpu in looking().node().gpus]

    assert found == [((195, 3),), (), ((195, 0),), ()]  # there is no driver that would tell an instance's capabilities
