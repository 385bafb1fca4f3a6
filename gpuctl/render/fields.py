"""What can be shown of a job, a GPU or a node: the columns that `--columns` names, and the keys of `--format`.

A column is for people: its words are those of the tables. A key is of the JSON document, and its value is what stands
there; a list or a map is written as JSON, and what is not known as `-`, so that a line has always as many words.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gpuctl.errors import UsageError
from gpuctl.render import gpus as of_gpus, jobs as of_jobs
from gpuctl.render.plain import plain
from gpuctl.render.text import Column, clean, clock, colored, in_words, size, table
from gpud.model.units import format_duration

Item = dict[str, Any]

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\0": "\0", "\\\\": "\\"}
_NUMBERS = re.compile(r"(\d+)")


class Field(NamedTuple):
    """A column that can be asked for by name: what it is called above the table, and what it says of an item."""

    column: Column
    text: Callable[[Item, float], str]


def _said(heading: str, key: str, *, right: bool = False, elastic: bool = False) -> Field:
    """Return the column that says what a key holds."""
    return Field(Column(heading, right=right, elastic=elastic), lambda item, _: _word(item.get(key)))


def _moment(heading: str, key: str) -> Field:
    return Field(Column(heading), lambda item, _: "" if item.get(key) is None else clock(item[key]))


def _span(heading: str, key: str) -> Field:
    return Field(Column(heading, right=True), lambda item, _: _time(item.get(key)))


def _amount(heading: str, key: str) -> Field:
    return Field(Column(heading, right=True), lambda item, _: "" if item.get(key) is None else size(item[key]))


def _measured(heading: str, key: str, unit: str) -> Field:
    def text(item: Item, _: float) -> str:
        return "-" if item.get(key) is None else f"{round(item[key])}{unit}"

    return Field(Column(heading, right=True), text)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


def _word(value: object) -> str:
    """Return a value in a table: a list by its words, a map as `K=V`, nothing for what is empty."""
    if value is None or value is False:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _waited(job: Item, now: float) -> str:
    """Return how long a job waited, or has waited so far, until it started."""
    until = job["started_at"] or job["ended_at"] or now
    return format_duration(max(0.0, until - job["submitted_at"]))


def _expected(job: Item, now: float) -> str:
    at = job.get("expected_start_at")
    return "" if at is None or job["started_at"] is not None else in_words(at, now)


def _exit(job: Item, _: float) -> str:
    if job.get("signal") is not None:
        return of_jobs.killed_by(job["signal"]).removeprefix("killed by ")
    return _word(job.get("exit_code"))


JOBS: Mapping[str, Field] = {
    "id": Field(of_jobs.ID, lambda job, _: of_jobs.written_id(job)),
    "host": _said("HOST", "host"),  # where several are asked
    "state": _said("STATE", "state"),
    "name": _said("NAME", "name", elastic=True),
    "user": _said("USER", "user", elastic=True),
    "tenant": _said("TENANT", "tenant", elastic=True),
    "group": _said("GROUP", "group", elastic=True),
    "key": _said("KEY", "key", elastic=True),
    "gpus": Field(Column("GPUS", right=True), lambda job, _: of_jobs.gpus_wanted(job)),
    "nodes": _said("NODES", "nodes", right=True),
    "gpu_memory": _amount("GPU MEMORY", "gpu_memory_mib"),
    "gpu_type": _said("GPU TYPE", "gpu_type", elastic=True),
    "cpus": _said("CPUS", "cpus", right=True),
    "memory": _amount("MEMORY", "memory_mib"),
    "priority": _said("PRIO", "priority", right=True),
    "time": Field(Column("TIME", right=True), of_jobs.time_of),
    "wait": Field(Column("WAITED", right=True), _waited),
    "limit": _span("LIMIT", "time_limit_s"),
    "estimate": _span("ESTIMATE", "estimate_s"),
    "submitted": _moment("SUBMITTED", "submitted_at"),
    "started": _moment("STARTED", "started_at"),
    "ended": _moment("ENDED", "ended_at"),
    "expected": Field(Column("EXPECTED"), _expected),
    "position": _said("PLACE", "queue_position", right=True),
    "where": Field(Column("WHERE", elastic=True), lambda job, _: of_jobs.where(job)),
    "why": Field(Column("WHERE OR WHY", elastic=True), of_jobs.where_or_why),
    "progress": Field(Column("PROGRESS"), lambda job, _: of_jobs.how_far(job)),
    "exit": Field(Column("EXIT", right=True), _exit),
    "attempt": _said("ATTEMPT", "attempt", right=True),
    "labels": _said("LABELS", "labels", elastic=True),
    "after": _said("AFTER", "after", elastic=True),
    "command": _said("COMMAND", "command", elastic=True),
    "workdir": _said("DIRECTORY", "workdir", elastic=True),
    "output": _said("OUTPUT", "output", elastic=True),
}

GPUS: Mapping[str, Field] = {
    "gpu": Field(Column("GPU"), lambda gpu, _: f"{gpu['node']}:{'-' if gpu['index'] is None else gpu['index']}"),
    "index": _said("INDEX", "index", right=True),
    "node": _said("NODE", "node"),
    "uuid": _said("UUID", "uuid"),
    "name": Field(Column("NAME", elastic=True), lambda gpu, _: of_gpus.short_name(gpu)),
    "state": _said("STATE", "state"),
    "memory": Field(
        Column("MEMORY", right=True), lambda gpu, _: f"{size(gpu['memory_used_mib'])}/{size(gpu['memory_total_mib'])}"
    ),
    "util": _measured("UTIL", "utilization_percent", "%"),
    "temp": _measured("TEMP", "temperature_c", "C"),
    "power": _measured("POWER", "power_w", "W"),
    "health": _said("HEALTH", "health"),
    "jobs": _said("JOBS", "jobs", elastic=True),
    "what": Field(Column("WHAT IS ON IT", elastic=True), lambda gpu, _: of_gpus.on_it(gpu)),
    "mig": _said("MIG", "mig"),
    "nvlink": _said("NVLINK", "nvlink"),
    "numa": _said("NUMA", "numa"),
    "bus": _said("BUS", "pci_id"),
}

NODES: Mapping[str, Field] = {
    "node": _said("NODE", "name"),
    "state": _said("STATE", "state"),
    "gpus": _said("GPUS", "gpus", right=True),
    "free": Field(Column("GPUS FREE", right=True), lambda node, _: str(node["gpus_free"])),
    "cpus": Field(Column("CPUS USED", right=True), lambda node, _: f"{node['cpus_used']}/{node['cpus']}"),
    "memory": Field(
        Column("MEMORY USED", right=True), lambda node, _: f"{size(node['memory_used_mib'])}/{size(node['memory_mib'])}"
    ),
    "driver": _said("DRIVER", "driver"),
    "labels": _said("LABELS", "labels", elastic=True),
    "why": _said("WHY", "reason", elastic=True),
}


def rows(
    fields: Mapping[str, Field], names: Sequence[str], items: Sequence[Item], *, now: float | None = None
) -> list[str]:
    """Return the table of these columns, empty ones too: who names a column wants it."""
    now = time.time() if now is None else now
    cells = [[fields[name].text(item, now) for name in names] for item in items]
    heading, *lines = table([fields[name].column for name in names], cells, sparse=False)
    return [heading, *(colored(line, str(item.get("state"))) for line, item in zip(lines, items, strict=True))]


def formatted(template: str, items: Sequence[Item], known: Iterable[str]) -> list[str]:
    """Return a line for each item: `{key}` is what its JSON says, `{{` a brace. Raises UsageError."""
    template = re.sub(r"\\[tn0\\]", lambda found: _ESCAPES[found[0]], template)
    keys = {*known, *(key for item in items for key in item)}
    for found in _PLACE.finditer(template):
        if found[0] in ("{", "}"):
            raise UsageError(
                f"--format {template!r}: a brace stands alone", hint="write {key} for a value, {{ for a brace"
            )
        if found[1] is not None and keys:
            check_key(found[1], keys, "--format")
    return [_filled(template, plain(item)) for item in items]


def check_key(key: str, keys: Iterable[str], option: str) -> None:
    """Raise UsageError, with the nearest ones, for a key that is none."""
    if key not in (known := set(keys)):
        from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

        close = get_close_matches(key, sorted(known), n=2)
        there = f"did you mean {' or '.join(close)}?" if close else f"there is: {', '.join(sorted(known))}"
        name, width = re.match(r"(\w*)([:!].*)?", key, re.DOTALL).groups()  # type: ignore[union-attr]  # it matches ""
        if width and name in known:
            there = f"a value stands as it is: {{{name}}}; in columns: --columns {name}, or pipe it into: column -t"
            raise UsageError(f"{option}: {width!r} is not understood in {{{key}}}", hint=there)
        raise UsageError(f"{option}: there is no {key!r}", hint=there)


def sorted_by(items: Sequence[Item], key: str) -> list[Item]:
    """Return the items in the order of a key, the other way round with a `-`; what has no value comes last."""
    name = key.removeprefix("-")
    there = [item for item in items if item.get(name) is not None]
    there.sort(key=lambda item: _order(item[name]), reverse=key.startswith("-"))
    return there + [item for item in items if item.get(name) is None]


def _order(value: Any) -> tuple[int, Any]:
    """Return what a value sorts by: numbers in words count as numbers, `12_7` comes before `12_10`."""
    if isinstance(value, (int, float)):
        return 0, value
    text = value if isinstance(value, str) else json.dumps(value)
    return 1, [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _NUMBERS.split(text) if part]


def _filled(template: str, item: Item) -> str:
    return _PLACE.sub(lambda found: found[0][0] if found[1] is None else _value(item.get(found[1])), template)


def _value(value: object) -> str:
    if value is None:
        return "-"
    return clean(value) if isinstance(value, str) else json.dumps(value)
