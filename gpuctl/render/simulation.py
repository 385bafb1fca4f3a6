"""What simulations came to, for people: a row for each figure, a column for each policy, a table for each trace."""

from collections.abc import Sequence
from typing import Any

from gpuctl.render.text import Column, table
from gpud.model.units import plural

_FIGURES = (
    ("avg_jct_s", "completion, average, s"),
    ("p50_jct_s", "completion, p50, s"),
    ("p90_jct_s", "completion, p90, s"),
    ("p99_jct_s", "completion, p99, s"),
    ("avg_wait_s", "wait, average, s"),
    ("p50_wait_s", "wait, p50, s"),
    ("p90_wait_s", "wait, p90, s"),
    ("p99_wait_s", "wait, p99, s"),
    ("max_wait_s", "wait, longest, s"),
    ("wait_by_gpus", ""),
    ("avg_slowdown", "slowdown, average"),
    ("makespan_s", "makespan, s"),
    ("utilization", "GPUs in use"),
    ("fragmentation", "GPUs idle while jobs wait"),
    ("preemptions", "preemptions"),
    ("lost_gpu_s", "lost to preemption, GPU-s"),
    ("fairness", "fairness (Jain)"),
    ("tenants", ""),
    ("jobs", "jobs"),
    ("refused", "refused: never fit"),
    ("unfinished", "not finished"),
    ("timed_out", "ended by their time limit"),
    ("wall_s", "simulated in, s"),
)
_HEADING = ("trace", "policy", "gpus")  # stand above every table
KEYS = (*_HEADING, *(key for key, _ in _FIGURES))
_PARTS = frozenset({"utilization", "fragmentation"})
_UNLESS_ZERO = frozenset({"refused", "unfinished", "timed_out"})
_TENANTS_MOST = 12


def tables(results: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return the lines of a table for each trace; `keys` are the figures wanted, all if there are none."""
    lines: list[str] = []
    for trace in dict.fromkeys(result["trace"] for result in results):
        mine = [result for result in results if result["trace"] == trace]
        lines += [""] if lines else []
        lines += table(_columns(trace, mine), [row for key, text in _FIGURES for row in _rows(key, text, mine, keys)])
    return lines


def packed(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of packing experiments."""
    columns = [Column("TRACE"), Column("PLACEMENT"), *(Column(name, right=True) for name in _PACKED)]
    rows = [
        [
            result["trace"],
            result["placement"],
            f"{result['gpu_allocation_percent']:.2f} %",
            f"{result['gpu_allocation_percent_sd']:.2f}",
            f"{result['gpu_allocation_percent_at_100']:.2f} %",
            str(result["seeds"]),
            f"{result['wall_s']:.1f} s",
        ]
        for result in results
    ]
    return table(columns, rows)


_PACKED = ("ALLOCATED", "SD", "AT 100 %", "SEEDS", "TOOK")


def _columns(trace: str, results: Sequence[dict[str, Any]]) -> list[Column]:
    gpus = plural(results[0]["gpus"], "GPU")
    return [Column(f"{trace}, {gpus}"), *(Column(result["policy"], right=True) for result in results)]


def _rows(key: str, text: str, results: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[str]]:
    if (keys and key not in keys) or (not keys and key in _UNLESS_ZERO and not any(result[key] for result in results)):
        return []
    if key == "wait_by_gpus":
        classes = dict.fromkeys(name for result in results for name in result[key])
        return [
            [
                f"wait, jobs of {name} GPU{'s' * (name != '1')}, s",
                *(_inside(result[key], name, "avg_s") for result in results),
            ]
            for name in classes
        ]
    if key == "tenants":
        names = dict.fromkeys(name for result in results for name in result[key])
        if len(names) < 2 or (len(names) > _TENANTS_MOST and key not in keys):
            return []
        return [
            [f"{name}: GPU time, wait, s", *(_tenant(result[key].get(name)) for result in results)] for name in names
        ]
    return [[text, *(_figure(key, result[key]) for result in results)]]


def _inside(group: dict[str, Any], name: str, key: str) -> str:
    return _figure(key, group[name][key]) if name in group else "-"


def _tenant(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    return f"{_figure('utilization', figures['gpu_share'])} {_figure('avg_wait_s', figures['avg_wait_s'])}"


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key in _PARTS:
        return f"{100 * value:.1f} %"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"
