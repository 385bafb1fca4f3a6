"""GPUs and queue, live: drawn anew when gpud says that something changed, at most twice a second.

Fixed-width lines, not Rich's tables: those cost 14 times as much a frame.
"""

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

import click
from rich.live import Live
from rich.text import Text

from gpuctl import session
from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import UsageError
from gpuctl.overview import look, unshown
from gpuctl.render import gpus as render_gpus
from gpuctl.render import jobs as render_jobs
from gpuctl.render.text import clock, cut, plural
from gpuctl.session import Session
from gpuctl.waiting import await_back, away

_MOST = 100
_FRAME_S = 0.5
_RETRY_S = 0.1
_TICK_S = 1.0  # times that run on are not told by anybody


@click.command()
@session.options
@click.pass_obj
def watch(session: Session) -> None:
    """Show GPUs and queue live; leave with q or Ctrl-C. With --json: one object per change."""
    if not session.json and not sys.stdout.isatty():
        raise UsageError("watch draws on a terminal", hint="for programs: gpuctl watch --json, gpuctl events -f --json")
    with session.connect() as client:
        try:
            if session.json:
                _print(session, client)
            else:
                with _keys(), Live(screen=True, auto_refresh=False) as live:
                    _draw(live, client)
        except KeyboardInterrupt:
            return


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Have keys arrive as they are pressed, and unseen."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def frame(seen: dict[str, Any], *, width: int, height: int) -> str:
    """Return a frame, with colours as ANSI sequences: GPUs, then as many jobs as there is room for."""
    status, gpus = seen["status"], seen["gpus"]
    simulated = f"simulates {status['simulated']}" if status["simulated"] else ""
    paused = "PAUSED" if status["paused"] is not None else ""
    heading = "  ".join(filter(None, ("gpud", clock(time.time()), paused, simulated, status["problem"])))
    room = max(4, height // 2)
    lines = [cut(heading, width), ""]
    lines += render_gpus.rows(gpus[:room], width=width) if gpus else ["no GPUs"]
    if len(gpus) > room:
        lines.append(f"... {render_gpus.summary(gpus)}")
    lines += ["", *_jobs(seen, width, height - len(lines) - 1)]
    return "\n".join(lines[:height])


def _jobs(seen: dict[str, Any], width: int, room: int) -> list[str]:
    jobs = seen["jobs"][: max(1, room - 2)]
    if not jobs:
        return ["no jobs"]
    more = unshown(seen, len(jobs))
    return [*render_jobs.rows(jobs, width=width), *([f"... {plural(more, 'job')} more"] if more else [])]


def _draw(live: Live, client: Client) -> None:
    while True:
        try:
            client.request("subscribe", readings=True)
            while True:
                size = shutil.get_terminal_size()
                live.update(Text.from_ansi(frame(look(client, most=_MOST), width=size.columns, height=size.lines - 1)))
                live.refresh()
                _until_changed(client)
        except ConnectionLostError as lost:
            live.update(Text(away(client, lost)))
            live.refresh()
            client.come_back(_pause)


def _pause() -> None:
    """Wait a moment for gpud to come back. Raises KeyboardInterrupt for a `q`."""
    ready, _, _ = select.select([sys.stdin] if sys.stdin.isatty() else [], [], [], _RETRY_S)
    if ready and _quits():
        raise KeyboardInterrupt


def _quits() -> bool:
    return os.read(sys.stdin.fileno(), 64).lower().startswith(b"q")


def _until_changed(client: Client) -> None:
    """Return when something was pushed, or it is time for clocks to move on; not before the next frame is due.

    Raises KeyboardInterrupt for a `q`.
    """
    keys = [sys.stdin] if sys.stdin.isatty() else []
    due = time.monotonic() + _FRAME_S
    while (left := due - time.monotonic()) > 0 or not client.has_pushed():
        watched = keys if left > 0 else [*keys, client]
        ready, _, _ = select.select(watched, [], [], left if left > 0 else _TICK_S - _FRAME_S)
        if sys.stdin in ready and _quits():
            raise KeyboardInterrupt
        if left <= 0 and sys.stdin not in ready:
            break
    client.pushed(wait=False)


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
