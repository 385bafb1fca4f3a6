"""What `stats` tells: how the queue stands, from the world; how it went, from the store; what deciding costs.

The history is read off the loop, and told again for a few seconds: who asks every second holds up nobody's listing.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

from gpud.core import census
from gpud.core.books import Tally
from gpud.core.commands import Asked
from gpud.core.cycle import Input, cycle
from gpud.core.outcome import Outcome
from gpud.core.queue import Line, job_of
from gpud.core.world import World
from gpud.instance import Instance
from gpud.model.effects import Launch
from gpud.model.job import format_job
from gpud.model.spec import Park
from gpud.model.units import Seconds, Timestamp
from gpud.store.history import Past
from gpud.wire.codec import Message
from gpud.wire.statistics import CountMap, CycleMap, LineMap, Percentiles, PeriodMap

PERIODS: tuple[tuple[str, Seconds], ...] = (("hour", 3_600.0), ("day", 86_400.0), ("week", 7 * 86_400.0))
_AGAIN_S = 5.0
_SMOOTH = 0.05  # the weight of the newest cycle in the average
_LINES = 20


class Cycles:
    """What deciding costs: the last time, and on average."""

    def __init__(self) -> None:
        self.told: CycleMap | None = None

    def timed(self, world: World, inputs: Sequence[Input], now: Timestamp) -> Outcome:
        """Run a cycle, and take note of what it cost, if it decided anything."""
        began = time.perf_counter()
        outcome = cycle(world, inputs, now)
        ms = 1000 * (time.perf_counter() - began)
        if inputs and all(isinstance(each, Asked) for each in inputs):
            return outcome  # somebody looked, and nothing was decided
        before = self.told
        self.told = {
            "ms": ms,
            "smoothed_ms": ms if before is None else before["smoothed_ms"] + _SMOOTH * (ms - before["smoothed_ms"]),
            "inputs": len(inputs),
            "starts": sum(isinstance(effect, Launch) for effect in outcome.effects),
            "count": 1 if before is None else before["count"] + 1,
        }
        return outcome


@dataclass(frozen=True, slots=True)
class _History:
    """What was read of the store at a moment, and who ran then: since when, and on how many GPUs."""

    at: Timestamp
    begun_at: Timestamp
    past: list[Past]
    running: list[tuple[Timestamp, float]]


class Statistics:
    """Answers `stats`."""

    def __init__(self, gpud: Instance, cycles: Cycles) -> None:
        self._gpud = gpud
        self._cycles = cycles
        self._history: _History | None = None

    async def answer(self) -> Message:
        """Return a `StatsReply`. Raises StoreError."""
        history = await self._read()
        world = self._gpud.world
        tenants = _counts(world.books.tenants) if world.tenants else []
        lines, more = _lines(world, self._gpud.clock())
        return {
            "jobs": _by_state(world),
            "users": _counts(world.books.users),
            "tenants": tenants,
            "lines": lines,
            "lines_more": more,
            "gpus": census.present(world),
            "periods": [
                _period(name, each, history, world) for (name, _), each in zip(PERIODS, history.past, strict=True)
            ],
            "cycle": self._cycles.told,
        }

    async def _read(self) -> _History:
        now = self._gpud.clock()
        known = self._history
        if known is not None and now < known.at + _AGAIN_S:
            return known
        first = [(each.job, each.since) for each in self._gpud.world.active.values() if each.place.attempt == 1]
        moments = [Timestamp(now - length_s) for _, length_s in PERIODS]
        past = await self._gpud.reader.run(lambda reader: reader.past(moments, first))
        begun = await self._gpud.reader.run(lambda reader: reader.begun_at())
        running = [(each.since, each.gpu_weight) for each in self._gpud.world.active.values()]
        self._history = _History(now, now if begun is None else begun, past, running)
        return self._history


def _by_state(world: World) -> dict[str, int]:
    states = Counter(type(active.state).__name__.lower() for active in world.active.values())
    held = sum(
        len(world.arrays[job].state.pending) if job in world.arrays else 1
        for job, parked in world.parked.items()
        if parked.place.park in {Park.HELD, Park.NEVER}
    )
    waiting = {"queued": world.books.all.queued - held, "held": held}
    return {**waiting, **{state: states[state] for state in ("starting", "running", "stopping")}}


def _counts(tallies: Mapping[str, Tally]) -> list[CountMap]:
    """Return who has jobs, those with the most first."""
    here = [(name, tally) for name, tally in tallies.items() if tally.queued or tally.running]
    here.sort(key=lambda each: (-each[1].milli, -each[1].queued, each[0]))
    return [
        {"name": name, "queued": tally.queued, "running": tally.running, "gpus": tally.milli / 1000}
        for name, tally in here
    ]


def _lines(world: World, now: Timestamp) -> tuple[list[LineMap], int]:
    """Return the lines with the most jobs in them, and how many more lines there are."""
    beside: Counter[Line] = Counter()  # an array stands in line once, for all of its elements
    for job, array in world.arrays.items():
        line = world.queue.line(job)
        if line is not None:
            beside[line] += len(array.state.pending) - 1
    sizes = [(line.count + beside[line], line) for line in world.queue.lines()]
    largest = nlargest(_LINES, sizes, key=lambda each: each[0])
    return [_line(world, line, jobs, now) for jobs, line in largest], len(sizes) - len(largest)


def _line(world: World, line: Line, jobs: int, now: Timestamp) -> LineMap:
    assert line.head is not None  # noqa: S101 - a line that is listed has somebody in it
    terms, head = line.terms, job_of(line.head)
    demand = terms.demand
    return {
        "user": terms.user,
        "tenant": terms.tenant,
        "jobs": jobs,
        "head": format_job(head),
        "head_waits_s": max(0.0, now - world.queued_since_us(head) / 1_000_000),
        "gpus": demand.gpus if demand.share_permille is None else demand.gpu_weight,
        "nodes": demand.nodes,
        "share": demand.shared,
        "mig": demand.mig,
        "gpu_memory_mib": demand.gpu_memory_mib if demand.share_mib is None else demand.share_mib,
        "gpu_type": demand.gpu_type,
        "pool": demand.pool,
        "cpus": demand.cpus,
        "memory_mib": demand.memory_mib or None,
        "time_limit_s": terms.time_limit_s,
        "estimate_s": terms.estimate_s,
        "retries": terms.retries,
        "retry_on": list(terms.retry_on),
    }


def _period(name: str, past: Past, history: _History, world: World) -> PeriodMap:
    """Return what a period was like: what the store says, and what runs since before or after it began."""
    now = history.at
    seconds = max(1.0, now - max(past.since, history.begun_at))
    there_s = census.there_s(world.census, Timestamp(now - seconds), now)
    starts = past.starts + sum(since >= past.since for since, _ in history.running)
    gpu_s = past.gpu_s + sum(max(0.0, now - max(since, past.since)) * count for since, count in history.running)
    return {
        "period": name,
        "seconds": seconds,
        "starts": starts,
        "starts_per_minute": 60 * starts / seconds,
        "ended": past.ended,
        "wait_s": _percentiles(past.waits_s),
        "turnaround_s": _percentiles(past.turnarounds_s),
        "sampled_every": past.every,
        "gpu_s": gpu_s,
        "utilization": gpu_s / there_s if there_s else None,
        "lost_gpu_s": past.lost_gpu_s,
    }


def _percentiles(values: tuple[Seconds, ...] | None) -> Percentiles | None:
    if values is None:
        return None
    p50, p90, p99 = values
    return {"p50": p50, "p90": p90, "p99": p99}
