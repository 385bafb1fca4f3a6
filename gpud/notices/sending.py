"""Tells people what they asked to be told of: jobs that start, end, wait for long; groups that are done; alerts.

It reads the events that are durable, keeps what they come to in the outbox, and has each notice delivered by a process
of its own (see `delivery`), which the launcher starts as the user whose notice it is: whoever is slow or dead keeps
nobody waiting, and nobody's command runs as anybody else. Such a process is an attempt of element N of job 0, which is
nobody's job; its end says whether the notice has arrived, and one that has not is tried again later and later.
"""

import asyncio
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from gpud.instance import Instance
from gpud.model.effects import Forget, Launch, Look
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import Demand, Exit, JobId, format_job, job_id, number_of
from gpud.model.observations import Exited, Observation
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.notices.telling import Telling
from gpud.orders import notice_log, notice_order
from gpud.store.files import StoreError
from gpud.store.outbox import Notice, Outbox
from gpud.store.reader import Reader
from gpud.store.rows import Event
from gpud.wire.notices import NoticeMap

log = logging.getLogger(__name__)

_AT_ONCE, _OF_ONE = 64, 4  # deliveries, in all and of one user: whose take long keep nobody else's waiting
_AGAIN_S = (10.0, 60.0, 600.0, 3600.0)  # after the first failure, the second ...
_LIMIT_S = 60.0  # of a delivery; the program itself gives up before
_KEEP_S = 30 * 86_400.0
_PAGE = 1_000
_NUMBERS = 1 << 23  # of the elements of job 0; the other half of them are `errands`


class Notices:
    """The notices of one gpud. Everything is called on the event loop's thread."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self._path = f"{gpud.parts.config.state_dir}/notices.db"
        self._thread = ThreadPoolExecutor(1, "gpud-notices")
        self._outbox: Outbox | None = None
        self._events: deque[Event] = deque()
        self._late: list[tuple[Timestamp, JobId]] = []  # a heap: since when a job waits that may come to wait for long
        self._sending: dict[JobId, Notice] = {}
        self._over: deque[tuple[Notice, Exit]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._telling = Telling(gpud)

    def begin(self) -> None:
        """Go on where an earlier gpud was, if anybody ever asked to be told of anything."""
        if self._gpud.config.alerts or Path(self._path).exists():
            self._opening = asyncio.create_task(self._open(self._gpud.last_event))

    @property
    def ready(self) -> bool:
        """Return whether notices are kept already; else `expect` must come before the first job that asks for some."""
        return self._outbox is not None

    async def expect(self) -> None:
        """Be ready for a job that asks for notices, before it is submitted. Raises StoreError."""
        if self._outbox is None:
            await self._open(self._gpud.last_event)

    def publish(self, events: Sequence[Event]) -> None:
        """Take events that are durable now."""
        if self._outbox is not None:
            self._events += events
            self._wake.set()

    def observed(self, seen: Observation) -> bool:
        """Take what became of a delivery; return False for what is none."""
        job = getattr(seen, "job", None)
        if job is None or number_of(job):
            return False
        if isinstance(seen, Exited):
            notice = self._sending.pop(job, None)
            if notice is not None:
                self._over.append((notice, seen.exit))
                self._wake.set()
            self._gpud.launcher.perform(Forget(job, seen.attempt))
        return True

    async def history(self, uid: int | None, job: JobId | None, limit: int) -> list[NoticeMap]:
        """Return the newest notices: of one user or of everybody. Raises StoreError."""
        if self._outbox is None:
            return []
        found = await self._run(partial(self._outbox.history, uid, job, limit))
        return [self._map(each) for each in found]

    async def close(self) -> None:
        """Leave; what is on its way arrives, and the next gpud hears of it."""
        tasks = [task for task in (self._opening, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._outbox is not None:
            self._thread.submit(self._outbox.close).result()
        self._thread.shutdown()

    async def _open(self, last_event: int) -> None:
        outbox = await self._run(partial(Outbox, self._path))
        if self._outbox is not None:  # somebody else asked meanwhile
            return
        self._outbox = outbox
        self._task = asyncio.create_task(self._work(last_event))
        self._task.add_done_callback(_complain)

    async def _work(self, last_event: int) -> None:
        """Keep, deliver, wait: until cancelled."""
        mark = await self._catch_up(last_event)
        for notice in await self._run(self._box.sending):
            number = _element(notice)
            self._sending[number] = notice
            self._gpud.launcher.perform(Look(number, notice.tries, self._gpud.parts.boot))
        while True:
            try:
                taken = list(self._events)
                mark = await self._keep(mark, taken)
                for _ in taken:
                    self._events.popleft()
                await self._settle()
                await self._send()
                due = await self._next_due_at()
            except StoreError as error:
                log.error("notices wait: %s", error)  # noqa: TRY400 - told in its own words
                due = Timestamp(self._gpud.clock() + _AGAIN_S[0])
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._gpud.clock())):
                    await self._wake.wait()
            self._wake.clear()

    async def _catch_up(self, last_event: int) -> int:
        """Take the events that an earlier gpud did not come to; return up to which they are taken."""
        mark: int = await self._run(partial(self._box.mark, last_event))
        for job, at in await self._gpud.reader.run(lambda reader: reader.unfinished_with_notices("waiting")):
            heappush(self._late, (at, job))
        await self._run(partial(self._box.prune, Timestamp(self._gpud.clock() - _KEEP_S)))
        while True:
            past = await self._gpud.reader.run(partial(Reader.events, since=mark, spans=None, limit=_PAGE))
            mark = await self._keep(mark, past)
            if len(past) < _PAGE:
                return mark

    def _late_at(self) -> Timestamp | None:
        """Return when the next job has waited for long."""
        return Timestamp(self._late[0][0] + self._gpud.config.long_wait_s) if self._late else None

    async def _keep(self, mark: int, events: Sequence[Event]) -> int:
        """Put what events come to into the outbox; return up to which they are taken."""
        fresh = [event for event in events if event.seq > mark]
        now = self._gpud.clock()
        late = []
        while (at := self._late_at()) is not None and at <= now:
            late.append(heappop(self._late)[1])
        if not fresh and not late:
            return mark
        notices = self._telling.of_alerts(fresh, self._gpud.config.alerts)
        told = await self._run(partial(self._box.told, "waiting", late)) if late else set()  # by an earlier gpud, too
        notices += await self._telling.of_jobs(fresh, late, now, told)
        for job, at in self._telling.waiting:
            heappush(self._late, (at, job))
        self._telling.waiting.clear()
        mark = fresh[-1].seq if fresh else mark
        await self._run(partial(self._box.add, notices, mark))
        return mark

    async def _send(self) -> None:
        for _ in range(_AT_ONCE - len(self._sending)):
            notice = await self._run(partial(self._box.due, self._gpud.clock(), self._busy()))
            if notice is None:
                return
            spec = await self._spec(notice)
            if spec is None:
                now = self._gpud.clock()
                await self._run(partial(self._box.failed, notice.number, now, "its job is not kept any more", None))
                continue
            number = _element(notice)
            self._sending[number] = notice
            said = json.dumps({"id": notice.number, "target": notice.target, **json.loads(notice.body)})
            config, means = self._gpud.config, self._gpud.launcher.means
            order = notice_order(config, spec, self._gpud.clock.offset, notice.number, said, means)
            nothing = Allocation(node=NodeName(""))
            self._gpud.launcher.perform(Launch(number, notice.tries, nothing), order)

    def _busy(self) -> list[int | None]:
        """Return who has as many on their way as one may have."""
        counts = Counter(notice.uid for notice in self._sending.values())
        return [uid for uid, count in counts.items() if count >= _OF_ONE]

    async def _spec(self, notice: Notice) -> JobSpec | None:
        """Return what a delivery runs as: with what its job was submitted with, or as gpud itself."""
        job = notice.job
        if notice.uid is None or job is None:
            return _own_spec()
        try:
            found = await self._gpud.reader.run(lambda reader: reader.specs([job]))
        except LookupError:
            return None
        spec = found[0]
        terms = Terms(demand=Demand(gpus=0), uid=spec.terms.uid, user=spec.terms.user, tenant=spec.terms.tenant)
        return replace(
            _own_spec(), environment=spec.environment, gid=spec.gid, groups=spec.groups, terms=_limited(terms)
        )

    async def _settle(self) -> None:
        """Note what became of deliveries."""
        while self._over:
            notice, ended = self._over.popleft()
            now = self._gpud.clock()
            if ended.exit_code == 0:
                await self._run(partial(self._box.sent, notice.number, now))
                continue
            never = ended.exit_code == os.EX_CONFIG or notice.tries > len(_AGAIN_S)
            again = None if never else Timestamp(now + _AGAIN_S[notice.tries - 1])
            error = _why(ended)
            log.warning("notice %d (%s) was not delivered: %s", notice.number, notice.event, error)
            await self._run(partial(self._box.failed, notice.number, now, error, again))

    async def _next_due_at(self) -> Timestamp | None:
        """Return when there is something to do unless something happens before."""
        if self._events or self._over:
            return self._gpud.clock()
        full = len(self._sending) >= _AT_ONCE
        due = None if full else await self._run(partial(self._box.next_due_at, self._busy()))
        moments = [each for each in (due, self._late_at()) if each is not None]
        return min(moments, default=None)

    def _map(self, notice: Notice) -> NoticeMap:
        return {
            "number": notice.number,
            "at": notice.at,
            "job": None if notice.job is None else format_job(notice.job),
            "event": notice.event,
            "target": notice.target,
            "state": notice.state,
            "tries": notice.tries,
            "due_at": notice.due_at if notice.state == "due" else None,
            "ended_at": notice.ended_at,
            "error": notice.error,
            "log": notice_log(self._gpud.config, notice.uid, notice.number),
        }

    @property
    def _box(self) -> Outbox:
        assert self._outbox is not None  # noqa: S101 - made before anything is kept
        return self._outbox

    async def _run(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the work gives
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("no more notices until gpud is started anew", exc_info=task.exception())


def _element(notice: Notice) -> JobId:
    return job_id(0, notice.number % _NUMBERS)


def _own_spec() -> JobSpec:
    terms = Terms(demand=Demand(gpus=0), uid=os.getuid(), user="", tenant="")
    kept = ("PATH", "HOME", "USER", "LANG", "GPUD_WEBHOOK_SECRET", "http_proxy", "https_proxy", "no_proxy")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return JobSpec(
        nonce="",
        terms=_limited(terms),
        name="notice",
        command=(),
        workdir="/",
        environment=json.dumps(environment).encode(),
        gid=os.getgid(),
        groups=tuple(os.getgroups()),
        umask=0o077,
    )


def _limited(terms: Terms) -> Terms:
    limit: Seconds = _LIMIT_S
    return replace(terms, time_limit_s=limit, grace_s=1.0)


def _why(ended: Exit) -> str:
    if ended.fault is not None:
        return ended.fault.reason
    if ended.lost is not None:
        return ended.lost
    return ended.finding or {os.EX_TEMPFAIL: "it could not be reached", os.EX_CONFIG: "it cannot be told"}.get(
        ended.exit_code or 0,
        f"its delivery ended with {ended.exit_code if ended.signal is None else f'signal {ended.signal}'}",
    )
