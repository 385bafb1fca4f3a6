"""`watch` over several hosts: one screen, drawn anew when one of them tells of a change; each is asked in a thread.

A host that goes away is a line that says so, and is tried again. Arrows and Tab choose a host, whose jobs alone are
shown; Enter watches it as `gpuctl -H HOST watch` does. Before a host is chosen Enter chooses the first.
"""

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from gpuctl.client import Client
from gpuctl.dashboard.terminal import Terminal
from gpuctl.errors import GpuctlError

Answer = dict[str, Any] | GpuctlError
Answers = list[tuple[str, Answer]]
Draw = Callable[[Answers, int, str | None], list[str]]

_FRAME_S = 0.5
_RETRY_S = 5.0


class Gathered:
    """What each host says, as it comes."""

    def __init__(self, hosts: Sequence[str], ask: Callable[[Client], dict[str, Any]]) -> None:
        self._hosts = hosts
        self._ask = ask
        self.news: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self.known: dict[int, Answer] = {}
        self.chosen: int | None = None
        self._begun = False
        self.wake, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> None:
        """Ask every host, and go on for as long as the program lives."""
        if self._begun:
            return
        self._begun = True
        for at in range(len(self._hosts)):
            threading.Thread(target=self._follow, args=(at,), daemon=True).start()

    def choose(self, key: str) -> None:
        """Choose another host: the next or the one before, and beyond the last all of them again."""
        step = {"down": 1, "j": 1, "tab": 1, "up": -1, "k": -1, "backtab": -1}.get(key)
        if step is not None:
            many = len(self._hosts) + 1
            at = (many - 1 if self.chosen is None else self.chosen) + step
            self.chosen = None if at % many == many - 1 else at % many
        elif key == "esc":
            self.chosen = None

    def _follow(self, at: int) -> None:
        while True:
            try:
                with Client(self._hosts[at]) as client:
                    client.request("subscribe", readings=True)
                    while True:
                        self._tell(at, self._ask(client))
                        time.sleep(_FRAME_S)  # however much happens there
                        client.pushed(wait=True)
            except GpuctlError as error:
                self._tell(at, error)
            time.sleep(_RETRY_S)

    def _tell(self, at: int, answer: Answer) -> None:
        self.news.put((at, answer))
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")


def lines(gathered: Gathered, show: Callable[[int, Answer], None]) -> None:
    """Show every answer as it comes, until the reader goes."""
    gathered.begin()
    while True:
        show(*gathered.news.get())


def screen(gathered: Gathered, names: Sequence[str], draw: Draw) -> int | None:
    """Draw what is known until the person leaves, with q (None), or wants to watch one host."""
    known = gathered.known
    with Terminal() as terminal:
        gathered.begin()
        size = terminal.size
        while not terminal.hung_up:
            while not gathered.news.empty():
                at, answer = gathered.news.get()
                known[at] = answer
            if size != terminal.size:
                size = terminal.size
                terminal.forget()
            answers = [(name, known[at]) for at, name in enumerate(names) if at in known]
            asked = ", ".join(name for at, name in enumerate(names) if at not in known)
            chosen = None if gathered.chosen is None else names[gathered.chosen]
            keys = "Up and Down choose a host" if chosen is None else f"Enter watches {chosen}, Esc shows all"
            foot = f"asking {asked}; {keys}, q leaves" if asked else f"{keys}, q leaves"
            drawn = draw(answers, size[1] - 1, chosen) if answers else []
            # Erased before it is written: behind a line that fills the row its last character would go.
            terminal.draw([f"\x1b[K{line}" for line in [*drawn[: size[1] - 1], foot]])
            ready = select.select([gathered.wake, *terminal.readable], [], [])[0]
            if gathered.wake in ready:
                os.read(gathered.wake, 4096)
            terminal.attend()
            for key in terminal.pressed():
                if key in ("q", "Q"):
                    return None
                if key == "enter" and gathered.chosen is not None:
                    return gathered.chosen
                gathered.choose("down" if key == "enter" else key)
    return None
