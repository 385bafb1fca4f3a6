"""gpud's conversation with the launcher process: found, or spawned, and replaced when it dies.

An order travels as a key and an open memory file: an environment may be larger than any message a socket takes, and
this way neither the launcher process nor gpud's socket ever holds a copy; the shim reads it where it lies.

The socket cannot tell that the launcher process died, since every shim holds its end too; its pidfd does.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable

from gpud.launchers import record, zygote
from gpud.launchers.record import Place, Record

_AGAIN_S = (0.1, 5.0)  # how soon a launcher process that died is replaced: first, and at most
_ANSWER_S = 20.0
_MESSAGES = 64  # read at once, so that a flood of notices does not hold up the loop

Notice = Callable[[str, Record], None]


class LauncherGoneError(Exception):
    """There is no launcher process now; a new one is being started."""


class Link:
    """The way to one launcher process after the other.

    `socket_path` is where one of its own unit listens; `spawns` tells whether to start one where nobody does.
    `told(key, record)` is called for each notice, `lost()` when what was sent may have got lost. `fences_logins`: see
    `fence`; None leaves it as it is.
    """

    def __init__(
        self,
        state_dir: str,
        *,
        spawns: bool,
        told: Notice,
        lost: Callable[[], None],
        fences_logins: bool | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.fences_logins = fences_logins
        self.means: Record = {}  # what the launcher process said that it can do
        self.spawns = spawns
        self.told = told
        self.lost = lost
        self.pid: int | None = None
        self._socket: socket.socket | None = None
        self._pidfd: int | None = None
        self._outbox: deque[tuple[str, bytes, bytes]] = deque()
        self._left: list[Place] = []
        self._greeted: asyncio.Future[None] | None = None
        self._again_s = _AGAIN_S[0]
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    async def open(self) -> None:
        """Find or start the launcher process. Raises OSError, or TimeoutError when it does not answer."""
        self._greeted = asyncio.get_running_loop().create_future()
        self._connect()
        await asyncio.wait_for(self._greeted, _ANSWER_S)

    def send(self, key: str, header: bytes, blobs: bytes) -> None:
        """Send an order, now or as soon as the launcher process takes it. Raises LauncherGoneError."""
        if self._socket is None:
            raise LauncherGoneError
        self._outbox.append((key, header, blobs))
        if len(self._outbox) == 1:
            self._flush()

    def free(self, key: str) -> None:
        """Tell that this attempt's shim will not be signalled any more, and may have another attempt."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it stays unused then, and ends with the launcher process
                self._socket.send(key.encode(), socket.MSG_NOSIGNAL)

    def sweep(self, tmp: Place) -> None:
        """Have a TMPDIR removed whose attempt is over, now or as soon as there is a launcher process."""
        self._left.append(tmp)
        if self.pid is not None:
            self._sweep()

    def close(self) -> None:
        """Leave; the launcher process stays as long as it has jobs."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._drop()

    def _connect(self) -> None:
        own = _connected(f"{self.state_dir}/launcher.sock")
        if own is None:
            if not self.spawns:
                raise ConnectionRefusedError(111, "no launcher process listens", f"{self.state_dir}/launcher.sock")
            own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                _spawn(its, self.state_dir)
        own.setblocking(False)
        self._socket = own
        asyncio.get_running_loop().add_reader(own, self._read)

    def _read(self) -> None:
        for _ in range(_MESSAGES):
            if self._socket is None:
                return
            try:
                message = self._socket.recv(2 * record.SIZE)
            except BlockingIOError:
                return
            except ConnectionError:
                message = b""
            if not message:
                self._gone()
                return
            key, _, body = message.partition(b"\n")
            notice = record.decode(body)
            if notice is None:
                continue
            if key:
                self.told(key.decode(), notice)
            elif self._pidfd is None:
                self.means = notice
                self._greet(*notice["zygote"])
            else:
                self.means = notice

    def _greet(self, pid: int, start: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(pid)
        if self._pidfd is None or record.start_time(pid) != start:
            self._gone()
            return
        self.pid = pid
        self._again_s = _AGAIN_S[0]
        if self._socket is not None and self.fences_logins is not None:
            with contextlib.suppress(OSError):
                self._socket.send(zygote.FENCE_LOGINS if self.fences_logins else zygote.LEAVE_LOGINS)
        asyncio.get_running_loop().add_reader(self._pidfd, self._gone)
        self._sweep()
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)

    def _sweep(self) -> None:
        assert self._socket is not None  # noqa: S101 - callers looked
        left, self._left = self._left, []
        for tmp in left:
            with contextlib.suppress(OSError):  # it stays: to be tried for ever is more than it is worth
                self._socket.send(zygote.SWEEP + record.to_json({"tmp": tmp}), socket.MSG_NOSIGNAL)

    def _flush(self) -> None:
        assert self._socket is not None  # noqa: S101 - dropping it removed this callback
        loop = asyncio.get_running_loop()
        while self._outbox:
            try:
                _send(self._socket, *self._outbox[0])
            except (BlockingIOError, InterruptedError):
                loop.add_writer(self._socket, self._flush)
                return
            except ConnectionError:
                return  # the pidfd tells
            except OSError:  # no memory file to be had: let what is sent arrive first
                loop.call_later(_AGAIN_S[0], self._flush_later)
                return
            self._outbox.popleft()
        loop.remove_writer(self._socket)

    def _flush_later(self) -> None:
        if self._socket is not None:
            self._flush()

    def _gone(self) -> None:
        """The launcher process ended. Its shims live on; what it had not passed on is lost."""
        pid = self.pid
        self._drop()
        if pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self.lost()
        self._reconnect_later()

    def _reconnect_later(self) -> None:
        self._retry = asyncio.get_running_loop().call_later(self._again_s, self._reconnect)
        self._again_s = min(self._again_s * 2, _AGAIN_S[1])

    def _reconnect(self) -> None:
        if self._closed:
            return
        try:
            self._connect()
        except OSError:
            self._reconnect_later()

    def _drop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        if self._pidfd is not None:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self.pid = None
        self._outbox.clear()


def command(*, listen: str, records: str) -> list[str]:
    """Return the command line of a launcher process that listens, for its own systemd unit."""
    return [*_PYTHON, "--listen", listen, records]


_PYTHON = [sys.executable, "-I", "-S", "-X", "utf8", zygote.__file__]


def _connected(path: str) -> socket.socket | None:
    """Return a connection to who listens there; None where nobody does. The path may be longer than an address."""
    own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        try:
            own.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)
    except (FileNotFoundError, ConnectionRefusedError):
        own.close()
        return None
    except OSError:
        own.close()
        raise
    return own


def _spawn(its: socket.socket, state_dir: str) -> None:
    """Start a launcher process: a session of its own, nothing of ours but the socket, no signals blocked or ignored."""
    log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.posix_spawn(
        sys.executable,
        [*_PYTHON, "--fd", "3", f"{state_dir}/records"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, f"{state_dir}/launcher.log", log, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, its.fileno(), 3),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
    )


def _send(channel: socket.socket, key: str, header: bytes, blobs: bytes) -> None:
    file = os.memfd_create("gpud-order")
    try:
        if os.writev(file, [header, blobs]) < len(header) + len(blobs):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))
        channel.sendmsg([f"{key} {len(header)}".encode()], [rights], socket.MSG_NOSIGNAL)
    finally:
        os.close(file)
