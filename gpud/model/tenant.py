"""Tenants: who shares this fleet, and how much of it each may use."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from gpud.model.gpu import GpuId
from gpud.model.units import Seconds, Timestamp

DEFAULT = "default"  # the tenant of whoever is in none; it need not exist
WINDOW_S: Seconds = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Users, by name and by group, who share limits. None: no limit.

    `guaranteed_gpus` are theirs whenever they want them: others may borrow what is idle of them, and lose it when it
    is wanted. `borrow`: whether its own jobs may use what is idle of others' guarantees. `max_gpus`, `max_running` and
    `max_queued` hold at any moment. `gpu_types` are patterns, any of which a GPU must match; none: every type.
    `gpu_hours` may be used in `window_s`, counted from `since` and anew after each. `share` is its weight in
    `fair_share`, `boost` is added to the priority of what it submits. `gpus` are its own: nobody else's jobs run there.
    """

    name: str
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    guaranteed_gpus: int = 0
    max_gpus: int | None = None
    max_running: int | None = None
    max_queued: int | None = None
    gpu_types: tuple[str, ...] = ()
    gpu_hours: float | None = None
    window_s: Seconds = WINDOW_S
    since: Timestamp = Timestamp(0.0)
    share: float = 1.0
    boost: int = 0
    gpus: tuple[GpuId, ...] = ()
    borrow: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the configuration allows everybody; None: no limit. A tenant's own limit comes before `..._per_tenant`."""

    queued: int | None = None
    running: int | None = None
    queued_per_user: int | None = None
    running_per_user: int | None = None
    gpus_per_user: int | None = None
    queued_per_tenant: int | None = None
    running_per_tenant: int | None = None


def plain_tenant(tenant: Tenant) -> dict[str, Any]:
    """Return a tenant as the store keeps it (JSON)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(tenant).items()}


def tenant_from(plain: dict[str, Any]) -> Tenant:
    """Return a tenant as the store kept it; what a later gpud added is left out."""
    known = {each.name for each in fields(Tenant)}
    held: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.items() if key in known
    }
    return Tenant(**held)
