"""What became of a job, in one sentence and in numbers: who or what ended it, what it used, and what was wasted.

All of it is of the last attempt. What was not measured is None: GPUs are looked at now and then, see core.sampling.
"""

from collections.abc import Sequence
from signal import SIGKILL

from gpud.core.lifecycle import said
from gpud.core.world import World
from gpud.model.gpu import GpuId
from gpud.model.job import End, Exit, StopCause
from gpud.model.units import Seconds, Timestamp, format_duration, format_size, plural
from gpud.model.use import GpuUse
from gpud.store.rows import AttemptRow, Event, JobRow
from gpud.wire.messages import Results

_SURE = 3  # readings, over
_SURE_S: Seconds = 60.0  # that time at least, before anybody is told that a GPU was not used
_LITTLE = 0.1  # of a GPU's time, or of what was asked for
_MUCH_MIB = 4_096


def happened(row: JobRow, events: Sequence[Event] = ()) -> str | None:
    """Return who or what ended a job; None while it has not ended, and of an array. `events` are all of the job's."""
    if row.ended_at is None or row.array is not None:
        return None
    over = [event.detail.get("reason") for event in events if event.kind == "gpu_memory"]
    return _ending(row, events) + (f"; on the way gpud saw: {over[-1]}" if over else "")


def _ending(row: JobRow, events: Sequence[Event]) -> str:
    run = row.run
    over = None if run is None else run.exit
    if run is None or over is None:
        how = "it ended before it started"
        if row.state == End.CANCELLED:
            how = f"it was cancelled{_by(events, End.CANCELLED)} before it started"
        return f"{how}: {row.reason}" if row.reason else how
    match row.state:
        case End.COMPLETED:
            return "its program ended by itself, with exit code 0"
        case End.TIMED_OUT:
            limit_s = row.terms.time_limit_s
            limit = "" if limit_s is None else f" of {format_duration(limit_s)}"
            return f"it reached its time limit{limit}, and was ended for that"
        case End.CANCELLED:
            if run.cause is StopCause.UNUSED:
                return f"gpud gave it back: {row.reason}"
            return _cancelled(row, run, over, events)
        case End.LOST:
            return (row.reason or over.lost or "") if over.seen else f"nobody saw its end: {row.reason or over.lost}"
        case _:
            return _failure(row, run, over)


def _cancelled(row: JobRow, run: AttemptRow, over: Exit, events: Sequence[Event]) -> str:
    """Return who cancelled a job that had started, and when."""
    asked = next((event for event in reversed(events) if event.kind == "stopping"), None)
    when = (
        ""
        if asked is None or run.started_at is None
        else f" {format_duration(asked.at - run.started_at)} after it started"
    )
    forced = ", and had to be killed" if over.signal == SIGKILL else ""
    return f"it was cancelled{_by(events, 'stopping')}{when}{forced}" + (f": {row.reason}" if row.reason else "")


def _by(events: Sequence[Event], kind: str) -> str:
    """Return who did what the last event of a kind tells of, as words; nothing where it was nobody."""
    by = next((event.detail.get("by") for event in reversed(events) if event.kind == kind), None)
    return f" by {by}" if by else ""


def _failure(row: JobRow, run: AttemptRow, over: Exit) -> str:
    """Return why a job failed."""
    reason, finding = row.reason or said(over), over.finding or ""
    if over.fault is not None:
        return f"it could not start: {reason}"
    if run.cause is not None and run.cause not in {StopCause.CANCELLED, StopCause.TIMED_OUT}:
        return f"gpud ended it ({run.cause.value.replace('_', ' ')}): {reason}"
    if finding.startswith("out of memory"):
        asked = format_size(row.terms.demand.memory_mib) if row.terms.demand.memory_mib else "what it may have"
        had = f"; it had {format_size(over.peak_mib)}" if over.peak_mib is not None else ""
        return f"it used more memory than the {asked} that it asked for, and was killed for that{had}"
    if "out of memory" in finding:
        return f"it ran out of GPU memory: {reason}"
    if finding.startswith("nobody attended"):
        return f"{finding}, and it was hung up"
    if over.signal == SIGKILL:
        return "somebody killed it (SIGKILL), and not gpud: the system does so when the machine's memory runs out"
    if over.signal is not None:
        return f"its program ended by a signal: {reason}"
    return f"its program failed: {reason}"


def results(world: World, row: JobRow, run: AttemptRow | None, now: Timestamp) -> Results | None:
    """Return what the last attempt used, and what of that was wasted; None before one has started."""
    if run is None or run.started_at is None:
        return None
    over = run.exit
    queued_at = max(row.submitted_at, row.begin_at or row.submitted_at)
    order = [gpu for part in run.allocation for gpu in part.gpus]
    uses = sorted(run.uses if over is not None else world.samples.uses(row.job), key=lambda use: order.index(use.gpu))
    known_s = sum(use.known_s for use in uses)
    peaks = [use.memory_peak_mib for use in uses if use.memory_peak_mib is not None]
    energies = [use.energy_j for use in uses if use.energy_j is not None]
    ran_s = max(0.0, (now if over is None else over.at) - run.started_at)
    declared = row.terms.demand.share_mib or row.terms.demand.gpu_memory_mib
    told: Results = {
        "attempt": run.attempt,
        "wait_s": max(0.0, run.starting_at - queued_at) if run.attempt == 1 else None,
        "run_s": ran_s,
        "cpu_s": None if over is None else over.cpu_s,
        "memory_peak_mib": None if over is None else over.peak_mib or over.max_rss_mib,
        "gpus": sum(len(part.shares) for part in run.allocation),
        "gpu_memory_peak_mib": max(peaks, default=None),
        "gpu_memory_declared_mib": declared,
        "utilization": sum(use.busy_s for use in uses) / known_s if known_s else None,
        "measured_s": max((use.seen_s for use in uses), default=0.0),
        "energy_j": sum(energies) if energies else None,
        "gpus_unused": sum(_unused(use, ran_s) for use in uses),
        "wasted": None,
        "by_gpu": [_use_map(world, use) for use in uses],
    }
    told["wasted"] = _wasted(told, uses, row.terms.demand.memory_mib)
    return told


def _unused(use: GpuUse, ran_s: Seconds) -> bool:
    """Return whether a GPU was looked at often enough, for most of the time, and never seen to do anything."""
    return use.readings >= _SURE and use.known_s >= max(_SURE_S, ran_s / 2) and not use.busiest_percent


def _wasted(told: Results, uses: Sequence[GpuUse], memory_mib: int) -> str | None:
    """Return what was asked for and not used, if that is worth a sentence."""
    gpus, unused, words = told["gpus"], told["gpus_unused"], []
    if unused and unused == gpus:
        words.append(f"asked for {plural(gpus, 'GPU')}, and never used {'it' if gpus == 1 else 'them'}")
    elif unused:
        words.append(f"asked for {plural(gpus, 'GPU')}, {unused} never used")
    elif (told["utilization"] or 1.0) < _LITTLE and sum(use.known_s for use in uses) >= (
        max(_SURE_S, told["run_s"] / 2) * max(1, gpus)
    ):
        words.append(f"its GPUs were busy for {100 * (told['utilization'] or 0.0):.0f} % of the time")
    peak = told["memory_peak_mib"]
    if peak is not None and memory_mib >= _MUCH_MIB and peak < _LITTLE * memory_mib and told["run_s"] >= _SURE_S:
        words.append(f"asked for {format_size(memory_mib)} of memory, and used {format_size(peak)} of it")
    return "; ".join(words) or None


def _use_map(world: World, use: GpuUse) -> dict[str, object]:
    state = world.gpus.get(GpuId(use.gpu))
    return {
        "gpu_uuid": use.gpu,
        "node": None if state is None else state.node,
        "gpu_index": None if state is None else state.gpu.index,
        "readings": use.readings,
        "measured_s": use.seen_s,
        "utilization": use.busy_s / use.known_s if use.known_s else None,
        "busiest_percent": use.busiest_percent,
        "idle_s": use.idle_s,
        "memory_peak_mib": use.memory_peak_mib,
        "energy_j": use.energy_j,
    }
