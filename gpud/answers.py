"""Reads: what is asked once everything before it is durable, answered from the store and the world.

Rows come from the reading thread; what the world adds (reasons, positions, expected starts) is put to them on the
loop afterwards, in pieces that never hold it up for long.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from gpud import __version__, devices, views
from gpud.check import Wrong
from gpud.config import Config
from gpud.core.choice import in_force
from gpud.core.tenants import no_such_tenant
from gpud.core.windows import misnamed
from gpud.core.world import World
from gpud.explaining import why_map
from gpud.inspection import kept_for, policies_map, reservation_map, tenant_map
from gpud.model.job import End, JobId, StopCause, array_of, format_job, index_of, job_id, number_of
from gpud.model.units import Timestamp
from gpud.names import Names
from gpud.orders import log_dir
from gpud.reading import ReadThread
from gpud.requests import refuse
from gpud.selection import checked_states, parse_job, parse_jobs
from gpud.server import Peer
from gpud.statistics import Cycles, Statistics
from gpud.store.files import StoreError
from gpud.store.rows import JobQuery, JobRow
from gpud.views import Scene, Viewer
from gpud.wire.codec import FRAME_MAX, PROTOCOL, PROTOCOL_OLDEST, Message, pack
from gpud.wire.messages import Job

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_ROWS = 1_000
_ROWS_MOST = 10_000
_ROWS_BYTES = FRAME_MAX * 3 // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a running gpud knows about itself, for `status`; `not_stored`: why nothing can be made durable now."""

    config: Config
    started_at: Timestamp
    launcher: Callable[[], dict[str, object]]
    not_stored: Callable[[], StoreError | None]
    cycles: Cycles


class Answers:
    """Answers reads.

    `fresh` waits, a moment at most, until every GPU was looked at anew; `last_event` numbers the newest durable event.
    """

    def __init__(
        self,
        *,
        world: Callable[[], World],
        clock: Callable[[], Timestamp],
        reader: ReadThread,
        names: Names,
        facts: Facts,
        fresh: Callable[[], Awaitable[None]],
        last_event: Callable[[], int],
    ) -> None:
        self._world = world
        self._clock = clock
        self._reader = reader
        self._names = names
        self._facts = facts
        self._fresh = fresh
        self._statistics = Statistics(world, clock, reader, facts.cycles)
        self._last_event = last_event
        config = facts.config
        self._log_dir: Callable[[int], str] = lambda uid: log_dir(config, uid)
        self._asked: dict[Peer, deque[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_op: dict[str, Callable[[Peer, Message], Awaitable[Message]]] = {
            "list": self._list,
            "show": self._show,
            "why": self._why,
            "gpus": self._gpus,
            "nodes": self._nodes,
            "status": self._status,
            "stats": self._stats,
            "tenants": self._tenants,
            "reservations": self._reservations,
            "policies": self._policies,
            "events": self._events,
        }

    @property
    def busy(self) -> bool:
        """Return whether anything that was asked has not been answered."""
        return bool(self._asked)

    def take(self, peer: Peer, message: Message) -> None:
        """Answer a read, behind this client's reads before it: one's many keep nobody else waiting for theirs."""
        asked = self._asked.setdefault(peer, deque())
        asked.append(message)
        if len(asked) == 1:
            task = asyncio.create_task(self._answer_all(peer, asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_all(self, peer: Peer, asked: deque[Message]) -> None:
        try:
            while asked and not peer.closed:
                await self._answer(peer, asked[0])
                asked.popleft()
        finally:
            del self._asked[peer]

    async def _answer(self, peer: Peer, message: Message) -> None:
        try:
            peer.reply(message["id"], await self._by_op[message["op"]](peer, message))
        except Wrong as wrong:
            refuse(peer, message, wrong)
        except StoreError as error:
            peer.error(message["id"], {"code": "storage", "message": str(error), "hint": error.hint})
        except Exception:  # ours: it goes into the log, but nobody shall wait for an answer
            log.exception("%s was not answered", message["op"])
            peer.error(message["id"], {"code": "refused", "message": "gpud failed to answer", "hint": "see its log"})

    def viewer(self, peer: Peer) -> Viewer:
        """Return what this client may see."""
        return Viewer(uid=peer.uid, private=not self._facts.config.system or peer.uid == 0)

    def _scene(self) -> Scene:
        return Scene(world=self._world(), now=self._clock(), log_dir=self._log_dir)

    async def _list(self, peer: Peer, message: Message) -> Message:
        states = checked_states(message.get("state", ()))
        limit = message.get("limit", _ROWS)
        if not 0 < limit <= _ROWS_MOST:
            raise Wrong(f"the limit must be from 1 to {_ROWS_MOST}, not {limit}")
        words = parse_jobs(message["jobs"]) if "jobs" in message else None
        me = await self._names.name(peer.uid)
        own = None if message.get("all") else (me, Timestamp(self._clock() - _DAY_S))
        query = JobQuery(
            spans=None if words is None else tuple(word.span for word in words),
            ended=message.get("all", False) or bool(states & frozenset(End)) or "since" in message,
            own=own,
            limit=limit,
            user=me if message.get("mine") else message.get("user"),
            states=states,
            name=message.get("name"),
            labels=tuple(_label(word) for word in message.get("labels", ())),
            since=message.get("since"),
            shown=True,
            first=tuple(self._world().active),
        )
        rows, more = await self._reader.run(lambda reader: reader.jobs(query))
        for word in words or ():
            if word.alone and not any(word.names(row.job) or array_of(row.job) == job_id(word.first) for row in rows):
                raise Wrong(f"there is no job {word.text}", "see what there is: gpuctl list --all", "no_such_job")
        scene, viewer = self._scene(), self.viewer(peer)
        places = views.positions(scene.world) or {}
        maps = [views.row_map(scene, row, viewer, places.get(row.job)) for row in rows]
        told = _what_fits(maps)
        return {"jobs": told, "more": more + len(maps) - len(told)}

    async def _show(self, peer: Peer, message: Message) -> Message:
        job = parse_job(message["job"])
        row = await self._row(job)
        scene, viewer = self._scene(), self.viewer(peer)
        spans = ((job, _last_of(job)),) if row.array is not None else ((job, job),)
        attempts = await self._reader.run(lambda reader: reader.attempts(job))
        events = await self._reader.run(lambda reader: reader.events(0, spans, _ROWS))
        private = viewer.may_read(row)
        names = await self._reader.run(lambda reader: reader.environment(job)) if private else None
        shown = views.job_map(scene, row, viewer, scene.world.queue.position(job))
        answer: Message = {
            "job": shown,
            "attempts": [views.attempt_map(scene, row, attempt, viewer) for attempt in attempts],
            "events": [views.event_map(event) for event in events],
            "environment": names,
            "dependents": [format_job(each) for each in scene.world.after.dependents(job)],
            "lost_gpu_s": sum(each.gpu_s or 0.0 for each in attempts if each.cause is StopCause.PREEMPTED),
        }
        if row.array is not None:
            query = JobQuery(spans=((JobId(job + 1), _last_of(job)),), limit=_ROWS)
            rows, _ = await self._reader.run(lambda reader: reader.jobs(query))
            answer["elements"] = _what_fits([views.row_map(scene, each, viewer, None) for each in rows])
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
        rows, _ = await self._reader.run(lambda reader: reader.jobs(query))
        over = next((each.run.exit for each in rows if each.run is not None and each.run.exit is not None), None)
        return (None, None) if over is None else (over.exit_code, over.signal)

    async def _why(self, peer: Peer, message: Message) -> Message:
        del peer  # everybody may see why the queue stands as it does
        limit = message.get("limit", 100)
        if "job" in message:
            rows, deep = [await self._row(parse_job(message["job"]))], True
        else:
            query = JobQuery(states=frozenset({"held", "queued"}), limit=_ROWS)
            rows, deep = (await self._reader.run(lambda reader: reader.jobs(query)))[0], False
        scene = self._scene()
        places = views.positions(scene.world) if not deep else None
        told = []
        for row in rows:
            place = scene.world.queue.position(row.job) if places is None else places.get(row.job)
            told.append((place is None, place, why_map(scene, row, place, deep=deep)))
        told.sort(key=lambda each: each[:2] if each[1] is not None else (True, 0))
        return {"jobs": [each for _, _, each in told[: max(1, limit)]]}

    async def _gpus(self, peer: Peer, message: Message) -> Message:
        if message.get("fresh", True):
            await self._fresh()
        scene, viewer = self._scene(), self.viewer(peer)
        states = [state for node in scene.world.nodes.values() for state in node.gpus]
        kept = kept_for(scene.world, scene.now)
        maps = [{**devices.gpu_map(scene, state, viewer), "kept_for": kept.get(state.gpu.id, [])} for state in states]
        problem = scene.world.problem() or "; ".join(misnamed(scene.world, scene.now)) or None
        return {"gpus": maps, "problem": problem}

    async def _nodes(self, peer: Peer, message: Message) -> Message:
        del peer, message
        scene = self._scene()
        return {"nodes": [devices.node_map(scene, node) for node in scene.world.nodes.values()]}

    async def _tenants(self, peer: Peer, message: Message) -> Message:
        del peer  # everybody may see what everybody may have
        world, name = self._world(), message.get("name")
        if name is not None and name not in world.tenants:
            refused = no_such_tenant(world, name)
            raise Wrong(refused.message, refused.hint, refused.code)
        shown = world.tenants.values() if name is None else [world.tenants[name]]
        return {"tenants": [tenant_map(world, each, self._clock()) for each in shown]}

    async def _policies(self, peer: Peer, message: Message) -> Message:
        del peer, message
        return policies_map(self._world())

    async def _reservations(self, peer: Peer, message: Message) -> Message:
        del peer, message
        world, now = self._world(), self._clock()
        windows = sorted(world.windows.values(), key=lambda window: (window.at, window.number))
        return {"reservations": [reservation_map(world, each, now) for each in windows if now < each.until]}

    async def _status(self, peer: Peer, message: Message) -> Message:
        del peer, message
        counts = await self._reader.run(lambda reader: reader.counts(Timestamp(self._clock() - _DAY_S)))
        scene, config = self._scene(), self._facts.config
        lost = self._facts.not_stored()
        driver = next((node.node.driver for node in scene.world.nodes.values() if node.node.driver), None)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "protocol": [PROTOCOL_OLDEST, PROTOCOL],
            "started_at": self._facts.started_at,
            "state_dir": config.state_dir,
            "socket": config.socket,
            "config_file": config.files[-1] if config.files else None,
            "simulated": config.simulate,
            "system": config.system,
            "policy": in_force(scene.world),
            "paused": scene.world.paused,
            "jobs": counts,
            "gpus": devices.gpu_counts(scene),
            "driver": driver,
            "problem": scene.world.problem(),
            "launcher": self._facts.launcher(),
            "memory_mib": _resident_mib(),
            "storage": None if lost is None else f"{lost}; {lost.hint}",
        }

    async def _stats(self, peer: Peer, message: Message) -> Message:
        del peer, message
        return await self._statistics.answer()

    async def _events(self, peer: Peer, message: Message) -> Message:
        del peer
        words = parse_jobs(message["jobs"]) if "jobs" in message else None
        for word in words or ():
            if word.alone:
                await self._row(parse_job(word.text))
        spans = None if words is None else [word.span for word in words]
        since, limit = message.get("since"), message.get("limit", _ROWS)
        if not 0 < limit <= _ROWS_MOST:
            raise Wrong(f"the limit must be from 1 to {_ROWS_MOST}, not {limit}")
        last = self._last_event()
        events = await self._reader.run(lambda reader: reader.events(since, spans, limit))
        if since is not None or (events and events[-1].seq > last):
            last = events[-1].seq if events else since or 0
        return {"events": [views.event_map(event) for event in events], "last": last}

    async def _row(self, job: JobId) -> JobRow:
        """Return a job's row; for an element that has none of its own, what its array's row says of it."""
        row = await self._reader.run(lambda reader: reader.job(job))
        if row is not None:
            return row
        index = index_of(job)
        if index is not None:
            array = await self._reader.run(lambda reader: reader.job(array_of(job)))
            state = None if array is None else array.array_state
            if array is not None and state is not None and (index in state.pending or index in state.dropped):
                word = array.state if index in state.pending else End.CANCELLED.value
                ended_at = None if index in state.pending else array.updated_at
                return replace(array, job=job, state=word, ended_at=ended_at, array=None, array_state=None)
        hint = "see what there is: gpuctl list --all"
        if index is not None:
            hint = f"see what there is: gpuctl show {number_of(job)}"
        raise Wrong(f"there is no job {format_job(job)}", hint, "no_such_job")


def _what_fits(jobs: list[Job]) -> list[Job]:
    """Return those of these jobs that one frame has room for, in their order; what has not ended goes first."""
    ranked = sorted(range(len(jobs)), key=lambda at: (jobs[at]["ended_at"] is not None, -at))
    sizes = accumulate(len(pack({"job": jobs[at]})) for at in ranked)
    kept = [at for at, size in zip(ranked, sizes, strict=True) if size <= _ROWS_BYTES]
    return [jobs[at] for at in sorted(kept)]


def _last_of(job: JobId) -> JobId:
    return JobId(job_id(number_of(job) + 1) - 1)


def _label(word: str) -> tuple[str, str | None]:
    """Return the key and value of `K=V`; a key alone means any value."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def _resident_mib() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - no path to speak of
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
