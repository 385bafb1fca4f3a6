"""What gpud tells whoever started it, by sd_notify(3): systemd, or a gpuctl that waits for it to be ready.

A datagram each, to the socket that $NOTIFY_SOCKET names; without one nothing is sent. Telling is best effort: a
listener that is gone, or does not listen, holds up nothing.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Speaks for this process. Takes the variables out of `environ`: gpud's children shall not speak for it."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        self._status = ""
        self.watchdog_s: float | None = None  # how often `alive` must be called, with room to spare; None: never
        if address and watchdog_us.isdecimal() and int(watchdog_us) and watchdog_pid in {"", str(os.getpid())}:
            self.watchdog_s = int(watchdog_us) / 1e6 / 2  # half, as sd_watchdog_enabled(3) recommends

    def ready(self, status: str) -> None:
        """Say that the socket is open, after the start or a reload."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Say in one line how things are; what was said already is not repeated."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)
