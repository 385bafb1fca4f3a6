"""How a message is put into bytes: 4 bytes of length, big-endian, then one msgpack map.

The length comes first because it bounds a frame before anything of it is parsed. Strings that are no UTF-8 (file
names, variables) travel as the surrogate escapes that Python makes of them, so that they come out as they went in.
A frame's length does not bound what it costs to parse (16 MiB of empty lists take seconds and a gigabyte): who reads
from strangers bounds the items in it, too, and what is said before it is known who speaks.

The numbers of the protocol stand here and not beside its messages: gpuctl needs them at every start, and importing
the messages' types costs a third of an empty Python program.
"""

from typing import Any

import msgpack

PROTOCOL = 1
PROTOCOL_OLDEST = 0
FRAME_MAX = 16 * 1024 * 1024
HELLO_MAX = 4096
ITEMS_MAX = 1 << 17  # in lists and maps; a command line of 2 MiB, the most that Linux commonly takes, has fewer words

Message = dict[str, Any]

_LENGTH_BYTES = 4


class FrameError(Exception):
    """Bytes that are no frame, or a message too large for one.

    `before` holds the messages that came whole before the broken frame: they were said, and count.
    """

    def __init__(self, message: str, before: list[Message] | None = None) -> None:
        super().__init__(message)
        self.before = before or []


def pack(message: Message) -> bytes:
    """Return the frame of a message. Raises FrameError when it, or a number in it, is too large."""
    try:
        payload: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    except OverflowError:
        raise FrameError("a number of more than 64 bits") from None
    if len(payload) > FRAME_MAX:
        raise FrameError(f"a message of {len(payload) >> 20} MiB; at most {FRAME_MAX >> 20} MiB travel at once")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def unpack(payload: bytes | memoryview, items_max: int | None = None) -> Message:
    """Return the map that a frame holds behind its length. Raises FrameError for anything that is not one map.

    `items_max` bounds the items of all its lists and maps together.
    """
    bounds = {} if items_max is None else _bounds(items_max)
    try:
        message = msgpack.unpackb(payload, unicode_errors="surrogateescape", **bounds)
    except (ValueError, RecursionError) as error:  # what msgpack raises, all of it derived from ValueError
        raise FrameError(f"not a msgpack message: {str(error) or type(error).__name__}") from error
    if type(message) is not dict:
        raise FrameError("not a msgpack map")
    return message


def _bounds(items_max: int) -> dict[str, Any]:
    """Return how msgpack is told to count."""
    left = items_max

    def counted(items: list[Any]) -> list[Any]:
        nonlocal left
        left -= len(items)
        if left < 0:
            raise ValueError(f"more than {items_max} items")
        return items

    return {
        "list_hook": counted,
        "object_pairs_hook": lambda pairs: dict(counted(pairs)),
        "max_array_len": items_max,  # for room is made for a list before its first item is read
        "max_map_len": items_max,
    }


class Frames:
    """Cuts a stream of bytes into messages, holding at most one unfinished frame of at most `limit` bytes.

    `first_limit` is for the first frame, `items_max` for the items of each.
    """

    def __init__(self, limit: int = FRAME_MAX, *, first_limit: int | None = None, items_max: int | None = None) -> None:
        self.limit = limit
        self.items_max = items_max
        self._limit_now = first_limit or limit
        self._rest = bytearray()

    @property
    def partial(self) -> int:
        """Return how many bytes of an unfinished frame have come."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are whole with these bytes, in their order.

        Raises FrameError at a broken frame; the stream is of no use after that.
        """
        held: bytes | bytearray = data
        if self._rest:
            self._rest += data
            held = self._rest
        messages: list[Message] = []
        start = 0
        try:
            with memoryview(held) as view:
                while (end := self._frame_end(held, start)) is not None:
                    messages.append(unpack(view[start + _LENGTH_BYTES : end], self.items_max))
                    self._limit_now = self.limit
                    start = end
        except FrameError as error:
            error.before = messages
            raise
        if held is data:
            self._rest += data[start:]
        else:
            del self._rest[:start]
        return messages

    def _frame_end(self, held: bytes | bytearray, start: int) -> int | None:
        """Return where the frame at `start` ends, None while it is not all there."""
        body = start + _LENGTH_BYTES
        if len(held) < body:
            return None
        length = int.from_bytes(held[start:body], "big")
        if length > self._limit_now:
            raise FrameError(f"a frame of {length} bytes; at most {self._limit_now} are read")
        return body + length if len(held) >= body + length else None
