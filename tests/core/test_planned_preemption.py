"""Who may preempt and cannot yet: what is kept for it meanwhile, and what is decided only once it can."""

import pytest
from playbook import NOON, Hardware, a_cluster, a_job, a_node, a_real_cluster
from tenancy import a_job_of, create, reserve
from test_preemption import all_running, preemptible, stopping

from gpud.core.policies import POLICIES
from gpud.core.rules import Rules


def test_a_higher_priority_that_comes_before_anybody_was_stopped_is_first():
    play = a_cluster(gpus="1xH100")
    (victim,) = all_running(play, 1)
    (low,) = play.submit(a_job(1, priority=5))
    play.later(10)
    (high,) = play.submit(a_job(1, priority=9))
    play.later(60)

    assert stopping(play) == [victim]
    play.ends(victim, signal=15)
    assert (play.state(high), play.state(low)) == ("starting", "queued")


@pytest.mark.parametrize("whose", ["its own", "the victim's"])
def test_nothing_is_planned_any_more_once_the_priority_is_another(whose):
    play = a_cluster(gpus="4xH100")
    (stays,) = play.submit(a_job(1, limit=5000))
    (gives,) = play.submit(preemptible(a_job(2, limit=72000, grace=2.0)))
    play.starts(stays, gives)
    play.later(100)
    (urgent,) = play.submit(a_job(4, priority=9, limit=600))
    assert play.world.reservations[urgent].yielding == {gives}

    play.prioritise(*((0, urgent) if whose == "its own" else (20, gives)))
    play.later(10)

    assert not play.world.reservations[urgent].yielding
    assert play.world.reservations[urgent].at > NOON + 70000, "when the other ends"


def test_nobody_is_stopped_for_who_would_run_into_a_window_that_was_made_meanwhile():
    play = a_cluster(gpus="2xH100")
    all_running(play, 2, limit=20000, grace=20.0)
    play.later(10)
    (urgent,) = play.submit(a_job(2, priority=9, limit=600))
    assert play.world.reservations[urgent].yielding
    reserve(play, "n1-H100-0", "n1-H100-1", at=300, until=400)

    play.later(100)

    assert stopping(play) == []


def test_no_more_are_stopped_than_needed_once_another_has_ended():
    play = a_cluster(gpus="4xH100")
    (stays,) = play.submit(a_job(1, limit=20000))
    play.starts(stays)
    all_running(play, 3, limit=20000)
    play.later(10)
    play.submit(a_job(3, priority=9))
    play.later(10)
    play.ends(stays)

    play.later(60)

    assert len(stopping(play)) == 2


def test_a_tenant_that_lent_is_left_with_what_is_guaranteed_to_itself():
    play = a_cluster(a_node("n1", gpus="2xH100"), a_node("n2", gpus="2xH100"))
    create(play, "vision", guaranteed_gpus=2)
    create(play, "speech", guaranteed_gpus=2)
    held = play.submit(*(a_job_of("speech", limit=20000) for _ in range(4)))
    play.starts(*held)
    play.later(10)
    (asked,) = play.submit(a_job_of("vision", 2))
    plan = play.world.reservations[asked]
    assert len(plan.yielding) == 2
    play.later(10)
    play.ends(next(job for job in held if job not in plan.yielding))
    play.submit(a_job_of("vision", 0, cpus=1))

    play.later(60)

    assert len(set(held) & set(play.running) - set(stopping(play))) >= 2


@pytest.mark.parametrize("reservations", [0, 1])
@pytest.mark.parametrize("policy", ["priority", "sjf", "fair_share", "las", "fcfs"])
def test_short_jobs_one_after_the_other_do_not_keep_a_guarantee_out(policy, reservations):
    """Neither where nobody reserves, nor where somebody else has the only reservation."""
    play = a_cluster(a_node("n1", gpus="3xH100"), a_node("n2", gpus="4xA100"), rules=Rules(reservations=reservations))
    chosen = POLICIES[policy]
    play.world.set_policy(chosen.make(chosen.values({}), play.world))
    create(play, "vision", guaranteed_gpus=3)
    create(play, "guests")
    blocks = play.submit(a_job_of("guests", 4, type="A100", user="zed", estimate=1e5))
    play.starts(*blocks)
    play.submit(a_job_of("guests", 4, type="A100", priority=20, user="zed", estimate=1.0))
    short = a_job_of("guests", type="H100", limit=30, user="bob")
    for _ in range(3):
        play.starts(*play.submit(short))
        play.later(10)
    (asked,) = play.submit(a_job_of("vision", 3, type="H100", estimate=1000.0))
    play.submit(*[short] * 100)

    for _ in range(60):
        play.later(5)
        play.ends(*stopping(play), signal=15)
        play.ends(*(job for job in play.running if job not in blocks and play.now - play.world.active[job].since >= 29))
        if asked in play.running:
            break
        play.starts(*(job for job in play.running if play.state(job) == "starting"))

    assert asked in play.running


def test_who_waits_for_one_that_overruns_reserves_only_as_one_of_so_many():
    play = a_cluster(a_node("n1", gpus="3xH100"), a_node("n2", gpus="3xH100"))
    stay = play.submit(*(a_job(1, limit=9000, estimate=100, spread=True) for _ in range(2)))
    give = play.submit(*(preemptible(a_job(1, limit=20000, spread=True)) for _ in range(2)))
    play.starts(*stay, *give)
    play.later(61)

    play.submit(*(a_job(3, priority=5, limit=600) for _ in range(4)))

    assert len(play.world.reservations) == 1


def test_what_victims_leave_does_not_go_to_another_who_preempted_too():
    play = a_cluster(a_node("n1", gpus="1xH100"), a_node("n2", gpus="2xH100"))
    play.submit(preemptible(a_job(1, cpus=64 - 8, estimate=1e5)))
    play.submit(*(preemptible(a_job(1, estimate=1e5)) for _ in range(2)))
    play.starts(*play.running)
    (one,) = (job for job in play.running if play.node(job) == "n1")
    two = [job for job in play.running if play.node(job) == "n2"]
    play.later(3600)
    play.prioritise(1, *two)
    play.submit(a_job(1, priority=9, estimate=1e5))
    assert stopping(play) == [one]
    (second,) = play.submit(a_job(2, priority=8, estimate=1e5))
    assert sorted(stopping(play)) == sorted([one, *two])

    play.ends(*two, signal=15)

    assert play.state(second) == "starting"


def test_what_is_kept_of_a_shared_gpu_is_there_when_the_victim_has_gone_not_all_who_share_it():
    play = a_cluster(gpus="1xH100", rules=Rules(preempt_after_s=0))
    stays, gives = play.submit(
        a_job(1, share_permille=500, limit=9000), preemptible(a_job(1, share_permille=500, limit=9000))
    )
    play.starts(stays, gives)
    (urgent,) = play.submit(a_job(1, share_permille=500, priority=9))
    assert stopping(play) == [gives]
    play.later(1)

    assert play.world.reservations[urgent].at < play.now + 100
    play.ends(gives, signal=15)
    assert play.state(urgent) == "starting"


@pytest.mark.parametrize("jobs", [[(1, 0), (2, 2)], [(2, 0), (2, 0)], [(1, 0), (3, 0)], [(1, 0), (1, 0), (2, 0)]])
def test_a_guarantee_and_a_priority_do_not_preempt_in_turns(jobs):
    play = a_cluster(gpus="4xH100", rules=Rules(preemptible=True))
    create(play, "vision", guaranteed_gpus=1)
    create(play, "guests")
    play.submit(*(a_job_of("vision", gpus, priority=most, user="ann", estimate=1e5) for gpus, most in jobs))
    play.starts(*play.running)
    play.later(100)
    play.submit(a_job_of("guests", 4, priority=5, user="bob", estimate=1e5))

    stops = 0
    for _ in range(60):
        play.later(20)
        stops += len(stopping(play))
        play.ends(*stopping(play), signal=15)
        play.starts(*(job for job in play.running if play.state(job) == "starting"))

    assert stops <= 4


@pytest.mark.parametrize("readable", [True, False])
def test_what_victims_left_is_kept_until_it_has_been_looked_at(readable):
    play = a_real_cluster("2xH100")
    victims = play.submit(*(preemptible(a_job(1)) for _ in range(2)))
    play.settle()
    play.starts(*victims)
    play.later(3600)
    (urgent,) = play.submit(a_job(2, priority=5))
    assert stopping(play) == list(victims)
    play.ends(victims[0], signal=15)
    play.settle()
    play.later(10)
    play.ends(victims[1], signal=15)
    play.look(*play.asked())
    assert play.asked() == ["n1-H100-0"], "it was free for a while"

    (later,) = play.submit(a_job(1, priority=9, limit=5))
    if not readable:
        play.hardware[play.asked()[0]] = Hardware(broken="not answering")
        play.look()
        assert (play.state(later), play.state(urgent)) == ("starting", "queued"), "nobody waits for what may never be"
        return
    play.settle()

    assert (play.state(urgent), play.state(later)) == ("starting", "queued")


def two_of_whom_one_ends(*, grace=20.0, **ends):
    """Return a node on which one gives way and another does not, which is to end a second from now."""
    play = a_cluster(gpus="2xH100")
    (gives,) = play.submit(preemptible(a_job(1, grace=grace)))
    (other,) = play.submit(a_job(1, **ends))
    play.starts(gives, other)
    play.later(99)
    return play, gives, other


@pytest.mark.parametrize("known", ["limit", "estimate"])
@pytest.mark.parametrize("by_guarantee", [True, False])
def test_nobody_is_stopped_for_who_starts_as_soon_once_another_has_ended(known, by_guarantee):
    play, gives, ends = two_of_whom_one_ends(**{known: 100})
    if by_guarantee:
        create(play, "vision", guaranteed_gpus=1)
    (urgent,) = play.submit(a_job_of("vision", 1) if by_guarantee else a_job(1, priority=5))
    (short,) = play.submit(a_job(1, limit=1))
    assert stopping(play) == []
    play.later(1)
    play.ends(ends)
    assert (play.state(urgent), play.state(gives), play.state(short)) == ("starting", "running", "queued")


@pytest.mark.parametrize("grace", [20.0, 300.0])
def test_who_waits_for_another_that_overruns_has_a_victim_stopped_in_a_moment(grace):
    play, gives, _ = two_of_whom_one_ends(grace=grace, estimate=100)
    play.submit(a_job(1, priority=5))
    assert stopping(play) == []
    play.later(5)
    assert stopping(play) == [gives]


def test_who_waits_for_the_cpus_of_another_that_overruns_has_a_victim_stopped_in_a_moment_as_well():
    play = a_cluster(a_node("n1", "1xH100", cpus=8))
    (gives,) = play.submit(preemptible(a_job(0, cpus=4, grace=300.0)))
    (other,) = play.submit(a_job(0, cpus=4, estimate=100))
    play.starts(gives, other)
    play.later(99)
    play.submit(a_job(0, cpus=4, priority=5))
    assert stopping(play) == []
    play.later(5)
    assert stopping(play) == [gives]


@pytest.mark.parametrize("array", [True, False])
def test_only_the_first_of_two_waits_for_the_end_of_one(array):
    play, gives, ends = two_of_whom_one_ends(limit=100)
    urgent = [a_job(1, priority=5, array="1-2")] if array else [a_job(1, priority=5), a_job(1, priority=5)]
    play.submit(*urgent)
    assert stopping(play) == [gives]
    play.later(1)
    play.ends(ends)
    assert len(play.started) == 1


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_a_higher_priority_takes_over_what_those_leave_who_were_stopped_for_a_lower_one(wanted):
    play = a_cluster(gpus="3xH100")
    victims = all_running(play, 3)
    play.later(100)
    (low,) = play.submit(a_job(3, priority=5))
    assert stopping(play) == victims
    (high,) = play.submit(a_job(wanted, priority=6))
    for victim in victims:
        play.ends(victim, signal=15)
    assert (play.state(high), play.state(low)) == ("starting", "queued")


def test_a_higher_priority_takes_no_more_than_it_needs_of_what_a_lower_one_waits_for():
    play = a_cluster(gpus="4xH100")
    victims = all_running(play, 4)
    play.later(100)
    low, lowest = play.submit(a_job(2, priority=5)), play.submit(a_job(2, priority=4))
    assert stopping(play) == victims
    high = play.submit(a_job(2, priority=6))
    for victim in victims:
        play.ends(victim, signal=15)
    assert [play.state(*each) for each in (high, low, lowest)] == ["starting", "starting", "queued"]


@pytest.mark.parametrize("tenant", ["vision", "speech", ""])
def test_what_a_tenant_takes_back_only_its_own_higher_priority_takes_over(tenant):
    play = a_cluster(gpus="2xH100")
    create(play, "vision", guaranteed_gpus=2)
    create(play, "speech")
    victims = play.submit(*(preemptible(a_job_of("speech")) for _ in range(2)))
    play.starts(*victims)
    play.later(100)
    (low,) = play.submit(a_job_of("vision", 2))
    assert stopping(play) == victims
    (high,) = play.submit(a_job_of(tenant, 2, priority=9))
    for victim in victims:
        play.ends(victim, signal=15)
    assert play.state(high if tenant == "vision" else low) == "starting"
