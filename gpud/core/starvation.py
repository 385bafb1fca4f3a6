"""Who has waited longest of all that may start, once that is longer than anybody should wait, whatever the policy.

The bound is `Rules.starvation_s`, or, where so much is queued that everybody must wait for longer, twice as long as all
of it takes: about twice what they would have waited if jobs were taken as they came. What is reserved then may be used
by who is likely to be over in time: where all is full for weeks wide jobs are served one after the other, and if nobody
passed them everybody else would wait. After `STRICT` times as long only who has a time limit passes. (Where a policy
preempts, and nobody reserves, the bound is half of that: it is for who has not run yet alone.)

Nodes that are kept free for a job on several of them run empty until the last is, which costs about as much as the job.
When it ends they are all free at once, and another that has waited for `GANG` of that bound goes on there.

Cost: a look at every line and at all that runs, once in `AGAIN_S` at most, and less often where the bound is long;
O(log lines) for each who is found.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

from gpud.core.backfill import told_end
from gpud.core.queue import Line, Longest, job_of
from gpud.core.world import World
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

AGAIN_S: Seconds = 60.0
LOOKS = 128  # in the time of a bound that is long
DRAINED = 2.0  # times as long as all that is queued takes should nobody wait
STRICT = 1.25
GANG = 0.25


def starving(world: World, now: Timestamp) -> JobId | None:
    """Return who has waited longest of those who may start, if that is longer than anybody should wait."""
    every_s = world.rules.starvation_s
    if not every_s:
        return None
    rail = world.rail
    if rail.job is not None:
        line = world.queue.line(rail.job)
        if line is not None and line.aside is None:
            _latest(world, now)
            return rail.job
        rail.job = None
    elif rail.again_at is not None and now < rail.again_at:
        return None
    rail.again_at = None
    longest = _latest(world, now)
    if _first(world, longest) is None:
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


def gangs(world: World, now: Timestamp) -> Iterator[tuple[JobId, Terms]]:
    """Yield the jobs on several nodes that have waited for so long that they start wherever there is room.

    Who had waited longest at the last look comes first, and after each that starts the next of its line.
    """
    longest = world.rail.longest
    if longest is None or not world.rules.starvation_s:
        return
    latest_us = (now - longest.gang_s) * 1_000_000
    for since_us, _, line in longest.gangs:
        if since_us > latest_us:
            return
        tried = None
        while line.head is not None and line.aside is None and (job := job_of(line.head)) != tried:
            if world.queued_since_us(job) > latest_us:
                break
            yield job, line.terms
            tried = job


def _latest(world: World, now: Timestamp) -> Longest:
    """Return who has waited longest, as of a moment ago."""
    longest, again_s = world.rail.longest, min(AGAIN_S, world.rules.starvation_s / 8)
    if longest is None or now >= longest.at + max(again_s, longest.bound_s / LOOKS):
        longest = world.rail.longest = _look(world, now)
    return longest


def _look(world: World, now: Timestamp) -> Longest:
    lines = [line for line in world.queue.lines() if line.head is not None and line.aside is None]
    heads = [
        (world.queued_since_us(job), job, line)
        for line in lines
        if line.head is not None and _counts(world, job := job_of(line.head))
    ]
    reserves, every_s = world.policy.reserves, world.rules.starvation_s
    most_s = _drained_after_s(world, lines, now) * (DRAINED if reserves else 1.0)
    wide = sorted(head for head in heads if head[2].terms.demand.nodes > 1) if reserves else []
    heapify(heads)
    return Longest(
        at=now,
        bound_s=max(every_s, most_s),
        strict_s=max(every_s, STRICT * most_s),
        gang_s=max(every_s, GANG * most_s),
        heads=heads,
        gangs=wide,
    )


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
    gpus = world.census[-1][1] if world.census else 0
    lasts_s = world.predictor.seconds
    waiting = sum(line.count * line.terms.demand.gpu_weight * lasts_s(line.terms, line.burst) for line in lines)
    left = [(active.milli, told_end(world, active) - now) for active in world.active.values()]
    running = sum([milli * left_s for milli, left_s in left if left_s > 0]) / 1000
    return (waiting + running) / gpus if gpus else 0.0
