"""A cgroup for each job, where this user may make them: killed in one write, and its memory limited.

Only version 2, and only below a cgroup that was delegated: one that a plain user may write to, or that systemd marked
so (`Delegate=yes`). Elsewhere the tree belongs to somebody else, and jobs do without: a shim finds its processes as a
subreaper. Costs a start 0.2 ms.
"""

import contextlib
import os


def divide() -> str | None:
    """Return the directory below which each job may have its own, after moving this process into a leaf of it.

    Into a leaf, because a cgroup that hands controllers down may hold no processes (cgroups(7)).
    """
    directory = _own()
    if directory is None or not _delegated(directory):
        return None
    with contextlib.suppress(OSError):
        os.makedirs(f"{directory}/launcher", exist_ok=True)
        _write(f"{directory}/launcher/cgroup.procs", "0")
        with contextlib.suppress(OSError):  # the controller is not there, or others live beside us
            _write(f"{directory}/cgroup.subtree_control", "+memory")
        return directory
    return None


def make(directory: str, memory_mib: int) -> None:
    """Make a job's cgroup; at most `memory_mib`, where that is not 0 and the controller is there. Never fails."""
    with contextlib.suppress(OSError):
        os.makedirs(directory, exist_ok=True)
        if memory_mib:
            _write(f"{directory}/memory.max", str(memory_mib << 20))
            _write(f"{directory}/memory.oom.group", "1")  # a half-killed job would hang


def enter(directory: str) -> None:
    """Move this process into a job's cgroup, if there is one."""
    with contextlib.suppress(OSError):
        _write(f"{directory}/cgroup.procs", "0")


def kill(directory: str) -> None:
    """Kill everything in it at once (Linux 5.14; before that the processes are killed one by one)."""
    with contextlib.suppress(OSError):
        _write(f"{directory}/cgroup.kill", "1")


def remove(directory: str) -> bool:
    """Remove it once it is empty. Return whether its memory limit killed something."""
    killed = False
    with contextlib.suppress(OSError), open(f"{directory}/memory.events", encoding="ascii") as file:
        killed = any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in file)
    with contextlib.suppress(OSError):
        os.rmdir(directory)
    return killed


def _own() -> str | None:
    """Return the directory of this process's version 2 cgroup; None where none is mounted, and for the root."""
    with contextlib.suppress(OSError):
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            for line in file:
                mount, _, kind = line.partition(" - ")
                if kind.startswith("cgroup2 ") and path != "/":
                    return mount.split()[4] + path
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
