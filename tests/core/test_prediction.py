"""How long jobs are expected to run: as those like them did."""

from itertools import pairwise, product

import pytest
from hypothesis import given, strategies as st
from playbook import a_cluster, a_job

from gpud.core.bursts import LEAST, PART, PAUSE_S, Bursts
from gpud.core.prediction import KEPT, RUNS, Prediction, Predictor
from gpud.model.job import Demand, job_id
from gpud.model.spec import Terms

HOUR = 3600.0


def terms(user="ada", name="train", gpus=1, *, tenant="lab", limit=None, estimate=None):
    demand = Demand(gpus=gpus)
    return Terms(
        demand=demand, uid=1, user=user, tenant=tenant, name_group=name, time_limit_s=limit, estimate_s=estimate
    )


def after(*runs, assumed=24 * HOUR):
    """A predictor that saw these runs: (terms, seconds)."""
    predictor = Predictor(assumed)
    for known, ran_s in runs:
        predictor.learn(known, ran_s)
    return predictor


def test_where_nothing_is_known_the_limit_is_the_answer_or_what_is_assumed():
    assert after().expect(terms()) == Prediction(24 * HOUR, "what is assumed of any job")
    assert after().expect(terms(limit=HOUR)) == Prediction(HOUR, "its time limit")


def test_a_time_limit_says_more_than_runs_of_jobs_of_other_names():
    seen = after((terms(name="quick"), 1.0))
    assert seen.seconds(terms(name="train")) == 1.0
    assert seen.expect(terms(name="train", limit=40.0)) == Prediction(40.0, "its time limit")
    assert seen.seconds(terms(name="quick", gpus=2, limit=40.0)) == 1.0


def test_an_estimate_beats_history_and_the_limit_bounds_both():
    seen = after((terms(), 100.0))
    assert seen.expect(terms(estimate=7.0)) == Prediction(7.0, "its estimate")
    assert seen.expect(terms(estimate=7.0, limit=5.0)) == Prediction(5.0, "its time limit")
    assert seen.expect(terms(limit=50.0)) == Prediction(50.0, "its time limit")
    assert seen.expect(terms(limit=500.0)).seconds == 100.0


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (terms(), "ada's train jobs on 1 GPU"),
        (terms(gpus=4), "ada's train jobs with GPUs"),
        (terms(name="eval"), "ada's jobs on 1 GPU"),
        (terms(name="eval", gpus=4), "ada's jobs with GPUs"),
        (terms("bob"), "lab's jobs on 1 GPU"),
        (terms("bob", tenant="other"), "everybody's jobs on 1 GPU"),
        (terms("bob", tenant="other", gpus=4), "everybody's jobs with GPUs"),
    ],
)
def test_who_has_no_runs_of_their_own_is_expected_to_run_as_the_nearest_that_has(known, words):
    assert after((known, 60.0)).expect(terms()) == Prediction(60.0, words, 1)
    nearer = after((known, 60.0), (terms(), 1.0), (known, 60.0))
    assert nearer.expect(terms()).seconds == (1.0 if known != terms() else pytest.approx(121 / 3, abs=1e-3))


def test_jobs_without_gpus_tell_nothing_of_those_with_gpus():
    seen = after((terms(gpus=0), 0.1))
    assert seen.expect(terms()) == Prediction(24 * HOUR, "what is assumed of any job")
    assert seen.expect(terms(gpus=0)) == Prediction(0.1, "ada's train jobs without GPUs", 1)


somebody = st.builds(
    terms, st.sampled_from("ab"), st.sampled_from(["x", "y", ""]), st.integers(0, 2), tenant=st.sampled_from("tu")
)


@given(st.lists(st.tuples(somebody, st.integers(0, 10**6)), max_size=120), somebody)
def test_it_is_the_mean_of_the_last_runs_of_the_narrowest_circle_that_has_any(runs, asked):
    predictor = after(*runs)
    circles = (
        lambda t: (t.user, t.name_group, t.demand.gpus),
        lambda t: (t.user, t.name_group, t.demand.gpus > 0),
        lambda t: (t.user, t.demand.gpus),
        lambda t: (t.user, t.demand.gpus > 0),
        lambda t: (t.tenant, t.demand.gpus),
        lambda t: t.demand.gpus,
        lambda t: t.demand.gpus > 0,
    )
    alike = ([ran_s for known, ran_s in runs if circle(known) == circle(asked)][-RUNS:] for circle in circles)
    last = next((found for found in alike if found), [])
    expected = predictor.expect(asked)
    assert expected.runs == len(last)
    assert expected.seconds == (pytest.approx(sum(last) / len(last)) if last else 24 * HOUR)


def test_what_is_kept_is_bounded_and_what_was_heard_of_last_is_kept():
    predictor = after((terms("ada"), 5.0))
    for number in range(KEPT):
        predictor.learn(terms(f"user{number}"), 1.0)
    assert predictor.expect(terms(f"user{KEPT - 1}")).basis.startswith("user")
    assert predictor.expect(terms("ada")).basis == "lab's jobs on 1 GPU"


def test_what_is_kept_of_100_000_kinds_of_jobs_stays_bounded_and_is_what_was_heard_of_last():
    predictor, most = Predictor(24 * HOUR), 0
    often = terms("often", "often")
    for number in range(100_000):
        # Of each user eight names, of each of those jobs that say when they end, each in its own way.
        one = terms(f"user{number // 32}", f"name{number // 4 % 8}", limit=HOUR + number, tenant=f"of {number // 64}")
        predictor.learn(one, 100.0 + number, burst=number // 16 if number % 2 else 0)
        if number % 1000 == 0:
            predictor.learn(often, 7.0)
        most = max(most, len(predictor._circles), len(predictor._of))
        if number > 300 and number % 5_000 == 0:
            last = [terms(f"user{each // 32}", f"name{each // 4 % 8}") for each in range(number - 200, number)]
            own = [f"{each.user}'s {each.name_group} jobs on 1 GPU" for each in last]
            assert [predictor.expect(each).basis for each in last] == own
            runs = min(RUNS, 1 + number // 1000)
            assert predictor.expect(often) == Prediction(7.0, "often's often jobs on 1 GPU", runs)
    assert most <= KEPT + KEPT // 2 + 9
    assert len(predictor._of) <= KEPT


def test_jobs_that_came_to_their_own_end_are_learnt_from_and_others_are_not():
    play = a_cluster(gpus="4xH100")
    good, bad, stopped, late = play.submit(a_job(), a_job(), a_job(), a_job(limit=60))
    play.starts(good, bad, stopped, late)
    play.later(50)
    play.ends(bad, code=1)
    play.cancel(stopped)
    play.ends(stopped)
    play.later(50)
    play.ends(good)
    play.ends(late, code=15, timed_out=True)
    expected = play.world.predictor.expect(a_job().terms)
    assert expected.runs == 2
    assert expected.seconds == pytest.approx(100, abs=1)


# -- what came together


def first_of(bursts, jobs, known):
    """Return for each of these jobs which of them was the first of its burst."""
    firsts = [bursts.of(job_id(number), known) for number in jobs]
    return [next((number for number in jobs if job_id(number) == first), None) for first in firsts]


def test_a_burst_is_a_users_jobs_on_as_many_gpus_that_came_without_a_pause():
    bursts = Bursts()
    came = [(1, "ada", 1, 0), (2, "bob", 1, 1), (3, "ada", 1, 2), (4, "ada", 8, 3), (5, "ada", 1, PAUSE_S + 3)]
    for number, user, gpus, at in came:
        bursts.came(job_id(number), terms(user, f"name{number}", gpus), 10**15 + round(at * 1e6))
    bursts.came(job_id(3), terms(), 10**16)  # it is put back, much later
    assert first_of(bursts, [1, 3, 5], terms()) == [1, 1, 5]
    assert first_of(bursts, [4], terms(gpus=8)) == [4]
    assert bursts.of(job_id(5, 7), terms()) == job_id(5)  # an element
    assert bursts.of(job_id(4), terms("eve")) == 0
    twin = bursts.twin()
    twin.came(job_id(6), terms(), 10**16)
    assert first_of(bursts, [1, 6], terms()) == [1, None]
    assert twin.of(job_id(3), terms()) == job_id(1)


def test_a_long_row_of_jobs_is_several_bursts_and_not_many():
    bursts = Bursts()
    for number in range(1, 10_001):
        bursts.came(job_id(number), terms(), 10**15)
    firsts = sorted(set(first_of(bursts, range(1, 10_001), terms())))
    lengths = [later - first for first, later in pairwise(firsts)]
    assert lengths[:PART] == [LEAST] * PART
    assert lengths == sorted(lengths)
    assert len(firsts) < 50


def test_what_came_with_a_job_tells_more_of_it_than_what_was_before():
    seen = after(*[(terms(), 100.0)] * RUNS)
    for ran_s in (10.0, 30.0):
        seen.learn(terms(name="eval"), ran_s, burst=1)
    before_s = seen.seconds(terms())
    assert before_s == pytest.approx(100)
    expected = seen.expect(terms(), 1)
    assert expected.seconds == pytest.approx((100 + 10 + 30) / 3)
    assert expected.basis == "2 of ada's jobs on 1 GPU that came with it, and what was known before"
    seen.learn(terms(), 60.0, burst=1)
    assert seen.expect(terms(), 1).basis.startswith("1 of ada's train jobs on 1 GPU that came with it")
    assert seen.expect(terms(), 2) == seen.expect(terms())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=12), st.randoms(use_true_random=False))
def test_of_those_that_run_it_counts_since_when_and_not_who_was_noted_first(started, random):
    runs = [(job_id(number + 1), name, float(since)) for number, (name, since) in enumerate(started)]
    seen, other = after(assumed=3.0), after(assumed=3.0)
    seen.now = other.now = 10.0
    for job, name, since in runs:
        seen.begin(job, terms(name=name), 1, since)
    for job, name, since in random.sample(runs, len(runs)):
        other.begin(job, terms(name=name), 1, since)
    for job, _, _ in random.sample(runs, len(runs)):
        late = [2 * (10.0 - since) for each, name, since in runs if name == "a" and since < 7 and each in seen._running]
        if late:
            assert seen.seconds(terms(name="a"), 1) == pytest.approx((3.0 + sum(late)) / (1 + len(late)))
        assert other.seconds(terms(name="a"), 1) == seen.seconds(terms(name="a"), 1)
        seen.end(job)
        other.end(job)
    assert [seen._running, seen._came, other._came] == [{}, {}, {}]


def test_who_runs_for_longer_than_expected_tells_that_of_those_that_came_with_it():
    seen = after((terms(), 100.0))
    seen.begin(job_id(1), terms(), 1, 1000.0)
    seen.now = 1090.0
    assert seen.seconds(terms(), 1) == 100
    seen.now = 1200.0
    assert seen.seconds(terms(), 1) == (100 + 400) / 2
    assert seen.seconds(terms(limit=120), 1) == 120
    seen.end(job_id(1))
    assert seen.seconds(terms(), 1) == 100


KINDS = [(terms("ada", name, gpus), burst) for name, gpus, burst in product(("train", "eval"), (1, 2), (1, 2))]
KINDS.append((terms("bob"), 1))
HAPPENED = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.sampled_from(KINDS), st.sampled_from([1.0, 5.0, 50.0])),
        st.tuples(st.just("begin"), st.sampled_from(KINDS), st.integers(1, 9)),
        st.tuples(st.just("end"), st.none(), st.integers(1, 9)),
        st.tuples(st.just("later"), st.none(), st.sampled_from([1.0, 10.0])),
    ),
    max_size=25,
)


def tell(predictor, what, kind, much):
    """Let something happen to a predictor."""
    match what:
        case "learn":
            predictor.learn(kind[0], much, burst=kind[1])
        case "begin":
            predictor.end(job_id(much))
            predictor.begin(job_id(much), *kind, predictor.now)
        case "end":
            predictor.end(job_id(much))
        case "later":
            predictor.now += much


@given(HAPPENED)
def test_what_was_asked_before_changes_no_answer(happened):
    often = after(assumed=9.0)
    for count, event in enumerate(happened, 1):
        tell(often, *event)
        never = after(assumed=9.0)
        for each in happened[:count]:
            tell(never, *each)
        for kind in KINDS:
            assert often.expect(*kind) == never.expect(*kind)
            assert often.seconds(*kind) == never.seconds(*kind)


def test_those_that_came_together_are_known_for_it_after_a_restart():
    play = a_cluster(gpus="1xH100")
    runs, waits = play.submit(a_job(), a_job())
    play.starts(runs)
    bursts = play.restarted().world.bursts
    assert [bursts.of(job, a_job().terms) for job in (runs, waits)] == [runs, runs]
