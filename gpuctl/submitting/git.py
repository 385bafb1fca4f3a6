"""What git has of a directory: its commit, and whether files differ from it. Recorded with each job that runs there.

The commit is read from git's files. Whether they are all that there is, git itself is asked, and not waited for where
that takes long: what is not known is left out. Imported only where there is a repository.
"""

import os
import select
import shutil
import signal
from functools import lru_cache

_PATIENCE_S = 0.15
_MOST = 1 << 22  # bytes of packed refs


@lru_cache(maxsize=8)
def recorded(top: str, second: int) -> dict[str, str | bool]:  # noqa: ARG001 - many jobs ask once a second
    """Return the `commit`, and whether the tree is `dirty`, of the repository whose top directory this is, now."""
    commit = _commit(f"{top}/.git")
    if commit is None:
        return {}
    dirty = _differs(top)
    return {"commit": commit} if dirty is None else {"commit": commit, "dirty": dirty}


def _commit(folder: str) -> str | None:
    """Return what HEAD is; None where that cannot be told, or nothing was committed yet."""
    if not os.path.isdir(folder):  # a worktree, or a submodule
        folder = os.path.join(os.path.dirname(folder), _text(folder).removeprefix("gitdir:").strip())
    shared = os.path.join(folder, _text(f"{folder}/commondir").strip() or ".")
    head = _text(f"{folder}/HEAD").strip()
    name = head.removeprefix("ref:").strip()
    if name != head:
        head = _text(f"{folder}/{name}").strip() or _text(f"{shared}/{name}").strip() or _packed(shared, name)
    return head if 40 <= len(head) <= 64 and all(digit in "0123456789abcdef" for digit in head) else None


def _packed(folder: str, name: str) -> str:
    for line in _text(f"{folder}/packed-refs").splitlines():
        if line.endswith(f" {name}"):
            return line.partition(" ")[0]
    return ""


def _text(path: str) -> str:
    """Return a file's content; nothing where there is none, or it is no plain one."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(file, _MOST).decode(errors="replace")
        finally:
            os.close(file)
    except OSError:
        return ""


def _differs(top: str) -> bool | None:
    """Return whether tracked files differ from the commit; None where git does not say, or not at once."""
    git = shutil.which("git")
    if git is None:
        return None
    nothing = [(os.POSIX_SPAWN_OPEN, file, os.devnull, os.O_RDWR, 0) for file in range(3)]
    words = ["git", "--no-optional-locks", "-C", top, "diff", "--quiet", "--no-ext-diff", "HEAD", "--"]
    try:
        pid = os.posix_spawn(git, words, os.environ, file_actions=nothing)
        watch = os.pidfd_open(pid)
    except OSError:
        return None
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    if not poll.poll(_PATIENCE_S * 1000):
        os.kill(pid, signal.SIGKILL)
    os.close(watch)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: False, 1: True}.get(status)
