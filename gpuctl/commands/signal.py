"""Send a signal to every process of running jobs."""

import signal
from typing import Any

import click

from gpuctl.commands.change import change, select, selection
from gpuctl.parse import Parsed, jobs_argument
from gpuctl.session import Session


def parse_signal(text: str) -> int:
    """Return the number of a signal: `USR1`, `SIGUSR1`, `10`. Raises ValueError."""
    if text.isascii() and text.isdigit() and len(text) < 3:
        number = int(text)
    else:
        name = f"SIG{text.upper().removeprefix('SIG')}"
        number = int(signal.Signals[name]) if name in signal.Signals.__members__ else 0
    if not 0 < number < 32:
        raise ValueError(f"{text!r} is no signal; write USR1, TERM, STOP, CONT ... or a number up to 31")
    return number


@click.command("signal")
@jobs_argument()
@click.argument("number", type=Parsed("SIGNAL", parse_signal), metavar="SIGNAL")
@selection
@click.pass_obj
def signal_(session: Session, /, jobs: tuple[str, ...], number: int, **filters: Any) -> None:
    """Send a signal, by name or number, to every process of running jobs, once: gpuctl signal 12 USR1.

    STOP pauses a job, which keeps its GPUs, and CONT lets it go on. To kill one: gpuctl cancel --force.
    """
    which = select(jobs, **filters)
    change(session, "signal", f"sent {signal.Signals(number).name} to", which, must=True, signal=number)
