"""Numbers of the scheduler for people."""

from collections.abc import Sequence
from typing import Any

from gpuctl.render.jobs import demand
from gpuctl.render.text import Column, plural, table
from gpud.model.units import format_duration

Map = dict[str, Any]

_SECONDS = {"hour": 3_600, "day": 86_400, "week": 604_800}
_COUNTS = (Column("QUEUED", right=True), Column("RUNNING", right=True), Column("GPUS", right=True))
_LINE = (
    Column("JOBS", right=True),
    Column("FIRST"),
    Column("HAS WAITED", right=True),
    Column("USER", elastic=True),
    Column("TENANT", elastic=True, spare=True),
    Column("EACH NEEDS", elastic=True),
)
_PERIOD = (
    Column("LAST"),
    Column("STARTS", right=True),
    Column("A MINUTE", right=True, spare=True),
    Column("WAIT 50/90/99 %"),
    Column("TURNAROUND 50/90/99 %"),
    Column("GPUS USED", right=True),
    Column("PREEMPTED", right=True, spare=True),
)


def lines(found: Map) -> list[str]:
    """Return how the queue stands, who is in it, and how it went."""
    states = [f"{count} {state}" for state, count in found["jobs"].items() if count]
    shown = [f"jobs: {', '.join(states) or 'none'}"]
    for heading, key in (("USER", "users"), ("TENANT", "tenants")):
        if found[key]:
            shown += ["", *table((Column(heading, elastic=True), *_COUNTS), [_count(each) for each in found[key]])]
    if found["lines"]:
        several = len({each["tenant"] for each in found["lines"]}) > 1
        shown += ["", *table(_LINE, [_line(each, several) for each in found["lines"]])]
    if found["lines_more"]:
        shown.append(f"and {plural(found['lines_more'], 'shorter line')}")
    periods = {each["seconds"]: each for each in reversed(found["periods"])}  # equal ones are all that gpud knows of
    shown += ["", *table(_PERIOD, [_period(periods[seconds]) for seconds in sorted(periods)])]
    every = max(each["sampled_every"] for each in found["periods"])
    if every > 1:
        shown.append(f"waits and turnarounds: of one job in {every} or fewer")
    return [*shown, *_cycle(found["cycle"])]


def _count(each: Map) -> tuple[str, ...]:
    return each["name"], str(each["queued"]), str(each["running"]), f"{each['gpus']:g}"


def _line(each: Map, several_tenants: bool) -> tuple[str, ...]:
    return (
        str(each["jobs"]),
        each["head"],
        format_duration(each["head_waits_s"]),
        each["user"],
        each["tenant"] if several_tenants else "",
        demand(each),
    )


def _period(each: Map) -> tuple[str, ...]:
    utilization = each["utilization"]
    return (
        each["period"] if each["seconds"] >= _SECONDS[each["period"]] else format_duration(each["seconds"]),
        str(each["starts"]),
        f"{each['starts_per_minute']:.3g}",
        _percentiles(each["wait_s"]),
        _percentiles(each["turnaround_s"]),
        "" if utilization is None else f"{100 * utilization:.0f}%",
        f"{format_duration(each['lost_gpu_s'])} lost" if each["lost_gpu_s"] else "",
    )


def _percentiles(found: Map | None) -> str:
    return "-" if found is None else " ".join(format_duration(found[key]) for key in ("p50", "p90", "p99"))


def _cycle(cycle: Map | None) -> Sequence[str]:
    if cycle is None:
        return ()
    what = f"{plural(cycle['inputs'], 'input')}, {plural(cycle['starts'], 'start')}"
    return "", f"deciding: {cycle['ms']:.2g} ms the last time ({what}), {cycle['smoothed_ms']:.2g} ms on average"
