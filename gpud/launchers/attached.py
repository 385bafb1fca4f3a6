"""Whoever sits at a job's terminal, as its keeper (`terminal`) knows them, and how the two talk.

A conversation is packets (SOCK_SEQPACKET), told apart by their first byte. Sent to the keeper: `i` and input, `w` and
the terminal's rows and columns, `z` for the end of the input; the command starts with the first one. From it: `o` and
output, `e` and what went to stderr, `x` and the exit status (negative: the signal) at the end.

Who takes nothing for `STUCK_S` is let go, for they come back to a job's terminal; until then the command waits for
them, so that nobody misses half of what it says. Where to leave ends the command, it waits as long as a pipe does.
Standard library only.
"""

import re
import socket
import time
from collections import deque

INPUT, SIZE, END_OF_INPUT = b"i", b"w", b"z"
OUTPUT, ERRORS, EXIT = b"o", b"e", b"x"
PIECE = 1 << 15  # bytes of input or output in one packet, at most
STUCK_S = 10.0
# What a terminal answers, as if that was typed (xterm's ctlseqs): its attributes, cursor, modes, sizes, colours.
_QUESTIONS = re.compile(
    rb"\x05|\x1bZ|\x1b\[[>=]?[0-9;]*c|\x1b\[\??[0-9;]*n|\x1b\[\??[0-9;]*\$p|\x1b\[>[0-9;]*q|\x1b\[\?[0-9;]*u"
    rb"|\x1b\[(?:1[13-9]|2[01])(?:;[0-9]+)*t|\x1b\][0-9]+;(?:[^\x07\x1b]*;)?\?(?:\x07|\x1b\\)|\x1bP[+$]q[^\x1b]*\x1b\\"
)


class Attached:
    """Somebody at the terminal, and what they were not sent yet. `leaves`: who is stuck is let go."""

    def __init__(self, connection: socket.socket, *, leaves: bool = True) -> None:
        self.connection = connection
        self.leaves = leaves
        self.pending: deque[bytes] = deque()
        self.behind = 0
        self.took_at = time.monotonic()

    def catch_up(self, recent: bytes | bytearray) -> None:
        """Say what was printed before they came, less the questions: those were answered then."""
        shown = _QUESTIONS.sub(b"", recent)
        for at in range(0, len(shown), PIECE):
            self.say(OUTPUT + shown[at : at + PIECE])

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
            return not self.leaves or time.monotonic() < self.took_at + STUCK_S
        except OSError:
            return False
        return True
