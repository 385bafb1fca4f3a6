"""What people see of tenants and of GPUs set aside: the world, made into the protocol's maps."""

from math import inf

from gpud.core.choice import in_force, values
from gpud.core.policies import POLICIES
from gpud.core.quota import borrowed
from gpud.core.windows import claims, misnamed
from gpud.core.world import World
from gpud.model.gpu import GpuId
from gpud.model.job import JobId, format_job
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp, format_duration
from gpud.model.window import Window
from gpud.settings.config import Config
from gpud.wire.administration import ParameterMap, PolicyMap, ReservationMap, TenantMap
from gpud.wire.codec import Message


def policies_map(world: World) -> Message:
    """Return the policy in force, and all that there are with their parameters."""
    policies: list[PolicyMap] = []
    for name, described in POLICIES.items():
        now = values(world, name)
        parameters: list[ParameterMap] = [
            {"name": each.name, "kind": each.kind, "value": now[each.name], "default": each.default, "says": each.says}
            for each in described.parameters
        ]
        policies.append({"name": name, "says": described.says, "parameters": parameters})
    return {"policy": in_force(world), "policies": policies}


def tenant_map(world: World, tenant: Tenant, now: Timestamp) -> TenantMap:
    """Return a tenant, and what it has now."""
    tally, meter = world.books.of_tenant(tenant.name), world.books.meters[tenant.name]
    return {
        "name": tenant.name,
        "users": list(tenant.users),
        "groups": list(tenant.groups),
        "guaranteed_gpus": tenant.guaranteed_gpus,
        "max_gpus": tenant.max_gpus,
        "max_running": tenant.max_running,
        "max_queued": tenant.max_queued,
        "gpu_types": list(tenant.gpu_types),
        "gpu_hours": tenant.gpu_hours,
        "window_s": tenant.window_s,
        "share": tenant.share,
        "boost": tenant.boost,
        "gpus": _names(world, tenant.gpus),
        "gpu_uuids": list(tenant.gpus),
        "borrow": tenant.borrow,
        "gpus_used": tally.milli / 1000,
        "gpus_borrowed": borrowed(world, tenant.name) / 1000,
        "running": tally.running,
        "queued": tally.queued,
        "gpu_hours_used": meter.hours(now),
        "window_ends_at": meter.until,
    }


def reservation_map(world: World, window: Window, now: Timestamp) -> ReservationMap:
    """Return a reservation, and the jobs on its GPUs."""
    jobs: dict[JobId, None] = {}
    for gpu in window.gpus:
        if gpu in world.gpus:
            jobs |= dict.fromkeys(world.gpus[gpu].holders)
    return {
        "reservation": window.number,
        "begins_at": window.at,
        "ends_at": window.until,
        "active": window.at <= now,
        "gpus": _names(world, window.gpus),
        "gpu_uuids": list(window.gpus),
        "users": list(window.users),
        "tenants": list(window.tenants),
        "reason": window.reason,
        "by": window.by,
        "jobs": [format_job(job) for job in sorted(jobs)],
    }


def kept_for(world: World, now: Timestamp) -> dict[GpuId, list[str]]:
    """Return for whom GPUs are kept, in words: `pool debug`, `tenant vision`, `reservation 3 in 2h`."""
    kept: dict[GpuId, list[str]] = {}
    for claim in claims(world, now):
        if not claim.only:
            when = ""
            if claim.until < inf:
                soon = claim.at > now
                when = (
                    f" in {format_duration(claim.at - now)}" if soon else f" for {format_duration(claim.until - now)}"
                )
            for gpu in claim.gpus:
                kept.setdefault(gpu, []).append(f"{claim.kind} {claim.name}{when}")
    return kept


def unkept(world: World, config: Config, now: Timestamp) -> list[str]:
    """Return what the configuration says of GPUs and nodes that is not so."""
    nodes = [f"there is no node {name}, which is to have labels" for name, _ in config.nodes if name not in world.nodes]
    return [*misnamed(world, now), *nodes]


def _names(world: World, gpus: tuple[GpuId, ...]) -> list[str]:
    return [f"{state.node}:{state.gpu.index}" if (state := world.gpus.get(gpu)) else gpu for gpu in gpus]
