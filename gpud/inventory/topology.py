"""How GPUs reach each other: over NVLink, through a PCIe switch, or within a NUMA node.

NVML is asked of each pair what it says of peer access over NVLink, which is the same for bridges, meshes and
switches, and where their PCIe paths meet. What it does not answer is no link. Groups are closed: where one GPU links
two others, all three are in one (a DGX-1's mesh is one group, and which of its links are double is not told).

Cost: two calls for each pair, one for each GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from gpud.inventory.machine import numa_node
from gpud.inventory.nvml import Device
from gpud.model.gpu import Gpu, GpuId

_SWITCHES = 20  # nvmlGpuTopologyLevel_t: NVML_TOPOLOGY_MULTIPLE, switches without a host bridge between them


class Links(NamedTuple):
    """The groups that a GPU is in, by name, as in `Gpu`."""

    nvlink: str | None
    pcie: str | None
    numa: int | None


def links_of(devices: Sequence[Device]) -> dict[GpuId, Links]:
    """Return how these GPUs, which are no MIG instances, reach each other. Takes as long as the driver takes."""
    nvlink = _groups("nvlink", devices, lambda one, other: one.nvml.nvlinked(one.handle, other.handle))
    pcie = _groups("pcie", devices, _share_switches)
    return {
        device.gpu.id: Links(nvlink.get(device.gpu.id), pcie.get(device.gpu.id), _numa(device)) for device in devices
    }


def linked(gpu: Gpu, links: Links) -> Gpu:
    """Return a GPU with its links. Instances of one GPU, or of two, have no peer access, whatever lies between."""
    return replace(gpu, nvlink=None if gpu.mig or gpu.split else links.nvlink, pcie=links.pcie, numa=links.numa)


def _share_switches(one: Device, other: Device) -> bool:
    level = one.nvml.common_ancestor(one.handle, other.handle)
    return level is not None and level <= _SWITCHES


def _numa(device: Device) -> int | None:
    node = device.nvml.memory_node(device.handle)
    return node if node is not None or device.gpu.pci_id is None else numa_node(device.gpu.pci_id)


def _groups(kind: str, devices: Sequence[Device], joined: Callable[[Device, Device], bool]) -> dict[GpuId, str]:
    """Return the names of the groups that pairs join; a GPU that is joined to none has none."""
    group = {device.gpu.id: {device.gpu.id} for device in devices}
    for one, other in combinations(devices, 2):
        mine, its = group[one.gpu.id], group[other.gpu.id]
        if joined(one, other) and mine is not its:
            mine |= its
            group |= dict.fromkeys(its, mine)
    names: dict[int, str] = {}
    for members in group.values():
        if len(members) > 1:
            names.setdefault(id(members), f"{kind}-{len(names)}")
    return {gpu: names[id(members)] for gpu, members in group.items() if len(members) > 1}
