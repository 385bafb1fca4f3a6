"""Where gpud keeps its jobs: room, speed, who gets in, and what an earlier gpud left there."""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress

from gpuctl.checks.finding import Finding, Patient
from gpuctl.client import Client
from gpuctl.errors import GpuctlError
from gpud.wire import address

_ROOM_MIB = 256
_LEAST_MIB = 16  # a commit of many jobs takes as much
_SLOW_MS = 50.0
_TRIES = 9


def state(patient: Patient) -> Iterator[Finding]:
    """Look at the directory: on this machine, writable, with room."""
    if patient.state is None:
        try:
            address.state_dir()
        except address.AddressError as error:
            yield Finding("problem", "state", str(error), error.hint)
        return
    there = _existing(patient.state)
    network = address.network_type(patient.state)
    if network:
        hint = "set GPUD_STATE_DIR to a directory on a local disk"
        yield Finding("problem", "state", f"{patient.state} is on a network file system ({network})", hint)
    elif _mine(patient) and not _writable(there):
        hint = "set GPUD_STATE_DIR to a directory of yours"
        yield Finding("problem", "state", f"{there} is not writable", hint)
    else:
        space = os.statvfs(there)
        free_mib = space.f_bavail * space.f_frsize >> 20
        result = "problem" if free_mib < _LEAST_MIB else "warning" if free_mib < _ROOM_MIB else "ok"
        yield Finding(result, "state", f"{patient.state}, {free_mib} MiB free", "logs and the queue need room")
    if patient.status is not None and patient.status.get("storage") is not None:
        hint = "nothing that is asked is accepted until it can; jobs that run go on"
        yield Finding("problem", "queue", patient.status["storage"], hint)


def permissions(patient: Patient) -> Iterator[Finding]:
    """Look at who may enter the directory."""
    try:
        found = os.stat(patient.state or "")
    except OSError:
        return  # not there yet
    wanted = 0o711 if patient.system else 0o700
    open_to = stat.S_IMODE(found.st_mode) & ~wanted & 0o777
    if open_to:
        fix = f"chmod {wanted:o} {patient.state}"
        yield Finding("warning", "permissions", f"{patient.state} is open to others ({found.st_mode & 0o777:o})", fix)
    elif found.st_uid != (0 if patient.system else os.getuid()):
        hint = "have it removed, or set GPUD_STATE_DIR to a directory of yours"
        yield Finding("problem", "permissions", f"{patient.state} belongs to user {found.st_uid}", hint)
    else:
        yield Finding("ok", "permissions", "nobody else can read the queue's files")


def disk(patient: Patient) -> Iterator[Finding]:
    """Measure what a commit waits for: one small write that reaches the disk."""
    if patient.state is None or not _writable(_existing(patient.state)):
        return  # said of the state, or for root to measure
    took = []
    with suppress(OSError), tempfile.TemporaryFile(dir=_existing(patient.state)) as file:
        for _ in range(_TRIES):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), 0)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    if not took:
        return
    median = sorted(took)[len(took) // 2]
    hint = "each submit waits for it; a state directory on a local SSD would be faster: --state-dir"
    yield Finding("warning" if median > _SLOW_MS else "ok", "disk", f"a durable write takes {median:.1f} ms", hint)


def stale(patient: Patient) -> Iterator[Finding]:
    """Look for what a gpud left behind that did not end well."""
    if patient.state is None or patient.status is not None:
        return
    holder = _holder(os.path.join(patient.state, "lock"))
    if holder is not None:
        hint = f"what it says: gpuctl daemon logs; to end it (jobs run on): kill {holder}"
        yield Finding("problem", "left over", f"process {holder} has the state directory, and does not answer", hint)
        return
    path = os.path.join(patient.state, "gpud.sock")
    with suppress(GpuctlError, OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            try:
                Client(path).close()
            except GpuctlError:
                yield Finding("ok", "left over", f"{path}, of a gpud that was killed; the next one takes it over")


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _mine(patient: Patient) -> bool:
    return not patient.system or os.getuid() == 0


def _writable(folder: str) -> bool:
    """Return whether a file can be made there; only trying tells, for root too."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _holder(lock: str) -> int | None:
    """Return the process that holds a lock, by proc_locks(5)."""
    try:
        inode = os.stat(lock).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if len(words) > 5 and words[5].endswith(f":{inode}") and words[4].isdigit():
                    return int(words[4])
    except OSError:
        pass
    return None
