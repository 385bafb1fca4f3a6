"""gpud as a service of systemd: the steps that install it, upgrade it and take it away again, each told before done.

Installing twice is upgrading: what is there is replaced, gpud is started anew, jobs run on, and clients wait at the
socket meanwhile. The units are the files of `systemd/`; only where one's state is elsewhere a line of them differs.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from glob import escape as glob_escape, glob

import click

from gpuctl.client import Client
from gpuctl.errors import GpuctlError, NotPermittedError, UnreachableError
from gpuctl.render import completion, man, verbs
from gpuctl.setup import copying, ownership, starting
from gpud import __version__
from gpud.wire import address

UNITS = ("gpud.socket", "gpud.service", "gpud-launcher.service", "gpud-jobs.service")
_ENABLED = UNITS[:2]  # the others come with them
_PLACE = UNITS[3]  # which refuses to be stopped
_LINKED = ("gpud", "gpuctl")
_TEMPLATES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "systemd")
_USER_SOCKET = "%h/.local/state/gpud/%m/gpud.sock"
_LEAVE_LOGINS = "from gpud.launchers import cgroup, fence; fence.fence_logins(cgroup.mounted() or '', on=False)"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: what it is in words, and how it is done."""

    says: str
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service's files go; `sysusers` only for the whole machine."""

    system: bool
    prefix: str
    units: str
    links: str
    bash: str
    zsh: str
    fish: str
    man: str
    sysusers: str | None


def place(*, system: bool) -> Place:
    """Return where things go: for everybody on the machine, or for oneself."""
    if system:
        share = "/usr/local/share"
        return Place(
            system=True,
            prefix="/opt/gpud",
            units="/etc/systemd/system",
            links="/usr/local/bin",
            bash=f"{share}/bash-completion/completions/gpuctl",
            zsh=f"{share}/zsh/site-functions/_gpuctl",
            fish=f"{share}/fish/vendor_completions.d/gpuctl.fish",
            man="/usr/local/share/man/man1",
            sysusers="/etc/sysusers.d/gpud.conf",
        )
    home = os.path.expanduser("~")
    share = f"{home}/.local/share"
    return Place(
        system=False,
        prefix=f"{share}/gpud",
        units=f"{home}/.config/systemd/user",
        links=f"{home}/.local/bin",
        bash=f"{share}/bash-completion/completions/gpuctl",
        zsh=f"{share}/zsh/site-functions/_gpuctl",
        fish=f"{share}/fish/vendor_completions.d/gpuctl.fish",
        man=f"{share}/man/man1",
        sysusers=None,
    )


def check(there: Place) -> None:
    """Raise GpuctlError for what keeps a service from being installed there; nothing is changed."""
    for path in copying.code_places(there.prefix):
        ownership.check_place(path, system=there.system)
    if os.path.lexists(there.prefix) and not os.path.exists(f"{there.prefix}/pyvenv.cfg"):
        raise GpuctlError(f"{there.prefix} is there already, and is no environment of gpud's", hint="move it away")
    other = f"{there.units}/gpud.service"
    said = _content(other) if os.path.exists(other) else ""  # empty, too, where power went
    if said and "gpud-launcher" not in said:
        raise GpuctlError(f"{other} is another program's", hint="there are others that are called gpud; move it away")
    if there.system:
        return
    if address.has_system_gpud():
        raise GpuctlError(
            "this machine has a gpud for everybody", hint="use that one; it is an administrator's to change"
        )
    if len(os.fsencode(_socket(there))) > address.ADDRESS_MAX:
        raise GpuctlError(
            f"systemd cannot listen on {_socket(there)}: the path is too long",
            hint="gpuctl starts your own gpud by itself, without a service; or name a short state_dir in config.toml",
        )


def check_may_change(there: Place) -> None:
    """Raise GpuctlError if this process cannot change services there."""
    if there.system and os.getuid() != 0:
        raise NotPermittedError("only root may change the machine's services", hint="sudo $(command -v gpuctl) ...")
    if not os.path.isdir("/run/systemd/system"):
        raise GpuctlError("there is no systemd here", hint="gpuctl starts your own gpud by itself where it is needed")
    if not there.system and not os.environ.get("XDG_RUNTIME_DIR"):
        raise GpuctlError(
            "your systemd cannot be reached from here: XDG_RUNTIME_DIR is not set",
            hint="log in as yourself (ssh, not su or sudo), and try again",
        )


def install(there: Place, shells: click.Command) -> list[Step]:
    """Return the steps of installing, or upgrading; `shells` is the command whose completions are written."""
    write = partial(_step_write)
    tree = verbs.tree(shells)
    steps = [Step(f"make {there.prefix} of what runs now, with {copying.base_python()}", lambda: _build(there))]
    steps += [write(f"{there.units}/{name}", unit(there, name)) for name in UNITS]
    if there.sysusers is not None:
        steps.append(write(there.sysusers, _template("sysusers.d/gpud.conf")))
        steps.append(Step("run systemd-sysusers", lambda: _run("systemd-sysusers", there.sysusers or "")))
    steps += [
        write(there.bash, completion.bash(tree)),
        write(there.zsh, completion.zsh(tree)),
        write(there.fish, completion.fish(tree)),
        Step(f"write the manual pages to {there.man}", lambda: _write_manual(there, shells)),
    ]
    steps += [_step_link(f"{there.links}/{name}", f"{there.prefix}/bin/{name}") for name in _LINKED]
    systemctl = partial(_systemctl, there)
    words = " ".join(_systemctl_words(there))
    steps.append(Step(f"run {words} daemon-reload", lambda: systemctl("daemon-reload")))
    steps.append(Step(f"run {words} enable {' '.join(_ENABLED)}", lambda: systemctl("enable", *_ENABLED)))
    steps.append(Step("start gpud and its launcher, anew where they run; jobs run on", lambda: _start(there)))
    return steps


def uninstall(there: Place) -> list[Step]:
    """Return the steps that take away what `install` made, as far as it is there. The queue and the logs stay."""
    words = " ".join(_systemctl_words(there))
    steps = []
    installed = [name for name in UNITS if os.path.exists(f"{there.units}/{name}")]
    if installed:
        systemctl = partial(_systemctl, there)
        disabled = [name for name in installed if name in _ENABLED]
        steps.append(Step(f"run {words} disable {' '.join(disabled)}", lambda: systemctl("disable", *disabled)))
        stopped = [name for name in installed if name != _PLACE]
        steps.append(Step(f"run {words} stop {' '.join(stopped)}", lambda: systemctl("stop", *stopped)))
        keeper = ("kill", "--kill-who=main", _PLACE)
        steps.append(
            Step(f"run {words} {' '.join(keeper)}", lambda: _run(*_systemctl_words(there), *keeper, check=False))
        )
    python = f"{there.prefix}/bin/python"
    if there.system and os.path.exists(python):
        leave = partial(_run, python, "-I", "-c", _LEAVE_LOGINS, check=False)
        steps.append(Step("let logins open GPUs again, where login_fence kept them off", leave))
    files = [f"{there.units}/{name}" for name in UNITS]
    files += [_socket(there)] if installed else []  # systemd leaves it; whoever finds it asks it
    files += [there.bash, there.zsh, there.fish, *([there.sysusers] if there.sysusers else [])]
    files += [link for name in _LINKED if _points_into(link := f"{there.links}/{name}", there.prefix)]
    steps += [Step(f"remove {path}", partial(os.unlink, path)) for path in files if os.path.lexists(path)]
    pages = glob(f"{glob_escape(there.man)}/gpuctl*.1")
    if pages:
        steps.append(Step(f"remove the manual pages from {there.man}", partial(_unlink, pages)))
    if os.path.exists(f"{there.prefix}/pyvenv.cfg"):
        steps.append(Step(f"remove {there.prefix}", partial(shutil.rmtree, there.prefix)))
    if installed:
        steps.append(Step(f"run {words} daemon-reload", lambda: systemctl("daemon-reload")))
    if there.system and os.path.exists(address.SYSTEM_CONFIG):
        says = f"leave {address.SYSTEM_CONFIG}: while it is there, gpuctl starts nobody a gpud of their own"
        steps.append(Step(says, lambda: None))
    return steps


def unit(there: Place, name: str) -> str:
    """Return a unit as it is installed."""
    if there.system:
        return _template(name)
    text = _template(f"user/{name}")
    path = _socket(there)
    usual = os.path.join(os.path.expanduser("~/.local/state/gpud"), address.machine_id(), "gpud.sock")
    return text if path == usual else text.replace(_USER_SOCKET, path.replace("%", "%%"))


def lingers() -> bool:
    """Return whether one's services go on after the last logout."""
    import pwd  # noqa: PLC0415 - for one's name alone

    return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.getuid()).pw_name}")


def _build(there: Place) -> None:
    os.makedirs(os.path.dirname(there.prefix), exist_ok=True)
    copying.build(there.prefix)
    ownership.check_tree(there.prefix, system=there.system)


def _socket(there: Place) -> str:
    return address.SYSTEM_SOCKET if there.system else os.path.join(address.state_dir(), "gpud.sock")


def _template(name: str) -> str:
    return _content(os.path.join(_TEMPLATES, name))


def _content(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _step_write(path: str, text: str) -> Step:
    return Step(f"write {path}", partial(_write, path, text))


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    os.replace(f"{path}.new", path)


def _write_manual(there: Place, command: click.Command) -> None:
    pages = man.pages(command, __version__) if isinstance(command, click.Group) else {}
    for name, text in pages.items():
        _write(f"{there.man}/{name}", text)


def _unlink(paths: list[str]) -> None:
    for path in paths:
        os.unlink(path)


def _step_link(path: str, target: str) -> Step:
    if os.path.lexists(path) and not _points_into(path, os.path.dirname(os.path.dirname(target))):
        return Step(f"leave {path} as it is: it is not gpud's to replace", lambda: None)
    return Step(f"link {path} to {target}", partial(_link, path, target))


def _link(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(target, f"{path}.new")
    os.replace(f"{path}.new", path)


def _points_into(path: str, prefix: str) -> bool:
    return os.path.islink(path) and os.readlink(path).startswith(f"{prefix}/")


def _start(there: Place) -> None:
    """Start the services. Where the socket is systemd's already, whoever asks meanwhile waits at it."""
    os.sync()  # units that a power cut left empty are masked to systemd
    if _run(*_systemctl_words(there), "is-active", "--quiet", "gpud.socket", check=False):
        _stop_what_runs(there)
        _systemctl(there, "start", "gpud.socket")
    _systemctl(there, "restart", "gpud-launcher.service", "gpud.service")


def _stop_what_runs(there: Place) -> None:
    """Stop a gpud of before: systemd takes no socket for a service that runs already, nor gpud another's state."""
    _run(*_systemctl_words(there), "stop", "gpud.service", check=False)
    if there.system:
        return
    try:
        with Client(_socket(there)) as client:
            pid = int(client.request("status")["pid"])
    except UnreachableError:
        return
    starting.stop_daemon(pid)


def _systemctl_words(there: Place) -> tuple[str, ...]:
    return ("systemctl",) if there.system else ("systemctl", "--user")


def _systemctl(there: Place, *words: str) -> None:
    _run(*_systemctl_words(there), *words)


def _run(*words: str, check: bool = True) -> int:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise GpuctlError(f"cannot run {words[0]}: {error.strerror}") from error
    if check and done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise GpuctlError(f"{' '.join(words)}: {said}", hint="what gpud said: journalctl [--user] -u gpud")
    return done.returncode
