"""The machine that gpud runs on, as far as a scheduler counts it."""

import os
import socket
from pathlib import Path

from gpud.model.gpu import NodeName
from gpud.model.units import Mib

_FIRST_PIDS = "pid:[4026531836]"  # PROC_PID_INIT_INO of linux/proc_ns.h


def this_node() -> NodeName:
    """Return the host's name, without its domain."""
    return NodeName(socket.gethostname().partition(".")[0] or "localhost")


def usable_cpus() -> int:
    """Return how many CPUs gpud, and so its jobs, may run on."""
    return len(os.sched_getaffinity(0))


def physical_memory_mib() -> Mib:
    """Return the machine's memory."""
    return Mib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20)


def has_own_pids(proc: str = "/proc") -> bool:
    """Return whether gpud runs in a pid namespace of its own, as in a container: the driver may mean other pids."""
    try:
        return str(Path(proc, "self/ns/pid").readlink()) != _FIRST_PIDS
    except OSError:
        return False


def instance_devices(
    of_gpu: tuple[tuple[int, int], ...],
    gpu_instance: int | None,
    compute_instance: int | None,
    proc: str = "/proc",
) -> tuple[tuple[int, int], ...]:
    """Return the device numbers of a MIG instance: its GPU's, and those of its two capabilities (NVIDIA's MIG guide).

    None where one of them is not known.
    """
    if not of_gpu or gpu_instance is None or compute_instance is None:
        return ()
    place = Path(proc, "driver/nvidia/capabilities", f"gpu{of_gpu[0][1]}", "mig", f"gi{gpu_instance}")
    try:
        listed = Path(proc, "devices").read_text(encoding="ascii").split("\n")
        major = next(int(line.split()[0]) for line in listed if line.endswith(" nvidia-caps"))
        texts = [(folder / "access").read_text(encoding="ascii") for folder in (place, place / f"ci{compute_instance}")]
        minors = [int(text.partition("DeviceFileMinor:")[2].split()[0]) for text in texts]
    except (OSError, ValueError, IndexError, StopIteration):
        return ()
    return (*of_gpu, *((major, minor) for minor in minors))


def numa_node(pci_id: str, devices: str = "/sys/bus/pci/devices") -> int | None:
    """Return the NUMA node of a PCI device, named as NVML does (`00000000:61:00.0`); None where Linux knows of none."""
    domain, _, rest = pci_id.lower().partition(":")
    try:
        node = int(Path(devices, f"{domain[-4:]}:{rest}", "numa_node").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None
