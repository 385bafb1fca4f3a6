"""What people are told of one job: all that is in its way, and nothing that changes what is decided."""

from dataclasses import replace
from pathlib import Path

import pytest
from playbook import NOON, Hardware, Play, a_cluster, a_job, a_node, a_process, a_real_cluster
from tenancy import a_job_of, change, create, reserve
from test_preemption import preemptible

from gpud.core.commands import ChoosePolicy
from gpud.core.forecast import Forecast
from gpud.core.rules import Rules
from gpud.model.array import parse_array
from gpud.model.job import Exit, JobId
from gpud.model.tenant import Limits
from gpud.model.units import Timestamp
from gpud.model.window import Pool
from gpud.store.rows import AttemptRow, JobRow
from gpud.views.explaining import why_map
from gpud.views.jobs import Scene


def told(play: Play, job: JobId, *, deep: bool = True, **more):
    """Return what `gpuctl why JOB` is answered."""
    known = play.ledger.rows[job]
    row = JobRow(
        job=job,
        state=play.state(job).partition("(")[0],
        reason=play.ledger.reasons.get(job),
        terms=known.terms,
        place=known.place,
        name="job",
        command=("true",),
        workdir="/",
        labels={},
        output=None,
        error=None,
        begin_at=None,
        submitted_at=Timestamp(NOON),
        updated_at=Timestamp(NOON),
        ended_at=None if known.end is None else Timestamp(play.now),
        array=None if known.array is None else parse_array("0-9")[0],
        array_state=known.array,
        run=None,
    )
    now, forecast = Timestamp(play.now), Forecast(play.world, Timestamp(play.now))
    for _ in forecast.work():
        pass
    scene = Scene(world=play.world, now=now, log_dir=lambda uid: str(Path("/logs", str(uid))), forecast=forecast)
    return why_map(scene, replace(row, **more), play.world.queue.position(job), deep=deep)


def details(play: Play, job: JobId) -> str:
    return "\n".join(told(play, job)["details"])


def test_who_waits_for_a_gpu_on_which_jobs_died_is_told_whose_and_what_clears_it():
    play = a_real_cluster("1xH100")
    for job in play.submit(*(a_job(user="bob") for _ in range(3))):
        play.settle()
        play.starts(job)
        play.ends(job, code=1)
    play.settle()
    (waiting,) = play.submit(a_job())

    found = told(play, waiting)

    assert found["hint"] == "see which, and what clears it: gpuctl gpus --health"
    assert found["details"][-1].endswith(
        "3 jobs in a row died on it within 30 s of their start: 1 of bob, 2 of bob, 3 of bob; "
        "what clears it: a look at it and at them, then gpuctl undrain"
    )


def test_a_blocked_job_is_told_who_must_end_when_and_what_is_kept_for_it():
    play = a_cluster(gpus="2xH100")
    short, long = play.submit(a_job(limit=600), a_job(user="bob", limit=7200))
    play.starts(short, long)
    (wide,) = play.submit(a_job(2, user="eve", limit=60))

    found = told(play, wide)

    assert [(each["job"], each["user"], each["gpus"]) for each in found["blockers"]] == [
        ("1", "ada", ["n1:0"]),
        ("2", "bob", ["n1:1"]),
    ]
    assert [round(each["expected_end_at"] - NOON) for each in found["blockers"]] == [600, 7200]
    assert found["reservation"]["gpus"] == ["n1:0", "n1:1"]
    assert round(found["reservation"]["starts_at"] - NOON) == 7200
    assert (found["predicted_s"], found["predicted_from"], found["predicted_runs"]) == (60, "its time limit", 0)
    assert found["details"][-2:] == [
        "job 1 of ada holds GPU 0: ends within 10m",
        "job 2 of bob holds GPU 1: ends within 2h",
    ]
    assert "GPU 0, GPU 1 will be kept free for it in 2h" in found["details"]


def test_no_moment_is_told_of_gpus_that_others_have_first():
    play = a_cluster(gpus="2xH100")
    play.submit(a_job(limit=10, array="1-5%1"))
    play.starts(*play.running)
    (wide,) = play.submit(a_job(2, limit=60))

    found = told(play, wide)

    assert round(found["expected_start_at"] - NOON) == 50
    assert "GPU 0, GPU 1 will be kept free for it" in found["details"]


def test_an_end_is_told_as_it_is_expected_from_what_like_jobs_took():
    play = a_cluster(gpus="1xH100")
    for _ in range(3):
        (job,) = play.submit(a_job(limit=7200))
        play.starts(job)
        play.later(300)
        play.ends(job)
    (runs,) = play.submit(a_job(limit=7200))
    play.starts(runs)
    (waits,) = play.submit(a_job(limit=7200))

    assert "job 4 of ada holds GPU 0: expected to end in 5m, ends within 2h" in details(play, waits)
    assert (
        "expected to run for 5m: 3 of ada's unnamed jobs on 1 GPU that came with it, and what was known before"
        in details(play, waits)
    )
    assert "expected to end in 5m, ends within 2h" in details(play, runs)

    play.later(400)
    assert "runs longer than expected (5m), ends within 1h53m" in details(play, runs)


def test_what_was_learnt_since_a_job_started_does_not_contradict_what_is_told_of_its_end():
    play = a_cluster(gpus="2xH100")
    (first,) = play.submit(a_job())
    play.starts(first)
    (other,) = play.submit(a_job())
    play.starts(other)
    play.later(60)
    play.ends(other)

    told = details(play, first)
    assert "expected to run for 1d: what is assumed of any job: nothing was known of its like when it started" in told
    assert "expected to end in 23h59m, no time limit" in told


def test_who_yields_is_told_to_whom_and_which_gpus():
    play = a_cluster(gpus="2xH100")
    play.submit(a_job(limit=600))
    wide, late = play.submit(a_job(2, user="bob"), a_job(limit=7200))

    found = told(play, late)

    assert (found["code"], found["yields_to"]) == ("yields", "2")
    assert "job 2 of bob is to have GPU 0, GPU 1 in 10m5s" in found["details"]
    assert [each["reason"] for each in found["gpus"]] == ["free, but reserved for job 2 of bob, in 10m5s"]
    assert told(play, wide)["yields_to"] is None


def test_who_yields_to_one_for_whom_others_are_stopped_is_told_by_when_it_must_be_over():
    play = a_cluster(gpus="4xH100")
    (stays,) = play.submit(a_job(1, limit=200))
    (gives,) = play.submit(preemptible(a_job(2, limit=7200, priority=-5)))
    play.starts(stays, gives)
    play.later(100)
    play.submit(a_job(4, user="bob"))
    (late,) = play.submit(a_job(limit=150))

    assert told(play, late)["reason"] == "would delay job 3, for which others are stopped in 1m40s"
    assert "job 3 of bob is to have GPU 0, GPU 1, GPU 2, GPU 3 in 2m10s" in details(play, late)
    (short,) = play.submit(a_job(limit=90))
    assert play.state(short) == "starting"


def test_who_yields_without_a_time_limit_is_told_for_how_long_it_is_taken_to_run():
    play = a_cluster(gpus="2xH100")
    for runs, said in ((4, "1d"), (1, "15m, half as long again as the longest of its like")):
        for _ in range(runs):
            play.starts(*play.submit(a_job()))
            play.later(600)
            play.ends(*play.running)
        other, wide, late, short = play.submit(a_job(limit=600), a_job(2), a_job(), a_job(estimate=700))
        assert f"without a time limit it is taken to run for {said}" in details(play, late)
        assert not [line for line in details(play, short) if line.startswith("without")]
        play.cancel(other, wide, late, short)
        play.ends(other)
    (other,) = play.submit(a_job(limit=2 * 24 * 3600))
    play.submit(a_job(2))
    play.starts(other)
    play.later(25 * 3600)
    (late,) = play.submit(a_job(estimate=24 * 3600))
    assert "that has waited for so long that nobody without a time limit passes it" in details(play, late)


def test_of_a_gpu_that_is_busy_it_is_told_too_for_whom_it_is_kept():
    play = a_cluster(gpus="1xH100")
    (short,) = play.submit(a_job(limit=60))
    play.starts(short)
    reserve(play, "n1-H100-0", at=600, until=3600)
    (late,) = play.submit(a_job(limit=1200))

    found = told(play, late)
    assert [each["reason"] for each in found["gpus"]] == ["busy, and kept by reservation 1, which begins in 10m"]
    assert "GPU 0 is busy, and kept by reservation 1, which begins in 10m" in found["details"]


@pytest.mark.parametrize(
    ("drained", "reason", "named"),
    [
        ({"nodes": ("n1",)}, "waits for a GPU: none can be given (2 drained)", "GPU 0, GPU 1 are busy, and drained"),
        ({"gpus": (1,)}, "waits for a GPU: 0 of 2 are free, 1 drained", "GPU 1 is busy, and drained"),
    ],
)
def test_of_a_gpu_that_is_busy_it_is_told_too_that_it_is_drained(drained, reason, named):
    play = a_cluster(gpus="2xH100")
    play.starts(*play.submit(a_job(), a_job()))
    (waits,) = play.submit(a_job())
    play.drain(*(f"n1-H100-{index}" for index in drained.get("gpus", ())), nodes=drained.get("nodes", ()), reason="fan")

    assert told(play, waits)["reason"] == reason
    assert f"{named}: fan" in details(play, waits)


def test_who_lacks_more_than_gpus_on_every_node_is_told_of_that_too():
    play = a_cluster(*(a_node(name, "1xH100", cpus=8, memory=64) for name in ("n1", "n2")))
    play.starts(*play.submit(a_job(ram=40, cpus=6), a_job(ram=40)))
    much, many, little = play.submit(a_job(ram=40), a_job(cpus=4), a_job(ram=20, cpus=1))
    play.cycle()

    assert told(play, much)["reason"] == "waits for a GPU: 0 of 2 are free; nor is there enough memory"
    assert told(play, many)["reason"] == "waits for a GPU: 0 of 2 are free", "n2 has them"
    assert told(play, little)["reason"] == "waits for a GPU: 0 of 2 are free"
    (all_cpus,) = play.submit(a_job(cpus=8))
    play.starts(*play.submit(a_job(0, cpus=3)))
    assert told(play, all_cpus)["reason"] == "waits for a GPU: 0 of 2 are free; nor are there enough CPUs"


def test_whose_the_gpus_are_by_now_is_told_to_who_can_never_start_for_it():
    play = a_cluster(gpus="1xH100")
    play.starts(*play.submit(a_job()))
    (waits,) = play.submit(a_job())
    create(play, "vision", gpus=("n1-H100-0",))

    found = told(play, waits)
    assert found["reason"] == "a GPU is asked for; beside those for tenant vision there are none that suit"
    assert found["hint"] == "see whose they are: gpuctl gpus; it cannot start here: gpuctl cancel 2"


@pytest.mark.parametrize(
    ("rules", "prepare", "reason"),
    [
        (Rules(pools=(Pool(name="debug", gpus=("0",)),)), None, "free, but for pool debug"),
        (Rules(), lambda play: create(play, "vision", gpus=("n1-H100-0",)), "free, but tenant vision's own"),
        (Rules(), lambda play: play.drain("n1-H100-0", reason="fan"), "draining: fan"),
        (
            Rules(),
            lambda play: reserve(play, "n1-H100-0", at=60, until=3600),
            "free, but kept by reservation 1, which begins in 1m",
        ),
        (
            Rules(),
            lambda play: reserve(play, "n1-H100-0", until=3600),
            "free, but kept by reservation 1, for 1h more",
        ),
    ],
)
def test_of_each_gpu_that_would_suit_it_is_told_why_it_is_not_given(rules, prepare, reason):
    play = a_cluster(gpus="2xH100", rules=rules)
    if prepare is not None:
        prepare(play)
    busy, waits = play.submit(a_job(limit=60 * 60), a_job(limit=30 * 60))

    assert play.gpus(busy) == ["n1-H100-1"]
    assert [(each["index"], each["reason"]) for each in told(play, waits)["gpus"]] == [(0, reason)]
    assert f"GPU 0 is {reason}" in details(play, waits)


def test_a_gpu_with_a_strangers_process_names_the_stranger():
    play = a_real_cluster("1xH100")
    play.hardware = dict.fromkeys(play.hardware, Hardware(processes=(a_process(),)))
    play.look()
    (job,) = play.submit(a_job())
    play.settle()
    assert "GPU 0 is foreign: used by eve python (pid 4242)" in details(play, job)

    play.hardware = dict.fromkeys(play.hardware, Hardware(processes=(a_process(),) * 1000))
    play.look()
    (reason,) = (each["reason"] for each in told(play, job)["gpus"])
    assert reason.endswith(", 992 more")


def test_a_gpu_that_is_gone_is_not_named_by_a_number_that_another_has_now():
    before, after = (a_node("n1", f"{count}xH100", simulated=False) for count in (2, 1))
    play = a_cluster(replace(before, driver="550.54.15"))
    left = replace(after.gpus[0], id=before.gpus[1].id, index=0)
    play.sees(replace(after, gpus=(left,), driver="550.54.15"))
    (job,) = play.submit(a_job(2))
    play.settle()
    assert f"GPU {before.gpus[0].id[:12]} is lost: it is not there any more" in details(play, job)


def test_of_a_shared_gpu_it_is_told_how_much_is_left_and_who_has_the_rest():
    play = a_cluster(gpus="1xA10")
    (first,) = play.submit(a_job(share_mib=16 * 1024))
    (second,) = play.submit(a_job(share_mib=12 * 1024))
    found = told(play, second)
    assert [each["job"] for each in found["blockers"]] == ["1"]
    assert [each["reason"] for each in found["gpus"]] == ["shared, with 8G left"]
    assert told(play, first)["blockers"] == []


def test_what_is_short_beside_gpus_is_named_with_those_who_have_it():
    play = a_cluster(gpus="2xH100", cpus=8)
    play.submit(a_job(cpus=6))
    gpu, none = play.submit(a_job(cpus=4), a_job(0, cpus=8))
    assert [each["reason"] for each in told(play, gpu)["gpus"]] == ["free, but there are too few CPUs on n1"]
    assert [each["job"] for each in told(play, gpu)["blockers"]] == ["1"]
    assert [each["job"] for each in told(play, none)["blockers"]] == ["1"]


def test_what_is_short_is_named_also_where_gpus_are_and_of_whom_it_is_said_what_they_have():
    play = a_cluster(gpus="2xH100", cpus=8)
    play.starts(*play.submit(a_job(0, cpus=6, limit=60), a_job(2, limit=10), a_job(0, cpus=1, ram=500)))
    cpus, memory = play.submit(a_job(cpus=4), a_job(0, ram=200))

    assert [each["job"] for each in told(play, cpus)["blockers"]] == ["2", "1", "3"]
    assert "job 1 of ada holds CPUs of n1" in details(play, cpus)
    assert [each["job"] for each in told(play, memory)["blockers"]] == ["3"]
    assert "job 3 of ada holds memory of n1" in details(play, memory)


def test_a_node_that_never_has_enough_is_neither_counted_nor_is_who_runs_there_in_the_way():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "4xH100"))
    small, large = play.submit(a_job(2, limit=60), a_job(4, limit=600))
    play.starts(small, large)
    (waits,) = play.submit(a_job(4))
    assert told(play, waits)["reason"] == "waits for 4 GPUs: 0 of 4 are free"
    assert [each["job"] for each in told(play, waits)["blockers"]] == ["2"]


def test_who_would_run_into_a_reservation_of_fewer_gpus_than_it_asks_for_is_hinted_at_a_time_limit():
    play = a_cluster(gpus="4xH100")
    reserve(play, "n1-H100-0", at=3600, until=7200)
    (waits,) = play.submit(a_job(4))
    assert "would run into reservation 1" in told(play, waits)["reason"]
    assert told(play, waits)["hint"] == "a time limit that ends before then lets it pass: --time-limit"


def test_what_is_free_of_a_pool_that_is_too_small_is_no_reason_to_ask_for_it():
    play = a_cluster(gpus="4xH100", rules=Rules(pools=(Pool(name="debug", gpus=("3",)),)))
    play.starts(*play.submit(a_job(2, limit=60)))
    two, one = play.submit(a_job(2), a_job(1, user="bob"))
    play.starts(one)
    assert told(play, two)["reason"] == "what is free is for pool debug"
    assert told(play, two)["hint"] == "see for whom each GPU is: gpuctl gpus"
    (shared,) = play.submit(a_job(share_mib=8 * 1024, pool="debug"))
    play.starts(shared)
    assert "GPU 3 is shared, and for pool debug" in details(play, two)


def test_where_only_cpus_are_short_only_those_who_have_them_and_for_whom_they_are_kept_are_named():
    play = a_cluster(gpus="4xH100", cpus=8)
    play.starts(*play.submit(a_job(cpus=6, limit=60), a_job()))
    first, later, none = play.submit(a_job(cpus=8, limit=600), a_job(cpus=1), a_job(0, cpus=1))
    assert [each["job"] for each in told(play, first)["blockers"]] == ["1"]
    assert details(play, later).endswith("GPU 2, GPU 3 are free, but CPUs there are reserved for job 3 of ada, in 1m")
    assert told(play, none)["gpus"] == []


def test_a_gang_is_told_how_many_nodes_are_missing():
    play = a_cluster(*(a_node(f"n{number}", "2xH100") for number in range(3)))
    play.submit(a_job(2), a_job(1))
    (gang,) = play.submit(a_job(6, nodes=3))
    assert "1 of the 3 nodes that it needs have room for their part: 2 missing" in details(play, gang)


def test_over_a_quota_the_numbers_are_told_and_whose_jobs_would_have_to_end():
    play = a_cluster(gpus="4xH100", rules=Rules(limits=Limits(gpus_per_user=2)))
    play.submit(a_job(2, limit=60), a_job(1, user="bob"))
    (more,) = play.submit(a_job(1))
    found = told(play, more)
    assert found["reason"] == "user ada has 2 of 2 GPUs in use"
    expected = {"whose": "user ada", "what": "GPUs", "used": 2, "limit": 2, "wanted": 1, "renewed_at": None}
    assert found["quota"] == expected
    assert [each["job"] for each in found["blockers"]] == ["1"]


def test_only_whose_end_would_give_a_gpu_that_the_job_may_have_is_in_its_way():
    play = a_cluster(gpus="4xH100", rules=Rules(pools=(Pool(name="debug", gpus=("3",)),)))
    create(play, "own", gpus=("n1-H100-0",))
    own, debug, one, two = play.submit(
        a_job_of("own", limit=60), a_job(pool="debug", limit=60), a_job(limit=600), a_job(limit=900)
    )
    play.starts(own, debug, one, two)
    waits, inside = play.submit(a_job(limit=60), a_job(pool="debug", limit=60))

    assert play.gpus(own) + play.gpus(debug) == ["n1-H100-0", "n1-H100-3"]
    assert [each["job"] for each in told(play, waits)["blockers"]] == ["3", "4"]
    assert [each["job"] for each in told(play, inside)["blockers"]] == ["2"]

    play.drain(*play.gpus(one))
    assert [each["job"] for each in told(play, waits)["blockers"]] == ["4"]


@pytest.mark.parametrize(("until", "blockers"), [(300, ["1"]), (1800, [])])
def test_who_outlasts_a_reservation_of_his_gpu_is_in_the_way_and_who_ends_before_is_not(until, blockers):
    play = a_cluster(gpus="1xH100")
    play.starts(*play.submit(a_job(limit=600)))
    reserve(play, "n1-H100-0", until=until)
    (waits,) = play.submit(a_job(limit=60))
    assert [each["job"] for each in told(play, waits)["blockers"]] == blockers


def test_who_asks_for_more_than_a_quota_ever_allows_is_told_that_it_cannot_start():
    play = a_cluster(gpus="2xH100")
    create(play, "vision", max_gpus=2)
    play.starts(*play.submit(a_job_of("vision")))
    (waits,) = play.submit(a_job_of("vision", 2))
    change(play, "vision", max_gpus=1)

    found = told(play, waits)
    assert found["reason"] == "2 GPUs asked for; tenant vision may have 1 GPU at once"
    assert found["hint"] == "it cannot start under that limit: gpuctl cancel 2"
    assert found["blockers"] == []


def test_a_throttled_array_is_told_which_elements_run():
    play = a_cluster(gpus="4xH100")
    (array,) = play.submit(a_job(array="0-9%2"))
    assert [each["job"] for each in told(play, array)["blockers"]] == ["1_0", "1_1"]


def test_a_running_job_is_told_who_may_preempt_it_and_a_preempted_one_for_whom():
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True, preempt_margin=10))
    first, safe = play.submit(a_job(1, priority=1), a_job(1, priority=90))
    play.starts(first, safe)
    assert told(play, first)["details"][-1] == "may be preempted in 1m by a job of priority 11 or more"
    play.later(61)
    assert told(play, first)["details"][-1] == "may be preempted by a job of priority 11 or more"

    (urgent,) = play.submit(a_job(1, user="bob", priority=50))

    assert play.state(first) == "stopping(preempted)"
    assert "job 1 of ada holds GPU 1: being stopped, killed within 30s" in details(play, urgent)
    found = told(play, first)
    assert found["reason"] == "being stopped: preempted, for job 3 of bob"
    assert found["details"][-2:] == ["it has 30s at most to end", "it goes back to its place in the queue"]
    assert told(a_running(), JobId(1 << 24))["details"][-1] == "nobody may preempt it"


@pytest.mark.parametrize("priority", [0, 5])
def test_who_waits_for_another_to_have_run_long_enough_to_give_way_is_told_when(priority):
    play = a_cluster(gpus="1xH100", rules=Rules(preemptible=True))
    play.starts(*play.submit(a_job()))
    (waits,) = play.submit(a_job(priority=priority))
    gives_way = details(play, waits).endswith("no time limit; may have to give way in 1m")
    assert gives_way is bool(priority)


def test_who_has_run_long_enough_and_is_stopped_when_others_end_is_told_to_have_to_give_way():
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True))
    safe = a_job(limit=600)
    play.starts(*play.submit(a_job(limit=3600), replace(safe, terms=replace(safe.terms, preemptible=False))))
    play.later(61)
    (waits,) = play.submit(a_job(2, priority=5))

    assert details(play, waits).splitlines()[-2].endswith("GPU 1: ends within 8m59s")
    assert "ends within 58m59s; has to give way in 8m59s" in details(play, waits)


def test_who_had_its_share_under_las_is_told_so_also_while_nobody_waits():
    play = a_running()
    play._ask(ChoosePolicy(1, "las", (("first_level", 600.0),)))
    assert details(play, play.running[0]).endswith(
        "may be preempted in 10m by one that stands better with the policy las"
    )
    (waits,) = play.submit(a_job(4))
    assert "may have to give way in 10m" in details(play, waits)
    play.cancel(waits)
    play.later(601)
    assert details(play, play.running[0]).endswith("by one that stands better with the policy las")


def a_running() -> Play:
    play = a_cluster()
    play.starts(*play.submit(a_job()))
    return play


def test_who_borrows_is_told_that_a_guarantee_may_be_taken_back():
    play = a_cluster(gpus="2xH100")
    create(play, "vision", guaranteed_gpus=2)
    (lent,) = play.submit(a_job_of("students"))
    play.starts(lent)
    assert "a tenant that takes its guarantee back: students borrows" in details(play, lent)


@pytest.mark.parametrize(
    ("ended", "reason"), [({}, "exit code 0"), ({"code": 3}, "exit code 3"), ({"signal": 9}, "killed by SIGKILL")]
)
def test_an_ended_job_is_told_how_it_ended(ended, reason):
    play = a_running()
    job = play.running[0]
    play.ends(job, **ended)
    over = Exit(at=Timestamp(play.now), **({"exit_code": ended.get("code", 0)} if "signal" not in ended else ended))
    run = AttemptRow(
        job=job,
        attempt=1,
        starting_at=Timestamp(NOON),
        started_at=Timestamp(NOON),
        boot="boot-1",
        allocation=(),
        process=None,
        shim=None,
        cause=None,
        kill_at=None,
        exit=over,
        gpu_s=1.0,
    )
    assert told(play, job, run=run)["reason"] == reason


def test_a_job_that_was_cancelled_in_the_queue_is_told_that_it_never_started():
    play = a_cluster(gpus="1xH100")
    _, waits = play.submit(a_job(), a_job())
    play.cancel(waits)
    assert told(play, waits)["reason"] == "before it started"


def test_what_is_told_is_bounded_however_much_is_in_the_way():
    play = a_cluster(*(a_node(f"n{number:02}", "8xH100") for number in range(10)))
    play.submit(*(a_job(limit=60.0 + number) for number in range(60)))
    play.drain(*(f"n09-H100-{number}" for number in range(8)), reason="fan")
    play.submit(*(a_job(8) for _ in range(2)))
    (waits,) = play.submit(a_job(8))
    found = told(play, waits)
    assert len(found["details"]) <= 21
    assert any(line.startswith("and ") and line.endswith(" more such jobs") for line in found["details"])
    assert any("are draining: fan" in line for line in found["details"])
    assert (len(found["blockers"]), len(found["gpus"])) == (20, 12)
    assert {"blockers", "gpus"}.isdisjoint(told(play, waits, deep=False))


def a_story(*, asking: bool) -> Play:
    """Play a story of every kind of wait; ask why of everybody after every step."""
    play = a_cluster(gpus="4xH100", rules=Rules(preemptible=True, pools=(Pool(name="d", gpus=("3",)),)))

    play._ask(ChoosePolicy(1, "las", (("first_level", 60.0),)))

    def asked() -> None:
        for job in list(play.ledger.rows) if asking else ():
            told(play, job)

    for step in range(12):
        jobs = play.submit(a_job(1 + step % 3, priority=step % 4, limit=600, grace=1.0, user=f"user{step % 2}"))
        asked()
        play.starts(*(job for job in jobs if play.state(job) == "starting"))
        asked()
        play.later(90)
        asked()
        stopping = [job for job in play.running if play.state(job).startswith("stopping")]
        play.ends(*stopping, signal=15)
        play.ends(*play.running[: step % 2])
    return play


def test_asking_changes_nothing_of_what_is_decided():
    quiet, loud = a_story(asking=False), a_story(asking=True)
    assert loud.ledger.rows == quiet.ledger.rows
    assert loud.out == quiet.out
    assert any(row.place.attempt > 1 for row in quiet.ledger.rows.values()), "nobody was preempted"


def test_who_waits_in_a_pool_is_told_what_is_free_of_it_and_who_has_the_rest():
    pools = (Pool(name="debug", gpus=("n1:0", "n1:1")),)
    play = a_cluster(gpus="4xH100", rules=Rules(pools=pools))
    (runs,) = play.submit(a_job(1, pool="debug"))
    play.starts(runs)
    (waits,) = play.submit(a_job(2, pool="debug"))
    assert told(play, waits)["reason"].startswith("waits for 2 GPUs: 1 free on n1, of 2 that would do")
    assert any(f"job {runs >> 24}" in each for each in told(play, waits)["details"])


def test_a_node_of_which_too_much_is_in_a_pool_is_not_the_one_with_most_that_is_free():
    pools = (Pool(name="debug", gpus=("n1:0",)),)
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xH100"), rules=Rules(pools=pools))
    runs, _, waits = play.submit(a_job(4), a_job(1, pool="debug"), a_job(4))
    assert play.node(runs) == "n2"
    assert told(play, waits)["reason"].startswith("waits for 4 GPUs: 0 of 4 are free")


def test_of_what_is_kept_for_others_that_is_named_which_is_over_first():
    play = a_cluster(gpus="4xH100")
    create(play, "nlp", gpus=("n1-H100-0", "n1-H100-1"))
    reserve(play, "n1-H100-2", "n1-H100-3", until=600.0, users=("bob",))
    (waits,) = play.submit(a_job(1))
    assert told(play, waits)["reason"].startswith("what is free is kept by reservation 1, for 10m more")


def test_what_is_kept_for_others_for_a_time_is_not_free():
    play = a_cluster(a_node("n1", "4xH100"), a_node("n2", "4xH100"))
    reserve(play, *(f"n1-H100-{at}" for at in range(4)), until=50.0, users=("eve",))
    (runs,) = play.submit(a_job(4))
    assert play.node(runs) == "n2"
    (waits,) = play.submit(a_job(2, nodes=2, limit=30))
    assert told(play, waits)["reason"].startswith("waits for 2 nodes with 1 GPU each: 0 of 8 are free")


@pytest.mark.parametrize("said", [{}, {"limit": 9000}, {"estimate": 9000}])
def test_who_waits_beside_those_who_are_stopped_for_another_is_told_that_nobody_passes(said):
    play = a_cluster(gpus="2xH100", rules=Rules(preemptible=True))
    (victim,) = play.submit(a_job(1))
    play.starts(victim)
    play.later(100)
    _, waits = play.submit(a_job(2, priority=5), a_job(1, **said))
    assert "others are stopped for that: nobody passes it, however short" in details(play, waits)
