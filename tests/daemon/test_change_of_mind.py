"""Jobs that are changed after they were submitted: while they wait, and while they run."""

import os
import signal
import time

import pytest
from gpud_process import Gpud, lives, until

from gpuctl.errors import RefusedError

TRAP = "trap 'echo got USR1' USR1; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def gpud(tmp_path_factory):
    gpud = Gpud(tmp_path_factory.mktemp("changes"), "--simulate", "2xRTX4090").start()
    yield gpud
    assert not gpud.close()


def changed(gpud, job, **fields):
    return gpud.ask("update", select={"jobs": [job]}, **fields)


def test_a_waiting_job_asks_for_something_else_and_runs_with_it(gpud):
    job = gpud.submit("sh", "-c", "echo $WORD; pwd", gpus=2, hold=True, labels={"a": "1"}, env={"WORD": "old"})
    done = changed(
        gpud,
        job,
        demand={"gpus": 1, "whole": True},
        name="run-7",
        priority=-3,
        time_limit_s=60.0,
        labels={"b": "2"},
        variables={"WORD": "new"},
        workdir="/",
    )
    assert done == {"id": done["id"], "ok": True, "changed": [job], "notes": {}}
    shown = gpud.job(job)
    assert (shown["gpus"], shown["name"], shown["priority"], shown["time_limit_s"]) == (1, "run-7", -3, 60.0)
    assert (shown["labels"], shown["state"]) == ({"a": "1", "b": "2"}, "held")
    assert shown["reason"] == "held by its owner"
    gpud.kill()
    gpud.start()
    gpud.ask("release", select={"jobs": [job]})
    ended = gpud.ended(job)
    assert len(ended["allocation"][0]["gpu_uuids"]) == 1
    assert gpud.output(job) == "new\n/\n"


def test_a_change_of_very_many_jobs_is_one_answer_of_all(gpud):
    request = gpud.request_of("true")
    each = {"demand": {"gpus": 2}, "command": ["true"], "workdir": "/"}
    shared = {key: request[key] for key in ("nonce", "environment", "umask", "limits")}
    running = gpud.submit("sleep", "1000", gpus=1)
    gpud.running(running)
    jobs = gpud.ask("submit_many", **shared, jobs=[each] * 2100)["jobs"]
    select = {"jobs": [running, *jobs]}

    done = gpud.ask("hold", select=select)
    assert (done["changed"], list(done["notes"])) == (jobs, [running])
    done = gpud.ask("priority", select={"jobs": jobs}, priority=-3)
    assert (done["changed"], gpud.job(jobs[0])["priority"], gpud.job(jobs[-1])["priority"]) == (jobs, -3, -3)
    with pytest.raises(RefusedError, match=f"job {jobs[-1]} cannot come after itself"):
        gpud.ask("update", select={"jobs": jobs}, name="never", after={"success": [jobs[-1]]})
    done = gpud.ask("update", select={"jobs": jobs}, name="changed", group="many")
    assert (done["changed"], gpud.ask("groups", name="many")["groups"][0]["total"]) == (jobs, 2100)
    assert gpud.job(jobs[0])["name"] == gpud.job(jobs[-1])["name"] == "changed"
    assert gpud.ask("release", select={"jobs": jobs})["changed"] == jobs
    assert gpud.ask("interrupt", select={"jobs": jobs})["changed"] == jobs
    assert gpud.ask("cancel", select=select)["changed"] == [running]
    assert gpud.ended(running)["state"] == gpud.job(jobs[0])["state"] == gpud.job(jobs[-1])["state"] == "cancelled"
    assert gpud.ask("hold", select=select)["changed"] == []


def test_what_can_never_be_is_refused_and_changes_nothing(gpud):
    good, bad = (gpud.submit("true", gpus=1, hold=True) for _ in range(2))
    with pytest.raises(RefusedError, match="9 GPUs are asked for"):
        gpud.ask("update", select={"jobs": [good, bad]}, demand={"gpus": 9})
    with pytest.raises(RefusedError, match="the number of retries must be"):
        changed(gpud, good, retries=-1)
    with pytest.raises(RefusedError, match="has no time limit to add to"):
        changed(gpud, good, time_limit_more_s=60.0)
    for key in ("gpus", "whole"):
        with pytest.raises(RefusedError, match="can do without"):
            changed(gpud, good, demand={"without": [key]})
    with pytest.raises(RefusedError, match="nothing to change is named"):
        changed(gpud, good)
    assert {gpud.job(job)["gpus"] for job in (good, bad)} == {1}


def test_who_is_changed_keeps_the_place_in_the_queue(gpud):
    holders = [gpud.submit("sleep", "1000", gpus=1) for _ in range(2)]
    for holder in holders:
        gpud.running(holder)
    first, second = (gpud.submit("true", gpus=2) for _ in range(2))
    changed(gpud, first, time_limit_s=3600.0)
    assert gpud.job(first)["queue_position"] < gpud.job(second)["queue_position"]
    gpud.ask("cancel", select={"jobs": [*holders, first, second]}, force=True)
    for job in (*holders, first, second):
        gpud.ended(job)


def test_another_begin_is_the_one_that_is_told_and_none_takes_it_away(gpud):
    job = gpud.submit("true", begin_at=time.time() + 7200)
    soon = time.time() + 3600
    assert changed(gpud, job, begin_at=soon)["changed"] == [job]
    assert gpud.job(job)["begin_at"] == pytest.approx(soon, abs=1)
    gpud.ask("cancel", select={"jobs": [job]})
    gpud.ask("requeue", select={"jobs": [job]})
    assert "begins in 1h" in gpud.job(job)["reason"] or "begins in 59m" in gpud.job(job)["reason"]

    assert changed(gpud, job, begin_at=time.time())["changed"] == [job]

    assert gpud.ended(job)["state"] == "completed"
    assert gpud.job(job)["begin_at"] is None


def test_what_a_job_comes_after_can_be_others_and_never_itself(gpud):
    first, second, third = (gpud.submit("true", hold=True) for _ in range(3))
    changed(gpud, second, after={"success": [first]})
    changed(gpud, third, after={"any": [second]})
    for job, after in ((first, first), (first, second), (first, third)):
        with pytest.raises(RefusedError, match=f"job {first} cannot come after"):
            changed(gpud, job, after={"success": [after]})
    gpud.ask("release", select={"jobs": [second, third]})
    gpud.kill()
    gpud.start()
    assert gpud.job(third)["reason"] == f"waits for job {second} (queued) to end"
    changed(gpud, third, after={})
    gpud.ended(third)
    gpud.ask("cancel", select={"jobs": [first]})
    assert gpud.job(second)["state"] == "held"  # what it comes after can never be
    changed(gpud, second, after={"success": [third]})
    assert gpud.ended(second)["state"] == "completed"

    # Each was told to come after the other when that had ended: neither waits for ever when that runs again.
    one = gpud.submit("true", hold=True)
    other = gpud.submit("true", after={"success": [one]})
    gpud.ask("cancel", select={"jobs": [other]})
    changed(gpud, one, after={"success": [other]})
    gpud.ask("requeue", select={"jobs": [other]})
    assert gpud.ended(other)["state"] == "completed"
    gpud.ask("release", select={"jobs": [one]})
    assert gpud.ended(one)["state"] == "completed"

    array = gpud.submit("true", array="0-1", hold=True)
    with pytest.raises(RefusedError, match="cannot come after itself"):
        changed(gpud, array, after={"success": [f"{array}_1"]})
    changed(gpud, array, after={"failed": [second]})
    gpud.ask("release", select={"jobs": [array]})
    assert gpud.job(array)["state"] == "held"
    gpud.ask("requeue", select={"jobs": [second]})
    gpud.ended(second)
    changed(gpud, array, after={})
    assert gpud.ended(array)["state"] == "completed"


def test_a_group_and_a_key_can_be_others_where_nobody_else_has_them(gpud):
    job, other = (gpud.submit("sh", "-c", "exit $CODE", hold=True, env={"CODE": "0"}) for _ in range(2))
    with pytest.raises(RefusedError, match="a key names a job in its group"):
        changed(gpud, job, key="k")
    changed(gpud, job, group="g", key="k")
    with pytest.raises(RefusedError, match=f"job {job} has the key 'k' in group 'g'"):
        changed(gpud, other, group="g", key="k")
    with pytest.raises(RefusedError, match="2 jobs are named"):
        gpud.ask("update", select={"jobs": [job, other]}, key="k")
    assert gpud.submit("true", group="g", key="k") == job
    gpud.ask("release", select={"jobs": [job]})
    gpud.ended(job)
    with pytest.raises(RefusedError, match=f"job {job} has the key"):  # for good: it has completed
        changed(gpud, other, group="g", key="k")
    changed(gpud, other, group="g", key="l", labels={"a": "1", "b": "2"})
    changed(gpud, other, unlabel=["a"], labels={"c": "3"})
    shown = gpud.job(other)
    assert (shown["group"], shown["key"], shown["labels"]) == ("g", "l", {"b": "2", "c": "3"})
    changed(gpud, other, group="", unlabel=["*"])
    shown = gpud.job(other)
    assert (shown["group"], shown["key"], shown["labels"]) == (None, None, {})
    (group,) = gpud.ask("groups", name="g")["groups"]
    assert (group["total"], group["counts"]) == (1, {"completed": 1})
    gpud.kill()
    gpud.start()
    again = gpud.submit("true", group="g", key="l", hold=True)
    assert again != other
    gpud.ask("cancel", select={"jobs": [other, again]})


def test_of_a_running_array_more_or_fewer_may_run_at_once(gpud):
    array = gpud.submit("sleep", "1000", array="0-5%1", gpus=0, group="begun")
    for throttle, runs in ((3, 3), (1, 3), (0, 6)):
        assert changed(gpud, array, throttle=throttle)["changed"] == [array]
        until(lambda runs=runs: sum(row["state"] == "running" for row in gpud.ask("list")["jobs"]) == runs)
    assert changed(gpud, array, group="other")["notes"] == {array: "has begun: its elements stay in their group"}
    assert "is an element" in changed(gpud, f"{array}_2", throttle=2)["notes"][f"{array}_2"]
    gpud.ask("cancel", select={"jobs": [array]}, force=True)
    gpud.ended(array)


def test_of_an_array_what_has_not_started_changes(gpud):
    array = gpud.submit("true", array="0-4", hold=True)
    assert changed(gpud, f"{array}_2", time_limit_s=20.0)["changed"] == [f"{array}_2"]
    assert changed(gpud, array, estimate_s=5.0)["changed"] == [array]
    gpud.ask("release", select={"jobs": [array]})
    gpud.ended(array)
    limits = {row["array_index"]: row["time_limit_s"] for row in gpud.ask("show", job=array)["elements"]}
    assert limits == {0: None, 1: None, 2: 20.0, 3: None, 4: None}
    assert {row["estimate_s"] for row in gpud.ask("show", job=array)["elements"]} == {5.0}


def test_a_running_job_may_run_for_less_and_nothing_else_changes(gpud):
    job = gpud.submit("sleep", "1000", time_limit_s=3600.0, grace_s=0.0)
    gpud.running(job)
    note = "runs already: what it needs cannot be changed any more"
    assert changed(gpud, job, demand={"gpus": 1})["notes"] == {job: note}
    with pytest.raises(RefusedError, match="nothing would be left"):
        changed(gpud, job, time_limit_more_s=-1e6)
    assert changed(gpud, job, time_limit_more_s=3600.0)["changed"] == [job]
    assert gpud.job(job)["time_limit_s"] == 7200.0
    changed(gpud, job, time_limit_s=0.1)
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_limit_that_was_set_holds_when_the_shim_is_killed(gpud):
    job = gpud.submit("sleep", "1000", time_limit_s=3600.0, grace_s=0.0)
    gpud.running(job)
    _, shim, _ = gpud.pids(job)
    changed(gpud, job, time_limit_s=1.0)
    os.kill(shim, signal.SIGKILL)
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_limit_that_was_lifted_is_known_to_the_next_gpud_and_can_be_set_again(gpud):
    job = gpud.submit("sleep", "1000", time_limit_s=3600.0, grace_s=0.0)
    gpud.running(job)
    changed(gpud, job, unlimited=True)
    gpud.kill()
    gpud.start()
    assert gpud.job(job)["time_limit_s"] is None
    changed(gpud, job, time_limit_s=0.1)
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_limit_that_was_set_holds_while_gpud_is_gone(gpud):
    job = gpud.submit("sleep", "1000", grace_s=0.0)
    pid, _, _ = (gpud.running(job), gpud.pids(job))[1]
    changed(gpud, job, time_limit_s=0.5)
    gpud.kill()
    until(lambda: not lives(pid))
    gpud.start()
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_signal_reaches_every_process_of_a_job(gpud):
    job = gpud.submit("sh", "-c", f"({TRAP}) & {TRAP}")
    gpud.running(job)
    until(lambda: gpud.output(job).count("ready") == 2)
    assert gpud.ask("signal", select={"jobs": [job]}, signal=int(signal.SIGUSR1))["changed"] == [job]
    until(lambda: gpud.output(job).count("got USR1") == 2)
    assert gpud.job(job)["state"] == "running"
    kinds = [event["kind"] for event in gpud.ask("events", since=0, jobs=[job])["events"]]
    assert kinds[-1] == "signalled"
    gpud.ask("cancel", select={"jobs": [job]}, force=True)
    gpud.ended(job)


def test_what_cannot_be_signalled_is_told(gpud):
    job = gpud.submit("true", hold=True)
    assert gpud.ask("signal", select={"jobs": [job]}, signal=10)["notes"] == {job: "does not run yet"}
    with pytest.raises(RefusedError, match="killed by cancelling"):
        gpud.ask("signal", select={"jobs": [job]}, signal=9)
    with pytest.raises(RefusedError, match="no signal 99"):
        gpud.ask("signal", select={"jobs": [job]}, signal=99)
