from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from playbook import Play, a_cluster, a_job, a_node, an_empty_cluster, element
from tallies import counted, recounted
from tenancy import History, a_job_of, change, create, delete

from gpud.core.choice import apply
from gpud.core.commands import Accepted, Done, Pause
from gpud.core.obstacles import exposure
from gpud.core.parts import milli
from gpud.core.policies.parameters import Choice
from gpud.core.quota import borrowed, guaranteed, may_reclaim
from gpud.core.rules import Rules
from gpud.core.waits import Guaranteed, NoCapacity, NoPool, OverQuota, YieldsTo
from gpud.model.tenant import Limits
from gpud.model.units import Mib, Timestamp
from gpud.model.window import Pool
from gpud.views.words import words

HOUR = 3600.0
DAY = 24 * HOUR


def limited(**limits):
    return Rules(limits=Limits(**limits))


# -- at submit: what can never be, and a queue that is full


def test_a_job_larger_than_its_tenant_may_ever_have_is_refused_with_the_numbers():
    play = a_cluster(gpus="8xH100")
    create(play, "vision", max_gpus=4)

    assert play.refused(a_job_of("vision", 5)) == (
        "5 GPUs are asked for; tenant vision may have 4 at once; see its limits: gpuctl tenant show vision"
    )
    assert play.refused(a_job_of("vision", 4)) == "accepted"
    assert play.refused(a_job_of("default", 8)) == "accepted"


def test_a_job_larger_than_one_user_may_have_is_refused():
    play = a_cluster(gpus="8xH100", rules=limited(gpus_per_user=2))

    assert play.refused(a_job(3)).startswith("3 GPUs are asked for; user ada may have 2 at once")


def test_a_type_that_its_tenant_may_not_use_is_refused():
    play = a_cluster(gpus="2xH100,2xA10")
    create(play, "students", gpu_types=("A10",))

    refused = play.refused(a_job_of("students", type="H100"))
    assert "a GPU is asked for; tenant students may use only A10: there are none that suit" in refused
    (job,) = play.submit(a_job_of("students"))
    assert play.gpus(job) == ["n1-A10-2"]


@pytest.mark.parametrize(
    ("rules", "whose"),
    [
        (limited(queued=3), "the queue"),
        (limited(queued_per_user=3), "user ada"),
        (limited(queued_per_tenant=3), "tenant vision"),
    ],
)
def test_a_full_queue_takes_no_more_and_elements_of_arrays_count(rules, whose):
    play = a_cluster(gpus="1xH100", rules=rules)
    play.pause()
    play.submit(a_job_of("vision"), a_job_of("vision"))

    assert play.refused(a_job_of("vision", array="0-1")).startswith(
        f"{whose} has 2 of 3 jobs waiting, and these are 2 more"
    )
    assert play.refused(a_job_of("vision", hold=True)) == "accepted"
    assert play.refused(a_job_of("vision")).startswith(f"{whose} has 3 of 3 jobs waiting, and this is one more")
    play.pause(None)
    assert play.refused(a_job_of("vision")) == "accepted", "one has started, and waits no more"


def test_a_tenants_own_limit_comes_before_the_one_for_every_tenant():
    play = a_cluster(rules=limited(queued_per_tenant=1))
    create(play, "vision", max_queued=2)
    play.pause()

    assert len(play.submit(*[a_job_of("vision") for _ in range(4)])) == 2
    assert len(play.submit(*[a_job_of("default") for _ in range(4)])) == 1


def test_two_submits_in_one_batch_do_not_slip_past_a_limit_together():
    play = a_cluster(rules=limited(queued=1))
    play.pause()

    accepted = play.submit(a_job(array="0"), a_job(array="0"), a_job())

    assert len(accepted) == 1


@pytest.mark.parametrize(
    ("rules", "whose"),
    [
        (limited(queued=3), "the queue"),
        (limited(queued_per_user=3), "user ada"),
        (limited(queued_per_tenant=3), "tenant vision"),
    ],
)
def test_what_is_over_comes_back_into_the_queue_as_a_submit_would(rules, whose):
    play = a_cluster(gpus="1xH100", rules=rules)
    play.pause()
    arrays = []
    for _ in range(3):
        arrays += play.submit(a_job_of("vision", array="0-2"))
        play.cancel(arrays[-1])
    (job,) = play.submit(a_job_of("vision"))
    play.cancel(job)
    three = f"is not run again: {whose} has 3 of 3 jobs waiting, and these are 3 more"
    one = f"is not run again: {whose} has 3 of 3 jobs waiting, and this is one more"

    assert play.requeue(ended=[*arrays, job]) == [three, three, one]
    assert play.requeue(ended=[element(arrays[1], 2)]) == [one]

    assert play.world.books.all.queued == 3
    assert play.refused(a_job_of("vision")).startswith(f"{whose} has 3 of 3 jobs waiting")
    play.cancel(arrays[0])
    assert play.requeue(ended=[job, element(arrays[1], 2)]) == []
    assert play.requeue(ended=[arrays[0]]) == [
        f"is not run again: {whose} has 2 of 3 jobs waiting, and these are 3 more"
    ]


def test_of_an_array_that_runs_nothing_is_stopped_where_what_was_cancelled_may_not_wait():
    play = a_cluster(gpus="1xH100", rules=limited(queued_per_user=300))
    (array,) = play.submit(a_job(array="0-200"))
    play.starts(element(array, 0))
    play.cancel(*(element(array, index) for index in range(1, 201)))
    play.submit(a_job(array="0-100"))

    assert play.requeue(array) == ["is not run again: user ada has 101 of 300 jobs waiting, and these are 200 more"]
    assert play.state(element(array, 0)) == "running"
    assert play.requeue(element(array, 1), element(array, 2)) == []
    assert play.world.books.all.queued == 103


def test_what_runs_goes_back_to_the_queue_however_full_it_is():
    play = a_cluster(gpus="1xH100", rules=limited(queued_per_user=1))
    (job,) = play.submit(a_job(retries=1))
    play.starts(job)
    play.submit(a_job())

    assert play.requeue(job) == []
    play.ends(job)

    assert play.running == [job], "it has its old place"


# -- when its turn comes


def test_a_tenant_waits_at_its_maximum_and_others_go_past_it():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", max_gpus=2)
    first, second, other = play.submit(a_job_of("vision", 2), a_job_of("vision", 1), a_job_of("default", 1))

    assert play.running == [first, other]
    assert play.why(second) == OverQuota("tenant vision", "GPUs", 2.0, 2, 1.0)
    play.ends(first)
    assert play.started == [second]


def test_a_larger_limit_lets_the_line_in_at_once():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", max_gpus=1)
    _, second = play.submit(a_job_of("vision"), a_job_of("vision"))

    change(play, "vision", max_gpus=None)

    assert play.started == [second]


def test_a_smaller_job_of_the_tenant_goes_where_a_larger_one_may_not():
    play = a_cluster(gpus="8xH100")
    create(play, "vision", max_gpus=4)
    play.submit(a_job_of("vision", 3))
    large, small = play.submit(a_job_of("vision", 2), a_job_of("vision", 1))

    assert play.started == [small]
    assert play.why(large) == OverQuota("tenant vision", "GPUs", 4.0, 4, 2.0)


@pytest.mark.parametrize(
    ("rules", "whose"),
    [(limited(running=1), ""), (limited(running_per_user=1), "user ada"), (limited(gpus_per_user=1), "user ada")],
)
def test_limits_of_the_configuration_hold_without_any_tenant(rules, whose):
    play = a_cluster(rules=rules)
    first, second = play.submit(a_job(), a_job())

    assert play.running == [first]
    wait = play.why(second)
    assert isinstance(wait, OverQuota)
    assert (wait.whose, wait.used, wait.limit) == (whose, 1, 1)
    play.ends(first)
    assert play.started == [second]


def test_where_all_together_may_run_so_many_anybodys_end_lets_the_next_in():
    play = a_cluster(rules=limited(running=1))
    first, second = play.submit(a_job(user="bob"), a_job(user="ada"))

    play.ends(first)

    assert play.started == [second]


def test_jobs_without_gpus_count_as_jobs_and_not_as_gpus():
    play = a_cluster()
    create(play, "vision", max_gpus=0, max_running=2)

    assert len(play.submit(*[a_job_of("vision", 0) for _ in range(3)])) == 3
    assert len(play.running) == 2


def test_quarters_of_a_gpu_count_for_what_they_are():
    play = a_cluster()
    create(play, "vision", max_gpus=1)

    play.submit(*[a_job_of("vision", 1, share_permille=250) for _ in range(5)])

    assert len(play.running) == 4


def part(gib: int, tenant: str = "vision", gpus: int = 1, **more):
    return a_job_of(tenant, gpus, share_mib=Mib(gib * 1024), **more)


@pytest.mark.parametrize(
    ("rules", "limit", "whose"),
    [(Rules(), {"max_gpus": 1}, "tenant vision"), (limited(gpus_per_user=1), {}, "user ada")],
)
def test_parts_by_memory_run_side_by_side_in_a_quota_of_the_gpu_that_they_are_parts_of(rules, limit, whose):
    play = a_cluster(gpus="2xRTX4090", rules=rules)
    create(play, "vision", **limit)
    *three, fourth = play.submit(*[part(8)] * 4)

    assert play.running == three
    wait = play.why(fourth)
    assert wait == OverQuota(whose, "GPUs", 0.999, 1, 0.333)
    said = words(wait, Timestamp(play.now), "4")[1]
    assert said == f"{whose} has 0.999 of 1 GPU in use; it needs 0.333"
    play.ends(three[0])
    assert play.started == [fourth]


def test_a_part_by_memory_counts_while_it_waits_as_the_largest_that_it_could_come_to():
    play = a_cluster(gpus="1xRTX4090,1xH100")
    create(play, "vision", max_gpus=1)
    first, anywhere, there = play.submit(part(60, type="H100"), part(8), part(8, type="H100"))

    assert play.running == [first, there], "a tenth of the larger one, and nothing else"
    assert play.why(anywhere) == OverQuota("tenant vision", "GPUs", 0.85, 1, 0.333)
    play.ends(first)
    assert play.started == [anywhere]


def test_a_part_counts_by_the_gpus_of_its_pool_or_by_those_beside_pools():
    rules = Rules(pools=(Pool(name="small", gpus=("0",)),))
    play = a_cluster(gpus="1xRTX4090,1xH100", rules=rules)
    create(play, "vision", max_gpus=1)

    plain = play.submit(*[part(16)] * 5)
    assert play.running == plain, "a fifth each: the smaller GPU is for the pool"
    play.ends(plain[0])
    (pooled,) = play.submit(part(8, pool="small"))
    assert play.why(pooled) == OverQuota("tenant vision", "GPUs", 0.8, 1, 0.333)


def test_parts_count_anew_when_other_gpus_are_there():
    play = a_cluster(a_node("n1", gpus="1xRTX4090"), a_node("n2", gpus="1xH100"))
    create(play, "vision", max_gpus=1)
    first, second = play.submit(part(16, type="H100"), part(20))
    assert play.running == [first]
    assert play.why(second) == OverQuota("tenant vision", "GPUs", 0.2, 1, 0.833)

    play.sees(a_node("n1", gpus="1xH100"))

    assert play.started == [second], "a quarter of any that is there now"


def test_a_part_on_several_gpus_that_may_never_be_says_what_it_counts_for():
    play = a_cluster(gpus="4xRTX4090")
    create(play, "vision", max_gpus=1)

    assert play.refused(part(8, gpus=3)) == "accepted"
    assert play.refused(part(8, gpus=4)) == (
        "8G of each of 4 GPUs is asked for, which counts for 1.332; tenant vision may have 1 at once; "
        "see its limits: gpuctl tenant show vision"
    )


def test_a_part_counts_as_a_whole_gpu_while_nobody_knows_what_gpus_there_are():
    world = an_empty_cluster().world
    assert milli(world, part(8, gpus=2).terms.demand) == 2000


def test_a_guarantee_of_a_gpu_covers_the_parts_that_come_to_one():
    play = a_cluster(gpus="2xRTX4090", rules=Rules(preempt_after_s=0.0))
    create(play, "vision", guaranteed_gpus=1)
    create(play, "guests")
    *three, fourth = play.submit(*[part(8)] * 4)
    play.starts(*three, fourth)
    play.ends(fourth, three[0])

    assert guaranteed(play.world, part(8).terms)
    assert not guaranteed(play.world, part(12).terms)


def test_a_quota_that_is_kept_for_a_part_is_kept_for_no_more_than_that():
    play = a_cluster(gpus="4xRTX4090", rules=Rules(starvation_s=HOUR))
    create(play, "lab", max_gpus=1)
    long, short = play.submit(part(12, "lab", limit=10 * HOUR), part(10, "lab", limit=2 * HOUR))
    play.starts(long, short)
    (large,) = play.submit(part(10, "lab", limit=HOUR))
    play.later(1.5 * HOUR)
    (tiny,) = play.submit(part(1, "lab", limit=10 * HOUR))
    assert play.running == [long, short, tiny], "beside the long one and the large one there is room for it"
    play.ends(short)
    assert play.started == [large]


def test_who_has_no_tenant_is_under_no_tenants_limits():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", max_gpus=0, max_running=0)

    play.submit(*[a_job_of("default") for _ in range(4)])

    assert len(play.running) == 4


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["tenant", "user", "both"]),
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 12)), min_size=6, max_size=30),
)
def test_a_large_job_comes_to_its_turn_however_many_small_ones_use_its_quota(whose, small):
    """There is always a small job that waits, of so many GPUs and tens of minutes."""
    rules = replace(limited(gpus_per_user=None if whose == "tenant" else 4), starvation_s=2 * HOUR)
    play = a_cluster(gpus="8xH100", rules=rules)
    create(play, "lab", **({} if whose == "user" else {"max_gpus": 4}))
    coming = cycle(small)
    ends: dict[int, float] = {}

    def pass_time() -> None:
        while len(play.ledger.unfinished()) < 8:
            gpus, tens = next(coming)
            (job,) = play.submit(a_job_of("lab", gpus, limit=600.0 * tens))
            ends[job] = 600.0 * tens
        play.starts(*[job for job in play.running if play.state(job) == "starting"])
        play.later(600.0)
        for job in list(play.running):
            ends[job] -= 600.0
            if ends[job] <= 0:
                play.ends(job)

    first, large = play.submit(a_job_of("lab", 1, limit=2 * HOUR), a_job_of("lab", 4, limit=600.0))
    ends |= {first: 2 * HOUR, large: 600.0}
    since = play.now
    while large not in play.running and large in play.ledger.unfinished():
        assert play.now - since <= 5 * HOUR  # it is kept for it after two, and what runs then ends within two
        pass_time()


def test_who_would_use_a_quota_that_is_kept_waits_behind_whom_it_is_kept_for():
    play = a_cluster(gpus="8xH100", rules=Rules(starvation_s=HOUR))
    create(play, "lab", max_gpus=4)
    long, short = play.submit(a_job_of("lab", 2, limit=10 * HOUR), a_job_of("lab", 2, limit=2 * HOUR))
    play.starts(long, short)
    (large,) = play.submit(a_job_of("lab", 4, limit=HOUR))
    play.later(1.5 * HOUR)
    (passes,) = play.submit(a_job_of("lab", 1, limit=HOUR))
    assert play.state(passes) == "queued"
    play.ends(short)
    assert play.state(passes) == "starting"  # it is over before the long one is
    late, elsewhere = play.submit(a_job_of("lab", 1, limit=10 * HOUR), a_job_of("default", 4, limit=10 * HOUR))
    assert play.state(elsewhere) == "starting"
    wait = play.why(late)
    assert isinstance(wait, YieldsTo)
    assert wait.job == large
    play.starts(passes)
    play.ends(long, passes)
    assert play.state(large) == "starting"
    play.starts(large)
    play.ends(large)
    assert play.state(late) == "starting"


def test_a_restart_forgets_of_nobody_that_a_quota_is_kept_for_them():
    play = a_cluster(gpus="4xH100", rules=limited(gpus_per_user=2))
    first, second = play.submit(a_job(1, limit=5_000), a_job(1, limit=9_000))
    play.starts(first, second)
    wide, small = play.submit(a_job(2, limit=600), a_job(1, limit=86_400))
    play.later(play.world.rules.starvation_s + 100)
    play.ends(first)
    assert isinstance(play.why(small), YieldsTo)

    again = play.restarted()
    assert isinstance(again.why(small), YieldsTo)
    again.ends(second)
    assert again.state(wide) == "starting"


# -- GPU-hours


def test_gpu_hours_run_out_and_are_there_again_with_the_next_window():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpu_hours=8.0, window_s=DAY)
    (first,) = play.submit(a_job_of("vision", 4))
    play.starts(first)
    play.later(2 * HOUR)
    play.ends(first)
    (second,) = play.submit(a_job_of("vision", 1))

    wait = play.why(second)
    assert isinstance(wait, OverQuota)
    assert (wait.what, wait.limit) == ("GPU-hours", 8.0)
    assert wait.used == pytest.approx(8.0, abs=0.01)
    play.later(21 * HOUR)
    assert play.running == []
    play.later(HOUR + 1)
    assert play.running == [second]


def test_what_runs_counts_while_it_runs_and_is_not_stopped_for_it():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpu_hours=1.0)
    (first,) = play.submit(a_job_of("vision", 1))
    play.starts(first)
    play.later(2 * HOUR)
    (second,) = play.submit(a_job_of("vision", 1))

    assert play.running == [first]
    assert isinstance(play.why(second), OverQuota)


def test_another_window_counts_from_when_it_is_set():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpu_hours=1.0)
    (first,) = play.submit(a_job_of("vision", 1))
    play.starts(first)
    play.later(2 * HOUR)
    change(play, "vision", window_s=DAY)

    (second,) = play.submit(a_job_of("vision", 1))

    assert play.running == [first, second]


# -- guarantees


def test_who_may_not_borrow_leaves_free_what_is_guaranteed_to_others():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", guaranteed_gpus=2)
    create(play, "guests", borrow=False)
    *_, last = play.submit(*[a_job_of("guests") for _ in range(3)])

    assert len(play.running) == 2
    assert play.why(last) == Guaranteed("guests", 2.0)
    assert play.refused(a_job_of("guests", 3)) == (
        "2 of 4 GPUs are guaranteed to others, and tenant guests may not borrow; "
        "to let it: gpuctl tenant set guests --borrow"
    )
    play.submit(a_job_of("vision", 2))
    assert len(play.running) == 3
    play.ends(play.running[0])
    assert play.started == [last]


def test_who_may_not_borrow_has_its_own_gpus_all_the_same_and_not_what_is_given_beside_pools():
    play = a_cluster(gpus="8xH100", rules=Rules(pools=(Pool(name="debug", gpus=("4", "5", "6")),)))
    create(play, "vision", guaranteed_gpus=4)
    create(play, "guests", gpus=("n1-H100-7",), borrow=False)
    own, more = play.submit(*[a_job_of("guests") for _ in range(2)])
    (pooled,) = play.submit(a_job_of("guests", 3, pool="debug"))

    assert play.running == [own, pooled]
    assert play.gpus(own) == ["n1-H100-7"]
    assert play.why(more) == Guaranteed("guests", 4.0)
    assert borrowed(play.world, "guests") == 0
    assert "4 of 4 GPUs are guaranteed to others" in play.refused(a_job_of("guests", 2))


def test_who_shares_a_gpu_of_a_pool_takes_none_of_those_that_guarantees_are_given_of():
    play = a_cluster(gpus="3xH100", rules=Rules(pools=(Pool(name="debug", gpus=("2",)),)))
    create(play, "vision", guaranteed_gpus=1)
    create(play, "guests", borrow=False)
    halves = play.submit(*[a_job_of("guests", pool="debug", share_mib=Mib(40 * 1024))] * 2)
    one, more = play.submit(*[a_job_of("guests") for _ in range(2)])

    assert play.running == [*halves, one]
    assert play.why(more) == Guaranteed("guests", 1.0)


def test_idle_guarantees_are_lent_and_reclaimed_by_their_tenant_alone():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", guaranteed_gpus=2)
    create(play, "language", guaranteed_gpus=1)
    create(play, "guests")
    lent = play.submit(*[a_job_of("guests") for _ in range(4)])
    victim = play.world.active[lent[0]]

    def may(spec):
        return may_reclaim(play.world, spec.terms, victim)

    assert len(lent) == 4
    assert borrowed(play.world, "guests") == 4000
    assert may(a_job_of("vision", 2))
    assert not may(a_job_of("vision", 3)), "beyond its own guarantee"
    assert not may(a_job_of("guests", 1))
    assert not may(a_job_of("default", 1))
    assert not may(a_job_of("vision", 0))


def test_nobody_reclaims_from_a_tenant_within_its_guarantee():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", guaranteed_gpus=2)
    create(play, "language", guaranteed_gpus=2)
    theirs = play.submit(*[a_job_of("language") for _ in range(3)])
    victims = [play.world.active[job] for job in theirs]
    terms = a_job_of("vision", 2).terms

    assert all(may_reclaim(play.world, terms, victim) for victim in victims), "one of them is borrowed"
    assert not may_reclaim(play.world, terms, victims[1], beside=[victims[0]]), "only one is"


def a_lending_cluster():
    """Eight GPUs, of which `vision` is guaranteed four and `language` two; jobs may be preempted at once."""
    play = a_cluster(gpus="8xH100", rules=Rules(preempt_after_s=0.0))
    create(play, "vision", guaranteed_gpus=4)
    create(play, "language", guaranteed_gpus=2)
    create(play, "guests")
    return play


def test_a_blocked_job_within_its_guarantee_takes_back_what_others_borrowed_and_they_go_on_later():
    play = a_lending_cluster()
    lent = play.submit(*[a_job_of("guests") for _ in range(8)])
    play.starts(*lent)

    (mine,) = play.submit(a_job_of("vision", 3))

    stopped = [job for job in lent if play.state(job) == "stopping(preempted)"]
    assert len(stopped) == 3
    play.ends(*stopped, signal=15)
    assert play.started == [mine]
    assert [play.state(job) for job in stopped] == ["queued"] * 3
    play.starts(mine)
    play.later(600.0)
    assert mine in play.running, "and nobody takes it back"
    play.ends(mine)
    assert sorted(play.started) == stopped


def test_nobody_loses_its_own_guarantee_to_anothers():
    play = a_lending_cluster()
    theirs = play.submit(*[a_job_of("language") for _ in range(8)])
    play.starts(*theirs)

    play.submit(a_job_of("vision", 4))
    assert sum(play.state(job) == "stopping(preempted)" for job in theirs) == 4
    play.submit(a_job_of("vision", 1))

    assert sum(play.state(job) == "stopping(preempted)" for job in theirs) == 4, "four are guaranteed, and no more"


def test_beyond_its_guarantee_a_tenant_waits_like_everybody():
    play = a_lending_cluster()
    lent = play.submit(*[a_job_of("guests") for _ in range(8)])
    play.starts(*lent)

    (large,) = play.submit(a_job_of("vision", 5))

    assert play.running == lent
    assert play.state(large) == "queued"


holders = st.sampled_from(["vision", "language", "guests", "default"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(holders, st.sampled_from([1, 2, 3, 4])), min_size=2, max_size=14))
def test_giving_way_comes_to_an_end_with_every_guarantee_kept(asked):
    play = a_lending_cluster()
    preempted = 0
    for tenant, gpus in asked:
        play.submit(a_job_of(tenant, gpus))
        for _ in range(30):
            play.starts(*[job for job in play.running if play.state(job) == "starting"])
            stopped = [job for job in play.running if play.state(job) == "stopping(preempted)"]
            if not stopped:
                break
            preempted += len(stopped)
            play.ends(*stopped, signal=15)
        else:
            raise AssertionError("jobs give way to each other in turns")
    assert preempted <= 8 * len(asked)
    for name, count in (("vision", 4), ("language", 2)):
        waiting = [
            job for job, row in play.ledger.unfinished().items() if row.active is None and row.terms.tenant == name
        ]
        has = play.world.books.of_tenant(name).milli // 1000
        wants = play.ledger.rows[waiting[0]].terms.demand.gpus if waiting else 0
        assert not waiting or has + wants > count, f"{name} has {has} of {count}, and the next wants {wants}"


def test_what_is_guaranteed_does_not_yield_to_who_reserved_more_than_that():
    play = a_lending_cluster()
    running = play.submit(a_job_of("guests", 2), a_job_of("guests", 1))
    play.starts(*running)
    (large,) = play.submit(a_job_of("guests", 8))
    assert large in play.world.reservations

    (plain,) = play.submit(a_job_of("default", 1))
    assert play.state(plain) == "queued"
    (mine,) = play.submit(a_job_of("vision", 4))
    assert mine in play.started


def test_guarantees_of_more_gpus_than_there_are_are_refused():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", guaranteed_gpus=3)

    refused = create(play, "language", guaranteed_gpus=2)

    assert refused.message == "5 GPUs would be guaranteed in all; there are 4"
    assert refused.hint == "1 is left to guarantee"
    assert "language" not in play.world.tenants


def test_guarantees_that_cannot_be_met_are_refused():
    play = a_cluster(gpus="4xH100,2xA10", rules=Rules(pools=(Pool(name="debug", gpus=("0",)),)))
    create(play, "vision", gpus=("n1-H100-1", "n1-H100-2"), gpu_types=("H100",))

    beyond = " GPUs would be guaranteed in all; there are 3 beside pools and what is others' own"
    assert create(play, "language", guaranteed_gpus=4).message == f"4{beyond}"
    assert create(play, "guests", guaranteed_gpus=2, max_gpus=1).message.startswith("2 GPUs would be guaranteed to it")
    create(play, "language", guaranteed_gpus=3)
    change(play, "vision", guaranteed_gpus=2)
    assert play.world.tenants["vision"].guaranteed_gpus == 2
    assert change(play, "language", gpu_types=("A10",)).message.endswith("of types of which there are 2")


def test_nothing_is_kept_from_who_may_not_borrow_once_nothing_is_guaranteed():
    play = a_cluster(gpus="2xH100")
    create(play, "vision", guaranteed_gpus=1)
    create(play, "guests", borrow=False)
    first, second, third = play.submit(*[a_job_of("guests") for _ in range(3)])
    assert play.why(second) == Guaranteed("guests", 1.0)

    change(play, "vision", guaranteed_gpus=0)

    assert play.running == [first, second]
    assert isinstance(play.why(third), NoCapacity)


# -- tenants themselves


def test_a_boost_is_added_to_the_priority_and_seen():
    play = a_cluster(gpus="1xH100")
    create(play, "urgent", boost=10)
    play.pause()
    plain, boosted = play.submit(a_job(priority=5), a_job_of("urgent"))

    assert play.ledger.rows[boosted].place.priority == 10
    play.pause(None)
    assert play.running == [boosted]
    assert play.state(plain) == "queued"


def test_members_are_added_and_removed_one_by_one():
    play = a_cluster()
    create(play, "vision", users=("ada", "bob"))

    change(play, "vision", users=("eve", "ada"), remove=(("users", ("bob",)),))

    assert play.world.tenants["vision"].users == ("ada", "eve")


@pytest.mark.parametrize(("share", "first"), [(1.0, "language"), (16.0, "vision")])
def test_a_share_counts_from_when_it_is_set(share, first):
    play = a_cluster(gpus="2xH100", rules=Rules(policy="fair_share"))
    apply(play.world, Choice())
    create(play, "vision")
    create(play, "language", share=4.0)
    mine, theirs = play.submit(a_job_of("vision"), a_job_of("language"))
    play.starts(mine, theirs)
    play.later(HOUR)
    waiting = dict(zip(["vision", "language"], play.submit(a_job_of("vision"), a_job_of("language")), strict=True))
    change(play, "vision", share=share)

    play.ends(theirs)

    assert play.started == [waiting[first]]


def test_a_tenant_with_jobs_stays():
    play = a_cluster()
    create(play, "vision")
    (job,) = play.submit(a_job_of("vision"))

    assert delete(play, "vision").message == "tenant vision has 1 job running and 0 waiting"
    play.ends(job)
    assert delete(play, "vision") == Done(True)
    assert delete(play, "vision").code == "no_such_tenant"


def test_tenants_and_their_use_survive_a_restart():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", users=("ada",), max_gpus=2, gpu_hours=100.0, gpus=("n1-H100-3",))
    first, _ = play.submit(a_job_of("vision", 2), a_job_of("vision", 1))
    play.starts(first)
    play.later(HOUR)
    play.ends(first)
    before = play.world

    after = play.restarted()

    assert after.world.tenants == before.tenants
    assert after.world.books.meters == before.books.meters
    assert counted(after.world) == counted(play.world)


# -- pools


def test_a_pool_is_for_jobs_that_ask_for_it_and_those_get_nothing_else():
    play = a_cluster(gpus="4xH100", rules=Rules(pools=(Pool(name="debug", gpus=("3",), max_time_s=1800.0),)))

    plain = play.submit(*[a_job() for _ in range(4)])
    pooled = play.submit(*[a_job(pool="debug", limit=60.0) for _ in range(2)])

    assert len([job for job in plain if job in play.running]) == 3
    assert play.gpus(pooled[0]) == ["n1-H100-3"]
    assert play.state(pooled[1]) == "queued"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (a_job(pool="debag"), "there is no pool 'debag'; there are: debug"),
        (a_job(pool="debug", limit=3600.0), "pool debug is for jobs of 30m at most; --time-limit 30m"),
        (
            a_job(2, pool="debug", limit=60.0),
            "2 GPUs of one node are asked for; pool debug has 1 that suits; see whose they are: gpuctl gpus",
        ),
        (
            a_job(4),
            (
                "4 GPUs of one node are asked for; beside those for pool debug there are 3 that suit; "
                "see whose they are: gpuctl gpus"
            ),
        ),
    ],
)
def test_what_a_pool_can_never_give_is_refused(spec, said):
    play = a_cluster(gpus="4xH100", rules=Rules(pools=(Pool(name="debug", gpus=("3",), max_time_s=1800.0),)))

    assert play.refused(spec) == said


def test_a_pool_that_is_gone_leaves_its_jobs_waiting_and_saying_so():
    play = a_cluster(rules=Rules(pools=(Pool(name="debug", gpus=("3",)),)))
    play.pause()
    (job,) = play.submit(a_job(pool="debug"))
    play.world.rules = Rules()
    play.world.standing = None

    play.pause(None)

    assert play.why(job) == NoPool("debug")


def test_a_pool_that_is_for_shorter_jobs_by_now_says_so_to_those_that_wait():
    play = a_cluster(rules=Rules(pools=(Pool(name="debug", gpus=("3",), max_time_s=1800.0),)))
    play.pause()
    long, short = play.submit(a_job(pool="debug", limit=1800.0), a_job(pool="debug", limit=600.0))
    play.world.rules = Rules(pools=(Pool(name="debug", gpus=("3",), max_time_s=600.0),))
    play.world.standing = None

    play.pause(None)

    assert play.running == [short]
    assert play.why(long) == NoPool("debug", 600.0)


# -- whatever happens

tenants = st.sampled_from(["vision", "language", "default"])
users = st.sampled_from(["ada", "bob"])
which = st.integers(0, 99)
limits = st.fixed_dictionaries(
    {},
    optional={
        "max_gpus": st.sampled_from([None, 1, 3]),
        "max_running": st.sampled_from([None, 1, 2]),
        "max_queued": st.sampled_from([None, 2, 4]),
        "gpu_hours": st.sampled_from([None, 0.5, 4.0]),
        "guaranteed_gpus": st.sampled_from([0, 1, 2]),
        "window_s": st.sampled_from([600.0, DAY]),
        "borrow": st.booleans(),
    },
)
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(["vision", "language"]), limits),
    st.tuples(
        st.just("submit"), tenants, users, st.sampled_from([0, 1, 2]), st.sampled_from([None, None, "0-2", "0-5%2"])
    ),
    st.tuples(st.just("submit"), tenants, users, st.sampled_from([1]), st.none()),
    st.tuples(st.just("share"), tenants, users, st.sampled_from([1, 2]), st.sampled_from([5_000, 16_384])),
    st.tuples(st.just("start"), which),
    st.tuples(st.just("end"), which, st.sampled_from([{"code": 0}, {"code": 1}, {"lost": "rebooted"}])),
    st.tuples(st.sampled_from(["cancel", "hold", "release", "requeue"]), which),
    st.tuples(st.just("later"), st.sampled_from([1.0, 300.0, 900.0])),
    st.tuples(st.sampled_from(["pause", "resume", "restart"])),
)


def do(play: Play, step):
    match step:
        case ("put", name, values):
            create(play, name)
            return change(play, name, **values)
        case ("submit", tenant, user, gpus, array):
            return play.submit(a_job_of(tenant, gpus, user=user, array=array, retries=1))
        case ("share", tenant, user, gpus, mib):
            return play.submit(a_job_of(tenant, gpus, user=user, share_mib=mib, retries=1))
        case ("start", number) if play.running:
            return play.starts(play.running[number % len(play.running)])
        case ("end", number, how) if play.running:
            return play.ends(play.running[number % len(play.running)], **how)
        case ("cancel" | "hold" | "release" | "requeue" as verb, number) if play.ledger.unfinished():
            jobs = sorted(play.ledger.unfinished())
            return getattr(play, verb)(jobs[number % len(jobs)])
        case ("later", seconds):
            return play.later(seconds)
        case ("pause" | "resume" as verb,):
            return play.cycle(Pause(1, "" if verb == "pause" else None))
    return None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(steps, min_size=5, max_size=40), st.sampled_from([Limits(), Limits(running=2, queued=5, gpus_per_user=2)])
)
def test_no_quota_is_ever_exceeded_and_the_books_are_right_to_the_second(story, everybody):
    play = a_cluster(gpus="2xH100,2xRTX4090", rules=Rules(limits=everybody))
    history = History(play)
    for step in story:
        if step == ("restart",):
            before = play.world.books
            play = history.play = play.restarted()
            assert {name: (each.start, each.hours(play.now)) for name, each in before.meters.items()} == {
                name: (each.start, each.hours(play.now)) for name, each in play.world.books.meters.items()
            }
        before = {name: replace(each) for name, each in play.world.books.tenants.items()}
        Watch.cycles(play, history, step)
        assert counted(play.world) == recounted(play.world, play.ledger)
        for name, meter in play.world.books.meters.items():
            assert meter.hours(play.now) == pytest.approx(history.hours(name, meter.start), abs=1e-7)


class Watch:
    """Does a step, and looks at each of the cycles that it takes."""

    @staticmethod
    def cycles(play: Play, history: History, step) -> None:
        told = play.cycle

        def cycle(*inputs):
            out = told(*inputs)
            history.note()
            assert_within(play, accepted=any(isinstance(reply, Accepted) for _, reply in out.replies))
            return out

        play.cycle = cycle
        try:
            do(play, step)
        finally:
            del play.cycle


def assert_within(play: Play, *, accepted: bool) -> None:
    """Nobody who was let in is over a limit; what was there before a limit was lowered may be."""
    world, books = play.world, play.world.books
    started = [world.active[job].terms for job in play.started if job in world.active]
    everybody = world.rules.limits
    for terms in started:
        user, tally, tenant = books.users[terms.user], books.tenants[terms.tenant], world.tenants.get(terms.tenant)
        assert everybody.running is None or books.all.running <= everybody.running
        assert everybody.gpus_per_user is None or not terms.demand.gpus or user.milli <= 1000 * everybody.gpus_per_user
        if tenant is not None:
            assert tenant.max_running is None or tally.running <= tenant.max_running
            assert tenant.max_gpus is None or not terms.demand.gpus or tally.milli <= 1000 * tenant.max_gpus
            if tenant.gpu_hours is not None and terms.demand.gpus:
                assert books.meters[tenant.name].hours(play.now) < tenant.gpu_hours
    if accepted:
        assert everybody.queued is None or books.all.queued <= everybody.queued


def test_a_gang_for_which_too_few_nodes_are_left_beside_a_pool_is_told_how_many_there_are():
    nodes = [a_node(name, gpus="8xH100") for name in ("n1", "n2")]
    rules = Rules(pools=(Pool(name="debug", gpus=("n2:7",)),))
    play = a_cluster(*nodes, rules=rules)
    said = "2 nodes with 8 GPUs each are asked for; beside those for pool debug there is 1 that suits"
    assert play.refused(a_job(16, nodes=2)).startswith(said)


# -- what guarantees are given of


def with_a_pool_of_two():
    play = a_cluster(gpus="6xH100", rules=Rules(pools=(Pool(name="debug", gpus=("n1:0", "n1:1")),)))
    create(play, "vision", guaranteed_gpus=2)
    create(play, "guests")
    return play


def test_nobody_takes_back_a_guarantee_from_who_runs_in_a_pool():
    play = with_a_pool_of_two()
    play.starts(*play.submit(*(a_job_of("guests", pool="debug") for _ in range(2))))
    play.later(HOUR)
    (waits,) = play.submit(a_job_of("vision", pool="debug"))
    assert play.state(waits) == "queued"
    assert borrowed(play.world, "guests") == 0
    assert all(exposure(play.world, each, play.now) is None for each in play.world.active.values())


def test_what_runs_in_a_pool_uses_up_no_guarantee():
    play = with_a_pool_of_two()
    create(play, "poor", borrow=False)
    play.starts(*play.submit(*(a_job_of("vision", pool="debug") for _ in range(2))))
    few = play.submit(*(a_job_of("poor") for _ in range(4)))
    assert [play.state(job) for job in few] == ["starting", "starting", "queued", "queued"]
    play.starts(*few[:2])
    borrowing = play.submit(*(a_job_of("guests") for _ in range(2)))
    play.starts(*borrowing)
    play.later(HOUR)
    (mine,) = play.submit(a_job_of("vision"))
    play.ends(*[job for job in play.running if "preempted" in play.state(job)], signal=15)
    assert play.state(mine) == "starting"


def test_who_runs_on_its_tenants_own_gpu_is_said_to_give_way_to_nobody():
    play = a_cluster(gpus="6xH100")
    create(play, "own", gpus=("n1-H100-4", "n1-H100-5"))
    create(play, "vision", guaranteed_gpus=2)
    jobs = play.submit(*(a_job_of("own") for _ in range(4)))
    play.starts(*jobs)
    play.later(HOUR)
    exposed = {play.gpus(job)[0] for job in jobs if exposure(play.world, play.world.active[job], play.now)}
    assert len(exposed) == 2
    assert not exposed & {"n1-H100-4", "n1-H100-5"}
    play.starts(*play.submit(a_job_of("default", 2)))
    play.submit(a_job_of("vision", 2))
    assert {play.gpus(job)[0] for job in play.running if "preempted" in play.state(job)} == exposed
