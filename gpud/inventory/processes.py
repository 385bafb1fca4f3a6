"""Whose the processes on a GPU are: from the pids that a vendor's library gives, by what /proc says of them.

A pid that is not in /proc is one of two things. If it was there at an earlier look, it has just died and the driver
is still clearing up: it holds nothing any more. If it never was, it lives where we cannot look (another pid
namespace, /proc mounted with hidepid): it holds its GPU like any other, and nobody knows whose it is.
"""

from collections.abc import Iterable, Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from gpud.inventory.users import UserNames
from gpud.model.gpu import GpuProcess, ProcessIdentity
from gpud.model.units import Mib

_COMMAND_MAX = 4096
_MPS_SERVER = "nvidia-cuda-mps-server"


@dataclass(frozen=True, slots=True)
class Held:
    """A pid on a GPU as the vendor's library lists it, with the memory it uses there, None if not said."""

    pid: int
    memory_mib: Mib | None
    compute: bool


@dataclass(frozen=True, slots=True)
class _Stat:
    """What /proc/PID/stat says; see proc_pid_stat(5)."""

    parent: int
    identity: ProcessIdentity
    dead: bool


def describe(
    held: Iterable[Held], known: AbstractSet[int], users: UserNames
) -> tuple[tuple[GpuProcess, ...], frozenset[int]]:
    """Return who holds the GPU, and the pids to pass as `known` to the next look: those that were ever in /proc."""
    processes, visible = [], set()
    for one in held:
        stat = _stat(one.pid)
        if stat is not None:
            visible.add(one.pid)
        elif one.pid in known:
            visible.add(one.pid)
            continue
        if stat is None:
            processes.append(_process(one, None, None, ()))
        elif not stat.dead:
            uid = _uid(one.pid)
            user = users.of(uid) if uid is not None else None
            processes.append(_process(one, user, _command(one.pid), _ancestors(stat), uid, _job(one.pid)))
    return tuple(processes), frozenset(visible)


def identity_of(pid: int) -> ProcessIdentity:
    """Return a process by its start time, 0 where that cannot be read."""
    stat = _stat(pid)
    return ProcessIdentity(pid, 0) if stat is None else stat.identity


def _process(
    held: Held,
    user: str | None,
    command: str | None,
    ancestors: tuple[ProcessIdentity, ...],
    uid: int | None = None,
    job: str | None = None,
) -> GpuProcess:
    kind = "compute" if held.compute else "graphics"
    if command is not None and command.split(" ", 1)[0].rpartition("/")[2] == _MPS_SERVER:
        kind = "mps"
    return GpuProcess(
        pid=held.pid,
        kind=kind,
        memory_mib=held.memory_mib,
        user=user,
        command=command,
        ancestors=ancestors,
        uid=uid,
        job=job,
    )


def _ancestors(stat: _Stat) -> tuple[ProcessIdentity, ...]:
    """Return the chain from the process up; shorter where a parent ended while we walked."""
    chain = [stat.identity]
    above = _stat(stat.parent)
    while above is not None and above.identity not in chain:  # a pid that is reused under our feet can close a ring
        chain.append(above.identity)
        above = _stat(above.parent)
    return tuple(chain)


def _stat(pid: int) -> _Stat | None:
    text = _read(pid, "stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and parentheses
    # A leader that has ended while its threads run on is a zombie too, and still holds the GPU.
    dead = fields[0] in "ZXx" and int(fields[17]) <= 1
    return _Stat(int(fields[1]), ProcessIdentity(pid, int(fields[19])), dead)


def _uid(pid: int) -> int | None:
    """Return the real user; the owner of /proc/PID would be root for a process that may not be dumped."""
    for line in (_read(pid, "status") or "").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return None


def _command(pid: int) -> str | None:
    arguments = _read(pid, "cmdline")
    if arguments:
        return arguments.rstrip("\0").replace("\0", " ")[:_COMMAND_MAX]
    name = _read(pid, "comm")
    return f"[{name.rstrip()}]" if name else None


def _job(pid: int) -> str | None:
    """Return the job that a process was told to be of: one in a container is no descendant of who started that."""
    mark = "GPUD_JOB_ID="
    variables = (_read(pid, "environ") or "").split("\0")
    return next((each.removeprefix(mark) for each in variables if each.startswith(mark)), None)


def _read(pid: int, name: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape")
    except OSError:  # gone, or hidden from us
        return None
