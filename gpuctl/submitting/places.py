"""Where a job is to run, as it looks from here: what submit finds out about a directory before it sends anything."""

import os

from gpuctl.errors import UsageError


def here() -> str:
    """Return the current directory under the name that the shell has for it: links and mounts keep theirs."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samestat(os.stat(named), os.stat(".")):
            return named
    except OSError:
        pass
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError("the current directory is gone", hint="cd to another, or use -C DIR") from error


def repository(directory: str) -> str | None:
    """Return the top directory of the repository that this one is in; None where there is none."""
    there = os.path.lexists
    while directory != "/":
        if there(f"{directory}/.git"):
            return directory
        directory = directory.rpartition("/")[0] or "/"
    return None


def mount_of(directory: str) -> str | None:
    """Return where the file system is mounted that a directory is in, or would be; None for the root's.

    In front of it stands the number of the mount namespace that it is seen in: others, as a container's, have others.
    """
    place = os.path.realpath(directory)
    try:
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        while place != "/" and os.stat(os.path.dirname(place)).st_dev == device:
            place = os.path.dirname(place)
        return None if place == "/" else f"{os.stat('/proc/self/ns/mnt').st_ino} {place}"
    except OSError:
        return None
