"""Who may do what: the one table, and which role a client has.

A role is read off the kernel's word alone: the uid and the groups that a client had when it connected. The names in
the configuration are looked up once, when it is read (`Roles.follow`), so that no request waits for a name service.
In a user's own gpud everybody who can connect (its user, and root) is `root`.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from gpud.people.names import Names, NameServiceError
from gpud.settings.config import Config
from gpud.wire.check import Wrong

log = logging.getLogger(__name__)

_FIRST_S = 2.0
_AGAIN_S = 30.0  # names that a dead name service did not tell are asked for again


class Role(IntEnum):
    """What somebody is; each may do what those below may."""

    VIEWER = 0
    USER = 1
    OPERATOR = 2
    ADMIN = 3
    ROOT = 4  # no configuration makes anybody this


@dataclass(frozen=True, slots=True)
class Right:
    """The least role that may: `own` with jobs of one's own (or where no job is meant), `others` with everybody's."""

    own: Role
    others: Role


_LOOK = Right(Role.VIEWER, Role.VIEWER)  # what of others' jobs is told: `views.jobs`
_CHANGE = Right(Role.USER, Role.OPERATOR)
_OPERATE = Right(Role.OPERATOR, Role.OPERATOR)
_ADMINISTER = Right(Role.ADMIN, Role.ADMIN)
_ROOT = Right(Role.ROOT, Role.ROOT)

RIGHTS: dict[str, Right] = {
    **dict.fromkeys(("ping", "status", "gpus", "nodes", "list", "show", "why", "stats", "events", "subscribe"), _LOOK),
    "usage": _LOOK,
    "config": Right(Role.USER, Role.USER),  # of secrets in it only that they are there
    **dict.fromkeys(("tenants", "reservations", "policies", "notices", "groups"), _LOOK),
    **dict.fromkeys(("submit", "submit_many"), Right(Role.USER, Role.USER)),
    **dict.fromkeys(("cancel", "hold", "release", "requeue", "interrupt", "priority", "update", "signal"), _CHANGE),
    **dict.fromkeys(("drain", "undrain", "pause", "resume", "reserve", "reservation_delete"), _OPERATE),
    **dict.fromkeys(("tenant_create", "tenant_set", "tenant_delete", "policy_set"), _ADMINISTER),
    "exec": Right(Role.USER, Role.ROOT),  # it runs as the job's user
    "backup": _ROOT,  # it has everybody's environments in it
}
"""Every request there is; one that is missing here is root's."""

ABOVE_ZERO = Role.OPERATOR  # a priority above 0, where it counts against others' jobs
ANY_TENANT = Role.OPERATOR  # to submit for a tenant that one is not in
SEES_ALL = Role.ADMIN  # what belongs to others: their command lines, directories, outputs, measurements


class Client(Protocol):
    """Who asks, as the kernel says."""

    uid: int
    gid: int

    def groups(self) -> tuple[int, ...]:
        """Return the supplementary groups."""
        ...


def right_of(op: str) -> Right:
    """Return who may ask for this."""
    return RIGHTS.get(op, _ROOT)


def check_right(role: Role, op: str) -> None:
    """Raise Wrong for one who may not ask for this at all, not even of what is their own."""
    least = right_of(op).own
    if role < least:
        may = "viewers may only look" if role is Role.VIEWER else f"it takes the role {least.name.lower()}"
        raise Wrong(f"you may not {op.replace('_', ' ')}: {may}", "ask who administers gpud here", "not_permitted")


@dataclass(frozen=True, slots=True)
class _Members:
    """Who has a role: users by uid, groups by gid."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def hold(self, client: Client) -> bool:
        return client.uid in self.uids or not self.gids.isdisjoint((client.gid, *client.groups()))


class Roles:
    """Which role each client has. Until names are known everybody is a user, but root."""

    def __init__(self, config: Config, names: Names) -> None:
        self._names = names
        self._system = config.system
        self._members: dict[Role, _Members] = {}
        self._search: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()  # once for every name

    def of(self, client: Client) -> Role:
        """Return the role of a client: the highest that names them, `user` where none does."""
        if not self._system or client.uid == 0:
            return Role.ROOT
        named = (role for role, members in self._members.items() if members.hold(client))
        return max(named, default=Role.USER)

    async def begin(self, config: Config) -> None:
        """Take the roles of the first configuration; a name service that is slow holds nobody up for long."""
        self.follow(config)
        if self._search is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_S):
                    await self._asked.wait()

    def follow(self, config: Config) -> None:
        """Take the roles of a configuration that was read (again), off the loop: until then what was known holds."""
        self.end()
        if config.system:
            self._search = asyncio.create_task(self._look_up(config))

    def end(self) -> None:
        """Look no more."""
        if self._search is not None:
            self._search.cancel()

    async def _look_up(self, config: Config) -> None:
        """Look up who is named. Names that nobody knows are logged, and left out.

        Where the name service does not answer it is asked again until it does, or this is cancelled.
        """
        while True:
            missing = False
            for role, users, groups in (
                (Role.VIEWER, config.viewers, config.viewer_groups),
                (Role.OPERATOR, config.operators, config.operator_groups),
                (Role.ADMIN, config.admins, config.admin_groups),
            ):
                uids, no_user = await self._numbers(role, users, group=False)
                gids, no_group = await self._numbers(role, groups, group=True)
                missing |= no_user or no_group
                self._members[role] = _Members(uids, gids)
            self._asked.set()
            if not missing:
                return
            await asyncio.sleep(_AGAIN_S)

    async def _numbers(self, role: Role, words: Iterable[str], *, group: bool) -> tuple[frozenset[int], bool]:
        """Return the numbers of users, or groups, and whether one is missing for want of an answer."""
        found, missing, what = set(), False, "group" if group else "user"
        for word in words:
            try:
                number = await (self._names.gid(word) if group else self._names.uid(word))
            except NameServiceError as error:
                log.warning("role %s, %s %s: %s", role.name.lower(), what, word, error)
                missing = True
            else:
                if number is None:
                    log.warning("configuration: there is no %s %s, to have the role %s", what, word, role.name.lower())
                else:
                    found.add(number)
        return frozenset(found), missing
