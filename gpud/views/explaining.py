"""Why one job waits, runs on, is being stopped or has ended: in words, with everything that a person could act on.

The reason is the scheduler's own; the rest is looked up here, once somebody asks for one job: what is expected of it,
what is reserved for it or for whom it yields to, who would have to end, and of each GPU that would suit why it is not
given. At most `_LINES` lines are told, and as many entries of each list.
"""

from collections.abc import Sequence
from itertools import groupby

from gpud.core.active import ActiveJob
from gpud.core.backfill import expected_end
from gpud.core.choice import in_force
from gpud.core.claims import Passing, Reservation
from gpud.core.condition import Condition, is_drained
from gpud.core.forecast import overdue
from gpud.core.guard import passing_s
from gpud.core.jobs import KILL_SLACK_S
from gpud.core.lifecycle import said
from gpud.core.obstacles import Blocker, Denied, Obstacles, exposure, gives_way_to, obstacles, of_array, over_quota
from gpud.core.prediction import Prediction
from gpud.core.waits import Barred, Guaranteed, NoCapacity, OverQuota, Throttled, Wait, YieldsTo
from gpud.core.world import World
from gpud.model.gpu import GpuId
from gpud.model.job import JobId, StopCause, Stopping, format_job
from gpud.model.spec import Terms
from gpud.model.units import Timestamp, format_duration, format_size
from gpud.store.rows import JobRow
from gpud.views.forecasting import is_late, outlook
from gpud.views.gpus import health_reason
from gpud.views.jobs import Scene, gpu_names, waits
from gpud.views.reasons import in_words, never_starts
from gpud.views.words import claimed

_LINES = 20
_NAMES = 16  # of GPUs, in a line
_UUID_START = 12  # of a UUID's characters: GPU-1a2b3c4d
_NOTHING = Obstacles([], [], 0)


def why_map(scene: Scene, row: JobRow, place: int | None, *, deep: bool, private: bool = True) -> dict[str, object]:
    """Return why a job is where it is; `deep`: with all in its way; `private`: also what is its owner's alone."""
    world, now = scene.world, scene.now
    wait = waits(scene, row)
    active = None if wait is not None else world.active.get(row.job)
    last = row.reason if private else None
    told_reason = last if active is not None or not private else _ending(row)
    code, reason, hint = row.state, told_reason, None
    expected_at, unknown = outlook(scene.forecast, row.job, wait, now)
    if wait is not None:
        never = never_starts(world, row.job, wait, now, deep=deep)
        if never is not None:
            expected_at, unknown = None, "it cannot start here"
        code, reason, hint = in_words(world, row.job, wait, now, last, never=never, forecast=scene.forecast)
    kept = world.reservations.get(row.job) if wait is not None else None
    told: dict[str, object] = {
        "id": format_job(row.job),
        "state": row.state,
        "code": code,
        "reason": reason,
        "hint": hint,
        "position": place,
        "expected_start_at": expected_at,
        "expected_start_unknown": unknown,
        "reservation": None if kept is None else _reservation(world, kept),
        "yields_to": format_job(wait.job) if isinstance(wait, YieldsTo) else None,
        "quota": _quota(wait) if isinstance(wait, OverQuota) else None,
    }
    expected = None
    if row.ended_at is None:
        expected = _expected(world, row)
        told["predicted_s"], told["predicted_from"] = expected.seconds, expected.basis
        told["predicted_runs"] = expected.runs
    else:
        told |= {"predicted_s": None, "predicted_from": None, "predicted_runs": None}
    details: list[str] = []
    if deep and expected is not None:
        mean = f", the mean of {expected.runs} runs" if expected.runs > 1 else ", one run" if expected.runs else ""
        lasts = format_duration(max(1.0, expected.seconds))
        details.append(f"expected to run for {lasts}: {expected.basis}{mean}")
    found = _NOTHING
    if active is not None:
        told["reason"] = _active(scene, active)
        details += _prospects(scene, active) if deep else []
    elif wait is not None and deep:
        found = _in_the_way(scene, row.job, row.terms, wait)
        sooner = kept is not None and expected_at is not None and expected_at + 1 < kept.at  # others give way before
        details += _outlook(scene, row, wait, None if sooner else kept, found, expected_at)
        details += _lines(scene, found, [] if kept is None else kept.allocation.all_gpus, len(details))
    if deep:
        told["blockers"] = [_blocker(world, each) for each in found.blockers[:_LINES]]
        told["gpus"] = [_gpu(scene, each) for each in found.denied[:_LINES]]
    told["details"] = details
    return told


def _expected(world: World, row: JobRow) -> Prediction:
    """Return how long a job is expected to run; of one that runs, what was expected when it started."""
    then_s = world.expects_s.get(row.job)
    now_is = world.predictor.expect(row.terms, world.bursts.of(row.job, row.terms))
    if then_s is None or then_s == now_is.seconds:
        return now_is
    known = then_s != world.predictor.assumed_s or row.terms.time_limit_s is not None
    nothing = "what is assumed of any job: nothing was known of its like when it started"
    return Prediction(then_s, "what was known when it started" if known else nothing)


def _ending(row: JobRow) -> str | None:
    """Return why an ended job ended."""
    over = None if row.run is None else row.run.exit
    if row.reason is not None or row.ended_at is None:
        return row.reason
    if row.array is None and over is None:
        return "before it started"
    return None if over is None else said(over)


def _active(scene: Scene, active: ActiveJob) -> str | None:
    """Return why an active job is being stopped; None where it is not."""
    if not isinstance(active.state, Stopping):
        return None
    cause = f"being stopped: {active.state.cause.value.replace('_', ' ')}"
    whom = gives_way_to(scene.world, active)
    return cause if whom is None else f"{cause}, for {_named(scene.world, whom)}"


def _prospects(scene: Scene, active: ActiveJob) -> list[str]:
    """Return when an active job will be over, and what may take its GPUs away before."""
    world, now = scene.world, scene.now
    if isinstance(active.state, Stopping):
        left = active.state.kill_at - KILL_SLACK_S - now
        again = active.state.cause in {StopCause.PREEMPTED, StopCause.REQUEUED}
        return [
            f"it has {format_duration(left)} at most to end" if left > 0 else "it has not ended in time: it is killed",
            *(["it goes back to its place in the queue"] if again else []),
        ]
    lines = [_ends(world, active, now)]
    exposed = exposure(world, active, now)
    if exposed is None:
        return [*lines, "nobody may preempt it"]
    whose = f"of {active.terms.user}'s " if world.policy.personal else ""
    whom = [] if exposed.priority is None else [f"a job {whose}of priority {exposed.priority} or more"]
    whom += [f"one that stands better with the policy {in_force(world)}"] if exposed.policy else []
    whom += [f"a tenant that takes its guarantee back: {active.terms.tenant} borrows"] if exposed.borrowed else []
    wait = exposed.at - now
    return [*lines, f"may be preempted{f' in {format_duration(wait)}' if wait > 1 else ''} by {', or by '.join(whom)}"]


def _in_the_way(scene: Scene, job: JobId, terms: Terms, wait: Wait) -> Obstacles:
    world, now = scene.world, scene.now
    match wait:
        case NoCapacity() | YieldsTo() | Barred():
            return obstacles(world, job, terms, now)
        case OverQuota():
            return Obstacles(over_quota(world, wait, now), [], 0)
        case Throttled():
            return Obstacles(of_array(world, job, now), [], 0)
        case Guaranteed():
            return obstacles(world, job, terms, now)
        case _:
            return _NOTHING


def _outlook(
    scene: Scene, row: JobRow, wait: Wait, kept: Reservation | None, found: Obstacles, expected_at: Timestamp | None
) -> list[str]:
    """Return what is reserved for a job, for whom it yields to, and what a gang lacks."""
    world, lines = scene.world, []
    if kept is not None and kept.allocation.all_shares:
        others_first = expected_at is not None and expected_at > kept.at + 1  # who come before it in the queue
        when = "" if others_first else _when(scene, kept)
        lines.append(f"{_places(world, kept.allocation.all_gpus)} will be kept free for it{when}")
    if isinstance(wait, YieldsTo) and (theirs := world.reservations.get(wait.job)) is not None:
        where = _places(world, theirs.allocation.all_gpus) or theirs.allocation.node
        lines.append(f"{_named(world, wait.job)} is to have {where}{_when(scene, theirs)}")
        lines += _unsaid(scene, row, theirs)
    nodes = row.terms.demand.nodes
    if nodes > 1 and isinstance(wait, NoCapacity | YieldsTo | Barred):
        ready = min(found.nodes_ready, nodes)
        lines.append(f"{ready} of the {nodes} nodes that it needs have room for their part: {nodes - ready} missing")
    return lines


def _unsaid(scene: Scene, row: JobRow, theirs: Reservation) -> list[str]:
    """Return how long a job of which nobody said so is taken to run where another would be passed."""
    terms, passing = row.terms, theirs.passing
    if passing is Passing.NOBODY:
        return ["others are stopped for that: nobody passes it, however short"]
    if terms.time_limit_s is not None or (terms.estimate_s is not None and passing is not Passing.LIMIT):
        return []
    if passing is Passing.LIMIT:
        return ["that has waited for so long that nobody without a time limit passes it"]
    lasts_s = passing_s(scene.world, row.job, terms, scene.now, passing)
    longest_s = passing_s(scene.world, row.job, terms, scene.now)
    known = ", half as long again as the longest of its like" if lasts_s == longest_s else ", as half of its like were"
    known = "" if lasts_s == scene.world.predictor.assumed_s else known
    return [f"without a time limit it is taken to run for {format_duration(lasts_s)}{known}"]


def _when(scene: Scene, kept: Reservation) -> str:
    """Return in how long a reservation begins, to stand behind a sentence; nothing where that is a guess, or past."""
    known = kept.at > scene.now and not kept.taken and not is_late(scene.forecast, kept.job)
    wait_s = kept.at - scene.now - (KILL_SLACK_S if kept.yielding else 0.0)
    return f" in {format_duration(wait_s)}" if known else ""


def _lines(scene: Scene, found: Obstacles, mine: Sequence[GpuId], used: int) -> list[str]:
    """Return a line for each job in the way, those on what is reserved first, and for each reason why GPUs are not."""
    world, kept = scene.world, set(mine)
    blockers = sorted(found.blockers, key=lambda each: kept.isdisjoint(each.gpus))
    reasons: dict[str, list[GpuId]] = {}
    for denied in found.denied:
        reasons.setdefault(_denial(scene, denied), []).append(denied.state.gpu.id)
    room = _LINES - used
    shown = len(blockers)
    if shown + len(reasons) > room:
        shown = min(shown, room - min(len(reasons), room // 2) - 1)
    lines = []
    for each in blockers[:shown]:
        active = world.active[each.job]
        where = _places(world, each.gpus) if each.gpus else f"{each.holds} of {active.state.allocation.node}"
        yields = _gives_way(each, scene.now)
        lines.append(f"{_named(world, each.job)} holds {where}: {_ends(world, active, scene.now)}{yields}")
    lines += _more(len(blockers) - shown, "such job")
    left = room - len(lines)
    told = [
        f"{_places(world, gpus)} {'are' if len(gpus) > 1 else 'is'} {reason}"
        for reason, gpus in list(reasons.items())[:left]
    ]
    return lines + told + _more(len(reasons) - left, "reason")


def _gives_way(blocker: Blocker, now: Timestamp) -> str:
    """Return when a job in the way gives way, or may have to, to stand behind its end."""
    if blocker.yields_at is None:
        return ""
    wait_s = blocker.yields_at - now
    soon = f"in {format_duration(wait_s)}" if wait_s > 0 else "now"
    return f"; {'has' if blocker.yields else 'may have'} to give way {soon}"


def _more(count: int, word: str) -> list[str]:
    return [f"and {count} more {word}{'s' if count > 1 else ''}"] if count > 0 else []


def _ends(world: World, active: ActiveJob, now: Timestamp) -> str:
    """Return when an active job is expected to end, and when it must."""
    if isinstance(active.state, Stopping):
        left_s = active.state.kill_at - KILL_SLACK_S - now
        return f"being stopped, killed {f'within {format_duration(left_s)}' if left_s > 0 else 'by now'}"
    limit_s, soon = active.terms.time_limit_s, expected_end(world, active, now) - now
    soonest = f"expected to end in {format_duration(soon)}"
    if overdue(world, active, now):
        soonest = f"runs longer than expected ({format_duration(max(1.0, world.expects_s[active.job]))})"
    if limit_s is None:
        return f"{soonest}, no time limit"
    last = max(0.0, active.since + limit_s - now)
    expected = f"{soonest}, " if soon < 0.95 * last else ""
    return f"{expected}ends within {format_duration(last)}"


def _denial(scene: Scene, denied: Denied) -> str:
    """Return why a GPU is not given, to stand behind `is`."""
    state, now = denied.state, scene.now
    if denied.left_mib is not None:
        return f"shared, with {format_size(denied.left_mib)} left"
    if denied.condition in {Condition.BUSY, Condition.SHARED}:
        why_not = health_reason(scene.world, state, denied.condition, now)
        out = ["drained" + (f": {why_not}" if why_not else "")] if is_drained(scene.world, state) else []
        return ", and ".join(
            [denied.condition.value, *([] if denied.claim is None else [claimed(denied.claim, now)]), *out]
        )
    if denied.condition is not Condition.FREE:
        why_not = health_reason(scene.world, state, denied.condition, scene.now)
        worst = state.health.worst() if denied.condition is Condition.UNHEALTHY else None
        cure = "" if worst is None else f"; what clears it: {worst[1].clears}"
        return f"{denied.condition.value}" + (f": {why_not}{cure}" if why_not else "")
    if denied.claim is not None:
        return f"free, but {claimed(denied.claim, now)}"
    kept = denied.reservation
    if kept is not None:
        soon = _when(scene, kept).replace(" ", ", ", 1)
        what = "" if denied.short is None else f"{denied.short} there {'are' if denied.short == 'CPUs' else 'is'} "
        return f"free, but {what}reserved for {_named(scene.world, kept.job)}{soon}"
    if denied.short is not None:
        little = "are too few CPUs" if denied.short == "CPUs" else "is too little memory"
        return f"free, but there {little} on {state.node}"
    return "free, but a quota keeps it from them" if denied.enough else "free, but not enough alone"


def _blocker(world: World, each: Blocker) -> dict[str, object]:
    active = world.active[each.job]
    limit_s = active.terms.time_limit_s
    return {
        "job": format_job(each.job),
        "user": active.terms.user,
        "gpus": gpu_names(world, each.gpus),
        "expected_end_at": each.ends_at,
        "ends_by_at": None if limit_s is None else active.since + limit_s,
    }


def _gpu(scene: Scene, denied: Denied) -> dict[str, object]:
    state = denied.state
    return {
        "node": state.node,
        "index": state.gpu.index,
        "uuid": state.gpu.id,
        "state": denied.condition.value,
        "reason": _denial(scene, denied),
    }


def _reservation(world: World, kept: Reservation) -> dict[str, object]:
    return {
        "starts_at": kept.at,
        "nodes": [part.node for part in kept.allocation.parts],
        "gpus": gpu_names(world, kept.allocation.all_gpus),
        "preempting": kept.taken,
    }


def _quota(wait: OverQuota) -> dict[str, object]:
    numbers = {"used": wait.used, "limit": wait.limit, "wanted": wait.wanted or None, "renewed_at": wait.until}
    return {"whose": wait.whose or "everybody", "what": wait.what, **numbers}


def _named(world: World, job: JobId) -> str:
    """Return a job with its user."""
    active, waiting = world.active.get(job), world.waiting(job)
    terms = active.terms if active is not None else waiting.terms if waiting is not None else None
    return f"job {format_job(job)}" + (f" of {terms.user}" if terms is not None else "")


def _places(world: World, gpus: Sequence[GpuId]) -> str:
    """Return GPUs by node and number, which another may have of one that is gone; of very many the first."""
    there = [world.gpus[gpu] for gpu in gpus if gpu in world.gpus]
    states = sorted(there, key=lambda each: (each.node, each.gpu.index))
    known = [(each.node, str(each.gpu.index) if each.present else each.gpu.id[:_UUID_START]) for each in states]
    shown = known[:_NAMES]
    if len(world.nodes) == 1:
        words = [f"GPU {number}" for _, number in shown]
    else:
        nodes = groupby(shown, key=lambda each: each[0])
        words = [f"{node}:{','.join(number for _, number in of)}" for node, of in nodes]
    more = [f"{len(known) - len(shown)} more"] if len(known) > len(shown) else []
    return ", ".join(words + more)
