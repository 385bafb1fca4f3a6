"""One gpud for each state directory: the kernel keeps the lock, and frees it however its holder dies.

The directory itself is locked, too, with others: who clears out /var/tmp (systemd-tmpfiles) leaves alone what is below
a directory that somebody has locked, and would else take a database that nothing was written to for a month.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, field

from gpud.store.files import StoreError


class StateInUseError(StoreError):
    """Another gpud has the state directory, now; it may let go of it."""


@dataclass(frozen=True, slots=True)
class StateLock:
    """A held lock; it lasts until `release` or the end of the process."""

    path: str
    descriptor: int
    directory: int
    _kept: dict[str, tuple[int, int]] = field(default_factory=dict)

    def keep(self, path: str) -> None:
        """Have `check` see to this file, too, if it is there: what is written to a removed one is lost."""
        there = _identity(path)
        if there is not None:
            self._kept[path] = there

    def check(self) -> None:
        """Raise StoreError if the directory or a kept file is not there any more, or another has its name."""
        for path, kept in self._kept.items():
            if _identity(path) != kept:
                directory = os.path.dirname(path)  # noqa: PTH120 - at every commit: no path object for it
                lost = f"the state directory {directory}" if path == self.path else path
                raise StoreError(
                    f"{lost} was removed under gpud",
                    "jobs that run go on, but their queue is lost; start gpud again for a new one",
                )

    def release(self) -> None:
        """Give the directory free. The file stays: removing it would let two in."""
        os.close(self.descriptor)
        os.close(self.directory)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        there = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return None
    return there.st_ino, there.st_dev


def lock_state(state_dir: str, socket: str = "") -> StateLock:
    """Take `lock` in this directory; leave one's pid and `socket` in it, each on a line.

    Raises StateInUseError, naming the holder's pid, if another has it.
    """
    path = os.path.join(state_dir, "lock")  # noqa: PTH118 - one join, for os.open
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot open {path}: {error.strerror}", "is the directory there, and yours? or take another: --state-dir"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, os.fsencode(f"{os.getpid()}\n{socket}\n"), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).partition(b"\n")[0].decode("ascii", "replace").strip()
        os.close(descriptor)
        who = f"process {holder}" if holder else "a process that is just starting"
        raise StateInUseError(
            f"another gpud uses {state_dir}: {who}", "talk to it with gpuctl, or take another directory: --state-dir"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"cannot lock {path}: {error.strerror}", "take a local directory: --state-dir") from error
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with suppress(OSError):  # whoever may look into it may have locked it: that is no reason not to start
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    lock = StateLock(path, descriptor, directory)
    lock.keep(path)
    return lock
