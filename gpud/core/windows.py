"""Which GPUs are not for everybody: reservations and maintenance windows, pools, GPUs and GPU types of tenants.

All of them are claims (see `claims`). Standing ones depend on the configuration, the tenants and the GPUs there are:
they are made again only when one of these changes. What runs when a window opens is not stopped: nothing starts that
could last into it, and a job that overruns what was expected of it is nobody's to kill.

Cost: O(windows) a call; O(GPUs x pools and tenants) after a change.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gpud.core.claims import Claim, ClaimKind
from gpud.core.fleet import GpuState
from gpud.core.outcome import Outcome
from gpud.core.placement import type_matches
from gpud.core.world import World
from gpud.model.changes import SettingPut, Told
from gpud.model.gpu import Gpu, GpuId
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp
from gpud.model.window import Pool, Window, plain_window

LAST = "last_reservation"  # the setting that keeps the newest number


def claims(world: World, now: Timestamp) -> tuple[Claim, ...]:
    """Return every claim that is in force or yet to come, the standing ones first.

    A job that starts now must not get a GPU of a claim that binds it, if it could last beyond `at`: for its time limit,
    without one for its estimate, or `Rules.assumed_runtime_s`: what like jobs took binds nobody.
    """
    if world.standing is None:
        world.standing = (*_pools(world), *_owned(world), *_types(world))
    if not world.windows:
        return world.standing
    return (*world.standing, *(_window(world, each) for each in world.windows.values() if now < each.until))


def pooled(world: World, now: Timestamp) -> frozenset[GpuId]:
    """Return the GPUs that are in pools."""
    pools = (claim.gpus for claim in claims(world, now) if claim.kind is ClaimKind.POOL and not claim.only)
    return frozenset[GpuId]().union(*pools)


def inside(world: World, pool: Pool) -> frozenset[GpuId]:
    """Return the GPUs of a pool that are known, there or not."""
    named = (state.gpu.id for word in pool.gpus for state in named_by(world.gpus.values(), word))
    return _with_instances(world, named)


def may_use(tenant: Tenant, gpu: Gpu) -> bool:
    """Return whether a GPU is of a type that a tenant may use."""
    return not tenant.gpu_types or any(type_matches(pattern, gpu.name) for pattern in tenant.gpu_types)


def misnamed(world: World, now: Timestamp) -> list[str]:
    """Return what of the configured pools is not as it says: words that mean no GPU, and GPUs that are in two."""
    found, seen = [], dict[GpuId, str]()
    for pool in world.rules.pools:
        missing = (word for word in pool.gpus if not named_by(world.gpus.values(), word))
        found += [f"pool {pool.name} names GPU {word}, and there is none" for word in missing]
    for claim in claims(world, now):
        if claim.kind is ClaimKind.POOL and not claim.only:
            for gpu in sorted(claim.gpus):
                other = seen.setdefault(gpu, claim.name)
                if other != claim.name:
                    state = world.gpus[gpu]
                    words = f"GPU {state.node}:{state.gpu.index} is in the pools {other} and {claim.name}"
                    found.append(f"{words}: no job can get it")
    return found


def named_by(gpus: Iterable[GpuState], word: str) -> list[GpuState]:
    """Return the GPUs that a word means: `INDEX` (of every node), `NODE:INDEX`, a UUID's beginning, or a whole node."""
    node, _, index = word.rpartition(":")
    if index.isascii() and index.isdigit() and len(index) < 6:
        found = [state for state in gpus if state.gpu.index == int(index) and node in {"", state.node}]
        if found:  # the number of one that vanished may be another's by now
            return [state for state in found if state.present] or found
    lower = word.lower()
    return [state for state in gpus if word and (state.node == word or state.gpu.id.lower().startswith(lower))]


def open_window(world: World, out: Outcome, window: Window) -> int:
    """Set GPUs aside; return the number that the window has got, which none had before."""
    world.last_window += 1
    window = world.windows[world.last_window] = replace(window, number=world.last_window)
    _put(world, out)
    out.changes.append(SettingPut(LAST, world.last_window))
    told = {
        "reservation": window.number,
        "begins_at": window.at,
        "ends_at": window.until,
        "gpus": [f"{world.gpus[gpu].node}:{world.gpus[gpu].gpu.index}" for gpu in window.gpus if gpu in world.gpus],
        "for": [*window.tenants, *window.users],
        "reason": window.reason,
        "by": window.by,
    }
    out.changes.append(Told(out.now, "reserved", told))
    return window.number


def close_window(world: World, out: Outcome, number: int, kind: str = "reservation_deleted", by: str = "") -> bool:
    """Give GPUs back that were set aside; False if there is no such window."""
    window = world.windows.pop(number, None)
    if window is None:
        return False
    _put(world, out)
    out.changes.append(Told(out.now, kind, {"reservation": number, "reason": window.reason, "by": by}))
    return True


def close_past(world: World, out: Outcome) -> bool:
    """Forget the windows that are over; return whether there were any."""
    past = [number for number, window in world.windows.items() if window.until <= out.now]
    for number in past:
        close_window(world, out, number, "reservation_ended")
    return bool(past)


def wake_at(world: World) -> Timestamp | None:
    """Return when the next window is over: what it kept off may start then."""
    return min((window.until for window in world.windows.values()), default=None)


def _put(world: World, out: Outcome) -> None:
    plain = [plain_window(each) for each in world.windows.values()]
    out.changes.append(SettingPut("windows", plain or None))


def _window(world: World, window: Window) -> Claim:
    return Claim(
        kind=ClaimKind.WINDOW,
        name=str(window.number),
        gpus=_with_instances(world, window.gpus),
        at=window.at,
        until=window.until,
        users=frozenset(window.users),
        tenants=frozenset(window.tenants),
    )


def _pools(world: World) -> Iterator[Claim]:
    everything = frozenset(world.gpus)
    for pool in world.rules.pools:
        its = inside(world, pool)
        yield Claim(kind=ClaimKind.POOL, name=pool.name, gpus=its, pool=pool.name)
        yield Claim(kind=ClaimKind.POOL, name=pool.name, gpus=everything - its, pool=pool.name, only=True)


def _owned(world: World) -> Iterator[Claim]:
    for tenant in world.tenants.values():
        if tenant.gpus:
            names = frozenset({tenant.name})
            yield Claim(kind=ClaimKind.OWNED, name=tenant.name, gpus=_with_instances(world, tenant.gpus), tenants=names)


def _with_instances(world: World, named: Iterable[GpuId]) -> frozenset[GpuId]:
    """Return these GPUs, and all the instances that there are of them now: a GPU may be split anew at any time."""
    whole = frozenset(named)
    return whole.union(gpu for gpu, state in world.gpus.items() if state.gpu.parent in whole)


def _types(world: World) -> Iterator[Claim]:
    for tenant in world.tenants.values():
        if tenant.gpu_types:
            others = frozenset(gpu for gpu, state in world.gpus.items() if not may_use(tenant, state.gpu))
            names = frozenset({tenant.name})
            yield Claim(kind=ClaimKind.TYPES, name=tenant.name, gpus=others, tenants=names, only=True)
