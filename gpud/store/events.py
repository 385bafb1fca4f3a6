"""What people are told of a change: the words of the event history."""

from gpud.model.changes import Added, ArrayPut, Change, Ended, Moved, Queued, Reprioritised, Told
from gpud.model.job import Exit, JobId, Running, Starting, Stopping
from gpud.model.units import Timestamp

Telling = tuple[Timestamp, str, JobId | None, int | None, dict[str, object]]  # at, kind, job, attempt, detail


def event_of(change: Change) -> Telling | None:
    """Return the event that a change is, None for one that people do not see."""
    match change:
        case Added(job, at, spec):
            return (
                at,
                "submitted",
                job,
                None,
                _said(name=spec.name, array=None if spec.array is None else str(spec.array)),
            )
        case Queued(job, at, place, word, reason):
            detail = _said(reason=reason, priority=place.priority, not_before=place.not_before)
            return at, word, job, place.attempt, detail
        case Moved(job, at, attempt, state, by):
            return at, _word(state), job, attempt, _moved(state) | _said(by=by)
        case Ended(job, at, end, ended, reason, by):
            return at, end.value, job, None, _said(reason=reason, by=by, **_exit(ended))
        case ArrayPut(job, at, array, end, reason) if end is not None:
            return at, end.value, job, None, _said(counts=dict(array.counts), reason=reason)
        case Reprioritised(job, at, priority):
            return at, "priority", job, None, {"priority": priority}
        case Told(at, kind, detail, told_of):
            return at, kind, told_of, None, detail
        case _:
            return None


def _word(state: Starting | Running | Stopping) -> str:
    return type(state).__name__.lower()


def _moved(state: Starting | Running | Stopping) -> dict[str, object]:
    match state:
        case Starting(_, allocation):
            nodes = _said(nodes=[part.node for part in allocation.parts] if allocation.rest else None)
            return {"node": allocation.node, **nodes, "gpus": list(allocation.all_gpus)}
        case Running(process=process):
            return {"pid": process.pid}
        case Stopping(cause=cause):
            return {"cause": cause.value}


def _exit(ended: Exit | None) -> dict[str, object]:
    return {} if ended is None else {"exit_code": ended.exit_code, "signal": ended.signal, "finding": ended.finding}


def _said(**detail: object) -> dict[str, object]:
    return {key: value for key, value in detail.items() if value is not None}
