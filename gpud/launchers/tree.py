"""All processes of a job, also those that left its session: found as descendants of a child subreaper.

A process that daemonises keeps one thing: when its parent ends it becomes a child of the nearest subreaper above,
which is the job's shim. Sessions and process groups are left by setsid(2) and prove nothing.

One pass over /proc (14 us a process) rather than /proc/PID/task/*/children: that file promises nothing while
processes run, and is not there on every kernel. Only stopping and sweeping pay for it.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterable

_PRCTL = ctypes.CDLL(None).prctl  # without its errno: keeping that touches 60 pages more in every shim
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36  # linux/prctl.h


def adopt_orphans(*, on: bool = True) -> None:
    """Become the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER), or no more."""
    if _PRCTL(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        raise OSError("this kernel lets no process adopt orphans: prctl(PR_SET_CHILD_SUBREAPER)")


def rename(name: bytes) -> None:
    """Show as `name` in ps and to pkill, so that `pkill python` ends no gpud and no shim."""
    _PRCTL(_PR_SET_NAME, name, 0, 0, 0)


def parents() -> dict[int, tuple[int, int]]:
    """Return the parent and the session of every process that is no zombie."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                state, parent, _, session = file.read(4096).rpartition(b")")[2].split(None, 4)[:4]
                if state not in b"ZX":
                    found[int(name)] = (int(parent), int(session))
    return found


def descendants(root: int) -> list[int]:
    """Return the living descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in parents().items():
        children.setdefault(parent, []).append(pid)
    found = list(children.get(root, ()))
    for pid in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def began(pid: int) -> int | None:
    """Return when a process started, as `record.start_time` does, also of one that ended and was not reaped."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return int(file.read(4096).rpartition(b")")[2].split(None, 20)[19])
    return None


def session(leader: int, start: int, key: str) -> list[int]:
    """Return the living members of the session of an attempt's first process, which started at `start`.

    A session's number is given to another when nothing of it lives, after which its leader has another start time; a
    leader that has gone, too, tells nothing, and then its members must say so themselves.
    """
    began_at = began(leader)
    if began_at not in {start, None}:
        return []
    members = [pid for pid, (_, number) in parents().items() if number == leader]
    return members if began_at == start else [pid for pid in members if key_of(pid) == key]


def key_of(pid: int) -> str | None:
    """Return the key of the attempt that a process says in its environment to belong to."""
    variables: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            name, _, value = variable.partition(b"=")
            variables[name] = value
    job, attempt = variables.get(b"GPUD_JOB_ID"), variables.get(b"GPUD_ATTEMPT")
    return None if job is None or attempt is None else os.fsdecode(job + b"." + attempt)


def marked(root: int, key: str) -> list[int]:
    """Return the descendants of a process that say so of themselves; elsewhere the key is another gpud's."""
    return [pid for pid in descendants(root) if key_of(pid) == key]


def send(number: int, pids: Iterable[int]) -> None:
    """Send a signal to each; one that has just ended is no error, nor is one that became another user's."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_gently(members: Callable[[], list[int]]) -> None:
    """Send TERM, and CONT for those that are stopped, to every member, once.

    Process groups of members alone are told as a whole: nobody forks away from that (kill(2) and fork(2) exclude each
    other). What a handler starts then, to save what there is, is let be: it cannot be told from who was forked since.
    """
    there, groups = set(members()), dict[int, set[int]]()
    for pid, (parent, _) in parents().items():
        with contextlib.suppress(ProcessLookupError):
            member = pid in there or parent in there  # those forked since are
            groups.setdefault(os.getpgid(pid), set()).add(pid if member else 0)
    whole = {-group for group, pids in groups.items() if group > 1 and 0 not in pids}
    alone = there.difference(*(pids for group, pids in groups.items() if -group in whole))
    for number in (signal.SIGTERM, signal.SIGCONT):
        send(number, (*whole, *alone))
