"""The machine that gpud runs on, as far as a scheduler counts it."""

import os
import socket
from pathlib import Path

from gpud.model.gpu import NodeName
from gpud.model.units import Mib


def this_node() -> NodeName:
    """Return the host's name, without its domain."""
    return NodeName(socket.gethostname().partition(".")[0] or "localhost")


def usable_cpus() -> int:
    """Return how many CPUs gpud, and so its jobs, may run on."""
    return len(os.sched_getaffinity(0))


def physical_memory_mib() -> Mib:
    """Return the machine's memory."""
    return Mib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20)


def numa_node(pci_id: str, devices: str = "/sys/bus/pci/devices") -> int | None:
    """Return the NUMA node of a PCI device, named as NVML does (`00000000:61:00.0`); None where Linux knows of none."""
    domain, _, rest = pci_id.lower().partition(":")
    try:
        node = int(Path(devices, f"{domain[-4:]}:{rest}", "numa_node").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None
