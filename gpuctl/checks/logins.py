"""What becomes of one's jobs when one logs out: that is for systemd's logind to say."""

import os
from collections.abc import Iterator
from glob import glob

from gpuctl.checks.finding import Finding, Patient
from gpuctl.setup import installing

_FOLDERS = ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd")
_TRUE = frozenset({"1", "yes", "y", "true", "t", "on"})


def logout(patient: Patient) -> Iterator[Finding]:
    """Look at what ends, and what is removed, when a user's last session ends."""
    if not os.path.isdir("/run/systemd/seats"):
        yield Finding("ok", "logout", "no logind here that would end anything")
        return
    said = _settings()
    stays = not patient.system and installing.lingers()
    if not patient.system:
        yield from _linger(stays, kills=said.get("KillUserProcesses", "no") in _TRUE)
    if said.get("RemoveIPC", "yes") in _TRUE and not stays:
        hint = "RemoveIPC=no in /etc/systemd/logind.conf, then: systemctl restart systemd-logind"
        message = "on: when a user logs out, a running job loses its files in /dev/shm"
        yield Finding("warning", "RemoveIPC", message, hint)
    else:
        yield Finding("ok", "RemoveIPC", "a job keeps its files in /dev/shm when its user logs out")


def _linger(stays: bool, *, kills: bool) -> Iterator[Finding]:
    unit = os.path.exists(f"{installing.place(system=False).units}/gpud.service")
    if stays:
        yield Finding("ok", "linger", "your services go on when you log out")
    elif unit:
        yield Finding("warning", "linger", "gpud and its jobs end with your last session", "loginctl enable-linger")
    elif kills:
        hint = "gpuctl daemon install --user, and loginctl enable-linger"
        yield Finding("warning", "KillUserProcesses", "logind ends all that you started when you log out", hint)
    else:
        yield Finding("ok", "KillUserProcesses", "off: what you started goes on when you log out")


def _settings() -> dict[str, str]:
    """Return what logind.conf says (logind.conf(5)): the main file, then drop-ins by their names."""
    main = next((path for folder in reversed(_FOLDERS) if os.path.exists(path := f"{folder}/logind.conf")), None)
    drop_ins: dict[str, str] = {}
    for folder in _FOLDERS:
        drop_ins |= {os.path.basename(path): path for path in glob(f"{folder}/logind.conf.d/*.conf")}
    said: dict[str, str] = {}
    for path in (*([main] if main else []), *(drop_ins[name] for name in sorted(drop_ins))):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                pairs = [line.partition("=") for line in file if "=" in line and line.lstrip()[:1] not in {"#", ";"}]
        except OSError:
            continue
        said |= {key.strip(): value.strip().lower() for key, _, value in pairs}
    return said
