"""Use of GPUs for people, a bar for each line, and as CSV."""

import csv
import io
import sys
from typing import Any

from gpuctl.render.text import Column, clock, energy, plural, table
from gpud.model.units import format_duration

Map = dict[str, Any]

_KEYS = (
    *("name", "gpu", "gpu_s", "measured_gpu_s", "utilization", "idle_gpu_s", "foreign_gpu_s", "energy_j", "ended"),
    *("wait_s", "cost"),
)
_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLUMNS = (
    Column("GPU-HOURS", right=True),
    Column("", spare=True),
    Column("OF ALL", right=True, spare=True),
    Column("BUSY", right=True),
    Column("IDLE", right=True),
    Column("FOREIGN", right=True),
    Column("ENERGY", right=True, spare=True),
    Column("ATTEMPTS", right=True),
    Column("WAIT", right=True),
    Column("COST", right=True),
)


def lines(found: Map, *, bars: bool | None = None) -> list[str]:
    """Return the table; `bars` None: where stdout is a terminal that can show them."""
    bars = _can_show_bars() if bars is None else bars
    rows, most = found["rows"], max((row["gpu_s"] for row in found["rows"]), default=0.0)
    span_s = max(1.0, found["until_at"] - found["since_at"])
    about = f"since {clock(found['since_at'])} ({format_duration(span_s)}), {plural(found['gpus'], 'GPU')}"
    if not rows:
        return [f"{about}: nothing was used"]
    columns = (Column(found["by"].upper(), elastic=True), Column("MODEL", elastic=True, spare=True), *_COLUMNS)
    there_s = found.get("there_gpu_s", span_s * found["gpus"])
    return [about, "", *table(columns, [_row(row, most if bars else 0.0, there_s) for row in rows])]


def _row(row: Map, most: float, there_s: float) -> tuple[str, ...]:
    utilization, foreign_s, energy_j, cost = (row[key] for key in ("utilization", "foreign_gpu_s", "energy_j", "cost"))
    return (
        row["name"] or "-",
        row["gpu"] or "",
        f"{row['gpu_s'] / 3600:.2f}",
        _bar(row["gpu_s"] / most) if most else "",
        f"{100 * row['gpu_s'] / there_s:.0f}%" if there_s else "",
        "-" if utilization is None else f"{100 * utilization:.0f}%",
        f"{row['idle_gpu_s'] / 3600:.2f}" if row["measured_gpu_s"] else "-",
        "" if not foreign_s else f"{foreign_s / 3600:.2f}",
        "" if energy_j is None else energy(energy_j),
        str(row["ended"]),
        "-" if row["wait_s"] is None else format_duration(row["wait_s"]),
        "" if cost is None else f"{cost:.2f}",
    )


def _bar(part: float) -> str:
    """Return a bar as long as a part of the longest, to an eighth of a cell."""
    eighths = round(part * _BAR * 8)
    return (_EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _can_show_bars() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or ""
    return sys.stdout.isatty() and "utf" in encoding.lower()


def csv_lines(found: Map) -> list[str]:
    """Return a heading and a line each, with what is not known left empty."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow((found["by"], *(key if key != "gpu" else "model" for key in _KEYS[1:])))
    writer.writerows([_plain(row[key]) for key in _KEYS] for row in found["rows"])
    return written.getvalue().removesuffix("\n").split("\n")  # splitlines ends more, and a name may hold them


def _plain(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
