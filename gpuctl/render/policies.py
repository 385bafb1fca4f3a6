"""Policies for people."""

from typing import Any

from gpuctl.render.text import Column, table
from gpud.model.units import format_duration

Map = dict[str, Any]

_POLICY = (Column("POLICY"), Column("WHO GOES FIRST", elastic=True))
_PARAMETER = (Column("PARAMETER"), Column("VALUE", right=True), Column("WHAT IT IS", elastic=True))


def lines(found: Map) -> list[str]:
    """Return the policy in force with its parameters, then the others."""
    now = next(each for each in found["policies"] if each["name"] == found["policy"])
    others = [each for each in found["policies"] if each is not now]
    shown = [f"{now['name']}: {now['says']}"]
    if now["parameters"]:
        shown += ["", *table(_PARAMETER, [_parameter(each) for each in now["parameters"]])]
    return [
        *shown,
        "",
        "Others (gpuctl policy NAME):",
        *table(_POLICY, [(each["name"], each["says"]) for each in others]),
    ]


def _parameter(parameter: Map) -> tuple[str, ...]:
    value, default = _written(parameter, "value"), _written(parameter, "default")
    said = parameter["says"] + ("" if value == default else f" ({default} by default)")
    return parameter["name"], value, said


def _written(parameter: Map, key: str) -> str:
    value: float = parameter[key]
    return format_duration(value) if parameter["kind"] == "duration" else f"{value:g}"
