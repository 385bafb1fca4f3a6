"""Ctrl-C before a command has begun: gpuctl leaves, without a word.

Python would raise KeyboardInterrupt wherever it is, half of the time in the middle of an import, and show where.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130


def leave_at_once() -> None:
    """From now on Ctrl-C ends gpuctl; nothing has been done yet, or all of it. One that is ignored stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def unwind_first() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again: there is something to put back."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
    os._exit(INTERRUPTED)
