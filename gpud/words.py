"""Reasons to wait, in words that a person can act on: a stable code, a sentence, a hint."""

from gpud.core.waits import (
    BeginsAt,
    Held,
    Looking,
    Next,
    NoCapacity,
    NoGpus,
    Paused,
    RetriesAt,
    Throttled,
    Wait,
    YieldsTo,
)
from gpud.model.job import format_job
from gpud.model.units import Timestamp, format_duration

Words = tuple[str, str, str | None]

_OUT = {
    "foreign": "occupied by processes that gpud did not start",
    "draining": "drained",
    "lost": "lost",
    "unknown": "not readable",
    "releasing": "being released",
}


def words(wait: Wait, now: Timestamp, written: str) -> Words:
    """Return (code, sentence, hint) for a reason. `written` is the job's id, for the hint."""
    match wait:
        case Held():
            return "held", "held by its owner", f"to let it start: gpuctl release {written}"
        case BeginsAt(at):
            return "begin", f"begins in {format_duration(at - now)}", None
        case RetriesAt(at, attempt):
            return "retry", f"attempt {attempt} in {format_duration(at - now)}", f"see why: gpuctl show {written}"
        case Throttled(limit):
            return "throttled", f"its array runs at most {limit} at once", None
        case Paused(reason):
            said = f": {reason}" if reason else ""
            return "paused", f"the queue is paused{said}", "to go on: gpuctl resume"
        case NoGpus(problem):
            return "no_gpus", f"no GPU was found: {problem}", "see what is missing: gpuctl doctor"
        case YieldsTo(job, at):
            number = format_job(job)
            soon = format_duration(at - now)
            hint = "a time limit that ends before then lets it pass: --time-limit"
            return "yields", f"would delay job {number}, which is to start in {soon}", hint
        case Looking():
            return "looking", "its GPUs are being looked at", None
        case Next():
            return "next", "about to be looked at", None
        case NoCapacity():
            return _capacity(wait)


def _capacity(wait: NoCapacity) -> Words:
    if not wait.wanted or wait.short is not None:
        short = wait.short or "CPUs"
        return "no_capacity", f"not enough {short} free", "see what each node has: gpuctl nodes"
    gone = sum(count for _, count in wait.out)
    many = "a GPU" if wait.wanted == 1 else f"{wait.wanted} GPUs"
    if gone == wait.suitable and wait.out:
        why = ", ".join(f"{count} {_OUT.get(word, word)}" for word, count in wait.out)
        return "no_capacity", f"waits for {many}: none can be given ({why})", "see which: gpuctl gpus"
    free = f"{wait.free} of {wait.suitable} are free"
    if wait.free and wait.node is not None:
        free = f"{wait.free} free on {wait.node}, of {wait.suitable} that would do"
    aside = "".join(f", {count} {_OUT.get(word, word)}" for word, count in wait.out)
    return "no_capacity", f"waits for {many}: {free}{aside}", None
