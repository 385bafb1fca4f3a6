"""GPUs and queue, live, on a terminal of one's own; for programs, an object per change."""

import os
import sys

import click

from gpuctl import session
from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import UsageError
from gpuctl.following.waiting import await_back
from gpuctl.overview import look
from gpuctl.session import Session

_MOST = 100


@click.command()
@session.options
@click.pass_obj
def watch(session: Session) -> None:
    """Show GPUs and queue live; ? tells the keys, q leaves. With --json: one object per change."""
    if not session.json:
        refuse_no_screen()
    with session.connect() as client:
        try:
            if session.json:
                _print(session, client)
            else:
                from gpuctl.dashboard import loop  # noqa: PLC0415 - programs need no screen

                loop.watch(client)
        except KeyboardInterrupt:
            return


def refuse_no_screen() -> None:
    """Raise UsageError where there is no terminal, or one that cannot be drawn on."""
    if not sys.stdout.isatty():
        raise UsageError("watch draws on a terminal", hint="for programs: gpuctl watch --json, gpuctl events -f --json")
    if os.environ.get("TERM", "dumb") in ("dumb", ""):
        hint = "gpuctl status and gpuctl list print lines; gpuctl events -f goes on. Or name the terminal: TERM=xterm"
        raise UsageError("watch cannot draw on this terminal (TERM=dumb)", hint=hint)


def _print(session: Session, client: Client) -> None:
    """Print a JSON object for every change, until the reader goes."""
    while True:
        try:
            client.request("subscribe", readings=True)
            while True:
                session.print_json(look(client, most=_MOST))
                client.pushed(wait=True)
        except ConnectionLostError as lost:
            await_back(client, lost)
