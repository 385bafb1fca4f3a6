"""Names of users and groups. The name service may be slow or dead: it is asked off the loop, and with a deadline.

Each question has a thread of its own, and one at most: a user whom a dead LDAP server should tell of keeps nobody
else's question waiting. What was answered is kept until `forget`; an answer that comes too late is kept, too.
"""

import asyncio
import grp
import pwd
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")

PATIENCE_S = 5.0
_UNKNOWN_S = 60.0  # that somebody is not known is true for so long: a server that is away says so, too
_THREADS_MOST = 64  # of questions without an answer; those beyond fail at once


class NameServiceError(Exception):
    """The name service does not answer."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the name service knows of a user; of one whom it does not know, whose container's it is, or the number."""

    name: str
    home: str | None = None
    shell: str | None = None

    def completed(self, environment: dict[str, str]) -> dict[str, str]:
        """Return an environment with what every login sets, where it lacks that."""
        said = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        return {key: value for key, value in said.items() if value} | environment


class Names:
    """Names that were asked for. Make it on the event loop's thread, and ask it there."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._known: dict[Hashable, tuple[Any, float]] = {}  # and until when, by the loop's clock
        self._asked: dict[Hashable, tuple[asyncio.Future[Any], float]] = {}

    def forget(self) -> None:
        """Ask for everything anew: somebody may have been added, or left a group."""
        self._known.clear()

    def known(self, uid: int) -> str | None:
        """Return a user's name at once, None where it was never told."""
        account = self.known_account(uid)
        return None if account is None else account.name

    def known_account(self, uid: int) -> Account | None:
        """Return what is known of a user at once, None where it was never told."""
        account: Account | None = self._look((_account, uid))
        return account

    async def name(self, uid: int) -> str:
        """Return a user's name; the number where the name service knows none, or does not answer in time."""
        return (await self.account(uid)).name

    async def account(self, uid: int) -> Account:
        """Return what the name service knows of a user; where it does not answer in time, the number alone."""
        try:
            return await self._ask(_account, uid)
        except NameServiceError:
            return Account(str(uid))

    def known_now(self, uid: int) -> str | None:
        """Return what a user is called at once, where that was told within the last minute."""
        name: str | None = self._look((_name, uid))
        return name

    async def now(self, uid: int) -> str | None:
        """Return what a user is called, and was a minute ago at most; None where the name service does not answer."""
        try:
            return await self._ask(_name, uid)
        except NameServiceError:
            return None

    def known_groups(self, gids: tuple[int, ...]) -> frozenset[str] | None:
        """Return the names of groups at once, None where one was never told."""
        names = [self._look((_group, gid)) for gid in gids]
        return None if None in names else frozenset(name for name in names if name is not None)

    async def groups(self, gids: tuple[int, ...]) -> frozenset[str]:
        """Return the names of groups; numbers where the name service knows none, or does not answer in time."""
        return frozenset(await asyncio.gather(*(self._group_name(gid) for gid in gids)))

    async def uid(self, name: str) -> int | None:
        """Return the number of a user, who may be named by it; None where there is none. Raises NameServiceError."""
        return int(name) if _is_number(name) else await self._ask(_uid, name)

    async def gid(self, name: str) -> int | None:
        """Return the number of a group, likewise. Raises NameServiceError."""
        return int(name) if _is_number(name) else await self._ask(_gid, name)

    async def _group_name(self, gid: int) -> str:
        try:
            return await self._ask(_group, gid)
        except NameServiceError:
            return str(gid)

    async def _ask(self, ask: Callable[[Any], tuple[Answer, bool]], about: Hashable) -> Answer:
        """Return an answer, from now on known; the time that one waits counts from when it was first asked for."""
        key = (ask, about)
        known = self._look(key)
        if known is not None:
            answer: Answer = known
            return answer
        loop = asyncio.get_running_loop()
        if key not in self._asked:
            if len(self._asked) >= _THREADS_MOST:
                raise NameServiceError("the name service does not answer")
            future: asyncio.Future[Any] = loop.create_future()
            future.add_done_callback(partial(self._learn, key))
            self._asked[key] = future, loop.time()
            # Not a pool's, which the end of gpud would wait for.
            threading.Thread(target=_answer, args=(loop, future, ask, about), name="gpud-names", daemon=True).start()
        future, since = self._asked[key]
        done, _ = await asyncio.wait([future], timeout=max(0.0, since + self._patience_s - loop.time()))
        if not done:
            raise NameServiceError(f"the name service has not answered for {loop.time() - since:.0f} s")
        answer, _ = future.result()
        return answer

    def _look(self, key: Hashable) -> Any:  # noqa: ANN401 - what was answered
        """Return an answer that is known, None where none is (any more)."""
        answer, until = self._known.get(key, (None, 0.0))
        return answer if asyncio.get_running_loop().time() < until else None

    def _learn(self, key: Hashable, future: asyncio.Future[Any]) -> None:
        del self._asked[key]
        if future.cancelled() or future.exception() is not None:
            return
        answer, found = future.result()
        self._known[key] = answer, inf if found else asyncio.get_running_loop().time() + _UNKNOWN_S


def _answer(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    ask: Callable[[Any], object],
    about: Any,  # noqa: ANN401 - a name or a number
) -> None:
    def tell() -> None:
        if not future.done():
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(NameServiceError(f"the name service failed: {error}"))

    answer, error = None, None
    try:
        answer = ask(about)
    except OSError as failed:
        error = failed
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 11


def _account(uid: int) -> tuple[Account, bool]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(_owner_of(uid) or str(uid)), False
    return Account(entry.pw_name, entry.pw_dir or None, entry.pw_shell or None), True


def _name(uid: int) -> tuple[str, bool]:
    return _account(uid)[0].name, False  # to be asked for anew


def _owner_of(uid: int) -> str | None:
    """Return whose this uid is, by subuid(5): users of one's containers are oneself, and have no share of their own."""
    try:
        lines = Path("/etc/subuid").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for name, *numbers in (line.split(":") for line in lines):
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            first, count = map(int, numbers)
            if name and first <= uid < first + count:
                return name
    return None


def _group(gid: int) -> tuple[str, bool]:
    try:
        return grp.getgrgid(gid).gr_name, True
    except KeyError:
        return str(gid), False


def _uid(name: str) -> tuple[int | None, bool]:
    try:
        return pwd.getpwnam(name).pw_uid, True
    except (KeyError, ValueError):  # no such name; one that no service could know (a zero byte)
        return None, False


def _gid(name: str) -> tuple[int | None, bool]:
    try:
        return grp.getgrnam(name).gr_gid, True
    except (KeyError, ValueError):
        return None, False
