"""Running jobs do not notice gpud, and an end is never lost: gpud, its launcher process, a shim or a job is killed."""

import os
import signal
import time

import pytest
from gpud_process import WITHIN_S, lives, marked, name_of, until


def a_job_that_waits(gpud, code=0, **fields):
    """Submit a job that ends with `code` when something is written to its FIFO; return its id and the FIFO."""
    go = gpud.work / f"go{len(list(gpud.work.iterdir()))}"
    os.mkfifo(go)
    return gpud.submit("sh", "-c", f"read line < {go}; echo $line; exit {code}", **fields), go


def tell(go, words="go"):
    """Let it end; waits until it reads."""
    go.write_text(f"{words}\n")


def test_jobs_run_on_and_their_ends_are_known_when_gpud_was_killed_meanwhile(gpud):
    lasting, go_on = a_job_that_waits(gpud, 3, gpus=1)
    ending, end_now = a_job_that_waits(gpud, 4, gpus=1)
    pids = gpud.pids(gpud.running(lasting)["id"])
    gpud.running(ending)

    gpud.kill()
    tell(end_now, "while nobody looked")
    gpud.start()

    over = gpud.ended(ending)
    assert (over["exit_code"], over["attempt"], gpud.output(ending)) == (4, 1, "while nobody looked\n")
    assert gpud.job(lasting)["state"] == "running"
    assert gpud.pids(lasting) == pids
    tell(go_on)
    assert gpud.ended(lasting)["exit_code"] == 3


def test_a_job_keeps_its_gpus_across_a_restart(gpud):
    first, go = a_job_that_waits(gpud, gpus=2)
    gpud.running(first)
    second = gpud.submit("true", gpus=1)

    assert gpud.restart().ask("ping")["ok"]

    assert gpud.job(second)["state"] == "queued"
    held = gpud.ask("gpus")["gpus"]
    assert [gpu["jobs"] for gpu in held] == [[first], [first]]
    assert all(gpu["utilization_percent"] > 80 for gpu in held), "simulated GPUs that hold a job look busy"
    tell(go)
    assert gpud.ended(second)["exit_code"] == 0


def test_sigterm_ends_gpud_alone_and_answers_what_was_asked(gpud):
    job, go = a_job_that_waits(gpud, 5)
    pid, shim, _ = gpud.pids(gpud.running(job)["id"])

    assert gpud.stop() == 0

    assert lives(pid)
    assert lives(shim)
    gpud.options += ("--socket", "/proc/none")
    assert gpud.start(ready=False).process.wait(WITHIN_S) == 1
    gpud.options = gpud.options[:-2]
    gpud.start()
    tell(go)
    assert gpud.ended(job)["exit_code"] == 5
    assert "did not end by itself" not in gpud.said()


def stopped_for(gpud, seconds):
    """Freeze gpud while a job ends and a client asks; nothing is lost."""
    job, go = a_job_that_waits(gpud, 6)
    gpud.running(job)
    limited = gpud.submit("sh", "-c", "exec sleep 100", time_limit_s=seconds / 2, grace_s=0)
    gpud.running(limited)
    gpud.signal(signal.SIGSTOP)
    try:
        tell(go)
        time.sleep(seconds)  # the time that it is frozen for
    finally:
        gpud.signal(signal.SIGCONT)
    assert gpud.ended(job)["exit_code"] == 6
    over = gpud.ended(limited)
    assert over["state"] == "timed_out"
    assert over["ended_at"] - over["started_at"] < seconds, "its shim keeps the limit, not gpud"


def test_a_frozen_gpud_holds_up_no_job(gpud):
    stopped_for(gpud, 2)


@pytest.mark.fault
def test_a_gpud_frozen_for_ten_seconds_holds_up_no_job(gpud):
    stopped_for(gpud, 10)


def test_a_killed_launcher_process_costs_no_job(gpud):
    job, go = a_job_that_waits(gpud, 7, gpus=1)
    gpud.running(job)
    pid, shim, launcher = gpud.pids(job)

    os.kill(launcher, signal.SIGKILL)

    after = gpud.submit("sh", "-c", "exit 8")
    assert gpud.ended(after)["exit_code"] == 8
    assert (lives(pid), lives(shim)) == (True, True)
    tell(go)
    assert gpud.ended(job)["exit_code"] == 7


@pytest.mark.parametrize("meanwhile", ["gpud lives", "gpud is dead"])
def test_a_killed_shim_costs_no_exit_status(gpud, meanwhile):
    job, go = a_job_that_waits(gpud, 9, gpus=1)
    gpud.running(job)
    pid, shim, _ = gpud.pids(job)

    if meanwhile == "gpud is dead":
        gpud.kill()
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(shim))
    if meanwhile == "gpud is dead":
        tell(go)
        until(lambda: not lives(pid))
        gpud.start()
    else:
        assert gpud.job(job)["state"] == "running"
        assert [gpu["jobs"] for gpu in gpud.ask("gpus")["gpus"]].count([job]) == 1
        tell(go)

    assert gpud.ended(job)["exit_code"] == 9


def test_a_job_whose_shim_was_killed_can_still_be_cancelled(gpud):
    job, _ = a_job_that_waits(gpud, gpus=1, grace_s=1)
    gpud.running(job)
    pid, shim, _ = gpud.pids(job)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(shim))

    gpud.ask("cancel", select={"jobs": [job]})

    assert gpud.ended(job)["state"] == "cancelled"
    assert not lives(pid)


def test_a_job_that_lost_shim_and_launcher_keeps_its_gpu_until_it_is_gone(gpud):
    job, go = a_job_that_waits(gpud, gpus=2)
    gpud.running(job)
    pid, shim, launcher = gpud.pids(job)
    gpud.kill()
    os.kill(launcher, signal.SIGKILL)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(shim) and not lives(launcher))
    gpud.start()
    following = gpud.submit("true", gpus=1)

    assert lives(pid)
    assert gpud.job(job)["state"] == "running"
    assert gpud.job(following)["state"] == "queued"
    tell(go)
    assert gpud.ended(job)["state"] == "lost"
    assert gpud.ended(following)["exit_code"] == 0


def test_a_killed_job_is_told_by_its_signal(gpud):
    job, _ = a_job_that_waits(gpud)
    gpud.running(job)
    os.kill(gpud.pids(job)[0], signal.SIGKILL)

    over = gpud.ended(job)

    assert (over["state"], over["exit_code"], over["signal"]) == ("failed", None, signal.SIGKILL)


def test_a_time_limit_holds_while_gpud_is_dead(gpud):
    job = gpud.submit("sleep", "100", time_limit_s=1)
    gpud.running(job)
    pid = gpud.pids(job)[0]
    gpud.kill()

    until(lambda: not lives(pid))

    gpud.start()
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_time_limit_reached_without_gpud_and_without_its_shim_is_told_as_one(gpud):
    job = gpud.submit("sleep", "100", time_limit_s=1, retries=1)
    gpud.running(job)
    pid, shim, launcher = gpud.pids(job)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(shim))
    gpud.kill()

    until(lambda: not lives(pid) and not lives(launcher))

    gpud.start()
    assert gpud.ended(job)["state"] == "timed_out"


def test_a_cancel_is_kept_across_a_kill(gpud):
    job = gpud.submit("sh", "-c", "trap '' TERM; echo ready > ready; while :; do sleep 1; done", grace_s=1)
    gpud.running(job)
    until((gpud.work / "ready").exists)
    gpud.ask("cancel", select={"jobs": [job]})

    gpud.kill()
    gpud.start()

    assert gpud.ended(job)["state"] == "cancelled"


def test_a_job_whose_shim_and_then_launcher_were_killed_comes_to_an_end(gpud):
    job, go = a_job_that_waits(gpud)
    gpud.running(job)
    _, shim, launcher = gpud.pids(job)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(shim) and any(name_of(pid) == "gpud-keeper" for pid in marked(gpud.folder)))
    os.kill(launcher, signal.SIGKILL)
    until(lambda: not lives(launcher))
    tell(go)
    assert gpud.ended(job)["state"] == "lost"
