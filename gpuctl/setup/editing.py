"""Changing a line of the configuration file: comments and order stay, and nothing is written that gpud would not take.

A value may be typed as on a command line (12h, yes, ada,bob) or as in the file ("12h", true, ["ada", "bob"]); what
gpud itself accepts (`gpud --check`) is what is meant.
"""

import os
import signal
import time
import tomllib
from typing import Any

from gpuctl.errors import GpuctlError, NotPermittedError, UnreachableError
from gpuctl.session import Session
from gpuctl.setup import starting
from gpud.wire import address

_TAKES_S = 5.0
_FLAGS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def target(session: Session) -> tuple[str, int | None]:
    """Return the file to edit, and the pid of the gpud that reads it, None where none runs. Raises GpuctlError."""
    try:
        with session.connect(start=False) as client:
            status = client.request("status")
            if status["system"] and os.getuid() != 0:
                hint = "ask an administrator, or: sudo gpuctl config set ..."
                raise NotPermittedError("this is the machine's gpud", hint=hint)
            pid = starting.process_of(client, status)
    except UnreachableError:
        return address.user_config(), None
    if not status["system"]:
        read = status["config_file"]
        return address.user_config() if read in (None, address.SYSTEM_CONFIG) else read, pid
    return status["config_file"] or address.SYSTEM_CONFIG, pid


def change(path: str, key: str, text: str | None) -> bool:
    """Set a key of a file, or take it out (None); return whether that changed anything. Raises GpuctlError."""
    path = os.path.realpath(path)
    try:
        with open(path, encoding="utf-8") as file:
            before = file.read()
    except FileNotFoundError:
        before = ""
    except (OSError, UnicodeDecodeError) as error:
        raise GpuctlError(f"cannot read {path}: {error}") from error
    refused: list[GpuctlError] = []
    for value in [None] if text is None else _readings(text):
        after = _edited(path, before, key, value)
        if after == before:
            return False
        try:
            _replace(path, after)
        except GpuctlError as error:
            refused.append(error)
        else:
            return True
    raise refused[0]


def reloaded(session: Session, pid: int, key: str) -> dict[str, Any]:
    """Make gpud read its configuration again; return the setting once it has, or as it is after a while.

    What comes before every file (an option of gpud's, a variable) stays as it is, and is not waited for.
    """
    with session.connect(start=False) as client:
        before = client.request("config", key=key)["settings"][0]
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            raise GpuctlError(
                f"cannot make gpud (pid {pid}) read it: {error.strerror}", hint="gpuctl daemon reload"
            ) from error
        deadline = time.monotonic() + (0.0 if before["source"][:1] in ("-", "$") else _TAKES_S)
        while (now := client.request("config", key=key)["settings"][0]) == before and time.monotonic() < deadline:
            time.sleep(0.05)
    found: dict[str, Any] = now
    return found


def restart_words() -> str:
    """Return how one's gpud is started anew."""
    return "sudo systemctl restart gpud" if address.has_system_gpud() else "gpuctl daemon restart"


def _readings(text: str) -> list[str]:
    """Return what a word may mean in TOML, the likeliest first."""
    found = [_FLAGS[text.lower()]] if text.lower() in _FLAGS else []
    try:
        tomllib.loads(f"it = {text}")
    except ValueError:
        pass
    else:
        found.append(text)
    found.append(_quoted(text))
    found.append("[" + ", ".join(_quoted(word.strip()) for word in text.split(",") if word.strip()) + "]")
    numbers = [word.strip() for word in text.split(",")]
    if all(word.isascii() and word.isdigit() for word in numbers):
        found.append("[" + ", ".join(numbers) + "]")
    return found


def _quoted(text: str) -> str:
    if any(ord(char) < 32 for char in text):
        raise GpuctlError("the value holds control characters", hint="write it into the file yourself")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _edited(path: str, before: str, key: str, value: str | None) -> str:
    """Return the text with the key's line replaced, added, or taken out. Raises GpuctlError where that is no line."""
    lines = before.splitlines(keepends=True)
    top = next((at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    there = [at for at in range(top) if lines[at].partition("=")[0].strip() == key and "=" in lines[at]]
    if value is None:
        new = [line for at, line in enumerate(lines) if at not in there]
    elif there:
        new = [*lines[: there[0]], f"{key} = {value}{_comment(lines[there[0]])}\n", *lines[there[0] + 1 :]]
    else:
        while top and not lines[top - 1].strip():  # before the empty lines above a table
            top -= 1
        if top and not lines[top - 1].endswith("\n"):
            lines[top - 1] += "\n"
        new = [*lines[:top], f"{key} = {value}\n", *lines[top:]]
    after = "".join(new)
    try:
        old = tomllib.loads(before)
    except ValueError as error:
        raise GpuctlError(f"{path} is not TOML: {error}", hint="put that right in an editor") from error
    try:
        found = tomllib.loads(after)
    except ValueError:
        found = {}
    if {**old, key: None} != {**found, key: None} or (value is None) == (key in found):
        raise GpuctlError(
            f"{key} is more than a line of {path}", hint="change it in an editor, then: gpuctl daemon reload"
        )
    return after


def _comment(line: str) -> str:
    """Return the comment behind a value, "" without one."""
    for at, char in enumerate(line):
        if char == "#":
            try:
                tomllib.loads(line[:at])
            except ValueError:
                continue
            return f"  {line[at:].strip()}"
    return ""


def _replace(path: str, text: str) -> None:
    """Put a file in the place of another, once gpud would take it. Raises GpuctlError."""
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        try:
            starting.check(["--config", new])
        except GpuctlError as error:
            raise GpuctlError(error.message.replace(f"{new}: ", ""), hint=error.hint) from error
        os.replace(new, path)
    except OSError as error:
        raise GpuctlError(f"cannot write {path}: {error.strerror}", hint="is it yours to change?") from error
    finally:
        if os.path.lexists(new):
            os.unlink(new)
