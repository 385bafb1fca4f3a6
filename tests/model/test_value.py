"""Values: equal ones are found under each other's key, however they were made."""

from copy import copy
from dataclasses import fields, replace

import pytest

from gpud.model.job import Demand
from gpud.model.spec import Terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Demand(gpus=2, gpu_type="A100"), {"gpu_type": "H100"}),
        (Terms(demand=Demand(gpus=2), uid=7, user="ada", tenant="lab"), {"user": "eve"}),
    ],
    ids=["demand", "terms"],
)
def test_what_is_equal_is_one_key_and_what_was_changed_in_a_copy_another(one, other):
    found = {one: "it"}  # its hash is worked out by now
    made = type(one)(**{each.name: getattr(one, each.name) for each in fields(one)})
    assert found[made] == found[copy(one)] == found[replace(one)] == "it"
    changed = replace(one, **other)
    assert changed not in found
    assert changed != one
    assert replace(changed, **{name: getattr(one, name) for name in other}) in found
