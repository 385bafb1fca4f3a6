"""Traces of jobs: CSV as published ones are here, and the Standard Workload Format.

CSV columns: `submit_s`, `duration_s`, `gpus` (0.46: that part of one GPU; 0: CPUs only) must be there; `gpu_mem_gb`
(that each GPU has at least), `cpus`, `mem_gb` (of the host), `user`, `tenant`, `name`, `gpu_type` (`A|B`: either),
`estimate_s`, `time_limit_s` and `priority` may be; blank is unknown, and any other column is left alone. SWF is what
the Parallel Workloads Archive keeps (cs.huji.ac.il/labs/parallel/workload/swf.html): a processor stands for a GPU, the
requested time for the user's estimate, group for tenant, executable for the job's name. In a CSV file columns may be in
capitals, and tabs or semicolons between them, as spreadsheets write it.

Either may be packed (`.csv.gz`, `.swf.gz`). A simulated machine's CPUs are counted in thousandths, because traces are.
"""

import csv
import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import nan
from pathlib import Path
from typing import TextIO

from gpud.model.job import Demand
from gpud.model.spec import Terms
from gpud.model.tenant import Tenant
from gpud.model.units import Mib, Seconds

MILLI = 1000  # thousandths of a CPU, or of a GPU
_NEEDED = ("submit_s", "duration_s", "gpus")
_TERMS_OF = ("gpus", "gpu_mem_gb", "cpus", "mem_gb", "user", "tenant", "name", "gpu_type", "estimate_s", "time_limit_s")
_GPUS = "a number of GPUs"
_DIGITS = re.compile(r"\d+")
_SWF_FIELDS = (
    *("job number", "submit time", "wait time", "run time", "allocated processors", "CPU time", "used memory"),
    *("requested processors", "requested time", "requested memory", "status", "user", "group", "executable", "queue"),
    *("partition", "preceding job", "think time"),
)
_SWF_WHOLE = frozenset({"allocated processors", "requested processors", "user", "group", "executable"})
_LARGEST = 1e15


class TraceError(Exception):
    """A file that is no trace, or no cluster: where in it, and what was expected."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job: when it comes, what it says of itself, and (None: the trace does not say) how long it will run.

    `line` is where it stands in its file, 0 for one that stands in none.
    """

    submit_s: Seconds
    duration_s: Seconds | None
    terms: Terms
    priority: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs in the order in which they come. `skipped` counts those that never ran, and say nothing of a schedule.

    `rounded` counts those that span nodes with more GPUs than it says, see `spread_over`; `tenants` have the shares
    that they have where the jobs ran.
    """

    name: str
    jobs: list[TraceJob] = field(default_factory=list)
    skipped: int = 0
    rounded: int = 0
    tenants: tuple[Tenant, ...] = ()


def read_trace(path: str, *, per_node: int) -> Trace:
    """Return the trace in a file; a job with more GPUs than `per_node` spans nodes. Raises TraceError."""
    place = Path(path)
    try:
        with opened(place) as lines:
            kinds = [suffix.lower() for suffix in place.suffixes]
            trace = _swf(place, lines, per_node) if ".swf" in kinds else _csv(place, lines, per_node)
    except (OSError, EOFError) as error:
        raise TraceError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except csv.Error as error:
        raise TraceError(f"{place.name} is no CSV: {error}") from error
    if not trace.jobs:
        raise TraceError(f"{place.name} holds no job")
    trace.jobs.sort(key=lambda job: job.submit_s)
    return trace


def check_lengths(trace: Trace) -> None:
    """Raise TraceError, with the first line of the file, where jobs do not say how long they run."""
    lines = [job.line for job in trace.jobs if job.duration_s is None]
    if lines:
        raise TraceError(
            f"{trace.name}, line {min(lines)}, column duration_s: nothing, expected seconds",
            "a trace without times can be packed: --saturate",
        )


def opened(place: Path) -> TextIO:
    """Return a file's text, unpacked where it ends in .gz."""
    if place.suffix.lower() == ".gz":
        return gzip.open(place, "rt", newline="", encoding="utf-8-sig", errors="replace")
    return place.open(newline="", encoding="utf-8-sig", errors="replace")


def rows(place: Path, lines: Iterable[str], needed: tuple[str, ...]) -> Iterator["Row"]:
    """Yield the rows of a CSV file with a header. Raises TraceError where a needed column is missing."""
    text = iter(lines)
    above, first = next(((number, line) for number, line in enumerate(text) if line.strip(" ,;\t\r\n")), (0, ""))
    reader = csv.reader(chain([first], text), delimiter=max(",\t;", key=first.count))
    header = [name.strip().lower() for name in next(reader, [])]
    if not all(name.isprintable() and "\N{REPLACEMENT CHARACTER}" not in name for name in header):
        raise TraceError(f"{place.name} is not text", f"expected a CSV file with {','.join(needed)},...")
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise TraceError(f"{place.name}, line {above + 1}: the column {twice} stands there twice")
    missing = [name for name in needed if name not in header]
    if missing:
        have = ",".join(header[:8])[:80] or "nothing"
        raise TraceError(
            f"{place.name}, line {above + 1}: no column {missing[0]}", f"expected {','.join(needed)},... found {have}"
        )
    for values in reader:
        if not any(map(str.strip, values)):
            continue  # empty, or spaces and commas, as spreadsheets leave behind the last
        line = above + reader.line_num
        if len(values) != len(header):
            raise TraceError(
                f"{place.name}, line {line}: {len(values)} columns, expected {len(header)} as in its header"
            )
        yield Row(place, line, dict(zip(header, values, strict=True)))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a file, by the names of its columns, and what can be said of it where it is wrong."""

    place: Path
    line: int
    values: Mapping[str, str]

    def text(self, column: str) -> str:
        """Return what stands there; "" where nothing does."""
        return self.values.get(column, "").strip()

    def number(self, column: str, what: str, *, least: float = 0.0) -> float | None:
        """Return a number, None where none stands. Raises TraceError for anything else, and one that is too small."""
        text = self.text(column)
        if not text:
            return None
        value = _number(text)
        if not least <= value <= _LARGEST:
            bound = f", {_LARGEST:g} at most" if value > _LARGEST else f" of {least:g} or more" if least >= 0 else ""
            raise self.wrong(column, f"{what}{bound}")
        return value

    def needed(self, column: str, what: str, *, least: float = 0.0) -> float:
        """Return a number that must be there."""
        value = self.number(column, what, least=least)
        if value is None:
            raise self.wrong(column, what)
        return value

    def wrong(self, column: str, expected: str) -> TraceError:
        """Return what is wrong in one of its columns."""
        text = self.text(column)
        found = repr(text[:40]) if text else "nothing"
        return TraceError(f"{self.place.name}, line {self.line}, column {column}: {found}, expected {expected}")


def _number(text: str) -> float:
    """Return a number, NaN for what is none: also 1_000, and digits of other scripts, which Python would take."""
    try:
        return float(text) if text.isascii() and "_" not in text else nan
    except ValueError:
        return nan


def _csv(place: Path, lines: Iterable[str], per_node: int) -> Trace:
    jobs: list[TraceJob] = []
    rounded = 0
    known: dict[tuple[str, ...], Terms] = {}
    demands: dict[Demand, Demand] = {}  # each only once: what is looked up by the very same is found at once
    alike: dict[Terms, Terms] = {}
    uids: dict[str, int] = {}
    for row in rows(place, lines, _NEEDED):
        key = tuple([row.values.get(column, "") for column in _TERMS_OF])
        terms = known.get(key)
        if terms is None:
            demand = _demand(row, per_node)
            terms = _terms(row, demands.setdefault(demand, demand), uids)
            terms = known[key] = alike.setdefault(terms, terms)
        if terms.demand.nodes > 1:
            rounded += terms.demand.gpus != row.needed("gpus", _GPUS)
        submit_s = row.needed("submit_s", "seconds since the trace began", least=-_LARGEST)
        priority = row.number("priority", "a whole number", least=-_LARGEST) or 0
        if priority != int(priority):
            raise row.wrong("priority", "a whole number")
        jobs.append(TraceJob(submit_s, row.number("duration_s", "seconds"), terms, int(priority), row.line))
    return Trace(place.name, jobs, rounded=rounded)


def _terms(row: Row, demand: Demand, uids: dict[str, int]) -> Terms:
    user, name = row.text("user") or "nobody", row.text("name")
    return Terms(
        demand=demand,
        uid=uids.setdefault(user, 1000 + len(uids)),
        user=user,
        tenant=row.text("tenant") or "default",
        name_group=_DIGITS.sub("#", name),
        estimate_s=row.number("estimate_s", "seconds", least=1e-9),
        time_limit_s=row.number("time_limit_s", "seconds", least=1e-9),
    )


def _demand(row: Row, per_node: int) -> Demand:
    asked = row.needed("gpus", _GPUS)
    part = 0 < asked < 1
    if not part and asked != int(asked):
        raise row.wrong("gpus", "whole GPUs, or a part of one (0.5)")
    cpus = row.number("cpus", "a number of CPUs")
    nodes, gpus = spread_over(1 if part else int(asked), per_node)
    return Demand(
        gpus=gpus,
        nodes=nodes,
        share_permille=max(1, round(asked * MILLI)) if part else None,
        gpu_memory_mib=_mib(row.number("gpu_mem_gb", "GiB")),
        gpu_type=row.text("gpu_type") or None,
        cpus=round(MILLI * cpus) if cpus else 0 if gpus else MILLI,
        memory_mib=_mib(row.number("mem_gb", "GiB")) or Mib(0),
    )


def _mib(gib: float | None) -> Mib | None:
    return Mib(max(1, round(gib * 1024))) if gib else None


def spread_over(gpus: int, per_node: int) -> tuple[int, int]:
    """Return the fewest nodes with `per_node` GPUs each that hold a job, and its GPUs: the same number on each.

    A number that cannot be the same on each is rounded up. (To spread 11 over as many nodes as divide it evenly would
    take 11 of them, and the job would fit nowhere.)
    """
    if gpus <= per_node or not per_node:
        return 1, gpus
    nodes = -(-gpus // per_node)
    return nodes, -(-gpus // nodes) * nodes


def _swf(place: Path, lines: Iterable[str], per_node: int) -> Trace:
    jobs: list[TraceJob] = []
    skipped = rounded = 0
    known: dict[tuple[float, ...], Terms] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith(";"):
            continue
        said = _swf_fields(place, number, words)
        asked = int(said[7] if said[7] > 0 else said[4])
        if said[3] < 0 or asked <= 0:
            skipped += 1  # cancelled before it started
            continue
        nodes, gpus = spread_over(asked, per_node)
        rounded += gpus != asked
        key = (gpus, said[8], said[11], said[12], said[13])
        terms = known.get(key)
        if terms is None:
            terms = known[key] = Terms(
                demand=Demand(gpus=gpus, nodes=nodes),
                uid=1000 + max(0, int(said[11])),
                user=_swf_name("user", said[11]),
                tenant=_swf_name("group", said[12]),
                name_group=_swf_name("program", said[13]),
                estimate_s=said[8] if said[8] > 0 else None,
            )
        jobs.append(TraceJob(said[1], said[3], terms, line=number))
    return Trace(place.name, jobs, skipped, rounded)


def _swf_fields(place: Path, number: int, words: list[str]) -> list[float]:
    if len(words) != len(_SWF_FIELDS):
        raise TraceError(f"{place.name}, line {number}: {len(words)} fields, expected the {len(_SWF_FIELDS)} of SWF")
    said = [_number(word) for word in words]
    for name, value in zip(_SWF_FIELDS, said, strict=True):
        whole = name in _SWF_WHOLE
        if not -_LARGEST <= value <= _LARGEST or (whole and value != int(value)):
            column = _SWF_FIELDS.index(name)
            expected = f"a {'whole ' * whole}number" + f", {_LARGEST:g} at most" * (value > _LARGEST)
            raise TraceError(
                f"{place.name}, line {number}, field {column + 1} ({name}): {words[column][:40]!r}, expected {expected}"
            )
    return said


def _swf_name(what: str, number: float) -> str:
    return f"{what}{int(number)}" if number >= 0 else "nobody" if what == "user" else "default"
