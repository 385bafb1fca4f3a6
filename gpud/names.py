"""Names of users and groups. The name service may be slow or dead: it is asked off the loop, and once for each."""

import asyncio
import grp
import pwd
from collections.abc import Callable


class Names:
    """Names that were asked for."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def known(self, uid: int) -> str | None:
        """Return a user's name at once, None where it was never asked for."""
        return self._known.get(uid)

    async def name(self, uid: int) -> str:
        """Return a user's name, however long the name service takes; the number where it knows none."""
        if uid not in self._known:
            self._known[uid] = await asyncio.to_thread(_look_up, uid)
        return self._known[uid]

    def known_groups(self, gids: tuple[int, ...]) -> frozenset[str] | None:
        """Return the names of groups at once, None where one was never asked for."""
        names = [self._groups.get(gid) for gid in gids]
        return None if None in names else frozenset(name for name in names if name is not None)

    async def groups(self, gids: tuple[int, ...]) -> frozenset[str]:
        """Return the names of groups, however long the name service takes; numbers where it knows none."""
        missing = [gid for gid in gids if gid not in self._groups]
        if missing:
            self._groups |= await asyncio.to_thread(lambda: {gid: _look_up_group(gid) for gid in missing})
        return frozenset(self._groups[gid] for gid in gids)

    async def has_user(self, name: str) -> bool:
        """Return whether there is a user of that name."""
        return await asyncio.to_thread(_knows, pwd.getpwnam, name)

    async def has_group(self, name: str) -> bool:
        """Return whether there is a group of that name."""
        return await asyncio.to_thread(_knows, grp.getgrnam, name)


def _look_up(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _look_up_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _knows(ask: Callable[[str], object], name: str) -> bool:
    try:
        ask(name)
    except (KeyError, ValueError):  # no such name; one that no service could know (a zero byte)
        return False
    return True
