"""The far end of `gpuctl -H`: gpud's socket on stdin and stdout."""

import os
import threading
import time

import click

from gpuctl import session
from gpuctl.client import RESTARTS_WITHIN_S, Client
from gpuctl.errors import UnreachableError
from gpuctl.session import Session

_CHUNK = 1 << 18


@click.command()
@click.option("--again", is_flag=True, help="A connection was lost: leave it to whoever restarts gpud to do so first.")
@session.options
@click.pass_obj
def relay(session: Session, again: bool) -> None:
    """Join stdin and stdout to gpud's socket: what ssh runs on the machine that `gpuctl -H` names."""
    with _connected(session, again) as client:
        threading.Thread(target=_answers, args=(client.fileno(),), daemon=True).start()
        _copied(0, client.fileno())


def _connected(session: Session, again: bool) -> Client:
    end = time.monotonic() + RESTARTS_WITHIN_S
    while again and time.monotonic() < end:
        try:
            return session.connect(start=False)
        except UnreachableError:
            time.sleep(0.1)
    return session.connect()


def _answers(gpud: int) -> None:
    """Hand on what gpud says; the relay is over where it stops."""
    _copied(gpud, 1)
    os._exit(0)


def _copied(source: int, target: int) -> None:
    """Copy until the end of one of the two."""
    try:
        while data := os.read(source, _CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    except OSError:  # the other side has gone
        return
