"""Whether code can be changed by people who should not be able to: then it is not run as a service.

What others can write into, they can have run as whoever runs it: a file, and every directory on the way to it.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator

from gpuctl.errors import GpuctlError


def check_place(path: str, *, system: bool) -> None:
    """Raise GpuctlError if others than root (for oneself: and oneself) can change what is, or will be, at a path.

    For the whole system everybody must be able to reach it, too.
    """
    owners = {0} if system else {0, os.getuid()}
    for each in _way(path):
        try:
            found = os.stat(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise GpuctlError(f"{each}: {error.strerror}") from error
        _check(each, found, owners)
        if system and not found.st_mode & (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH):
            raise GpuctlError(
                f"{each} is closed to other users, who could not run gpuctl from it",
                hint="use the machine's own Python: /usr/bin/python3 -m venv, and in there pip install gpud",
            )


def check_tree(top: str, *, system: bool) -> None:
    """Raise GpuctlError if others can change anything below a directory, or on the way to it."""
    check_place(top, system=system)
    owners = {0} if system else {0, os.getuid()}
    for folder, below, names in os.walk(top):
        for name in (*below, *names):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            if not stat.S_ISLNK(found.st_mode):
                _check(path, found, owners)


def check_source(path: str) -> None:
    """Raise GpuctlError for a file that is to be copied and could be another's work than the caller's or root's."""
    owners = {0, os.getuid()}
    if os.getuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    _check(path, os.stat(path), owners)


def _way(path: str) -> Iterator[str]:
    """Yield a path without links, and every directory above it."""
    path = os.path.realpath(path)
    while True:
        yield path
        if path == "/":
            return
        path = os.path.dirname(path)


def _check(path: str, found: os.stat_result, owners: set[int]) -> None:
    if found.st_uid not in owners:
        raise GpuctlError(
            f"{path} belongs to {_user(found.st_uid)}, who could change what runs",
            hint="use a Python and an environment that belong to root: /usr/bin/python3 -m venv",
        )
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid != 0 and not _is_private(found.st_gid, owners)
    if found.st_mode & stat.S_IWOTH or by_group:
        raise GpuctlError(f"{path} can be changed by other users", hint=f"chmod go-w {path}")


def _is_private(gid: int, owners: set[int]) -> bool:
    """Return whether a group is one user's own, as most systems give everybody one."""
    try:
        group = grp.getgrgid(gid)
        return not group.gr_mem and any(pwd.getpwuid(uid).pw_name == group.gr_name for uid in owners)
    except KeyError:
        return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
