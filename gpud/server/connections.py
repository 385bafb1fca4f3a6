"""The socket: who speaks, whether it is a request at all, and answers out.

What reaches the loop from here is checked: a client that said hello in a version that both speak, known to the
kernel (SO_PEERCRED), and a request that is what the protocol's page says. Everything else ends here, with an error
reply, at the cost of that one connection: garbage, silence, half a frame, a reader that does not read.

Answers of one turn of the event loop leave in one write.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpud.server.allowance import PAUSE_LEAST_S, SECOND, Allowance, Buckets, allows, room_for
from gpud.server.credentials import credentials, groups
from gpud.server.listen import Door, Doorplate, ListenError, refusal
from gpud.wire.check import Wrong, check, check_value, nearest
from gpud.wire.codec import HELLO_MAX, ITEMS_MAX, PROTOCOL, PROTOCOL_OLDEST, FrameError, Frames, Message, pack
from gpud.wire.messages import REQUESTS, Error

log = logging.getLogger(__name__)

UNREAD_MAX = 8 * 1024 * 1024  # bytes of answers that wait for their reader, before more are added
_PAUSE_AT = 1024 * 1024  # bytes of unread answers at which no more requests are read
_OF_USER_MAX = 64 * 1024 * 1024  # bytes of one user's unread answers, and as many of their unfinished requests
_FOR_ROOT = 16  # connections beyond the most
_LAST_WORDS_S = 30.0
_LOOK_S = 30.0
_MESSAGE_MOST = 1_000


class Peer(asyncio.Protocol):
    """A client's connection; `uid`, `gid` and `pid` are the kernel's word for who connected.

    `protocol` is the version that both speak, -1 before the hello. Once `closed`, whatever is sent goes nowhere.
    """

    def __init__(self, server: "Server") -> None:
        self.uid = self.gid = self.pid = -1
        self._groups: tuple[int, ...] = ()
        self.protocol = -1
        self.closed = False
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(server.buckets.allowance.frame, first_limit=HELLO_MAX, items_max=ITEMS_MAX)
        self._waiting: deque[Message] = deque()  # came together with what was too much
        self._pause: asyncio.TimerHandle | None = None  # of a client that asks for too much
        self._reads = True  # whether it reads its answers
        self._answers: list[bytes] = []
        self._unsent = 0
        self._deadline: asyncio.TimerHandle | None = None

    def groups(self) -> tuple[int, ...]:
        """Return the supplementary groups that the client had when it connected, also once it has gone."""
        return self._groups

    def reply(self, request: int, answer: Message) -> None:
        """Answer a request, by its id."""
        try:
            frame = pack({"id": request, "ok": True, **answer})
            self.charge(len(frame))
            self._send(frame)
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

    def charge(self, size: int) -> None:
        """Count work that this client asked for, as if it were so many bytes."""
        self._server.buckets.moved(self.uid, size, self._loop.time())

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
        sock = transport.get_extra_info("socket")
        (self.pid, self.uid, self.gid), self._groups = credentials(sock), groups(sock)
        transport.set_write_buffer_limits(high=_PAUSE_AT)
        if not self._server.lets_in(self.uid):
            hint = "without --socket and GPUD_SOCKET you get your own"
            self._refuse("not_permitted", "this gpud serves another user alone", hint)
        elif self._server.admit(self):
            self._set_deadline(self._server.hello_timeout_s, "no hello")
        else:
            self._refuse("busy", "too many connections", "close some, or wait", retry_after_s=1.0)

    def data_received(self, data: bytes) -> None:
        """Take the messages that are whole."""
        began, broken = time.thread_time(), None
        try:
            messages = self._frames.feed(data)
        except FrameError as error:
            messages, broken = error.before, error
        self._waiting.extend(messages)
        self._take_waiting()
        self.charge(len(data) + int((time.thread_time() - began) * SECOND))
        if self.unfinished > _PAUSE_AT and self.uid and self._server.too_much(self.uid, lambda peer: peer.unfinished):
            self._refuse("busy", "too many large requests at once", "send them one by one", retry_after_s=1.0)
        if broken is not None:
            self._refuse("frame", f"that is not gpud's protocol: {broken}", None)
        elif self.protocol >= 0:
            self._watch_half_frame(began=bool(messages))

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        self._reads = False
        if not self.closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._reads = True
        if not self.closed and self._pause is None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it ended changes nothing
        """Forget it."""
        self.closed = True
        self._set_deadline(None)
        if self._pause is not None:
            self._pause.cancel()
        self._answers.clear()
        self._waiting.clear()
        self._server.forget(self)

    @property
    def unread(self) -> int:
        """Return how many bytes of answers this client has not read."""
        return self._unsent + (0 if self.closed else self._transport.get_write_buffer_size())

    @property
    def unfinished(self) -> int:
        """Return how many bytes have come of a request that is not whole."""
        return self._frames.partial

    def _take_waiting(self) -> None:
        while self._waiting and self._pause is None:
            self._take(self._waiting.popleft())

    def _go_on(self) -> None:
        """Take what came before the pause, then read on."""
        self._pause = None
        self._take_waiting()
        if self._pause is None and self._reads and not self.closed:
            self._transport.resume_reading()

    def _too_many(self, request: int, wait_s: float) -> None:
        """Refuse a request, and read no more of this client until another would be taken: refusing costs, too."""
        wait_s = max(wait_s, PAUSE_LEAST_S)
        hint = f"try again in {wait_s:.1f} s; many jobs alike are one with --array"
        self.error(request, Error(code="busy", message="too many requests of yours", hint=hint, retry_after_s=wait_s))
        self._pause = self._loop.call_later(wait_s, self._go_on)
        if not self.closed:
            self._transport.pause_reading()

    def _take(self, message: Message) -> None:
        if not self.closed:
            take = self._request if self.protocol >= 0 else self._hello
            take(message)

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
            said = f"gpud speaks versions {PROTOCOL_OLDEST} to {PROTOCOL} of the protocol, the client {low} to {high}"
            hint = f"update the older of the two: {'gpud' if low > PROTOCOL else 'gpuctl'}"
            self._refuse("protocol", said, hint, protocol=[PROTOCOL_OLDEST, PROTOCOL])
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
        wait_s = self._server.buckets.take(self.uid, self._loop.time())
        if wait_s:
            self._too_many(message["id"], wait_s)
        elif op == "ping":
            self.reply(message["id"], {})
        else:
            self._server.on_request(self, message)

    def _refuse(
        self, code: str, message: str, hint: str | None, *, retry_after_s: float | None = None, **more: object
    ) -> None:
        """Say why, and hang up."""
        if self.closed:
            return
        self._send(refusal(code, message, hint, retry_after_s, **more))
        self.hang_up()

    def _send(self, frame: bytes) -> None:
        if self.closed:
            return
        unread = self.unread
        if unread > UNREAD_MAX or (
            unread > _PAUSE_AT and self.uid and self._server.too_much(self.uid, lambda peer: peer.unread)
        ):
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
    `still_here` is asked before a socket that vanished is bound anew. `allowance` is what each user may have.
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
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
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
        self.buckets = Buckets(allowance)
        self._peers: set[Peer] = set()
        self._of: dict[int, set[Peer]] = {}  # those of each user
        self._empty = asyncio.Event()
        self._doors: list[Door] = []
        self._name = Doorplate(address, mode)
        self.lets_in = self._name.lets_in
        self._name_changed = asyncio.Event()
        self._guard: asyncio.Task[None] | None = None

    async def start(self, listen_fd: int | None = None) -> None:
        """Listen: on the path, or on a socket that was passed on (by systemd). Raises ListenError."""
        self._max_connections = room_for(self._max_connections)
        if listen_fd is not None:
            self._listen(socket.socket(fileno=listen_fd))
            self._name.watch(asyncio.get_running_loop(), self._name_changed.set)
        else:
            self._bind()
        self._guard = asyncio.create_task(self._guard_name())

    def quiet(self) -> None:
        """Take no more connections or requests; what has been taken may still be answered."""
        for door in self._doors:
            door.close()
        for peer in self._peers:
            peer.pause_writing()

    async def close(self, drain_s: float = 5.0) -> None:
        """Take no more connections or requests, let everybody read their answers for `drain_s`, and end."""
        if self._guard is not None:
            self._guard.cancel()
            self._name.remove()
        for door in self._doors:
            door.close()
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
        own = self._of.setdefault(peer.uid, set())
        own.add(peer)
        room = self._max_connections + (0 if peer.uid else _FOR_ROOT)
        return len(self._peers) <= room and allows(self.buckets.allowance.connections, peer.uid, len(own))

    def allow(self, allowance: Allowance) -> None:
        """Hold every user to other bounds from now on; a connection keeps the largest request that it began with."""
        self.buckets.allowance = allowance

    def too_much(self, uid: int, size: Callable[[Peer], int]) -> bool:
        """Return whether a user's connections hold too many bytes of something together."""
        return sum(map(size, self._of.get(uid, ()))) > _OF_USER_MAX

    def forget(self, peer: Peer) -> None:
        """Take a connection that ended off the list, and tell."""
        self._peers.discard(peer)
        own = self._of.get(peer.uid, set())
        own.discard(peer)
        if not own:
            self._of.pop(peer.uid, None)
        if not self._peers:
            self._empty.set()
        self._on_gone(peer)

    def _bind(self) -> None:
        self._listen(self._name.bind())
        self._name.watch(asyncio.get_running_loop(), self._name_changed.set)

    def _listen(self, sock: socket.socket) -> None:
        self._doors.append(Door(sock, self._turned_away, lambda: Peer(self)))

    def _turned_away(self, sock: socket.socket) -> bytes | None:
        """Return what a connection is told whose user asks for too much already; None where it may come in."""
        wait_s = self.buckets.take(credentials(sock)[1], asyncio.get_running_loop().time())
        if not wait_s:
            return None
        return refusal("busy", "too many requests of yours", f"try again in {wait_s:.1f} s", wait_s)

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
                    self._bind()  # the old one stays open, for who had connected to it already
                except ListenError as error:
                    log.warning("%s", error)
