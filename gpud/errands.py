"""Commands that people run inside their running jobs (`gpuctl exec`), and what gpud has to say in a job's output.

Each is a process of the launcher's, as a job is, so that a gpud that is killed does not touch it: an attempt of an
element of job 0 (those of the upper half: the lower are `notices`), which is nobody's job and stands in no queue. It
joins the job's cgroup and fence, and its keeper watches the job, so that it ends with that one at the latest.
"""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gpud.core.active import ActiveJob
from gpud.instance import Instance
from gpud.intake.selection import no_such_job, parse_job
from gpud.intake.submission import check_command, check_size
from gpud.launchers.protocol import LaunchOrder
from gpud.model.changes import Change, Told
from gpud.model.effects import Forget, Launch, Look
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import Demand, Exit, JobId, Running, array_of, format_job, index_of, job_id, number_of
from gpud.model.observations import Exited, Observation, Started
from gpud.model.spec import JobSpec, Terms
from gpud.orders import Command, log_dir, order_beside, order_for, order_saying, terminal_path
from gpud.people.roles import right_of
from gpud.server.connections import Peer
from gpud.store.files import StoreError
from gpud.wire.check import Wrong
from gpud.wire.codec import Message

_FIRST = 1 << 23
_AT_ONCE = 64  # of one user
_GRACE_S = 5.0


class Errands:
    """The commands of one gpud. Everything is called on the event loop's thread."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self._running: dict[JobId, int] = {}  # and whose they are
        self._begun: dict[JobId, asyncio.Future[Exit | None]] = {}

    def begin(self) -> None:
        """Look after those that an earlier gpud started: their records are to go when they have ended."""
        with suppress(FileNotFoundError):
            for path in Path(f"{self._gpud.config.state_dir}/records").iterdir():
                found = re.fullmatch(r"0_(\d+)\.1", path.name)
                if found is not None and int(found[1]) >= _FIRST:
                    self._gpud.launcher.perform(Look(job_id(0, int(found[1])), 1, self._gpud.parts.boot))

    def observed(self, seen: Observation) -> bool:
        """Take what became of a command; return False for what is none."""
        if not isinstance(seen, Started | Exited) or number_of(seen.job) or (index_of(seen.job) or 0) < _FIRST:
            return False
        begun = self._begun.get(seen.job)
        if begun is not None and not begun.done():
            begun.set_result(seen.exit if isinstance(seen, Exited) else None)
        if isinstance(seen, Exited):
            self._running.pop(seen.job, None)
            self._gpud.launcher.perform(Forget(seen.job, seen.attempt))
        return True

    async def run(self, peer: Peer, message: Message) -> None:
        """Run a command in a job, and tell where it is attended. Raises Wrong, StoreError."""
        check_command(message["command"])
        command = Command(tuple(message["command"]), check_size(message.get("terminal")), message.get("term"))
        job = parse_job(message["job"])
        if await self._gpud.reader.run(lambda reader: reader.job(array_of(job))) is None:
            raise no_such_job(message["job"])
        active = self._found(peer, message["job"])
        (spec,) = await self._gpud.reader.run(lambda reader: reader.specs([active.job]))
        active = self._found(peer, message["job"])
        state, uid = active.state, active.terms.uid
        assert isinstance(state, Running)  # noqa: S101 - it was looked for
        if Counter(self._running.values())[uid] >= _AT_ONCE:
            raise Wrong(f"{_AT_ONCE} commands run in your jobs already", "end some of them", "busy")
        errand, terms = _errand(active)
        socket = terminal_path(log_dir(self._gpud.config, uid), f"{format_job(errand)}.1")
        own = self._order_of(active, state, spec)
        order = order_beside(
            own, f"{format_job(active.job)}.{active.place.attempt}", state.process, command, socket, terms
        )
        begun = self._begun[errand] = asyncio.get_running_loop().create_future()
        try:
            self._perform(errand, order)
            over = await begun
        finally:
            del self._begun[errand]
        fault = None if over is None else over.fault
        told = {"fault": None if fault is None else fault.reason, "not_found": fault is not None and fault.not_found}
        peer.reply(message["id"], {"terminal": socket, **told})

    async def say(self, job: JobId, text: str) -> None:
        """Write a line into a running job's output, as its user: gpud opens no path that a user chose."""
        with suppress(StoreError):  # the event says it, too
            (spec,) = await self._gpud.reader.run(lambda reader: reader.specs([job]))
            active = self._gpud.world.active.get(job)
            if active is not None and isinstance(active.state, Running):
                errand, terms = _errand(active)
                own = self._order_of(active, active.state, spec)
                self._perform(errand, order_saying(own, job, active.place.attempt, text, terms))

    def _order_of(self, active: ActiveJob, state: Running, spec: JobSpec) -> LaunchOrder:
        """Return the order that would start a job's attempt."""
        gpud, launched = self._gpud, Launch(active.job, active.place.attempt, state.allocation)
        return order_for(gpud.config, gpud.world, launched, spec, gpud.clock.offset, gpud.launcher.means)

    def _perform(self, errand: JobId, order: LaunchOrder) -> None:
        self._running[errand] = order.spec.terms.uid
        self._gpud.launcher.perform(Launch(errand, 1, Allocation(node=NodeName(""))), order)

    def _found(self, peer: Peer, word: str) -> ActiveJob:
        """Return a running job of whoever asks. Raises Wrong."""
        job, world = parse_job(word), self._gpud.world
        active = world.active.get(job)
        if active is None:
            what = "is an array; name an element" if job in world.arrays else "does not run"
            raise Wrong(f"job {word} {what}", f"see: gpuctl show {word}", "refused")
        if active.terms.uid != peer.uid and self._gpud.roles.of(peer) < right_of("exec").others:
            raise Wrong(f"job {word} is not yours", "a command runs as the job's user", "not_permitted")
        if not isinstance(active.state, Running):
            raise Wrong(f"job {word} is just starting, or ending", "try again in a moment", "refused")
        return active


def _errand(active: ActiveJob) -> tuple[JobId, Terms]:
    """Return a number for a command in this job, and its terms: those of the job's user."""
    terms = Terms(demand=Demand(gpus=0), uid=active.terms.uid, user=active.terms.user, tenant="", grace_s=_GRACE_S)
    return job_id(0, _FIRST + secrets.randbelow(_FIRST - 2)), terms


def warnings(changes: Sequence[Change]) -> Iterator[tuple[JobId, str]]:
    """Yield whom to warn in their output, and in which words: who uses more of a shared GPU than they declared."""
    for each in changes:
        if isinstance(each, Told) and each.kind == "gpu_memory" and each.job is not None:
            after_s = each.detail["stops_after_s"]
            end = "" if after_s is None else f"; it is stopped if it still does so in {after_s:.0f} s"
            yield each.job, f"gpud: job {format_job(each.job)}: {each.detail['reason']}{end}"
