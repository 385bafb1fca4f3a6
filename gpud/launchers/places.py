"""Directories and files of an attempt's own, made and removed as its user: $TMPDIR, what it saves, how far it is.

$TMPDIR is below the submitter's, or /tmp, has a short name (sockets lie in it, whose paths are short) and goes with the
attempt: which one that was stands in its record, and what does not is not guessed. $GPUD_CHECKPOINT_DIR belongs to the
job and stays, once there is something in it. Nothing here keeps a job from starting or from ending.
"""

import os
from collections.abc import Mapping
from typing import NoReturn

from gpud.launchers import environment

CHECKPOINTS, PROGRESS = "GPUD_CHECKPOINT_DIR", "GPUD_PROGRESS_FILE"
_NAME = "gpud-"  # and the attempt's key
_LONGEST = 80  # of a path that the record has room for


def make(added: Mapping[str, str]) -> None:
    """Make the directories for what a job saves, and for the file that tells how far it is."""
    if PROGRESS in added:
        directory = added[PROGRESS].rpartition("/")[0]
        if not os.access(directory, os.F_OK):
            _make(directory)
    if CHECKPOINTS in added:
        _make(added[CHECKPOINTS])


def _make(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileNotFoundError:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError:
            pass  # who writes there says it better
    except OSError:
        pass  # it is there, mostly


def make_tmp(key: str, submitted: Mapping[str, str]) -> str | None:
    """Make a TMPDIR; None where that cannot be, and the submitter's stays."""
    path = f"{environment.tmp_base(submitted)}/{_NAME}{key}-{os.urandom(3).hex()}"
    if not path.startswith("/") or len(path) > _LONGEST or not path.isascii():
        return None
    try:
        os.mkdir(path, 0o700)
    except OSError:
        return None
    return path


def clear(added: Mapping[str, str]) -> None:
    """Remove what tells how far a job is, and where it saves what it has if there is nothing."""
    for name, remove in ((PROGRESS, os.unlink), (CHECKPOINTS, os.rmdir)):
        if name in added:
            try:
                remove(added[name])
            except OSError:
                pass


def removed(tmp: str) -> bool:
    """Remove a TMPDIR; return False where there is something in it."""
    try:
        os.rmdir(tmp)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def clear_rehearsed() -> None:
    """Remove the TMPDIRs of rehearsals (of no attempt, and empty) in which a launcher process was killed."""
    base = environment.tmp_base({})
    try:
        for name in os.listdir(base):
            path = f"{base}/{name}"
            if name.startswith(f"{_NAME}-") and os.lstat(path).st_uid == os.geteuid():
                removed(path)
    except OSError:
        pass


def become_sweeper(tmp: str) -> NoReturn:
    """Turn into who removes a TMPDIR with all that is in it, but nothing that is mounted there.

    Without a variable: what a user's process was told can be read by that user, and the launcher's may be a secret.
    """
    try:
        os.execve("/bin/rm", ["rm", "-rf", "--one-file-system", "--", tmp], {})  # noqa: S606 - no shell is wanted
    finally:
        os._exit(0)
