"""What a job of `Client.map` or of an executor runs: `python calls.py FOLDER [NUMBER]`, one call of a function.

The folder is the caller's (`calling`): the call lies there, pickled, and gets its result, which is whole or
not there. This file is run by itself, so that a job needs of gpuctl nothing but it: it imports the standard library.
"""

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

FUNCTION = "function"
PATH = "path"


def call_name(number: int) -> str:
    """Return the file of a call."""
    return f"{number}.call"


def result_name(number: int) -> str:
    """Return the file of a call's result."""
    return f"{number}.result"


def main(folder: str, number: int) -> int:
    """Make a call, and keep what it returned or raised; return the exit status, 1 where it raised."""
    result = os.path.join(folder, result_name(number))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(result)  # an earlier attempt's
    try:
        function, args, kwargs = _loaded(folder, number)
        value = function(*args, **kwargs)
        outcome: tuple[str, bytes | None, str] = ("value", _pickler().dumps(value), "")
    except Exception as error:  # noqa: BLE001 - whatever a function raises is its caller's
        text = traceback.format_exc()
        sys.stderr.write(text)
        outcome = ("error", _pickled_error(error), text)
    write(result, pickle.dumps(outcome))
    return int(outcome[0] == "error")


def write(path: str, data: bytes) -> None:
    """Write a file, for its user alone, that is there whole or not at all."""
    part = f"{path}.{os.getpid()}"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.replace(part, path)


def _loaded(folder: str, number: int) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function, and what to call it with."""
    sys.path[:] = _read(folder, PATH)  # where the caller's modules are
    call = _read(folder, call_name(number))
    if len(call) == 3:
        function, args, kwargs = call
        return function, args, kwargs
    args, kwargs = call
    return _read(folder, FUNCTION), args, kwargs


def _read(folder: str, name: str) -> Any:
    with open(os.path.join(folder, name), "rb") as file:
        return pickle.load(file)  # noqa: S301 - the user's own


def _pickler() -> ModuleType:
    """Return cloudpickle where it is installed, else pickle."""
    try:
        import cloudpickle  # noqa: PLC0415 - an extra
    except ImportError:
        return pickle
    return cloudpickle  # type: ignore[no-any-return]  # it ships no types


def _pickled_error(error: Exception) -> bytes | None:
    """Return an exception that comes out as it went in; None for one that does not."""
    try:
        pickled: bytes = _pickler().dumps(error)
        pickle.loads(pickled)  # noqa: S301 - our own; an exception with a signature of its own fails only here
    except Exception:  # noqa: BLE001 - whatever its class does
        return None
    return pickled


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else os.environ["GPUD_ARRAY_INDEX"])))
