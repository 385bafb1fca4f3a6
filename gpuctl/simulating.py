"""Simulations as processes of their own, as many at a time as there are CPUs; their progress and their results.

gpuctl knows nothing of scheduling: `python -m gpud.simulator` decides, and prints JSON lines.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from gpuctl.errors import GpuctlError, UsageError

_WRONG_INPUT = 2


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

        Raises UsageError for what a simulator does not take, GpuctlError where one fails.
        """
        pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
        try:
            return [future.result() for future in [pool.submit(self._run, at) for at in range(len(self._calls))]]
        finally:
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
                process.terminate()
