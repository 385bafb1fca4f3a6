"""What a job may be told and what becomes of it: real processes, started by a real gpud."""

import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from gpud_process import lives, until

from gpuctl.errors import RefusedError


def states(gpud, *jobs):
    """Return the states of these jobs."""
    return [gpud.job(job)["state"] for job in jobs]


def events_of(gpud, job):
    """Return the kinds of a job's events."""
    return [event["kind"] for event in gpud.ask("show", job=job)["events"]]


def test_exit_codes_and_signals_are_told_apart(gpud):
    plain = gpud.ended(gpud.submit("sh", "-c", "exit 143"))
    killed = gpud.ended(gpud.submit("sh", "-c", "kill -TERM $$"))

    assert (plain["state"], plain["exit_code"], plain["signal"]) == ("failed", 143, None)
    assert (killed["state"], killed["exit_code"], killed["signal"]) == ("failed", None, 15)


def test_a_job_learns_who_it_is(gpud):
    said = "env | grep -E '^(GPUD_|CUDA_|NVIDIA_VIS)' | grep -v _PORT= | sort"
    job = gpud.submit("sh", "-c", said, gpus=2, env={"GPUD_JOB_ID": "99"})
    gpud.ended(job)
    uuids = ",".join(gpu["uuid"] for gpu in gpud.ask("gpus")["gpus"])
    node = gpud.job(job)["allocation"][0]["node"]
    labels = f"--label=gpud.job={job} --label=gpud.attempt=1 --label=gpud.of=OURS"
    assert re.sub(r"gpud\.of=[0-9a-f]{12}\b", "gpud.of=OURS", gpud.output(job)).splitlines() == [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES=0,1",
        "GPUD_ATTEMPT=1",
        f"GPUD_CHECKPOINT_DIR={gpud.state}/checkpoints/{job}",
        f'GPUD_DOCKER_ARGS=--gpus="device={uuids}" --init {labels} -e GPUD_JOB_ID -e GPUD_ATTEMPT',
        "GPUD_GPU_COUNT=2",
        f"GPUD_GPU_UUIDS={uuids}",
        f"GPUD_JOB_ID={job}",
        f"GPUD_NODE={node}",
        f"GPUD_PROGRESS_FILE={gpud.state}/logs/progress/{job}.1",
        f"NVIDIA_VISIBLE_DEVICES={uuids}",
    ]


def test_a_job_without_gpus_sees_none(gpud):
    job = gpud.submit("sh", "-c", 'echo "<$CUDA_VISIBLE_DEVICES>"')
    gpud.ended(job)
    assert gpud.output(job) == "<>\n"


def test_a_job_that_cannot_be_started_says_why(gpud):
    (gpud.work / "plain").write_text("no program")
    cases = {
        "no such command: no-such-program": {"command": ["no-such-program"]},
        "no such command: ./here/not": {"command": ["./here/not"]},
        "no such directory: /no/such/directory": {"workdir": "/no/such/directory"},
        f"{gpud.work}/plain: permission denied": {"command": [str(gpud.work / "plain")]},
        f"cannot open the log {gpud.work}/gone/log: No such file": {"output": f"{gpud.work}/gone/log"},
        f"cannot open the log {gpud.work}/gone/a/log: No such file": {
            "output": f"{gpud.work}/gone/%x/log",
            "name": "a",
        },
        f"cannot open the log {gpud.work}: Is a directory": {"error": str(gpud.work)},
        "bad interpreter in the script's #! line: '/no/such/sh'": {"script": b"#!/no/such/sh\n"},
        "argument list too long": {"command": ["true", "x" * 200_000]},
    }
    jobs = {words: gpud.ask("submit", **gpud.request_of("true") | case)["job"] for words, case in cases.items()}
    for words, job in jobs.items():
        over = gpud.ended(job)
        assert (over["state"], over["exit_code"], over["signal"], over["attempt"]) == ("failed", None, None, 1)
        assert words in over["reason"]
        assert gpud.ask("show", job=job)["attempts"][0]["could_not_start"]


def test_a_job_whose_file_system_is_not_mounted_yet_waits_for_it_and_loses_no_try(gpud):
    there = gpud.work / "nas" / "runs"
    namespace = Path("/proc/self/ns/mnt").stat().st_ino
    place = {"workdir": str(there), "output": "%j.log", "mount": f"{namespace} {there.parent}"}
    job, moved = gpud.submit("cat", "data", **place), gpud.submit("cat", "data", hold=True)
    gpud.ask("update", select={"jobs": [moved]}, **place)
    gpud.ask("release", select={"jobs": [moved]})
    for each in (job, moved):
        waiting = gpud.when(each, lambda shown: shown["state"] == "queued" and shown["attempt"] >= 2)
        assert f"could not start: {there.parent} is not mounted, " in waiting["reason"]

    there.mkdir(parents=True)
    (there / "data").write_text("read")

    for each in (job, moved):
        assert gpud.ended(each)["state"] == "completed"
        assert gpud.output(each) == "read"
    gone = gpud.submit("true", workdir=f"{there}/gone", mount="1 /no/such")  # where another has mounted something
    assert gpud.ended(gone)["state"] == "failed"


def test_a_job_may_make_what_a_later_one_needs(gpud):
    first = gpud.submit("sh", "-c", "mkdir made; printf '#!/bin/sh\\nexit 5' > made/run; chmod +x made/run", gpus=2)
    second = gpud.submit("./run", gpus=2, workdir=str(gpud.work / "made"))

    assert gpud.ended(first)["exit_code"] == 0
    assert gpud.ended(second)["exit_code"] == 5


def test_a_script_runs_as_it_was_when_it_was_submitted(gpud):
    script = gpud.work / "job.sh"
    script.write_text("#!/bin/sh\necho then $1 $GPUD_SCRIPT\n")
    job = gpud.submit(script, "word", script=script.read_bytes(), hold=True)
    script.write_text("#!/bin/sh\necho now\n")
    gpud.ask("release", select={"jobs": [job]})

    gpud.ended(job)

    assert gpud.output(job) == f"then word {script}\n"
    assert not list((gpud.state / "scripts").iterdir()), "the kept copy outlived its job"


def test_a_failed_job_is_tried_again_with_growing_pauses(gpud):
    script = "echo . >> tries; test $(wc -l < tries) -ge 3"
    job = gpud.submit("sh", "-c", script, retries=2)

    gpud.when(job, lambda shown: shown["state"] == "queued" and shown["attempt"] == 2)
    assert re.fullmatch("attempt 2 in .+: attempt 1 ended: exit code .+", gpud.job(job)["reason"])
    assert gpud.ended(job)["state"] == "completed"

    attempts = gpud.ask("show", job=job)["attempts"]
    assert [attempt["exit_code"] for attempt in attempts] == [1, 1, 0]
    pauses = [after["starting_at"] - before["ended_at"] for before, after in pairwise(attempts)]
    assert 2 <= pauses[0] < 3.5, pauses
    assert 4 <= pauses[1] < 5.5, pauses


def test_retries_that_are_used_up_leave_the_job_failed(gpud):
    job = gpud.ended(gpud.submit("sh", "-c", "exit 9", retries=1))
    assert (job["state"], job["exit_code"], job["attempt"]) == ("failed", 9, 2)


def test_a_time_limit_ends_a_job_and_its_grace_lets_it_save(gpud):
    saves = "trap 'echo saved; exit 0' TERM; echo $$; while :; do sleep 0.05; done"
    deaf = "trap '' TERM; while :; do sleep 0.05; done"
    polite = gpud.submit("sh", "-c", saves, time_limit_s=0.5, grace_s=20)
    stubborn = gpud.submit("sh", "-c", deaf, time_limit_s=0.5, grace_s=0.5)

    first, second = gpud.ended(polite), gpud.ended(stubborn)

    assert (first["state"], first["exit_code"]) == ("timed_out", 0)
    assert gpud.output(polite).endswith("saved\n")
    assert (second["state"], second["signal"]) == ("timed_out", 9)
    assert 0.9 <= second["ended_at"] - second["started_at"] < 3


def test_a_job_with_a_begin_time_waits_for_it_and_says_so(gpud):
    begin = time.time() + 1.5
    job = gpud.submit("true", begin_at=begin)
    later = gpud.submit("true", begin_at=time.time() + 3600)

    assert gpud.job(job)["state"] == "queued"
    assert gpud.job(job)["reason"].startswith("begins in")
    gpud.kill()
    gpud.start()
    assert -0.1 <= gpud.ended(job)["started_at"] - begin < 1
    assert gpud.job(later)["reason"].startswith("begins in 59m")


def test_a_held_job_waits_until_it_is_released(gpud):
    job = gpud.submit("true", gpus=1, hold=True)
    beside = gpud.submit("true", gpus=1)
    assert gpud.ended(beside)["state"] == "completed"
    assert (gpud.job(job)["state"], gpud.job(job)["reason"]) == ("held", "held by its owner")

    assert gpud.ask("release", select={"jobs": [job]})["changed"] == [job]
    assert gpud.ended(job)["state"] == "completed"
    note = gpud.ask("hold", select={"jobs": [job]})
    assert (note["changed"], note["notes"]) == ([], {job: "has ended already: completed"})


def test_a_higher_priority_goes_first(gpud):
    gpud.ask("pause")
    jobs = [gpud.submit("sh", "-c", "echo $GPUD_JOB_ID >> order", gpus=2, priority=priority) for priority in (0, -5, 7)]
    jobs.append(gpud.submit("sh", "-c", "echo $GPUD_JOB_ID >> order", gpus=2))
    gpud.ask("priority", select={"jobs": [jobs[-1]]}, priority=3)
    gpud.ask("resume")

    gpud.idle()

    ran = (gpud.work / "order").read_text().split()
    assert ran == [jobs[2], jobs[3], jobs[0], jobs[1]]


def test_a_requeued_running_job_is_stopped_and_runs_again(gpud):
    job = gpud.submit("sh", "-c", "test $GPUD_ATTEMPT = 2 && exit 4; exec sleep 100", gpus=1)
    gpud.running(job)

    assert gpud.ask("requeue", select={"jobs": [job]})["changed"] == [job]

    over = gpud.ended(job)
    assert (over["state"], over["exit_code"], over["attempt"]) == ("failed", 4, 2)
    assert "requeued" in events_of(gpud, job)


def test_a_requeued_finished_job_runs_again_with_its_environment(gpud):
    job = gpud.submit("sh", "-c", 'echo "$TOKEN $GPUD_ATTEMPT"; exit 3', env={"TOKEN": "kept"})
    gpud.ended(job)
    gpud.restart()

    gpud.ask("requeue", select={"jobs": [job]})

    over = gpud.when(job, lambda shown: shown["state"] == "failed" and shown["attempt"] == 2)
    assert over["exit_code"] == 3
    assert gpud.output(job) == "kept 2\n"
    assert [attempt["exit_code"] for attempt in gpud.ask("show", job=job)["attempts"]] == [3, 3]


FAMILY = """
setsid sh -c 'echo $$ >> pids; trap "" TERM HUP; while :; do sleep 1; done' &
(setsid sh -c '(sh -c "echo \\$\\$ >> pids; exec sleep 1000") &') &
sh -c 'echo $$ >> pids; exec sleep 1000' &
echo $$ >> pids
wait
"""


@pytest.mark.parametrize("force", [True, False])
def test_cancel_ends_the_whole_tree_also_what_left_the_session(gpud, force):
    job = gpud.submit("sh", "-c", FAMILY, grace_s=0.5)
    family = gpud.work / "pids"
    until(lambda: family.exists() and len(family.read_text().split()) == 4)
    pids = family.read_text().split()

    gpud.ask("cancel", select={"jobs": [job]}, force=force)

    assert gpud.ended(job)["state"] == "cancelled"
    assert [pid for pid in pids if lives(pid)] == []


def test_what_a_job_leaves_behind_ends_with_it(gpud):
    job = gpud.submit("sh", "-c", "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while [ ! -s pid ]; do :; done")

    assert gpud.ended(job)["exit_code"] == 0

    assert not lives((gpud.work / "pid").read_text().strip())
    assert gpud.ask("show", job=job)["attempts"][0]["leftovers"] == 1


def test_cancelling_reaches_waiting_jobs_and_those_about_to_start(gpud):
    waiting = gpud.submit("sh", "-c", "echo ran >> ran", hold=True)
    burst = [gpud.submit("sleep", "1000", gpus=1) for _ in range(20)]

    reply = gpud.ask("cancel", select={"jobs": [waiting, f"{burst[0]}-{burst[-1]}"]}, force=True)

    assert sorted(reply["changed"]) == sorted([waiting, *burst])
    assert {gpud.ended(job)["state"] for job in [waiting, *burst]} == {"cancelled"}
    assert not (gpud.work / "ran").exists()


def test_naming_a_job_that_does_not_exist_changes_nothing(gpud):
    job = gpud.submit("true", hold=True)
    with pytest.raises(RefusedError) as refused:
        gpud.ask("cancel", select={"jobs": [job, "4711"]})
    assert refused.value.code == "no_such_job"
    assert states(gpud, job) == ["held"]


def test_out_of_memory_of_the_gpu_is_found_in_the_log(gpud):
    job = gpud.submit("sh", "-c", "echo 'torch.cuda.OutOfMemoryError: CUDA out of memory. Tried ...' >&2; exit 1")
    assert gpud.ended(job)["reason"] == "exit code 1 (cuda out of memory)"


def test_logs_are_private_and_an_output_file_is_appended_to(gpud):
    job = gpud.submit("sh", "-c", "echo out; echo err >&2")
    log = Path(gpud.ended(job)["output"])
    assert (log.read_text(), oct(log.stat().st_mode & 0o777)) == ("out\nerr\n", "0o600")

    for _ in range(2):
        named = gpud.submit("sh", "-c", "echo $GPUD_JOB_ID", output=f"{gpud.work}/%x.log", name="one")
        gpud.ended(named)
    assert len((gpud.work / "one.log").read_text().splitlines()) == 2


def test_a_file_that_was_named_for_output_is_made_as_the_submitters_shell_would(gpud):
    for umask, mode, of_directory in ((0o022, "0o644", "0o755"), (0o027, "0o640", "0o750")):
        patterns = {"output": f"{gpud.work}/%j.out", "error": f"{gpud.work}/of-%j/all/%A_%a"}
        job = gpud.submit("true", **patterns, umask=umask)
        gpud.ended(job)
        for named in (f"{job}.out", f"of-{job}/all/{job}_0"):
            assert oct((gpud.work / named).stat().st_mode & 0o777) == mode
        assert oct((gpud.work / f"of-{job}").stat().st_mode & 0o777) == of_directory


def test_a_log_that_is_a_fifo_hangs_nothing(gpud):
    os.mkfifo(gpud.work / "fifo")
    unread = gpud.submit("echo", "words", output=f"{gpud.work}/fifo")
    after = gpud.submit("true")
    assert gpud.ended(after)["exit_code"] == 0
    assert "cannot open the log" in gpud.ended(unread)["reason"]


@pytest.mark.parametrize("held", [False, True])
def test_a_requeued_job_waits_for_its_begin_time_where_that_is_still_to_come(gpud, held):
    job = gpud.submit("true", begin_at=time.time() + 7200, hold=held)
    for _ in range(2):
        gpud.ask("cancel", select={"jobs": [job]})
        assert gpud.ask("requeue", select={"jobs": [job]})["changed"] == [job]
        assert (gpud.job(job)["state"], gpud.job(job)["started_at"]) == ("queued", None)
        assert gpud.job(job)["reason"].startswith("begins in ")
    past = gpud.submit("true", begin_at=time.time() + 0.2)
    gpud.ended(past)
    gpud.ask("requeue", select={"jobs": [past]})
    assert gpud.ended(past)["attempt"] == 2


def test_ended_jobs_are_requeued_by_what_they_have_in_common(gpud):
    failed = [gpud.submit("false") for _ in range(2)]
    fine = gpud.submit("true")
    held = gpud.submit("true", hold=True)
    gpud.ended(fine)
    for job in failed:
        gpud.ended(job)
    for select in ({"mine": True, "state": ["failed"]}, {"user": gpud.job(fine)["user"], "state": ["failed"]}):
        assert gpud.ask("requeue", select=select)["changed"] == failed
        for job in failed:
            gpud.when(job, lambda shown: shown["ended_at"] is not None)
    assert gpud.ask("requeue", select={"user": "nobody", "state": ["failed"]})["changed"] == []
    assert gpud.ask("requeue", select={"mine": True})["changed"] == []
    assert (gpud.job(fine)["attempt"], gpud.job(held)["state"]) == (1, "held")


def test_what_one_cancel_reaches_twice_is_told_once(gpud):
    array = gpud.submit("sleep", "60", array="0-4%2")
    gpud.running(f"{array}_0")
    reply = gpud.ask("cancel", select={"mine": True}, force=True)
    assert (reply["changed"], reply["notes"]) == ([array], {})
