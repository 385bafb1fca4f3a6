"""Reads of jobs: lists of them, one whole, why they wait, what happened to them.

Rows come from the reading thread; what the world adds is put to them on the loop afterwards.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from math import inf
from typing import cast

from gpud.instance import Instance
from gpud.intake.selection import (
    Named,
    checked_states,
    merged,
    no_such_group,
    no_such_job,
    parse_job,
    parse_jobs,
    within,
)
from gpud.model.array import IndexSet
from gpud.model.job import End, JobId, StopCause, array_of, format_job, index_of, job_id, number_of
from gpud.model.units import Seconds, Timestamp
from gpud.orders import confined_map
from gpud.server.connections import Peer
from gpud.store.rows import JobQuery, JobRow
from gpud.views import jobs as views
from gpud.views.explaining import why_map
from gpud.views.forecasting import Forecaster
from gpud.views.jobs import Scene, Viewer
from gpud.views.results import happened, results
from gpud.views.seeing import scene_of, viewer_of
from gpud.wire.check import Wrong
from gpud.wire.codec import FRAME_MAX, Message, pack
from gpud.wire.messages import Job

_DAY_S = 86_400.0
_ROWS = 1_000
_ROWS_MOST = 10_000
_BREATH = 200
_LABELS_MOST = 100  # no job has more
_UNRECORDED: Message = {"commit": None, "dirty": None}
_WAITING = frozenset({"queued", "held"})
_ROWS_BYTES = FRAME_MAX * 3 // 4
_SOON_S = 0.1  # how long a list waits for what is expected
_PATIENT_S = 1.0  # and who asks for one job


class Listing:
    """Answers what is asked of jobs."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self._forecasts = Forecaster(gpud)
        self.by_op: dict[str, Callable[[Peer, Message], Awaitable[Message]]] = {
            "list": self._list,
            "show": self._show,
            "why": self._why,
            "events": self._events,
            "groups": self._groups,
        }

    async def _list(self, peer: Peer, message: Message) -> Message:
        states = checked_states(message.get("state", ()))
        limit = message.get("limit", _ROWS_MOST if message.get("all") else self._usual())
        if not 0 < limit <= _ROWS_MOST:
            raise Wrong(f"the limit must be from 1 to {_ROWS_MOST}, not {limit}")
        words = parse_jobs(message["jobs"]) if "jobs" in message else None
        me = await self._gpud.names.name(peer.uid)
        own = None if message.get("all") else (me, Timestamp(self._gpud.clock() - _DAY_S))
        labels = tuple(_label(word) for word in dict.fromkeys(message.get("labels", ())))
        if len(labels) > _LABELS_MOST:
            raise Wrong(f"a job has at most {_LABELS_MOST} labels, and {len(labels)} are named")
        user = message.get("user")
        # Others' labels are not told, neither by asking for each.
        if message.get("mine") or (labels and not viewer_of(self._gpud, peer).private):
            if user not in {None, me}:
                return {"jobs": [], "more": 0, "storage": self._gpud.storage}
            user = me
        query = JobQuery(
            spans=None if words is None else tuple(merged(span for word in words for span in _spans(word))),
            ended=message.get("all", False) or bool(states & frozenset(End)) or "since" in message,
            own=own,
            limit=limit,
            user=user,
            states=states,
            name=message.get("name"),
            group=message.get("group"),
            labels=labels,
            since=message.get("since"),
            shown=True,
            first=self._first(states, limit),
        )
        rows, more = await self._gpud.reader.run(lambda reader: reader.jobs(query))
        if words is not None:
            rows = list(_named(rows, words))
        there = {job for row in rows for job in (row.job, array_of(row.job))}
        await self._rows([word.span[0] for word in words or () if word.alone and word.span[0] not in there])
        scene, viewer = await self._ahead(rows, _SOON_S), viewer_of(self._gpud, peer)
        places = views.positions(scene.world) if _any_waits(rows) else None  # which sorts the whole queue
        told = await _told(scene, rows, viewer, places or {}, with_results=message.get("results", False))
        return {"jobs": told, "more": more + len(rows) - len(told), "storage": self._gpud.storage}

    def _usual(self) -> int:
        """Return how many rows a listing has where nobody says: all that has not ended, and some of what has."""
        world = self._gpud.world
        return min(_ROWS_MOST, _ROWS + len(world.active) + len(world.queue) + len(world.parked))

    def _first(self, states: frozenset[str], limit: int) -> tuple[JobId, ...]:
        """Return which jobs a listing keeps before others: those that run; where all wait, the next in line."""
        world = self._gpud.world
        if states and states <= _WAITING:
            return tuple(islice(views.positions(world) or {}, limit))
        return tuple(world.active)

    async def _ahead(self, rows: Sequence[JobRow], patience_s: Seconds) -> Scene:
        """Return how things are, and what is expected where one of these jobs waits."""
        forecast = await self._forecasts.newest(patience_s) if _any_waits(rows) else None
        return replace(scene_of(self._gpud), forecast=forecast)

    async def _show(self, peer: Peer, message: Message) -> Message:
        job = parse_job(message["job"])
        row = await self._row(job)
        scene = scene_of(self._gpud) if message.get("soon") else await self._ahead([row], _PATIENT_S)
        viewer = viewer_of(self._gpud, peer)
        spans = ((job, _last_of(job)),) if row.array is not None else ((job, job),)
        attempts = await self._gpud.reader.run(lambda reader: reader.attempts(job))
        events = await self._gpud.reader.run(lambda reader: reader.events(0, spans, _ROWS))
        private = viewer.may_read(row)
        names = await self._gpud.reader.run(lambda reader: reader.environment(job)) if private else None
        shown = views.job_map(scene, row, viewer, scene.world.queue.position(job))
        answer: Message = {
            "job": shown,
            "attempts": [views.attempt_map(scene, row, attempt, viewer) for attempt in attempts],
            "events": [views.event_map(event, viewer) for event in events],
            "environment": names,
            **(await self._gpud.reader.run(lambda reader: reader.recorded(job)) if private else _UNRECORDED),
            "confined": confined_map(self._gpud.launcher, job, row.place.attempt),
            "dependents": [format_job(each) for each in scene.world.after.dependents(job)],
            "lost_gpu_s": sum(each.gpu_s or 0.0 for each in attempts if each.cause is StopCause.PREEMPTED),
            "happened": happened(row, events) if private else None,
            "results": results(scene.world, row, attempts[-1] if attempts else None, scene.now) if private else None,
        }
        if row.array is not None:
            query = JobQuery(spans=((JobId(job + 1), _last_of(job)),), limit=_ROWS)
            rows, _ = await self._gpud.reader.run(lambda reader: reader.jobs(query))
            answer["elements"] = await _told(scene, rows, viewer, {})
            shown["started_at"] = await self._gpud.reader.run(lambda reader: reader.first_start(job, _last_of(job)))
            running = {"starting", "running", "stopping"}
            if row.ended_at is None and any(each.state in running for each in rows):
                shown["state"] = "running"
            if row.ended_at is not None:
                shown["exit_code"], shown["signal"] = await self._exit_of_array(row)
        return answer

    async def _exit_of_array(self, row: JobRow) -> tuple[int | None, int | None]:
        """Return the exit of an ended array: that of its first element that did not complete, else 0."""
        if row.state == End.COMPLETED:
            return 0, None
        states = frozenset(End) - {End.COMPLETED}
        query = JobQuery(spans=((JobId(row.job + 1), _last_of(row.job)),), states=states, limit=_ROWS_MOST)
        rows, _ = await self._gpud.reader.run(lambda reader: reader.jobs(query))
        over = next((each.run.exit for each in rows if each.run is not None and each.run.exit is not None), None)
        return (None, None) if over is None else (over.exit_code, over.signal)

    async def _why(self, peer: Peer, message: Message) -> Message:
        viewer = viewer_of(self._gpud, peer)
        if "job" in message:
            row = await self._row(parse_job(message["job"]))
            scene = await self._ahead([row], _PATIENT_S)
            place = scene.world.queue.position(row.job)
            return {"jobs": [why_map(scene, row, place, deep=True, private=viewer.may_read(row))]}
        limit = min(max(1, message.get("limit", 100)), _ROWS)
        query = JobQuery(states=_WAITING, limit=limit, first=self._first(_WAITING, limit))
        rows, _ = await self._gpud.reader.run(lambda reader: reader.jobs(query))
        scene = await self._ahead(rows, _PATIENT_S)
        places = views.positions(scene.world) or {}
        rows.sort(key=lambda row: places.get(row.job, inf))
        told = []
        for number, row in enumerate(rows, 1):
            private = viewer.may_read(row)
            told.append(why_map(scene, row, places.get(row.job), deep=False, private=private))
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return {"jobs": told}

    async def _events(self, peer: Peer, message: Message) -> Message:
        viewer = viewer_of(self._gpud, peer)
        words = parse_jobs(message["jobs"]) if "jobs" in message else None
        await self._rows([word.span[0] for word in words or () if word.alone])
        spans = None if words is None else merged(word.span for word in words)
        since, limit = message.get("since"), message.get("limit", _ROWS)
        if not 0 < limit <= _ROWS_MOST:
            raise Wrong(f"the limit must be from 1 to {_ROWS_MOST}, not {limit}")
        last = self._gpud.last_event
        events = await self._gpud.reader.run(lambda reader: reader.events(since, spans, limit))
        if since is not None or (events and events[-1].seq > last):
            last = events[-1].seq if events else since or 0
        return {"events": [views.event_map(event, viewer) for event in events], "last": last}

    async def _groups(self, peer: Peer, message: Message) -> Message:
        name, since = message.get("name"), Timestamp(self._gpud.clock() - _DAY_S)
        rows = await self._gpud.reader.run(lambda reader: reader.groups(name, since))
        if name is not None and not rows:
            raise no_such_group(name)
        rows.sort(key=lambda row: (row.uid == peer.uid, row.submitted_at))  # whoever has very many hides nobody's own
        kept = sorted(rows[-_ROWS:], key=lambda row: row.submitted_at)
        forecast = await self._forecasts.newest(_PATIENT_S) if any(row.ended_at is None for row in kept) else None
        scene = replace(scene_of(self._gpud), forecast=forecast)
        return {"groups": [views.group_map(scene, row) for row in kept], "more": len(rows) - len(kept)}

    async def _row(self, job: JobId) -> JobRow:
        """Return a job's row; for an element that has none of its own, what its array's row says of it."""
        return (await self._rows([job]))[0]

    async def _rows(self, jobs: list[JobId]) -> list[JobRow]:
        """Return the rows of these jobs, as `_row` does. Raises Wrong for one that there is not."""
        if not jobs:
            return []
        # At once: an element that starts between two looks would be in neither.
        named = [*jobs, *map(array_of, jobs)]
        rows = {row.job: row for row in await self._gpud.reader.run(lambda reader: reader.rows(named))}
        return [rows[job] if job in rows else _within(rows.get(array_of(job)), job) for job in jobs]


def _within(array: JobRow | None, job: JobId) -> JobRow:
    """Return the row of an element that has none of its own. Raises Wrong where there is no such element, or job."""
    index = index_of(job)
    if index is None:
        raise no_such_job(format_job(job))
    element = None if array is None else _element(array, index)
    if element is None:
        hint = f"see what there is: gpuctl show {number_of(job)}"
        raise Wrong(f"there is no job {format_job(job)}", hint, "no_such_job")
    return element


def _spans(word: Named) -> Iterator[tuple[JobId, JobId]]:
    """Yield the keys of what a word names; of elements also their array's, whose row tells of those without one."""
    yield word.span
    if word.elements is not None:
        yield job_id(word.first), job_id(word.first)


def _named(rows: Sequence[JobRow], words: Sequence[Named]) -> Iterator[JobRow]:
    """Yield rows; of an array of which only elements are named, those of them that have no rows of their own."""
    whole = merged(word.span for word in words if word.elements is None)
    parts: dict[JobId, list[tuple[bool, IndexSet]]] = {}
    for word in words:
        if word.elements is not None:
            parts.setdefault(job_id(word.first), []).append((word.alone, word.elements))
    for row in rows:
        state = row.array_state
        if state is None or index_of(row.job) is not None or within(row.job, whole):
            yield row
            continue
        there = state.pending | state.dropped
        for alone, elements in parts.get(row.job, ()):
            element = _element(row, elements.first) if alone else None
            if element is not None:
                yield element
            elif not alone and elements & there:
                yield replace(row, array_state=replace(state, pending=elements & state.pending))


def _element(array: JobRow, index: int) -> JobRow | None:
    """Return what an array's row says of an element that has none of its own; None where it says nothing."""
    state = array.array_state
    if state is None or not (index in state.pending or index in state.dropped):
        return None
    word = array.state if index in state.pending else End.CANCELLED.value
    ended_at = None if index in state.pending else array.updated_at
    job = job_id(number_of(array.job), index)
    return replace(array, job=job, state=word, ended_at=ended_at, array=None, array_state=None)


async def _told(
    scene: Scene, rows: Sequence[JobRow], viewer: Viewer, places: Mapping[JobId, int], *, with_results: bool = False
) -> list[Job]:
    """Return those of these jobs that one frame has room for, in their order; what has not ended goes first."""
    jobs, sizes = [], []
    for number, row in enumerate(rows, 1):
        job: Message = {**views.row_map(scene, row, viewer, places.get(row.job))}
        if with_results:
            job["results"] = results(scene.world, row, row.run, scene.now) if viewer.may_read(row) else None
        jobs.append(cast("Job", job))
        sizes.append(len(pack({"job": jobs[-1]})))
        if number % _BREATH == 0:  # others wait no longer for who asks for all there is
            await asyncio.sleep(0)
    ranked = sorted(range(len(jobs)), key=lambda at: (jobs[at]["ended_at"] is not None, -at))
    upto = accumulate(sizes[at] for at in ranked)
    kept = [at for at, size in zip(ranked, upto, strict=True) if size <= _ROWS_BYTES]
    return [jobs[at] for at in sorted(kept)]


def _any_waits(rows: Sequence[JobRow]) -> bool:
    return any(row.ended_at is None and row.state in _WAITING for row in rows)


def _last_of(job: JobId) -> JobId:
    return JobId(job_id(number_of(job) + 1) - 1)


def _label(word: str) -> tuple[str, str | None]:
    """Return the key and value of `K=V`; a key alone means any value."""
    key, equals, value = word.partition("=")
    return key, value if equals else None
