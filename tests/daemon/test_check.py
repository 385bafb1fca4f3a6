import re
from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from gpud.wire.check import Wrong, check
from gpud.wire.messages import REQUESTS
from gpud.wire.submission import Submit

SUBMIT = {
    "op": "submit",
    "id": 1,
    "nonce": "n",
    "demand": {"gpus": 1},
    "command": ["true"],
    "workdir": "/",
    "environment": {"PATH": "/bin"},
    "umask": 0o22,
    "limits": {"NOFILE": [1024, -1]},
}


def test_a_request_that_is_what_its_type_says_passes():
    check(Submit, {**SUBMIT, "time_limit_s": 3, "script": b"#!/bin/sh\n", "labels": {"a": "b"}, "hold": True})


@pytest.mark.parametrize(
    ("change", "complaint", "hint"),
    [
        ({"prioritty": 1}, "unknown key 'prioritty'", "did you mean 'priority'?"),
        ({b"\xff": 1}, r"unknown key b'\xff'", None),
        ({"priority": True}, "priority must be a whole number, not true or false", None),
        ({"priority": 1.0}, "priority must be a whole number, not a number", None),
        ({"priority": 2**63}, "priority is too large a number", None),
        ({"time_limit_s": "1h"}, "time_limit_s must be a number, not text", None),
        ({"time_limit_s": float("nan")}, "time_limit_s must be a number, not nan", None),
        ({"time_limit_s": float("inf")}, "time_limit_s must be a number, not inf", None),
        ({"begin_at": 1e300}, "begin_at is too large a number: 1e+300", None),
        ({"begin_at": -(2**60)}, "begin_at is too large a number", None),
        ({"command": "true"}, "command must be a list, not text", None),
        ({"command": ["a", 1]}, "command[1] must be text, not a whole number", None),
        ({"environment": {"A": None}}, "environment.A must be text, not null", None),
        ({"environment": {b"A": ""}}, "every key of environment must be text", None),
        ({"limits": {"NOFILE": [1, "2"]}}, "limits.NOFILE[1] must be a whole number, not text", None),
        ({"demand": {"gpus": 1, "gpu_typ": ""}}, "unknown key 'demand.gpu_typ'", "did you mean 'gpu_type'?"),
        ({"demand": {}}, "missing: 'demand.gpus'", None),
        ({"demand": []}, "demand must be a map, not a list", None),
        ({"op": "cancel"}, "op must be one of submit; not 'cancel'", None),
        ({"op": []}, "op must be one of submit; not a list", None),
    ],
)
def test_what_is_wrong_is_named(change, complaint, hint):
    with pytest.raises(Wrong, match=re.escape(complaint)) as wrong:
        check(Submit, {**SUBMIT, **change})

    assert (wrong.value.code, wrong.value.hint) == ("usage", hint)


@pytest.mark.parametrize("missing", sorted(SUBMIT))
def test_what_is_missing_is_named(missing):
    with pytest.raises(Wrong, match=f"missing: '{missing}'"):
        check(Submit, {key: value for key, value in SUBMIT.items() if key != missing})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.binary(), inner, max_size=3),
)


@given(st.sampled_from(sorted(REQUESTS)), st.data())
def test_no_value_in_any_place_of_any_request_raises_anything_but_wrong(op, data):
    keys = st.sampled_from(sorted(REQUESTS[op].__annotations__)) | st.text(max_size=3) | st.binary(max_size=3)
    message = data.draw(st.dictionaries(keys, plain))
    try:
        check(REQUESTS[op], message)
    except Wrong:
        return
    assert isinstance(message, Mapping)
    assert REQUESTS[op].__required_keys__ <= message.keys()
