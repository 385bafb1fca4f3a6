"""Fair shares: what was used is counted right, and who used least goes first, whatever others pour into the queue."""

from collections import defaultdict
from dataclasses import replace
from math import log
from random import Random

import pytest
from hypothesis import given, strategies as st
from playbook import Play, a_cluster, a_job, a_node
from tenancy import a_job_of, create

from gpud.core.choice import apply, world_of
from gpud.core.commands import ChoosePolicy, PutTenant
from gpud.core.cycle import cycle
from gpud.core.policies.parameters import Choice
from gpud.core.rules import Rules
from gpud.core.usage import HALF_LIFE_S, Usage
from gpud.model.job import Demand
from gpud.model.spec import Terms
from gpud.model.units import Timestamp
from gpud.simulator.cluster import read_cluster
from gpud.simulator.engine import Engine, Physics, runs_of
from gpud.simulator.trace import TraceJob

HOUR, WEEK = 3600.0, 7 * 86_400.0
MINUTE = 60.0

# -- what was used


def value_of(history, now, half_life_s):
    """What an account must be: each attempt's GPU-seconds where they happened, by summing up small pieces of time."""
    total = 0.0
    for since, lasted_s, gpus in history:
        pieces = 2000
        ages = (now - since - lasted_s * (piece + 0.5) / pieces for piece in range(pieces))
        total += gpus * lasted_s / pieces * sum(0.5 ** (age / half_life_s) for age in ages)
    return total


attempts = st.tuples(st.floats(0, 50 * HOUR), st.floats(0, 30 * HOUR), st.integers(1, 8), st.sampled_from("ab"))


@given(st.lists(attempts, max_size=12), st.sampled_from([HOUR, 24 * HOUR, WEEK]), st.integers(0, 12))
def test_use_is_right_to_the_second_against_the_history_also_after_a_restart(story, half_life_s, restart):
    usage, kept = Usage(half_life_s), {}
    story.sort(key=lambda each: each[0] + each[1])
    for number, (since, lasted_s, gpus, user) in enumerate(story):
        if number == restart:
            usage = Usage(half_life_s)
            usage.restore(kept.values())
        changes = usage.charge("lab", user, gpus * lasted_s, Timestamp(since), Timestamp(since + lasted_s))
        kept |= {(change.tenant, change.user): change for change in changes}
    now = Timestamp(100 * HOUR)
    for user in ("a", "b", None):
        history = [each[:3] for each in story if user in (each[3], None)]
        assert usage.account("lab", user, now).used_s == pytest.approx(value_of(history, now, half_life_s), abs=1.0)


def test_what_is_heard_of_late_counts_from_when_it_was():
    one, other = Usage(HOUR), Usage(HOUR)
    early, late = (0.0, HOUR), (5 * HOUR, 6 * HOUR)
    for usage, order in ((one, (early, late)), (other, (late, early))):
        for since, until in order:
            usage.charge("lab", "ada", until - since, Timestamp(since), Timestamp(until))
    now = Timestamp(7 * HOUR)
    assert one.account("lab", "ada", now).used_s == pytest.approx(other.account("lab", "ada", now).used_s)


def test_another_half_life_holds_from_now_on():
    usage = Usage(HOUR)
    usage.charge("lab", "ada", 1000.0, Timestamp(0.0), Timestamp(0.0))
    usage.settle(Timestamp(HOUR))
    usage.half_life_s = 2 * HOUR
    assert usage.account("lab", "ada", Timestamp(3 * HOUR)).used_s == pytest.approx(250.0)


def test_the_daemon_s_accounts_are_those_of_its_jobs_and_come_back_after_a_restart():
    play = a_cluster(gpus="4xH100")
    one, two = play.submit(a_job(), a_job(2, user="bob"))
    play.starts(one, two)
    play.later(HOUR)
    play.ends(one, code=1)
    play.later(HOUR)
    play.ends(two)
    now, rate = Timestamp(play.now), log(2) / HALF_LIFE_S
    for each in (play, play.restarted()):
        account = each.world.usage.account
        used_s = [account("", user, now).used_s for user in ("ada", "bob", None)]
        assert used_s[0] == pytest.approx(HOUR * (1 - rate * 1.5 * HOUR), abs=1.0)
        assert used_s[1] == pytest.approx(2 * 2 * HOUR * (1 - rate * HOUR), abs=1.0)
        assert used_s[2] == pytest.approx(used_s[0] + used_s[1])


# -- who goes first


def fair(play: Play, **parameters: float) -> Play:
    play._ask(ChoosePolicy(1, "fair_share", tuple(parameters.items())))
    return play


def use(play: Play, user: str, hours: float) -> None:
    """Have somebody use a GPU for so long."""
    jobs = play.submit(a_job(user=user))
    play.starts(*jobs)
    play.later(hours * HOUR)
    play.ends(*jobs)


def test_who_used_less_goes_first_and_priority_counts_among_ones_own():
    play = fair(a_cluster(gpus="1xH100"), head_start=WEEK)
    use(play, "ada", 2)
    use(play, "bob", 1)
    play.submit(a_job(user="eve"))
    ada, low, high = play.submit(a_job(user="ada", priority=9), a_job(user="bob"), a_job(user="bob", priority=1))
    order = []
    for _ in range(3):
        play.ends(*play.running)
        order += play.started
    assert order == [high, low, ada]


def test_what_was_used_long_ago_hardly_counts():
    play = fair(a_cluster(gpus="1xH100"), half_life=HOUR, head_start=WEEK)
    use(play, "ada", 5)
    play.later(20 * HOUR)
    use(play, "bob", 1)
    play.submit(a_job(user="eve"))
    bob, ada = play.submit(a_job(user="bob"), a_job(user="ada"))
    play.ends(*play.running)
    assert play.started == [ada]
    assert play.state(bob) == "queued"


def test_a_burst_into_free_gpus_shares_them_with_who_comes_in_the_same_moment():
    play = fair(a_cluster(gpus="8xH100"))
    play.submit(*(a_job(user="ada") for _ in range(20)), *(a_job(user="bob") for _ in range(20)))
    users = [active.terms.user for active in play.world.active.values()]
    assert (users.count("ada"), users.count("bob")) == (4, 4)


def test_shares_of_tenants_hold_within_a_cycle():
    play = fair(a_cluster(gpus="8xH100"))
    create(play, "small", share=1.0)
    create(play, "large", share=3.0)
    play.submit(*(a_job_of(tenant, user=f"{tenant}{n}") for tenant in ("small", "large") for n in range(20)))
    tenants = [active.terms.tenant for active in play.world.active.values()]
    assert (tenants.count("small"), tenants.count("large")) == (2, 6)


def test_who_was_away_saved_nothing_and_is_served_next_all_the_same():
    """A newcomer comes first once, and then the one job more that an hour's head start is worth, not for a week."""
    play = fair(a_cluster(gpus="1xH100"), head_start=HOUR)
    for _ in range(30):
        use(play, "ada", 1)
    play.submit(a_job(user="ada", limit=HOUR))
    play.submit(*(a_job(user="ada", limit=HOUR) for _ in range(9)), *(a_job(user="bob", limit=HOUR) for _ in range(9)))
    users = []
    for _ in range(12):
        play.later(HOUR)
        play.ends(*play.running)
        users += [play.world.active[job].terms.user for job in play.started]
    assert users[0] == "bob"
    assert users[:12].count("bob") <= 8
    assert "ada" in users[:4]


def test_who_comes_while_a_burst_starts_is_not_behind_what_that_was_expected_to_use():
    """Nobody knew how long the jobs of the burst would run, and they run for a second: that is all it had."""
    play = fair(a_cluster(gpus="4xH100"))
    play.submit(*(a_job(user="ada") for _ in range(20)))
    play.later(1)
    theirs = play.submit(*(a_job(user="bob") for _ in range(4)))
    play.ends(*play.running)
    assert play.started == theirs
    play.later(1)
    play.ends(*play.running)
    assert {play.world.active[job].terms.user for job in play.started} == {"ada"}


def test_who_moves_among_those_who_are_there_keeps_what_it_has_to_catch_up():
    play = fair(a_cluster(gpus="2xH100"), head_start=0.0)
    play.submit(a_job(2, user="eve"))
    (wide,) = play.submit(a_job(2, user="ada"))
    play.submit(*(a_job(user="bob") for _ in range(9)))
    play.ends(*play.running)
    assert play.started == [wide]


# -- over a simulated time


def simulated(jobs, cluster, until, shares):
    world = world_of(Rules(starvation_s=0.0), "boot")
    puts = [PutTenant(at, name, True, (("share", share),)) for at, (name, share) in enumerate(shares.items())]
    cycle(world, puts, Timestamp(0.0))
    apply(world, Choice("fair_share"))
    ordered = sorted(jobs, key=lambda job: job.submit_s)
    engine = Engine(world, read_cluster(cluster), runs_of(ordered, Physics()), Physics())
    engine.run(until)
    return engine.runs


def a_run(at, lasts_s, user, tenant="default", gpus=1):
    return TraceJob(at, lasts_s, Terms(demand=Demand(gpus=gpus), uid=1, user=user, tenant=tenant, name_group="x"))


@pytest.mark.parametrize(("small_h", "large_h"), [(2.0, 2.0), (8.0, 1.0), (1.0, 8.0)])
def test_two_tenants_who_always_have_work_get_their_shares_of_a_week(small_h, large_h):
    random, jobs = Random(1), []  # noqa: S311 - no secrets
    for tenant, hours in (("small", small_h), ("large", large_h)):
        for number in range(int(32 * WEEK / (2 * hours * HOUR))):
            lasts_s, gpus = random.expovariate(1 / (hours * HOUR)), random.choice((1, 1, 2, 4))
            jobs.append(a_run(0.0, lasts_s, f"{tenant}{number % 3}", tenant, gpus))
    had = defaultdict(float)
    for run in simulated(jobs, "4x8xV100", WEEK, {"small": 1.0, "large": 3.0}):
        had[run.job.terms.tenant] += run.had_s * run.job.terms.demand.gpus
    assert had["small"] / sum(had.values()) == pytest.approx(0.25, rel=0.02)


def test_a_burst_of_ten_thousand_jobs_delays_nobody_else_s_next_job():
    """Nine users keep a GPU each busy, and one more pours 10,000 jobs into the queue: they wait one job's time more."""
    random, at, jobs = Random(2), 24 * HOUR, []  # noqa: S311 - as above
    for user in range(9):
        jobs += [a_run(number * 30 * MINUTE, 25 * MINUTE, f"user{user}") for number in range(96)]
    jobs += [a_run(at, random.uniform(5, 30) * MINUTE, "burst") for _ in range(10_000)]
    runs = simulated(jobs, "1x10xV100", 2 * at, {})
    waits = [run.started_at - run.job.submit_s for run in runs if run.job.terms.user != "burst" and run.started_at]
    first = min(run.started_at for run in runs if run.job.terms.user == "burst" and run.started_at is not None)
    assert first - at <= 25 * MINUTE
    assert len(waits) >= 9 * 94
    assert max(waits) <= 30 * MINUTE


def test_fairness_survives_a_restart():
    play = fair(a_cluster(gpus="1xH100"))
    use(play, "ada", 3)
    play.submit(a_job(user="eve"))
    play.submit(a_job(user="ada"))
    (bob,) = play.submit(a_job(user="bob"))
    again = play.restarted()
    came, comes = (each.world.usage.account("", "bob", Timestamp(play.now)) for each in (play, again))
    assert comes.lifted_s == pytest.approx(came.lifted_s)
    assert came.lifted_s > 0.9 * HOUR
    again.ends(*again.running)
    assert again.started == [bob]


@pytest.mark.parametrize(("whose", "becomes"), [("ada", "preempted"), ("bob", "running")])
def test_a_priority_preempts_ones_own_jobs_and_nobody_elses(whose, becomes):
    play = fair(a_cluster(gpus="1xH100"))
    (runs,) = play.submit(replace(job := a_job(user="ada"), terms=replace(job.terms, preemptible=True)))
    play.starts(runs)
    play.later(HOUR)
    play.submit(a_job(user=whose, priority=1000))
    assert becomes in play.state(runs)


def test_among_those_who_used_nothing_a_priority_counts_for_nothing():
    play = fair(a_cluster(gpus="1xH100"))
    play.pause("a moment")
    _, low = play.submit(a_job(user="bob", priority=1000), a_job(user="ada", priority=-5))
    play.pause(None)
    assert play.started == [low]


def test_jobs_without_gpus_take_turns_too():
    play = fair(a_cluster(a_node("n1", "1xH100", cpus=4)))
    running = play.submit(*(a_job(0, user="ada", cpus=1) for _ in range(20)))[:4]
    play.starts(*running)
    (bob,) = play.submit(a_job(0, user="bob", cpus=1))
    play.ends(running[0])
    assert play.started == [bob]


def test_after_a_restart_they_stand_as_before_also_while_all_is_paused():
    play = fair(a_cluster(gpus="3xH100"))
    create(play, "ta")
    create(play, "tb", share=3)
    play.starts(*play.submit(*(a_job_of(tenant, user=tenant) for tenant in ("ta", "tb", "ta"))))
    play.pause("a moment")
    play.later(HOUR)
    jobs = play.submit(*(a_job_of(tenant, user=tenant, priority=each) for each in range(3) for tenant in ("ta", "tb")))
    before = [play.world.queue.position(job) for job in jobs]
    again = play.restarted()
    assert before == [6, 3, 5, 2, 4, 1]
    assert [again.world.queue.position(job) for job in jobs] == before
