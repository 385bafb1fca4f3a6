"""The machine itself: Python, the driver, the clock, and what keeps jobs apart."""

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from gpuctl.checks.finding import Finding, Patient
from gpud import __version__

_ASK_NVML = (
    "import pynvml as n; n.nvmlInit(); v = n.nvmlSystemGetDriverVersion(); "
    "print(v.decode() if isinstance(v, bytes) else v, n.nvmlDeviceGetCount())"
)
_BORN = 1_760_000_000.0  # no clock that is right shows an earlier time


def python(_: Patient) -> Iterator[Finding]:
    """Say which Python this is; complain of a kernel that is too old."""
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable}), gpud {__version__}")
    release = platform.release()
    if sys.platform != "linux" or tuple(int(part) for part in release.split(".")[:2] if part.isdigit()) < (5, 4):
        yield Finding("problem", "kernel", f"{platform.system()} {release}", "gpud needs Linux 5.4 or newer")


def binding(_: Patient) -> Iterator[Finding]:
    """Look for the package that took the name of NVIDIA's own binding."""
    try:
        version = metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        yield Finding("problem", "nvidia-ml-py", "not installed", "pip install nvidia-ml-py")
        return
    try:
        shadow = metadata.version("pynvml")
    except metadata.PackageNotFoundError:
        yield Finding("ok", "nvidia-ml-py", version)
    else:
        hint = "pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py"
        yield Finding("warning", "nvidia-ml-py", f"the deprecated package pynvml {shadow} stands beside it", hint)


def driver(patient: Patient) -> Iterator[Finding]:
    """Ask gpud where it runs: it may know another library. Else ask NVML, in a process that may hang or crash."""
    status = patient.status
    if status is not None:
        if status["simulated"]:
            yield Finding("ok", "GPUs", f"simulated by gpud: {status['simulated']}")
        elif status["problem"]:
            yield Finding("warning", "GPUs", status["problem"], "CPU jobs (-g 0) run; GPU jobs wait until it is there")
        else:
            counts = status["gpus"]
            said = f"{sum(counts.values())} seen by gpud, driver {status['driver']}"
            ill = ", ".join(
                f"{counts[state]} {state}" for state in ("lost", "unhealthy", "unknown") if counts.get(state)
            )
            if ill:
                yield Finding("warning", "GPUs", f"{said}: {ill}", "see why: gpuctl gpus --health")
            else:
                yield Finding("ok", "GPUs", said)
        return
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_NVML], capture_output=True, text=True, timeout=15, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding(
            "problem", "GPUs", "the driver does not answer within 15 s", "look for Xid errors: dmesg | grep -i nvrm"
        )
        return
    if asked.returncode == 0:
        driver, count = asked.stdout.split()
        yield Finding("ok", "GPUs", f"{count} seen, driver {driver}")
    else:
        said = (asked.stderr.strip().splitlines() or ["no answer"])[-1].rpartition(": ")[2]
        hint = "CPU jobs (-g 0) run; to try the rest: gpuctl demo"
        yield Finding("warning", "GPUs", f"no NVIDIA driver: {said}", hint)


def cgroup(patient: Patient) -> Iterator[Finding]:
    """Say what surrounds jobs: gpud's launcher process knows what it may do."""
    status = patient.status
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
    daemons = "cron, systemd-run or a container daemon starts for its user"
    if launcher["fence"] == "devices" and launcher["unfenced"]:
        hint = 'set fence = "auto" to start jobs all the same'
        yield Finding("problem", "fence", f"set, and cannot be had: {launcher['unfenced']}; no job starts", hint)
    elif launcher["fence"] is not None and launcher.get("nodes_unknown"):
        which, auto = ", ".join(map(str, launcher["nodes_unknown"])), launcher["fence_set"] == "auto"
        then = "they may open each other's GPUs" if auto else "they do not start"
        hint = "a newer driver tells it" if auto else 'set fence = "auto" to start them all the same'
        said = f"not for jobs on GPU {which}, whose device node the driver does not tell; {then}"
        yield Finding("warning" if auto else "problem", "fence", said, hint)
    elif launcher["fence"] is not None:
        yield Finding("ok", "fence", f"{launcher['fence']}: a job opens no GPU but its own; not what ssh, {daemons}")
    elif system and launcher["fence_set"] == "auto" and launcher["unfenced"]:
        hint = "gpud-jobs.service with Delegate=yes, on a machine with cgroups of version 2, has what it takes"
        yield Finding("warning", "fence", f"none: {launcher['unfenced']}; jobs may open each other's GPUs", hint)
    else:
        yield Finding("ok", "fence", "none: CUDA_VISIBLE_DEVICES alone keeps jobs from each other's GPUs")
    if launcher["login_fence"]:
        problem = launcher["logins"]
        told = f"not in force: {problem}" if problem else f"what users start opens no GPU; not what {daemons}"
        yield Finding(
            "warning" if problem else "ok",
            "login fence",
            told,
            "see login_fence: gpuctl config login_fence, docs/sharing.md",
        )


def clock(_: Patient) -> Iterator[Finding]:
    """Look at the time of day: deadlines do not depend on it, but begin times, reservations and people do."""
    if time.time() < _BORN:
        yield Finding("problem", "clock", f"it is not {time.strftime('%Y-%m-%d')}", "timedatectl set-ntp true")
        return
    try:
        words = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
        asked = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        asked = ""
    if asked == "no":
        hint = "timedatectl set-ntp true; begin times and reservations go by it"
        yield Finding("warning", "clock", "it is not synchronised with others", hint)
    else:
        yield Finding(
            "ok", "clock", "synchronised" if asked == "yes" else "set; nothing says whether it is synchronised"
        )
