"""GPUs set aside: for a time (windows, which people know as reservations), or for good (pools)."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from gpud.model.gpu import GpuId
from gpud.model.units import Seconds, Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """GPUs that from `at` until `until` are for the jobs of these users and tenants alone; of none: for maintenance."""

    number: int
    at: Timestamp
    until: Timestamp
    gpus: tuple[GpuId, ...]
    users: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """GPUs for jobs that ask for this pool, and for no others; such jobs get no other GPUs.

    `gpus` are words as people write them: `3` (of every node), `NODE:3`, a UUID prefix. `max_time_s` None: no limit.
    """

    name: str
    gpus: tuple[str, ...]
    max_time_s: Seconds | None = None


def plain_window(window: Window) -> dict[str, Any]:
    """Return a window as the store keeps it (JSON)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(window).items()}


def window_from(plain: dict[str, Any]) -> Window:
    """Return a window as the store kept it; what a later gpud added is left out."""
    known = {each.name for each in fields(Window)}
    held: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.items() if key in known
    }
    return Window(**held)
