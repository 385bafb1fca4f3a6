"""`gpuctl watch` as a person has it: keys typed on a real terminal, and what is on its screen, by an emulator."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[2]
WITHIN_S = 30


class Watched:
    """A gpuctl on a terminal of its own. `sent` is all that it ever sent there."""

    def __init__(self, gpud, *, columns=100, lines=30, words=("watch",), **environ):
        """Start it."""
        self.terminal, self.its = pty.openpty()
        self.before = termios.tcgetattr(self.its)
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self._set_size(columns, lines)
        kept = {key: value for key, value in gpud.environment.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        environ = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "TZ": "UTC"} | environ
        # A terminal that is controlled by nobody tells nobody of a new size.
        command = ["setsid", "--ctty", sys.executable, "-m", "gpuctl", "--socket", gpud.socket, *words]
        its = self.its
        self.process = subprocess.Popen(command, env=kept | environ, cwd=gpud.work, stdin=its, stdout=its, stderr=its)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.terminal)
        os.close(self.its)

    def _set_size(self, columns, lines):
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def resize(self, columns, lines):
        """Give the terminal another size; the kernel tells who has it."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def type(self, keys):
        """Press keys."""
        os.write(self.terminal, keys.encode())

    @property
    def text(self):
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def jobs_shown(self):
        """What is on the screen below the tabs."""
        return self.text.partition(" 1 all ")[2]

    @property
    def ids(self):
        """The ids of the jobs on the screen."""
        rows = [line[1:].split() for line in self.jobs_shown.split("\n")[2:]]
        return {words[0] for words in rows if words}

    @property
    def foot(self):
        """The last line of the screen."""
        return self.screen.display[-1].strip()

    def read(self, within_s):
        """Take in what was drawn; return whether anything was."""
        if not select.select([self.terminal], [], [], within_s)[0]:
            return False
        with contextlib.suppress(OSError):  # nobody has the terminal any more
            data = os.read(self.terminal, 1 << 16)
            self.sent += data
            self._stream.feed(data)
            return bool(data)
        return False

    def until(self, condition, within_s=WITHIN_S):
        """Read until the screen shows this, or a condition holds of it; return its text."""
        deadline = time.monotonic() + within_s
        shows = condition if callable(condition) else lambda: condition in self.text
        while not shows():
            assert time.monotonic() < deadline, f"never shown: {condition}\n{self.text}"
            if not self.read(0.5) and self.process.poll() is not None and not self.read(0.5):
                assert shows(), f"it ended with {self.process.returncode}\n{self.text}"
        return self.text

    def end(self, number=None):
        """Return the exit status, once it has ended by itself, or by a signal."""
        if number is not None:
            self.process.send_signal(number)
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, self.text
        while self.read(0.2):
            pass
        return self.process.returncode

    def left_clean(self):
        """Tell whether the terminal is as it was: screen, cursor, wrapping, pastes, and how keys are read."""
        ends = [self.sent.rfind(mode) for mode in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?7h", b"\x1b[?2004l")]
        begins = [self.sent.rfind(mode) for mode in (b"\x1b[?1049h", b"\x1b[?25l", b"\x1b[?7l", b"\x1b[?2004h")]
        modes = termios.tcgetattr(self.its) == self.before
        return modes and all(begin < end for begin, end in zip(begins, ends, strict=True))
