"""One conversation with gpud on streams of asyncio: many requests at once, each with its own answer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from gpuctl.client import TRIES, ConnectionLostError, TurnedAwayError, checked, unreachable
from gpuctl.errors import GpuctlError, UnreachableError, refusal
from gpud import __version__
from gpud.wire import address
from gpud.wire.codec import PROTOCOL, PROTOCOL_OLDEST, FrameError, Frames, pack

if TYPE_CHECKING:
    from gpud.wire.messages import Event

_CHUNK = 1 << 18


class Stream:
    """A connection, made by `Stream.open`; over, for all who wait, as soon as gpud is gone."""

    def __init__(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.welcome: dict[str, Any] | None = None
        self._reader, self._writer = reader, writer
        self._last_id = 0
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._arrived: deque[dict[str, Any]] = deque()
        self._told = asyncio.Event()
        self.lost: GpuctlError | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, path: str) -> "Stream":
        """Return a connection to the gpud on a socket. Raises UnreachableError, NotPermittedError."""
        try:
            reader, writer = await asyncio.open_unix_connection(address.reachable(path))
        except OSError as error:
            raise unreachable(path, error) from error
        writer.write(pack({"protocol": [PROTOCOL_OLDEST, PROTOCOL], "version": __version__}))
        return cls(path, reader, writer)

    def close(self) -> None:
        """Hang up; jobs do not notice."""
        self._reading.cancel()
        self._writer.close()

    async def ask(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return gpud's reply. Raises RefusedError, and ConnectionLostError."""
        future = self.send(op, fields)
        try:
            await self._writer.drain()
        except OSError:
            pass  # it may have said why before it hung up
        except asyncio.CancelledError:
            future.cancel()
            raise
        return await future

    def send(self, op: str, fields: dict[str, Any]) -> "asyncio.Future[dict[str, Any]]":
        """Send a request; return what will be its reply."""
        if self.lost is not None:
            raise self.lost
        self._last_id += 1
        try:
            frame = pack({"op": op, "id": self._last_id, **fields})
        except FrameError as error:
            raise GpuctlError(f"the request is too large: {error}") from error
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[self._last_id] = future
        self._writer.write(frame)
        return future

    async def pushed(self) -> dict[str, Any]:
        """Return the next message that answers nothing. Raises ConnectionLostError once there is none."""
        while not self._arrived:
            if self.lost is not None:
                raise self.lost
            self._told.clear()
            await self._told.wait()
        return self._arrived.popleft()

    async def _read(self) -> None:
        frames = Frames()
        error: GpuctlError = self._gone("it closed the connection")
        try:
            while data := await self._reader.read(_CHUNK):
                for message in frames.feed(data):
                    self._take(message)
        except OSError as problem:
            error = self._gone(problem.strerror or str(problem))
        except FrameError as problem:
            error = GpuctlError(f"what answers on {self.path} is no gpud: {problem}")
        except GpuctlError as problem:
            error = problem
        finally:  # also where it was closed
            self.lost = error
            self._told.set()
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(error)
            self._asked.clear()
            self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        """Give a message to who waits for it. Raises GpuctlError for a gpud that does not speak with us."""
        if self.welcome is None:
            self.welcome = checked(message)
        elif "ok" not in message:
            self._arrived.append(message)
            self._told.set()
        elif message.get("id") is None:
            raise refusal(message["error"])
        else:
            future = self._asked.pop(message["id"])
            if not future.done():  # else it was cancelled
                if message["ok"]:
                    future.set_result(message)
                else:
                    future.set_exception(refusal(message["error"]))

    def _gone(self, why: str) -> ConnectionLostError:
        return ConnectionLostError(f"gpud on {self.path} went away: {why}", hint="gpuctl daemon status")


class AsyncEvents:
    """What happens, one event after the other, without end; `async with` begins at once, else the first step does."""

    def __init__(
        self, connect: Callable[[], Awaitable[Stream]], jobs: list[str], since: int | None, *, readings: bool = False
    ) -> None:
        self._connect = connect
        self._narrowed: dict[str, Any] = ({"jobs": jobs} if jobs else {}) | ({"readings": True} if readings else {})
        self._since = since
        self._stream: Stream | None = None

    async def __aenter__(self) -> Self:
        await self._subscribed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Event":
        while True:
            message = await self.pushed()
            if "event" in message:
                return cast("Event", message["event"])

    async def aclose(self) -> None:
        """Stop listening."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def pushed(self) -> dict[str, Any]:
        """Return the next message that gpud pushes: an event, or that GPUs were read anew."""
        while True:
            stream = await self._subscribed()
            try:
                message = await stream.pushed()
            except ConnectionLostError:
                await self.aclose()
                continue
            if "event" in message:
                self._since = message["event"]["seq"]
            return message

    async def _subscribed(self) -> Stream:
        left = TRIES
        while self._stream is None:
            try:
                stream = await self._connect()
            except UnreachableError:
                if self._since is None:
                    raise
                continue  # whoever has begun to listen waits, however long that takes
            try:
                asked = self._narrowed if self._since is None else {**self._narrowed, "since": self._since}
                reply = await stream.ask("subscribe", asked)
            except BaseException as error:
                stream.close()
                left -= 1
                if not left or not isinstance(error, ConnectionLostError) or isinstance(error, TurnedAwayError):
                    raise
                await asyncio.sleep(0.1)  # it was just going
            else:
                self._since = reply["last"] if self._since is None else self._since
                self._stream = stream
        return self._stream
