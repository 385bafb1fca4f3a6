"""The loop of `watch`: wakes for a key, a signal, word from gpud, a line of the log, or when a time shown moves on.

What gpud tells is drawn at most twice a second, a log five times, what a key does at once. While nothing changes
nothing is asked, written or drawn, but for the clocks of jobs that have not ended: those move on once a second.
"""

import contextlib
import io
import os
import select
import sys
import time

from gpuctl.client import Client, ConnectionLostError
from gpuctl.dashboard.board import Ask, Board
from gpuctl.dashboard.frame import frame
from gpuctl.dashboard.gauges import ASCII, BLOCKS
from gpuctl.dashboard.gpus import Canvas
from gpuctl.dashboard.paint import ansi, in_ascii
from gpuctl.dashboard.source import Source
from gpuctl.dashboard.tail import Tail, tail
from gpuctl.dashboard.terminal import Terminal
from gpuctl.errors import RefusedError
from gpuctl.following.logs import Changes
from gpuctl.following.waiting import away

_FRAME_S = 0.5
_LOG_S = 0.2
_TICK_S = 1.0
_CLOCK_S = 60.0
_RETRY_S = 0.2


class _LeftError(Exception):
    """The person has seen enough."""


def watch(client: Client) -> None:
    """Show GPUs and queue until the person leaves. Raises UnreachableError where one's own gpud cannot start again."""
    with contextlib.redirect_stderr(io.StringIO()) as said, Terminal() as terminal:
        try:
            _Loop(client, terminal, said).run()
        except _LeftError:
            return


class _Loop:
    def __init__(self, client: Client, terminal: Terminal, said: io.StringIO) -> None:
        self._client = client
        self._terminal = terminal
        self._said = said
        self._source = Source(client)
        self._board = Board(self._source.seen, os.getuid())
        mono = os.environ.get("TERM", "").startswith(("vt1", "vt2", "vt3")) or "-mono" in os.environ.get("TERM", "")
        self._color = not mono and not os.environ.get("NO_COLOR")
        encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
        # The console of Linux knows UTF-8, and has no parts of blocks in its font.
        self._ascii = encoding != "utf8" or os.environ.get("TERM") == "linux"
        self._looked_at = self._drawn_at = 0.0
        self._size = terminal.size
        self._changes: tuple[tuple[str, ...], int, Changes] | None = None

    def run(self) -> None:
        """Go on until `_LeftError`."""
        try:
            while True:
                try:
                    self._source.begin()
                    while True:
                        self._look()
                        self._draw()
                        self._wait()
                except ConnectionLostError:
                    self._source.seen.away = away(self._client, ConnectionLostError("gpud went away"))
                    self._close_changes()
                    self._draw()
                    self._client.come_back(self._while_away)
        finally:
            self._close_changes()

    def _look(self) -> None:
        """Ask for what has changed, not too often; at once where the person wants to see something else."""
        source, query = self._source, self._board.query()
        if source.due(query) and (query != source.asked or time.monotonic() >= self._looked_at + _FRAME_S):
            self._looked_at = time.monotonic()
            source.look(query, time.time())
        self._follow()

    def _follow(self) -> None:
        """Read the end of the log that is looked at; one that was scrolled back stands still."""
        path = self._log_path()
        if path is None:
            self._source.seen.log = Tail()
        elif not self._board.up:
            answer = self._source.seen.answer
            owner = None if answer is None else answer["job"]["uid"]
            self._source.seen.log = tail(path, self._source.seen.log, owner=owner)

    def _log_path(self) -> str | None:
        answer = self._source.seen.answer
        path = answer["job"]["output"] if self._board.job is not None and answer is not None else None
        return str(path) if path is not None else None

    def _draw(self) -> None:
        if self._board.afresh or self._size != self._terminal.size:
            self._board.afresh, self._size = False, self._terminal.size
            self._terminal.forget()
        self._drawn_at = time.monotonic()
        columns, lines = self._size
        canvas = Canvas(columns, time.time(), ASCII if self._ascii else BLOCKS)
        drawn = frame(self._board, canvas, lines)
        if self._ascii:
            drawn = [in_ascii(line) for line in drawn]
        self._terminal.draw([ansi(line, columns, color=self._color) for line in drawn])

    def _wait(self) -> None:
        """Return when there may be something new to draw, having done what keys say. Raises ConnectionLostError."""
        source, client, now = self._source, self._client, time.monotonic()
        if source.due(self._board.query()) or client.has_pushed():  # more of the same changes nothing
            ready = _heard(self._terminal.readable, self._looked_at + _FRAME_S - now)
        elif self._log_path() is not None and now < self._drawn_at + _LOG_S:  # however fast a job writes
            ready = _heard([client.fileno(), *self._terminal.readable], self._drawn_at + _LOG_S - now)
        else:
            ready = self._changed().wait(self._next_tick_s())
        if client.fileno() in ready or client.has_pushed():
            source.take()
        self._attend(ready)

    def _next_tick_s(self) -> float:
        """Return when a time that is shown moves on by itself."""
        seen, now = self._source.seen, time.time()
        if seen.active or seen.waiting or (self._board.job is not None):
            return _TICK_S
        return _CLOCK_S - now % _CLOCK_S

    def _attend(self, ready: frozenset[int]) -> None:
        """Do what signals and keys ask for. Raises _LeftError, ConnectionLostError."""
        if self._terminal.wake in ready:
            self._terminal.attend()
        for key in self._terminal.pressed():
            ask = self._board.press(key)
            if ask is not None:
                self._do(ask)
            if self._board.over:
                raise _LeftError
        if self._terminal.hung_up:
            raise _LeftError

    def _do(self, ask: Ask) -> None:
        board = self._board
        if self._source.seen.away:
            board.message = "gpud is away: nothing was done"
            return
        try:
            reply = self._client.request(ask.op, select={"jobs": list(ask.jobs)}, **ask.more)
        except RefusedError as refused:
            board.message = "; ".join(filter(None, (refused.message, refused.hint)))
            return
        self._source.changed, self._looked_at = True, 0.0  # what one did is seen at once
        changed, notes = reply["changed"], reply["notes"]
        words = [f"{ask.done} {' '.join(changed[:8])}{' ...' if len(changed) > 8 else ''}"] if changed else []
        board.message = "; ".join([*words, *(f"job {job} {note}" for job, note in list(notes.items())[:3])])
        board.marked.clear()

    def _while_away(self) -> None:
        """Keep the screen usable between two tries to reach gpud."""
        changes = Changes((), self._terminal.readable)
        try:
            self._attend(changes.wait(_RETRY_S))
        finally:
            changes.close()
        self._board.message = self._said.getvalue().strip().rpartition("\n")[2] or self._board.message
        self._draw()

    def _changed(self) -> Changes:
        """Return what wakes for word from gpud, keys, signals, and the log that is followed."""
        path = self._log_path() if not self._board.up else None
        paths = (path,) if path is not None else ()
        if self._changes is None or self._changes[:2] != (paths, self._client.fileno()):
            self._close_changes()
            also = [self._client.fileno(), *self._terminal.readable]
            self._changes = (paths, self._client.fileno(), Changes(paths, also))
        return self._changes[2]

    def _close_changes(self) -> None:
        if self._changes is not None:
            self._changes[2].close()
            self._changes = None


def _heard(descriptors: list[int], within_s: float) -> frozenset[int]:
    """Return which of these became readable within a time."""
    return frozenset(select.select(descriptors, [], [], max(0.0, within_s))[0])
