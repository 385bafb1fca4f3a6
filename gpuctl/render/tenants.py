"""Tenants and reservations for people."""

import time
from collections.abc import Sequence
from typing import Any

from gpuctl.render.jobs import where
from gpuctl.render.text import Column, clean, clock, in_words, table
from gpud.model.units import format_duration

Map = dict[str, Any]
DEFAULT = "default"  # whose members are those of no other

_TENANT = (
    Column("TENANT"),
    Column("GPUS", right=True),
    Column("GUARANTEED", right=True),
    Column("RUNNING", right=True),
    Column("QUEUED", right=True),
    Column("GPU-HOURS", right=True),
    Column("SHARE", right=True),
    Column("MEMBERS", elastic=True),
)
_RESERVATION = (
    Column("ID"),
    Column("FROM"),
    Column("TO"),
    Column("GPUS", elastic=True),
    Column("FOR", elastic=True),
    Column("JOBS THERE", elastic=True),
    Column("WHY", elastic=True),
)


def rows(tenants: Sequence[Map]) -> list[str]:
    """Return the table of tenants: what each has, of what it may have."""
    return table(_TENANT, [_row(each) for each in tenants])


def _row(tenant: Map) -> tuple[str, ...]:
    hours = _hours(tenant)
    return (
        tenant["name"],
        _of(tenant["gpus_used"], tenant["max_gpus"]),
        str(tenant["guaranteed_gpus"] or ""),
        _of(tenant["running"], tenant["max_running"]),
        _of(tenant["queued"], tenant["max_queued"]),
        hours,
        f"{tenant['share']:g}",
        members(tenant),
    )


def members(tenant: Map) -> str:
    """Return who is in a tenant: users, and groups with a `@`."""
    return ", ".join([*tenant["users"], *(f"@{group}" for group in tenant["groups"])])


def whole(tenant: Map) -> list[str]:
    """Return everything about one tenant, a line each."""
    guaranteed, borrowed = tenant["guaranteed_gpus"], tenant["gpus_borrowed"]
    window, ends = format_duration(tenant["window_s"]), in_words(tenant["window_ends_at"], time.time())
    lines = [
        ("tenant", tenant["name"]),
        ("members", members(tenant) or ("everybody else" if tenant["name"] == DEFAULT else "nobody")),
        ("GPUs in use", _of(tenant["gpus_used"], tenant["max_gpus"])),
        ("guaranteed", f"{guaranteed}" + (f"; {borrowed:g} more are borrowed" if borrowed else "")),
        ("borrows", "what is idle of others' guarantees" if tenant["borrow"] else "nothing"),
        ("running", _of(tenant["running"], tenant["max_running"])),
        ("queued", _of(tenant["queued"], tenant["max_queued"])),
        ("GPU-hours", f"{_hours(tenant)} in {window}, anew {ends}"),
        ("GPU types", ", ".join(tenant["gpu_types"]) or "all"),
        ("own GPUs", places(tenant["gpus"]) or "none"),
        ("share", f"{tenant['share']:g}"),
        ("boost", str(tenant["boost"])),
    ]
    return [clean(f"{name:<12} {value}") for name, value in lines]


def reservations(found: Sequence[Map]) -> list[str]:
    """Return the table of reservations."""
    cells = [
        (
            str(each["reservation"]),
            clock(each["begins_at"]),
            clock(each["ends_at"]),
            places(each["gpus"]),
            ", ".join([*each["tenants"], *each["users"]]) or "nobody",
            ", ".join(each["jobs"]),
            each["reason"],
        )
        for each in found
    ]
    return table(_RESERVATION, cells)


def places(gpus: Sequence[str]) -> str:
    """Return GPUs, named `NODE:INDEX`, with those of a node together: `host:0-3`."""
    nodes: dict[str, list[int | None]] = {}
    for gpu in gpus:
        node, _, index = gpu.rpartition(":")
        nodes.setdefault(node, []).append(int(index) if index.isdigit() else None)
    return where({"allocation": [{"node": node, "gpu_indices": indices} for node, indices in nodes.items()]})


def _hours(tenant: Map) -> str:
    """Return the GPU-hours used, small ones too."""
    used, limit = tenant["gpu_hours_used"], tenant["gpu_hours"]
    if used >= 10 or not used:
        return _of(used, limit)
    shown = f"{used:.4f}".rstrip("0").rstrip(".") if used >= 0.0001 else "<0.0001"
    return shown if limit is None else f"{shown}/{limit:g}"


def _of(used: float, limit: float | None) -> str:
    shown = f"{used:.1f}".removesuffix(".0")
    return shown if limit is None else f"{shown}/{limit:g}"
