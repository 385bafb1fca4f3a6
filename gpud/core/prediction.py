"""How long a job will run, from how long those like it did.

The mean of the last runs of the same user's jobs of the same name on as many GPUs; where there are none, of ever wider
circles, down to all jobs, though jobs without GPUs tell nothing of those with some. (Means beat medians and geometric
means, which guess long jobs too short.) Narrower than all are those that came with the job (see `bursts`); of these
who has run for longer than was expected counts before it ends, as half way through. What the user said comes first: an
estimate is taken for the answer; a time limit bounds it, and says more than any runs but those of the user's jobs of
that name. A prediction orders jobs; nobody is ever ended for it. Who may pass another that waits is judged more
carefully, by the longest of those runs: see `passing_s`.

Cost: about two microseconds to learn a run or to predict one. Memory: `KEPT` circles, the ones heard of last, and up to
half as many until the others are swept out.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import NamedTuple

from gpud.core.bursts import ALONE, Burst
from gpud.model.job import JobId
from gpud.model.spec import Terms
from gpud.model.units import Seconds, Timestamp

RUNS = 20  # of which the mean is taken
KEPT = 8_192
_Run = tuple[Timestamp, JobId, str]  # since when, and of what name
_since = itemgetter(0)
# Of the very same kind of job, before they let one pass, and by how much it may exceed the longest of them. With the
# mean in its place a job that changed its length delays others again and again; so it does once, and is known then.
ENOUGH = 5
MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Prediction:
    """How long a job is expected to run, from what that is known, and the number of runs that it is the mean of."""

    seconds: Seconds
    basis: str
    runs: int = 0


class _Runs:
    """The last runs of jobs that are alike, in whole milliseconds: their sum is exact."""

    __slots__ = ("cut_ms", "heard", "known_for", "ran_ms")

    def __init__(self) -> None:
        self.ran_ms: list[int] = []
        self.heard = 0  # when the last was heard of: see `Predictor`
        self.cut_ms = 0  # of one that was longer than these when something ended it; known for so many more runs
        self.known_for = 0

    def cut(self, ran_ms: int) -> None:
        """Take note of a run that failed or was stopped, and might have gone on."""
        if ran_ms > max(self.ran_ms) and not (self.known_for and ran_ms < self.cut_ms):
            self.cut_ms, self.known_for = ran_ms, RUNS

    @property
    def mean_s(self) -> Seconds:
        return sum(self.ran_ms) / len(self.ran_ms) / 1000

    @property
    def longest_s(self) -> Seconds | None:
        """The longest of them, or None where they are too few to go by."""
        cut_ms = self.cut_ms if self.known_for else 0
        return None if len(self.ran_ms) < ENOUGH else max(cut_ms, *self.ran_ms) / 1000


class _Told(NamedTuple):
    """An answer, which holds until a circle hears of another run, or one of those `beside` it runs for `late_s`."""

    answer: tuple[Seconds, int, int]
    circle: _Runs
    heard: int
    beside: Hashable
    late_s: Seconds


class Predictor:
    """What was learnt of runs. `assumed_s` is the answer where nothing is known at all; `now`: it is as of then."""

    def __init__(self, assumed_s: Seconds) -> None:
        self.assumed_s = assumed_s
        self._circles: dict[Hashable, _Runs] = {}
        self._of: dict[Terms, tuple[_Runs, ...]] = {}  # those circles, of terms that were learnt of
        self._heard = 0  # runs, until now
        self._learns = True
        self._told: dict[tuple[Terms, Burst], _Told] = {}
        self._running: dict[JobId, tuple[Hashable, _Run]] = {}  # in which burst
        self._came: dict[Hashable, list[_Run]] = {}  # those, in order
        self.now = Timestamp(0.0)

    def learn(self, terms: Terms, ran_s: Seconds, *, own_end: bool = True, burst: Burst = ALONE) -> bool:
        """Take note of a run; return whether `passing_s` of its like is another now.

        One that failed or was stopped tells only that its like may take as long, not what they take.
        """
        if not self._learns:
            return False
        ran_ms = round(ran_s * 1000)
        kind = self._kind(terms)
        before = None if kind is None else kind.longest_s
        if own_end:
            kind = self._add(terms, burst, ran_ms)
        elif kind is not None:
            kind.cut(ran_ms)
        return kind is not None and kind.longest_s != before

    def _add(self, terms: Terms, burst: Burst, ran_ms: int) -> _Runs:
        """Take a run into all its circles, and return the narrowest but for the burst's."""
        self._heard = heard = self._heard + 1
        circles = self._of.get(terms)
        if circles is None:
            circles = self._of[terms] = tuple([self._circle(key) for key in _keys(terms)])
        for runs in (*circles, *[self._circle(key) for key in _of_burst(terms, burst)]) if burst else circles:
            runs.heard = heard
            ran = runs.ran_ms
            ran.append(ran_ms)
            if len(ran) > RUNS:
                del ran[0]
        kind = circles[0]
        kind.known_for -= kind.known_for > 0
        if len(self._circles) > KEPT + KEPT // 2 or len(self._of) > KEPT:
            last = sorted(self._circles.items(), key=lambda each: each[1].heard)[-KEPT:]
            self._circles, self._of, self._told = dict(last), {}, {}
        return kind

    def _circle(self, key: Hashable) -> _Runs:
        return self._circles.get(key) or self._circles.setdefault(key, _Runs())

    def _kind(self, terms: Terms) -> _Runs | None:
        """Return the last runs of the very same kind of job."""
        if not self._circles:
            return None
        known = self._of.get(terms)
        return self._circles.get(kind_of_run(terms)) if known is None else known[0]

    def twin(self) -> "Predictor":
        """Return one that knows what this one does, and learns nothing by itself."""
        twin = Predictor(self.assumed_s)
        twin._circles, twin._of, twin._learns, twin.now = self._circles, self._of, False, self.now
        return twin

    def known(self, terms: Terms) -> bool:
        """Return whether there is anything to go by: an estimate, a time limit, or runs of its like."""
        told = terms.estimate_s is not None or terms.time_limit_s is not None
        return told or any(key in self._circles for key in _keys(terms))

    def begin(self, job: JobId, terms: Terms, burst: Burst, since: Timestamp) -> None:
        """Take note of a job of a burst that runs."""
        key, run = (terms.user, terms.demand.gpu_weight, burst), (since, job, terms.name_group)
        self._running[job] = key, run
        insort(self._came.setdefault(key, []), run)

    def end(self, job: JobId) -> None:
        """Take note that it does no more."""
        if job in self._running:
            key, run = self._running.pop(job)
            del self._came[key][bisect_left(self._came[key], run)]
            if not self._came[key]:
                del self._came[key]

    def seconds(self, terms: Terms, burst: Burst = ALONE) -> Seconds:
        """Return how long such a job is expected to run."""
        expected, limit_s = terms.estimate_s, terms.time_limit_s
        if expected is None:
            expected = self._together(terms, burst)[0] if burst else self._before(terms)[0]
        return expected if limit_s is None else min(expected, limit_s)

    def _before(self, terms: Terms) -> tuple[Seconds, _Runs | None]:
        """Return how long a job of which its user says nothing is expected to run, but for what came with it.

        With it comes the circle that hears of every run which might change that, or of a burst; None: no single one.
        """
        circles = self._of.get(terms)
        if circles is not None:
            return circles[0].mean_s, circles[_WIDER[0]]
        keys = _keys(terms) if self._circles else ()
        for key, wider in zip(keys if terms.time_limit_s is None else keys[:_LIKE], _WIDER, strict=False):
            if key in self._circles:
                return self._circles[key].mean_s, self._circles.get(keys[wider])
        return self.assumed_s if terms.time_limit_s is None else terms.time_limit_s, None

    def _together(self, terms: Terms, burst: Burst) -> tuple[Seconds, int, int]:
        """Return the same with it, from how many of that, and whether it is of any name (1) or of the job's (0).

        What was expected before counts as much as one of them: few may be unlike the rest.
        """
        told = self._told.get((terms, burst))
        if told is not None and told.circle.heard == told.heard:
            running = self._came.get(told.beside)
            if running is None or running[0][0] >= self.now - told.late_s:
                return told.answer
        expected, wider = self._before(terms)
        beside = terms.user, terms.demand.gpu_weight, burst
        running = self._came.get(beside)
        # Of an array's few, at first.
        overdue = running[: bisect_left(running, self.now - expected, key=_since)] if running else []
        answer = self._with(terms, burst, expected, overdue)
        if wider is not None and not overdue:
            if len(self._told) > KEPT:
                self._told.clear()
            self._told[terms, burst] = _Told(answer, wider, wider.heard, beside, expected)
        return answer

    def _with(self, terms: Terms, burst: Burst, expected: Seconds, overdue: list[_Run]) -> tuple[Seconds, int, int]:
        for anyone, key in enumerate(_of_burst(terms, burst)[: None if terms.time_limit_s is None else 1]):
            runs = self._circles.get(key)
            late = [2 * (self.now - since) for since, _, name in overdue if anyone or name == terms.name_group]
            count = len(late) + (0 if runs is None else len(runs.ran_ms))
            if count:
                ran_s = 0 if runs is None else sum(runs.ran_ms) / 1000
                return (expected + sum(late) + ran_s) / (1 + count), count, anyone
        return expected, 0, 0

    def passing_s(self, terms: Terms, under_way_s: Seconds = 0) -> Seconds:
        """Return for how long at most such a job may keep GPUs from who waits for them, to be let pass.

        As its user says: an estimate is believed while none of its like runs for longer, else who always says too
        little would always pass. Where nothing is said, longer than any of the last runs of its like, and than one of
        them that is under way has taken until now, and no longer than is assumed of a job.
        """
        if terms.time_limit_s is not None:
            return terms.time_limit_s
        if terms.estimate_s is not None:
            return terms.estimate_s if under_way_s <= terms.estimate_s else max(terms.estimate_s, self.assumed_s)
        kind = self._kind(terms)
        longest_s = None if kind is None else kind.longest_s
        return self.assumed_s if longest_s is None else min(MARGIN * max(longest_s, under_way_s), self.assumed_s)

    def likely_s(self, terms: Terms, burst: Burst) -> Seconds:
        """Return for how long such a job is as likely as not to run: half of the last runs of its like took no longer.

        Infinite where its user says how long, or too little is known.
        """
        if terms.time_limit_s is None and terms.estimate_s is None:
            for key in (*_of_burst(terms, burst), *_keys(terms)):
                runs = self._circles.get(key)
                if runs is not None and len(runs.ran_ms) >= ENOUGH:
                    return sorted(runs.ran_ms)[len(runs.ran_ms) // 2] / 1000
        return inf

    def expect(self, terms: Terms, burst: Burst = ALONE) -> Prediction:
        """Return how long such a job is expected to run, and from what that is known."""
        seconds = self.seconds(terms, burst)
        if terms.estimate_s is not None and seconds == terms.estimate_s:
            return Prediction(seconds, "its estimate")
        together_s, count, anyone = self._together(terms, burst) if burst else (seconds, 0, 0)
        if count and seconds == together_s:
            return Prediction(
                seconds, f"{count} of {_words(2 * anyone, terms)} that came with it, and what was known before"
            )
        found = [(circle, self._circles[key]) for circle, key in enumerate(_keys(terms)) if key in self._circles]
        if found and seconds == found[0][1].mean_s:
            circle, runs = found[0]
            return Prediction(seconds, _words(circle, terms), len(runs.ran_ms))
        return Prediction(seconds, "what is assumed of any job" if terms.time_limit_s is None else "its time limit")


def kind_of_run(terms: Terms) -> Hashable:
    """Return the narrowest circle that a job belongs to."""
    return terms.user, terms.name_group, terms.demand.gpu_weight


def _of_burst(terms: Terms, burst: Burst) -> tuple[Hashable, ...]:
    """Return the circles of those that came with a job, if that is known: of its name, then any."""
    user, gpus = terms.user, terms.demand.gpu_weight
    return ((user, terms.name_group, gpus, burst), (user, gpus, burst, None)) if burst else ()


def _keys(terms: Terms) -> tuple[Hashable, ...]:
    """Return the circles that a job belongs to, the narrowest first."""
    user, name, tenant, gpus = terms.user, terms.name_group, terms.tenant, terms.demand.gpu_weight
    some = "GPUs" if gpus else "none"
    return (user, name, gpus), (user, name, some), (user, gpus), (user, some), (tenant, gpus, None), gpus, some


_LIKE = 2  # of those are of the user's own jobs of that name
# Where among them the one stands that each run is in which might change what is known by the first, the second ...
_WIDER = (2, 3, 3, 3, 6, 6, 6)


def _words(circle: int, terms: Terms) -> str:
    count = terms.demand.gpu_weight
    gpus = f"on {count:g} {'GPU' if count == 1 else 'GPUs'}" if count else "without GPUs"
    some = "with GPUs" if count else "without GPUs"
    whose = f"{terms.user}'s" if terms.user else "nobody's"
    named = f"{whose} {terms.name_group}" if terms.name_group else f"{whose} unnamed"
    return (
        f"{named} jobs {gpus}",
        f"{named} jobs {some}",
        f"{whose} jobs {gpus}",
        f"{whose} jobs {some}",
        f"{terms.tenant or 'everybody'}'s jobs {gpus}",
        f"everybody's jobs {gpus}",
        f"everybody's jobs {some}",
    )[circle]
