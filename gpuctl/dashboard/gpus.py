"""The GPUs: a line each while there is room, then side by side, then a few cells each; never silently fewer."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuctl.dashboard.gauges import Glyphs, bar
from gpuctl.dashboard.paint import Line, beside, cell, length, restyled, style_of
from gpuctl.dashboard.source import Map, Seen
from gpuctl.render.gpus import short_name, strangers, summary
from gpuctl.render.text import cell_len

_HOT_C, _TOO_HOT_C = 80, 90
_COOL_C = 30  # where the bar of a temperature begins
_POWER_W = 700  # what the bar of a power is of where the limit is not known: an H100's
_ON_IT = "WHAT IS ON IT"
_TOLD = 20  # cells that are left for what is on it
_SMALL = 30  # cells of a GPU that has to share its line


@dataclass(frozen=True, slots=True)
class _Layout:
    """How many cells each part of a line gets."""

    name: int = 0
    state: int = 0
    bar: int = 0
    spark: int = 0
    small: int = 0  # bars of temperature and power
    small_spark: int = 0
    numbers: bool = True


_LAYOUTS = (
    _Layout(name=24, state=10, bar=16, spark=30, small=8, small_spark=12),
    _Layout(name=18, state=10, bar=12, spark=16, small=6, small_spark=6),
    _Layout(name=16, state=10, bar=10, spark=12),
    _Layout(name=14, bar=8, spark=10),
    _Layout(name=8, bar=5, spark=6),
    _Layout(bar=5, spark=6),
    _Layout(bar=5),
    _Layout(bar=4, numbers=False),
)


@dataclass(frozen=True, slots=True)
class Canvas:
    """What lines are made for: a width in cells, a moment, and what gauges are drawn with."""

    width: int
    now: float
    glyphs: Glyphs


def pane(seen: Seen, canvas: Canvas, room: int) -> list[Line]:
    """Return at most `room` lines: a heading where there is room for one, and every GPU as large as may be."""
    gpus = seen.gpus
    if not gpus or room <= 0:
        return [[("no GPUs", "yellow")]][:room]
    jobs = {job["id"]: _whose(job, seen) for job in seen.active}
    number = max(len(_number(gpu, gpus)) for gpu in gpus)
    rows = room - 1
    across = next((n for n in range(1, max(1, canvas.width // 78) + 1) if -(-len(gpus) // n) <= rows), 0)
    if across and len(gpus) > 1 and canvas.width // (across + 1) >= 160 and rows < 2 * len(gpus):
        across += 1
    if across:
        width = (canvas.width - 2 * (across - 1)) // across
        layout = _layout(width, number)
        part = Canvas(width, canvas.now, canvas.glyphs)
        lines = [_line(gpu, gpus, seen, jobs, part, layout, number) for gpu in gpus]
        columns = _columns(lines, across)
        heading = [_heading(layout, number) for _ in columns]
        return beside([[head, *column] for head, column in zip(heading, columns, strict=True)], width)
    across = max(1, canvas.width // _SMALL)
    width = (canvas.width - 2 * (across - 1)) // across
    shown = gpus if -(-len(gpus) // across) <= room else gpus[: max(1, room - 1) * across]
    small = [_small(gpu, gpus, jobs, canvas, width, number) for gpu in shown]
    lines = beside(_columns(small, across), width)
    return lines if len(shown) == len(gpus) else [*lines, [(f"... of {summary(gpus)}", "dim")]][:room]


def of_job(seen: Seen, canvas: Canvas, job: str, room: int) -> list[Line]:
    """Return the lines of the GPUs that a job has, where there is room for all of them."""
    gpus = [gpu for gpu in seen.gpus if job in (gpu["jobs"] or ())]
    if not gpus or len(gpus) > room:
        return []
    number = max(len(_number(gpu, seen.gpus)) for gpu in gpus)
    layout = _layout(canvas.width, number)
    return [_line(gpu, seen.gpus, seen, {}, canvas, layout, number) for gpu in gpus]


def _columns(lines: list[Line], across: int) -> list[list[Line]]:
    rows = -(-len(lines) // across)
    return [lines[at : at + rows] for at in range(0, len(lines), rows)]


def _number(gpu: Map, gpus: Sequence[Map]) -> str:
    index = "-" if gpu["index"] is None else str(gpu["index"])
    return f"{gpu['node']}:{index}" if len({each["node"] for each in gpus}) > 1 else index


def _name(gpu: Map) -> str:
    return short_name(gpu)


def _whole_words(text: str, size: int) -> str:
    """Return as many words of a text as have room; of a first one that has none, its beginning."""
    while cell_len(text) > size and " " in text:
        text = text.rpartition(" ")[0]
    return text


def _heading(layout: _Layout, number: int) -> Line:
    memory, spark = layout.bar + 1 + 10 + _gap(layout.small and layout.spark), _gap(layout.spark)
    words = [
        cell("GPU", max(3, number)),
        *([cell("NAME", layout.name)] if layout.name else []),
        *([cell("STATE", layout.state)] if layout.state else []),
        cell("MEMORY", memory),
        cell("UTIL", layout.bar + 1 + 4 + spark if layout.numbers else layout.bar),
        *([cell("TEMP", 4 + _gap(layout.small) + _gap(layout.small_spark))] if layout.numbers else []),
        *([cell("POWER", 5 + _gap(layout.small) + _gap(layout.small_spark))] if layout.numbers else []),
        _ON_IT,
    ]
    return [(" ".join(words), "bold")]


def _layout(width: int, number: int) -> _Layout:
    """Return the largest layout that leaves room for what is on a GPU."""
    fits = (each for each in _LAYOUTS if length(_heading(each, number)) - len(_ON_IT) + min(_TOLD, width // 4) <= width)
    return next(fits, _LAYOUTS[-1])


def _gap(size: int) -> int:
    return size + 1 if size else 0


def _line(
    gpu: Map, gpus: Sequence[Map], seen: Seen, jobs: dict[str, str], canvas: Canvas, layout: _Layout, number: int
) -> Line:
    style, glyphs = style_of(gpu["state"]), canvas.glyphs

    def spark(key: str, most: float, size: int) -> list[tuple[str, str]]:
        return [(" " + seen.history(gpu, key).spark(size, most, canvas.now, glyphs), "dim")] if size else []

    total, used, busy = gpu["memory_total_mib"], gpu["memory_used_mib"], gpu["utilization_percent"]
    line: Line = [(cell(_number(gpu, gpus), max(3, number)), "bold"), (" ", "")]
    line += [(cell(_whole_words(_name(gpu), layout.name), layout.name) + " ", "")] if layout.name else []
    line += [(cell(gpu["state"], layout.state) + " ", style)] if layout.state else []
    line += [(bar(_share(used, total), layout.bar, glyphs), "cyan"), (" " + cell(_memory(gpu), 10), "")]
    line += spark("memory_used_mib", total or 1, layout.small and layout.spark)
    line += [(" ", ""), (bar(_share(busy, 100), layout.bar, glyphs), "green")]
    if layout.numbers:
        line += [(" " + cell(_unit(busy, "%"), 4, right=True), "")]
        line += spark("utilization_percent", 100, layout.spark)
        line += _temperature(gpu, glyphs, layout) + spark("temperature_c", _TOO_HOT_C, layout.small_spark)
        line += _power(gpu, glyphs, layout) + spark("power_w", _most_power(gpu), layout.small_spark)
    return [*line, (" ", ""), *on_it(gpu, jobs)]


def _small(gpu: Map, gpus: Sequence[Map], jobs: dict[str, str], canvas: Canvas, width: int, number: int) -> Line:
    memory = bar(_share(gpu["memory_used_mib"], gpu["memory_total_mib"]), 5, canvas.glyphs)
    line: Line = [(cell(_number(gpu, gpus), number, right=True) + " ", "bold"), (memory + " ", "cyan")]
    line += [(cell(_unit(gpu["utilization_percent"], "%"), 4, right=True) + " ", _heat(gpu["temperature_c"]))]
    del width
    return line + on_it(gpu, jobs)


def _temperature(gpu: Map, glyphs: Glyphs, layout: _Layout) -> Line:
    now_c = gpu["temperature_c"]
    share = None if now_c is None else (now_c - _COOL_C) / (_TOO_HOT_C - _COOL_C)
    drawn = f" {bar(share, layout.small, glyphs)}" if layout.small else ""
    return [(drawn + " " + cell(_unit(now_c, "C"), 4, right=True), _heat(now_c))]


def _power(gpu: Map, glyphs: Glyphs, layout: _Layout) -> Line:
    drawn = f" {bar(_share(gpu['power_w'], _most_power(gpu)), layout.small, glyphs)}" if layout.small else ""
    return [(drawn + " " + cell(_unit(gpu["power_w"], "W"), 5, right=True), "")]


def _most_power(gpu: Map) -> float:
    return float(gpu.get("power_limit_w") or _POWER_W)


def _heat(now_c: float | None) -> str:
    if now_c is None or now_c < _HOT_C:
        return ""
    return "red bold" if now_c >= _TOO_HOT_C else "yellow"


def on_it(gpu: Map, jobs: dict[str, str]) -> Line:
    """Return who has a GPU: jobs in the words of `jobs`, strangers, and what keeps others from it."""
    line: Line = []
    for id_ in gpu["jobs"] or ():
        line += [(", " if line else "", ""), (jobs.get(id_, id_), "")]
    state, reason = gpu["state"], gpu["health_reason"]
    others = strangers(gpu)
    if state == "foreign" or (others and (line or not reason)):
        whose = others or reason or "in use"
        line += [("; " if line else "", ""), (f"foreign: {whose.removeprefix('used by ')}", "magenta bold")]
    elif reason:
        words = reason if line else f"{state}: {reason}"
        line += [("; " if line else "", ""), (words, "red" if state in ("lost", "unhealthy", "unknown") else "yellow")]
    elif not line:
        line.append((state, style_of(state) or "dim"))
    return line + [(f"; for {whose}", "dim") for whose in gpu.get("kept_for") or ()]


def _whose(job: Map, seen: Seen) -> str:
    """Return a job with its user, where there are several."""
    several = any(each["user"] != job["user"] for each in (*seen.active, *seen.waiting))
    state = "" if job["state"] == "running" else f" ({job['state']})"
    return f"{job['id']} {job['user']} {job['name']}{state}" if several else f"{job['id']} {job['name']}{state}"


def _share(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else value / of


def _memory(gpu: Map) -> str:
    used, total = gpu["memory_used_mib"], gpu["memory_total_mib"]
    shown = "-" if used is None else f"{used / 1024:.1f}" if used < 99.95 * 1024 else f"{used / 1024:.0f}"
    return f"{shown}/{'-' if total is None else f'{total / 1024:.0f}G'}"


def _unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{round(value)}{unit}"


def dimmed(lines: list[Line]) -> list[Line]:
    """Return lines of which nothing is known to be so any more."""
    return [restyled(line, "dim") for line in lines]
