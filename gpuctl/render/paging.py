"""Long answers go through a pager, as git's do: on a terminal alone, and only where they are longer than that.

$GPUD_PAGER, or $PAGER, or `less`; empty, or `cat`, is none. `less` is told (in $LESS, where that is not set) to leave
what fits on the screen, to keep colours, and to go without a trace.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import click

from gpuctl.render.text import terminal_height


def page(lines: Sequence[str], *, wanted: bool = True) -> None:
    """Print lines; through the pager where they are too many for the terminal, and it is `wanted`."""
    pager = _pager() if wanted and sys.stdout.isatty() and len(lines) >= terminal_height() else ""
    if not pager or not _paged(pager, lines):
        click.echo("\n".join(lines))


def _pager() -> str:
    """Return the pager's command line; "" for none."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return ""
    said = os.environ.get("GPUD_PAGER", os.environ.get("PAGER", "less")).strip()
    return "" if said == "cat" else said


def _paged(pager: str, lines: Sequence[str]) -> bool:
    """Return whether the pager was there to show the lines; who leaves it early has seen enough."""
    context = click.get_current_context(silent=True)
    text = "\n".join(lines) + "\n"
    if context is not None and context.color is False:
        text = click.unstyle(text)
    sys.stdout.flush()
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    try:
        shell = subprocess.Popen(  # a pager is a command line, as every program takes it from there
            ["/bin/sh", "-c", pager], env=environment, stdin=subprocess.PIPE, text=True, errors="backslashreplace"
        )
    except OSError:
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's, as long as it is there
    try:
        shell.communicate(text)
    finally:
        signal.signal(signal.SIGINT, before)
    return shell.returncode not in (126, 127)
