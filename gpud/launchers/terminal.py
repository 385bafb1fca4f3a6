"""A job's terminal: it outlives whoever sits at it, and they come and go.

Run as a file, `python -I -S terminal.py SETTINGS PROGRAM ARGV...`, as the job's user and inside the job, as its first
process. It opens a pseudo terminal, runs the command on it as its session's leader, and listens on a Unix socket. What
the command prints goes to stdout, which is the job's log, and to everybody who is attached; what they type goes to the
command. It ends as the command ends: with the same status, or by the same signal.

SETTINGS is a JSON object: `socket`, the path to listen on, however long;
`size`, the terminal's rows and columns, None for none: then the command has pipes, and nothing is kept of what it
prints; `unattended_s`, how long nobody may be attached before it is hung up, None for ever; `term`, another $TERM than
the environment's, or None; `beside`, pid and start time of a process that it ends with, and whose environment it has,
or None.

Everybody who attaches is shown the newest output first, and the size is that of whoever said one last.
"""

import contextlib
import fcntl
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import time
from typing import Any, NoReturn

if __name__ == "__main__":  # isolated, so nothing but the standard library is on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from gpud.launchers.attached import END_OF_INPUT, ERRORS, EXIT, INPUT, OUTPUT, PIECE, SIZE, Attached

_RECENT = 1 << 16  # bytes that who attaches is shown: many screens
_BEHIND = 1 << 18  # bytes that somebody may be behind before the command has to wait
_FIRST_S = 10.0  # how long the command waits for the first one, who is on the way
_DYING_S = 10.0  # after the terminal was hung up
_FAREWELL_S = 5.0


class Keeper:
    """Keeps one terminal, or a command's pipes."""

    def __init__(self, settings: dict[str, Any], program: str, argv: list[str]) -> None:
        self.settings, self.program, self.argv = settings, program, argv
        self.size: tuple[int, int] | None = settings["size"] and (settings["size"][0], settings["size"][1])
        self.unattended_s: float | None = settings["unattended_s"]
        self.keeps = self.unattended_s != 0  # it outlives whoever leaves
        self.attached: dict[int, Attached] = {}
        self.recent = bytearray()
        self.typed = bytearray()
        self.input_ends = False
        self.child: int | None = None
        self.status: int | None = None
        self.sources: dict[int, bytes] = {}  # what the command prints to, and how it is passed on
        self.sink: int | None = None
        self.since = time.monotonic()  # nobody is attached; at first: somebody is on the way
        self.kill_at: float | None = None
        self.beside: int | None = None
        self.wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        # The launcher's signals go to every process of the job, the command among them: here they are only survived.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGCONT}:
            with contextlib.suppress(OSError):
                signal.signal(number, lambda *_: None)
        if settings["beside"] is not None:
            self.beside = _watched(*settings["beside"])
        folder, self.name = os.path.split(settings["socket"])
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.listener = self._listen()

    def serve(self) -> int:
        """Return the command's wait status once it has ended, and was told to all who are attached."""
        while self.status is None:
            self._turn()
        for source in list(self.sources):
            self._drain(source)
        self._say(EXIT + struct.pack("=i", os.waitstatus_to_exitcode(self.status)))
        until = time.monotonic() + (_FAREWELL_S if self.keeps else math.inf)
        while any(each.pending for each in self.attached.values()) and time.monotonic() < until:
            self._turn()
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self.folder)
        return self.status

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fresh, before = f"{self.name}.new", os.umask(0o077)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=self.folder)
            listener.bind(f"/proc/self/fd/{self.folder}/{fresh}")  # an address has 107 bytes, a path more
            listener.listen(8)
            listener.setblocking(False)
            os.rename(fresh, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)  # now that somebody listens
        finally:
            os.umask(before)
        return listener

    def _turn(self) -> None:
        """Wait for the next thing to happen, and see to it."""
        told = (self.wake, self.listener.fileno(), *(() if self.beside is None else (self.beside,)))
        heard = () if any(each.behind >= _BEHIND for each in self.attached.values()) else self.sources
        awaited = dict.fromkeys((*told, *heard), select.POLLIN)
        if self.sink is not None and self.typed:  # on a terminal that is the source, too
            awaited[self.sink] = awaited.get(self.sink, 0) | select.POLLOUT
        for file, each in self.attached.items():
            hears = select.POLLIN if len(self.typed) < _BEHIND else 0
            awaited[file] = hears | (select.POLLOUT if each.pending else 0)
        poll = select.poll()
        for waited in awaited.items():
            poll.register(*waited)
        for file, _ in poll.poll(self._nap_ms()):
            if file == self.wake:
                self._heed(os.read(self.wake, 4096))
            elif file == self.listener.fileno():
                self._welcome()
            elif file == self.beside:
                self._hang_up("the job has ended")
            elif file == self.sink and file not in self.sources:
                self._type()
            elif file in self.sources:
                self._type()
                self._read(file)
            elif file in self.attached:
                self._hear(file)
        self._see_to_deadlines()

    def _nap_ms(self) -> float | None:
        """Return how long to wait at most; None: until something happens."""
        due = self._due()
        if any(each.pending for each in self.attached.values()):
            due = min(due or time.monotonic() + 1.0, time.monotonic() + 1.0)
        return None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1

    def _due(self) -> float | None:
        if self.kill_at is not None:
            return self.kill_at
        if self.attached:
            return None
        within_s = _FIRST_S if self.child is None else self.unattended_s
        return None if within_s is None else self.since + within_s

    def _see_to_deadlines(self) -> None:
        for file, each in list(self.attached.items()):
            if not each.flush():
                self._part(file)
        due = self._due()
        if due is None or time.monotonic() < due or self.status is not None:
            return
        if self.child is None and self.keeps:
            self._start()
        elif self.child is not None and self.kill_at is not None:
            self.kill_at = None
            _send(self.child, signal.SIGKILL)
        else:
            self._hang_up(f"nobody attended this terminal for {self.unattended_s:.0f} seconds")

    def _heed(self, numbers: bytes) -> None:
        """See to the signals that came."""
        if signal.SIGTERM in numbers:
            if self.child is None:
                self.status = signal.SIGTERM
            elif self.sink is not None and _ignores(self.child, signal.SIGTERM):  # as interactive shells do
                _send(self.child, signal.SIGHUP)
        if self.child is not None and self.status is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.child, os.WNOHANG)
                self.status = status if pid else None

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in {os.getuid(), 0}:
                connection.close()
                return
            connection.setblocking(False)
            each = self.attached[connection.fileno()] = Attached(connection, leaves=self.keeps)
            start = self.recent.find(b"\n") + 1 if len(self.recent) >= _RECENT else 0
            each.catch_up(self.recent[start:])

    def _hear(self, file: int) -> None:
        """Take one packet of somebody who is attached."""
        try:
            packet = self.attached[file].connection.recv(PIECE + 64)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        kind, rest = packet[:1], packet[1:]
        if not packet:
            self._part(file)
        elif kind == SIZE and len(rest) == struct.calcsize("=2H"):
            self._resize(struct.unpack("=2H", rest))
        elif kind == INPUT:
            self.typed += rest
        elif kind == END_OF_INPUT:
            self.input_ends = True
        if packet and self.child is None:
            self._start()
        self._type()

    def _resize(self, size: tuple[int, ...]) -> None:
        """Give the terminal another size; draw anew what draws, also where it is the same: somebody new looks at it."""
        if self.size is None:
            return
        same, self.size = self.size == size, (size[0], size[1])
        if self.sink is None:
            return
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.sink, termios.TIOCSWINSZ, struct.pack("=4H", *size, 0, 0))
            if same:
                os.killpg(os.tcgetpgrp(self.sink), signal.SIGWINCH)

    def _part(self, file: int) -> None:
        self.attached.pop(file).connection.close()
        if not self.attached:
            self.since = time.monotonic()

    def _start(self) -> None:
        """Start the command, on the terminal or on pipes."""
        if self.size is not None:
            self.child, master = os.forkpty()
            if self.child == 0:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("=4H", *self.size, 0, 0))
                self._become()
            self.sources, self.sink = {master: OUTPUT}, master
        else:
            ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
            self.child = os.fork()
            if self.child == 0:
                os.setsid()
                os.dup2(ends[0][0], 0)
                os.dup2(ends[1][1], 1)
                os.dup2(ends[2][1], 2)
                self._become()
            for end in (ends[0][0], ends[1][1], ends[2][1]):
                os.close(end)
            self.sources, self.sink = {ends[1][0]: OUTPUT, ends[2][0]: ERRORS}, ends[0][1]
        for file in (*self.sources, self.sink):
            os.set_blocking(file, False)
        if not self.attached:
            self.since = time.monotonic()

    def _become(self) -> NoReturn:
        """Turn into the command."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            os.execve(self.program, self.argv, self.variables())  # noqa: S606 - without a shell, as every job
        except OSError as error:
            os.write(2, f"gpud: cannot run {self.program}: {error.strerror}\n".encode(errors="replace"))
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
        finally:
            os._exit(126)

    def variables(self) -> dict[bytes, bytes]:
        """Return the command's environment: our own, or that of the process that it runs beside."""
        pid, variables = self.settings["beside"] and self.settings["beside"][0], dict[bytes, bytes]()
        for whose in ("self", pid):  # our own as it was: in the C locale Python adds LC_CTYPE to it
            with contextlib.suppress(OSError), open(f"/proc/{whose}/environ", "rb") as file:
                found = dict(each.split(b"=", 1) for each in file.read().split(b"\0") if b"=" in each)
                if whose == "self" or b"GPUD_JOB_ID" in found:  # else its program has written over it
                    variables = found
        term = self.settings["term"]
        return variables if term is None else variables | {b"TERM": term.encode()}

    def _type(self) -> None:
        """Pass on what was typed, as far as the command takes it."""
        if self.sink is None:
            return
        try:
            while self.typed:
                del self.typed[: os.write(self.sink, self.typed[:PIECE])]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self.typed.clear()
        if self.input_ends and self.size is None:
            os.close(self.sink)
            self.sink = None

    def _read(self, source: int) -> bool:
        """Pass on a piece of what the command printed; return whether there was one."""
        try:
            data = os.read(source, PIECE)
        except BlockingIOError:
            return False
        except OSError:  # of a terminal that nothing has open any more
            data = b""
        if not data:
            del self.sources[source]
            if source != self.sink:
                os.close(source)
            return False
        if self.size is not None:
            self.recent += data
            del self.recent[:-_RECENT]
            _print(data)
        self._say(self.sources[source] + data)
        return True

    def _drain(self, source: int) -> None:
        """Pass on what the command left to be read; what it left running may go on printing, but not for ever."""
        until = time.monotonic() + _FAREWELL_S
        while time.monotonic() < until and self._read(source):
            pass

    def _say(self, packet: bytes) -> None:
        for file, each in list(self.attached.items()):
            each.say(packet)
            if not each.flush():
                self._part(file)

    def _hang_up(self, why: str) -> None:
        """End the command as a terminal that is closed does; say so in the log."""
        if self.beside is not None:
            os.close(self.beside)
            self.beside = None
        if self.child is None or self.status is not None:
            self.status = signal.SIGHUP if self.status is None else self.status
            return
        if self.size is not None:
            said = f"\r\ngpud: {why}\r\n".encode()
            _print(said)
            self._say(OUTPUT + said)
        self.kill_at = time.monotonic() + _DYING_S
        for file in {*self.sources, *(() if self.sink is None else (self.sink,))}:
            os.close(file)
        self.sources, self.sink = {}, None
        _send(self.child, signal.SIGHUP)
        _send(self.child, signal.SIGCONT)


def _watched(pid: int, start: int) -> int:
    """Return a file that is readable once that process has ended; it may have."""
    with contextlib.suppress(OSError, ValueError):
        file = os.pidfd_open(pid)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            if int(stat.read().rpartition(b")")[2].split()[19]) == start:
                return file
    read, write = os.pipe()
    os.close(write)
    return read


def _ignores(pid: int, number: int) -> bool:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        ignored = next((line for line in file if line.startswith("SigIgn:")), "SigIgn: 0")
        return bool(int(ignored.split()[1], 16) >> (number - 1) & 1)
    return False


def _send(pid: int, number: int) -> None:
    """Send a signal to the command and its process group."""
    for send, whom in ((os.kill, pid), (os.killpg, pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(whom, number)


def _print(data: bytes) -> None:
    """Write to the log; a disk that is full takes nothing from the terminal."""
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(1, view) :]


def _leave(status: int) -> NoReturn:
    """End as the command did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's own is enough
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        os._exit(128 - code)
    os._exit(code)


def main() -> NoReturn:
    """Keep a terminal for a command until that ends."""
    settings, program, *argv = sys.argv[1:]
    try:
        keeper = Keeper(json.loads(settings), program, argv)
    except OSError as error:
        sys.stderr.write(f"gpud: cannot open the job's terminal: {error}\n")
        sys.stderr.flush()
        os._exit(126)
    _leave(keeper.serve())


if __name__ == "__main__":
    main()
