"""The world outside, played: jobs come when the trace says so, run as long as it says, and stop when they are told.

Everything that happens at one moment is one batch of inputs, as it is for the daemon; a cycle decides, and what it
wants done comes back as observations: a launch is a start at once and an end after the job's work, a stop is an end.
What changes would be stored is dropped, what would be looked at is as the simulated inventory has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from gpud.core.commands import Accepted, Submit
from gpud.core.cycle import Input, cycle, start_matters
from gpud.core.world import World
from gpud.model.effects import Launch, Stop
from gpud.model.gpu import Node, ProcessIdentity
from gpud.model.job import Exit, JobId
from gpud.model.observations import Exited, NodeSeen, Started
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.simulator.trace import TraceJob

_NOBODY = ProcessIdentity(0, 0)
_IDLE_WAKES = 1000  # in a row, with nothing running and nobody coming: what waits then waits for ever
_TELL_EVERY = 512  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """How work takes to being moved: every duration is multiplied by `work`, a preemption costs `lost_s` of it.

    `anew`: whenever anything happens all jobs are packed anew, and it is everybody who runs that this costs `lost_s`.
    """

    work: float = 1.0
    lost_s: Seconds = 60.0
    anew: bool = False


@dataclass(slots=True)
class Run:
    """What became of one job of the trace. `ended_at` None: it had not ended when the simulation did."""

    job: TraceJob
    spec: JobSpec
    weight: float  # in GPUs; of who shares by memory, from the start on: the part that it has of what it got
    refused: bool = False
    timed_out: bool = False  # its own time limit ended it
    started_at: Timestamp | None = None  # for the first time
    ended_at: Timestamp | None = None
    left_s: Seconds = 0.0  # work
    preemptions: int = 0
    lost_s: Seconds = 0.0
    since: Timestamp | None = None  # while it runs
    attempt: int = 0
    end: int = 0  # the number of the end that it has coming
    had_s: Seconds = 0.0  # ran, in all


_End = tuple[float, int, Run, JobId]  # when (see `_late_s`), its number; a run that was stopped has another one coming


@dataclass(slots=True)
class Meter:
    """Use of the cluster over time: integrals of GPUs in use, and of GPUs idle while somebody waited."""

    gpus: float
    keep: bool = False
    at: Timestamp | None = None
    busy: float = 0.0
    waiting: int = 0
    busy_gpu_s: float = 0.0
    idle_gpu_s: float = 0.0
    waited_s: Seconds = 0.0
    series: list[tuple[Timestamp, float, int]] | None = None  # what was true from when on, for a plot

    def advance(self, now: Timestamp) -> None:
        """Count what was since the last time."""
        if self.at is not None:
            step = now - self.at
            self.busy_gpu_s += self.busy * step
            if self.waiting:
                self.waited_s += step
                self.idle_gpu_s += (self.gpus - self.busy) * step
        self.at = now


def runs_of(jobs: Sequence[TraceJob], physics: Physics) -> list[Run]:
    """Return the jobs of a trace, none of which has come yet."""
    specs: dict[tuple[int, int], JobSpec] = {}  # by what jobs that say the same share
    runs = []
    for job in jobs:
        alike = id(job.terms), job.priority
        spec = specs[alike] = specs.get(alike) or _spec(job.terms, job.priority)
        runs.append(Run(job, spec, job.terms.demand.gpu_weight, left_s=(job.duration_s or 0.0) * physics.work))
    return runs


class Engine:
    """One replay of `runs`, in the order in which they come, on a world that knows nothing yet."""

    def __init__(
        self, world: World, nodes: Sequence[Node], runs: Sequence[Run], physics: Physics, *, series: bool = False
    ) -> None:
        self.world = world
        self.physics = physics
        self.runs = runs
        self.meter = Meter(sum(len(node.gpus) for node in nodes), series=[] if series else None)
        self.cycles = 0
        self.wake_at: Timestamp | None = None
        self._come(0)
        self._run_of: dict[JobId, Run] = {}
        self._ends: list[_End] = []
        self._late_s: Seconds = 0.0  # for being packed anew, until now: so much later all ends come
        self._made = 0
        self._stopped: list[Exited] = []
        self._started: list[Started] = []
        first = runs[0].job.submit_s if runs else 0.0
        cycle(world, [NodeSeen(node) for node in nodes], Timestamp(first))

    def run(self, until: float = inf, tell: Callable[[float], None] = lambda _: None) -> None:
        """Let everything happen, up to a moment; `tell` hears now and then which part of the jobs has ended."""
        idle = 0
        while (now := self._next()) is not None and now <= until and idle < _IDLE_WAKES:
            before = self.meter.at
            self.meter.advance(now)
            inputs = self._due(now)
            if self.physics.anew and before is not None:
                self._pack_anew(min(self.physics.lost_s, now - before))
            idle = 0 if inputs or self.world.active or self._came < len(self.runs) else idle + 1
            self._cycle(inputs, now)
            if not self.cycles % _TELL_EVERY:
                tell((self._came - self.meter.waiting - len(self.world.active)) / len(self.runs))
        self._close(until)

    def _next(self) -> Timestamp | None:
        """Return when something happens next."""
        if self._stopped:
            return self.meter.at
        for each in self._started:
            if start_matters(self.world, self.world.active[each.job], each.at):
                return self.meter.at
        ends = self._ends
        while ends and ends[0][2].end != ends[0][1]:
            heappop(ends)
        now = ends[0][0] + self._late_s if ends else inf
        now = min(now, self._comes_at)
        if self.wake_at is not None and self.wake_at <= now:
            # Starts are told with what comes next, but before the core wonders what became of them.
            now = self.wake_at if self.meter.at is None or not self._started else self.meter.at
        return None if now == inf else Timestamp(now)

    def _due(self, now: Timestamp) -> list[Input]:
        """Return what happens now: starts that were not told yet, ends, then who comes."""
        inputs: list[Input] = [*self._started]
        self._started.clear()
        ends = self._ends
        while ends and ends[0][0] + self._late_s <= now:
            _, number, run, job = heappop(ends)
            if run.end == number:
                limit_s = run.job.terms.time_limit_s
                over = limit_s is not None and run.left_s > limit_s
                how = Exit(at=now, exit_code=15 if over else 0, timed_out=over)
                inputs.append(self._end(run, job, now, how))
        if self._stopped:
            inputs += self._stopped
            self._stopped.clear()
        while self._comes_at <= now:
            inputs.append(Submit(self._came, self.runs[self._came].spec))
            self._come(self._came + 1)
        return inputs

    def _come(self, number: int) -> None:
        """Let the next to come be of that number."""
        self._came = number
        self._comes_at = self.runs[number].job.submit_s if number < len(self.runs) else inf

    def _cycle(self, inputs: list[Input], now: Timestamp) -> None:
        meter = self.meter
        out = cycle(self.world, inputs, now)
        self.cycles += 1
        for token, reply in out.replies:
            if isinstance(reply, Accepted) and reply.job is not None:
                self._run_of[reply.job] = self.runs[token]
                meter.waiting += 1
            else:
                self.runs[token].refused = True
        for effect in out.effects:
            if isinstance(effect, Launch):
                self._launch(effect, now)
            elif isinstance(effect, Stop):
                self._stop(effect, now)
        wake_at = self.wake_at = out.wake_at
        assert wake_at is None or wake_at > now, "time stands still"  # noqa: S101 - ours
        if meter.series is not None:
            meter.series.append((now, meter.busy, meter.waiting))

    def _launch(self, effect: Launch, now: Timestamp) -> None:
        run = self._run_of[effect.job]
        terms = run.job.terms
        self._made += 1
        run.since, run.attempt, run.end = now, effect.attempt, self._made
        if run.started_at is None:
            run.started_at = now
        if terms.demand.share_mib is not None:
            run.weight = self.world.active[effect.job].gpu_weight
        lasts_s = run.left_s if terms.time_limit_s is None else min(run.left_s, terms.time_limit_s)
        heappush(self._ends, (now + lasts_s - self._late_s, self._made, run, effect.job))
        self._started.append(Started(effect.job, effect.attempt, now, _NOBODY, _NOBODY))
        self.meter.busy += run.weight
        self.meter.waiting -= 1

    def _pack_anew(self, lost_s: Seconds) -> None:
        """Let all that still run do so much of their work again, as nothing of it was done since the last time."""
        self._late_s += lost_s
        for job in self.world.active:
            run = self._run_of[job]
            if run.since is not None:
                run.left_s += lost_s
                run.lost_s += lost_s

    def _stop(self, effect: Stop, now: Timestamp) -> None:
        """End an attempt at once: what a job does with its grace is its own affair; what it loses is physics."""
        run = self._run_of[effect.job]
        if run.since is None or run.attempt != effect.attempt:
            return
        lost_s = 0.0 if self.physics.anew else self.physics.lost_s
        run.left_s += lost_s - (now - run.since)
        run.lost_s += lost_s
        run.preemptions += 1
        self._stopped.append(self._end(run, effect.job, now, Exit(at=now, signal=15)))

    def _end(self, run: Run, job: JobId, now: Timestamp, how: Exit) -> Exited:
        assert run.since is not None, job  # noqa: S101 - callers looked: only what runs ends
        run.had_s += now - run.since
        run.since, run.end = None, 0
        self.meter.busy -= run.weight
        if how.signal is None:
            run.ended_at, run.timed_out = now, how.timed_out
        else:
            self.meter.waiting += 1
        return Exited(job, run.attempt, how)

    def _close(self, until: float) -> None:
        """Count up to the last moment what still runs."""
        at = self.meter.at
        if at is None:
            return
        if until != inf and (self.world.active or self.meter.waiting):
            self.meter.advance(Timestamp(until))
            at = Timestamp(until)
        for run in self.runs:
            if run.since is not None:
                run.had_s += at - run.since


def _spec(terms: Terms, priority: int) -> JobSpec:
    """Return what is submitted."""
    return JobSpec(
        nonce="",
        terms=terms,
        name="",
        command=(),
        workdir="/",
        environment=b"",
        gid=0,
        groups=(),
        priority=priority,
    )
