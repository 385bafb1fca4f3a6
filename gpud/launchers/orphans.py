"""Attempts whose shim was killed: the launcher process, now the parent of their processes, sees to their end.

It writes the status of a job's first process into the record before reaping it, as the shim would have. A `keeper`
takes the shim's place in the record and takes its signals: it stops the job when told to, and at its time limit. When
the first process has ended, whatever else it left is killed. Which of the launcher process's children belongs to
which attempt is told by the session and the environment; what neither tells is killed when no other orphan lives, and
what either tells to be another attempt's never.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from gpud.launchers import cgroup, places, record, tree
from gpud.launchers.checkpoints import Checkpoints
from gpud.launchers.deadlines import GIVE_UP_S, SIGNALS, Deadlines
from gpud.launchers.job import as_user
from gpud.launchers.leases import drop
from gpud.launchers.record import Record
from gpud.launchers.shim import close_others

# The launcher process tells a keeper of its job's end; should that be killed too, nobody does.
NAP_S = 1.0
_TIMED_OUT = 3  # a keeper's exit status


class Orphans:
    """The attempts that the launcher process attends itself; `told(key)` is called when a record was changed."""

    def __init__(self, records: str, cgroups: str | None, told: Callable[[str], None]) -> None:
        self.records = records
        self.cgroups = cgroups
        self.told = told
        self.ends: dict[str, float | None] = {}  # since when (seconds since boot) the first process is gone
        self.keepers: dict[int, str] = {}
        self.sweepers: set[int] = set()  # who remove what attempts left in their TMPDIR
        self.timed_out: set[str] = set()
        self.leases: dict[str, list[socket.socket]] = {}

    @property
    def pressing(self) -> bool:
        """Tell whether an attempt is over but for what it left, so that it must be looked at again soon."""
        return any(since is not None for since in self.ends.values())

    def adopt(self, key: str, leases: Sequence[socket.socket] = ()) -> None:
        """Take an attempt whose shim, or keeper, was killed, and the leases that the shim had."""
        self.leases.setdefault(key, []).extend(leases)
        path = f"{self.records}/{key}"
        with contextlib.suppress(OSError, ValueError):  # no space for a link: gpud tries again when it is told
            if record.read(path) is None:
                record.bury(path)
        found = record.read_sound(path)
        if found is not None and found["state"] in {record.CLAIMED, record.ENDED}:
            self.ends.setdefault(key, None)
            if record.start_time(found["pid"]) == found["start"]:
                keeper = self._fork_keeper(found, path, self.leases[key])
                self.keepers[keeper] = key
                _overwrite(path, found | {"shim": [keeper, record.start_time(keeper)]})
        elif found is not None and found["state"] == record.DONE:
            self.release(key)  # else gpud says when: without a record only it can know
        self.told(key)

    def release(self, key: str) -> None:
        """Let others have the GPUs of an attempt that is over."""
        drop(self.leases.pop(key, ()))

    def reap(self, pid: int, code: int, status: int) -> None:
        """Take the end of a child that is no shim, before it is reaped; `code` and `status` as in waitid(2)."""
        self.sweepers.discard(pid)
        if pid in self.keepers:
            key = self.keepers.pop(pid)
            if code != os.CLD_EXITED:
                self.adopt(key)
            elif status == _TIMED_OUT:
                self.timed_out.add(key)
            return
        start = tree.began(pid)
        for key in self._keys():
            path = f"{self.records}/{key}"
            found = record.read_sound(path)
            if found is None or found["state"] not in {record.CLAIMED, record.ENDED}:
                continue
            if (found["pid"], found["start"]) == (pid, start):
                if found["state"] == record.CLAIMED:
                    found |= {"state": record.ENDED, "status": status if code == os.CLD_EXITED else -status}
                _overwrite(path, found | {"ended": record.boot_time() + found["offset"]})
                self.ends.setdefault(key, None)
                cgroup.kill(f"{self.cgroups}/job-{key}")
                tree.send(signal.SIGCHLD, [keeper for keeper, kept in self.keepers.items() if kept == key])

    def tend(self, shims: Collection[int]) -> None:
        """Kill what ended attempts left, and complete the records of those that have left nothing.

        `shims` are the living ones that have been heard of no end.
        """
        if not self.ends:
            return
        own = os.getpid()
        children = {pid: session for pid, (parent, session) in tree.parents().items() if parent == own}
        if _somebody_ended():
            return  # a shim perhaps, and among these are what runs of its job: it is taken first, and we come again
        found = {key: record.read_sound(f"{self.records}/{key}") for key in self.ends}
        living = {
            about["pid"]: key
            for key, about in found.items()
            if about is not None and about["state"] == record.CLAIMED and about["pid"] in children
        }
        strays = {
            pid: _owner(pid, session, found)
            for pid, session in children.items()
            if pid not in shims and pid not in self.keepers and pid not in self.sweepers and pid not in living
        }
        ended = {key for key, about in found.items() if about is not None} - {*living.values()}
        nobody_s = () if living else (None,)
        tree.send(signal.SIGKILL, [pid for pid, key in strays.items() if key in {*ended, *nobody_s}])
        left = {*strays.values(), *living.values(), *self.keepers.values()}
        for key, about in found.items():
            if about is None:
                del self.ends[key]
                self.told(key)
            elif key in ended:
                self._complete(key, about, clean=left.isdisjoint({key, *nobody_s}))

    def _keys(self) -> list[str]:
        with contextlib.suppress(OSError):
            return [key for key in os.listdir(self.records) if not key.startswith(".")]
        return []

    def _complete(self, key: str, about: Record, *, clean: bool) -> None:
        now = record.boot_time()
        since = self.ends[key] = self.ends[key] or now
        if not clean and now < since + GIVE_UP_S:
            return
        if about["state"] == record.CLAIMED:
            about |= {"lost": "its shim was killed, and its end was not seen", "ended": now + about["offset"]}
        tmp = about.pop("tmp", None)
        about.pop("checkpoint", None)  # there is more to say
        if about.pop("docker", None) is not None:  # whose groups are not known any more
            about["containers"] = "its containers were not looked for: its shim was killed"
        stuck, timed_out = about.get("stuck") or not clean, about.get("timed_out") or key in self.timed_out
        done = about | {"state": record.DONE, "stuck": stuck, "timed_out": timed_out}
        peak_mib = cgroup.peak_mib(f"{self.cgroups}/job-{key}")
        _overwrite(f"{self.records}/{key}", done if peak_mib is None else done | {"peak_mib": peak_mib})
        cgroup.remove(f"{self.cgroups}/job-{key}")
        self.release(key)
        del self.ends[key]
        self.timed_out.discard(key)
        self.told(key)
        if tmp is not None:
            self.sweep(*tmp)

    def sweep(self, tmp: str, uid: int | None, gid: int | None) -> None:
        """Have what an attempt left in its TMPDIR removed, as its user."""
        try:
            pid = os.fork()
        except OSError:  # no process to be had: then it stays
            return
        if pid == 0:
            try:
                as_user({"uid": uid, "gid": gid, "groups": ()}, ours=True)
                places.become_sweeper(tmp)
            finally:
                os._exit(0)
        self.sweepers.add(pid)

    def _fork_keeper(self, found: Record, path: str, leases: Sequence[socket.socket]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what it is told meanwhile stays pending
        try:
            pid = os.fork()
            if pid == 0:
                _become_keeper(found, path, leases)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid


def _become_keeper(found: Record, path: str, leases: Sequence[socket.socket]) -> NoReturn:
    code = 1
    try:
        code = _keep(found, path, leases)
    except BaseException:  # noqa: BLE001 - ours: the launcher's log is where it is looked for
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _overwrite(path: str, about: Record) -> None:
    with contextlib.suppress(OSError):  # somebody removed it: gpud sees that too
        record.overwrite(path, about)


def _owner(pid: int, session: int, found: dict[str, Record | None]) -> str | None:
    """Return which attempt a process belongs to, of these or another; None where nothing tells."""
    for key, about in found.items():
        if about is not None and about.get("pid") == session:
            return key
    return tree.key_of(pid)


def _somebody_ended() -> bool:
    """Tell whether a child has ended and was not reaped yet."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _keep(found: Record, path: str, leases: Sequence[socket.socket]) -> int:
    signal.set_wakeup_fd(-1)
    close_others([lease.fileno() for lease in leases])
    for lease in leases:
        with contextlib.suppress(OSError):  # what takes no connections says only that another is ours
            lease.listen(128)  # whose it is shows as who called this last
    os.setsid()
    tree.rename(b"gpud-keeper")
    pid, start = found["pid"], found["start"]

    def members() -> list[int]:
        return [pid, *tree.descendants(pid)] if record.start_time(pid) == start else []

    def limit() -> float | None:
        return record.limit_of(path, found["limit_at"])

    saves = Checkpoints(found.get("checkpoint"), pid)
    deadlines = Deadlines(members, limit(), found["grace_s"], nap_s=NAP_S, look=limit, saves=saves)
    while record.start_time(pid) == start and not deadlines.given_up():
        deadlines.wait()
    return _TIMED_OUT if deadlines.timed_out else 0
