"""Requests that change something: from a checked message to a command for the loop, and from its answer to a reply.

Who asks is the kernel's word, and what they may the table's in `people.roles`. Jobs are looked up in the store, off
the loop, before the loop hears of them.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from gpud.core.admit import Refused
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
    Signal,
    Submit,
    SubmitMany,
    Submitted,
    Update,
)
from gpud.core.requeue import meant
from gpud.errands import Errands
from gpud.instance import Instance
from gpud.intake.administration import command_of, look_up, resolve_names
from gpud.intake.selection import ENDED, Chosen, Owner, outermost, resolve
from gpud.intake.submitting import Submitting, check_priority
from gpud.intake.turns import Turns
from gpud.intake.updating import changes_of, checked_signal, in_parts, written
from gpud.looking import first_look
from gpud.model.job import End, JobId, array_of, format_job
from gpud.model.units import format_duration
from gpud.notices.sending import Notices
from gpud.people.roles import SEES_ALL, check_right, right_of
from gpud.server.connections import Peer
from gpud.store.files import NO_ENVIRONMENT, StoreError
from gpud.views.forecasting import next_end
from gpud.views.reasons import in_a_sentence
from gpud.wire.administration import ADMINISTRATION
from gpud.wire.check import Wrong
from gpud.wire.codec import Message
from gpud.wire.messages import Error

log = logging.getLogger(__name__)

_CHANGED = 1024  # bytes that a job which is changed counts as: everybody waits for a change of many
_WAITING = frozenset({"held", "queued"})
_TURN_S = 1.0  # when somebody whose changes wait for each other may try again
_BITE = 1000  # jobs that change in one batch: what others ask is answered between two of them

Work = Coroutine[None, None, None]
Notes = tuple[tuple[JobId, str], ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that the loop has, and what its reply needs. `notes` were known before the loop was asked.

    Of a bite of a large change the reply is for who takes the next one.
    """

    peer: Peer
    message: Message
    notes: Notes = ()
    bite: asyncio.Future[Reply] | None = None


class Requests:
    """Takes requests in, and gives replies out. `post` hands the loop a command."""

    def __init__(self, gpud: Instance, *, post: Callable[[Command], None], notices: Notices, errands: Errands) -> None:
        self._gpud = gpud
        self._post = post
        self._errands = errands
        self._tokens = count(1)
        self._pending: dict[int, Pending] = {}
        self._busy: dict[Peer, asyncio.Task[None]] = {}
        self._turns = Turns()
        self._notices = notices
        self._submitting = Submitting(gpud, ask=self._ask, notices=notices)

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
        check_right(self._gpud.roles.of(peer), message["op"])
        match message["op"]:
            case "submit" | "submit_many":
                return self._submitting.take(peer, message)
            case "cancel" | "hold" | "release" | "requeue" | "interrupt" | "priority" | "update" | "signal":
                return self._change(peer, message)
            case "exec":
                return self._errands.run(peer, message)
            case "tenant_create" | "tenant_set" | "reserve":
                return self._administer(peer, message)
            case op if op in ADMINISTRATION:
                if self._gpud.names.known(peer.uid) is None or not self._gpud.seen.is_set():
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
        if pending.bite is not None:
            pending.bite.set_result(reply)
        else:
            self._tell(pending, reply)

    def _tell(self, pending: Pending, reply: Reply) -> None:
        peer, request = pending.peer, pending.message["id"]
        match reply:
            case Refused():
                peer.error(request, self._refusal(reply))
            case Accepted(job, position, wait, there, done):
                told: Message = {"job": None if job is None else format_job(job)}
                if done:
                    told["done"] = str(done)
                if there is not None:
                    told["there"] = there
                elif pending.message.get("next") and job is not None:
                    reason = None if wait is None else in_a_sentence(self._gpud.world, job, wait, self._gpud.clock())
                    told |= {"position": position, "reason": reason}
                peer.reply(request, told)
            case Submitted(jobs, some, held):
                known = {format_job(job): state for job, state in jobs if job is not None and state is not None}
                again = {format_job(job): str(done) for job, done in some}
                told = {"jobs": [job and format_job(job) for job, _ in jobs], "there": known}
                peer.reply(request, told | ({"done": again} if again else {}) | ({"held": held} if held else {}))
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

    def _refusal(self, refused: Refused) -> Error:
        """Return what is said of a refusal; where too many wait, when some of them may start."""
        error = Error(code=refused.code, message=refused.message, hint=refused.hint)
        now = self._gpud.clock()
        end = next_end(self._gpud.world, now) if refused.full else None
        if end is not None:
            error["retry_after_s"] = end - now
            error["hint"] = f"{refused.hint}; the next end of a job is expected in {format_duration(end - now)}"
        return error

    def accepted_before(self, asked: object, jobs: Mapping[str, JobId]) -> bool:
        """Answer a submit that was made durable when it was first sent; False for anything else. `jobs`: by nonce."""
        if isinstance(asked, Submit) and asked.nonce in jobs:
            self.answer(asked.token, Accepted(jobs[asked.nonce]))
            return True
        if not isinstance(asked, SubmitMany) or not any(each.nonce in jobs for each in asked.jobs):
            return False
        there = [None if each.there is None else each.there[0] for each in asked.jobs]
        known = (jobs.get(each.nonce, job) for each, job in zip(asked.jobs, there, strict=True))
        self.answer(asked.token, Submitted(tuple((job, None) for job in known)))
        return True

    def forget(self, peer: Peer) -> None:
        """Drop what a client that is gone had begun to say."""
        self._submitting.forget(peer)

    def fail(self, token: int, error: StoreError) -> None:
        """Refuse a request whose changes could not be made durable."""
        pending = self._pending.pop(token)
        if pending.bite is not None:
            pending.bite.set_exception(error)
        else:
            pending.peer.error(pending.message["id"], {"code": "storage", "message": str(error), "hint": error.hint})

    def _ask(
        self,
        peer: Peer,
        message: Message,
        make: Callable[[int], Command],
        notes: Notes = (),
    ) -> None:
        token = next(self._tokens)
        self._pending[token] = Pending(peer, message, notes)
        self._post(make(token))

    async def _ask_for_all(
        self,
        peer: Peer,
        message: Message,
        jobs: tuple[JobId, ...],
        make: Callable[[int, tuple[JobId, ...]], Command],
        notes: Notes,
    ) -> None:
        """Ask for a change of jobs, of many in bites; who asked hears once, of all.

        Each bite is durable when the next is taken. They come in an order in which no bite lets jobs of a later one
        start: a hold or a cancel begins with the last that wait, and comes to what has GPUs in the end. The first is
        refused where any would be: a later one only for what happened since.
        """
        if len(jobs) <= _BITE:
            self._ask(peer, message, lambda token: make(token, jobs), notes)
            return
        if message["op"] != "release" and message.get("priority", 0) <= 0:
            jobs = tuple(sorted(jobs, key=lambda job: (job in self._gpud.world.active, -job)))
        changed: list[JobId] = []
        for begin in range(0, len(jobs), _BITE):
            token, bite = next(self._tokens), asyncio.get_running_loop().create_future()
            self._pending[token] = Pending(peer, message, bite=bite)
            self._post(make(token, jobs[begin : begin + _BITE]))
            reply = await bite
            if isinstance(reply, Refused):
                told = f"{reply.message}; {len(changed)} of {len(jobs)} jobs were changed before" * bool(changed)
                self._tell(Pending(peer, message), replace(reply, message=told or reply.message))
                return
            assert isinstance(reply, Changed)  # noqa: S101 - nothing else answers a change of jobs
            changed += reply.changed
            notes += reply.notes
        self._tell(Pending(peer, message), Changed(tuple(sorted(changed)), tuple(sorted(notes))))

    async def _administer(self, peer: Peer, message: Message) -> None:
        """Ask for what names users and groups once these are known to exist."""
        await self._gpud.names.name(peer.uid)
        await first_look(self._gpud.seen)
        await look_up(self._gpud.world, self._gpud.names, message)
        self._ask(peer, message, self._command(peer, message))

    def _command(self, peer: Peer, message: Message) -> Callable[[int], Command]:
        by = self._gpud.names.known(peer.uid) or str(peer.uid)
        return command_of(self._gpud.world, message, by=by, now=self._gpud.clock(), wall=self._gpud.clock.wall())

    async def _change(self, peer: Peer, message: Message) -> None:
        """Look the jobs up, then ask the loop for what concerns those that have not ended; behind this user's before.

        Of who may see everything each client has a turn of its own, as in a gpud of one's own.
        """
        whose = peer if self._gpud.roles.of(peer) >= SEES_ALL else peer.uid
        if self._turns.full(whose):
            hint = "try again in a moment; one request may change many jobs: 3-90, --group, --mine"
            told = Error(code="busy", message="too many changes of yours wait", hint=hint, retry_after_s=_TURN_S)
            peer.error(message["id"], told)
            return
        async with self._turns.of(whose):
            await self._change_now(peer, message)

    async def _change_now(self, peer: Peer, message: Message) -> None:
        me = Owner(peer.uid, await self._gpud.names.name(peer.uid))
        op = message["op"]
        may_all = self._gpud.roles.of(peer) >= right_of(op).others
        chosen = await self._gpud.reader.run(
            lambda reader: resolve(reader, message["select"], me, may_all=may_all, ended=op == "requeue")
        )
        peer.charge(len(chosen.states) * _CHANGED)
        chosen, notes = await self._within_groups(peer, op, chosen)
        ended = tuple(job for job, state in chosen.states.items() if state in ENDED)
        if op == "update":
            await self._update(peer, message, chosen)
            return
        if op == "requeue":
            await self._requeue(peer, message, chosen, ended, notes)
            return
        live = outermost(chosen)
        notes += tuple((job, f"has ended already: {chosen.states[job].replace('_', ' ')}") for job in ended)
        if op == "cancel":
            force, states = message.get("force", False), message["select"].get("state", ())
            cancel = partial(Cancel, force=force, by=me.name, waiting=bool(states) and _WAITING.issuperset(states))
            await self._ask_for_all(peer, message, live, cancel, notes)
        elif op == "interrupt":
            await self._ask_for_all(peer, message, live, lambda token, jobs: Interrupt(token, jobs, me.name), notes)
        elif op == "priority":
            priority = message["priority"]
            check_priority(self._gpud.world, self._gpud.roles.of(peer), priority)
            await self._ask_for_all(peer, message, live, lambda token, jobs: SetPriority(token, jobs, priority), notes)
        elif op == "signal":
            number = checked_signal(message["signal"])
            self._ask(peer, message, lambda token: Signal(token, live, number, me.name), notes)
        elif op == "release":
            able, bare = await self._able(live)
            await self._ask_for_all(peer, message, able, Release, notes + bare)
        else:
            await self._ask_for_all(peer, message, live, Hold, notes)

    async def _within_groups(self, peer: Peer, op: str, chosen: Chosen) -> tuple[Chosen, Notes]:
        """Return what of one's own may start again, and why others may not: nobody goes back into a group that way."""
        if op not in {"requeue", "release"} or not self._gpud.config.system or not peer.uid:
            return chosen, ()
        gids = (peer.gid, *peer.groups())
        gone = await self._gpud.reader.run(lambda reader: reader.beyond(chosen.jobs, peer.uid, gids))
        why = "was submitted in a group that you are not in now: submit it again"
        over = {job: why for job in chosen.jobs if job in gone or array_of(job) in gone}
        return Chosen({job: state for job, state in chosen.states.items() if job not in over}), tuple(over.items())

    async def _update(self, peer: Peer, message: Message, chosen: Chosen) -> None:
        """Ask for what is new of jobs, worked out from what they were submitted with."""
        by, priority = Owner(peer.uid, await self._gpud.names.name(peer.uid)), message.get("priority")
        if priority is not None:
            check_priority(self._gpud.world, self._gpud.roles.of(peer), priority)
        if message.get("notify"):
            await self._notices.expect()
        resolve_names(self._gpud.world, message.get("demand", {}))
        make, notes = await changes_of(self._gpud.reader, message, chosen, by=by)  # type: ignore[arg-type]  # the server has held it to this type
        self._submitting.count(peer, written(make))
        begin_at = message.get("begin_at")
        if begin_at is not None:
            begin_at = self._gpud.clock() + (begin_at - self._gpud.clock.wall())
        part, live = in_parts(make), tuple(job for job, _ in make.jobs)

        def command(token: int, bite: tuple[JobId, ...]) -> Update:
            return replace(part(bite), token=token, begin_at=begin_at)

        await self._ask_for_all(peer, message, live, command, notes)

    async def _requeue(
        self, peer: Peer, message: Message, chosen: Chosen, ended: tuple[JobId, ...], notes: Notes
    ) -> None:
        found = await self._gpud.reader.run(lambda reader: reader.finished(ended))
        again = tuple(loaded for loaded in found.values() if loaded is not None)
        select = message["select"]
        if select.get("state"):
            cancelled, named = End.CANCELLED in select["state"], bool(select.get("jobs"))
            again = meant(self._gpud.world, again, cancelled=cancelled, named=named)
        lost = tuple(
            (job, "cannot run again: its environment is not kept any more") for job in ended if not found.get(job)
        )
        live, bare = await self._able(outermost(chosen))
        self._ask(peer, message, lambda token: Requeue(token, live, again), notes + lost + bare)

    async def _able(self, jobs: tuple[JobId, ...]) -> tuple[tuple[JobId, ...], Notes]:
        """Return which of these jobs could be started, and why others could not."""
        bare = await self._gpud.reader.run(lambda reader: reader.without_environment(jobs))
        unable = {job: NO_ENVIRONMENT for job in jobs if job in bare or array_of(job) in bare}
        return tuple(job for job in jobs if job not in unable), tuple(unable.items())


def refuse(peer: Peer, message: Message, wrong: Wrong) -> None:
    """Send what was wrong with a request."""
    peer.error(message["id"], {"code": wrong.code, "message": wrong.message, "hint": wrong.hint})
