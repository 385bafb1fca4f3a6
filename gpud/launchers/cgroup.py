"""A cgroup for each job, where this user may make them: killed in one write, its memory limited, on CPUs of its own.

Only version 2, and only below a cgroup that was delegated: one that a plain user may write to, or that systemd marked
so (`Delegate=yes`). Elsewhere the tree belongs to somebody else, and jobs do without: a shim finds its processes as a
subreaper. Costs a start 0.2 ms.

As a service the launcher has jobs live in the place of another unit (`gpud-jobs.service`): a cgroup that hands
controllers down may hold no processes (cgroups(7)), and systemd puts what it starts into the unit's own (but for
DelegateSubgroup=, since 254), so that no launcher could follow another while a job runs (219/CGROUP).
"""

import contextlib
import os
from collections.abc import Iterable

CONTROLLERS = ("memory", "cpuset", "cpu")  # what a job is limited by, each where it was handed down to us
_LAUNCHER, _PLACE, _LEAF = "/gpud-launcher.service", "/gpud-jobs.service", "launcher"  # two units of one slice
_WEIGHT = 100  # of a job that asked for no CPUs, and for each CPU of one that did (cgroups(7), cpu.weight)


def divide() -> str | None:
    """Return the directory below which each job may have its own: a service's place for them, else this process's."""
    own = _own()
    if own is None:
        return None
    directory = own.removesuffix(_LAUNCHER) + _PLACE if own.endswith(_LAUNCHER) else own
    if not _delegated(directory):
        return None
    with contextlib.suppress(OSError):
        _hand_down(directory)
        return directory
    return None


def _hand_down(directory: str) -> None:
    """Move who is in a cgroup into a leaf of it, and give those below what there is. Raises OSError.

    Into a leaf, because a cgroup that hands controllers down may hold no processes. Of one's own only oneself.
    """
    os.makedirs(f"{directory}/{_LEAF}", exist_ok=True)
    with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
        there = file.read().split() if directory.endswith(_PLACE) else ["0"]
    for pid in there:
        _write(f"{directory}/{_LEAF}/cgroup.procs", pid)
    for controller in CONTROLLERS:
        with contextlib.suppress(OSError):  # the controller is not there, or others live beside us
            _write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def controllers(directory: str) -> list[str]:
    """Return by what the jobs below this directory can be limited."""
    with contextlib.suppress(OSError), open(f"{directory}/cgroup.subtree_control", encoding="ascii") as file:
        given = file.read().split()
        return [controller for controller in CONTROLLERS if controller in given]
    return []


def make(directory: str, memory_mib: int) -> None:
    """Make a job's cgroup; at most `memory_mib`, where that is not 0 and the controller is there. Never fails."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)  # an earlier job's, which has its limits and its fence
    with contextlib.suppress(OSError):
        os.makedirs(directory, exist_ok=True)
        above = os.path.dirname(directory)
        if above.endswith(_PLACE) and not controllers(above):  # its unit was stopped, and is there anew
            _hand_down(above)
        if memory_mib:
            _write(f"{directory}/memory.max", str(memory_mib << 20))
            _write(f"{directory}/memory.oom.group", "1")  # a half-killed job would hang


def choices(directory: str, numa: Iterable[int], nodes: str = "/sys/devices/system/node") -> list[int]:
    """Return the CPUs that a job's cgroup may be limited to, these NUMA nodes' first; none where it may not be."""
    if not os.access(f"{directory}/cpuset.cpus", os.W_OK):
        return []
    near: set[int] = set()
    for node in numa:
        with contextlib.suppress(OSError, ValueError), open(f"{nodes}/node{node}/cpulist", encoding="ascii") as file:
            near |= _cpus(file.read())
    return sorted(os.sched_getaffinity(0), key=lambda cpu: (cpu not in near, cpu))


def pin(directory: str, cpus: Iterable[int]) -> None:
    """Limit a job's cgroup to these CPUs. Never fails."""
    with contextlib.suppress(OSError):
        _write(f"{directory}/cpuset.cpus", ",".join(map(str, sorted(cpus))))


def weigh(directory: str, cpus: int) -> None:
    """Give a job CPU time for as many CPUs as it asked for, where others want it too. Never fails."""
    with contextlib.suppress(OSError):
        _write(f"{directory}/cpu.weight", str(min(_WEIGHT * cpus, 10_000)))


def enter(directory: str) -> bool:
    """Move this process into a job's cgroup. Return whether it is in it."""
    try:
        _write(f"{directory}/cgroup.procs", "0")
    except OSError:
        return False
    return True


def kill(directory: str) -> None:
    """Kill everything in it at once (Linux 5.14; before that the processes are killed one by one)."""
    with contextlib.suppress(OSError):
        _write(f"{directory}/cgroup.kill", "1")


def peak_mib(directory: str) -> int | None:
    """Return the most memory that a job had at once; None where nobody counted it (Linux 5.19 does)."""
    with contextlib.suppress(OSError, ValueError), open(f"{directory}/memory.peak", encoding="ascii") as file:
        return int(file.read()) >> 20
    return None


def remove(directory: str) -> bool:
    """Remove it, if it is empty, else kill all in it. Return whether its memory limit killed something."""
    killed = False
    with contextlib.suppress(OSError), open(f"{directory}/memory.events", encoding="ascii") as file:
        killed = any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in file)
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError:  # who joined it ends with it, and the last of them removes it
        kill(directory)
    return killed


def leave(directory: str) -> None:
    """Remove another job's cgroup that one has joined, if that has ended."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _cpus(text: str) -> set[int]:
    """Return the CPUs of a list as Linux writes one: `0-3,8`. Raises ValueError."""
    ends = (part.partition("-") for part in text.strip().split(",") if part)
    return {cpu for low, _, high in ends for cpu in range(int(low), int(high or low) + 1)}


def mounted() -> str | None:
    """Return where cgroups of version 2 are mounted."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            mount, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return mount.split()[4]
    return None


def _own() -> str | None:
    """Return the directory of this process's version 2 cgroup; None where none is mounted, and for the root."""
    mount = mounted()
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")
        return None if mount is None or path == "/" else mount + path
    return None


def _delegated(directory: str) -> bool:
    if os.geteuid() != 0:
        return os.access(f"{directory}/cgroup.procs", os.W_OK) and os.access(directory, os.W_OK)
    with contextlib.suppress(OSError):
        return os.getxattr(directory, "trusted.delegate") == b"1"
    return False


def _write(path: str, value: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(value.encode())
