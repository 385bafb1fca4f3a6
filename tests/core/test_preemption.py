"""Who gives way: when, once, and to whom."""

from dataclasses import replace

import pytest
from playbook import NOON, a_cluster, a_job, element
from tenancy import a_job_of, create, reserve

from gpud.core.policies import POLICIES
from gpud.core.rules import Rules
from gpud.model.job import array_of
from gpud.model.tenant import Limits
from gpud.model.window import Pool


def preemptible(spec):
    return replace(spec, terms=replace(spec.terms, preemptible=True))


def all_running(play, count, **said):
    jobs = play.submit(*(preemptible(a_job(1, **said)) for _ in range(count)))
    play.starts(*jobs)
    return jobs


def stopping(play):
    return [job for job in play.running if "preempted" in play.state(job)]


def test_a_victim_is_taken_as_soon_as_it_has_run_for_long_enough_with_nothing_else_happening():
    play = a_cluster(gpus="1xH100")
    (victim,) = all_running(play, 1)
    (urgent,) = play.submit(a_job(1, priority=5))
    assert play.state(victim) == "running"
    play.later(61)
    assert stopping(play) == [victim]
    play.ends(victim, signal=15)
    assert play.state(urgent) == "starting"
    assert play.state(victim) == "queued"


@pytest.mark.parametrize("estimate", [60.0, 1e6])
def test_one_job_of_one_gpu_takes_one_victim_however_long_that_has_overrun(estimate):
    play = a_cluster(gpus="4xH100")
    all_running(play, 4, estimate=estimate)
    play.later(3600)
    play.submit(a_job(1, priority=10))
    for _ in range(3):
        play.submit(a_job(0, cpus=1, limit=1))
        play.later(60)
    assert len(stopping(play)) == 1


def test_a_restart_while_somebody_goes_takes_nobody_else():
    play = a_cluster(gpus="4xH100")
    all_running(play, 4, estimate=1e5)
    play.later(3600)
    play.submit(a_job(1, priority=10))
    for _ in range(3):
        play = play.restarted()
        play.submit(a_job(0, cpus=1, limit=1))
    assert len(stopping(play)) == 1


def test_a_victim_that_is_late_to_go_costs_nobody_else():
    play = a_cluster(gpus="4xH100")
    all_running(play, 4, estimate=1e5)
    play.later(3600)
    play.submit(a_job(1, priority=10))
    play.later(600)
    play.submit(a_job(0, cpus=1, limit=1))
    assert len(stopping(play)) == 1


@pytest.mark.parametrize(("array", "at_once"), [("0-9", 3), ("0-9%2", 2)])
def test_an_array_takes_back_at_once_what_is_guaranteed_to_its_tenant(array, at_once):
    play = a_cluster(gpus="3xH100")
    create(play, "vision", guaranteed_gpus=3)
    create(play, "guests")
    play.submit(*(a_job_of("guests") for _ in range(6)))
    play.starts(*play.running)
    play.later(3600)
    (job,) = play.submit(a_job_of("vision", array=array))
    victims = stopping(play)
    assert len(victims) == at_once

    play.later(1)
    play = play.restarted()
    for victim in reversed(victims):
        play.ends(victim, signal=15)
        assert set(stopping(play)) < set(victims)

    assert [play.state(element(job, index)) for index in range(at_once)] == ["starting"] * at_once


@pytest.mark.parametrize(
    ("wanted", "at_once"),
    [
        ([{"array": "0-9"}], 4),
        ([{"array": "0-2"}], 3),
        ([{"array": "0-9%2"}], 2),
        ([{}, {}, {}], 3),
        ([{"user": "bob"}, {}, {"user": "eve"}], 3),
        ([{"gpus": 2}, {"array": "0-9"}], 4),
        ([{"user": "max", "array": "0-9"}], 2),
    ],
)
@pytest.mark.parametrize("reservations", [0, 1, 2])
def test_all_who_may_preempt_do_so_at_once_and_take_no_more_than_they_need(wanted, at_once, reservations):
    rules = Rules(reservations=reservations, limits=Limits(gpus_per_user=2 if wanted[0].get("user") == "max" else None))
    play = a_cluster(gpus="4xH100", rules=rules)
    for user in range(4):
        all_running(play, 1, user=f"user{user}", estimate=1e6)
    play.later(3600)

    urgent = play.submit(*(a_job(**{"gpus": 1, "priority": 5, "grace": 30.0, **each}) for each in wanted))
    victims = stopping(play)
    for _ in range(3):
        play.later(10)
        play.submit(a_job(0, cpus=1, limit=1))
    assert stopping(play) == victims
    assert len(victims) == at_once

    play.ends(*victims, signal=15)
    there = [job for job in play.running if array_of(job) in urgent]
    assert sum(len(play.gpus(job)) for job in there) == at_once
    assert not stopping(play)


def test_after_a_restart_what_those_leave_who_go_is_kept_for_the_tenant_that_takes_it_back():
    play = a_cluster(gpus="4xH100", rules=Rules(pools=(Pool(name="debug", gpus=("3",)),)))
    create(play, "vision", guaranteed_gpus=2)
    create(play, "guests")
    lent = play.submit(*(a_job_of("guests") for _ in range(6)))
    play.starts(*play.running)
    play.later(3600)
    first, second = play.submit(*(a_job_of("vision") for _ in range(2)))
    victims = stopping(play)
    assert len(victims) == 2

    play = play.restarted()
    for victim in victims:
        play.ends(victim, signal=15)

    assert stopping(play) == []
    assert [play.state(first), play.state(second)] == ["starting", "starting"]
    assert sum(play.state(job) == "running" for job in lent) == 1


def test_who_has_waited_for_too_long_preempts_by_the_policys_own_order_like_everybody_else():
    play = a_cluster(gpus="1xH100", rules=Rules(starvation_s=600.0))
    las = POLICIES["las"]
    play.world.set_policy(las.make(las.values({"first_level": 3600.0}), play.world))
    (victim,) = all_running(play, 1, estimate=60.0)
    (waiting,) = play.submit(a_job(1, estimate=60.0))
    play.later(1_200)
    assert play.world.rail.job == waiting
    play.later(3_600)
    assert stopping(play) == [victim]
    play.ends(victim, signal=15)
    assert play.state(waiting) == "starting"


def test_who_has_waited_for_too_long_preempts_nobody_for_that_but_may_as_soon_as_its_priority_is_higher():
    play = a_cluster(gpus="1xH100", rules=Rules(starvation_s=3600.0))
    (victim,) = all_running(play, 1, estimate=60.0)
    (urgent,) = play.submit(a_job(1, estimate=60.0))
    play.later(7_200)
    assert (play.world.rail.job, stopping(play)) == (urgent, [])
    play.prioritise(5, urgent)
    assert stopping(play) == [victim]
    play.later(10)
    play.ends(victim, signal=15)
    assert (play.state(urgent), play.state(victim)) == ("starting", "queued")
    play.starts(urgent)
    play.later(86_400)  # who was preempted starves by then, and yields all the same
    assert (play.state(urgent), play.state(victim)) == ("running", "queued")


@pytest.mark.parametrize("policy", ["priority", "las"])
def test_what_is_guaranteed_to_a_tenant_is_not_preempted_by_others_who_borrow(policy):
    play = a_cluster(gpus="1xH100", rules=Rules(preemptible=True))
    create(play, "A", guaranteed_gpus=1)
    create(play, "B")
    chosen = POLICIES[policy]
    play.world.set_policy(chosen.make(chosen.values({}), play.world))
    (own,) = play.submit(a_job_of("A", 1, user="ann", estimate=1e6))
    play.starts(own)
    play.submit(a_job_of("B", 1, user="bob", estimate=1e6, priority=10))
    play.later(90_000)
    assert play.state(own) == "running"


def test_under_las_priority_preempts_nobody():
    play = a_cluster(gpus="1xH100")
    chosen = POLICIES["las"]
    play.world.set_policy(chosen.make(chosen.values({}), play.world))
    (victim,) = all_running(play, 1)
    play.submit(a_job(1, priority=5))
    play.later(3_600)
    assert play.state(victim) == "running"


def test_the_first_in_line_starts_after_a_window_before_who_would_last_for_longer():
    play = a_cluster(gpus="4xH100")
    reserve(play, "n1-H100-0", at=30, until=60)
    first, later = play.submit(a_job(4, limit=300), a_job(1, limit=3_600))
    assert round(play.world.reservations[first].at - NOON) == 60
    assert play.state(later) == "queued"
