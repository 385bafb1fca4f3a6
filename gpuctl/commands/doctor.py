"""What gpud needs of this machine, checked one by one, each with what to do about it."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import click

from gpuctl import session, starting
from gpuctl.client import Client, socket_path
from gpuctl.errors import GpuctlError, UnreachableError
from gpuctl.render.plain import reply
from gpuctl.render.text import clean, styled
from gpuctl.session import Session
from gpud import __version__
from gpud.wire import address

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
_ASK_NVML = (
    "import pynvml as n; n.nvmlInit(); v = n.nvmlSystemGetDriverVersion(); "
    "print(v.decode() if isinstance(v, bytes) else v, n.nvmlDeviceGetCount())"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `result` is `ok`, `warn` (something will be missing) or `fail` (gpud cannot work)."""

    result: str
    check: str
    message: str
    hint: str | None = None


@click.command()
@session.options
@click.pass_obj
def doctor(session: Session) -> int:
    """Check this machine for what gpud needs; exit with 1 when something keeps it from working."""
    findings = [finding for check in _CHECKS for finding in check(session)]
    if session.json:
        session.print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{styled(f'{finding.result:<4}', _COLORS[finding.result])}  {_line(finding)}")
            if finding.hint and finding.result != "ok":
                click.echo(f"      hint: {finding.hint}")
    return int(any(finding.result == "fail" for finding in findings))


def _line(finding: Finding) -> str:
    return clean(f"{finding.check}: {finding.message}")


def _python(_: Session) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable}), gpud {__version__}")
    release = platform.release()
    if sys.platform != "linux" or tuple(int(part) for part in release.split(".")[:2] if part.isdigit()) < (5, 4):
        yield Finding("fail", "kernel", f"{platform.system()} {release}", "gpud needs Linux 5.4 or newer")


def _binding(_: Session) -> Iterator[Finding]:
    """Look for the package that took the name of NVIDIA's own binding."""
    try:
        version = metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        yield Finding("fail", "nvidia-ml-py", "not installed", "pip install nvidia-ml-py")
        return
    try:
        shadow = metadata.version("pynvml")
    except metadata.PackageNotFoundError:
        yield Finding("ok", "nvidia-ml-py", version)
    else:
        hint = "pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py"
        yield Finding("warn", "nvidia-ml-py", f"the deprecated package pynvml {shadow} stands beside it", hint)


def _driver(session: Session) -> Iterator[Finding]:
    """Ask gpud where it runs: it may know another library. Else ask NVML, in a process that may hang or crash."""
    status = _status(session)
    if status is not None:
        if status["simulated"]:
            yield Finding("ok", "GPUs", f"simulated by gpud: {status['simulated']}")
        elif status["problem"]:
            yield Finding("warn", "GPUs", status["problem"], "CPU jobs (-g 0) run; GPU jobs wait until it is there")
        else:
            count = sum(status["gpus"].values())
            yield Finding("ok", "GPUs", f"{count} seen by gpud, driver {status['driver']}")
        return
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_NVML], capture_output=True, text=True, timeout=15, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding(
            "fail", "GPUs", "the driver does not answer within 15 s", "look for Xid errors: dmesg | grep -i nvrm"
        )
        return
    if asked.returncode == 0:
        driver, count = asked.stdout.split()
        yield Finding("ok", "GPUs", f"{count} seen, driver {driver}")
    else:
        said = (asked.stderr.strip().splitlines() or ["no answer"])[-1].rpartition(": ")[2]
        hint = "CPU jobs (-g 0) run; to try the rest: gpuctl demo"
        yield Finding("warn", "GPUs", f"no NVIDIA driver: {said}", hint)


def _state(_: Session) -> Iterator[Finding]:
    try:
        state = address.state_dir()
    except address.AddressError as error:
        yield Finding("fail", "state", str(error), error.hint)
        return
    there = state
    while not os.path.exists(there):
        there = os.path.dirname(there)
    network = address.network_type(state)
    if network:
        hint = "set GPUD_STATE_DIR to a directory on a local disk"
        yield Finding("fail", "state", f"{state} is on a network file system ({network})", hint)
    elif not _writable(there):
        yield Finding("fail", "state", f"{there} is not writable", "set GPUD_STATE_DIR to a directory of yours")
    else:
        space = os.statvfs(there)
        free_mib = space.f_bavail * space.f_frsize >> 20
        result = "warn" if free_mib < 256 else "ok"
        yield Finding(result, "state", f"{state}, {free_mib} MiB free", "logs and the queue need room")


def _writable(folder: str) -> bool:
    """Return whether a file can be made there; only trying tells, for root too."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _configuration(session: Session) -> Iterator[Finding]:
    """Have gpud itself look at what it would start on, where it is one's own that gpuctl would start."""
    try:
        if session.socket is not None or not starting.is_own(socket_path(None)):
            return
        starting.check()
    except GpuctlError as error:
        yield Finding("fail", "configuration", f"gpud cannot start: {error.message}", error.hint)
    except address.AddressError:
        return  # said of the state directory
    else:
        yield Finding("ok", "configuration", "gpud can start with it, and with the database that is there")


def _daemon(session: Session) -> Iterator[Finding]:
    try:
        path = socket_path(session.socket)
        with Client(path) as client:
            status = client.request("status")
        where = f"pid {status['pid']} on {path}, version {status['version']}"
        if status["version"] == __version__:
            yield Finding("ok", "gpud", where)
        else:
            yield Finding("warn", "gpud", f"{where}; this gpuctl is {__version__}", "gpuctl daemon restart")
    except UnreachableError as error:
        if address.has_system_gpud() or session.socket is not None:
            yield Finding("fail", "gpud", error.message, "sudo systemctl start gpud")
        else:
            yield Finding("ok", "gpud", "does not run; the first gpuctl submit starts it")
    except GpuctlError as error:
        yield Finding("fail", "gpud", error.message, error.hint)


def _cgroup(session: Session) -> Iterator[Finding]:
    """Say what surrounds jobs: gpud's launcher process knows what it may do."""
    status = _status(session)
    launcher = {} if status is None else status["launcher"]
    if "cgroup" not in launcher:
        return  # no gpud, or an older one
    limits = launcher["cgroup"]
    if limits is None:
        yield Finding("ok", "cgroup", "none for jobs: memory is counted, not limited; they end by their process tree")
    else:
        what = f"limits: {', '.join(limits)}" if limits else "no limits: no controller is handed down"
        yield Finding("ok", "cgroup", f"each job has its own; {what}")
    yield from _fence(launcher, system=status is not None and status["system"])


def _fence(launcher: dict[str, Any], *, system: bool) -> Iterator[Finding]:
    """Say what keeps jobs, and logins, from GPUs that are not theirs, and what does not."""
    out = "not what ssh, cron, systemd-run or a container daemon starts for its user"
    if launcher["fence"] == "devices" and launcher["unfenced"]:
        hint = 'set fence = "auto" to start jobs all the same'
        yield Finding("fail", "fence", f"set, and cannot be had: {launcher['unfenced']}; no job starts", hint)
    elif launcher["fence"] is not None:
        yield Finding("ok", "fence", f"{launcher['fence']}: a job opens no GPU but its own; {out}")
    elif system and launcher["fence_set"] == "auto" and launcher["unfenced"]:
        hint = "gpud-launcher.service with Delegate=yes, on a machine with cgroups of version 2, has what it takes"
        yield Finding("warn", "fence", f"none: {launcher['unfenced']}; jobs may open each other's GPUs", hint)
    else:
        yield Finding("ok", "fence", "none: CUDA_VISIBLE_DEVICES alone keeps jobs from each other's GPUs")
    if launcher["login_fence"]:
        problem = launcher["logins"]
        told = f"not in force: {problem}" if problem else f"what users start by themselves opens no GPU; {out}"
        yield Finding("warn" if problem else "ok", "login fence", told, "see login_fence in the README")


def _service(_: Session) -> Iterator[Finding]:
    home = os.path.expanduser("~/.config/systemd/user/gpud.service")
    units = [path for path in ("/etc/systemd/system/gpud.service", home) if os.path.exists(path)]
    if not units:
        yield Finding("ok", "service", "no systemd unit; gpuctl starts gpud where it is needed, not at boot")
    for path in units:
        lingers = path != home or os.path.exists(f"/var/lib/systemd/linger/{os.environ.get('USER', '')}")
        hint = "its jobs end when you log out; loginctl enable-linger"
        yield Finding("ok" if lingers else "warn", "service", path, hint)


def _status(session: Session) -> dict[str, Any] | None:
    try:
        with session.connect(start=False) as client:
            return reply(client.request("status"))
    except GpuctlError:
        return None


_CHECKS: tuple[Callable[[Session], Iterator[Finding]], ...] = (
    _python,
    _binding,
    _driver,
    _state,
    _configuration,
    _daemon,
    _cgroup,
    _service,
)
