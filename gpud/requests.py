"""Requests that change something: from a checked message to a command for the loop, and from its answer to a reply.

Who asks is the kernel's word, and what they may the table's in `roles`. Jobs are looked up in the store, off the loop,
before the loop hears of them.
"""

import asyncio
import logging
import resource
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from gpud.administration import command_of, look_up, resolve_names
from gpud.check import Wrong
from gpud.config import Config
from gpud.core.admit import Refused
from gpud.core.choice import in_force
from gpud.core.commands import (
    Accepted,
    Asked,
    Cancel,
    Changed,
    Command,
    Done,
    Hold,
    Interrupt,
    Release,
    Reply,
    Requeue,
    Reserved,
    SetPriority,
    Submit,
)
from gpud.core.world import World
from gpud.membership import fill_in, tenant_of, wants_groups
from gpud.model.job import JobId, array_of, format_job
from gpud.model.units import Timestamp
from gpud.names import Account, Names
from gpud.notices import Notices
from gpud.reading import ReadThread
from gpud.reasons import in_words
from gpud.roles import ABOVE_ZERO, ANY_TENANT, Roles, check_right, right_of
from gpud.selection import Chosen, Owner, Predecessors, predecessors, resolve
from gpud.server import Peer
from gpud.store.files import StoreError
from gpud.submission import PRIORITY_MOST, spec_of
from gpud.wire.administration import ADMINISTRATION
from gpud.wire.codec import Message

log = logging.getLogger(__name__)

Work = Coroutine[None, None, None]

FIRST_LOOK_S = 5.0
_ENDS = frozenset({"completed", "failed", "cancelled", "timed_out", "lost"})
_CHANGES: dict[str, Callable[[int, tuple[JobId, ...]], Command]] = {
    "hold": Hold,
    "release": Release,
    "interrupt": Interrupt,
}


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that the loop has, and what its reply needs. `notes` were known before the loop was asked."""

    peer: Peer
    message: Message
    notes: tuple[tuple[JobId, str], ...] = ()


class Requests:
    """Takes requests in, and gives replies out.

    `world` and `clock` are the loop's; `post` hands it a command; `wall` is the wall clock, for begin times. `seen` is
    set once the inventory has spoken: before, nobody can say whether a job fits.
    """

    def __init__(
        self,
        *,
        world: Callable[[], World],
        post: Callable[[Command], None],
        clock: Callable[[], Timestamp],
        wall: Callable[[], float],
        reader: ReadThread,
        names: Names,
        roles: Roles,
        seen: asyncio.Event,
        config: Callable[[], Config],
        notices: Notices,
    ) -> None:
        self._world = world
        self._post = post
        self._clock = clock
        self._wall = wall
        self._reader = reader
        self._names = names
        self._roles = roles
        self._seen = seen
        self._config = config
        self._notices = notices
        self._tokens = count(1)
        self._pending: dict[int, Pending] = {}
        self._busy: dict[Peer, asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        """Return whether anything that was asked has not been answered."""
        return bool(self._pending or self._busy)

    def take(self, peer: Peer, message: Message) -> None:
        """Take one request in; it is answered once what it asks for is durable, or refused.

        A client's requests are taken in the order in which it sent them, also where one has to be looked up first.
        """
        before = self._busy.get(peer)
        try:
            work = self._in_turn(before, peer, message) if before is not None else self._take(peer, message)
        except Wrong as wrong:
            refuse(peer, message, wrong)
            return
        if work is not None:
            task = asyncio.create_task(self._guarded(peer, message, work))
            self._busy[peer] = task
            task.add_done_callback(partial(self._done, peer))

    def _take(self, peer: Peer, message: Message) -> Work | None:
        """Hand a request to the loop, or return what must be waited for first. Raises Wrong."""
        check_right(self._roles.of(peer), message["op"])
        match message["op"]:
            case "submit":
                return self._submit(peer, message)
            case "cancel" | "hold" | "release" | "requeue" | "interrupt" | "priority":
                return self._change(peer, message)
            case "tenant_create" | "tenant_set" | "reserve":
                return self._administer(peer, message)
            case op if op in ADMINISTRATION:
                if self._names.known(peer.uid) is None:
                    return self._administer(peer, message)
                self._ask(peer, message, self._command(peer, message))
            case _:
                self._ask(peer, message, Asked)
        return None

    async def _in_turn(self, before: asyncio.Task[None], peer: Peer, message: Message) -> None:
        await asyncio.wait([before])
        work = self._take(peer, message)
        if work is not None:
            await work

    async def _guarded(self, peer: Peer, message: Message, work: Work) -> None:
        try:
            await work
        except Wrong as wrong:
            refuse(peer, message, wrong)
        except StoreError as error:
            peer.error(message["id"], {"code": "storage", "message": str(error), "hint": error.hint})
        except Exception:  # ours: it goes into the log, but nobody shall wait for an answer
            log.exception("%s was not done", message["op"])
            peer.error(message["id"], {"code": "refused", "message": "gpud failed to do it", "hint": "see its log"})

    def _done(self, peer: Peer, task: asyncio.Task[None]) -> None:
        if self._busy.get(peer) is task:
            del self._busy[peer]
        if not task.cancelled() and task.exception() is not None:
            log.error("a request was not answered", exc_info=task.exception())

    def asked(self, token: int) -> tuple[Peer, Message]:
        """Return the read that a token stands for, to answer it."""
        pending = self._pending.pop(token)
        return pending.peer, pending.message

    def answer(self, token: int, reply: Reply) -> None:
        """Send the reply to a command."""
        pending = self._pending.pop(token)
        peer, request = pending.peer, pending.message["id"]
        match reply:
            case Refused(code, message, hint):
                peer.error(request, {"code": code, "message": message, "hint": hint})
            case Accepted(job, position, wait):
                told: Message = {"job": None if job is None else format_job(job)}
                if pending.message.get("next") and job is not None:
                    reason = None if wait is None else in_words(self._world(), job, wait, self._clock())[1]
                    told |= {"position": position, "reason": reason}
                peer.reply(request, told)
            case Changed(changed, notes):
                said = {format_job(job): note for job, note in (*pending.notes, *notes)}
                peer.reply(request, {"changed": [format_job(job) for job in changed], "notes": said})
            case Reserved(number):
                peer.reply(request, {"reservation": number})
            case Done(changed):
                targets = pending.message.get("targets")
                if targets is None:
                    peer.reply(request, {"changed": changed})
                else:
                    peer.reply(request, {"changed": targets if changed else [], "notes": {}})

    def accepted_before(self, token: int, job: JobId) -> None:
        """Answer a submit that was made durable when it was first sent."""
        self.answer(token, Accepted(job))

    def fail(self, token: int, error: StoreError) -> None:
        """Refuse a request whose changes could not be made durable."""
        pending = self._pending.pop(token)
        pending.peer.error(pending.message["id"], {"code": "storage", "message": str(error), "hint": error.hint})

    def _ask(
        self,
        peer: Peer,
        message: Message,
        make: Callable[[int], Command],
        notes: tuple[tuple[JobId, str], ...] = (),
    ) -> None:
        token = next(self._tokens)
        self._pending[token] = Pending(peer, message, notes)
        self._post(make(token))

    def _submit(self, peer: Peer, message: Message) -> Work | None:
        """Queue a job at once where nothing has to be waited for."""
        user, groups = self._names.known_account(peer.uid), self._groups(peer)
        if message.get("notify") and not self._notices.ready:
            return self._submit_slowly(peer, message)
        if message.get("retry") or "after" in message or user is None or groups is None or not self._seen.is_set():
            return self._submit_slowly(peer, message)
        self._queue(peer, message, user, groups, Predecessors())
        return None

    def _queue(self, peer: Peer, message: Message, who: Account, groups: frozenset[str], before: Predecessors) -> None:
        """Hand a job to the loop, of which everything is known that has to be looked up."""
        user, config, role = who.name, self._config(), self._roles.of(peer)
        begin_at = message.get("begin_at")
        if begin_at is not None:
            begin_at = self._clock() + (begin_at - self._wall())
        resolve_names(self._world(), message["demand"])
        self._check_priority(peer, message.get("priority", 0))
        tenant = tenant_of(self._world(), user, groups, message.get("tenant"), operator=role >= ANY_TENANT)
        fill_in(self._world(), message)
        if config.system:
            message["limits"] = _granted(peer.pid, message["limits"])
            message["environment"] = who.completed(message["environment"])
        message["limits"] |= {name: [soft, hard] for name, soft, hard in config.job_limits}
        spec = spec_of(
            message,  # type: ignore[arg-type]  # the server has held it to this type
            uid=peer.uid,
            gid=peer.gid,
            groups=peer.groups() if config.system else (),
            user=user,
            tenant=tenant,
            begin_at=begin_at,
            after=before.jobs,
        )
        dry_run, tell = message.get("dry_run", False), message.get("next", False)
        self._ask(peer, message, lambda token: Submit(token, spec, dry_run=dry_run, tell=tell, ends=before.ends))

    async def _submit_slowly(self, peer: Peer, message: Message) -> None:
        if message.pop("retry", False):
            nonce = message["nonce"]
            known = await self._reader.run(lambda reader: reader.nonces([nonce]))
            if nonce in known:
                peer.reply(message["id"], {"job": format_job(known[nonce])})
                return
        if message.get("notify"):
            await self._notices.expect()
        user = await self._names.account(peer.uid)
        groups: frozenset[str] = frozenset()
        if wants_groups(self._world().tenants):
            groups = await self._names.groups((peer.gid, *peer.groups()))
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._seen.wait()
        self._seen.set()
        after = message.get("after")
        before = await self._reader.run(lambda reader: predecessors(reader, after)) if after else Predecessors()
        self._queue(peer, message, user, groups, before)

    async def _administer(self, peer: Peer, message: Message) -> None:
        """Ask for what names users and groups once these are known to exist."""
        await self._names.name(peer.uid)
        await look_up(self._world(), self._names, message)
        self._ask(peer, message, self._command(peer, message))

    def _command(self, peer: Peer, message: Message) -> Callable[[int], Command]:
        by = self._names.known(peer.uid) or str(peer.uid)
        return command_of(self._world(), message, by=by, now=self._clock(), wall=self._wall())

    def _groups(self, peer: Peer) -> frozenset[str] | None:
        """Return the names of a user's groups, where they matter; None while they are not known."""
        if not wants_groups(self._world().tenants):
            return frozenset()
        return self._names.known_groups((peer.gid, *peer.groups()))

    async def _change(self, peer: Peer, message: Message) -> None:
        """Look the jobs up, then ask the loop for what concerns those that have not ended."""
        me = Owner(peer.uid, await self._names.name(peer.uid))
        op = message["op"]
        may_all = self._roles.of(peer) >= right_of(op).others
        chosen = await self._reader.run(
            lambda reader: resolve(reader, message["select"], me, may_all=may_all, ended=op == "requeue")
        )
        ended = tuple(job for job, state in chosen.states.items() if state in _ENDS)
        if op == "requeue":
            await self._requeue(peer, message, chosen, ended)
            return
        live = _outermost(chosen)
        notes = tuple((job, f"has ended already: {chosen.states[job].replace('_', ' ')}") for job in ended)
        if op == "cancel":
            force = message.get("force", False)
            self._ask(peer, message, lambda token: Cancel(token, live, force), notes)
        elif op == "priority":
            priority = message["priority"]
            self._check_priority(peer, priority)
            self._ask(peer, message, lambda token: SetPriority(token, live, priority), notes)
        else:
            self._ask(peer, message, lambda token: _CHANGES[op](token, live), notes)

    async def _requeue(self, peer: Peer, message: Message, chosen: Chosen, ended: tuple[JobId, ...]) -> None:
        found = await self._reader.run(lambda reader: reader.finished(ended))
        again = tuple(loaded for loaded in found.values() if loaded is not None)
        lost = tuple(
            (job, "cannot run again: its environment is not kept any more") for job in ended if not found.get(job)
        )
        live = _outermost(chosen)
        self._ask(peer, message, lambda token: Requeue(token, live, again), lost)

    def _check_priority(self, peer: Peer, priority: int) -> None:
        if abs(priority) > PRIORITY_MOST:
            raise Wrong(f"the priority must be from -{PRIORITY_MOST} to {PRIORITY_MOST}, not {priority}")
        if priority > 0 and not self._world().policy.personal and self._roles.of(peer) < ABOVE_ZERO:
            hint = f"leave it out, or ask an operator: under {in_force(self._world())} it would count against others"
            raise Wrong("a priority above 0 is an operator's to give", hint, "not_permitted")


def _outermost(chosen: Chosen) -> tuple[JobId, ...]:
    """Return the chosen jobs that have not ended, without elements of chosen arrays: they go with those."""
    live = {job for job, state in chosen.states.items() if state not in _ENDS}
    return tuple(job for job in chosen.states if job in live and (array_of(job) == job or array_of(job) not in live))


def _granted(pid: int, limits: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return limits no higher than the client may have itself: the launcher, being root, would grant any. Raises Wrong.

    Read from /proc/PID/limits (proc(5)), whose lines stand in the order of the limits' numbers; prlimit(2) would need
    a capability that root lacks in a container.
    """
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    except OSError:
        raise Wrong("the process that submits must stay until it is answered") from None
    granted = {}
    for name, pair in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None or number >= len(lines):
            raise Wrong(f"unknown limit {name!r}")
        hard = lines[number][47:67].strip()
        most = -1 if hard == "unlimited" else int(hard)
        granted[name] = pair if most < 0 else [value if 0 <= value <= most else most for value in pair]
    return granted


def refuse(peer: Peer, message: Message, wrong: Wrong) -> None:
    """Send what was wrong with a request."""
    peer.error(message["id"], {"code": wrong.code, "message": wrong.message, "hint": wrong.hint})
