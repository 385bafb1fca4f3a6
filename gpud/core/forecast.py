"""When everybody who waits will start, if all goes as expected: the scheduler itself, run on a copy of the world.

Jobs take as long as is expected of them (an estimate, earlier runs of their like, a time limit; who overruns that a
little is expected to end soon; who is stopped, when its grace is over), nobody comes, nobody is cancelled, nothing
fails. The order, the placement, backfill, quotas and preemption are the real ones, since `cycle` decides here as there.

Where nothing is known of how long a job runs, or it has run for more than twice as long and may go on, what starts
because it ended starts nobody knows when, and so does what follows from that: `behind` names the job of which more
should be known. Beyond the first `MOST` jobs of the queue, or `FARTHEST_S` from now, nothing is told; who stands behind
those and could slip in between is left out of account. What follows from the end of a job that runs longer than
expected is a guess: `late` names it.

Cost: what the cycles cost that will decide it all, once (half a second for a thousand jobs); `work` yields after each,
and after every piece of the copy, which are a millisecond or two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from gpud.core.active import ActiveJob
from gpud.core.backfill import OVERRUN_S, expected_end, told_end
from gpud.core.cycle import cycle
from gpud.core.jobs import KILL_SLACK_S
from gpud.core.outcome import Outcome
from gpud.core.queue import job_of
from gpud.core.twin import Snapshot, fill, snapshot
from gpud.core.world import Array, World
from gpud.model.array import IndexSet
from gpud.model.changes import Queued
from gpud.model.effects import Launch, Stop
from gpud.model.gpu import GpuId, ProcessIdentity
from gpud.model.job import Exit, JobId, Stopping, array_of, index_of
from gpud.model.observations import Exited, Started
from gpud.model.units import Seconds, Timestamp

MOST = 1_000  # jobs of the queue that are looked at, and starts
FARTHEST_S: Seconds = 90 * 86_400.0
_IDLE = 100  # cycles in a row with nothing running: who waits then waits for something else
_NOBODY = ProcessIdentity(0, 0)


@dataclass(frozen=True, slots=True)
class Expected:
    """When a job starts, or (None) why nobody can tell.

    `behind` is the job of which nobody knows how long it runs, and `beyond` tells that too many come before. `late` is
    one that runs longer than expected and by whose end it starts, if only in the end: `at` is a guess then.
    """

    at: Timestamp | None = None
    behind: JobId | None = None
    late: JobId | None = None
    beyond: bool = False


class Forecast:
    """What was expected at one moment. `work` through it first; `until` is as far as it looked."""

    def __init__(self, world: World, now: Timestamp, most: int = MOST) -> None:
        self.now = self.until = now
        self.over = False  # worked through
        self._paused = world.paused is not None
        self._taken: Snapshot | None = snapshot(world, now, most)
        self._most = most
        self._starts: dict[JobId, Timestamp] = {}
        self._behind: dict[JobId, JobId] = {}  # who starts nobody knows when, by whose end
        self._unsure: dict[JobId, JobId] = {}  # who ends nobody knows when, by whose length
        self._overdue: set[JobId] = set()  # who runs longer than expected, and is expected to end soon
        self._guessed: dict[JobId, JobId] = {}  # those, and who runs because one of them ended
        self._late: dict[JobId, JobId] = {}  # who starts when one of them ends
        self._beyond = not self._taken.whole
        self._whole = self._taken.whole
        self._seen = self._taken.jobs
        self._ends: list[tuple[Timestamp, int, JobId, int]] = []
        self._made = 0
        self._roots: dict[GpuId, JobId] = {}  # devices that come free by the end of one that is unsure, or guessed
        self._ended: dict[JobId, Timestamp] = {}  # when jobs are over: of an array the last element that has started
        self._open: set[JobId] = set()  # of which nobody can tell when
        self._pending: dict[JobId, IndexSet] = {}  # elements that had no rows of their own
        self._left = self._seen  # who has not started, arrays as a whole among them

    def expected(self, job: JobId) -> Expected | None:
        """Return when a waiting job, or the first pending element of an array, starts.

        None where it did not wait for its turn, or not yet, when the world was looked at.
        """
        if job in self._behind:
            return Expected(behind=self._behind[job])
        if job in self._starts:
            return Expected(self._starts[job], late=self._late.get(job))
        seen = job in self._seen or array_of(job) in self._seen
        return Expected(beyond=self._beyond) if seen or not self._whole else None

    def ended(self, job: JobId) -> Timestamp | None:
        """Return when a job, or the last of an array, is over; None where nobody can tell."""
        return None if job in self._open or job in self._left else self._ended.get(job)

    @property
    def first_at(self) -> Timestamp | None:
        """Return the first moment after now at which something is expected to start: what is told may be old then."""
        return min((at for at in self._starts.values() if at > self.now), default=None)

    def work(self) -> Iterator[None]:
        """Find it all out, piece by piece."""
        taken, self._taken = self._taken, None
        if taken is None or self._paused:
            self.over = True
            return
        yield from fill(taken)
        world = taken.world
        assert world is not None  # noqa: S101 - it was filled
        self._pending = {key: array.state.pending for key, array in world.arrays.items()}
        for active in world.active.values():
            end, known = lasts_until(world, active, self.now)
            self._end(active.job, active.place.attempt, end)
            if not known:
                self._unsure[active.job] = active.job
            elif overdue(world, active, self.now) and not overruns(world, active, self.now):
                self._overdue.add(active.job)
                self._guessed[active.job] = active.job
            if not known or active.job in self._overdue:
                self._open.add(array_of(active.job))
        yield
        yield from self._play(world)
        self._left = _left(world)
        self.over = True

    def _play(self, world: World) -> Iterator[None]:
        told: list[Started] = []
        now: Timestamp | None = self.now
        idle = 0
        while now is not None and _anybody(world) and idle < _IDLE:
            if now > self.now + FARTHEST_S or len(self._starts) > 2 * self._most:
                if world.active:  # else it is no job that they wait for
                    self.give_up()
                return
            ended, root = self._due(world, now)
            out = cycle(world, [*told, *ended], now)
            self.until = now
            told = self._follow(world, out, root)
            idle = 0 if world.active else idle + 1
            nexts = [at for at in (out.wake_at, self._ends[0][0] if self._ends else None) if at is not None]
            now = now if told else min(nexts, default=None)
            yield

    def give_up(self) -> None:
        """Look no further: nothing is told of who has not started until here."""
        self._beyond = self.over = True

    def _end(self, job: JobId, attempt: int, at: Timestamp) -> None:
        self._made += 1
        self._ended[array_of(job)] = max(at, self._ended.get(array_of(job), at))
        heappush(self._ends, (at, self._made, job, attempt))

    def _due(self, world: World, now: Timestamp) -> tuple[list[Exited], JobId | None]:
        """Return who ends now, and by whose length one of them does so nobody knows when, or at a guess."""
        over: list[Exited] = []
        found: JobId | None = None
        while self._ends and self._ends[0][0] <= now:
            _, _, job, attempt = heappop(self._ends)
            active = world.active.get(job)
            if active is None or active.place.attempt != attempt:
                continue
            stopped = isinstance(active.state, Stopping)
            over.append(Exited(job, attempt, Exit(at=now, signal=15) if stopped else Exit(at=now, exit_code=0)))
            root = (self._behind if stopped else self._unsure).get(job, self._guessed.get(job))
            if root is not None and (found is None or found in self._overdue):
                found = root
            for gpu in active.state.allocation.all_gpus:
                self._roots.pop(gpu, None)
                if root is not None:
                    self._roots[gpu] = root
        return over, found

    def _follow(self, world: World, out: Outcome, root: JobId | None) -> list[Started]:
        """Take note of who starts and who is stopped; return what is to be told of it.

        Whoever starts, or waits for nobody else any more, as somebody ends nobody knows when, does so too.
        """
        told = []
        unsure = None if root in self._overdue else root
        for change in out.changes:
            if unsure is not None and isinstance(change, Queued) and change.word == "queued":
                self._behind.setdefault(change.job, unsure)
        for effect in out.effects:
            active = world.active.get(effect.job) if isinstance(effect, Stop | Launch) else None
            if active is None:
                continue
            if isinstance(active.state, Stopping):
                self._end(active.job, active.place.attempt, Timestamp(active.state.kill_at - KILL_SLACK_S))
                continue
            self._start(active, out.now, root, world.predictor.known(active.terms))
            self._end(active.job, active.place.attempt, Timestamp(out.now + world.expects_s[active.job]))
            told.append(Started(active.job, active.place.attempt, out.now, _NOBODY, _NOBODY))
        return told

    def _start(self, active: ActiveJob, now: Timestamp, root: JobId | None, known: bool) -> None:
        """Take note of a start; of an array's pending elements the first counts, and of a job preempted later too."""
        gpus, key, index = active.state.allocation.all_gpus, array_of(active.job), index_of(active.job)
        whose = (active.job, key) if index is not None and index in self._pending.get(key, ()) else (active.job,)
        roots = [*map(self._behind.get, whose), *map(self._roots.get, gpus), root]
        late = next((each for each in roots if each in self._overdue), None)
        root = next((each for each in roots if each is not None and each not in self._overdue), None)
        for job in whose:
            if job in self._starts or job in self._behind:
                continue
            if root is None:
                self._starts[job] = now
                if late is not None:
                    self._late[job] = late
            else:
                self._behind[job] = root
        self._unsure.pop(active.job, None)
        self._guessed.pop(active.job, None)
        if root is not None or not known:
            self._unsure[active.job] = root or active.job
        elif late is not None:
            self._guessed[active.job] = late
        if root is not None or late is not None or not known:
            self._open.add(array_of(active.job))


def _anybody(world: World) -> bool:
    """Return whether somebody waits, if only for others of its array, or will when it has been stopped."""
    if len(world.queue) or world.parked or any(map(_waits, world.arrays.values())):
        return True
    return any(isinstance(each.state, Stopping) for each in world.active.values())


def _left(world: World) -> set[JobId]:
    """Return who waits, arrays as a whole; also one of which an element does that somebody holds."""
    waiting = {array_of(job_of(entry)) for _, entry in world.queue.standing()} | {*map(array_of, world.parked)}
    return waiting | {key for key, array in world.arrays.items() if _waits(array)}


def _waits(array: Array) -> bool:
    """Return whether an element of an array waits, if only for others of it."""
    return bool(array.state.pending) or array.running < len(array.elements)


def lasts_until(world: World, active: ActiveJob, now: Timestamp) -> tuple[Timestamp, bool]:
    """Return when an active job ends, and whether anything is known of that."""
    end = expected_end(world, active, now)
    if isinstance(active.state, Stopping):
        return Timestamp(max(now, active.state.kill_at - KILL_SLACK_S)), True
    if not overruns(world, active, now):
        return end, _foreseen(world, active)
    limit_s = active.terms.time_limit_s
    return (end, False) if limit_s is None else (Timestamp(max(end, active.state.since + limit_s)), True)


def _foreseen(world: World, active: ActiveJob) -> bool:
    """Return whether anything was known of how long a job runs when it started: what is expected is from then."""
    terms = active.terms
    told = terms.estimate_s is not None or terms.time_limit_s is not None
    return told or (world.predictor.known(terms) and world.expects_s[active.job] != world.predictor.assumed_s)


def overdue(world: World, active: ActiveJob, now: Timestamp) -> bool:
    """Return whether a job runs longer than was expected: any moment that is told of its end is a guess."""
    return not isinstance(active.state, Stopping) and told_end(world, active) <= now


def overruns(world: World, active: ActiveJob, now: Timestamp) -> bool:
    """Return whether a job has run for so long that what was expected of it tells nothing any more."""
    expects_s = world.expects_s[active.job]
    return now - active.since > 2 * expects_s + OVERRUN_S
