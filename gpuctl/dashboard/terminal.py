"""A whole terminal for one program: entered, drawn on without flicker, and left as it was however the program ends.

Lines that are on the screen already are not sent again, and what is sent is shown at once by terminals that know
synchronized updates (mode 2026; others ignore it). Signals only wake the loop up, which then attends to them: an
exception amid a conversation would leave half a reply unread. Those that end the program end it where it is.
"""

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import NoReturn, Self

from gpuctl.dashboard.keys import Keys

# Alternate screen, cursor hidden, no wrapping at the right edge, pastes marked as such; and back.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?2004h\x1b[H\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_ESCAPE_WITHIN_S = 0.05  # how long the rest of an escape sequence may take: a lone Escape is a key, too
_FALLBACK = (80, 24)


class Terminal:
    """stdin and stdout as a screen. `hung_up` says that nobody has the terminal any more."""

    def __init__(self) -> None:
        self._out = 1
        self._has_keys = sys.stdin.isatty()
        self._keys = Keys()
        self._shown: list[str] = []
        self._stop_wanted = self._renew = self.hung_up = False
        self._modes: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> Self:
        if self._has_keys:
            self._modes = termios.tcgetattr(0)
        self.wake, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
        for number in (signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP):
            self._before[number] = signal.signal(number, self._told)
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for number, handled in self._before.items():
            signal.signal(number, handled)
        signal.set_wakeup_fd(self._woken_before)
        os.close(self.wake)
        os.close(self._write)

    @property
    def readable(self) -> list[int]:
        """Return what becomes readable when a key was pressed, or a signal came."""
        return [self.wake, *([0] if self._has_keys and not self.hung_up else [])]

    @property
    def size(self) -> tuple[int, int]:
        """Return columns and lines; asked of the terminal, since $COLUMNS does not change with it."""
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self._out)
            if columns > 0 and lines > 0:
                return columns, lines
        return _FALLBACK

    def attend(self) -> None:
        """Do what signals asked for since the last call: stop, or draw everything anew."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        if self._stop_wanted:
            self._stop_wanted = False
            self._suspend()
        if self._renew:
            self._renew = False
            self._enter()

    def pressed(self) -> list[str]:
        """Return the keys that were pressed; nothing where there were none."""
        keys: list[str] = []
        within_s = 0.0
        while self._has_keys and not self.hung_up and select.select([0], [], [], within_s)[0]:
            try:
                data = os.read(0, 4096)
            except OSError:
                data = b""
            self.hung_up = not data
            keys += self._keys.feed(data)
            within_s = _ESCAPE_WITHIN_S if self._keys.unfinished else 0.0
        return keys + (self._keys.feed(b"", final=True) if self._keys.unfinished else [])

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, from the top; what is there already is not sent again."""
        changed = [
            f"\x1b[{at + 1};1H{line}"
            for at, line in enumerate(lines)
            if at >= len(self._shown) or self._shown[at] != line
        ]
        if len(lines) < len(self._shown):
            changed.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._shown = list(lines)
        if changed:
            self._send(_BEGIN + "".join(changed) + _END)

    def forget(self) -> None:
        """Have the next lines sent whole: the terminal has another size, or somebody else wrote on it."""
        self._shown = []
        self._send("\x1b[2J")

    def _enter(self) -> None:
        if self._has_keys:
            tty.setcbreak(0)
        self._send(_ENTER)
        self._shown = []

    def _leave(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # nobody has the terminal any more
            self._send(_LEAVE)
            if self._modes is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, self._modes)

    def _suspend(self) -> None:
        """Stop as Ctrl-Z stops others, with the screen as it was before; return when the shell says `fg`."""
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._told)
        self._renew = True

    def _told(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signal module's signature
        if number == signal.SIGTSTP:
            self._stop_wanted = True
        elif number == signal.SIGCONT:
            self._renew = True  # whoever had the terminal meanwhile left it in its own way
        # A new size is asked for at every frame: to be woken is enough.

    def _send(self, text: str) -> None:
        view = memoryview(text.encode(errors="backslashreplace"))
        while view:
            view = view[os.write(self._out, view) :]


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signal module's signature
    raise SystemExit(128 + number)
