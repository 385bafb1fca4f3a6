"""The socket: who speaks, whether it is a request at all, and answers out.

What reaches the loop from here is checked: a client that said hello in a version that both speak, known to the
kernel (SO_PEERCRED), and a request that is what the protocol's page says. Everything else ends here, with an error
reply, at the cost of that one connection: garbage, silence, half a frame, a reader that does not read.

Answers of one turn of the event loop leave in one write.
"""

import asyncio
import ctypes
import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpud.check import Wrong, check, check_value, nearest
from gpud.listen import Doorplate, ListenError
from gpud.wire.codec import HELLO_MAX, ITEMS_MAX, PROTOCOL, PROTOCOL_OLDEST, FrameError, Frames, Message, pack
from gpud.wire.messages import REQUESTS, Error

log = logging.getLogger(__name__)

UNREAD_MAX = 8 * 1024 * 1024  # bytes of answers that wait for their reader, before more are added
_PAUSE_AT = 1024 * 1024  # bytes of unread answers at which no more requests are read
_LAST_WORDS_S = 30.0
_LOOK_S = 30.0
_MESSAGE_MOST = 1_000
_BACKLOG = 1024
_OTHER_FILES = 512
_SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)  # include/uapi/asm-generic/socket.h


class Peer(asyncio.Protocol):
    """A client's connection; `uid`, `gid` and `pid` are the kernel's word for who connected.

    `protocol` is the version that both speak, -1 before the hello. Once `closed`, whatever is sent goes nowhere.
    """

    def __init__(self, server: "Server") -> None:
        self.uid = self.gid = self.pid = -1
        self.protocol = -1
        self.closed = False
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(first_limit=HELLO_MAX, items_max=ITEMS_MAX)
        self._answers: list[bytes] = []
        self._unsent = 0
        self._deadline: asyncio.TimerHandle | None = None

    def groups(self) -> tuple[int, ...]:
        """Return the supplementary groups that the client had when it connected."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or self.closed:
            return ()
        try:
            found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            found = _many_groups(sock.fileno())
        return struct.unpack(f"={len(found) // 4}I", found)

    def reply(self, request: int, answer: Message) -> None:
        """Answer a request, by its id."""
        try:
            self._send(pack({"id": request, "ok": True, **answer}))
        except FrameError as error:
            self.error(request, Error(code="frame", message=str(error), hint="ask for less at once"))

    def error(self, request: int | None, error: Error) -> None:
        """Refuse a request, by its id; None for what was none."""
        if len(error["message"]) > _MESSAGE_MOST:  # it quotes what was sent
            error = {**error, "message": f"{error['message'][:_MESSAGE_MOST]}..."}
        self._send(pack({"id": request, "ok": False, "error": error}))

    def push(self, message: Message) -> None:
        """Send what was not asked for: an event, to a subscriber."""
        self._send(pack(message))

    def hang_up(self) -> None:
        """Close the connection once everything sent has been read; nothing more is read from it."""
        if not self.closed:
            self._flush()
            self.closed = True
            self._transport.close()
            self._set_deadline(_LAST_WORDS_S, "last answers unread")

    def cut(self, why: str) -> None:
        """Close the connection now, whatever is on its way."""
        log.info("client cut off (pid %d, uid %d): %s", self.pid, self.uid, why)
        self.closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who it is, and wait for the hello."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream server makes no other
        self._transport = transport
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid, self.uid, self.gid = struct.unpack("3i", credentials)
        transport.set_write_buffer_limits(high=_PAUSE_AT)
        if self._server.admit(self):
            self._set_deadline(self._server.hello_timeout_s, "no hello")
        else:
            self._refuse("busy", "too many connections", "close some, or wait")

    def data_received(self, data: bytes) -> None:
        """Take the messages that are whole."""
        broken = None
        try:
            messages = self._frames.feed(data)
        except FrameError as error:
            messages, broken = error.before, error
        for message in messages:
            self._take(message)
        if broken is not None:
            self._refuse("frame", f"that is not gpud's protocol: {broken}", None)
        elif self.protocol >= 0:
            self._watch_half_frame(began=bool(messages))

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        if not self.closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if not self.closed:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it ended changes nothing
        """Forget it."""
        self.closed = True
        self._set_deadline(None)
        self._answers.clear()
        self._server.forget(self)

    def _take(self, message: Message) -> None:
        if self.closed:
            return
        if self.protocol >= 0:
            self._request(message)
        else:
            self._hello(message)

    def _hello(self, message: Message) -> None:
        """Agree on a version. Keys that are not known here are a newer client's, and no harm."""
        spoken: Any = message.get("protocol")
        try:
            check_value(list[int], spoken, "protocol")
            low, high = spoken
        except (Wrong, ValueError):
            self._refuse("protocol", "the first message must be a hello: the versions it speaks, from and to", None)
            return
        agreed = min(high, PROTOCOL)
        if agreed < max(low, PROTOCOL_OLDEST):
            theirs = f"{low} to {high}"
            self._refuse(
                "protocol",
                f"gpud speaks versions {PROTOCOL_OLDEST} to {PROTOCOL} of the protocol, the client {theirs}",
                f"update the older of the two: {'gpud' if low > PROTOCOL else 'gpuctl'}",
                protocol=[PROTOCOL_OLDEST, PROTOCOL],
            )
            return
        self.protocol = agreed
        self._set_deadline(None)
        self._send(pack({**self._server.welcome(), "protocol": agreed}))

    def _request(self, message: Message) -> None:
        request = message.get("id")
        op: Any = message.get("op")
        try:
            check_value(str, op, "op")
            if op not in REQUESTS:
                raise Wrong(f"unknown request {op!r}", nearest(op, REQUESTS))  # noqa: TRY301 - answered below
            check(REQUESTS[op], message)
        except Wrong as wrong:
            self.error(
                request if type(request) is int else None,
                Error(code=wrong.code, message=wrong.message, hint=wrong.hint),
            )
            return
        if op == "ping":
            self.reply(message["id"], {})
        else:
            self._server.on_request(self, message)

    def _refuse(self, code: str, message: str, hint: str | None, **more: object) -> None:
        """Say why, and hang up."""
        if self.closed:
            return
        self._send(pack({"id": None, "ok": False, "error": Error(code=code, message=message, hint=hint), **more}))
        self.hang_up()

    def _send(self, frame: bytes) -> None:
        if self.closed:
            return
        unread = self._unsent + self._transport.get_write_buffer_size()
        if unread > UNREAD_MAX:
            self.cut(f"{unread >> 20} MiB of answers unread")
            return
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(frame)
        self._unsent += len(frame)

    def _flush(self) -> None:
        if self._answers and not self.closed:
            self._transport.write(b"".join(self._answers))
        self._answers.clear()
        self._unsent = 0

    def _watch_half_frame(self, *, began: bool) -> None:
        """Give a frame that has begun its time: one timer for each frame, however slowly it trickles."""
        if self.closed or not self._frames.partial:
            self._set_deadline(None)
        elif began or self._deadline is None:
            self._set_deadline(self._server.half_frame_s, "half a frame")

    def _set_deadline(self, after_s: float | None, why: str = "") -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if after_s is None else self._loop.call_later(after_s, self.cut, why)


class Server:
    """Listens on a Unix socket and hands checked requests to `on_request`, on the event loop's thread.

    `address` is the path that people name; `mode` its permissions (0600: one user's, 0666: everybody's).
    `welcome` says what a client is told besides the version. `on_gone` hears of every connection that ended.
    `still_here` is asked before a socket that vanished is bound anew.
    """

    def __init__(
        self,
        address: str,
        *,
        on_request: Callable[[Peer, Message], None],
        welcome: Callable[[], Message],
        mode: int = 0o600,
        on_gone: Callable[[Peer], None] = lambda _: None,
        still_here: Callable[[], bool] = lambda: True,
        max_connections: int = 4096,
        max_per_user: int | None = None,
        hello_timeout_s: float = 10.0,
        half_frame_s: float = 30.0,
    ) -> None:
        self.address = address
        self.on_request = on_request
        self.welcome = welcome
        self.hello_timeout_s = hello_timeout_s
        self.half_frame_s = half_frame_s
        self._on_gone = on_gone
        self._still_here = still_here
        self._max_connections = max_connections
        self._max_per_user = max_per_user
        self._peers: set[Peer] = set()
        self._empty = asyncio.Event()
        self._listening: list[asyncio.Server] = []
        self._name = Doorplate(address, mode)
        self._name_changed = asyncio.Event()
        self._guard: asyncio.Task[None] | None = None

    async def start(self, listen_fd: int | None = None) -> None:
        """Listen: on the path, or on a socket that was passed on (by systemd). Raises ListenError."""
        self._max_connections = _make_room(self._max_connections)
        if listen_fd is not None:
            await self._listen(socket.socket(fileno=listen_fd))
            return
        await self._bind()
        self._guard = asyncio.create_task(self._guard_name())

    def quiet(self) -> None:
        """Take no more connections or requests; what has been taken may still be answered."""
        for listening in self._listening:
            listening.close()
        for peer in self._peers:
            peer.pause_writing()

    async def close(self, drain_s: float = 5.0) -> None:
        """Take no more connections or requests, let everybody read their answers for `drain_s`, and end."""
        if self._guard is not None:
            self._guard.cancel()
            self._name.remove()
        for listening in self._listening:
            listening.close()
        for peer in list(self._peers):
            peer.hang_up()
        if self._peers:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._empty.wait()
        for peer in list(self._peers):
            peer.cut("it did not read its answers before the end")

    def admit(self, peer: Peer) -> bool:
        """Count a new connection; False when it is one too many, in all or of its user."""
        self._peers.add(peer)
        if len(self._peers) > self._max_connections:
            return False
        return self._max_per_user is None or sum(other.uid == peer.uid for other in self._peers) <= self._max_per_user

    def forget(self, peer: Peer) -> None:
        """Take a connection that ended off the list, and tell."""
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()
        self._on_gone(peer)

    async def _bind(self) -> None:
        await self._listen(self._name.bind())
        self._name.watch(asyncio.get_running_loop(), self._name_changed.set)

    async def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # Not create_unix_server: from 3.13 on it removes the path at the end, systemd's own included.
        loop = asyncio.get_running_loop()
        self._listening.append(await loop.create_server(lambda: Peer(self), sock=sock, backlog=_BACKLOG))

    async def _guard_name(self) -> None:
        """Bind the socket anew whenever its name vanished; look now and then too, for not every kernel tells."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._name_changed.wait()
            self._name_changed.clear()
            if self._name.vanished() and self._still_here():
                log.warning("the socket %s vanished; binding it anew", self.address)
                try:
                    await self._bind()  # the old one stays open, for who had connected to it already
                except ListenError as error:
                    log.warning("%s", error)


def _make_room(connections: int) -> int:
    """Raise the limit on open files so that this many connections fit beside `_OTHER_FILES`; return how many do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft < wanted:  # never -1, unlimited: Linux has a limit for every process's files
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(soft - _OTHER_FILES, soft // 2))


def _many_groups(fd: int) -> bytes:
    """Return SO_PEERGROUPS of more groups than fit into 1,024 bytes, which is all that Python's getsockopt takes."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_uint32(65536 * 4)  # NGROUPS_MAX
    found = ctypes.create_string_buffer(size.value)
    if libc.getsockopt(fd, socket.SOL_SOCKET, _SO_PEERGROUPS, found, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found.raw[: size.value]
