"""Many clients at once, in one process that has little to do: each sends its next request when its last is answered."""

import select
import socket
import time
from pathlib import Path

from gpuctl.submitting.submission import new_nonce
from gpud.wire.codec import PROTOCOL, Frames, pack

# What a shell of a person at work exports: 40 variables, 2.5 kB.
SHELL = {f"VARIABLE_{number}": "x" * 48 for number in range(40)}


class Crowd:
    """`size` connections to a gpud that have said hello."""

    def __init__(self, gpud, size):
        self._poll = select.epoll()
        self._members = {}
        for _ in range(size):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(gpud.socket)
            one.sendall(pack({"protocol": [PROTOCOL, PROTOCOL], "version": "bench"}))
            one.recv(4096)
            self._members[one.fileno()] = (one, Frames())
            self._poll.register(one, select.EPOLLIN)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one, _ in self._members.values():
            one.close()
        self._poll.close()

    def send(self, frames, *, until=None):
        """Send these frames, one for each client at a time; return the replies and how long it took.

        `until`: keep all clients busy until it returns true, with as many frames as that takes.
        """
        frames = iter(frames)
        replies = []
        busy = 0
        began = time.perf_counter()
        for one, _ in self._members.values():
            if (frame := next(frames, None)) is not None:
                one.sendall(frame)
                busy += 1
        while busy:
            for file, _ in self._poll.poll():
                one, received = self._members[file]
                for reply in received.feed(one.recv(65536)):
                    assert reply["ok"], reply
                    replies.append(reply)
                    busy -= 1
                if (until is None or not until()) and (frame := next(frames, None)) is not None:
                    one.sendall(frame)
                    busy += 1
        return replies, time.perf_counter() - began


def submits(gpud, count, **fields):
    """Return that many submits, packed ahead of time, as `gpuctl submit` would send them."""
    request = gpud.request_of("true", env=SHELL, **fields) | {"op": "submit"}
    return [pack(request | {"id": number, "nonce": new_nonce()}) for number in range(count)]


def cpu_s(pid):
    """Return how long the threads of a process have run."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
