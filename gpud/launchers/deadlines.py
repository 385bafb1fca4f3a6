"""What a shim sleeps for: its job's deadlines, and the signals by which it is told what to do.

CHLD: something ended. TERM: stop, with the job's grace. USR1, and TERM from who stops everything: the same, but the job
saves what it has first. QUIT: stop at once. INT: interrupt the job. HUP: look anew until when it may run. A real-time
signal, counted from the first: pass on the signal of that number.
"""

import contextlib
import signal
from collections.abc import Callable

from gpud.launchers import cgroup, record, tree
from gpud.launchers.checkpoints import Checkpoints, earliest

SAVE_AND_STOP = signal.SIGUSR1
GIVE_UP_S = 30.0
_NAP_S = 60.0  # deadlines count the time a machine sleeps, sigtimedwait(2) does not
_NAMED = (signal.SIGCHLD, signal.SIGTERM, SAVE_AND_STOP, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)
_PASSED_ON = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)  # the first is for signal 1, and so on
SIGNALS = frozenset(map(int, (*_NAMED, *_PASSED_ON)))  # plain numbers lie side by side, enums on a page each
SHUTDOWN = b"gpud-shutdown"  # as `shutdown` calls itself
_SYSTEM = (b"systemd", SHUTDOWN)  # how those are called who stop everything: the machine's and a user's service manager
_SAVES_NOTHING = Checkpoints(None, 0)


class Deadlines:
    """When a job must stop, and what to do when a signal or the clock says so. Times are seconds since boot.

    `members` gives the processes that the job has now, `group` is its cgroup where it has one. `nap_s` is how long to
    sleep at most where the job's end sends no signal. `look` tells until when it may run, where that may change.
    `saves` asks it to save what it has: before it is stopped at its limit, too.
    """

    def __init__(
        self,
        members: Callable[[], list[int]],
        stop_at: float | None,
        grace_s: float,
        *,
        group: str | None = None,
        nap_s: float | None = None,
        look: Callable[[], float | None] | None = None,
        saves: Checkpoints | None = None,
    ) -> None:
        self.members = members
        self.saves = saves or _SAVES_NOTHING
        self.look = look
        self.group = group
        self.nap_s = nap_s
        self.stop_at = stop_at
        self.grace_s = grace_s
        self.end_at: float | None = None  # when it is asked to end, while it saves before that
        self.kill_at: float | None = None
        self.timed_out = False
        self.by_system = False  # whether a shutdown, or the end of a session, asks for the end
        self.killed: set[int] = set()

    def wait(self) -> None:
        """Sleep until something ended, was asked for, or is due; then do what it asks."""
        now = record.boot_time()
        if self.kill_at is not None and now >= self.kill_at:
            self._kill()
            due: float | None = now + 0.02  # for those that forked while they were being killed
        elif self.kill_at is not None:  # who stops has no other deadline
            due = self.kill_at if self.end_at is None else self.end_at
        else:
            due = earliest(self.stop_at, self.saves.due_at(self.stop_at))
        nap_s = self.nap_s
        if due is not None:
            nap_s = max(0.0, due - now if nap_s is None else min(due - now, nap_s))
        number, sender = _next_signal(nap_s)
        match number:
            case signal.SIGCHLD:
                pass  # the caller looks
            case signal.SIGTERM:
                by_system = _stops_everything(sender)
                self.by_system = self.by_system or by_system
                self.stop(self.grace_s, saves=by_system)
            case signal.SIGUSR1:
                self.stop(self.grace_s, saves=True)
            case signal.SIGQUIT:
                self.stop(0.0)
            case signal.SIGINT:
                tree.send(signal.SIGINT, self.members())
            case signal.SIGHUP if self.look is not None:
                self.stop_at = self.look() if self.kill_at is None else None
            case int(number) if number >= signal.SIGRTMIN:
                tree.send(number - signal.SIGRTMIN + 1, self.members())
            case None if self.stop_at is not None and record.boot_time() >= self.stop_at:
                self.timed_out = self.kill_at is None
                self.stop(self.grace_s, saves=True)
            case None if self.kill_at is None:
                self.saves.ask_if_due(self.stop_at, self.members)
            case None if self.end_at is not None and record.boot_time() >= self.end_at:
                self._end()

    def stop(self, grace_s: float, *, saves: bool = False) -> None:
        """Ask every process to end, once, and kill what is left after the grace.

        With `saves` the job is asked to save what it has first, and to end when little is left of the grace.
        """
        now = record.boot_time()
        kill_at = now + grace_s
        if self.kill_at is None and grace_s > 0:
            saves_s = self.saves.ask_last(self.stop_at, grace_s, self.members) if saves else 0.0
            self.end_at = now + saves_s
            if not saves_s:
                self._end()
        elif self.end_at is not None and grace_s > 0 and not saves:  # somebody does not want it any more
            self._end()
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        self.stop_at = None

    def _end(self) -> None:
        self.end_at = None
        tree.end_gently(self.members)

    def given_up(self) -> bool:
        """Tell whether killing has gone on for so long that the rest cannot be killed."""
        return self.kill_at is not None and record.boot_time() >= self.kill_at + GIVE_UP_S

    def _kill(self) -> None:
        rest = self.members()
        if self.group is not None:
            cgroup.kill(self.group)
        tree.send(signal.SIGKILL, rest)
        self.killed.update(rest)


def _next_signal(timeout_s: float | None) -> tuple[int | None, int]:
    """Return the next signal, and the process that sent it; no signal when the time is over, or may be."""
    info = signal.sigwaitinfo(SIGNALS) if timeout_s is None else signal.sigtimedwait(SIGNALS, min(timeout_s, _NAP_S))
    return (None, 0) if info is None else (info.si_signo, info.si_pid)


def _stops_everything(sender: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{sender}/comm", "rb") as file:
        return file.read().startswith(_SYSTEM)
    return False
