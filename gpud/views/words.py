"""Reasons to wait, in words that a person can act on: a stable code, a sentence, a hint."""

from gpud.core.claims import Claim, ClaimKind
from gpud.core.dependencies import unmet_words
from gpud.core.waits import (
    After,
    Barred,
    BeginsAt,
    Full,
    Guaranteed,
    Held,
    Looking,
    Next,
    NoCapacity,
    NoGpus,
    NoPool,
    OverQuota,
    Paused,
    RetriesAt,
    Throttled,
    Unmet,
    Wait,
    YieldsTo,
)
from gpud.model.job import End, format_job
from gpud.model.spec import Dependency, When
from gpud.model.units import Timestamp, format_duration, plural

Words = tuple[str, str, str | None]

_WHEN = {When.SUCCESS: "to succeed", When.ANY: "to end", When.FAILED: "to fail"}
_OUT = {
    "foreign": "occupied by processes that gpud did not start",
    "draining": "drained",
    "unhealthy": "unhealthy",
    "reboot": "behind a driver that was replaced: reboot needed",
    "lost": "lost",
    "unknown": "not readable",
    "releasing": "being released",
}


def words(
    wait: Wait, now: Timestamp, written: str, *, soon: bool = False, guess: bool = False, stops: bool = False
) -> Words:
    """Return (code, sentence, hint) for a reason. `written` is the job's id, for the hint.

    `soon`: whoever it yields to waits for what may end any moment; `guess`: for what ends nobody knows when; `stops`:
    for those who are to be stopped then.
    """
    match wait:
        case Held(reason):
            return "held", reason or "held by its owner", f"to let it start: gpuctl release {written}"
        case BeginsAt(at):
            return "begin", f"begins in {format_duration(at - now)}", None
        case RetriesAt(at, attempt):
            return "retry", f"attempt {attempt} in {format_duration(at - now)}", f"see why: gpuctl show {written}"
        case After(Dependency(job, when), state, others):
            more = "" if not others else f", and for {others} more"
            return "after", f"waits for job {format_job(job)} ({state}) {_WHEN[when]}{more}", None
        case Unmet(Dependency(job), _):
            again = f"gpuctl requeue {format_job(job)}{' --state failed' if wait.end is End.FAILED else ''}"
            hint = f"to start it anyway: gpuctl release {written}; to try that again: {again}"
            return "unmet", unmet_words(wait.dependency, wait.end), hint
        case Throttled(limit):
            return "throttled", f"its array runs at most {limit} at once", None
        case Paused(reason):
            said = f": {reason}" if reason else ""
            return "paused", f"the queue is paused{said}", "to go on: gpuctl resume"
        case NoGpus(problem):
            return "no_gpus", f"no GPU was found: {problem}", "see what is missing: gpuctl doctor"
        case YieldsTo(job, at):
            number = format_job(job)
            then = f"in {format_duration(at - now)}"
            starts = "is to start soon" if soon else f"may start {then}" if guess else f"is to start {then}"
            which = f"for which others are stopped {then}" if stops else f"which {starts}"
            passes = None if soon else "a time limit that ends before then lets it pass: --time-limit"
            return "yields", f"would delay job {number}, {which}", passes
        case Looking():
            return "looking", "its GPUs are being looked at", None
        case Next():
            return "next", "about to be looked at", None
        case OverQuota() | Guaranteed() | NoPool():
            return _quota(wait, now, written)
        case Barred(claim):
            return _claimed(claim, now)
        case Full() | NoCapacity():
            return _capacity(wait)


def claimed(claim: Claim, now: Timestamp) -> str:
    """Return for whom a GPU is kept, to stand behind its name."""
    match claim.kind:
        case ClaimKind.POOL if claim.only:
            return f"not of pool {claim.name}"
        case ClaimKind.POOL:
            return f"for pool {claim.name}"
        case ClaimKind.OWNED:
            return f"tenant {claim.name}'s own"
        case ClaimKind.TYPES:
            return f"of a type that tenant {claim.name} may not use"
        case ClaimKind.WINDOW if claim.at > now:
            return f"kept by reservation {claim.name}, which begins in {format_duration(claim.at - now)}"
        case ClaimKind.WINDOW:
            return f"kept by reservation {claim.name}, for {format_duration(claim.until - now)} more"


def _claimed(claim: Claim, now: Timestamp) -> Words:
    see = "see for whom each GPU is: gpuctl gpus"
    match claim.kind:
        case ClaimKind.POOL:
            return "claimed", f"what is free is for pool {claim.name}", f"to ask for it: --pool {claim.name}"
        case ClaimKind.OWNED:
            return "claimed", f"what is free belongs to tenant {claim.name}", see
        case ClaimKind.TYPES:
            return "claimed", f"what is free is of a type that tenant {claim.name} may not use", see
        case ClaimKind.WINDOW if claim.at > now:
            soon, lasts = format_duration(claim.at - now), format_duration(claim.until - claim.at)
            said = f"would run into reservation {claim.name}, which begins in {soon}, for {lasts}"
            return "claimed", said, "a time limit that ends before then lets it pass: --time-limit"
        case ClaimKind.WINDOW:
            said = f"what is free is kept by reservation {claim.name}, for {format_duration(claim.until - now)} more"
            return "claimed", said, "see for whom: gpuctl reserve list"


def _quota(wait: OverQuota | Guaranteed | NoPool, now: Timestamp, written: str) -> Words:
    if isinstance(wait, NoPool) and wait.most_s is not None:
        most = format_duration(wait.most_s)
        said = f"pool {wait.pool} is for jobs of {most} at most now"
        return "no_pool", said, f"gpuctl update {written} --time-limit {most}"
    if isinstance(wait, NoPool):
        return (
            "no_pool",
            f"there is no pool {wait.pool} any more",
            f"to wait for others: gpuctl update {written} --pool none",
        )
    if isinstance(wait, Guaranteed):
        are = "is" if wait.gpus == 1 else "are"
        said = f"{plural(wait.gpus, 'GPU')} {are} guaranteed to others, and tenant {wait.tenant} may not borrow"
        return "quota", said, f"to let it: gpuctl tenant set {wait.tenant} --borrow"
    kind, _, name = wait.whose.partition(" ")
    if wait.never:
        said = f"{wait.whose} may have {plural(wait.limit, 'GPU') if wait.limit else 'none'} at once"
        hint = f"it cannot start under that limit: gpuctl cancel {written}"
        return "quota", f"{plural(wait.wanted, 'GPU')} asked for; {said}", hint
    used, limit = f"{wait.used:.4g}" if wait.used < 1000 else f"{wait.used:.0f}", f"{wait.limit:.15g}"
    lacks = f"; it needs {wait.wanted:g}" if wait.used < wait.limit else ""
    if wait.until is not None:
        said = f"has used {used} of {limit} {wait.what}; anew in {format_duration(wait.until - now)}"
    elif wait.what == "GPUs":
        said = f"has {used} of {plural(wait.limit, 'GPU')} in use{lacks}"
    else:
        said = f"has {used} of {plural(wait.limit, 'job')} running"
    setting = f"max_{'gpus' if wait.what == 'GPUs' else 'running'}{'_per_user' if kind else ''}"
    hint = f"see its limits: gpuctl tenant show {name}" if kind == "tenant" else f"see: gpuctl config {setting}"
    return "quota", f"{wait.whose or 'this gpud'} {said}", hint


def _capacity(wait: Full | NoCapacity) -> Words:
    if isinstance(wait, Full):
        return "no_capacity", "waits for what others use", None
    if wait.beside_gpus:
        short = wait.short or "CPUs"
        return "no_capacity", f"not enough {short} free", "see what each node has: gpuctl nodes"
    gone = sum(count for _, count in wait.out)
    many = "a GPU" if wait.wanted == 1 else f"{wait.wanted} GPUs"
    if wait.nodes > 1:
        many = f"{wait.nodes} nodes with {plural(wait.wanted // wait.nodes, 'GPU')} each"
    if gone == wait.suitable and wait.out:
        why = ", ".join(f"{count} {_OUT.get(word, word)}" for word, count in wait.out)
        return (
            "no_capacity",
            f"waits for {many}: none can be given ({why})",
            "see which, and what clears it: gpuctl gpus --health",
        )
    free = f"{wait.free} of {wait.suitable} are free"
    if wait.free and wait.node is not None:
        free = f"{wait.free} free on {wait.node}, of {wait.suitable} that would do"
    aside = "".join(f", {count} {_OUT.get(word, word)}" for word, count in wait.out)
    if wait.short is None:
        return "no_capacity", f"waits for {many}: {free}{aside}", None
    too = "nor are there enough CPUs" if wait.short == "CPUs" else "nor is there enough memory"
    return "no_capacity", f"waits for {many}: {free}{aside}; {too}", "see what each node has: gpuctl nodes"
