"""The end of a log, as it is now: however long the file is, whatever was done to it, only its end is read."""

import os
import re
import stat
from dataclasses import dataclass

from gpuctl.following.logs import being

_MOST = 256 << 10  # bytes: some thousands of lines, decoded in a millisecond
# Colours, cursor movements and titles that programs write for a terminal of their own.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines of a file, as a terminal would show them; or `problem`, why there are none.

    `mark` is another when the file is another.
    """

    lines: tuple[str, ...] = ()
    problem: str | None = None
    mark: tuple[int, ...] = ()


def tail(path: str, before: Tail | None = None, *, owner: int | None = None) -> Tail:
    """Return the end of a file; `before` where that is still how it is. `owner`: of the job that it is the log of."""
    try:
        with being(owner):
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Tail(problem="log, not there yet")
    except OSError as error:
        return Tail(problem=f"log, cannot be read: {error.strerror}")
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # to read a FIFO would take it from its reader
            return Tail(problem="log, no regular file")
        mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if before is not None and before.mark == mark:
            return before
        begin = max(0, status.st_size - _MOST)
        data = os.pread(file, _MOST, begin)
    except OSError as error:
        return Tail(problem=f"log, cannot be read: {error.strerror}")
    finally:
        os.close(file)
    return Tail(lines=tuple(_lines(data, whole=begin == 0)), mark=mark, problem=None if data else "log, empty as yet")


def _lines(data: bytes, *, whole: bool) -> list[str]:
    lines = data.decode(errors="backslashreplace").split("\n")
    if not lines[-1]:
        lines.pop()
    if not whole and len(lines) > 1:  # of the first one only the end is there
        del lines[0]
    return [_as_shown(line) for line in lines]


def _as_shown(line: str) -> str:
    """Return what a terminal shows of a line in the end: progress bars write one over the other."""
    if "\x1b" in line:
        line = _ESCAPES.sub("", line)
    if "\r" in line:
        line = line.rstrip("\r").rpartition("\r")[2]
    return line.expandtabs() if "\t" in line else line
