"""Jobs that are changed after they were submitted: while they wait, and while they run."""

import os
import signal

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
    assert gpud.ask("cancel", select=select)["changed"] == [running, *jobs]
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
