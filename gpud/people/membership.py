"""Which tenant a job belongs to: who is in which, and what they may choose."""

from collections.abc import Collection, Mapping

from gpud.core.tenants import no_such_tenant
from gpud.core.world import World
from gpud.model.tenant import DEFAULT, Tenant
from gpud.wire.check import Wrong
from gpud.wire.codec import Message


def wants_groups(tenants: Mapping[str, Tenant]) -> bool:
    """Return whether anybody is in a tenant by a group of theirs."""
    return any(each.groups for each in tenants.values())


def tenants_of(tenants: Mapping[str, Tenant], user: str, groups: Collection[str]) -> list[str]:
    """Return the tenants that a user is in, in the order in which they were created."""
    return [
        each.name for each in tenants.values() if user in each.users or any(group in groups for group in each.groups)
    ]


def tenant_of(world: World, user: str, groups: Collection[str], asked: str | None, *, operator: bool = False) -> str:
    """Return the tenant of a job: the one asked for, else the first that its user is in, else `default`.

    Raises Wrong for one that does not exist, and for one that the user is not in; an operator may choose any.
    """
    own = tenants_of(world.tenants, user, groups)
    if asked is None:
        return own[0] if own else DEFAULT
    if asked in own or (asked == DEFAULT and not own):
        return asked
    if asked != DEFAULT and asked not in world.tenants:
        refused = no_such_tenant(world, asked)
        raise Wrong(refused.message, refused.hint, refused.code)
    if operator:
        return asked
    hint = f"{user} is in {', '.join(own)}" if own else f"{user} is in none; leave --tenant out"
    raise Wrong(f"{user} is not in tenant {asked}", hint, "not_permitted")


def fill_in(world: World, message: Message) -> None:
    """Put into a submit what its pool says: a job without a time limit gets the pool's."""
    pool = next((each for each in world.rules.pools if each.name == message["demand"].get("pool")), None)
    if pool is not None and pool.max_time_s is not None:
        message.setdefault("time_limit_s", pool.max_time_s)
