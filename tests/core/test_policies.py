"""Policies: in which order each of them serves, and that they can be changed while jobs wait."""

from random import Random

import pytest
from hypothesis import given, settings, strategies as st
from playbook import Play, a_cluster, a_job, a_node

from gpud.core.choice import apply, in_force, values, world_of
from gpud.core.commands import ChoosePolicy, Done
from gpud.core.policies import POLICIES
from gpud.core.policies.las import Las
from gpud.core.policies.parameters import Choice
from gpud.core.queue import job_of
from gpud.core.rules import Rules
from gpud.model.job import Demand, JobId
from gpud.model.spec import Place, Terms
from gpud.simulator.cluster import read_cluster
from gpud.simulator.engine import Engine, Physics, runs_of
from gpud.simulator.trace import TraceJob

HOUR = 3600.0


def choose(play: Play, policy: str | None = None, *, reset: bool = False, **parameters: float | None) -> bool:
    reply = play._ask(ChoosePolicy(1, policy, tuple(parameters.items()), reset))
    assert isinstance(reply, Done)
    return reply.changed


def standing(play: Play) -> list[JobId]:
    """Return everybody in a line, in order."""
    return [job_of(entry) for _, entry in sorted(play.world.queue.standing())]


def served(play: Play, jobs: list[JobId]) -> list[int]:
    """End whatever runs, again and again, and return in which order these jobs started (numbered as submitted)."""
    order: list[JobId] = []
    while len(order) < len(jobs):
        play.ends(*play.running)
        order += [job for job in play.started if job in jobs]
    return [jobs.index(job) for job in order]


# -- each of them


def test_fcfs_serves_in_order_of_submission_whatever_the_priority():
    play = a_cluster(gpus="1xH100")
    choose(play, "fcfs")
    play.submit(a_job())
    jobs = play.submit(a_job(), a_job(priority=9), a_job(user="bob"), a_job(limit=1))
    assert served(play, jobs) == [0, 1, 2, 3]


def test_sjf_serves_the_smallest_expected_gpu_time_first():
    play = a_cluster(gpus="4xH100")
    choose(play, "sjf")
    play.submit(a_job(4))
    jobs = play.submit(a_job(4, limit=100), a_job(4), a_job(4, limit=10), a_job(1, limit=300), a_job(0, limit=900))
    assert play.state(jobs[4]) != "queued"  # it needs no GPU, and fits
    assert [jobs.index(job) for job in standing(play)] == [2, 3, 0, 1]


def test_sjf_serves_equals_by_priority():
    play = a_cluster(gpus="1xH100")
    choose(play, "sjf")
    play.submit(a_job())
    jobs = play.submit(a_job(), a_job(priority=1), a_job(priority=5))
    assert served(play, jobs) == [2, 1, 0]


def test_who_has_waited_for_too_long_is_served_first_and_all_lines_are_looked_at_once_for_all_of_them():
    play = a_cluster(gpus="1xH100", rules=Rules(starvation_s=HOUR))
    choose(play, "sjf")
    play.submit(a_job(estimate=2 * HOUR))
    users = [f"user{number}" for number in range(10)]
    jobs = play.submit(*(a_job(user=user, estimate=60.0 - at) for _ in range(2) for at, user in enumerate(users)))
    play.later(2 * HOUR)
    looked = None
    for job in jobs[:-1]:
        play.ends(*play.running)
        assert play.running == [job]
        looked = looked or play.world.rail.longest
        assert play.world.rail.longest is looked


def test_a_policy_can_be_chosen_while_somebody_waits_for_too_long():
    play = a_cluster(gpus="1xH100", rules=Rules(starvation_s=HOUR))
    _, *waiting = play.submit(*(a_job(user=user, estimate=60.0) for user in ("eve", "ada", "bob", "dan")))
    play.later(HOUR + 10)
    choose(play, "sjf")
    for job in waiting:  # within a minute: nobody looks again who else waits
        assert play.world.rail.job == job
        play.cancel(job)


def test_sjf_learns_from_what_has_just_ended():
    play = a_cluster(gpus="2xH100")
    choose(play, "sjf")
    short, long = play.submit(a_job(user="ada", limit=HOUR), a_job(user="bob", limit=HOUR))
    play.starts(short, long)
    bob, ada = play.submit(a_job(2, user="bob", limit=HOUR - 1), a_job(2, user="ada", limit=HOUR))
    assert standing(play) == [bob, ada]
    play.later(60)
    play.ends(short)
    play.later(600)
    play.ends(long)
    assert play.started == [ada]
    assert play.state(bob) == "queued"


def test_sjf_goes_on_with_what_came_with_a_short_one_before_what_came_with_a_long_one():
    play = a_cluster(gpus="1xH100")
    choose(play, "sjf")
    monday = play.submit(a_job(), a_job(), a_job())
    play.starts(monday[0])
    play.later(2 * HOUR)
    tuesday = play.submit(a_job(priority=9), a_job())
    play.ends(monday[0])
    assert play.started == [tuesday[0]]
    play.starts(tuesday[0])
    play.later(60)
    play.ends(tuesday[0])
    assert play.started == [tuesday[1]]
    choose(play, "priority")
    assert standing(play) == monday[1:]  # they stand in one line again


@pytest.mark.parametrize(("waited_h", "passes"), [(2.4, False), (2.6, True), (3.2, False)])
def test_whoever_has_waited_too_long_is_passed_by_who_is_likely_short_and_later_by_nobody(waited_h, passes):
    play = a_cluster(gpus="2xH100", rules=Rules(starvation_s=HOUR))
    play.submit(a_job(user="eve", estimate=3 * HOUR))
    play.starts(*play.running)
    (wide,) = play.submit(a_job(2, estimate=HOUR))
    play.later(1.5 * HOUR)
    for ran_s in [60.0] * 5 + [20_000.0]:
        play.world.predictor.learn(a_job(user="bob").terms, ran_s)
    play.later((waited_h - 1.5) * HOUR)
    (short,) = play.submit(a_job(user="bob"))
    assert play.reserved is not None
    assert play.reserved.job == wide
    assert (play.state(short) == "starting") is passes


def las_of(first_level: float, level_factor: float) -> Las:
    described = POLICIES["las"]
    values = described.values({"first_level": first_level, "level_factor": level_factor})
    policy = described.make(values, world_of(Rules(), "boot"))
    assert isinstance(policy, Las)
    return policy


def test_who_waits_for_several_nodes_goes_on_where_another_has_ended_before_what_is_shorter():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"), rules=Rules(starvation_s=HOUR))
    choose(play, "sjf")
    (first,) = play.submit(a_job(2, nodes=2, limit=5 * HOUR))
    play.starts(first)
    (second,) = play.submit(a_job(2, nodes=2, limit=HOUR))
    shorts = play.submit(*(a_job(user="bob", limit=0.1 * HOUR) for _ in range(4)))
    play.later(4 * HOUR)
    (third,) = play.submit(a_job(2, nodes=2, limit=HOUR))
    play.later(0.5 * HOUR)

    play.ends(first)
    assert play.started == [second], "it has waited for more than half as long as all that waits takes"
    play.starts(second)
    play.ends(second)
    assert play.started == list(shorts[:2])
    assert play.state(third) == "queued"


levels = st.builds(las_of, st.sampled_from([1.0, 900.0, 14_400.0]), st.sampled_from([1.5, 2.0, 4.0, 16.0]))


@given(levels, st.floats(0, 1e9), st.integers(0, 6))
def test_a_level_of_las_is_left_at_its_limit_and_not_before(las, attained_s, number):
    level = las.level(attained_s)
    limits_s = [las._first_s * las._factor**each for each in range(max(level, number) + 1)]
    assert (0.0 if level == 0 else limits_s[level - 1]) <= attained_s < limits_s[level]
    assert las.level(limits_s[number]) == number + 1


def test_las_puts_lower_levels_first_and_in_one_who_had_most_of_it_then_who_came_first():
    las = las_of(900.0, 4.0)
    places = [
        Place(queued_us=9, attained_s=899.0),
        Place(queued_us=8, attained_s=0.1),
        Place(queued_us=5, attained_s=0.0),
        Place(queued_us=6, attained_s=0.0),
        Place(queued_us=2, attained_s=3599.0),
        Place(queued_us=1, attained_s=900.0),
        Place(queued_us=3, attained_s=4000.0),
    ]
    assert sorted(places, key=las.order) == places
    assert las.order(Place(queued_us=7)) == 7


def test_las_lets_a_newcomer_preempt_who_had_more_but_not_who_had_as_much():
    play = a_cluster(gpus="2xH100")
    choose(play, "las", first_level=900.0, level_factor=4.0)
    old, young = play.submit(a_job(grace=0.0), a_job(grace=0.0))
    play.starts(old, young)
    (first,) = play.submit(a_job(2))
    play.later(800)
    assert play.state(first) == "queued"
    assert {play.state(job) for job in (old, young)} == {"running"}
    play.later(200)
    assert {play.state(job) for job in (old, young)} == {"stopping(preempted)"}
    play.ends(old, young, signal=15)
    play.later(100)
    assert play.state(first) == "starting"
    assert [play.state(job) for job in (old, young)] == ["queued", "queued"]
    assert standing(play) == [old, young]


# -- changing them

needs = st.fixed_dictionaries(
    {
        "gpus": st.integers(0, 3),
        "user": st.sampled_from(["ada", "bob"]),
        "priority": st.sampled_from([0, 0, 3, -2]),
        "limit": st.sampled_from([None, 60.0, 9000.0]),
    },
    optional={"array": st.just("0-2")},
)
names = st.sampled_from(sorted(POLICIES))


@settings(max_examples=60, deadline=None)
@given(st.lists(needs, max_size=14), st.lists(st.tuples(st.booleans(), names), min_size=1, max_size=4))
def test_a_change_of_policy_loses_no_place_and_is_what_a_restart_would_find(specs, changes):
    play = a_cluster(a_node("n1", "2xH100", cpus=4))
    jobs = play.submit(*(a_job(**spec) for spec in specs))
    before = standing(play)
    for pause, name in changes:
        if pause:
            play.pause("a while")
            play.requeue(*play.running)
            play.ends(*play.running, signal=15)
        who = set(standing(play))
        choose(play, name)
        assert who <= set(standing(play)) | set(play.world.active)
        assert standing(play) == standing(play.restarted())
        play.pause(None)
    choose(play, reset=True)
    assert in_force(play.world) == "priority"
    if not any(pause for pause, _ in changes):
        left = set(standing(play))
        assert standing(play) == [job for job in before if job in left]
    for job in jobs:
        assert play.world.active.get(job) is not None or play.world.waiting(job) is not None or job in play.world.arrays


def test_an_array_with_a_limit_runs_on_under_another_policy():
    play = a_cluster(gpus="4xH100")
    (array,) = play.submit(a_job(array="0-5%2"))
    play.requeue(*play.running)
    play.ends(*play.running, signal=15)
    for name in sorted(POLICIES):
        choose(play, name)
        assert len(play.running) == 2
        play.ends(play.running[0])
    while play.running:
        play.ends(*play.running)
    assert play.state(array) == "completed"


def test_what_was_chosen_is_there_after_a_restart_and_gone_after_a_reset():
    play = a_cluster()
    assert choose(play, "fair_share", half_life=7200.0)
    assert not choose(play, "fair_share", half_life=7200.0)
    again = play.restarted()
    assert in_force(again.world) == "fair_share"
    assert values(again.world, "fair_share")["half_life"] == 7200.0
    assert again.world.usage.half_life_s == 7200.0
    assert choose(again, half_life=None)
    assert values(again.world, "fair_share")["half_life"] == 7 * 86_400.0
    assert choose(again, reset=True)
    assert in_force(again.restarted().world) == "priority"


def test_a_policy_that_a_later_gpud_knew_is_not_missed():
    play = a_cluster()
    play.ledger.settings["policy"] = {"policy": "clairvoyant", "parameters": {"crystal_ball": 1.0, "half_life": 60.0}}
    again = play.restarted()
    assert in_force(again.world) == "priority"
    assert values(again.world, "fair_share")["half_life"] == 60.0


def test_the_configuration_names_the_policy_until_somebody_chooses():
    world = world_of(Rules(policy="sjf", parameters={"aging_per_hour": 2.0}), "boot")
    assert (in_force(world), values(world, "sjf")) == ("sjf", {"aging_per_hour": 2.0})


# -- all of them


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("seed", [1, 2])
def test_every_job_ends_and_the_same_trace_gives_the_same_schedule_whatever_the_policy(name, seed):
    def replay():
        random, at, jobs = Random(seed), 0.0, []  # noqa: S311 - no secrets
        for number in range(150):
            at += random.expovariate(1 / 300)
            demand = Demand(gpus=random.choice((0, 1, 1, 2, 4, 8)))
            user = f"user{number % 7}"
            terms = Terms(demand=demand, uid=1, user=user, tenant="default", name_group=f"n{number % 5}")
            jobs.append(TraceJob(at, random.expovariate(1 / 3000), terms, random.choice((0, 0, 1, 5))))
        world = world_of(Rules(), "boot")
        apply(world, Choice(name))
        engine = Engine(world, read_cluster("2x8xV100"), runs_of(jobs, Physics()), Physics())
        engine.run()
        return [(run.started_at, run.ended_at, run.preemptions) for run in engine.runs]

    schedule = replay()
    assert all(ended_at is not None for _, ended_at, _ in schedule)
    assert schedule == replay()
