"""A gpud that comes back although only a job asks for it: started by the launcher process, as it was started before.

What a job starts belongs to its tree: it is stopped with the job, and so would be a gpud, with all that it launched.
The launcher process stands above every job and outlives gpud; gpuctl finds it above itself and sends it `ASKS`.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Sequence
from typing import NamedTuple

from gpud.launchers import tree
from gpud.launchers.environment import is_outer

ASKS = signal.SIGUSR1


class Call(NamedTuple):
    """How a process was called."""

    words: list[bytes]
    environment: dict[bytes, bytes]
    directory: bytes


def call_of(pid: int) -> Call | None:
    """Return how a process was called; None when it has gone."""
    try:
        words, variables = (_content(pid, part).split(b"\0")[:-1] for part in ("cmdline", "environ"))
        directory = os.readlink(f"/proc/{pid}/cwd".encode())
    except OSError:
        return None
    pairs = [variable.partition(b"=") for variable in variables]
    kept = {name: value for name, _, value in pairs if name != b"NOTIFY_SOCKET" and not is_outer(os.fsdecode(name))}
    return Call(words, kept, directory)


def start(call: Call, log: str, files_limit: Sequence[int]) -> None:
    """Start a process that is nobody's child, in a session of its own. It says in its log what went wrong."""
    tree.adopt_orphans(on=False)  # a moment: whose parent ends in it, comes to init
    try:
        pid = os.fork()
        if pid == 0:
            try:
                if os.fork() == 0:
                    _become(call, log, files_limit)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    finally:
        tree.adopt_orphans()


def _become(call: Call, log: str, files_limit: Sequence[int]) -> None:
    signal.set_wakeup_fd(-1)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_limit[0], files_limit[1]))
    with contextlib.suppress(OSError):
        os.chdir(call.directory)
    os.execvpe(call.words[0], call.words, call.environment)  # noqa: S606 - no shell is wanted


def _content(pid: int, part: str) -> bytes:
    with open(f"/proc/{pid}/{part}", "rb") as file:
        return file.read()
