"""Submits on their way to the loop: what has to be looked up first, for one job or for many at once.

Many may be more than one message has room for: they come in parts, which are kept until the last is here. Nothing of
them is queued before that, and then all are, in one commit.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from gpud.core.choice import in_force
from gpud.core.commands import Command, Submit, SubmitMany
from gpud.core.cycle import Input
from gpud.core.world import World
from gpud.instance import Instance
from gpud.intake.administration import resolve_names
from gpud.intake.selection import SINGLETON, Predecessors, predecessors
from gpud.intake.submission import PRIORITY_MOST, name_of, spec_of
from gpud.looking import first_look
from gpud.model.array import IndexSet
from gpud.model.job import End, JobId, format_job
from gpud.model.units import format_duration
from gpud.notices.sending import Notices
from gpud.people.membership import fill_in, tenant_of, wants_groups
from gpud.people.names import Account
from gpud.people.roles import ABOVE_ZERO, ANY_TENANT, Role
from gpud.server.allowance import SECOND, Submitted
from gpud.server.connections import Peer
from gpud.server.credentials import granted
from gpud.wire.check import Wrong
from gpud.wire.codec import Message

Work = Coroutine[None, None, None]
Ask = Callable[[Peer, Message, Callable[[int], Command]], None]

MANY_MOST = 100_000  # jobs that are submitted at once
_NONCE_LEAST, _NONCE_MOST = 8, 64
_CHANGED_MOST = 64 << 20  # bytes in one commit, for which everybody waits
PARTS_MOST = 32  # and in so many parts
SETS_MOST = 4  # of which a user has so many that are not whole
_BREATH = 50  # jobs looked at before others are attended to
_AFTER_MOST = 100_000  # jobs that those of one commit come after, counted for each of them


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one submit before the loop is asked."""

    who: Account
    groups: frozenset[str]
    before: Predecessors = Predecessors()
    there: tuple[JobId, End | None] | None = None
    done: tuple[JobId, IndexSet] | None = None


class Submitting:
    """Takes submits. `ask` hands the loop a command."""

    def __init__(self, gpud: Instance, *, ask: Ask, notices: Notices) -> None:
        self._gpud = gpud
        self._ask = ask
        self._notices = notices
        self._parts: dict[Peer, list[Message]] = {}
        self._submitted = Submitted()

    def take(self, peer: Peer, message: Message) -> Work | None:
        """Queue a job at once where nothing has to be waited for. Raises Wrong."""
        message["nonce"] = self._own_nonce(peer, message["nonce"])
        if message["op"] == "submit_many":
            return self._many(peer, message)
        who, groups = self._gpud.names.known_account(peer.uid), self._groups(peer)
        slow = message.get("notify") and not self._notices.ready
        slow = slow or message.get("retry") or "after" in message or "key" in message
        if slow or who is None or groups is None or not self._gpud.seen.is_set():
            return self._slowly(peer, message)
        self._queue(peer, message, Known(who, groups))
        return None

    def forget(self, peer: Peer) -> None:
        """Drop the parts of a client that is gone."""
        self._parts.pop(peer, None)

    def _own_nonce(self, peer: Peer, nonce: str) -> str:
        """Return a nonce as its user's own: another's of the same name is not this submit sent again. Raises Wrong."""
        if not _NONCE_LEAST <= len(nonce) <= _NONCE_MOST:
            raise Wrong(f"a nonce has from {_NONCE_LEAST} to {_NONCE_MOST} characters")
        return f"{peer.uid}:{nonce}" if self._gpud.config.system and peer.uid else nonce

    async def _slowly(self, peer: Peer, message: Message) -> None:
        if message.pop("retry", False):
            nonce = message["nonce"]
            known = await self._gpud.reader.run(lambda reader: reader.nonces([nonce]))
            if nonce in known:
                peer.reply(message["id"], {"job": format_job(known[nonce])})
                return
        if message.get("notify"):
            await self._notices.expect()
        who, groups = await self._identity(peer)
        before = await self._before(who, message)
        there = await self._there(peer, [message])
        done = await self._done(peer, message, there)
        began = time.thread_time()
        self._queue(peer, message, Known(who, groups, before, there.get(_key(message)), done))
        peer.charge(int((time.thread_time() - began) * SECOND))  # as the server does what is queued at once

    def _queue(self, peer: Peer, message: Message, known: Known) -> None:
        asked = self._submit(peer, message, known)
        self._ask(peer, message, lambda token: replace(asked, token=token))

    async def _many(self, peer: Peer, message: Message) -> None:
        """Keep a part of many submits; with the last, hand them all to the loop."""
        parts = self._parts.setdefault(peer, [])
        if not message.get("part"):
            parts.clear()
        if message.get("part", 0) != len(parts):
            self.forget(peer)
            raise Wrong("parts of these jobs are missing", "send all of them again, from the first", "busy")
        parts.append(message)
        others = sum(each.uid == peer.uid for each in self._parts)
        if others > SETS_MOST and peer.uid:
            self.forget(peer)
            raise Wrong("too many parts of submits that are not whole", "send them one after the other", "busy")
        if len(parts) > PARTS_MOST or sum(len(part["jobs"]) for part in parts) > MANY_MOST:
            self.forget(peer)
            raise Wrong(f"that is too much at once: {MANY_MOST} jobs at most", "submit an array, or less of them")
        if message.get("more"):
            peer.reply(message["id"], {"jobs": [], "there": {}})
            return
        self.forget(peer)
        jobs = [_whole(part, job) for part in parts for job in part["jobs"]]
        for number, job in enumerate(jobs):
            job["nonce"] = f"{message['nonce']}.{number}"
        if not jobs:
            peer.reply(message["id"], {"jobs": [], "there": {}})
            return
        _check_keys(jobs)
        if any(job.get("notify") for job in jobs):
            await self._notices.expect()
        who, groups = await self._identity(peer)
        there = await self._there(peer, jobs)
        if message.get("retry") and await self._known(peer, message, jobs):
            return
        submits, befores, awaited = [], dict[str, Predecessors](), 0
        for number, job in enumerate(jobs):
            if number % _BREATH == 0:
                await asyncio.sleep(0)
            where = job.pop("where", "")
            try:
                before = await self._before_of_many(who, job, befores)
                done = await self._done(peer, job, there)
                asked = self._submit(peer, job, Known(who, groups, before, there.get(_key(job)), done))
            except Wrong as wrong:
                raise Wrong(f"{where}: {wrong.message}" if where else wrong.message, wrong.hint, wrong.code) from None
            submits.append(replace(asked, where=where))
            awaited += len(before.jobs)
            if awaited > _AFTER_MOST:
                hint = "have one job come after those, and the others after that one"
                raise Wrong(f"each of these comes after many: {_AFTER_MOST} are the most in all", hint)
        many = tuple(submits)
        self._ask(peer, message, lambda token: SubmitMany(token, many, dry_run=message.get("dry_run", False)))

    async def _known(self, peer: Peer, message: Message, jobs: list[Message]) -> bool:
        """Answer many submits that were made durable when they were first sent; False where they were not."""
        nonces = [job["nonce"] for job in jobs]
        known = await self._gpud.reader.run(lambda reader: reader.nonces(nonces))
        if not known:
            return False
        there = await self._there(peer, jobs)
        held = [known.get(job["nonce"]) or there.get(_key(job), (None,))[0] for job in jobs]
        peer.reply(message["id"], {"jobs": [job and format_job(job) for job in held], "there": {}})
        return True

    async def _identity(self, peer: Peer) -> tuple[Account, frozenset[str]]:
        """Return who submits, once that is known, and what there is to submit for."""
        who = await self._gpud.names.account(peer.uid)
        groups: frozenset[str] = frozenset()
        if wants_groups(self._gpud.world.tenants):
            groups = await self._gpud.names.groups((peer.gid, *peer.groups()))
        await first_look(self._gpud.seen)
        return who, groups

    async def _before_of_many(self, who: Account, job: Message, known: dict[str, Predecessors]) -> Predecessors:
        """Return what one of many comes after: of those that name the same it is looked up once. Raises Wrong."""
        after = str(job.get("after", ""))
        if SINGLETON in job.get("after", ()):
            after += name_of(job)  # type: ignore[arg-type]  # the server has held it to this type
            if after in known:
                raise Wrong("two singletons of one name cannot be queued at once", "submit one after the other")
        if after not in known:
            known[after] = await self._before(who, job)
        return known[after]

    async def _before(self, who: Account, message: Message) -> Predecessors:
        after = message.get("after")
        if not after:
            return Predecessors()
        alike = (who.name, name_of(message))  # type: ignore[arg-type]  # the server has held it to this type
        return await self._gpud.reader.run(lambda reader: predecessors(reader, after, alike))

    async def _there(self, peer: Peer, jobs: list[Message]) -> dict[tuple[str, str], tuple[JobId, End | None]]:
        """Return, by group and key, the jobs that have the keys of these, as the store knows it."""
        keys = {_key(job) for job in jobs if "group" in job and "key" in job}
        if not keys:
            return {}
        asked = [(peer.uid, *key) for key in keys]
        found = await self._gpud.reader.run(lambda reader: reader.holders(asked))
        return {(group, key): holder for (_, group, key), holder in found.items()}

    async def _done(
        self, peer: Peer, job: Message, there: dict[tuple[str, str], tuple[JobId, End | None]]
    ) -> tuple[JobId, IndexSet] | None:
        """Return the newest array that had an array's key, and which elements have completed under it.

        Of one that has not ended all elements that it has.
        """
        if "array" not in job or "group" not in job or "key" not in job:
            return None
        holder, end = there.get(_key(job), (None, End.COMPLETED))
        if holder is not None and end is None:
            rows = await self._gpud.reader.run(lambda reader: reader.rows([holder]))
            return next(((row.job, row.array) for row in rows if row.array is not None), None)
        return await self._gpud.reader.run(lambda reader: reader.completed(peer.uid, *_key(job)))

    def _submit(self, peer: Peer, message: Message, known: Known) -> Submit:
        """Return the command for a job of which everything is known that has to be looked up. Raises Wrong."""
        user, config, role = known.who.name, self._gpud.config, self._gpud.roles.of(peer)
        begin_at = message.get("begin_at")
        if begin_at is not None:
            begin_at = self._gpud.clock() + (begin_at - self._gpud.clock.wall())
        resolve_names(self._gpud.world, message["demand"])
        check_priority(self._gpud.world, role, message.get("priority", 0))
        tenant = tenant_of(self._gpud.world, user, known.groups, message.get("tenant"), operator=role >= ANY_TENANT)
        fill_in(self._gpud.world, message)
        if config.system:
            message["limits"] = granted(peer.pid, peer.uid, message["limits"])
            message["environment"] = known.who.completed(message["environment"])
        message["limits"] |= {name: [soft, hard] for name, soft, hard in config.job_limits}
        spec = spec_of(
            message,  # type: ignore[arg-type]  # the server has held it to this type
            uid=peer.uid,
            gid=peer.gid,
            groups=peer.groups() if config.system else (),
            user=user,
            tenant=tenant,
            begin_at=begin_at,
            after=known.before.jobs,
        )
        dry_run, tell = message.get("dry_run", False), message.get("next", False)
        if not dry_run:
            self._check_day(self._submitted.take(peer.uid, spec, self._most_a_day(), self._gpud.clock()))
        asked = Submit(0, spec, dry_run=dry_run, tell=tell, ends=known.before.ends, there=known.there)
        if known.done is None or spec.array is None:
            return asked
        array, done = known.done
        left = spec.array - done
        if left and known.there is not None:  # to say that it is there would leave these out in silence
            holder = f"job {format_job(known.there[0])}, which has the key {spec.key!r},"
            there = "has completed" if known.there[1] is not None else "is there"
            raise Wrong(f"{holder} {there} without elements {left}", "submit these with a key of their own")
        if known.there is not None and known.there[1] is None:
            return asked
        asked = replace(asked, done=spec.array & done)
        return asked if asked.left else replace(asked, there=(array, End.COMPLETED))

    def count(self, peer: Peer, size: int) -> None:
        """Count bytes that a change of jobs has stored as if they were submitted. Raises Wrong."""
        if size > _CHANGED_MOST:
            raise Wrong(f"that changes {size >> 20} MiB, and {_CHANGED_MOST >> 20} can be at once", "change fewer jobs")
        self._check_day(self._submitted.count(peer.uid, size, self._most_a_day(), self._gpud.clock()))

    def _most_a_day(self) -> int | None:
        most = self._gpud.config.submit_mib_per_day
        return most << 20 if most else None

    def _check_day(self, wait_s: float) -> None:
        if wait_s:
            hint = f"try again in {format_duration(wait_s)}; what is large, and what many jobs share, goes into files"
            most = self._gpud.config.submit_mib_per_day
            raise Wrong(f"you have submitted {most} MiB within a day", hint, "busy")

    def _groups(self, peer: Peer) -> frozenset[str] | None:
        """Return the names of a user's groups, where they matter; None while they are not known."""
        if not wants_groups(self._gpud.world.tenants):
            return frozenset()
        return self._gpud.names.known_groups((peer.gid, *peer.groups()))


def once_each(batch: list[Input]) -> tuple[list[Input], list[Input]]:
    """Return a batch in which no submit is twice, and those that came again: the store knows them by then."""
    first: dict[str, int] = {}
    kept, again = list[Input](), list[Input]()
    for each in batch:
        if isinstance(each, Submit | SubmitMany) and first.setdefault(each.nonce, each.token) != each.token:
            again.append(each)
        else:
            kept.append(each)
    return kept, again


def check_priority(world: World, role: Role, priority: int) -> None:
    """Raise Wrong for a priority that there is not, or that is not for this role to give."""
    if abs(priority) > PRIORITY_MOST:
        raise Wrong(f"the priority must be from -{PRIORITY_MOST} to {PRIORITY_MOST}, not {priority}")
    if priority > 0 and not world.policy.personal and role < ABOVE_ZERO:
        hint = f"leave it out, or ask an operator: under {in_force(world)} it would count against others"
        raise Wrong("a priority above 0 is an operator's to give", hint, "not_permitted")


def _key(message: Message) -> tuple[str, str]:
    return message.get("group", ""), message.get("key", "")


def _check_keys(jobs: list[Message]) -> None:
    """Raise Wrong where two of many jobs have one key: a key names one job, so the other would never run."""
    first: dict[tuple[str, str], str] = {}
    for job in jobs:
        if "group" not in job or "key" not in job:
            continue
        (group, key), where = _key(job), job.get("where", "")
        before = first.get((group, key))
        if before is not None:
            whose = "that of several of its jobs" if before == where else f"that of {before}, too"
            hint = "a key names one job; give each its own, or leave --key out: then it is the command"
            raise Wrong(f"{where}: the key {key!r} in group {group!r} is {whose}".removeprefix(": "), hint)
        first[group, key] = where


def _whole(part: Message, job: dict[str, Any]) -> Message:
    """Return one of many submits as it would have been sent alone. Raises Wrong."""
    whole = {"umask": part["umask"], "limits": dict(part["limits"]), **job}
    whole["environment"] = part["environment"] | whole.pop("variables", {})
    if "script" in whole:
        scripts = part.get("scripts", [])
        if not 0 <= whole["script"] < len(scripts):
            raise Wrong(f"there is no script {whole['script']} in this part")
        whole["script"] = scripts[whole["script"]]
    return whole
