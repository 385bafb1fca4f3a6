"""A terminal with somebody at it: gpuctl on a real pseudo terminal, keys, and what is to be read on it."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time

WITHIN_S = 30.0


class Person:
    """Sits at a terminal of 30 rows and 100 columns in which gpuctl runs."""

    def __init__(self, gpuctl, *words):
        """Start gpuctl with these words."""
        environ = gpuctl.environ | {"TERM": "xterm", "PS1": "$ "}
        self.pid, self.keyboard = os.forkpty()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("=4H", 30, 100, 0, 0))
                os.chdir(gpuctl.directory)
                os.execve(sys.executable, [sys.executable, "-m", "gpuctl", *words], environ)  # noqa: S606 - no shell is wanted
            finally:
                os._exit(99)
        self.seen = ""
        self.modes = termios.tcgetattr(self.keyboard)

    def types(self, text):
        """Press keys."""
        os.write(self.keyboard, text.encode())

    def reads(self, text):
        """Return what was shown up to this text, waiting for it; what comes after is for the next call."""
        deadline = time.monotonic() + WITHIN_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} never came; there is: {self.seen!r}"
            assert self._read(left), f"it ended without {text!r}: {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def resizes(self, rows, columns):
        """Drag the window's corner."""
        fcntl.ioctl(self.keyboard, termios.TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))

    def status(self):
        """Return what gpuctl exits with, and read what it says until then."""
        deadline = time.monotonic() + WITHIN_S
        while self._read(max(0.1, deadline - time.monotonic())):
            assert time.monotonic() < deadline, self.seen
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def leaves(self, number=signal.SIGKILL):
        """Be gone, and the terminal too."""
        if self.pid is not None:
            os.kill(self.pid, number)
            os.waitpid(self.pid, 0)
            self.pid = None
        if self.keyboard is not None:
            os.close(self.keyboard)
            self.keyboard = None

    def _read(self, within_s):
        if not select.select([self.keyboard], [], [], within_s)[0]:
            return True
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self.keyboard, 1 << 16)
        self.seen += data.decode(errors="replace")
        return bool(data)
