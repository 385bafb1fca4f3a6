"""Why a job could not be started, in words, and whose fault it was.

The job's own fault ends it; the machine's sends it back to the queue. A directory that is missing is the job's, which
a person sees at once, unless it belongs to a file system that is not mounted yet: one that /etc/fstab knows, or the one
that it was in when the job was submitted, whoever mounts that (systemd, an automounter, its user).
"""

import contextlib
import errno
import os

# What another moment, or another machine, may well not answer.
_MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
        errno.ENOMEM,
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
NOT_STARTED = 126  # what a process that never became the job exits with; the record says why


class CannotStartError(Exception):
    """A job could not be started: what the record keeps of it."""

    def __init__(self, reason: str, *, machine: bool = False, not_found: bool = False) -> None:
        super().__init__(reason)
        self.fault = (reason, machine, not_found)


def cannot(deed: str, error: OSError, *, machine: bool = False) -> CannotStartError:
    """Return the fault of an operation of the launcher's own: `cannot open the log /x: Permission denied`."""
    return CannotStartError(f"cannot {deed}: {error.strerror}", machine=machine or error.errno in _MACHINE)


def check_mounted(directory: str, mount: str | None) -> None:
    """Raise CannotStartError where the file system is not mounted that a directory was in, and nothing is there now.

    `mount` is as `JobSpec` has it. What somebody saw in another mount namespace says nothing here; and who has put the
    directory in the place of a mount has not lost it.
    """
    namespace, _, place = (mount or "").partition(" ")
    if not place or os.path.ismount(place) or namespace != str(os.stat("/proc/self/ns/mnt").st_ino):
        return
    with contextlib.suppress(OSError):
        if os.listdir(directory):
            return
    raise CannotStartError(f"{place} is not mounted, where its directory was: {directory}", machine=True)


def no_log(path: str, error: OSError, fstab: str = "/etc/fstab") -> CannotStartError:
    """Return why a log cannot be opened."""
    machine = error.errno == errno.ENOENT and _not_mounted(path, fstab) is not None
    return cannot(f"open the log {path}", error, machine=machine)


def no_entry(directory: str, error: OSError, fstab: str = "/etc/fstab") -> CannotStartError:
    """Return why a working directory cannot be entered."""
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        missing = _not_mounted(directory, fstab)
        if missing is not None:
            return CannotStartError(f"no such directory: {directory}; {missing} is not mounted", machine=True)
        return CannotStartError(f"no such directory: {directory}", not_found=True)
    return cannot(f"enter the directory {directory}", error)


def _not_mounted(directory: str, fstab: str) -> str | None:
    """Return where a file system should be that holds a directory, and is not; see fstab(5)."""
    try:
        with open(fstab, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    for words in lines:
        if len(words) < 4 or words[0].startswith("#") or words[1] in {"/", "none", "swap"}:
            continue
        place = words[1].replace("\\040", " ")
        inside = directory == place or directory.startswith(place.rstrip("/") + "/")
        if inside and "noauto" not in words[3].split(",") and not os.path.ismount(place):
            return place
    return None


def no_exec(program: str, error: OSError) -> CannotStartError:
    """Return why execve(2) of a program that was found failed."""
    match error.errno:
        case errno.ENOENT if os.path.lexists(program):
            return CannotStartError(f"{program}: its interpreter (or loader) is missing", not_found=True)
        case errno.ENOENT | errno.ENOTDIR:
            return CannotStartError(f"no such command: {program}", not_found=True)
        case errno.EACCES | errno.EPERM:
            return CannotStartError(f"{program}: permission denied (is it executable?)")
        case errno.ENOEXEC:
            return CannotStartError(f"{program} is not a program: it has no #! line, or is for another machine")
        case errno.E2BIG:
            return CannotStartError("argument list too long (arguments and environment together)")
        case _:
            return cannot(f"run {program}", error)
