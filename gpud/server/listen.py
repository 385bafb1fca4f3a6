"""A socket's name in the file system: made so that nobody else gets in, guarded while gpud runs, removed at the end.

A name that is too long for bind(2) gets a short one in a directory of the user's own, and a file beside the long name
says which. A name is never taken from one who still answers on it.

Where systemd holds the socket (sd_listen_fds(3)), the name is systemd's, and made anew only if it vanished.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

from gpud.wire.address import ADDRESS_MAX, AddressError, address_file, private_dir
from gpud.wire.codec import pack
from gpud.wire.messages import Error

log = logging.getLogger(__name__)

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START
_BACKLOG = 1024  # connections that wait to be taken
_AT_ONCE, _TURNED_AT_ONCE = 8, 32  # of those, how many are let in, or turned away, before the loop does anything else
_NO_FILES_S = 1.0  # before connections are taken again that there were no files for
_LINGER_S = 1.0  # for who asks again at once: else each of them would have systemd start gpud once more


class ListenError(Exception):
    """The socket cannot be opened; `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def passed_on(environ: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """Return the listening socket that systemd holds for this process; None where it holds none.

    Takes the variables out of `environ`. Raises ListenError for sockets of another kind.
    """
    meant, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    for name in ("LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        environ.pop(name, None)
    if meant != str(os.getpid()) or count in {"", "0"}:
        return None
    os.set_inheritable(_FIRST_PASSED, False)
    sock = socket.socket(fileno=_FIRST_PASSED)
    kind = sock.family, sock.type, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if count != "1" or kind != (socket.AF_UNIX, socket.SOCK_STREAM, 1) or not isinstance(sock.getsockname(), str):
        raise ListenError(
            "the sockets that were passed on are not one listening Unix socket with a name",
            "gpud.socket needs one ListenStream=, a path",
        )
    return sock


def refusal(code: str, message: str, hint: str | None, retry_after_s: float | None = None, **more: object) -> bytes:
    """Return the frame that says, to who has not asked for anything yet, why they are not served."""
    error = Error(code=code, message=message, hint=hint)
    if retry_after_s is not None:
        error["retry_after_s"] = retry_after_s
    return pack({"id": None, "ok": False, "error": error, **more})


def turn_away(listening: socket.socket, message: str, hint: str | None) -> None:
    """Tell those who wait at a socket that systemd holds why they wait in vain: gpud cannot start."""
    refused = refusal("unavailable", message, hint)
    deadline = time.monotonic() + _LINGER_S
    while (left_s := deadline - time.monotonic()) > 0:
        listening.settimeout(left_s)
        try:
            waiting, _ = listening.accept()
        except OSError:  # TimeoutError among them
            continue
        with waiting, suppress(OSError):
            waiting.setblocking(False)
            waiting.sendall(refused)


class Door:
    """Takes connections off a listening socket, on the running loop.

    `turned_away` says of each what it is told instead of a protocol of its own; None: it is let in. Telling costs a
    twentieth of letting in, so who comes faster than they may is told that before anything is made for them.
    """

    def __init__(
        self,
        listening: socket.socket,
        turned_away: Callable[[socket.socket], bytes | None],
        protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listening = listening
        self._turned_away = turned_away
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[object]] = set()
        listening.setblocking(False)
        listening.listen(_BACKLOG)
        self._open()

    def close(self) -> None:
        """Take no more; who was let in may stay."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def _open(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        entered = 0
        for _ in range(_TURNED_AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no files, no memory: they wait
                log.error("no connection can be taken: %s", error.strerror)  # noqa: TRY400 - told in its own words
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_NO_FILES_S, self._open)
                return
            connection.setblocking(False)
            refused = self._turned_away(connection)
            if refused is not None:
                with connection, suppress(OSError):
                    connection.send(refused)
                continue
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)
            entered += 1
            if entered == _AT_ONCE:
                return


class Doorplate:
    """The name `path` of a listening socket, with permissions `mode` (0600: one user's, 0666: everybody's)."""

    def __init__(self, path: str, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._open_to_all = bool(mode & 0o006)
        self._name = path
        self._made: tuple[int, int] | None = None
        self._folder = -1

    def lets_in(self, uid: int) -> bool:
        """Return whether this user is meant; who finds a socket of one user's open is not (a chmod, a container)."""
        return self._open_to_all or uid in {0, os.geteuid()}

    def bind(self) -> socket.socket:
        """Return a socket that has the name. Raises ListenError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._name = self._short()
            self._make_folder()
            self._remove_stale()
            os.fchmod(sock.fileno(), self._mode)  # before bind(2): the name is never there with wider permissions
            sock.bind(self._name)
            Path(self._name).chmod(self._mode)  # after it: the umask took some away
            self._made = _identity(self._name)
            if self._name != self._path:
                Path(address_file(self._path)).write_text(self._name)
        except OSError as error:
            sock.close()
            where = f" ({error.filename})" if error.filename else ""
            raise ListenError(
                f"the socket {self._path} cannot be made: {error.strerror}{where}",
                "choose another place with --socket or --state-dir",
            ) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def vanished(self) -> bool:
        """Return whether nothing has the name any more. Another's socket of that name is let be."""
        return _identity(self._name) is None

    def watch(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Call `changed` when a name beside it goes; never where the kernel cannot tell.

        By dnotify (F_NOTIFY in fcntl(2)): inotify would take ctypes, and one of few instances that a user may have.
        """
        self._unwatch()
        with suppress(OSError, RuntimeError, ValueError):  # the latter two: only the main thread has signals
            loop.add_signal_handler(signal.SIGIO, changed)
            self._folder = os.open(Path(self._name).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.fcntl(self._folder, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT)

    def remove(self) -> None:
        """Take the name away, if it is still this one."""
        self._unwatch()
        if self._made is not None and _identity(self._name) == self._made:
            Path(self._name).unlink(missing_ok=True)
            if self._name != self._path:
                Path(address_file(self._path)).unlink(missing_ok=True)
                with suppress(OSError):  # there may be others in it
                    Path(self._name).parent.rmdir()

    def _short(self) -> str:
        """Return the path itself where it can be bound, else a short name that is the same at every start."""
        if len(os.fsencode(self._path)) <= ADDRESS_MAX:
            return self._path
        if self._open_to_all:
            raise ListenError(
                f"the socket path {self._path} is longer than {ADDRESS_MAX} bytes", "choose a shorter one with --socket"
            )
        Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            folder = private_dir()
        except AddressError as error:
            raise ListenError(str(error), error.hint) from error
        return f"{folder}/{hashlib.sha256(os.fsencode(self._path)).hexdigest()[:16]}.sock"

    def _make_folder(self) -> None:
        folder = Path(self._name).parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            if self._open_to_all:
                folder.chmod(0o755)  # mkdir(2) would have left that to the umask

    def _remove_stale(self) -> None:
        """Take away what a gpud that was killed left behind."""
        try:
            found = os.lstat(self._name)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ListenError(f"{self._name} is there already, and is not a socket", "choose another with --socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            refused = probe.connect_ex(self._name)
        if refused in {0, errno.EAGAIN}:
            raise ListenError(f"another gpud answers on {self._path}", "gpuctl daemon status says which")
        Path(self._name).unlink(missing_ok=True)

    def _unwatch(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
