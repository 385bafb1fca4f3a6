"""Who is in which tenant, and what they may choose."""

import pytest

from gpud.core.policies.priority import Priority
from gpud.core.rules import Rules
from gpud.core.world import World
from gpud.model.tenant import Tenant
from gpud.model.window import Pool
from gpud.people.membership import fill_in, tenant_of
from gpud.wire.check import Wrong


def a_world(*tenants, pools=()):
    world = World(Priority(1.0), Rules(pools=pools), "boot")
    world.tenants = {tenant.name: tenant for tenant in tenants}
    return world


VISION = Tenant(name="vision", users=("ada",), groups=("lab",))
LANGUAGE = Tenant(name="language", users=("ada", "bob"))


def test_without_tenants_nobody_notices_that_there_could_be_some():
    assert tenant_of(a_world(), "ada", ["lab"], None) == "default"
    assert tenant_of(a_world(), "ada", ["lab"], "default") == "default"


def test_a_member_of_several_gets_the_first_or_chooses():
    world = a_world(VISION, LANGUAGE)

    assert tenant_of(world, "ada", [], None) == "vision"
    assert tenant_of(world, "ada", [], "language") == "language"
    assert tenant_of(world, "bob", [], None) == "language"


def test_a_group_makes_members_of_all_who_are_in_it():
    assert tenant_of(a_world(LANGUAGE, VISION), "eve", ["users", "lab"], None) == "vision"


def test_who_is_in_none_is_in_the_default_one():
    world = a_world(VISION, Tenant(name="default", max_gpus=1))

    assert tenant_of(world, "eve", [], None) == "default"
    assert tenant_of(world, "eve", [], "default") == "default"


@pytest.mark.parametrize(
    ("user", "asked", "code", "hint"),
    [
        ("eve", "vision", "not_permitted", "eve is in none; leave --tenant out"),
        ("bob", "vision", "not_permitted", "bob is in language"),
        ("bob", "default", "not_permitted", "bob is in language"),
        ("bob", "visoin", "no_such_tenant", "there are: language, vision; see gpuctl tenant list"),
    ],
)
def test_nobody_chooses_a_tenant_they_are_not_in(user, asked, code, hint):
    with pytest.raises(Wrong) as wrong:
        tenant_of(a_world(VISION, LANGUAGE), user, [], asked)

    assert (wrong.value.code, wrong.value.hint) == (code, hint)


def test_an_operator_chooses_any_that_exists():
    world = a_world(VISION)

    assert tenant_of(world, "root", [], "vision", operator=True) == "vision"
    with pytest.raises(Wrong, match="no tenant"):
        tenant_of(world, "root", [], "visoin", operator=True)


def test_a_job_in_a_pool_gets_the_pools_time_limit_where_it_named_none():
    world = a_world(pools=(Pool(name="debug", gpus=("0",), max_time_s=1800.0), Pool(name="free", gpus=("1",))))

    def limit_of(pool, **fields):
        message = {"demand": {"gpus": 1, **({"pool": pool} if pool else {})}, **fields}
        fill_in(world, message)
        return message.get("time_limit_s")

    assert limit_of("debug") == 1800.0
    assert limit_of("debug", time_limit_s=60.0) == 60.0
    assert limit_of("free") is limit_of(None) is None
