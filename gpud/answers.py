"""Reads: what is asked once everything before it is durable, answered from the store and the world.

Rows come from the reading thread; what the world adds (reasons, positions, expected starts) is put to them on the
loop afterwards, in pieces that never hold it up for long.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable

from gpud import __version__
from gpud.chores.backup import Backups
from gpud.core.choice import in_force
from gpud.core.tenants import no_such_tenant
from gpud.core.windows import misnamed
from gpud.instance import Instance
from gpud.intake.selection import parse_job
from gpud.model.units import Timestamp
from gpud.notices.sending import Notices
from gpud.orders import launcher_map
from gpud.requests import refuse
from gpud.server.connections import Peer
from gpud.settings.inforce import settings_maps
from gpud.store.files import StoreError
from gpud.views.gpus import gpu_counts, gpu_map, node_map
from gpud.views.inspection import kept_for, policies_map, reservation_map, tenant_map
from gpud.views.listing import Listing
from gpud.views.seeing import scene_of, viewer_of
from gpud.views.statistics import Cycles, Statistics
from gpud.views.usage import UsageReport
from gpud.wire.check import Wrong, nearest
from gpud.wire.codec import PROTOCOL, PROTOCOL_OLDEST, Message

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_NOTICES = 100
_NOTICES_MOST = 1_000


class Answers:
    """Answers reads. `fresh` waits, a moment at most, until every GPU was looked at anew."""

    def __init__(
        self, gpud: Instance, *, notices: Notices, cycles: Cycles, fresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._gpud = gpud
        self._notices = notices
        self._fresh = fresh
        self._statistics = Statistics(gpud, cycles)
        self._used = UsageReport(gpud)
        self._asked: dict[Peer | int, deque[tuple[Peer, Message]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_op: dict[str, Callable[[Peer, Message], Awaitable[Message]]] = {
            **Listing(gpud).by_op,
            "gpus": self._gpus,
            "nodes": self._nodes,
            "status": self._status,
            "stats": self._stats,
            "usage": self._usage,
            "tenants": self._tenants,
            "reservations": self._reservations,
            "policies": self._policies,
            "notices": self._told,
            "config": self._settings,
            "backup": Backups(gpud.parts.config.state_dir).make,
        }

    @property
    def busy(self) -> bool:
        """Return whether anything that was asked has not been answered."""
        return bool(self._asked)

    def take(self, peer: Peer, message: Message) -> None:
        """Answer a read, behind this user's reads before it: one's many keep nobody else waiting for theirs.

        Of who may see everything each client has a turn of its own, as in a gpud of one's own.
        """
        whose = peer if viewer_of(self._gpud, peer).private else peer.uid
        asked = self._asked.setdefault(whose, deque())
        asked.append((peer, message))
        if len(asked) == 1:
            task = asyncio.create_task(self._answer_all(whose, asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_all(self, whose: Peer | int, asked: deque[tuple[Peer, Message]]) -> None:
        try:
            while asked:
                peer, message = asked[0]
                if not peer.closed:
                    await self._answer(peer, message)
                asked.popleft()
        finally:
            del self._asked[whose]

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

    async def _gpus(self, peer: Peer, message: Message) -> Message:
        if message.get("fresh", True):
            await self._fresh()
        scene, viewer = scene_of(self._gpud), viewer_of(self._gpud, peer)
        states = [state for node in scene.world.nodes.values() for state in node.gpus]
        kept = kept_for(scene.world, scene.now)
        maps = [{**gpu_map(scene, state, viewer), "kept_for": kept.get(state.gpu.id, [])} for state in states]
        problem = scene.world.problem() or "; ".join(misnamed(scene.world, scene.now)) or None
        used_s = {str(uid): round(each_s) for uid, each_s in scene.world.care.foreign_s.items()}
        return {"gpus": maps, "problem": problem, "foreign_gpu_s": used_s}

    async def _nodes(self, peer: Peer, message: Message) -> Message:
        del peer, message
        scene = scene_of(self._gpud)
        return {"nodes": [node_map(scene, node) for node in scene.world.nodes.values()]}

    async def _tenants(self, peer: Peer, message: Message) -> Message:
        del peer  # everybody may see what everybody may have
        world, name = self._gpud.world, message.get("name")
        if name is not None and name not in world.tenants:
            refused = no_such_tenant(world, name)
            raise Wrong(refused.message, refused.hint, refused.code)
        shown = world.tenants.values() if name is None else [world.tenants[name]]
        return {"tenants": [tenant_map(world, each, self._gpud.clock()) for each in shown]}

    async def _policies(self, peer: Peer, message: Message) -> Message:
        del peer, message
        return policies_map(self._gpud.world)

    async def _settings(self, peer: Peer, message: Message) -> Message:
        found = settings_maps(self._gpud.config, self._gpud.world, secrets=viewer_of(self._gpud, peer).private)
        key = message.get("key")
        chosen = [each for each in found if key in (None, each["key"])]
        if not chosen:
            hint = nearest(str(key), [each["key"] for each in found]) or "gpuctl config lists them"
            raise Wrong(f"there is no setting {key!r}", hint)
        return {"settings": chosen}

    async def _reservations(self, peer: Peer, message: Message) -> Message:
        del peer, message
        world, now = self._gpud.world, self._gpud.clock()
        windows = sorted(world.windows.values(), key=lambda window: (window.at, window.number))
        return {"reservations": [reservation_map(world, each, now) for each in windows if now < each.until]}

    async def _told(self, peer: Peer, message: Message) -> Message:
        job = parse_job(message["job"]) if "job" in message else None
        limit = message.get("limit", _NOTICES)
        if not 0 < limit <= _NOTICES_MOST:
            raise Wrong(f"the limit must be from 1 to {_NOTICES_MOST}, not {limit}")
        uid = None if viewer_of(self._gpud, peer).private else peer.uid
        return {"notices": await self._notices.history(uid, job, limit)}

    async def _status(self, peer: Peer, message: Message) -> Message:
        del peer, message
        counts = await self._gpud.reader.run(lambda reader: reader.counts(Timestamp(self._gpud.clock() - _DAY_S)))
        scene, config = scene_of(self._gpud), self._gpud.config
        driver = next((node.node.driver for node in scene.world.nodes.values() if node.node.driver), None)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "protocol": [PROTOCOL_OLDEST, PROTOCOL],
            "started_at": self._gpud.started_at,
            "state_dir": config.state_dir,
            "socket": config.socket,
            "config_file": config.files[-1] if config.files else None,
            "simulated": config.simulate,
            "system": config.system,
            "policy": in_force(scene.world),
            "paused": scene.world.paused,
            "jobs": counts,
            "gpus": gpu_counts(scene),
            "driver": driver,
            "problem": scene.world.problem(),
            "launcher": launcher_map(config, self._gpud.launcher, scene.world),
            "memory_mib": _resident_mib(),
            "storage": self._gpud.storage,
        }

    async def _stats(self, peer: Peer, message: Message) -> Message:
        del peer, message
        return await self._statistics.answer()

    async def _usage(self, peer: Peer, message: Message) -> Message:
        del peer  # everybody may see what everybody has used
        return await self._used.answer(message)


def _resident_mib() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - no path to speak of
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
