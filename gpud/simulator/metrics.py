"""What a replay comes to, in figures with their units in their names.

Wait is all the time that a job was there and its own work was not done: before its start, between preemptions, and for
work that had to be done again. A job that its own time limit ends has ended at that moment. Slowdown is bounded at
10 s, so that a job of no length has one. Fragmentation is the part that stood idle of the GPUs' time during which
somebody waited, not of the makespan; fairness is Jain's index of the tenants' mean slowdowns (of
the users', where there is but one tenant): 1 where all wait alike, 1/n where one of n does all the waiting.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpud.simulator.engine import Engine, Run

_BOUND_S = 10.0
_POINTS = 400  # of a curve in a plot
_CLASSES = ((0.0, "0"), (1 - 1e-9, "<1"), (1.0, "1"), (4.0, "2-4"), (8.0, "5-8"), (float("inf"), ">8"))


def figures(engine: Engine) -> dict[str, Any]:
    """Return what is to be said of a replay. Jobs that did not end are counted, and left out of the averages."""
    done = [run for run in engine.runs if run.ended_at is not None]
    jcts = sorted(_jct(run) for run in done)
    waits = sorted(map(_wait, done))
    meter = engine.meter
    first = engine.runs[0].job.submit_s if engine.runs else 0.0
    makespan_s = (meter.at if meter.at is not None else first) - first
    refused = sum(run.refused for run in engine.runs)
    groups = _tenants(engine, done)
    return {
        "jobs": len(done),
        "refused": refused,
        "unfinished": len(engine.runs) - len(done) - refused,
        "timed_out": sum(run.timed_out for run in done),
        "gpus": meter.gpus,
        "avg_jct_s": _mean(jcts),
        **{f"p{part}_jct_s": _percentile(jcts, part) for part in (50, 90, 99)},
        "avg_wait_s": _mean(waits),
        **{f"p{part}_wait_s": _percentile(waits, part) for part in (50, 90, 99)},
        "max_wait_s": waits[-1] if waits else None,
        "avg_slowdown": _mean([_slowdown(run) for run in done]),
        "makespan_s": makespan_s,
        "utilization": _ratio(meter.busy_gpu_s, meter.gpus * makespan_s),
        "fragmentation": _ratio(meter.idle_gpu_s, meter.gpus * meter.waited_s),
        "preemptions": sum(run.preemptions for run in engine.runs),
        "lost_gpu_s": sum(run.lost_s * run.weight for run in engine.runs),
        "fairness": _jain([group["avg_slowdown"] for group in groups.values() if group["avg_slowdown"] is not None]),
        "wait_by_gpus": _by_class(done),
        "tenants": groups,
        "cycles": engine.cycles,
    }


def curves(engine: Engine) -> dict[str, list[tuple[float, float]]]:
    """Return what a plot shows: jobs waiting and GPUs in use over time, and the waits' distribution."""
    series = engine.meter.series or []
    first = engine.runs[0].job.submit_s if engine.runs else 0.0
    waits = sorted(_wait(run) for run in engine.runs if run.ended_at is not None)
    step = max(1, len(waits) // _POINTS)
    return {
        "waiting": _steps([(at - first, waiting) for at, _, waiting in series]),
        "busy": _steps([(at - first, busy) for at, busy, _ in series]),
        "waits": [(wait, (at + 1) / len(waits)) for at, wait in enumerate(waits) if not (len(waits) - 1 - at) % step],
    }


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve thinned out evenly in time: of each part of it its mean, so that no spike stands for a week."""
    if not points:
        return []
    width = points[-1][0] / _POINTS or 1.0
    thinned = []
    at, value, area, edge = 0.0, points[0][1], 0.0, width
    for when, new in [*points, (points[-1][0] + width, points[-1][1])]:
        while when >= edge:
            area += value * (edge - at)
            thinned.append((edge - width, area / width))
            at, area, edge = edge, 0.0, edge + width
        area += value * (when - at)
        at, value = when, new
    return thinned


def _jct(run: Run) -> float:
    assert run.ended_at is not None  # noqa: S101 - callers looked
    return run.ended_at - run.job.submit_s


def _wait(run: Run) -> float:
    return max(0.0, _jct(run) - (run.had_s - run.lost_s))


def _slowdown(run: Run) -> float:
    return max(1.0, _jct(run) / max(run.job.duration_s or 0.0, _BOUND_S))


def _by_class(done: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Return waits by the number of GPUs that a job asked for."""
    found: dict[str, list[float]] = {}
    for run in done:
        weight = run.job.terms.demand.gpu_weight
        found.setdefault(next(name for most, name in _CLASSES if weight <= most), []).append(_wait(run))
    return {
        name: {"jobs": len(found[name]), "avg_s": _mean(found[name]), "max_s": max(found[name])}
        for _, name in _CLASSES
        if name in found
    }


def _tenants(engine: Engine, done: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return what each tenant had, or each user where there is one tenant alone."""
    several = len({run.job.terms.tenant for run in engine.runs}) > 1
    owner: Callable[[Run], str] = lambda run: run.job.terms.tenant if several else run.job.terms.user  # noqa: E731 - two words
    had: dict[str, float] = {}
    for run in engine.runs:
        had[owner(run)] = had.get(owner(run), 0.0) + run.had_s * run.weight
    theirs: dict[str, list[Run]] = {name: [] for name in had}
    for run in done:
        theirs[owner(run)].append(run)
    total = sum(had.values())
    return {
        name: {
            "jobs": len(runs),
            "gpu_s": had[name],
            "gpu_share": _ratio(had[name], total),
            "avg_wait_s": _mean([_wait(run) for run in runs]),
            "avg_slowdown": _mean([_slowdown(run) for run in runs]),
        }
        for name, runs in sorted(theirs.items())
    }


def _jain(values: Sequence[float]) -> float | None:
    return _ratio(sum(values) ** 2, len(values) * sum(value * value for value in values))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(ordered: Sequence[float], part: int) -> float | None:
    """Return the least value that `part` percent are not above (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)] if ordered else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a document with its numbers as far as they mean something: milliseconds, millionths."""
    if isinstance(value, float):
        return round(value, 3 if abs(value) >= 10 else 6)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, Iterable) and not isinstance(value, str) else value
