from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from playbook import a_cluster, a_job, a_node, element
from tenancy import a_job_of, change, create, delete, reserve, unreserve

from gpud.core.backfill import STARTING_S
from gpud.core.commands import Changed, Update
from gpud.core.rules import Rules
from gpud.core.waits import Barred, NoCapacity
from gpud.core.windows import claims, misnamed, named_by
from gpud.model.changes import Told
from gpud.model.job import Running
from gpud.model.window import Pool

HOUR = 3600.0
DAY = 24 * HOUR
GPUS = tuple(f"n1-H100-{index}" for index in range(4))


def told(play):
    return [change_.kind for change_ in play.out.changes if isinstance(change_, Told)]


# -- maintenance: for nobody


def test_no_job_that_would_run_into_a_maintenance_window_starts():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS, at=HOUR, until=2 * HOUR, reason="new cooling")

    short, long = play.submit(a_job(limit=1800.0), a_job(limit=2 * HOUR))

    assert play.running == [short]
    wait = play.why(long)
    assert isinstance(wait, Barred)
    assert (wait.claim.kind, wait.claim.name) == ("reservation", "1")


def test_a_job_without_a_time_limit_is_taken_to_run_as_long_as_the_configuration_assumes():
    play = a_cluster(gpus="4xH100", rules=Rules(assumed_runtime_s=3 * HOUR))
    reserve(play, *GPUS, at=2 * HOUR, until=DAY)
    unlimited, estimated = play.submit(a_job(), a_job(estimate=HOUR))

    assert play.running == [estimated]
    assert isinstance(play.why(unlimited), Barred)


def test_a_job_that_ends_just_in_time_starts_and_one_a_second_longer_does_not():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS, at=HOUR, until=2 * HOUR)

    longer, fits = play.submit(a_job(limit=HOUR - STARTING_S), a_job(limit=HOUR - STARTING_S - 1))

    assert play.running == [fits]
    assert play.state(longer) == "queued"


def test_within_a_window_nothing_starts_and_after_it_everything_does():
    play = a_cluster(gpus="1xH100")
    reserve(play, GPUS[0], until=HOUR)
    (job,) = play.submit(a_job(limit=60.0))

    play.later(HOUR - 1)
    assert play.running == []
    play.later(2)

    assert play.running == [job]
    assert play.world.windows == {}


def test_what_is_set_aside_of_a_gpu_holds_for_instances_that_it_is_split_into_later():
    play = a_cluster(gpus="2xH100")
    create(play, "vision", gpus=(GPUS[1],))
    reserve(play, GPUS[0], until=HOUR)
    one, two = play.world.nodes["n1"].node.gpus
    parts = [
        replace(each, id=f"MIG-{each.index}", index=10 + each.index, mig="1g.10gb", parent=each.id)
        for each in (one, two)
    ]

    play.sees(replace(play.world.nodes["n1"].node, gpus=(replace(one, split=True), replace(two, split=True), *parts)))
    (job,) = play.submit(a_job(mig="1g.10gb"))
    theirs, next_ = play.submit(*[a_job_of("vision", mig="1g.10gb", limit=60.0)] * 2)

    assert [play.state(each) for each in (job, theirs, next_)] == ["queued", "starting", "queued"]


def test_the_end_of_a_window_is_told_once():
    play = a_cluster()
    reserve(play, GPUS[0], until=HOUR)
    assert told(play) == ["reserved"]
    play.now += HOUR

    play.cycle()
    assert told(play) == ["reservation_ended"]
    play.cycle()
    assert told(play) == []


def test_a_window_that_is_deleted_lets_the_queue_go_on():
    play = a_cluster(gpus="1xH100")
    number = reserve(play, GPUS[0], until=DAY)
    (job,) = play.submit(a_job())
    assert play.running == []

    unreserve(play, number)

    assert play.running == [job]
    assert unreserve(play, number).code == "no_such_reservation"


def test_what_runs_when_a_window_opens_runs_on():
    play = a_cluster(gpus="1xH100")
    (job,) = play.submit(a_job())
    play.starts(job)

    reserve(play, GPUS[0], at=60.0, until=HOUR)
    play.later(120.0)

    assert isinstance(play.world.active[job].state, Running)


def prolonged(play, job, limit_s):
    """Give a running job another time limit; return why not, or ""."""
    terms = play.world.active[job].terms
    reply = play._ask(Update(1, ((job, replace(terms, time_limit_s=limit_s)),), ("its time limit",), (job,)))
    return "" if isinstance(reply, Changed) else f"{reply.message}; {reply.hint}"


@pytest.mark.parametrize("limit_s", [HOUR + 1, DAY, None])
def test_what_runs_is_not_prolonged_into_what_is_set_aside_for_others(limit_s):
    play = a_cluster(gpus="4xH100")
    (job,) = play.submit(a_job(2, limit=600.0))
    play.starts(job)
    assert reserve(play, GPUS[1], at=HOUR, until=2 * HOUR, users=["bob"]) == 1
    play.later(60)

    assert prolonged(play, job, limit_s) == (
        "job 1 would run into reservation 1, which begins in 59m; "
        "its time limit may be 1h at most; see for whom: gpuctl reserve list"
    )
    assert play.world.active[job].terms.time_limit_s == 600.0
    assert prolonged(play, job, HOUR) == ""
    assert prolonged(play, job, 60.0) == ""


def test_what_runs_may_be_prolonged_where_a_reservation_is_for_it_elsewhere_or_was_in_its_way_before():
    play = a_cluster(gpus="4xH100")
    first, second, third = play.submit(a_job(limit=600.0), a_job(limit=2 * HOUR), a_job())
    play.starts(first, second, third)
    reserve(play, *GPUS[1:], at=HOUR, until=2 * HOUR)
    reserve(play, GPUS[0], at=HOUR, until=2 * HOUR, users=["ada"])

    assert [prolonged(play, job, DAY) for job in (first, second, third)] == ["", "", ""]


def test_elements_that_run_are_not_prolonged_by_way_of_their_array():
    play = a_cluster(gpus="1xH100")
    (array,) = play.submit(a_job(array="0-1", limit=600.0))
    play.starts(element(array, 0))
    reserve(play, GPUS[0], at=HOUR, until=2 * HOUR)
    terms = replace(play.world.arrays[array].terms, time_limit_s=DAY)

    reply = play._ask(Update(1, ((array, terms),), ("its time limit",), (array,)))

    assert reply.message == "job 1_0 would run into reservation 1, which begins in 1h"
    assert play.world.arrays[array].terms.time_limit_s == 600.0


def test_other_gpus_are_given_out_meanwhile():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS[:3], until=DAY)

    first, second = play.submit(a_job(), a_job())

    assert play.gpus(first) == ["n1-H100-3"]
    assert play.state(second) == "queued"


def test_a_job_without_gpus_does_not_mind():
    play = a_cluster()
    reserve(play, *GPUS, until=DAY)

    (job,) = play.submit(a_job(0))

    assert play.running == [job]


# -- for a user, for a tenant


def test_a_reservation_is_for_whom_it_names_and_nobody_else():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS, until=DAY, users=["ada"], tenants=["vision"])

    ada, vision, bob = play.submit(a_job(user="ada"), a_job_of("vision", user="eve"), a_job(user="bob"))

    assert play.running == [ada, vision]
    assert isinstance(play.why(bob), Barred)


def test_reservations_that_overlap_bind_each_for_itself():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS[:3], until=DAY, users=["ada"])
    reserve(play, *GPUS[2:], until=DAY)

    ada = play.submit(*[a_job(user="ada") for _ in range(3)])

    assert sorted(gpu for job in ada if job in play.running for gpu in play.gpus(job)) == [*GPUS[:2]]


def test_what_is_set_aside_for_others_then_is_reserved_for_nobody_else():
    play = a_cluster(gpus="4xH100")
    create(play, "vision")
    reserve(play, *GPUS[:3], at=HOUR, until=2 * HOUR, users=["ada"])
    taken = reserve(play, *GPUS[1:], at=1.5 * HOUR, until=DAY, users=["bob"])
    assert taken.message == "GPU n1:1 is set aside then: reservation 1, for ada"
    assert reserve(play, GPUS[3], until=DAY) == 2
    assert "reservation 2, for nobody" in reserve(play, GPUS[3], until=DAY, tenants=["vision"]).message

    assert reserve(play, *GPUS[:3], at=2 * HOUR, until=DAY, users=["bob"]) == 3
    assert reserve(play, *GPUS[:2], until=DAY, users=["ada", "bob"]) == 4, "for both"


def test_reservations_survive_a_restart_with_their_numbers():
    play = a_cluster(gpus="4xH100")
    reserve(play, *GPUS[:2], until=DAY, users=["ada"], reason="deadline")
    reserve(play, GPUS[3], at=HOUR, until=DAY)

    after = play.restarted()

    assert after.world.windows == play.world.windows
    assert reserve(after, GPUS[0], until=DAY) == 3
    unreserve(after, 3)
    assert reserve(after.restarted(), GPUS[0], until=DAY) == 4, "what is deleted leaves its number to nobody else"


def test_what_is_a_tenants_own_is_set_aside_for_its_own_people_or_for_maintenance_alone():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpus=GPUS[:2], users=("ada",))
    create(play, "language")

    for whose in ({"tenants": ["language"]}, {"users": ["bob"]}):
        assert "GPU n1:1 is tenant vision's own" in reserve(play, *GPUS[1:], until=DAY, **whose).message

    for day, whose in enumerate(({"tenants": ["language", "vision"]}, {"users": ["ada"]}, {})):
        assert reserve(play, *GPUS[1:], at=day * DAY, until=(day + 1) * DAY, **whose) == day + 1


# -- GPUs and types of tenants


def test_gpus_that_belong_to_a_tenant_are_its_own_even_while_idle():
    play = a_cluster(gpus="2xH100")
    create(play, "vision", gpus=("n1-H100-1",))
    first, second = play.submit(a_job(), a_job())

    assert play.gpus(first) == ["n1-H100-0"]
    wait = play.why(second)
    assert isinstance(wait, Barred)
    assert (wait.claim.kind, wait.claim.name) == ("tenant", "vision")
    (own,) = play.submit(a_job_of("vision"))
    assert play.gpus(own) == ["n1-H100-1"]
    play.ends(own)
    assert play.started == []
    change(play, "vision", gpus=())
    assert play.started == [second]


def test_of_several_claims_the_one_is_told_without_which_there_would_be_room():
    play = a_cluster(a_node("n1", "3xH100"), a_node("n2", "2xH100"))
    create(play, "vision", gpus=("n2-H100-0",))
    reserve(play, "n1-H100-2", until=DAY)
    (wide,) = play.submit(a_job(3, limit=60))
    wait = play.why(wide)
    assert isinstance(wait, Barred)
    assert wait.claim.name == "1"


def test_what_is_never_for_a_job_is_not_counted_as_what_would_do():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpus=("n1-H100-0",))
    play.submit(a_job(2))
    (wide,) = play.submit(a_job(3))
    assert play.why(wide) == NoCapacity(3, 3, 1, "n1")


def test_who_fits_only_on_a_node_that_it_leaves_out_is_refused():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "2xH100"))
    create(play, "vision", gpus=("n1-H100-0",))
    asked = play.refused(a_job(2, excluded_nodes=("n2",)))
    assert asked.startswith("2 GPUs of one node are asked for; beside those for tenant vision there is 1 that suits")


def test_a_tenants_jobs_go_to_its_own_gpus_first():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "4xH100"))
    create(play, "vision", gpus=("n1-H100-1", "n2-H100-2", "n2-H100-3"))

    pair, third, fourth = play.submit(a_job_of("vision", 2), a_job_of("vision"), a_job_of("vision"))

    assert play.gpus(pair) == ["n2-H100-2", "n2-H100-3"]
    assert play.gpus(third) == ["n1-H100-1"]
    assert play.gpus(fourth)[0] in {"n1-H100-0", "n2-H100-0", "n2-H100-1"}


def test_what_is_reserved_for_a_blocked_job_moves_when_somebody_claims_it():
    play = a_cluster(gpus="4xH100")
    play.submit(a_job(gpu_ids=(GPUS[3],), limit=6 * HOUR))
    four, three = play.submit(a_job(4, limit=HOUR), a_job(3, limit=8 * HOUR))
    assert play.why(three).job == four

    reserve(play, GPUS[3], at=60.0, until=1000 * HOUR)

    assert play.started == [three], "the first waits for the end of the window, not for that of a job"


def test_what_is_reserved_for_a_blocked_job_moves_when_a_tenant_gets_it_as_its_own():
    play = a_cluster(gpus="4xH100")
    create(play, "vision")
    play.starts(*play.submit(a_job(2, gpu_ids=GPUS[:2], limit=HOUR), a_job(2, gpu_ids=GPUS[2:], limit=2 * HOUR)))
    play.submit(a_job(2))
    assert set(play.reserved.allocation.all_gpus) == {*GPUS[:2]}

    change(play, "vision", gpus=GPUS[:1])

    assert set(play.reserved.allocation.all_gpus) == {*GPUS[2:]}
    assert round(play.reserved.at - play.now) == 2 * HOUR


def test_a_gpu_has_one_owner():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpus=GPUS[:2])

    refused = create(play, "language", gpus=GPUS[1:])

    assert refused.message == "GPU n1:1 belongs to tenant vision"
    create(play, "language", gpus=GPUS[2:])
    assert change(play, "language", gpus=GPUS).message == "GPU n1:0 belongs to tenant vision"


def test_what_pools_name_and_is_not_there_or_twice_is_told():
    pools = (Pool(name="debug", gpus=("0", "9")), Pool(name="long", gpus=("n1:0", "n7:1")))
    play = a_cluster(gpus="4xH100", rules=Rules(pools=pools))

    assert misnamed(play.world, play.now) == [
        "pool debug names GPU 9, and there is none",
        "pool long names GPU n7:1, and there is none",
        "GPU n1:0 is in the pools debug and long: no job can get it",
    ]
    refused = create(play, "vision", gpus=("n1-H100-1", "n1-H100-0"))
    assert refused.message == "GPU n1:0 is in a pool: as a tenant's own nobody could get it"


def test_a_tenant_for_whom_something_is_reserved_is_not_deleted():
    play = a_cluster()
    create(play, "vision")
    number = reserve(play, GPUS[0], until=HOUR, tenants=["vision"])

    assert delete(play, "vision").message == "reservation 1 is for tenant vision"
    unreserve(play, number)
    delete(play, "vision")
    assert not play.world.tenants


def test_a_gpu_that_appears_later_is_under_the_claims_too():
    play = a_cluster(a_node("n1", "1xH100"))
    create(play, "students", gpu_types=("A10",))
    play.pause()
    (job,) = play.submit(a_job_of("default"))
    play.cancel(job)
    play.sees(a_node("n2", "1xA10"))
    play.pause(None)

    (job,) = play.submit(a_job_of("students"))

    assert play.node(job) == "n2"


def test_gpus_are_named_by_index_by_node_and_by_the_beginning_of_their_uuid():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "2xH100"))
    gpus = list(play.world.gpus.values())

    def named(word):
        return [state.gpu.id for state in named_by(gpus, word)]

    assert named("1") == ["n1-H100-1", "n2-H100-1"]
    assert named("n2:1") == ["n2-H100-1"]
    assert named("N2-h100-0") == ["n2-H100-0"]
    assert named("n2") == ["n2-H100-0", "n2-H100-1"]
    assert named("7") == named("n3:0") == named("") == []


# -- whatever is asked

windows = st.lists(
    st.tuples(
        st.sets(st.integers(0, 3), min_size=1),
        st.sampled_from([0.0, 600.0, HOUR]),
        st.sampled_from([300.0, HOUR, DAY]),
        st.sampled_from([(), ("ada",), ("bob",)]),
    ),
    max_size=4,
)
specs = st.lists(
    st.fixed_dictionaries(
        {"gpus": st.sampled_from([0, 1, 1, 2, 4]), "user": st.sampled_from(["ada", "bob"])},
        optional={"limit": st.sampled_from([60.0, 1200.0, 2 * HOUR]), "estimate": st.sampled_from([60.0, 2 * HOUR])},
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(windows, specs, st.lists(st.sampled_from([1.0, 200.0, 900.0, HOUR]), max_size=6))
def test_no_job_is_ever_started_where_it_could_last_into_a_window_of_others(asked, jobs, waits):
    play = a_cluster(gpus="4xH100")
    for gpus, at, lasts, whose in asked:
        reserve(play, *[GPUS[index] for index in sorted(gpus)], at=at, until=at + lasts, users=whose)
    play.submit(*[a_job(**spec) for spec in jobs])
    assert_keeps_out(play)
    for seconds in waits:
        for job in play.running[:2]:
            play.ends(job)
            assert_keeps_out(play)
        play.later(seconds)
        assert_keeps_out(play)


def assert_keeps_out(play):
    for job in play.started:
        active = play.world.active[job]
        terms = active.terms
        lasts = terms.time_limit_s or terms.estimate_s or play.world.rules.assumed_runtime_s
        for window in play.world.windows.values():
            mine = terms.user in window.users or not set(window.gpus) & set(play.gpus(job))
            assert mine or play.now + lasts <= window.at, f"{job} runs into {window}"


def test_claims_that_stand_are_made_once():
    play = a_cluster(gpus="4xH100")
    create(play, "vision", gpus=(GPUS[0],), gpu_types=("A10",))

    first, again = claims(play.world, play.now), claims(play.world, play.now)

    assert len(first) == 2
    assert all(one is other for one, other in zip(first, again, strict=True))
