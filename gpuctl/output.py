"""Standard output that says what is wrong with it: a full disk is one line to a person, not a traceback.

A descriptor that the caller closed (`>&-`, some crons) is filled first, or the next file opened, gpud's socket, would
be given its number, and would get what is printed.
"""

import io
import os
import sys

from gpuctl.errors import OutputError, ReaderLeftError


class _Descriptor(io.FileIO):
    """Standard output's descriptor."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]  # what the buffer hands on
        """Write some of the data; return how much. Raises OutputError."""
        return write(self.fileno(), data)


def write(descriptor: int, data: "bytes | bytearray | memoryview") -> int:
    """Write some of the data to a descriptor of ours; return how much. Raises OutputError."""
    try:
        return os.write(descriptor, data)
    except BrokenPipeError as error:
        raise ReaderLeftError(error.strerror or str(error)) from error
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def prepare() -> None:
    """Make stdout and stderr fit for what jobs are named, and for what becomes of them."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # writing to 1 fails, and says so
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, which this is
    encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(1, "w", closefd=False)),
        encoding=encoding,
        errors="backslashreplace",  # a job may have any name, and a terminal any encoding
        line_buffering=os.isatty(1),
    )
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text wrapper


def discard() -> None:
    """Lose what is not written yet, and all that follows: nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
