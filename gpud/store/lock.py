"""One gpud for each state directory: the kernel keeps the lock, and frees it however its holder dies."""

import fcntl
import os
from dataclasses import dataclass

from gpud.store.files import StoreError


class StateInUseError(StoreError):
    """Another gpud has the state directory, now; it may let go of it."""


@dataclass(frozen=True, slots=True)
class StateLock:
    """A held lock; it lasts until `release` or the end of the process."""

    path: str
    descriptor: int

    def check(self) -> None:
        """Raise StoreError if the directory is not there any more, or another has its name: what is written is lost."""
        try:
            there = os.stat(self.path)  # noqa: PTH116 - at every commit: no path object for it
        except OSError:
            there = None
        held = os.fstat(self.descriptor)
        if there is None or (there.st_ino, there.st_dev) != (held.st_ino, held.st_dev):
            raise StoreError(
                f"the state directory {os.path.dirname(self.path)} was removed under gpud",  # noqa: PTH120 - as above
                "jobs that run go on, but their queue is lost; start gpud again for a new one",
            )

    def release(self) -> None:
        """Give the directory free. The file stays: removing it would let two in."""
        os.close(self.descriptor)


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
    return StateLock(path, descriptor)
