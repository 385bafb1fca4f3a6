"""One running gpud, as those who answer for it share it: the world, the settings in force, who is who and may what."""

import asyncio
from dataclasses import dataclass, field

from gpud.clock import Clock
from gpud.core.world import World
from gpud.launchers.protocol import Launcher
from gpud.model.units import Timestamp
from gpud.parts import Parts
from gpud.people.names import Names
from gpud.people.roles import Roles
from gpud.reading import ReadThread
from gpud.settings.config import Config
from gpud.store.files import StoreError


@dataclass(slots=True, kw_only=True)
class Instance:
    """One running gpud. Only the daemon and its subscriptions write it; `world` changes in `cycle` alone.

    `parts.config` is what gpud was started with, `config` what is in force. `last_event` numbers the newest durable
    event; `not_stored` says why nothing can be made durable now. `seen` is set once the inventory has spoken: before,
    nobody can say whether a job fits.
    """

    parts: Parts
    world: World
    config: Config
    names: Names
    roles: Roles
    started_at: Timestamp
    last_event: int
    not_stored: StoreError | None = None
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def clock(self) -> Clock:
        """Return the clock of deadlines, and of the wall."""
        return self.parts.clock

    @property
    def storage(self) -> str | None:
        """Return why nothing can be made durable now, and what to do; None while all is well."""
        return None if self.not_stored is None else f"{self.not_stored}; {self.not_stored.hint}"

    @property
    def reader(self) -> ReadThread:
        """Return the thread that reads the store."""
        return self.parts.reader

    @property
    def launcher(self) -> Launcher:
        """Return what has the processes."""
        return self.parts.launcher
