"""What a job used, for people and as CSV."""

from collections.abc import Iterable
from typing import Any

from gpuctl.render.plain import plain
from gpuctl.render.text import energy
from gpud.model.units import format_duration, format_size

Map = dict[str, Any]

_ALIKE = 0.2  # GPUs that differ by less are told of together
_OF_JOB = ("id", "name", "user", "group", "state", "exit_code", "submitted_at", "started_at", "ended_at")
_COLUMNS = (
    *("attempt", "wait_s", "run_s", "cpu_s", "memory_peak_mib", "gpus", "gpu_memory_peak_mib"),
    *("gpu_memory_declared_mib", "utilization", "measured_s", "energy_j", "gpus_unused", "wasted"),
)


def facts(found: Map | None) -> list[tuple[str, str | None]]:
    """Return names and values for the page of a job."""
    if found is None:
        return []
    wait_s = found["wait_s"]
    return [
        ("waited", None if wait_s is None else format_duration(wait_s)),
        ("GPU use", _gpu_use(found)),
        ("wasted", found["wasted"]),
    ]


def _gpu_use(found: Map) -> str | None:
    peak, declared = found["gpu_memory_peak_mib"], found["gpu_memory_declared_mib"]
    words = [] if found["utilization"] is None else [f"busy {100 * found['utilization']:.0f} % on average"]
    if peak is not None:
        of = f" of {format_size(declared)} asked for" if declared else ""
        words.append(f"{format_size(peak)} of memory at most{of}")
    words += [] if found["energy_j"] is None else [energy(found["energy_j"])]
    partly = words and found["measured_s"] < 0.9 * found["run_s"] - 30
    words += [f"measured for {format_duration(found['measured_s'])} only"] if partly else []
    return ", ".join(words) or None


def by_gpu(found: Map | None) -> list[str]:
    """Return how busy each GPU was, a line each, where they differ."""
    used = [each for each in (found or {}).get("by_gpu", ()) if each["utilization"] is not None]
    shares = [each["utilization"] for each in used]
    if not used or max(shares) - min(shares) < _ALIKE:
        return []
    return [f"GPU {each['node']}:{each['gpu_index']}: busy {100 * each['utilization']:.0f} %" for each in used]


def csv_lines(jobs: Iterable[Map]) -> list[str]:
    """Return a heading and a line for each job and its `results`, with what is not known left empty."""
    import csv  # noqa: PLC0415 - every listing would pay for it
    import io  # noqa: PLC0415 - as above

    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow((*_OF_JOB, *_COLUMNS))
    for job in jobs:
        said = plain({key: job[key] for key in _OF_JOB})
        found = job.get("results") or {}  # an older gpud lists none
        values = [found.get(key) for key in _COLUMNS]
        used = [round(value, 3) if isinstance(value, float) else value for value in values]
        writer.writerow((*said.values(), *used))
    return written.getvalue().removesuffix("\n").split("\n")  # splitlines ends more, and a name may hold them
