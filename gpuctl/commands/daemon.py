"""One's own gpud: start it, stop it, see how it is. A service manager's gpud is left to the service manager."""

import os
import signal
import time
from typing import Any

import click

from gpuctl import session
from gpuctl.client import Client, socket_path
from gpuctl.commands.backup import backup
from gpuctl.commands.install import install, uninstall
from gpuctl.errors import GpuctlError, NotPermittedError, UnreachableError, UsageError
from gpuctl.following.follower import shown
from gpuctl.following.logs import Changes, Log
from gpuctl.parse import COUNT
from gpuctl.render.plain import reply
from gpuctl.session import Session, note
from gpuctl.setup import starting
from gpud.model.units import format_duration, format_size
from gpud.wire import address


@click.group()
def daemon() -> None:
    """Start, stop, restart, ask the daemon. Jobs run on without it."""


daemon.add_command(backup)
daemon.add_command(install)
daemon.add_command(uninstall)


@daemon.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[GPUD OPTIONS]...")
@session.options
@click.pass_obj
def start(session: Session, options: tuple[str, ...]) -> None:
    """Start your own gpud in the background; gpuctl does so by itself where it is needed.

    What gpud understands may follow: gpuctl daemon start --simulate 4xRTX4090
    """
    path = socket_path(session.socket)
    try:
        with Client(path) as client:
            pid = int(client.request("status")["pid"])
    except UnreachableError:
        pid, started = _start(session, path, list(options)), True
    else:
        started = False
        note(f"gpud runs already (pid {pid})")
        if options:
            raise GpuctlError("its options stay as they are", hint="gpuctl daemon stop, then start it anew")
    if session.json:
        session.print_json({"pid": pid, "socket": path, "started": started})


@daemon.command()
@session.options
@click.pass_obj
def stop(session: Session) -> None:
    """Stop your own gpud; jobs that run go on, and waiting ones wait until it is started again.

    Commands that only wait (wait, logs -f, watch) leave it stopped; whoever submits or looks anew starts it.
    """
    pid = _running(session)
    if pid is not None:
        starting.stop_daemon(pid)
    if session.json:
        session.print_json({"pid": pid, "stopped": pid is not None})
    else:
        note("gpud does not run" if pid is None else "gpud stopped; jobs that run go on")


@daemon.command()
@session.options
@click.pass_obj
def restart(session: Session) -> None:
    """Stop your own gpud and start it with the options it had; jobs that run go on.

    Its configuration is looked at first: with one that is wrong, the old gpud runs on.
    """
    path = socket_path(session.socket)
    before = _running(session)
    options: list[str] = []
    if before is not None:
        _expect_own(session, path)
        options = _options_of(before)
        starting.check(options)
        starting.stop_daemon(before)
    pid = _start(session, path, options)
    if session.json:
        session.print_json({"pid": pid, "socket": path, "stopped": before})


@daemon.command()
@session.options
@click.pass_obj
def status(session: Session) -> None:
    """Say whether gpud runs, and how it is; exit with 69 when it does not."""
    with session.connect(start=False) as client:
        answer = reply(client.request("status"))
    if session.json:
        session.print_json(answer)
        return
    launcher = answer["launcher"]
    unfenced = None if launcher["fence_set"] == "off" else launcher["unfenced"]
    facts = [
        ("version", f"{answer['version']}, protocol {answer['protocol'][0]} to {answer['protocol'][-1]}"),
        ("pid", f"{answer['pid']}, up {format_duration(time.time() - answer['started_at'])}"),
        ("memory", format_size(answer["memory_mib"])),
        ("serves", "every user of the machine" if answer["system"] else "its own user"),
        ("GPUs", f"simulated: {answer['simulated']}" if answer["simulated"] else answer["driver"] or answer["problem"]),
        ("policy", answer["policy"] + ("" if answer["paused"] is None else " (paused)")),
        ("storage", answer.get("storage")),
        ("socket", answer["socket"]),
        ("state", answer["state_dir"]),
        ("config", answer["config_file"] or "none"),
        ("launcher", f"pid {launcher['pid']}"),
        ("fence", launcher["fence"] or ("none" if unfenced is None else f"none: {unfenced}")),
        ("limits", ", ".join(launcher["cgroup"] or ())),
    ]
    click.echo("\n".join(f"{name:<9} {value}" for name, value in facts if value))


@daemon.command()
@session.options
@click.pass_obj
def reload(session: Session) -> None:
    """Make gpud read its configuration again; a wrong one is told, and changes nothing."""
    pid = _running(session)
    if pid is None:
        raise UnreachableError("gpud does not run", hint="gpuctl daemon start")
    try:
        starting.check(_options_of(pid), environ=_environ_of(pid), directory=os.readlink(f"/proc/{pid}/cwd"))
        os.kill(pid, signal.SIGHUP)
    except PermissionError as error:
        raise NotPermittedError(f"gpud (pid {pid}) is another user's") from error
    if session.json:
        session.print_json({"pid": pid, "reloaded": True})
    else:
        note("gpud reads its configuration again; what it has to say: gpuctl daemon logs")


@daemon.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what it says from now.")
@click.option("-n", "--lines", type=COUNT, default=50, show_default=True, help="Only the last N lines.")
@session.options
@click.pass_obj
def logs(session: Session, follow: bool, lines: int) -> None:
    """Print what your own gpud said."""
    if session.json and follow:
        raise UsageError("with --json it is one document, which -f would never end", hint="leave out one of the two")
    log = Log(starting.log_path(address.state_dir()))
    if not log.there:
        raise GpuctlError(f"there is no {log.path}", hint="a service's is in its journal: journalctl [--user] -u gpud")
    log.start_at_last(lines)
    if session.json:
        session.print_json({"output": log.path, "lines": log.lines()})
        return
    changes = Changes([log.path], reader=1)
    shown(log)
    try:
        while follow:
            changes.wait()
            shown(log)
    finally:
        changes.close()


def _start(session: Session, path: str, options: list[str]) -> int:
    """Start one's own gpud on a socket; return its pid, or that of another that was faster."""
    _expect_own(session, path)
    if session.socket is not None:
        options = [*options, "--socket", path]
    pid = starting.start_daemon(path, options)
    note("gpud was being started already" if pid is None else f"gpud started (pid {pid})")
    if pid is None:
        with Client(path) as client:
            pid = int(client.request("status")["pid"])
    return pid


def _expect_own(session: Session, path: str) -> None:
    """Raise GpuctlError for a gpud that is not started from here."""
    if session.socket is None and not starting.is_own(path):
        raise GpuctlError(f"the gpud on {path} is not yours to start", hint="sudo systemctl start gpud")


def _running(session: Session) -> int | None:
    """Return the pid of the gpud that answers; None where none does. Raises GpuctlError where it is a service."""
    try:
        with session.connect(start=False) as client:
            answer: dict[str, Any] = client.request("status")
            pid = starting.process_of(client, answer)
    except UnreachableError:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            groups = file.read()
    except OSError:
        groups = ""
    if "gpud.service" in groups:
        command = "sudo systemctl" if answer["system"] else "systemctl --user"
        hint = f"{command} restart|reload gpud, or stop gpud.socket"
        raise GpuctlError("this gpud is a service of systemd", hint=hint)
    return pid


def _environ_of(pid: int) -> dict[str, str]:
    """Return the environment that a gpud was started with."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        pairs = [os.fsdecode(word).partition("=") for word in file.read().split(b"\0") if word]
    return {key: value for key, _, value in pairs}


def _options_of(pid: int) -> list[str]:
    """Return the options that a gpud was started with: `python -m gpud ...` or `.../gpud ...`."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    at = next((at for at, word in enumerate(words) if os.path.basename(word) in {"gpud", "__main__.py"}), len(words))
    return words[at + 1 :]
