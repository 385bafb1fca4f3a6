"""Simulations as processes of their own, as many at a time as there are CPUs; their progress and their results.

gpuctl knows nothing of scheduling: `python -m gpud.simulator` decides, and prints JSON lines. Ctrl-C is gpuctl's, which
ends them: each of them on its own would show where it was.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from types import FrameType
from typing import Any, NoReturn

from gpuctl.errors import GpuctlError, UsageError

_WRONG_INPUT = 2
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Simulations:
    """Calls of the simulator, run together: `results` gives what each came to, in the order of the calls.

    `tell` hears, from some thread, which part of a call is done.
    """

    def __init__(self, calls: Sequence[Sequence[str]], tell: Callable[[int, float], None]) -> None:
        self._calls = calls
        self._tell = tell
        self._running: list[subprocess.Popen[str]] = []
        self._lock = Lock()
        self._given_up = False

    def results(self) -> list[dict[str, Any] | None]:
        """Return the results, None where there was nothing to replay. Whatever ends it, no simulator runs on.

        Raises UsageError for what a simulator does not take, GpuctlError where one fails, SystemExit when told to end.
        The main thread alone may call it.
        """
        with _unwound_by_signals():
            pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), initializer=_heed_no_interrupt)
            try:
                return [future.result() for future in [pool.submit(self._run, at) for at in range(len(self._calls))]]
            finally:
                for number in (signal.SIGINT, *_ENDING):  # once is enough; not SIG_IGN, which a child would inherit
                    signal.signal(number, lambda *_: None)
                self._give_up()
                pool.shutdown(cancel_futures=True)

    def _run(self, at: int) -> dict[str, Any] | None:
        process = self._start(self._calls[at])
        found: dict[str, Any] = {}
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            said = json.loads(line)
            if "progress" in said:
                self._tell(at, said["progress"])
            found |= said
        if process.wait() == 0 and "result" in found:
            self._tell(at, 1.0)
            result: dict[str, Any] | None = found["result"]
            return result
        if process.returncode == _WRONG_INPUT and "error" in found:
            raise UsageError(found["error"]["message"], hint=found["error"]["hint"])
        raise GpuctlError("a simulation failed", hint="what it said stands above")

    def _start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        with self._lock:
            if self._given_up:
                raise GpuctlError("a simulation was given up")
            process = subprocess.Popen(
                [sys.executable, "-m", "gpud.simulator", *words], stdout=subprocess.PIPE, text=True
            )
            self._running.append(process)
        return process

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            for process in self._running:
                process.kill()


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Let what ends gpuctl be an exception, unless it is ignored (nohup); put back afterwards what was there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    try:
        for number in _ENDING:
            if before[number] is signal.SIG_DFL:
                signal.signal(number, _end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signal module's signature
    raise SystemExit(128 + number)


def _heed_no_interrupt() -> None:
    """Block Ctrl-C in this thread: the processes that it starts inherit that, and gpuctl ends them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
