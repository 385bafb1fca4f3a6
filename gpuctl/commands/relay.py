"""The far end of `gpuctl -H`: gpud's socket on stdin and stdout."""

import os
import threading

import click

from gpuctl import session
from gpuctl.session import Session

_CHUNK = 1 << 18


@click.command()
@session.options
@click.pass_obj
def relay(session: Session) -> None:
    """Join stdin and stdout to gpud's socket: what ssh runs on the machine that `gpuctl -H` names."""
    with session.connect() as client:
        threading.Thread(target=_answers, args=(client.fileno(),), daemon=True).start()
        _copied(0, client.fileno())


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
