"""What operators say of tenants and reservations, taken into the world; and what time alone changes of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpud.core import quota, windows
from gpud.core.admit import Refused
from gpud.core.commands import DeleteReservation, DeleteTenant, Done, PutTenant, Reply, Reserve, Reserved
from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import SettingPut, Told
from gpud.model.spec import Terms
from gpud.model.tenant import Tenant, plain_tenant, tenant_from
from gpud.model.units import Timestamp, plural
from gpud.model.window import Window, window_from

Asked = PutTenant | DeleteTenant | Reserve | DeleteReservation


def change(world: World, out: Outcome, asked: Asked) -> Reply:
    """Do what was asked of tenants or reservations."""
    match asked:
        case PutTenant():
            return _put(world, out, asked)
        case DeleteTenant(_, name, by):
            return _delete(world, out, name, by)
        case Reserve(_, window):
            taken = _taken(world, window)
            if taken is not None:
                return taken
            return Reserved(windows.open_window(world, out, window))
        case DeleteReservation(_, number, by):
            if windows.close_window(world, out, number, by=by):
                return Done(changed=True)
            there = "see what there is: gpuctl reserve list"
            return Refused("no_such_reservation", f"there is no reservation {number}", there)


def turn(world: World, out: Outcome) -> bool:
    """Take in that time went by: windows that are over; return whether that may let somebody start."""
    if not world.windows and out.now < world.books.rolls_at:
        return False
    return windows.close_past(world, out) | quota.roll(world, out.now)


def wake_at(world: World) -> Timestamp | None:
    """Return when to look again though nothing happens, if ever."""
    return min((at for at in (windows.wake_at(world), quota.wake_at(world)) if at is not None), default=None)


def boost(world: World, terms: Terms) -> int:
    """Return what a job's tenant adds to its priority. At submit, and to be seen: a change is for later jobs."""
    tenant = world.tenants.get(terms.tenant)
    return 0 if tenant is None else tenant.boost


def restore(world: World, settings: Mapping[str, Any]) -> None:
    """Take in what the store kept, before any job."""
    tenants = [tenant_from(plain) for plain in settings.get("tenants") or ()]
    world.tenants = {tenant.name: tenant for tenant in tenants}
    world.books.restore(tenants, settings.get("gpu_hours") or {})
    kept = [window_from(plain) for plain in settings.get("windows") or ()]
    world.windows = {window.number: window for window in kept}
    world.last_window = max(settings.get(windows.LAST) or 0, *world.windows, 0)
    world.standing = None


def _taken(world: World, window: Window) -> Refused | None:
    """Return which other reservation, or whose own they are, would keep those off for whom GPUs are to be set aside.

    Maintenance may be laid over any.
    """
    for tenant in world.tenants.values() if window.users or window.tenants else ():
        own = [gpu for gpu in window.gpus if gpu in tenant.gpus]
        members = set(window.users) & set(tenant.users) or (window.users and tenant.groups)
        if own and tenant.name not in window.tenants and not members:
            state = world.gpus[own[0]]
            message = f"GPU {state.node}:{state.gpu.index} is tenant {tenant.name}'s own: nobody else could use it"
            return Refused("refused", message, f"see what is: gpuctl tenant show {tenant.name}")
    mine = {*window.users, *window.tenants}
    for other in world.windows.values() if mine else ():
        theirs, common = {*other.users, *other.tenants}, [gpu for gpu in window.gpus if gpu in other.gpus]
        if common and not mine & theirs and other.at < window.until and window.at < other.until:
            state, whom = world.gpus[common[0]], ", ".join(sorted(theirs)) or "nobody"
            message = f"GPU {state.node}:{state.gpu.index} is set aside then: reservation {other.number}, for {whom}"
            hint = f"see when: gpuctl reserve list; to take it back: gpuctl reserve delete {other.number}"
            return Refused("refused", message, hint)
    return None


def _put(world: World, out: Outcome, asked: PutTenant) -> Reply:
    name, known = asked.name, world.tenants.get(asked.name)
    if known is None and not asked.create:
        return no_such_tenant(world, name)
    if known is not None and asked.create:
        return Refused("refused", f"there is a tenant {name} already", f"to change it: gpuctl tenant set {name}")
    before = known or Tenant(name=name, since=out.now)
    values, gone = dict(asked.values), dict(asked.remove)
    for key in ("users", "groups"):
        named = dict.fromkeys((*getattr(before, key), *values.get(key, ())))
        values[key] = tuple(each for each in named if each not in gone.get(key, ()))
    after = replace(before, **values)
    if after.window_s != before.window_s:
        after = replace(after, since=out.now)
    refused = _unkeepable(world, out.now, before, after)
    if refused is not None:
        return refused
    if after == known:
        return Done(changed=False)
    world.tenants = {**world.tenants, name: after}
    if known is None or after.since != before.since:
        world.books.meter(after, out.now, world.active.values())
    _changed(world, out, "tenant_created" if known is None else "tenant_changed", after, asked.by)
    return Done(changed=True)


def _delete(world: World, out: Outcome, name: str, by: str) -> Reply:
    known = world.tenants.get(name)
    if known is None:
        return no_such_tenant(world, name)
    tally = world.books.of_tenant(name)
    if tally.running or tally.queued:
        message = f"tenant {name} has {plural(tally.running, 'job')} running and {tally.queued} waiting"
        return Refused("refused", message, "cancel them, or let them end; to stop more from coming: --max-queued 0")
    kept = next((each.number for each in world.windows.values() if name in each.tenants), None)
    if kept is not None:  # without its tenant it would be for nobody, which is another thing
        message = f"reservation {kept} is for tenant {name}"
        return Refused("refused", message, f"to take it back: gpuctl reserve delete {kept}")
    world.tenants = {other: each for other, each in world.tenants.items() if other != name}
    world.books.unmeter(name)
    _changed(world, out, "tenant_deleted", known, by)
    return Done(changed=True)


def no_such_tenant(world: World, name: str) -> Refused:
    """Return what is said of a tenant that does not exist."""
    there = f"there are: {', '.join(sorted(world.tenants))}" if world.tenants else "there are none"
    return Refused("no_such_tenant", f"there is no tenant {name!r}", f"{there}; see gpuctl tenant list")


def _unkeepable(world: World, now: Timestamp, before: Tenant, after: Tenant) -> Refused | None:
    """Return what of a tenant cannot be so beside the others and the GPUs there are."""
    new = set(after.gpus).difference(before.gpus)
    for other in world.tenants.values():
        common = new.intersection(other.gpus) if other.name != after.name else None
        if common:
            state = world.gpus[min(common, key=after.gpus.index)]
            message = f"GPU {state.node}:{state.gpu.index} belongs to tenant {other.name}"
            return Refused("refused", message, f"take it away there first: gpuctl tenant set {other.name} --gpus")
    pooled = new & windows.pooled(world, now)
    if pooled:
        state = world.gpus[min(pooled, key=after.gpus.index)]
        message = f"GPU {state.node}:{state.gpu.index} is in a pool: as a tenant's own nobody could get it"
        return Refused("refused", message, "take it out of the pool, in the configuration, first")
    if after.max_gpus is not None and after.guaranteed_gpus > after.max_gpus:
        message = f"{plural(after.guaranteed_gpus, 'GPU')} would be guaranteed to it, and it may have {after.max_gpus}"
        return Refused("refused", message, "name both: --guaranteed and --max-gpus")
    eased = after.guaranteed_gpus == before.guaranteed_gpus and after.gpu_types == before.gpu_types
    if not new and (eased or not after.guaranteed_gpus):
        return None
    return _overcommitted(world, now, after)


def _overcommitted(world: World, now: Timestamp, tenant: Tenant) -> Refused | None:
    """Return what is wrong with guaranteeing more GPUs than there are, beside pools and others' own."""
    pooled = windows.pooled(world, now)
    public = {gpu: state.gpu for gpu, state in world.gpus.items() if not state.gpu.split and gpu not in pooled}
    tenants = {**world.tenants, tenant.name: tenant}
    owned = {name: [public.pop(gpu) for gpu in each.gpus if gpu in public] for name, each in tenants.items()}
    if not world.gpus:
        return None
    wanted = {name: each.guaranteed_gpus for name, each in tenants.items()}
    own = {name: min(len(owned[name]), count) for name, count in wanted.items()}
    there, total = len(public) + sum(own.values()), sum(wanted.values())
    if total > there:
        beside = " beside pools and what is others' own" if pooled or any(owned.values()) else ""
        left = max(0, there - (total - tenant.guaranteed_gpus))
        are = "is" if there == 1 else "are"
        message = f"{plural(total, 'GPU')} would be guaranteed in all; there {are} {there}{beside}"
        return Refused("refused", message, f"{left or 'none'} {'is' if left == 1 else 'are'} left to guarantee")
    able = sum(windows.may_use(tenant, gpu) for gpu in (*public.values(), *owned[tenant.name]))
    if tenant.guaranteed_gpus > able:
        message = f"{plural(tenant.guaranteed_gpus, 'GPU')} would be guaranteed, of types of which there are {able}"
        return Refused("refused", message, "its types: --gpu-type")
    return None


def _changed(world: World, out: Outcome, kind: str, tenant: Tenant, by: str) -> None:
    world.standing = None
    world.eased |= world.shut.keys()
    plain = [plain_tenant(each) for each in world.tenants.values()]
    out.changes.append(SettingPut("tenants", plain or None))
    out.changes.append(Told(out.now, kind, {"tenant": tenant.name, "by": by}))
