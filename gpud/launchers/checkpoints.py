"""Asking a job to save what it has: every so often, and before it is stopped for others or for its time limit.

Most programs die of a signal that they do not expect: a shell around them, one that is still importing, their workers.
So only who catches the signal gets it, as /proc tells (proc_pid_status(5), SigCgt), and of those only who has none of
them above it: a launcher or a script that passes signals on does so, and what forked from a trainer inherits its
handler, but saves nothing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpud.launchers import record, tree

_STEP = b"gpud-srun"  # what `srun` calls itself
_NOT_YET = frozenset({b"gpud-launcher", b"gpud-shim"})  # a job's first process, with our handlers, before it is one
_AGAIN_S = 1.0
_LEAVE_S = 5.0  # of the grace, at most, for who has saved and is asked to end


class Checkpoints:
    """When one attempt is asked. `told` is [signal, every how many seconds, how long before the limit, whom], or None.

    `first` is the job's first process. Times are seconds since boot.
    """

    def __init__(self, told: Sequence[Any] | None, first: int) -> None:
        number, every_s, before_s, to = told or (None, None, None, "all")
        self.number: int | None = number
        self.every_s: float | None = every_s
        self.before_s: float | None = before_s
        self.to: str = to
        self.first = first
        self._next_at = None if self.every_s is None else record.boot_time() + self.every_s
        self._asked_before: float | None = None  # the time limit before which it was asked

    def due_at(self, stop_at: float | None) -> float | None:
        """Return when it is asked next, if it is to stop then."""
        last_at = None
        if stop_at is not None and self.before_s is not None and self._asked_before != stop_at:
            last_at = stop_at - self.before_s
        return earliest(self._next_at, last_at)

    def ask_if_due(self, stop_at: float | None, members: Callable[[], list[int]]) -> None:
        """Ask it, where the time has come."""
        now, due_at = record.boot_time(), self.due_at(stop_at)
        if due_at is None or now < due_at:
            return
        heard = self._ask(members)
        if self.every_s is not None:
            self._next_at = now + self.every_s
        if stop_at is not None and self.before_s is not None and now >= stop_at - self.before_s:
            if heard:
                self._asked_before = stop_at
            else:  # it may have only just begun
                self.before_s = max(0.0, stop_at - now - _AGAIN_S)

    def ask_last(self, stop_at: float | None, grace_s: float, members: Callable[[], list[int]]) -> float:
        """Ask it before it is stopped, unless that was done before its limit; return how long it has for it."""
        if stop_at is not None and self._asked_before == stop_at:
            return 0.0
        return grace_s - min(_LEAVE_S, grace_s / 2) if self._ask(members) else 0.0

    def _ask(self, members: Callable[[], list[int]]) -> bool:
        """Send the signal to whom it is for; return whether there was anybody."""
        if self.number is None:
            return False
        heard = [*self._hearers(members(), self.number)]
        tree.send(self.number, heard)
        return bool(heard)

    def _hearers(self, members: Sequence[int], number: int) -> Iterator[int]:
        parents = tree.parents()
        below: set[int] = set()
        for pid in members:  # parents first
            if pid in parents and parents[pid][0] in below:
                below.add(pid)
            elif self._is_meant(pid) and _catches(pid, number) and _content(pid, "comm").rstrip() not in _NOT_YET:
                below.add(pid)
                yield pid

    def _is_meant(self, pid: int) -> bool:
        match self.to:
            case "script":
                return pid == self.first
            case "steps":
                return _content(pid, "comm").rstrip() == _STEP
            case _:
                return True


def earliest(one: float | None, other: float | None) -> float | None:
    """Return the sooner of two times; None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    for line in _content(pid, "status").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _content(pid: int, part: str) -> bytes:
    try:
        file = os.open(f"/proc/{pid}/{part}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, 8192)
    except OSError:  # it has just ended
        return b""
    finally:
        os.close(file)
