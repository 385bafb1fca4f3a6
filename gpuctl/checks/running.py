"""gpud as it runs: its settings, whether it answers, its units, and who else bears its name."""

import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

from gpuctl.checks.finding import Finding, Patient
from gpuctl.client import Client, socket_path
from gpuctl.errors import GpuctlError, UnreachableError
from gpuctl.setup import installing, starting
from gpud import __version__
from gpud.wire import address

_OURS = ("gpud.__main__", "gpud-launcher")  # in the script, and in the units


def configuration(patient: Patient) -> Iterator[Finding]:
    """Have gpud itself look at what it would start on: one's own that gpuctl would start, for root the machine's."""
    try:
        if patient.system and os.getuid() == 0:
            notes = starting.check(["--system"])
        elif starting.is_own(socket_path(patient.session.socket)):
            notes = starting.check()
        else:
            return
    except GpuctlError as error:
        yield Finding("problem", "configuration", f"gpud cannot start: {error.message}", error.hint)
    except address.AddressError:
        return  # said of the state directory
    else:
        for note in notes:
            yield Finding("warning", "configuration", note, "write the variable as it is meant, or unset it")
        if not notes:
            yield Finding("ok", "configuration", "gpud can start with it, and with the database that is there")


def daemon(patient: Patient) -> Iterator[Finding]:
    """Ask gpud who it is, on the socket that commands would take."""
    try:
        path = socket_path(patient.session.socket)
        with Client(path, told=give_up) as client:
            status = client.request("status")
        where = f"pid {status['pid']} on {path}, version {status['version']}"
        if status["version"] == __version__:
            yield Finding("ok", "gpud", where)
        else:
            yield Finding("warning", "gpud", f"{where}; this gpuctl is {__version__}", "gpuctl daemon restart")
    except UnreachableError as error:
        if patient.state is not None and starting.is_own(path):
            yield Finding("ok", "gpud", "does not run; the first gpuctl submit starts it, if nothing above keeps it")
        elif path == address.SYSTEM_SOCKET:
            hint = "sudo systemctl start gpud; what keeps it: sudo gpuctl doctor, sudo journalctl -u gpud"
            yield Finding("problem", "gpud", error.message, hint)
        else:
            yield Finding("problem", "gpud", error.message, f"start it: gpuctl --socket {path} daemon start")
    except GpuctlError as error:
        yield Finding("problem", "gpud", error.message, error.hint)


def give_up(silent: str) -> NoReturn:
    """Wait no longer for a gpud that keeps silent. Raises GpuctlError."""
    raise GpuctlError(silent, hint="its log: gpuctl daemon logs; jobs that run do not need it")


def units(patient: Patient) -> Iterator[Finding]:
    """Compare the units that are installed with those that belong to this gpuctl."""
    there = installing.place(system=patient.system)
    found = {name: _text(f"{there.units}/{name}") for name in installing.UNITS}
    if not any(found.values()):
        yield Finding("ok", "units", "none; gpuctl starts gpud where it is needed, not with the machine")
        return
    how = f"gpuctl daemon install --{'system' if patient.system else 'user'}"
    missing = [name for name, text in found.items() if text is None]
    other = [name for name, text in found.items() if text is not None and text != installing.unit(there, name)]
    if missing:
        yield Finding("warning", "units", f"in {there.units}, without {', '.join(missing)}", how)
    elif other:
        yield Finding("warning", "units", f"in {there.units}; not this version's: {', '.join(other)}", how)
    else:
        yield Finding("ok", "units", f"in {there.units}, this version's")


def namesakes(_: Patient) -> Iterator[Finding]:
    """Look for other programs that are called gpud: there are some."""
    program = shutil.which("gpud")
    text = _text(program) if program else None
    if program and (text is None or _OURS[0] not in text):
        hint = "gpuctl never runs it; say gpud's full path where you start it yourself"
        yield Finding("warning", "name", f"{program} is another program that is called gpud", hint)
    unit = _text("/etc/systemd/system/gpud.service") or _text("/lib/systemd/system/gpud.service")
    if unit is not None and _OURS[1] not in unit:
        hint = (
            "gpuctl takes it for this machine's gpud and starts none of your own; GPUD_STATE_DIR names a place for one"
        )
        yield Finding("warning", "name", "gpud.service is another program's unit", hint)


def _text(path: str) -> str | None:
    """Return the beginning of a file; None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None
