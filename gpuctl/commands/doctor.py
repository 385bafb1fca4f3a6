"""What gpud needs of this machine, checked one by one, each with what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click

from gpuctl import session
from gpuctl.checks import logins, machine, running, storage
from gpuctl.checks.finding import Finding, Patient
from gpuctl.client import Client, socket_path
from gpuctl.errors import GpuctlError
from gpuctl.render.plain import reply
from gpuctl.render.text import clean, styled
from gpuctl.session import Session
from gpud.wire import address

_COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}
_CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    machine.python,
    machine.binding,
    machine.driver,
    machine.clock,
    storage.state,
    storage.permissions,
    storage.disk,
    storage.stale,
    running.configuration,
    running.daemon,
    running.units,
    running.namesakes,
    logins.logout,
    machine.cgroup,
)


@click.command()
@session.options
@click.pass_obj
def doctor(session: Session) -> int:
    """Check this machine for what gpud needs; exit with 1 when something keeps it from working."""
    patient = _patient(session)
    findings = [finding for check in _CHECKS for finding in check(patient)]
    if session.json:
        session.print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{styled(f'{finding.result:<7}', _COLORS[finding.result])}  {_line(finding)}")
            if finding.hint and finding.result != "ok":
                click.echo(f"         hint: {finding.hint}")
    return int(any(finding.result == "problem" for finding in findings))


def _line(finding: Finding) -> str:
    return clean(f"{finding.check}: {finding.message}")


def _patient(session: Session) -> Patient:
    """Return whose gpud is to be looked at: the one that would be spoken to."""
    status = _status(session)
    if status is not None:
        return Patient(session, status, status["state_dir"], status["system"])
    try:
        system = socket_path(session.socket) == address.SYSTEM_SOCKET
        state = address.SYSTEM_STATE if system else address.state_dir()
    except (GpuctlError, address.AddressError):
        return Patient(session, None, None, system=False)
    return Patient(session, None, state, system)


def _status(session: Session) -> dict[str, Any] | None:
    try:
        with Client(socket_path(session.socket), told=running.give_up) as client:
            return reply(client.request("status"))
    except GpuctlError:
        return None
