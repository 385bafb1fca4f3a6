"""gpud from Python: submit, wait, look, change, and call functions on GPUs.

The examples in here run as tests. Whatever gpud refuses is raised as `gpuctl.GpuctlError` or one of its kinds, with
`message` and `hint`. A request whose answer was lost is asked again where that does nothing twice; a submit does not.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

from gpuctl.client import COMES_BACK_S, Client as Connection, ConnectionLostError, socket_path
from gpuctl.errors import GpuctlError, UnreachableError
from gpuctl.following import reading, waiting
from gpuctl.overview import look
from gpuctl.python import wanted
from gpuctl.python.told import Told
from gpuctl.python.wanted import Command, Filters, JobLike, Jobs, Listed, Options
from gpuctl.session import Session
from gpuctl.submitting import submission
from gpud.wire.address import SSH

if TYPE_CHECKING:
    from gpuctl.python.executor import JobExecutor
    from gpud.wire.changes import ChangeReply
    from gpud.wire.messages import Event, ShowReply

T = TypeVar("T")
R = TypeVar("R")


class Job(Told):
    """A job that was submitted, or found: what gpud last said of it, and what can be done with it.

    >>> from gpuctl import Client
    >>> with Client() as client:
    ...     job = client.submit(["sh", "-c", "echo hello; exit 3"], gpus=0, name="greet")
    ...     job.wait().state
    ...     list(job.logs())
    'failed'
    ['hello']
    >>> job.exit_status, job.reason, job.row["command"][0]
    (3, 'exit code 3', 'sh')
    """

    def __init__(self, client: "Client", job: str, row: dict[str, Any] | None = None) -> None:
        super().__init__(job, row)
        self._client = client

    def refresh(self, *, soon: bool = False) -> Self:
        """Ask gpud how it is now; `soon`, without when it is expected to start: where many wait that takes a second."""
        self.tell(self._client.request("show", job=self.id, soon=soon))
        return self

    def info(self) -> "ShowReply":
        """Return all that `gpuctl show` knows of it: attempts, events, what it used."""
        self.refresh()
        return cast("ShowReply", self.shown)

    def wait(self, timeout: float | None = None, *, check: bool = False) -> Self:
        """Wait until it has ended. Raises TimeoutError; with `check`, JobError unless it completed."""
        self._client.wait([self], timeout)
        self.refresh()
        if check:
            self.check()
        return self

    def elements(self) -> "list[Job]":
        """Return the elements of an array that have started."""
        self.refresh()
        return [Job(self._client, row["id"], row) for row in self.shown.get("elements", ())]

    def logs(self, *, follow: bool = False) -> Generator[str]:
        """Yield the lines of its output; with `follow`, until it has ended."""
        return self._client.logs(self, follow=follow)

    def cancel(self, *, force: bool = False) -> "ChangeReply":
        """Cancel it; with `force`, without grace."""
        return self._client.cancel(self, force=force)

    def hold(self) -> "ChangeReply":
        """Keep it from starting."""
        return self._client.hold(self)

    def release(self) -> "ChangeReply":
        """Let it start."""
        return self._client.release(self)

    def requeue(self) -> "ChangeReply":
        """Run it again, from the start."""
        return self._client.requeue(self)

    def priority(self, priority: int) -> "ChangeReply":
        """Set its priority."""
        return self._client.priority(priority, self)

    def signal(self, number: int) -> "ChangeReply":
        """Send a signal to every process of it."""
        return self._client.signal(number, self)

    def update(self, **options: Any) -> "ChangeReply":
        """Change what it asks for, as `gpuctl update`: `job.update(time_limit="+2h")`."""
        return self._client.update(self, **options)


class Client:
    """gpud, as one's own user: the one on `socket`, or the one that `gpuctl` speaks to.

    One's own is started where none runs. May be used by several threads, and over a restart of gpud.

    >>> from gpuctl import Client
    >>> client = Client()
    >>> first = client.submit(["true"], gpus=0, time_limit="10m", env={"SEED": "1"})
    >>> second = client.submit(["true"], gpus=0, after=first, group="example")
    >>> [job.state for job in client.wait([first, second])]
    ['completed', 'completed']
    >>> len(client.jobs(group="example", state="completed"))
    1
    >>> client.close()
    """

    def __init__(self, socket: str | None = None, *, start: bool = True) -> None:
        self.path = socket_path(socket)
        self._session = Session(socket)
        self._start = start
        self._reached = False
        self._asking = threading.Lock()
        self._pid = os.getpid()
        self._connection = self.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, until it is used again; jobs do not notice."""
        self._connection.close()

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Return gpud's reply to any request of `gpud.wire.messages`: what all else here is made of."""
        with self._asking:
            # After a fork the connection is the parent's; it is closed where gpud was away for too long.
            if self._pid != os.getpid() or self._connection.fileno() < 0:
                self._pid, self._connection = os.getpid(), self.connect()
            return self._connection.request(op, **fields)

    def submit(self, command: Command, **options: Unpack[Options]) -> Job:
        """Queue a job, with the options of `gpuctl submit` by their names.

        `command` is a list of words, run as they are without a shell; or the path of a script, which is copied.
        The job gets this process's environment, directory, umask and limits.

        >>> from gpuctl import Client
        >>> with Client() as client:
        ...     job = client.submit(["sleep", "60"], gpus=1, gpu_memory="8G", share=True, hold=True)
        ...     job.state, job.row["gpu_memory_mib"]
        ...     client.cancel(job)["changed"] == [job.id]
        ('held', 8192)
        True
        """
        self._refuse_afar()
        fields = wanted.job(command, options)
        reply = self.request("submit", nonce=submission.new_nonce(), **fields)
        return Job(self, reply["job"]).refresh(soon=True)

    def handle(self, job: str) -> Job:
        """Return a job by its id, without asking whether it is there."""
        return Job(self, job)

    def job(self, job: JobLike) -> Job:
        """Return a job by its id. Raises RefusedError where there is none."""
        return Job(self, wanted.ids(job)[0]).refresh()

    def jobs(self, *jobs: Jobs, **filters: Unpack[Listed]) -> list[Job]:
        """Return jobs as `gpuctl list` does: those that have not ended, and one's own of the last day.

        An array is one job for what has not started, and one for each element that has.
        """
        asked = wanted.listed(jobs, filters)
        return [Job(self, row["id"], row) for row in self.request("list", **asked)["jobs"]]

    def wait(self, jobs: Jobs, timeout: float | None = None) -> list[Job]:
        """Wait until all of these have ended; return them in their order. Raises TimeoutError."""
        ended: dict[str, Job] = {}

        def keep(answer: dict[str, Any]) -> None:
            job = Job(self, answer["job"]["id"], answer["job"])
            job.tell(answer)
            ended[job.id] = job

        ids = wanted.ids(jobs)
        with self.connect() as connection:
            waiting.wait_for(connection, ids, keep, within_s=timeout)
        return [ended[job] for job in ids]

    def logs(self, job: JobLike, *, follow: bool = False) -> Generator[str]:
        """Yield the lines of a job's output; with `follow`, until it has ended."""
        self._refuse_afar()
        return reading.lines(self.connect(), wanted.ids(job)[0], follow=follow)

    def cancel(self, *jobs: Jobs, force: bool = False, **which: Unpack[Filters]) -> "ChangeReply":
        """Cancel jobs, by id or by filter; with `force`, without grace."""
        return self._change("cancel", jobs, which, **({"force": True} if force else {}))

    def hold(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Keep waiting jobs from starting."""
        return self._change("hold", jobs, which)

    def release(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Let held jobs start."""
        return self._change("release", jobs, which)

    def requeue(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Run jobs again from the start, under the same id."""
        return self._change("requeue", jobs, which)

    def priority(self, priority: int, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Set the priority of waiting jobs: the higher one goes first."""
        return self._change("priority", jobs, which, priority=wanted.number("priority", priority))

    def signal(self, number: int, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Send a signal to every process of running jobs."""
        return self._change("signal", jobs, which, signal=wanted.number("signal", number))

    def update(self, *jobs: Jobs, **options: Any) -> "ChangeReply":
        """Change what jobs ask for, with the options of `gpuctl update`: `client.update(job, gpus=2)`."""
        return self._change("update", jobs, {}, **wanted.changes(options))

    def _change(self, op: str, jobs: tuple[Jobs, ...], which: Filters, **more: Any) -> "ChangeReply":
        return cast("ChangeReply", self.request(op, select=wanted.selection(jobs, which), **more))

    def gpus(self) -> list[dict[str, Any]]:
        """Return every GPU, freshly read, as in `gpuctl gpus --json`.

        >>> from gpuctl import Client
        >>> with Client() as client:
        ...     {gpu["name"] for gpu in client.gpus()}
        {'NVIDIA GeForce RTX 4090'}
        """
        gpus: list[dict[str, Any]] = self.request("gpus", fresh=True)["gpus"]
        return gpus

    def status(self) -> dict[str, Any]:
        """Return how gpud is: its version, and counts of jobs and GPUs by state."""
        return self.request("status")

    def events(self, *jobs: Jobs, since: int | None = None) -> "Generator[Event]":
        """Return an iterator over what happens from now on, or after event number `since`, without end; `close` it.

        >>> from gpuctl import Client
        >>> with Client() as client:
        ...     events = client.events()
        ...     job = client.submit(["true"], gpus=0)
        ...     for event in events:
        ...         if event["job"] == job.id and event["kind"] == "completed":
        ...             break
        """
        named = [job for some in jobs for job in wanted.ids(some)]
        narrowed = {"jobs": named} if named else {}
        connection = self.connect()
        asked = narrowed if since is None else {**narrowed, "since": since}
        last = connection.request("subscribe", **asked)["last"]
        return self._events(connection, narrowed, last if since is None else since)

    def _events(self, connection: Connection, narrowed: dict[str, Any], last: int) -> "Generator[Event]":
        with connection:
            while True:
                try:
                    for message in connection.events():
                        if "event" in message:
                            last = message["event"]["seq"]
                            yield message["event"]
                except ConnectionLostError as lost:
                    waiting.await_back(connection, lost)
                    connection.request("subscribe", since=last, **narrowed)

    def watch(self, *, most: int = 100) -> Generator[dict[str, Any]]:
        """Yield `status`, `gpus` and `jobs` as they are now, and again whenever something changed, without end.

        >>> from gpuctl import Client
        >>> with Client() as client:
        ...     seen = next(client.watch())
        ...     seen["status"]["simulated"], len(seen["gpus"])
        ('2xRTX4090', 2)
        """
        with self.connect() as connection:
            while True:
                try:
                    connection.request("subscribe", readings=True)
                    while True:
                        yield look(connection, most=most)
                        connection.pushed(wait=True)
                except ConnectionLostError as lost:
                    waiting.await_back(connection, lost)

    @overload
    def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: Literal[False] = False,
        at_once: int | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[R]: ...

    @overload
    def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: Literal[True],
        at_once: int | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> "list[R | Exception]": ...

    def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: bool = False,
        at_once: int | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> "list[R] | list[R | Exception]":
        """Call a function with each of the items, each in a job of its own; return what it returned, in their order.

        The jobs are one array, `at_once` of them at a time; each gets its `gpus`. What a call raises is raised here,
        with its traceback, once those that run have ended; what has not begun is cancelled. `return_exceptions`
        returns it instead. Functions of a notebook or of the program itself want `pip install 'gpud[python]'`. Raises
        TimeoutError, and cancels all.

        >>> import math
        >>> from gpuctl import Client
        >>> with Client() as client:
        ...     client.map(math.sqrt, [1, 4, 9], gpus=0)
        ...     client.map(math.sqrt, [16, -1], gpus=0, return_exceptions=True)[0]
        [1.0, 2.0, 3.0]
        4.0
        """
        from gpuctl.python import mapping  # noqa: PLC0415 - most clients call no functions

        self._refuse_afar()
        each = list(items)
        if not each:
            return []
        calls = mapping.Mapping(fn, each, at_once, options, raises=not return_exceptions)
        try:
            with self.connect() as connection:
                return mapping.run(calls, connection, timeout)
        finally:
            calls.close()

    def executor(self, **options: Unpack[Options]) -> "JobExecutor":
        """Return a `concurrent.futures.Executor` whose calls are jobs, each with these options.

        >>> import math
        >>> from gpuctl import Client
        >>> with Client() as client, client.executor(gpus=0) as executor:
        ...     future = executor.submit(math.factorial, 5)
        ...     future.result()
        ...     list(executor.map(math.gcd, [12, 9], [8, 6]))
        120
        [4, 3]
        """
        from gpuctl.python.executor import JobExecutor  # noqa: PLC0415 - as above

        self._refuse_afar()
        return JobExecutor(self, options)

    def connect(self) -> Connection:
        """Return a connection of its own, for what is told on it. One that was reached before may be starting again."""
        end = time.monotonic() + (COMES_BACK_S if self._reached else 0.0)
        while True:
            try:
                connection = self._session.connect(start=self._start)
            except UnreachableError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.1)
            else:
                self._reached = True
                return connection

    def _refuse_afar(self) -> None:
        """Raise GpuctlError over ssh: files, environments and directories are those of the other machine."""
        if self.path.startswith(SSH):
            raise GpuctlError(
                "what a job reads and writes is on the machine that it runs on", hint=f"run this there: {self.path}"
            )
