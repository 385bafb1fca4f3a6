"""A job's terminal on ours: raw while it lasts, ours as it was however it ends.

The two ends talk packets, see `gpud.launchers.attached`, which is a stranger to this side: the bytes are said again.
Signals only wake the loop up; those that end the program end it between two packets.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import termios
import time
import tty
from collections import deque
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from gpuctl import output
from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following.beginning import until_told
from gpuctl.following.follower import Interrupts, shown
from gpuctl.following.logs import Changes, Log
from gpuctl.following.waiting import await_back, subscribe
from gpuctl.render.jobs import ENDS

_INPUT, _SIZE, _END_OF_INPUT = b"i", b"w", b"z"
_OUTPUT, _ERRORS, _EXIT = b"o", b"e", b"x"
_PIECE = 1 << 15
_LOOK_S = 5.0  # how soon to look again for a socket that nothing was told of
_ESCAPE = b"\x1c"  # Ctrl-\, as in abduco and dtach; then d detaches, and it again is itself
_ALTERNATE, _NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"
# What programs switch on and who leaves them must switch off: colours, a hidden cursor, marked pastes, the mouse.
_TIDY = b"\x1b[0m\x1b[?25h\x1b[?2004l\x1b[?1l\x1b>\x1b[?1000;1002;1003;1006l"


def size_of(descriptor: int) -> tuple[int, int]:
    """Return the rows and columns of the terminal that a descriptor is; 24 and 80 where that does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        columns, rows = 0, 0
    return rows or 24, columns or 80


def check_terminal(who: str = "--pty", hint: str = "without a terminal leave --pty out") -> None:
    """Raise UsageError where there is no terminal to sit at."""
    if not (os.isatty(0) and os.isatty(1)):
        hint += f"; a script may use: script -qec 'gpuctl {who.replace('--', 'run --')} ...' /dev/null"
        raise UsageError(f"{who} needs a terminal on stdin and stdout", hint=hint)


class Attachment:
    """A conversation with a job's terminal, or with a command's pipes. `raw`: it is a terminal on both sides.

    `code` is the command's exit status once it has ended (negative: the signal), `detached` says that we were told to
    leave it.
    """

    def __init__(self, connection: socket.socket, *, raw: bool) -> None:
        self._connection = connection
        self._raw = raw
        self._modes: list[int | list[bytes | int]] | None = None
        self._escaped = self._alternate = False
        self._reads = True
        self._unsent: deque[bytes] = deque()
        self.code: int | None = None
        self.detached = False

    def __enter__(self) -> Self:
        self._wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken_before = signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        self._before: dict[int, Any] = {}
        if self._raw:
            self._modes = termios.tcgetattr(0)
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, _end)
            for number in (signal.SIGWINCH, signal.SIGCONT):
                self._before[number] = signal.signal(number, lambda *_: None)
            tty.setraw(0, termios.TCSADRAIN)  # what was typed while it waited is the job's
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, termios.error):  # nobody has the terminal any more
            if self._modes is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
                if self.code is None:
                    os.write(1, (_NORMAL if self._alternate else b"") + _TIDY)
        for number, handled in self._before.items():
            signal.signal(number, handled)
        signal.set_wakeup_fd(self._woken_before)
        for file in (self._wake, self._wake_end):
            os.close(file)
        self._connection.close()

    def talk(self) -> None:
        """Pass everything on, both ways, until the command has ended, we left it, or its keeper is gone."""
        self._tell_size()
        while self.code is None and not self.detached:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            if self._reads and not self._unsent:  # to wait for the other end to take it would be to hear nothing
                poll.register(0, select.POLLIN)
            for file, happened in poll.poll():
                if file == self._wake:
                    self._attend()
                elif file == 0:
                    self._type()
                else:
                    self._flush()
                    if happened & ~select.POLLOUT and not self._hear():
                        return

    def _attend(self) -> None:
        """Take in another size, and a terminal that somebody else had meanwhile."""
        numbers = os.read(self._wake, 4096)
        if signal.SIGCONT in numbers and self._raw:
            tty.setraw(0, termios.TCSADRAIN)
        if signal.SIGWINCH in numbers or signal.SIGCONT in numbers:
            self._tell_size()

    def _tell_size(self) -> None:
        self._send(_SIZE + struct.pack("=2H", *(size_of(0) if self._raw else (0, 0))))

    def _type(self) -> None:
        """Pass on what was typed, or piped in, less what is meant for us."""
        try:
            data = os.read(0, _PIECE)
        except OSError:
            data = b""
        if not data:
            self._reads = False
            if self._raw:  # the terminal went
                self.detached = True
            else:
                self._send(_END_OF_INPUT)
            return
        if self._raw:
            data = self._without_escapes(data)
        if data:
            self._send(_INPUT + data)

    def _without_escapes(self, data: bytes) -> bytes:
        kept = bytearray()
        for at in range(len(data)):
            key = data[at : at + 1]
            if not self._escaped:
                self._escaped = key == _ESCAPE
                kept += b"" if self._escaped else key
                continue
            self._escaped = False
            if key in b"dD":
                self.detached = True
                break
            kept += _ESCAPE if key == _ESCAPE else _ESCAPE + key
        return bytes(kept)

    def _hear(self) -> bool:
        """Show one packet; return False when there will be none any more."""
        try:
            packet = self._connection.recv(_PIECE + 64)
        except OSError:
            packet = b""
        kind, data = packet[:1], packet[1:]
        if kind == _EXIT:
            (self.code,) = struct.unpack("=i", data)
        elif kind in (_OUTPUT, _ERRORS):
            _write(1 if kind == _OUTPUT else 2, data)
            last = max(data.rfind(_ALTERNATE), data.rfind(_NORMAL))
            if last >= 0:
                self._alternate = data.startswith(_ALTERNATE, last)
        return bool(packet)

    def _send(self, packet: bytes) -> None:
        self._unsent.append(packet)
        self._flush()

    def _flush(self) -> None:
        """Send what can be sent."""
        try:
            while self._unsent:
                self._connection.send(self._unsent[0], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:  # it has ended; what it said last is still to be read
            self._unsent.clear()


def attend(client: Client, job: str, interrupts: Interrupts | None = None) -> dict[str, Any] | None:
    """Sit at a job's terminal from its start to its end, through restarts of gpud.

    Return what `show` says of the ended job; None where we left it before. What a job printed at whose terminal we came
    too late is in its log. `interrupts` are handed on while it waits.
    """
    sat = False
    while True:
        try:
            subscribe(client, [job])
            while True:
                answer = client.request("show", job=job)
                shown_now = answer["job"]
                if shown_now["state"] in ENDS:
                    if not sat and shown_now["output"] is not None:
                        shown(Log(shown_now["output"], owner=shown_now["uid"]))
                    return answer
                if shown_now["state"] in ("running", "stopping") and shown_now["terminal"] is not None:
                    connection = connect(shown_now["terminal"], client)
                    if connection is not None:
                        sat = True
                        with Attachment(connection, raw=True) as attachment:
                            attachment.talk()
                        if attachment.detached:
                            return None
                until_told(client, job, interrupts, waits=shown_now["started_at"] is None)
        except ConnectionLostError as lost:
            await_back(client, lost)


def connect(path: str, client: Client, within_s: float | None = None) -> socket.socket | None:
    """Return a connection to a terminal's socket, waiting until somebody listens there.

    None once `client` is told of something, as the job's end: whoever subscribed to that looks at the job again.
    Raises GpuctlError where nobody does in the time given.
    """
    late_at = None if within_s is None else time.monotonic() + within_s
    look_s = _LOOK_S if within_s is None else min(_LOOK_S, within_s)
    while True:
        changes = Changes([path], [client.fileno()])
        try:
            found = _connected(path)
            if found is not None or client.has_pushed() or changes.wait(look_s):
                return found
        finally:
            changes.close()
        if late_at is not None and time.monotonic() >= late_at:
            hint = "gpud's Python, or its state directory, is closed to who runs the job, or the disk is full"
            raise GpuctlError(f"nobody has come to listen at {path}", hint=hint)


def _connected(path: str) -> socket.socket | None:
    """Return a connection; None where nobody listens yet. Raises GpuctlError where one may not."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")  # a path may be too long for it
        finally:
            os.close(folder)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        said = f"cannot reach the job's terminal: {error.strerror}"
        raise GpuctlError(said, hint="it is its user's alone") from error
    return connection


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[output.write(descriptor, view) :]


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signal module's signature
    raise SystemExit(128 + number)
