"""`concurrent.futures` on GPUs: an Executor whose calls are jobs.

One thread waits for all of them, on a connection of its own, through restarts of gpud.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from gpuctl.client import Client as Connection, ConnectionLostError
from gpuctl.errors import GpuctlError
from gpuctl.following import waiting
from gpuctl.python import wanted
from gpuctl.python.calling import Calls
from gpuctl.python.mapping import check, name_of
from gpuctl.render.jobs import ENDS
from gpuctl.submitting import submission

P = ParamSpec("P")
T = TypeVar("T")


class CallJob(Protocol):
    """The job that makes a call: a `gpuctl.Job`."""

    id: str

    @property
    def state(self) -> str:
        """Return the state that was told last."""

    def refresh(self) -> Self:
        """Ask how it is now."""

    def cancel(self, *, force: bool = False) -> object:
        """Cancel it."""

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of its output."""


class Caller(Protocol):
    """Whose calls they are: a `gpuctl.Client`."""

    def connect(self) -> Connection:
        """Return a connection of its own."""

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask gpud one thing."""

    def handle(self, job: str) -> CallJob:
        """Return a job by its id, without asking."""


class JobFuture(Future[T]):
    """What a call will return, and the `job` that makes it.

    As of every executor, `cancel` is for a call that has not begun; `job.cancel()` ends one that runs.
    """

    def __init__(self, job: CallJob) -> None:
        super().__init__()
        self.job = job
        self._telling = threading.RLock()  # who is told of a cancel is told once

    def cancel(self) -> bool:
        """Cancel a call, and its job, unless it runs or has ended; return whether it is cancelled."""
        with self._telling:
            if self.cancelled() or not super().cancel():
                return self.cancelled()
            self.set_running_or_notify_cancel()
        with contextlib.suppress(GpuctlError):  # it has ended just now, or gpud is away
            self.job.cancel()
        return True

    def begin(self) -> bool:
        """Say that the call runs, from when on it cannot be cancelled; return whether it was not before."""
        with self._telling:
            return not self.cancelled() and (self.running() or self.set_running_or_notify_cancel())


class JobExecutor(Executor):
    """Calls functions in jobs of their own, each with the options that it was made with. See `Client.executor`.

    A call whose job did not get to its end raises `gpuctl.errors.JobError`, which names the job and its log. A program
    that ends without `shutdown` leaves its jobs running; one that is interrupted in a `with` cancels them.
    """

    def __init__(self, client: Caller, options: wanted.Options) -> None:
        check(options)
        self._client = client
        self._options = options
        self._calls = Calls()
        self._lock = threading.Lock()
        self._left: dict[str, tuple[int, JobFuture[Any]]] = {}
        self._count = 0
        self._over = False
        self._thread: threading.Thread | None = None
        self._wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Queue a call; return its future. Raises GpuctlError for what cannot be sent to a job, or is refused."""
        with self._lock:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            number, self._count = self._count, self._count + 1
            self._calls.add(number, (fn, args, kwargs))
            named: wanted.Options = {"name": name_of(fn), **self._options}
            fields = wanted.job(self._calls.command(number), named)
            reply = self._client.request("submit", nonce=submission.new_nonce(), **fields)
            future: JobFuture[T] = JobFuture(self._client.handle(reply["job"]))
            self._left[reply["job"]] = number, future  # before its events are looked at: that takes the lock
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="gpuctl-executor", daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait`, return once all jobs have ended, the waiting ones cancelled if wanted."""
        with self._lock:
            began, self._over = self._over, True
            futures = [future for _, future in self._left.values()]
            if not began and self._thread is not None:
                os.write(self._write, b".")
        if cancel_futures:
            for future in futures:
                future.cancel()
        if self._thread is None and not began:
            self._tidy()
        elif self._thread is not None and wait:
            self._thread.join()

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Wait for the calls. Ctrl-C, before or meanwhile, is not waited for: it cancels them, those that run too."""
        try:
            if kind is not None and not issubclass(kind, Exception):
                self._cancel()
            self.shutdown()
        except KeyboardInterrupt:
            self._cancel()
            raise

    def _cancel(self) -> None:
        with self._lock:
            jobs = list(self._left)
        if jobs:
            with contextlib.suppress(GpuctlError):  # they have ended just now, or gpud is away
                self._client.request("cancel", select={"jobs": jobs})

    def _watch(self) -> None:
        """Wait for the jobs, until none is left and no more can come."""
        try:
            with self._client.connect() as connection:
                while not self._is_done():
                    try:
                        self._until_done(connection)
                    except ConnectionLostError as lost:
                        waiting.await_back(connection, lost)
        except GpuctlError as error:  # gpud cannot be had any more
            with self._lock:
                self._over = True
                left, self._left = self._left, {}
            for _, future in left.values():
                if future.begin():
                    future.set_exception(error)
        self._tidy()

    def _until_done(self, connection: Connection) -> None:
        connection.request("subscribe")
        with self._lock:
            left = list(self._left)
        for job in left:
            self._look(connection, job)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._is_done():
            if not connection.has_pushed() and self._wake in [fd for fd, _ in poll.poll()]:
                os.read(self._wake, 1)
            for message in connection.pushed(wait=False):
                self._take(connection, message.get("event") or {})

    def _is_done(self) -> bool:
        with self._lock:
            return self._over and not self._left

    def _take(self, connection: Connection, event: dict[str, Any]) -> None:
        """Take an event of a job that is waited for."""
        with self._lock:
            _, future = self._left.get(event.get("job") or "", (0, None))
        if future is None:
            return
        if event["kind"] == "running":
            future.begin()
        elif event["kind"] in ENDS:
            self._look(connection, event["job"])

    def _look(self, connection: Connection, job: str) -> None:
        """Look at a job; resolve its future where it has ended."""
        row = connection.request("show", job=job, soon=True)["job"]
        with self._lock:
            number, future = self._left[job]
        if row["state"] not in ENDS:
            if row["started_at"] is not None:
                future.begin()
            return
        if future.begin():
            value, error = self._calls.outcome(number, row)
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        with self._lock:
            del self._left[job]
        self._calls.forget(number)

    def _tidy(self) -> None:
        self._calls.remove()
        os.close(self._wake)
        os.close(self._write)
