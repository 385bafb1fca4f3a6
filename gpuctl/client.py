"""One conversation with gpud: a blocking Unix socket, requests answered in order, events pushed.

A request whose answer was lost with its connection (gpud was restarted, or killed) is sent again where that is
safe: reads, and everything that may be done twice. A submit is among them, since its nonce makes a second one
return the first one's job. Once connected, a client never times out; `told` hears once of a gpud that keeps silent.

Costs what `socket` and `msgpack` cost to import; `gpuctl submit` has no time for more.
"""

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from gpuctl.errors import GpuctlError, NotPermittedError, RefusedError, UnreachableError, refusal
from gpud import __version__
from gpud.wire import address
from gpud.wire.codec import PROTOCOL, PROTOCOL_OLDEST, FrameError, Frames, pack

ONCE = frozenset({"requeue", "interrupt", "signal", "submit_many"})  # done twice, these do something else
TRIES = 4  # of what may be done twice: a gpud may be killed again and again, but not for ever
PATIENCE_S = 60.0  # for a gpud that says that one asks too much, and when to ask again
COMES_BACK_S = 15.0  # longer than a service manager takes to start gpud again
SILENT_S = 5.0  # then who waits for an answer is told whom they wait for
RESTARTS_WITHIN_S = 5.0  # one's own, which no service manager starts


def _pause() -> None:
    time.sleep(0.1)


class ConnectionLostError(UnreachableError):
    """gpud closed the connection, or died."""


class TurnedAwayError(ConnectionLostError):
    """gpud cannot start, and said why to those who waited for it."""


class Client:
    """A connection to the gpud on `path` (default: `$GPUD_SOCKET`, the system's gpud, one's own), open at once.

    `start` is called when nobody answers; it returns whether somebody should by now, or raises UnreachableError.
    `told` is called with words, once, while an answer is waited for in vain.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        start: Callable[[], bool] | None = None,
        told: Callable[[str], object] | None = None,
    ) -> None:
        self.path = socket_path(path)
        self.welcome: dict[str, Any] | None = None
        self._start = start
        self._told = told
        self._last_id = 0
        self._socket: socket.socket
        self._unsent: bytes
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; jobs do not notice."""
        self._socket.close()

    def give_up(self) -> None:
        """Have who waits for an answer in another thread hear that none comes. Raises OSError where it is over."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def listener(self) -> int:
        """Return the pid here of the process that listens: gpud, or systemd for it; 0 for one that is not seen here."""
        return _listener(self._socket)

    def fileno(self) -> int:
        """Return the socket, for poll: when it is readable, `pushed` has something or the connection is over."""
        return self._socket.fileno()

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Return gpud's reply. Raises RefusedError when it says no, UnreachableError when it is gone."""
        left, patience_s = TRIES, PATIENCE_S
        while True:
            try:
                return self._ask(op, fields)
            except RefusedError as refused:
                patience_s -= self._wait_for(refused, patience_s)
                continue
            except ConnectionLostError as lost:
                left -= 1
                # Subscribed: what it was to be told of is lost, too; who follows begins anew.
                if self._subscribed or not left or isinstance(lost, TurnedAwayError):
                    raise
                if op in ONCE:
                    raise ConnectionLostError(f"{lost.message}; perhaps it did as asked", hint=lost.hint) from lost
            self._reopen()
            if op == "submit":
                fields["retry"] = True

    def _wait_for(self, refused: RefusedError, patience_s: float) -> float:
        """Wait until gpud would take what it refused; return how long that was. Raises what it was, beyond patience."""
        wait_s = refused.retry_after_s if refused.code == "busy" else None
        if wait_s is None or not 0.0 <= wait_s <= patience_s:
            raise refused
        wait_s = (wait_s + 0.01) * (1.0 + time.monotonic_ns() % 1000 / 1000)  # many who wait shall not come all at once
        time.sleep(wait_s)
        if self.welcome is None:  # it was the connection that was one too many
            self.reconnect(RESTARTS_WITHIN_S)
        return wait_s

    def reconnect(self, within_s: float, pause: Callable[[], object] = _pause) -> None:
        """Connect anew when the connection was lost; wait for gpud to come back. Raises UnreachableError.

        `pause` is what is done between two tries.
        """
        deadline = time.monotonic() + within_s
        self.close()
        while True:
            try:
                return self._open(start=False)
            except UnreachableError:
                if time.monotonic() >= deadline:
                    raise
            pause()

    def come_back(self, pause: Callable[[], object] = _pause) -> None:
        """Connect anew, however long that takes; one's own gpud that died is started when nobody else does it soon.

        Raises UnreachableError when that one cannot start.
        """
        while True:
            try:
                return self.reconnect(RESTARTS_WITHIN_S, pause)
            except UnreachableError:
                if self._start is not None and not self.was_stopped:
                    self._start()

    @property
    def was_stopped(self) -> bool:
        """Return whether somebody told gpud to stop: who waits for it leaves the next start to them."""
        return os.path.exists(address.stopped_file(self.path))

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what gpud pushes after a `subscribe`, for ever. Raises ConnectionLostError when it goes."""
        while True:
            yield from self.pushed(wait=True)

    def has_pushed(self) -> bool:
        """Return whether something pushed has arrived already, with an earlier reply: poll would not tell of it."""
        return bool(self._arrived)

    def pushed(self, *, wait: bool) -> list[dict[str, Any]]:
        """Return what gpud has pushed; with `wait`, at least one thing. Raises ConnectionLostError."""
        if not self._arrived and (wait or self._readable()):
            self._receive()
        pushed = [message for message in self._arrived if message.get("id") is None]
        self._arrived.clear()
        return pushed

    def _ask(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        self._last_id += 1
        try:
            frame = pack({"op": op, "id": self._last_id, **fields})
        except FrameError as error:
            raise GpuctlError(f"the request is too large: {error}") from error
        try:
            self._socket.sendall(self._unsent + frame)
        except OSError:  # it may have said why before it hung up
            self._unsent = b""
        self._unsent = b""
        while True:
            reply = self._reply()
            if reply.get("id") in (self._last_id, None):
                break
        if not reply.get("ok", False):
            raise refusal(reply["error"])
        self._subscribed |= op == "subscribe"
        return reply

    def _reply(self) -> dict[str, Any]:
        """Return the next message that answers something; what was pushed meanwhile is kept."""
        kept: list[dict[str, Any]] = []
        while True:
            while self._arrived:
                message = self._arrived.popleft()
                if "ok" in message:
                    self._arrived.extendleft(reversed(kept))
                    return message
                kept.append(message)
            self._tell_of_silence()
            self._receive()

    def _tell_of_silence(self) -> None:
        if self._told is None or self.path.startswith(address.SSH):  # ssh may be asking for a password
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(SILENT_S * 1000):
            told, self._told = self._told, None
            told(_silent(self._socket))

    def _receive(self) -> None:
        """Wait for bytes; keep the messages that they complete."""
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        if not data:
            raise self._lost("it closed the connection")
        try:
            messages = self._frames.feed(data)
        except FrameError as error:
            raise GpuctlError(f"what answers on {self.path} is no gpud: {error}") from error
        if self.welcome is None and messages:
            self.welcome = checked(messages.pop(0))
        self._arrived.extend(messages)

    def _readable(self) -> bool:
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK)) or True  # an end is something to read, too
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.setblocking(True)

    def _open(self, *, start: bool = True) -> None:
        self._frames = Frames()
        self._arrived: deque[dict[str, Any]] = deque()
        self._subscribed = False
        self.welcome = None
        hello = {"protocol": [PROTOCOL_OLDEST, PROTOCOL], "version": __version__}
        self._unsent = pack(hello)  # sent with the first request: one system call less, and no round trip
        for left in reversed(range(TRIES)):
            try:
                self._socket = _connected(self.path, again=not start)
            except UnreachableError:  # perhaps again: who was started may have been killed already
                if not left or not start or self._start is None or not self._start():
                    raise
            else:
                return

    def _reopen(self) -> None:
        """Connect anew; somebody may be restarting gpud, and knows its options. Where nobody is, start it."""
        try:
            self.reconnect(COMES_BACK_S if self._start is None else RESTARTS_WITHIN_S)
        except UnreachableError:
            if self._start is None:
                raise
            self._open()

    def _lost(self, why: str) -> UnreachableError:
        if self.welcome is None and self.path.startswith(address.SSH):
            from gpuctl.remote import relaying  # noqa: PLC0415 - as above

            failed = relaying.failure(self.path, self._socket)
            if failed is not None:
                return failed
        return ConnectionLostError(f"gpud on {self.path} went away: {why}", hint="gpuctl daemon status")


def checked(first: dict[str, Any]) -> dict[str, Any]:
    """Return the Welcome. Raises RefusedError for a gpud that speaks another protocol, TurnedAwayError for none."""
    if first.get("ok") is False or "error" in first:
        error = refusal(first["error"])
        if error.code == "unavailable":
            raise TurnedAwayError(error.message, hint=error.hint)
        if error.code == "protocol":
            error.hint = error.hint or (
                f"this gpuctl ({__version__}) speaks protocol {PROTOCOL_OLDEST} to {PROTOCOL}: "
                "upgrade the older of the two; after an upgrade: gpuctl daemon restart"
            )
        raise error
    return first


def socket_path(explicit: str | None) -> str:
    """Return the path of the socket to speak to, or the address of one over ssh. Raises GpuctlError."""
    if explicit is not None and explicit.startswith(address.SSH):
        return explicit
    try:
        return address.socket_path(explicit)
    except address.AddressError as error:
        raise GpuctlError(str(error), hint=error.hint) from error


def _connected(path: str, *, again: bool) -> socket.socket:
    """Return a connected socket; `again`: one was lost. Raises UnreachableError, or NotPermittedError."""
    if path.startswith(address.SSH):
        from gpuctl.remote import relaying  # noqa: PLC0415 - most gpuds are here

        return relaying.connected(path, again=again)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address.reachable(path))
    except OSError as error:
        connection.close()
        raise unreachable(path, error) from error
    return connection


def _listener(connection: socket.socket) -> int:
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _silent(connection: socket.socket) -> str:
    """Return who keeps silent; a gpud that was stopped (Ctrl-Z, SIGSTOP) answers when it goes on."""
    words = f"gpud has not answered for {SILENT_S:.0f} s"
    pid = _listener(connection)
    if pid <= 1:  # out of sight, or systemd, which listens for it
        return words
    words = f"gpud (process {pid}) has not answered for {SILENT_S:.0f} s"
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stopped = file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except OSError:
        return words
    return f"{words}: it is stopped; kill -CONT {pid} lets it go on" if stopped else words


def unreachable(path: str, error: OSError) -> GpuctlError:
    """Return what is raised for a socket that cannot be connected to."""
    if error.errno is None:  # refused by Python, before the kernel saw it
        hint = f"a path may have {address.ADDRESS_MAX} bytes; a gpud that runs there says its short one beside it"
        return UnreachableError(f"the socket path {path} is too long, and no gpud runs there", hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(f"no permission on gpud's socket {path}", hint=_whose(path))
    return UnreachableError(
        f"gpud does not answer on {path}: {error.strerror or error}",
        hint="start it: gpuctl daemon start; what keeps it: gpuctl doctor",
    )


def _whose(path: str) -> str:
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return "a directory above it may not be entered; is it another user's gpud?"
    return f"it belongs to user {owner}, you are {os.getuid()}; without --socket you get your own gpud"
