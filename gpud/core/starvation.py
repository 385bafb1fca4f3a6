"""Who has waited longest of all that may start, once that is longer than anybody should wait, whatever the policy.

The bound is `Rules.starvation_s`, or, where so much is queued that everybody must wait for longer, as long as all of it
takes: nobody waits much longer than twice what they would have if jobs were taken as they came. What is reserved then
may be used by who is likely to be over in time: where all is full for weeks wide jobs are served one after the other,
and if nobody passed them everybody else would wait. After `STRICT` times as long only who has a time limit passes.

Cost: a look at every line and at all that runs, once in `AGAIN_S` at most; O(log lines) for each who is found.
"""

from heapq import heapify, heappop, heapreplace

from gpud.core import census
from gpud.core.backfill import told_end
from gpud.core.queue import Line, Longest, job_of
from gpud.core.world import World
from gpud.model.job import JobId
from gpud.model.units import Seconds, Timestamp

AGAIN_S: Seconds = 60.0
STRICT = 1.25


def starving(world: World, now: Timestamp) -> JobId | None:
    """Return who has waited longest of those who may start, if that is longer than anybody should wait."""
    every_s = world.rules.starvation_s
    if not every_s:
        return None
    rail = world.rail
    if rail.job is not None:
        line = world.queue.line(rail.job)
        if line is not None and line.aside is None:
            return rail.job
        rail.job = None
    elif rail.again_at is not None and now < rail.again_at:
        return None
    rail.again_at = None
    longest = rail.longest
    if longest is None or now >= longest.at + min(AGAIN_S, every_s / 8) or _first(world, longest) is None:
        longest = rail.longest = _look(world, now)
    found = _first(world, longest)
    if found is None:
        return None
    since_us, job = found
    due = Timestamp(since_us / 1_000_000 + longest.bound_s)
    if due <= now:
        rail.job, rail.strict_at = job, Timestamp(since_us / 1_000_000 + longest.strict_s)
    else:
        rail.again_at = min(due, Timestamp(now + every_s / 8))
    return rail.job


def _look(world: World, now: Timestamp) -> Longest:
    lines = [line for line in world.queue.lines() if line.head is not None and line.aside is None]
    heads = [
        (world.queued_since_us(job), job, line)
        for line in lines
        if line.head is not None and _counts(world, job := job_of(line.head))
    ]
    heapify(heads)
    every_s, drained_s = world.rules.starvation_s, _drained_after_s(world, lines, now)
    return Longest(now, max(every_s, drained_s), max(every_s, STRICT * drained_s), heads)


def _first(world: World, longest: Longest) -> tuple[int, JobId] | None:
    """Return who of those that were found has waited longest, and since when; who has started is followed by the next.

    None where nobody is left.
    """
    heads = longest.heads
    while heads:
        since_us, job, line = heads[0]
        head = None if line.head is None or line.aside is not None else job_of(line.head)
        if head == job:
            return since_us, job
        if head is None or not _counts(world, head):
            heappop(heads)
        else:
            heapreplace(heads, (world.queued_since_us(head), head, line))
    return None


def _counts(world: World, job: JobId) -> bool:
    """Return whether a job can starve: where nobody reserves, who was preempted for others has had a turn."""
    return world.policy.reserves or job not in world.places or not world.places[job].attained_s


def _drained_after_s(world: World, lines: list[Line], now: Timestamp) -> Seconds:
    """Return how long all GPUs together would need for everything that is queued, and for what still runs."""
    gpus = census.present(world)
    lasts_s = world.predictor.seconds
    waiting = sum(line.count * line.terms.demand.gpu_weight * lasts_s(line.terms, line.burst) for line in lines)
    running = sum(active.gpu_weight * max(0.0, told_end(world, active) - now) for active in world.active.values())
    return (waiting + running) / gpus if gpus else 0.0
