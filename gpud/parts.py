"""What the composition root makes, and the daemon joins."""

from collections.abc import Callable
from dataclasses import dataclass

from gpud.clock import Clock
from gpud.inventory.protocol import Inventory
from gpud.launchers.protocol import Launcher
from gpud.notify import Notifier
from gpud.reading import ReadThread
from gpud.settings.config import Config
from gpud.store.jobs import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts, all of them real."""

    config: Config
    store: Store
    check: Callable[[], None]  # raises StoreError when there is nothing left to store into
    reader: ReadThread
    inventory: Inventory
    launcher: Launcher
    clock: Clock
    boot: str
    notifier: Notifier
