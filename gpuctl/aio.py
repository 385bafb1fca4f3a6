"""gpud from asyncio: what `gpuctl.api` does, on streams of asyncio's own.

Whatever is cancelled leaves the connection as it was: an answer that nobody waits for any more is let go. The jobs of a
`map` are cancelled with it, and so is the job of a `submit` that was cancelled before its id came.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

from gpuctl import client as blocking, overview
from gpuctl.errors import GpuctlError, RefusedError, UnreachableError
from gpuctl.following import reading, waiting
from gpuctl.python import wanted
from gpuctl.python.mapping import WAITING, Mapping
from gpuctl.python.streams import AsyncEvents, Stream
from gpuctl.python.told import Told
from gpuctl.python.wanted import Command, Filters, JobLike, Jobs, Listed, Options
from gpuctl.render.jobs import ENDS
from gpuctl.session import Session
from gpuctl.submitting import submission
from gpud.wire.address import SSH

if TYPE_CHECKING:
    from gpud.wire.changes import ChangeReply
    from gpud.wire.messages import ShowReply

T = TypeVar("T")
R = TypeVar("R")


class AsyncJob(Told):
    """A job, as `gpuctl.Job`; what asks gpud is awaited.

    >>> import asyncio
    >>> from gpuctl.aio import AsyncClient
    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         job = await client.submit(["echo", "hello"], gpus=0)
    ...         await job.wait(check=True)
    ...         return job.state, [line async for line in job.logs()]
    >>> asyncio.run(main())
    ('completed', ['hello'])
    """

    def __init__(self, client: "AsyncClient", job: str, row: dict[str, Any] | None = None) -> None:
        super().__init__(job, row)
        self._client = client

    async def refresh(self, *, soon: bool = False) -> Self:
        """Ask gpud how it is now; `soon`, without when it is expected to start: where many wait that takes a second."""
        self.tell(await self._client.request("show", job=self.id, soon=soon))
        return self

    async def info(self) -> "ShowReply":
        """Return all that `gpuctl show` knows of it."""
        await self.refresh()
        return cast("ShowReply", self.shown)

    async def wait(self, timeout: float | None = None, *, check: bool = False) -> Self:  # noqa: ASYNC109 - as in api
        """Wait until it has ended. Raises TimeoutError; with `check`, JobError unless it completed."""
        (ended,) = await self._client.wait([self], timeout)
        self.tell(ended.shown)
        if check:
            self.check()
        return self

    async def elements(self) -> "list[AsyncJob]":
        """Return the elements of an array that have started."""
        await self.refresh()
        return [AsyncJob(self._client, row["id"], row) for row in self.shown.get("elements", ())]

    def logs(self, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield the lines of its output; with `follow`, until it has ended."""
        return self._client.logs(self, follow=follow)

    async def cancel(self, *, force: bool = False) -> "ChangeReply":
        """Cancel it; with `force`, without grace."""
        return await self._client.cancel(self, force=force)

    async def hold(self) -> "ChangeReply":
        """Keep it from starting."""
        return await self._client.hold(self)

    async def release(self) -> "ChangeReply":
        """Let it start."""
        return await self._client.release(self)

    async def requeue(self) -> "ChangeReply":
        """Run it again, from the start."""
        return await self._client.requeue(self)

    async def priority(self, priority: int) -> "ChangeReply":
        """Set its priority."""
        return await self._client.priority(priority, self)

    async def signal(self, number: int) -> "ChangeReply":
        """Send a signal to every process of it."""
        return await self._client.signal(number, self)

    async def update(self, **options: Any) -> "ChangeReply":
        """Change what it asks for, as `gpuctl update`."""
        return await self._client.update(self, **options)


class AsyncClient:
    """gpud, as one's own user, for one event loop; see `gpuctl.Client`, whose methods these are.

    >>> import asyncio, math
    >>> from gpuctl.aio import AsyncClient
    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         jobs = await asyncio.gather(*(client.submit(["true"], gpus=0) for _ in range(3)))
    ...         print([job.state for job in await client.wait(jobs)])
    ...         return await client.map(math.sqrt, [4, 9], gpus=0)
    >>> asyncio.run(main())
    ['completed', 'completed', 'completed']
    [2.0, 3.0]
    """

    def __init__(self, socket: str | None = None, *, start: bool = True) -> None:
        self.path = blocking.socket_path(socket)
        if self.path.startswith(SSH):
            raise GpuctlError("asyncio speaks to this machine's gpud alone", hint="gpuctl.Client speaks over ssh")
        self._session = Session(socket)
        self._start = start
        self._stream: Stream | None = None
        self._known = False
        self._opening = asyncio.Lock()
        self._left_over: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up, once what is left to be said was said; jobs do not notice."""
        if self._left_over:
            await asyncio.wait(self._left_over)
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def connect(self) -> Stream:
        """Return a connection of its own; one's own gpud is started where none runs, another's waited for."""
        clock = asyncio.get_running_loop().time
        began = clock()
        known, self._known = self._known, True
        while True:
            try:
                return await Stream.open(self.path)
            except UnreachableError:
                away_s = clock() - began  # somebody may be restarting it, and knows its options
                if self._start and (not known or away_s >= blocking.RESTARTS_WITHIN_S):
                    await asyncio.to_thread(lambda: self._session.connect().close())
                elif not known or away_s >= blocking.COMES_BACK_S:
                    raise
            await asyncio.sleep(0.1)

    async def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Return gpud's reply to any request of `gpud.wire.messages`."""
        left, patience_s = blocking.TRIES, blocking.PATIENCE_S
        while True:
            try:
                return await (await self._open()).ask(op, fields)
            except RefusedError as refused:
                wait_s = refused.retry_after_s if refused.code == "busy" else None
                if wait_s is None or not 0.0 <= wait_s <= patience_s:
                    raise
                patience_s -= wait_s + 0.01
                await asyncio.sleep(wait_s + 0.01)
            except blocking.ConnectionLostError as lost:
                left -= 1
                if not left or isinstance(lost, blocking.TurnedAwayError):
                    raise
                if op in blocking.ONCE:
                    raise blocking.ConnectionLostError(
                        f"{lost.message}; perhaps it did as asked", hint=lost.hint
                    ) from lost
                if op == "submit":
                    fields["retry"] = True

    async def submit(self, command: Command, **options: Unpack[Options]) -> AsyncJob:
        """Queue a job, with the options of `gpuctl submit` by their names; cancelled meanwhile, so is the job."""
        fields = {"nonce": submission.new_nonce(), **wanted.job(command, options)}
        return await AsyncJob(self, await self._queued(fields)).refresh(soon=True)

    async def _queued(self, fields: dict[str, Any]) -> str:
        """Return the id of a job that was submitted; leave none where this is cancelled."""
        asking = asyncio.ensure_future(self.request("submit", **fields))
        try:
            reply = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._later(self._undo(asking))
            raise
        return str(reply["job"])

    async def _undo(self, asking: "asyncio.Future[dict[str, Any]]") -> None:
        with contextlib.suppress(GpuctlError):
            reply = await asking
            if "there" not in reply:
                await self.request("cancel", select={"jobs": [reply["job"]]})

    def _later(self, coroutine: Any) -> None:
        """Do something that the cancelled do not wait for; `aclose` does."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._left_over.add(task)
        task.add_done_callback(self._left_over.discard)

    async def job(self, job: JobLike) -> AsyncJob:
        """Return a job by its id. Raises RefusedError where there is none."""
        return await AsyncJob(self, wanted.ids(job)[0]).refresh()

    async def jobs(self, *jobs: Jobs, **filters: Unpack[Listed]) -> list[AsyncJob]:
        """Return jobs as `gpuctl list` does."""
        asked = wanted.listed(jobs, filters)
        return [AsyncJob(self, row["id"], row) for row in (await self.request("list", **asked))["jobs"]]

    async def wait(self, jobs: Jobs, timeout: float | None = None) -> list[AsyncJob]:  # noqa: ASYNC109 - as in api
        """Wait until all of these have ended; return them in their order. Raises TimeoutError."""
        ids = wanted.ids(jobs)
        async with asyncio.timeout(timeout):
            return await self._ended(ids)

    async def _ended(self, ids: list[str]) -> list[AsyncJob]:
        left, ended = dict.fromkeys(ids), dict[str, AsyncJob]()
        numbers = list(dict.fromkeys(job.partition("_")[0] for job in ids))
        async with self.events(*numbers) as events:
            due = list(left)
            while True:
                for each in due:
                    job = await AsyncJob(self, each).refresh(soon=True)
                    if job.ended:
                        del left[each]
                        ended[each] = job
                if not left:
                    return [ended[job] for job in ids]
                due = waiting.perhaps_ended([await events.pushed()], left)

    async def logs(self, job: JobLike, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield the lines of a job's output; with `follow`, until it has ended."""
        loop = asyncio.get_running_loop()
        connection = await asyncio.to_thread(self._session.connect, start=self._start)
        stopped, stop = os.pipe2(os.O_CLOEXEC)
        lines = reading.lines(connection, wanted.ids(job)[0], follow=follow, stop=stopped)
        reads: asyncio.Future[Any] | None = None
        try:
            while True:
                reads = loop.run_in_executor(None, next, lines, None)
                line = await asyncio.shield(reads)
                if line is None:
                    return
                yield line
        finally:
            os.write(stop, b".")
            if reads is not None:
                await asyncio.wait([reads])
            lines.close()
            os.close(stop)
            os.close(stopped)

    def events(self, *jobs: Jobs, since: int | None = None) -> AsyncEvents:
        """Return what happens from now on, or after event number `since`, as an asynchronous iterator without end.

        >>> import asyncio
        >>> from gpuctl.aio import AsyncClient
        >>> async def main():
        ...     async with AsyncClient() as client, client.events() as events:
        ...         job = await client.submit(["true"], gpus=0)
        ...         async for event in events:
        ...             if event["job"] == job.id and event["kind"] == "completed":
        ...                 return event["detail"]
        >>> asyncio.run(main())
        {'exit_code': 0}
        """
        return AsyncEvents(self.connect, [job for some in jobs for job in wanted.ids(some)], since)

    async def watch(self, *, most: int = 100) -> AsyncIterator[dict[str, Any]]:
        """Yield `status`, `gpus` and `jobs` as they are now, and again whenever something changed, without end."""
        async with AsyncEvents(self.connect, [], None, readings=True) as events:
            while True:
                asked = overview.requests(most=most)
                yield overview.joined([await self.request(op, **fields) for op, fields in asked])
                await events.pushed()

    async def cancel(self, *jobs: Jobs, force: bool = False, **which: Unpack[Filters]) -> "ChangeReply":
        """Cancel jobs, by id or by filter; with `force`, without grace."""
        return await self._change("cancel", jobs, which, **({"force": True} if force else {}))

    async def hold(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Keep waiting jobs from starting."""
        return await self._change("hold", jobs, which)

    async def release(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Let held jobs start."""
        return await self._change("release", jobs, which)

    async def requeue(self, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Run jobs again from the start, under the same id."""
        return await self._change("requeue", jobs, which)

    async def priority(self, priority: int, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Set the priority of waiting jobs: the higher one goes first."""
        return await self._change("priority", jobs, which, priority=wanted.number("priority", priority))

    async def signal(self, number: int, *jobs: Jobs, **which: Unpack[Filters]) -> "ChangeReply":
        """Send a signal to every process of running jobs."""
        return await self._change("signal", jobs, which, signal=wanted.number("signal", number))

    async def update(self, *jobs: Jobs, **options: Any) -> "ChangeReply":
        """Change what jobs ask for, with the options of `gpuctl update`."""
        return await self._change("update", jobs, {}, **wanted.changes(options))

    async def _change(self, op: str, jobs: tuple[Jobs, ...], which: Filters, **more: Any) -> "ChangeReply":
        return cast("ChangeReply", await self.request(op, select=wanted.selection(jobs, which), **more))

    async def gpus(self) -> list[dict[str, Any]]:
        """Return every GPU, freshly read."""
        return cast("list[dict[str, Any]]", (await self.request("gpus", fresh=True))["gpus"])

    async def status(self) -> dict[str, Any]:
        """Return how gpud is."""
        return await self.request("status")

    @overload
    async def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: Literal[False] = False,
        at_once: int | None = None,
        **options: Unpack[Options],
    ) -> list[R]: ...

    @overload
    async def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: Literal[True],
        at_once: int | None = None,
        **options: Unpack[Options],
    ) -> "list[R | Exception]": ...

    async def map(
        self,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        return_exceptions: bool = False,
        at_once: int | None = None,
        **options: Unpack[Options],
    ) -> "list[R] | list[R | Exception]":
        """Call a function with each of the items, each in a job of its own, as `gpuctl.Client.map`."""
        each = list(items)
        if not each:
            return []
        calls = await asyncio.to_thread(Mapping, fn, each, at_once, options, raises=not return_exceptions)
        try:
            array = await self._queued(calls.fields)
            try:
                answer = await self._mapped(calls, array)
            except BaseException:
                self._later(self._cancelled(array))
                raise
            return await asyncio.to_thread(calls.results, answer)
        finally:
            calls.close()

    async def _mapped(self, calls: Mapping, array: str) -> dict[str, Any]:
        """Return what `show` says of the array once it has ended."""
        async with self.events(array) as events:
            while True:
                answer = await self.request("show", job=array, soon=True)
                if answer["job"]["state"] in ENDS:
                    return answer
                if calls.fails(answer):
                    await self._cancelled(array, state=list(WAITING))
                while not calls.is_due(array, [await events.pushed()]):
                    pass

    async def _cancelled(self, array: str, **which: list[str]) -> None:
        with contextlib.suppress(GpuctlError):
            await self.request("cancel", select={"jobs": [array], **which})

    async def _open(self) -> Stream:
        async with self._opening:
            if self._stream is None or self._stream.lost is not None:
                self._stream = await self.connect()
            return self._stream
