"""Who gives way: when, once, and to whom."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st
from playbook import NOON, a_cluster, a_job, a_node, element
from tenancy import a_job_of, create, reserve

from gpud.core.commands import ChoosePolicy
from gpud.core.obstacles import obstacles
from gpud.core.policies import POLICIES
from gpud.core.rules import Rules
from gpud.core.waits import OverQuota, YieldsTo
from gpud.model.job import array_of
from gpud.model.tenant import Limits
from gpud.model.window import Pool

HOUR = 3600.0


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


@pytest.mark.parametrize("late_s", [1, 600])
def test_what_those_leave_who_gave_way_nobody_else_has_however_short_and_however_late_the_last_is(late_s):
    play = a_cluster(gpus="2xH100")
    early, late = all_running(play, 2, estimate=1e5)
    play.later(3600)
    shorts = play.submit(*(a_job(1, limit=5, estimate=5) for _ in range(3)))
    (urgent,) = play.submit(a_job(2, priority=9))
    assert stopping(play) == [early, late]
    play.ends(early, signal=15)
    for _ in range(3):
        play.later(late_s)
        assert [play.state(job) for job in (early, *shorts)] == ["queued"] * 4
    play.ends(late, signal=15)
    assert play.state(urgent) == "starting"


@pytest.mark.parametrize("by_guarantee", [True, False])
def test_short_jobs_one_after_the_other_do_not_keep_out_whom_they_have_to_give_way_to(by_guarantee):
    play = a_cluster(gpus="3xH100", rules=Rules(preempt_after_s=60))
    if by_guarantee:
        create(play, "vision", guaranteed_gpus=3)
        create(play, "guests")
    spec = a_job_of("guests") if by_guarantee else a_job(1)
    guests = play.submit(*(preemptible(spec) for _ in range(40)))
    play.starts(*play.running)
    play.later(50)
    old, *young = play.running
    play.ends(*young)
    play.starts(*(job for job in play.running if job != old))
    (asked,) = play.submit(a_job_of("vision", 3) if by_guarantee else a_job(3, priority=5))
    for _ in range(4):
        play.later(20)
        going, stays = stopping(play), [job for job in play.running if job not in stopping(play)]
        play.ends(*stays[1:2])
        play.ends(*going, signal=15)
        play.starts(*(job for job in play.running if job in guests and "starting" in play.state(job)))
    assert play.state(asked) in {"starting", "running"}


def test_who_will_preempt_once_others_end_starts_then_and_no_other_is_let_pass_for_longer():
    play = a_cluster(gpus="4xH100")
    (stays,) = play.submit(a_job(1, limit=200))
    (gives,) = play.submit(preemptible(a_job(2, limit=7200, grace=2.0)))
    play.starts(stays, gives)
    play.later(100)
    (urgent,) = play.submit(a_job(4, priority=9, limit=600))
    long, short = play.submit(a_job(1, limit=3600), a_job(1, limit=30))
    assert [play.state(job) for job in (long, short)] == ["queued", "starting"]
    assert play.world.reservations[urgent].at < play.now + 200
    play.starts(short)
    play.later(60)
    play.ends(short)
    assert stopping(play) == []
    play.ends(stays)
    assert stopping(play) == [gives]
    play.ends(gives, signal=15)
    assert play.state(urgent) == "starting"


@pytest.mark.parametrize(("limit", "victims"), [(60, 0), (20, 2)])
def test_nobody_is_preempted_for_who_would_run_into_a_window_once_they_are_gone(limit, victims):
    play = a_cluster(gpus="2xH100")
    all_running(play, 2, limit=2000, grace=20.0)
    play.later(600)
    reserve(play, "n1-H100-0", "n1-H100-1", at=100, until=200)
    (urgent,) = play.submit(a_job(2, priority=9, limit=limit))
    assert len(stopping(play)) == victims
    play.ends(*stopping(play), signal=15)
    assert play.state(urgent) == ("starting" if victims else "queued")


def test_a_restart_while_those_of_a_gang_and_of_another_go_takes_nobody_else():
    play = a_cluster(a_node("n1", gpus="4xH100"), a_node("n2", gpus="4xH100"))
    all_running(play, 8, estimate=1e5)
    play.later(3600)
    (gang,) = play.submit(a_job(4, nodes=2, priority=5))
    (other,) = play.submit(a_job(2, priority=4))
    victims = stopping(play)
    assert len(victims) == 6
    play = play.restarted()
    assert stopping(play) == victims
    play.ends(*victims, signal=15)
    assert [play.state(gang), play.state(other)] == ["starting", "starting"]


def test_who_waits_for_others_to_end_before_any_give_way_reserves_only_as_one_of_so_many():
    play = a_cluster(a_node("n1", gpus="3xH100"), a_node("n2", gpus="3xH100"))
    stay = play.submit(*(a_job(1, limit=9000, spread=True) for _ in range(2)))
    give = play.submit(*(preemptible(a_job(1, limit=20000, spread=True)) for _ in range(2)))
    play.starts(*stay, *give)
    play.later(100)
    for _ in range(4):
        play.submit(a_job(3, priority=5, limit=600))
        play.later(10)
        assert [(kept.yielding <= set(give), kept.taken) for kept in play.world.reservations.values()] == [
            (True, False)
        ]
    assert play.world.reservations.keys() == {min(play.world.reservations)}
    (passes,) = play.submit(a_job(1, limit=7200))
    assert play.state(passes) == "starting"


def test_nobody_is_stopped_for_who_waits_for_another_that_overruns_its_estimate():
    play = a_cluster(gpus="4xH100")
    (stays,) = play.submit(a_job(1, estimate=200))
    (gives,) = play.submit(preemptible(a_job(2, limit=72000, grace=2.0)))
    play.starts(stays, gives)
    play.later(100)
    play.submit(a_job(4, priority=9, limit=600))
    play.later(3600)
    assert play.state(gives) == "running"


def test_a_quota_is_kept_for_whom_others_are_stopped_until_these_are_gone():
    play = a_cluster(
        a_node("n1", "2xH100"), a_node("n2", "1xH100"), rules=Rules(preemptible=True, limits=Limits(gpus_per_user=2))
    )
    (victim,) = play.submit(a_job(2, user="eve"))
    play.starts(victim)
    play.later(HOUR)
    urgent, small = play.submit(a_job(2, user="bob", priority=9), a_job(1, user="bob"))
    assert stopping(play) == [victim]
    assert isinstance(play.why(small), YieldsTo)
    assert all(each.enough for each in obstacles(play.world, small, a_job(1).terms, play.now).denied)
    (other,) = play.submit(a_job(1, user="ada"))
    assert play.state(other) == "starting"

    play.later(1)
    play.ends(victim, signal=15)
    assert play.state(urgent) == "starting"
    assert isinstance(play.why(small), OverQuota)


def test_who_waits_for_a_quota_that_is_kept_has_it_once_it_is_not():
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True, limits=Limits(running_per_user=1)))
    victims = all_running(play, 1, user="eve") + all_running(play, 1, user="max")
    play.later(HOUR)
    urgent, small = play.submit(a_job(2, user="bob", priority=9), a_job(0, cpus=1, user="bob"))
    assert stopping(play) == victims
    assert isinstance(play.why(small), YieldsTo)
    play.cancel(urgent)
    assert play.state(small) == "starting"


def test_what_is_kept_for_whom_others_are_stopped_is_not_given_away_on_the_end_that_somebody_else_expects():
    play = a_cluster(a_node("n1", "1xH100", cpus=4), rules=Rules(preemptible=True))
    (victim,) = play.submit(a_job(0, cpus=1))
    play.starts(victim)
    play.later(HOUR)
    (urgent,) = play.submit(a_job(1, share_permille=500, cpus=4, priority=5))
    assert stopping(play) == [victim]
    (beside,) = play.submit(a_job(1, share_permille=500, limit=9 * HOUR, estimate=20))
    play.starts(beside)
    (late,) = play.submit(a_job(1, share_permille=500, limit=9 * HOUR))
    assert play.state(late) == "queued"
    play.ends(victim, signal=15)
    assert play.state(urgent) == "starting"


def test_an_array_that_starves_stops_nobody_beyond_its_throttle():
    play = a_cluster(gpus="4xH100", rules=Rules(preemptible=True, starvation_s=HOUR))
    all_running(play, 4, estimate=60)
    (array,) = play.submit(a_job(1, array="0-9%2", estimate=60))
    play.later(2 * HOUR)
    assert not stopping(play)
    play.prioritise(5, array)
    for _ in range(3):
        assert len(stopping(play)) == 2
        play.later(1)
        play.submit(a_job(0, cpus=1))


@pytest.mark.parametrize("ones", [4, 9])
def test_those_are_stopped_that_together_lose_least_however_little_each_of_others_loses(ones):
    play = a_cluster(gpus=f"{ones + 4}xH100", rules=Rules(preemptible=True))
    for _ in range(ones):
        all_running(play, 1)
        play.later(HOUR)
    (wide,) = play.submit(a_job(4))
    play.starts(wide)
    play.later(1.9 * HOUR)
    play.submit(a_job(4, priority=9))
    assert stopping(play) == [wide]  # 7.6 GPU-hours; the youngest four of the others have 13.6 together


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 1, 2, 4]), st.sampled_from([60, 600, HOUR])), min_size=2, max_size=8),
    st.sampled_from([1, 2, 4, 8]),
)
def test_no_other_set_of_victims_on_a_node_loses_less(jobs, wanted):
    play = a_cluster(gpus="8xH100", rules=Rules(preemptible=True))
    for gpus, later in jobs:
        (job,) = play.submit(preemptible(a_job(gpus)))
        if job in play.started:
            play.starts(job)
        play.later(later)
    play.later(100)
    running = [play.world.active[job] for job in play.running]
    free = 8 - sum(len(each.state.allocation.all_gpus) for each in running)
    play.submit(a_job(wanted, priority=9))

    gone = stopping(play)
    lost = {each.job: len(each.state.allocation.all_gpus) * (play.now - each.since) for each in running}
    enough = (
        those
        for count in range(len(running) + 1)
        for those in combinations(running, count)
        if free + sum(len(each.state.allocation.all_gpus) for each in those) >= wanted
    )
    assert sum(lost[job] for job in gone) == pytest.approx(
        min(sum(lost[each.job] for each in those) for those in enough)
    )


def test_of_an_array_that_has_no_more_room_those_for_whom_others_are_stopped_start_first_wherever_there_is_room():
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True))
    (victim,) = all_running(play, 1)
    (other,) = play.submit(a_job(1, priority=5))
    play.starts(other)
    play.later(HOUR)
    (array,) = play.submit(a_job(1, array="0-3%1", priority=5))
    assert stopping(play) == [victim]
    play.ends(other)
    assert play.state(element(array, 0)) == "starting"
    play.ends(victim, signal=15)
    assert play.state(victim) == "starting"


def test_what_is_guaranteed_is_counted_once_those_are_gone_who_are_stopped_for_it():
    ones = [a_node(f"n{number}", "1xH100") for number in (2, 3, 4)]
    play = a_cluster(a_node("n1", "3xH100"), *ones, rules=Rules(preemptible=True))
    fcfs = POLICIES["fcfs"]  # with it the victim is before whom it gave way to
    play.world.set_policy(fcfs.make(fcfs.values({}), play.world))
    create(play, "vision", guaranteed_gpus=3)
    create(play, "nlp", guaranteed_gpus=3, borrow=False)
    running = play.submit(
        *(a_job_of(who, gpu_ids=(f"n1-H100-{at}",)) for at, who in enumerate(["nlp", "nlp", "vision"]))
    )
    play.starts(*running)
    play.later(HOUR)
    play.ends(running[1])
    urgent, small = play.submit(a_job_of("nlp", 2, priority=5), a_job_of("nlp", 1))
    assert stopping(play) == [running[0]]
    play.submit(a_job_of("default", 0, cpus=1))
    play.ends(running[0], signal=15)
    assert play.state(urgent) == "starting"
    assert play.state(small) == "starting"


def test_a_gang_takes_nothing_of_a_guarantee_on_several_nodes_that_it_may_not_take_on_one():
    """Else who had it takes it back, and so in turns, for ever."""
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"), rules=Rules(preemptible=True))
    create(play, "vision", guaranteed_gpus=1)
    create(play, "nlp", guaranteed_gpus=1)
    theirs = play.submit(a_job_of("nlp"), a_job_of("nlp"))
    play.starts(*theirs)
    play.later(HOUR)
    (gang,) = play.submit(a_job_of("vision", 2, nodes=2, priority=2))
    assert stopping(play) == []
    assert play.state(gang) == "queued"


def test_a_guarantee_that_is_kept_for_somebody_is_in_nobodys_way():
    play = a_cluster(gpus="8xH100", rules=Rules(preemptible=True))
    create(play, "vision", guaranteed_gpus=4)
    create(play, "nlp", guaranteed_gpus=2, borrow=False)
    create(play, "guests")
    running = play.submit(*(a_job_of(who, gpus) for who, gpus in (("guests", 2), ("guests", 2), ("vision", 3))))
    play.starts(*running)
    play.later(HOUR)
    (urgent,) = play.submit(a_job_of("nlp", 2))
    (first,) = stopping(play)
    (short,) = play.submit(a_job_of("guests", limit=300))
    play.starts(short)
    (small,) = play.submit(a_job_of("nlp"))
    (theirs,) = play.submit(a_job_of("vision"))
    play.ends(short)
    play.ends(first, signal=15)
    assert play.state(urgent) == "starting"
    assert [play.state(job) for job in (small, theirs)] == ["starting", "queued"]


def test_who_is_within_a_quota_also_once_the_victims_have_left_it_waits_for_nobody():
    limits = Limits(gpus_per_user=8)
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xH100"), rules=Rules(preemptible=True, limits=limits))
    play.starts(*play.submit(a_job(3), a_job(3)))
    play.later(HOUR)
    urgent, small, late = play.submit(a_job(2, priority=5), a_job(1), a_job(3))
    (victim,) = stopping(play)
    assert [play.state(job) for job in (urgent, small, late)] == ["queued", "starting", "queued"]
    play.ends(victim, signal=15)
    assert play.state(urgent) == "starting"


def test_who_would_fit_where_others_leave_for_somebody_else_has_others_stopped():
    play = a_cluster(gpus="3xH100", rules=Rules(preemptible=True))
    victims = all_running(play, 3)
    play.later(HOUR)
    (wide,) = play.submit(a_job(2, priority=5))
    first, second = stopping(play)
    play.ends(first, signal=15)
    play.submit(a_job(1, priority=5))
    assert stopping(play) == [each for each in victims if each != first]
    assert (play.state(wide), play.state(second)) == ("queued", "stopping(preempted)")


def test_a_second_part_of_a_gpu_is_taken_of_those_who_share_it_before_whole_ones():
    play = a_cluster(gpus="3xH100", rules=Rules(preemptible=True))
    halves = play.submit(a_job(1, share_permille=500), a_job(1, share_permille=500))
    (wide,) = play.submit(a_job(2))
    play.starts(*halves, wide)
    play.later(HOUR)
    play.submit(a_job(1, share_permille=500, priority=5))
    play.submit(a_job(1, share_permille=250, priority=5))
    assert stopping(play) == halves


def test_a_second_job_that_counts_cpus_has_somebody_stopped_as_well():
    play = a_cluster(a_node("n1", "2xH100", cpus=8), rules=Rules(preemptible=True))
    both = play.submit(a_job(1, cpus=4), a_job(1, cpus=4))
    play.starts(*both)
    play.later(HOUR)
    play.submit(a_job(1, cpus=4, priority=5))
    play.submit(a_job(1, cpus=4, priority=5))
    assert stopping(play) == both


@pytest.mark.parametrize("first", ["big", "small"])
def test_of_those_that_started_together_not_the_one_is_stopped_that_was_first_by_a_moment(first):
    play = a_cluster(gpus="4xH100", rules=Rules(preemptible=True))
    sizes = [3, 1] if first == "big" else [1, 3]
    jobs = []
    for size in sizes:
        jobs += play.submit(a_job(size))
        play.starts(jobs[-1])
        play.later(0.1)
    play.submit(a_job(1, priority=5))
    play.later(61)
    assert stopping(play) == [jobs[sizes.index(1)]]


@pytest.mark.parametrize("policy", ["fcfs", "sjf", "fair_share", "priority"])
def test_nobody_starts_to_be_stopped_for_who_stood_behind_it(policy):
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True))
    create(play, "vision")
    create(play, "speech")
    play._ask(ChoosePolicy(1, policy))
    (before,) = play.submit(a_job_of("vision", 2, limit=HOUR))
    play.starts(before)
    play.later(1)
    (low,) = play.submit(a_job_of("speech", limit=HOUR))
    play.later(1)
    (high,) = play.submit(a_job_of("vision", 2, limit=10 * HOUR, priority=5))
    play.later(10)
    play.ends(before)
    (running,) = play.running
    assert running == (high if policy == "priority" else low)
    play.starts(running)
    play.later(200)
    assert stopping(play) == []


def test_who_comes_later_preempts_under_any_order_that_reserves():
    play = a_cluster(gpus="1xH100", rules=Rules(preemptible=True))
    play._ask(ChoosePolicy(1, "fcfs"))
    (victim,) = play.submit(a_job())
    play.starts(victim)
    play.later(HOUR)
    play.submit(a_job(priority=5))
    assert stopping(play) == [victim]


@pytest.mark.parametrize("ages", [(14, 9), (14, 30)])
def test_what_a_gang_loses_counts_once_for_a_gang_that_it_gives_way_to(ages):
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xH100"), rules=Rules(preemptible=True, preempt_after_s=2))
    alone = [a_job(2, excluded_nodes=("n1",)), a_job(2, excluded_nodes=("n2",))]
    first, second = ([a_job(4, nodes=2)], alone) if ages[1] > ages[0] else (alone, [a_job(4, nodes=2)])
    older = play.submit(*first)
    play.starts(*older)
    play.later(max(ages) - min(ages))
    younger = play.submit(*second)
    play.starts(*younger)
    play.later(min(ages))
    play.submit(a_job(4, nodes=2, priority=5))
    assert stopping(play) == younger
