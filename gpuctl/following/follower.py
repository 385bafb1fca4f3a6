"""A job's output on ours, from its start to its end, through retries and restarts of gpud; and Ctrl-C handed on."""

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from gpuctl import output
from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import NotPermittedError
from gpuctl.following.logs import Changes, Log, LogError
from gpuctl.following.waiting import Stuck, await_back, subscribe
from gpuctl.render.jobs import ENDS
from gpuctl.session import note, on_terminal

# What a terminal answers, as if that was typed: `gpud.launchers.attached`, a stranger to this side, has the same.
_QUESTIONS = re.compile(
    rb"\x05|\x1bZ|\x1b\[[>=]?[0-9;]*c|\x1b\[\??[0-9;]*n|\x1b\[\??[0-9;]*\$p|\x1b\[>[0-9;]*q|\x1b\[\?[0-9;]*u"
    rb"|\x1b\[(?:1[13-9]|2[01])(?:;[0-9]+)*t|\x1b\][0-9]+;(?:[^\x07\x1b]*;)?\?(?:\x07|\x1b\\)|\x1bP[+$]q[^\x1b]*\x1b\\"
)


def sizes(patterns: Iterable[str]) -> dict[str, int]:
    """Return how large files are that a job is to append to: what is there now is not its output."""
    paths = (pattern.replace("%%", "%") for pattern in patterns)  # of another pattern there is no file before the job
    return {path: os.stat(path).st_size for path in paths if os.path.isfile(path)}


def shown(log: Log, descriptor: int = 1) -> None:
    """Write what is new in a log to a descriptor. Raises GpuctlError where the log may not be read.

    A terminal is not asked what a program once asked its own: the answers would be typed at whoever reads next.
    """
    terminal = os.isatty(descriptor)
    for data in log.read():
        view = memoryview(_QUESTIONS.sub(b"", data) if terminal else data)
        while view:
            view = view[output.write(descriptor, view) :]


class Interrupts:
    """Ctrl-C while a job is followed: the first ends one that waits and interrupts one that runs, the second cancels.

    The third one is ours: gpud does not answer then. Signals are only counted where they arrive, and wake a poll:
    an exception in the middle of a conversation would leave half a reply unread.

    `passes`: a program sits there, not a person: each INT is an interrupt. With it or `ends` TERM and HUP end the job.
    """

    def __init__(self, client: Client, *, passes: bool = False, ends: bool = False) -> None:
        self.count = 0
        self._passes = passes
        self._heeds = (signal.SIGTERM, signal.SIGHUP) if passes or ends else ()
        self._ends = self._ended = False
        self._client = client
        self._done = 0

    def __enter__(self) -> Self:
        self.wake, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handled_before = signal.getsignal(signal.SIGINT)
        if self._handled_before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._count)
        for number in self._heeds:
            signal.signal(number, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._handled_before)
        signal.set_wakeup_fd(self._woken_before)
        os.close(self.wake)
        os.close(self._write)

    def _count(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signal module's signature
        self.count += 1
        if self.count > 2 and not self._passes:
            raise KeyboardInterrupt

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signal module's signature
        self._ends = True

    def hand_on(self, job: str, *, waits: bool) -> None:
        """Tell gpud of the interrupts since the last call; `waits` says whether the first one ends the job."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        if self._ends and not self._ended:
            self._client.request("cancel", select={"jobs": [job]})
            self._ended = True
        before, self._done = self._done, self.count
        if before == self._done:
            return
        op = "interrupt" if self._done == 1 or self._passes else "cancel"
        if on_terminal():
            cancels = waits or op == "cancel"
            note(f"cancelling job {job}" if cancels else "interrupted; Ctrl-C again cancels the job")
        try:
            self._client.request(op, select={"jobs": [job]})
        except ConnectionLostError:
            if op == "cancel":  # which may be done twice
                self._done = before
            raise


class Follower:
    """Copies a job's output to stdout, or another descriptor, and its errors, where they go elsewhere, to stderr.

    `skip` says for a file how many bytes of it are older than the job; `lines` how many old ones to begin with.
    Without the `reader` of a descriptor it ends, also while there is nothing to copy.
    """

    def __init__(
        self,
        client: Client,
        job: str,
        *,
        skip: Mapping[str, int] | None = None,
        lines: int | None = None,
        interrupts: Interrupts | None = None,
        descriptor: int = 1,
        reader: int | None = None,
    ) -> None:
        self._client = client
        self._job = job
        self._skip = skip or {}
        self._lines = lines
        self._interrupts = interrupts
        self._descriptor = descriptor
        self._reader = reader
        self._logs: dict[str, tuple[Log, int]] = {}
        self._waits = self._started = False
        self._stuck = Stuck()

    def follow(self) -> dict[str, Any]:
        """Return what `show` says of the job once it has ended and all its output was shown."""
        while True:
            try:
                subscribe(self._client, [self._job])
                while True:
                    answer = self._client.request("show", job=self._job, soon=True)
                    self._waits = answer["job"]["state"] in ("queued", "held")
                    self._started = answer["job"]["started_at"] is not None
                    self._stuck.tell(answer["job"])
                    with_output = self._found(answer["job"])
                    if self._started and not with_output:
                        raise NotPermittedError(f"the output of job {self._job} is not yours to see")
                    if answer["job"]["state"] in ENDS:
                        self._show()
                        return answer
                    self._until_told(with_output)
            except ConnectionLostError as lost:
                await_back(self._client, lost)

    def _found(self, job: dict[str, Any]) -> list[str]:
        """Return the files that this job writes now."""
        paths = [(job["output"], self._descriptor), (job.get("error"), 2)]
        for path, descriptor in paths:
            if path is not None and path not in self._logs:
                log = Log(path, self._skip.get(path, 0), owner=job["uid"])
                if self._lines is not None and job["started_at"] is not None:
                    log.start_at_last(self._lines)
                self._logs[path] = log, descriptor
        return [path for path, _ in paths if path is not None]

    def _until_told(self, paths: list[str]) -> None:
        """Show output until gpud tells of a change, or an interrupt was handed on."""
        told = self._client.fileno()
        changes = Changes(paths, [told, *([self._interrupts.wake] if self._interrupts else [])], self._reader)
        try:
            while True:
                self._show()
                if self._interrupts is not None:
                    self._interrupts.hand_on(self._job, waits=self._waits)
                told_now = self._client.has_pushed() or told in changes.wait()
                if told_now and self._client.pushed(wait=False):
                    return
        finally:
            changes.close()

    def _show(self) -> None:
        for log, descriptor in self._logs.values():
            try:
                shown(log, descriptor)
            except LogError:
                if self._started:
                    raise  # before that the job's own end says it, which cannot open the file either
