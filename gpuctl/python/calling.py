"""Functions that are called in jobs: how they get there, and what comes back.

A folder in the user's own state directory, for them alone, holds the calls and then their results; `calls`, beside
this, is what reads and writes it in the jobs. Functions are pickled by cloudpickle, the extra `gpud[python]`, or by
pickle where the job can import them.
"""

import contextlib
import io
import os
import pickle
import shutil
import sys
import time
from types import FunctionType
from typing import Any

from gpuctl.errors import GpuctlError, JobError
from gpuctl.python import calls
from gpuctl.python.told import failure
from gpud.wire import address

_FORGOTTEN_AFTER_S = 30 * 86_400.0  # of folders that nobody came back for


class RemoteTraceback(Exception):  # noqa: N818 - named as what the standard library's executors raise from
    """Where, in its job, an exception was raised: the cause of that exception here."""

    def __init__(self, job: str, text: str) -> None:
        super().__init__(f"\nin job {job}:\n{text}")


class Calls:
    """A folder of calls, until `remove`. Raises GpuctlError for what cannot be pickled."""

    def __init__(self) -> None:
        above = os.path.join(address.state_dir(), "calls")
        os.makedirs(above, mode=0o700, exist_ok=True)
        _forget_old(above)
        self.folder = os.path.join(above, f"{time.time_ns():x}-{os.getpid()}")
        os.mkdir(self.folder, 0o700)
        calls.write(os.path.join(self.folder, calls.PATH), pickle.dumps([path or os.getcwd() for path in sys.path]))

    def command(self, number: int | None = None) -> list[str]:
        """Return what a job runs to make a call; without a number, an array's element makes that of its index."""
        # -P: the modules beside the file are not to hide the program's own.
        words = [sys.executable or "python3", "-P", calls.__file__, self.folder]
        return words if number is None else [*words, str(number)]

    def function(self, fn: object) -> None:
        """Keep the function of all calls that have none of their own."""
        calls.write(os.path.join(self.folder, calls.FUNCTION), pickled(fn))

    def add(self, number: int, call: tuple[Any, ...]) -> None:
        """Keep a call: (function, args, kwargs), or (args, kwargs)."""
        calls.write(os.path.join(self.folder, calls.call_name(number)), pickled(call))

    def outcome(self, number: int, row: dict[str, Any]) -> tuple[Any, Exception | None]:
        """Return what a call returned, or what it raised, once its job has ended as `row` says."""
        try:
            with open(os.path.join(self.folder, calls.result_name(number)), "rb") as file:
                kind, payload, text = pickle.load(file)  # noqa: S301 - written by the user's own job
        except OSError:
            return None, _lost(row)
        if row["state"] not in ("completed", "failed"):  # what it left is an earlier attempt's
            return None, failure(row)
        if payload is None:
            last = text.strip().rpartition("\n")[2]
            error: Exception = JobError(f"job {row['id']} raised {last}", job=row["id"], log=row["output"])
        else:
            try:
                found = pickle.loads(payload)  # noqa: S301 - as above
            except Exception as problem:  # noqa: BLE001 - whatever the result's class does
                kind, found = (
                    "error",
                    JobError(
                        f"what job {row['id']} returned cannot be read: {problem}", job=row["id"], log=row["output"]
                    ),
                )
            if kind == "value":
                return found, None
            error = found
        if text:
            error.__cause__ = RemoteTraceback(row["id"], text)
        return None, error

    def forget(self, number: int) -> None:
        """Remove a call and its result."""
        for name in (calls.call_name(number), calls.result_name(number)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, name))

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def pickled(value: object) -> bytes:
    """Return a function, or what it is called with, as a job reads it. Raises GpuctlError where that cannot be."""
    try:
        import cloudpickle  # noqa: PLC0415 - an extra
    except ImportError:
        pass
    else:
        try:
            made: bytes = cloudpickle.dumps(value)
        except Exception as error:
            raise GpuctlError(f"this cannot be sent to a job: {error}") from error
        return made
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise GpuctlError(
            f"this cannot be sent to a job without cloudpickle: {error}",
            hint="pip install 'gpud[python]'; or put the function into a module that the job can import",
        ) from error
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Refuses what only this program can import: it is another one's `__main__` that a job would look into."""

    def reducer_override(self, value: Any) -> Any:
        """Return how a value is pickled: as ever. Raises PicklingError."""
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            raise pickle.PicklingError(f"{value.__qualname__} is defined in the program itself")
        return NotImplemented


def _lost(row: dict[str, Any]) -> JobError:
    """Return the error of a call that neither returned nor raised."""
    if row["state"] != "completed":
        return failure(row)
    return JobError(
        f"job {row['id']} left without a result: something in it called exit", job=row["id"], log=row["output"]
    )


def _forget_old(above: str) -> None:
    """Remove the folders of programs that went without looking at their results."""
    oldest = time.time() - _FORGOTTEN_AFTER_S
    with os.scandir(above) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    shutil.rmtree(entry.path, ignore_errors=True)
