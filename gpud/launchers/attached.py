"""Whoever sits at a job's terminal, as its keeper (`terminal`) knows them, and how the two talk.

A conversation is packets (SOCK_SEQPACKET), told apart by their first byte. Sent to the keeper: `i` and input, `w` and
the terminal's rows and columns, `z` for the end of the input; the command starts with the first one. From it: `o` and
output, `e` and what went to stderr, `x` and the exit status (negative: the signal) at the end.

Who takes nothing for `STUCK_S` is let go; until then the command waits for them, so that nobody misses half of what it
says. Standard library only.
"""

import socket
import time
from collections import deque

INPUT, SIZE, END_OF_INPUT = b"i", b"w", b"z"
OUTPUT, ERRORS, EXIT = b"o", b"e", b"x"
PIECE = 1 << 15  # bytes of input or output in one packet, at most
STUCK_S = 10.0


class Attached:
    """Somebody at the terminal, and what they were not sent yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pending: deque[bytes] = deque()
        self.behind = 0
        self.took_at = time.monotonic()

    def say(self, packet: bytes) -> None:
        """Have a packet sent."""
        if not self.pending:
            self.took_at = time.monotonic()
        self.pending.append(packet)
        self.behind += len(packet)

    def flush(self) -> bool:
        """Send what can be sent; return False when they have gone."""
        try:
            while self.pending:
                self.connection.send(self.pending[0], socket.MSG_NOSIGNAL)
                self.behind -= len(self.pending.popleft())
                self.took_at = time.monotonic()
        except BlockingIOError:
            return time.monotonic() < self.took_at + STUCK_S
        except OSError:
            return False
        return True
