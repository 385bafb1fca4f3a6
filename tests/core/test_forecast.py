"""Expected starts: what the scheduler then does, where all is known, and nothing where it is not."""

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import pytest
from hypothesis import example, given, settings, strategies as st
from playbook import NOON, a_job, a_node, a_real_cluster, a_start, an_end, element

from gpud.core.choice import world_of
from gpud.core.commands import Drain, Hold, Pause, Release, Submit
from gpud.core.cycle import cycle
from gpud.core.forecast import Expected, Forecast
from gpud.core.jobs import KILL_SLACK_S
from gpud.core.outcome import Outcome
from gpud.core.policies import POLICIES
from gpud.core.rules import Rules
from gpud.core.why import why
from gpud.core.world import World
from gpud.model.effects import Launch, Stop
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import JobId, Stopping, array_of, number_of
from gpud.model.observations import NodeSeen
from gpud.model.spec import JobSpec
from gpud.model.tenant import Limits
from gpud.model.units import Timestamp
from gpud.views.reasons import in_a_sentence

HOUR = 3600.0


@dataclass
class Lab:
    """A world in which every job takes exactly as long as was said, and what is stopped takes its whole grace."""

    world: World
    now: float = NOON
    ends: list[tuple[float, int, JobId, int]] = field(default_factory=list)
    starts: dict[JobId, float] = field(default_factory=dict)
    ended: dict[JobId, float] = field(default_factory=dict)
    out: Outcome = field(default_factory=lambda: Outcome(Timestamp(NOON)))

    def submit(self, *specs: JobSpec) -> list[JobId]:
        self._cycle(*(Submit(token, spec) for token, spec in enumerate(specs)))
        return [reply.job for _, reply in self.replies if getattr(reply, "job", None) is not None]

    def until(self, at: float) -> None:
        while True:
            nexts = [each for each in (self.out.wake_at, self.ends[0][0] if self.ends else None) if each is not None]
            if not nexts or min(nexts) > at:
                break
            self.now = min(nexts)
            over = []
            while self.ends and self.ends[0][0] <= self.now:
                _, _, job, attempt = heappop(self.ends)
                active = self.world.active.get(job)
                if active is not None and active.place.attempt == attempt:
                    stopped = isinstance(active.state, Stopping)
                    self.ended[array_of(job)] = self.now
                    over.append(an_end(job, attempt, self.now, **({"signal": 15} if stopped else {"code": 0})))
            self._cycle(*over)
            if not (self.world.active or self.world.parked) and not self.ends:
                break
        self.now = max(self.now, at)

    def _cycle(self, *inputs: object) -> None:
        self.out = cycle(self.world, inputs, Timestamp(self.now))
        self.replies = self.out.replies
        launched = []
        for effect in self.out.effects:
            active = self.world.active.get(getattr(effect, "job", None))
            if isinstance(effect, Stop):
                heappush(self.ends, (active.state.kill_at - KILL_SLACK_S, len(self.starts), effect.job, effect.attempt))
            elif isinstance(effect, Launch):
                for job in (effect.job, array_of(effect.job)):
                    self.starts.setdefault(job, self.now)
                lasts_s = self.world.expects_s[effect.job]
                heappush(self.ends, (self.now + lasts_s, len(self.starts), effect.job, effect.attempt))
                launched.append(a_start(effect.job, effect.attempt, self.now))
        if launched:
            replies = self.replies
            self._cycle(*launched)
            self.replies = replies

    @property
    def waiting(self) -> list[JobId]:
        """Return who waits and has never started: jobs, arrays with all their elements before them."""
        standing = [job for job, _ in self.world.queue._entries.items()]
        return [job for job in (*standing, *self.world.parked) if job not in self.starts]


def a_lab(*nodes, **rules):
    lab = Lab(world_of(Rules(**rules), "boot-1"))
    lab._cycle(*(NodeSeen(node) for node in nodes or (a_node(gpus="2xH100"),)))
    return lab


def forecast(lab, most=1000):
    found = Forecast(lab.world, Timestamp(lab.now), most)
    for _ in found.work():
        pass
    assert found.over
    return found


nodes = st.lists(st.sampled_from(["4xH100", "2xH100,2xT4", "2xT4"]), min_size=1, max_size=3)
specs = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([1, 1, 2, 4, 0]),
        "user": st.sampled_from(["ada", "bob", "eve"]),
        "estimate": st.sampled_from([20.0, 300.0, 4_000.0, 20_000.0, 90_000.0]),
    },
    optional={
        "priority": st.integers(-3, 3),
        "type": st.sampled_from(["H100", "T4"]),
        "cpus": st.integers(1, 30),
        "array": st.sampled_from(["0-3", "0-5%2"]),
        "begin": st.sampled_from([30.0, 5_000.0]),
        "after": st.just("the one before"),
        "preemptible": st.booleans(),
    },
)


def a_spec(said, before):
    said = dict(said)
    preemptible = said.pop("preemptible", None)
    after = said.pop("after", None) and before
    spec = a_job(said.pop("gpus"), **said, **({"after": before[-1]} if after else {}))
    return spec if preemptible is None else replace(spec, terms=replace(spec.terms, preemptible=preemptible))


ONE = {"gpus": 1, "user": "ada", "estimate": 20.0}
FOUR = {"gpus": 4, "user": "ada", "estimate": 4_000.0}


@settings(deadline=None)
@example(  # two wait for longer than a day, and one is found to
    ["4xH100"],
    [
        *([(0.0, ONE)] * 9),
        *[(0.0, {**ONE, "estimate": 4_000.0}), (0.0, FOUR), (500.0, {**FOUR, "estimate": 90_000.0})],
        *[(0.0, {**FOUR, "array": "0-3"}), (0.0, {**ONE, "priority": 3, "begin": 30.0, "after": "the one before"})],
        *[(0.0, {**ONE, "gpus": 2, "estimate": 20_000.0}), (500.0, {**ONE, "gpus": 2, "estimate": 90_000.0})],
    ],
    "fair_share",
    {},
)
@example(  # a quota is kept for who has waited for an hour when there is more of it
    ["4xH100"],
    [
        *([(0.0, ONE)] * 3),
        (0.0, {**ONE, "user": "eve", "estimate": 4_000.0, "after": "the one before", "array": "0-5%2"}),
        *[(0.0, ONE), (0.0, ONE), (0.0, {**ONE, "gpus": 2, "user": "eve"})],
        *[(0.0, {**ONE, "after": "the one before"}), (500.0, {**ONE, "after": "the one before"})],
    ],
    "fair_share",
    {"limits": Limits(gpus_per_user=3)},
)
@given(
    nodes,
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 10.0, 500.0]), specs), min_size=2, max_size=20),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([{}, {"limits": Limits(gpus_per_user=3)}, {"reservations": 3}, {"backfill": False}]),
)
def test_with_exact_estimates_and_nobody_new_it_is_what_the_scheduler_then_does(gpus, arrivals, policy, rules):
    lab = a_lab(*(a_node(f"n{at}", each) for at, each in enumerate(gpus)), policy=policy, **rules)
    known = []
    for later, said in arrivals:
        lab.until(lab.now + later)
        known += lab.submit(a_spec(said, known))
    waiting, unfinished = lab.waiting, {*lab.waiting, *map(array_of, lab.world.active)}

    expected = forecast(lab)
    lab.until(NOON + 80 * 86_400.0)

    told = {job: expected.expected(job).at for job in waiting}
    assert told == {job: lab.starts.get(job) for job in waiting}
    ends = {job: expected.ended(job) for job in unfinished}
    # With las equals take turns by preempting each other: which of them comes next differs by a hair.
    assert policy == "las" or ends == {job: lab.ended.get(job) for job in unfinished}


def test_behind_a_job_of_which_nobody_knows_how_long_it_runs_nobody_knows_when():
    lab = a_lab(a_node(gpus="2xH100"))
    endless, short = lab.submit(a_job(1), a_job(1, estimate=HOUR))
    after_short, after_endless, wide = lab.submit(a_job(1, estimate=HOUR), a_job(1, estimate=30 * HOUR), a_job(2))

    found = forecast(lab)

    assert found.expected(after_short) == Expected(NOON + HOUR)
    assert found.expected(after_endless) == Expected(NOON + 2 * HOUR)  # on the same GPU
    assert found.expected(wide) == Expected(behind=endless)
    assert short in lab.world.active
    ends = [found.ended(job) for job in (endless, short, after_short, wide)]
    assert ends == [None, NOON + HOUR, NOON + 2 * HOUR, None]


def test_what_is_learnt_after_its_start_makes_nothing_known_of_who_runs():
    lab = a_lab(a_node(gpus="2xH100"))
    endless, _ = lab.submit(a_job(1), a_job(1, estimate=60.0))
    lab.until(NOON + 90.0)
    (wide,) = lab.submit(a_job(2))

    assert lab.world.predictor.known(lab.world.active[endless].terms)
    assert forecast(lab).expected(wide) == Expected(behind=endless)


def test_what_follows_from_an_end_that_nobody_knows_is_not_known_either():
    lab = a_lab(a_node(gpus="1xH100"))
    (endless,) = lab.submit(a_job(1))
    following, last = lab.submit(a_job(1, estimate=60.0), a_job(1, estimate=60.0))
    (freed,) = lab.submit(a_job(0, after=endless))

    found = forecast(lab)

    assert [found.expected(job) for job in (following, last, freed)] == [Expected(behind=endless)] * 3


def test_a_limit_bounds_what_is_not_known_and_who_overruns_is_expected_soon():
    lab = a_lab(a_node(gpus="1xH100"))
    lab.submit(a_job(1, limit=HOUR))
    (job,) = lab.submit(a_job(1))
    assert forecast(lab).expected(job) == Expected(NOON + HOUR)

    lab.now += HOUR + 100.0  # and it still runs

    assert 0 < forecast(lab).expected(job).at - lab.now <= 120.0


@pytest.mark.parametrize("limit", [20 * HOUR, None])
def test_who_runs_for_twice_as_long_as_expected_is_taken_to_run_to_its_limit_or_nobody_knows_how_long(limit):
    lab = a_lab(a_node(gpus="1xH100"))
    (long,) = lab.submit(a_job(1, estimate=60.0, limit=limit))
    (job,) = lab.submit(a_job(1, estimate=60.0))

    lab.now += 100.0  # a little longer than expected: it is taken to be over soon, which is a guess
    (next_one,) = lab.submit(a_job(1, estimate=60.0))
    found = forecast(lab)
    assert 0 < found.expected(job).at - lab.now <= 120.0
    assert (found.expected(job).late, found.expected(next_one).late) == (long, long)
    assert [found.ended(each) for each in (long, job, next_one)] == [None] * 3, "nor when they end"

    lab.now += HOUR
    assert forecast(lab).expected(job) == (Expected(behind=long) if limit is None else Expected(NOON + limit))


def test_of_several_of_which_nobody_knows_when_they_end_the_one_on_the_gpu_that_is_waited_for_is_named():
    lab = a_lab(a_node(gpus="2xH100"))
    first, second = lab.submit(a_job(1, estimate=60.0), a_job(1, estimate=60.0))
    gpus = [lab.world.active[job].state.allocation.gpus[0] for job in (first, second)]
    waits = [*lab.submit(*(a_job(1, estimate=60.0, gpu_ids=(gpu,)) for gpu in gpus))]

    lab.now += HOUR  # both run for longer than anybody knows: both are expected to end at the same moment
    found = forecast(lab)

    assert [found.expected(job) for job in waits] == [Expected(behind=first), Expected(behind=second)]


def test_who_yields_is_told_that_it_is_soon_only_where_all_that_is_waited_for_may_end_any_moment():
    lab = a_lab(a_node(gpus="3xH100"))
    lab.submit(a_job(1, estimate=60.0), a_job(1, estimate=10 * HOUR))
    wide, small = lab.submit(a_job(3, estimate=60.0), a_job(1, estimate=20 * HOUR))

    lab.now += 100.0  # one of them is overdue; the third GPU is free
    told = in_a_sentence(lab.world, small, why(lab.world, small, lab.now), lab.now, forecast=forecast(lab))
    assert told.startswith(f"would delay job {number_of(wide)}, which may start in 9h58m")


def test_held_jobs_and_a_paused_queue_are_expected_at_no_time():
    lab = a_lab(a_node(gpus="1xH100"))
    lab.submit(a_job(1, estimate=60.0))
    held, waiting = lab.submit(a_job(1, estimate=60.0), a_job(1, estimate=60.0))
    lab._cycle(Hold(1, (held,)))

    assert forecast(lab).expected(held) is None
    assert forecast(lab).expected(waiting) == Expected(NOON + 60.0)

    known = forecast(lab)
    (newer,) = lab.submit(a_job(1, estimate=60.0))
    assert known.expected(newer) is None

    lab._cycle(Pause(1, "moving house", "ada"))
    assert forecast(lab).expected(waiting) == Expected()


@pytest.mark.parametrize("reason", ["", "a fan"])
def test_a_busy_gpu_that_is_drained_makes_no_room_by_its_jobs_end(reason):
    lab = a_lab(a_node(gpus="1xH100"))
    (running,) = lab.submit(a_job(1, estimate=60.0))
    lab._cycle(Drain(1, tuple(lab.world.gpus), (), reason))
    (waiting,) = lab.submit(a_job(1, estimate=60.0))
    found = forecast(lab)
    assert found.expected(waiting) == Expected()
    assert [found.ended(job) for job in (running, waiting)] == [NOON + 60.0, None]


def test_an_array_that_waits_for_its_own_elements_alone_is_expected_when_the_first_of_them_ends():
    lab = a_lab(a_node(gpus="4xH100"))
    (array,) = lab.submit(a_job(1, estimate=60.0, array="0-9%2"))
    assert forecast(lab).expected(array) == Expected(NOON + 60.0)


def test_what_is_told_of_an_array_is_of_its_elements_without_rows():
    lab = a_lab(a_node(gpus="1xH100"))
    lab.submit(a_job(1, estimate=60.0))
    (array,) = lab.submit(a_job(1, estimate=60.0, array="0-9"))
    first = element(array, 0)
    lab._cycle(Hold(1, (first,)), Release(1, (first,)))
    found = forecast(lab)
    assert (found.expected(first), found.expected(array)) == (Expected(NOON + 60.0), Expected(NOON + 120.0))


def test_of_a_long_queue_the_beginning_is_told_and_the_world_is_as_it_was():
    lab = a_lab(a_node(gpus="1xH100"))
    lab.submit(a_job(1, estimate=60.0))
    jobs = lab.submit(*(a_job(1, estimate=60.0) for _ in range(50)))
    before = [lab.world.queue.position(job) for job in jobs]

    found = forecast(lab, most=10)

    assert [found.expected(job).at for job in jobs[:10]] == [NOON + 60.0 * place for place in range(1, 11)]
    assert {found.expected(job) for job in jobs[10:]} == {Expected(beyond=True)}
    assert [lab.world.queue.position(job) for job in jobs] == before
    assert len(lab.world.active) == 1


def test_a_gpu_that_strangers_hold_is_not_counted_on():
    play = a_real_cluster("2xH100")
    (running,) = play.submit(a_job(1, estimate=HOUR))
    play.settle()
    other = next(gpu for gpu in play.hardware if not play.world.gpus[gpu].holders)
    play.hardware[other].lease = play.hardware[other].lease or ProcessIdentity(77, 1)
    play.look(other)
    one, two = play.submit(a_job(1, estimate=60.0), a_job(2, estimate=60.0))
    play.settle()

    found = forecast(play)

    assert running in play.world.active
    assert found.expected(one).at == pytest.approx(play.now + HOUR, abs=60.0)
    assert found.expected(two) == Expected()
