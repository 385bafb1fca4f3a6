"""The commands, against a real gpud with simulated GPUs: what they print, and how they exit."""

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from gpud_process import until

from gpuctl.client import Client
from gpuctl.following import waiting

JOB_KEYS = """
    id uid name user tenant group labels state reason priority command workdir gpus gpu_memory_mib gpu_type share
    array_index attempt retries time_limit_s estimate_s submitted_at started_at ended_at updated_at
    expected_start_at exit_code signal allocation output queue_position
"""
GPU_KEYS = """
    index uuid name node memory_total_mib memory_used_mib memory_declared_mib utilization_percent temperature_c
    power_w health health_reason state simulated jobs processes
"""
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_submit_prints_the_id_alone_and_the_job_runs(gpuctl):
    done = gpuctl("submit", "--", "sh", "-c", "echo hello")

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert gpuctl("wait", "1").returncode == 0
    assert gpuctl.ok("logs", "1") == "hello"


def test_a_job_in_json_has_the_keys_that_every_job_has(gpuctl):
    job = gpuctl.ended("-n", "name", "--label", "k=v", "--", "sh", "-c", "exit 3")

    assert job.keys() >= set(JOB_KEYS.split())
    assert (job["state"], job["exit_code"], job["signal"]) == ("failed", 3, None)
    assert (job["name"], job["labels"], job["command"]) == ("name", {"k": "v"}, ["sh", "-c", "exit 3"])
    assert all(RFC_3339.fullmatch(job[key]) for key in ("submitted_at", "started_at", "ended_at", "updated_at"))
    assert "PATH" in job["environment"]


def test_submit_in_json_is_the_job(gpuctl):
    job = gpuctl.json("submit", "--hold", "--", "true")
    assert job.keys() >= set(JOB_KEYS.split())
    assert (job["id"], job["state"]) == ("1", "held")


def test_json_may_stand_before_and_after_the_command(gpuctl):
    assert gpuctl.ok("--json", "list") == gpuctl.ok("list", "--json") == "[]"
    assert gpuctl.ok("events", "--json") == "[]"


def test_the_socket_may_stand_before_and_after_the_command(gpuctl):
    elsewhere = {"GPUD_SOCKET": "/nowhere"}
    path = str(gpuctl.state / "gpud.sock")
    assert gpuctl("--socket", path, "list", environ=elsewhere).returncode == 0
    assert gpuctl("list", "--socket", path, environ=elsewhere).returncode == 0
    assert gpuctl("list", environ=elsewhere).returncode == 69


def test_an_empty_queue_says_what_to_do_and_that_its_gpus_are_simulated(gpuctl):
    done = gpuctl("list")
    assert done.stdout == ""
    assert "gpuctl submit -- python train.py" in done.stderr
    assert "simulated" in done.stderr


def test_a_dry_run_queues_nothing(gpuctl):
    done = gpuctl("submit", "--dry-run", "--", "true")
    assert (done.returncode, done.stdout) == (0, "gpuctl submit -- true\n")
    assert gpuctl.json("list") == []


def test_gpus_and_nodes(gpuctl):
    gpus = gpuctl.json("gpus")
    assert [gpu["index"] for gpu in gpus] == [0, 1]
    assert all(gpu.keys() >= set(GPU_KEYS.split()) for gpu in gpus)
    assert {gpu["state"] for gpu in gpus} == {"free"}
    assert gpuctl.ok("gpus").count("(simulated)") == 2
    assert gpuctl.json("nodes")[0]["gpus_free"] == 2
    assert "simulated" in gpuctl.ok("nodes")


def test_a_script_is_kept_as_it_was_at_submit(gpuctl):
    script = gpuctl.directory / "job.sh"
    script.write_text('#!/bin/sh\necho "first $1 $GPUD_SCRIPT"\n')
    job = gpuctl.ok("submit", "-g", "0", "--hold", "job.sh", "argument")
    script.write_text("#!/bin/sh\necho second\n")
    gpuctl.ok("release", job)
    gpuctl.ok("wait", job)
    assert gpuctl.ok("logs", job) == f"first argument {script}"


def test_a_job_is_my_shell(gpuctl):
    umask = os.umask(0o027)
    os.umask(umask)
    job = gpuctl.ended("-e", "MINE=1", "-o", "out", "--", "sh", "-c", "umask; pwd; ulimit -n; echo $MINE; id -u")
    lines = (gpuctl.directory / "out").read_text().splitlines()
    assert job["state"] == "completed"
    assert int(lines[0], 8) == umask
    assert lines[1] == str(gpuctl.directory)
    assert lines[3:] == ["1", str(os.getuid())]
    assert stat.S_IMODE((gpuctl.directory / "out").stat().st_mode) == 0o666 & ~umask


def test_an_array_is_one_row_until_it_starts(gpuctl):
    array = gpuctl.ok("submit", "--array", "0-99999%2", "--hold", "--", "true")
    (row,) = gpuctl.json("list")
    assert (row["id"], row["array"], row["array_pending"]) == (array, "0-99999", "0-99999")
    assert f"{array}_[0-99999]" in gpuctl.ok("list")
    assert gpuctl("cancel", array).returncode == 0
    assert gpuctl.json("show", array)["state"] == "cancelled"


def test_wait_exits_as_the_first_job_that_did_not_succeed(gpuctl):
    for command in ("exit 0", "exit 5", "kill -9 $$"):
        gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", command)
    assert gpuctl("wait", "1").returncode == 0
    assert gpuctl("wait", "1", "2", "3").returncode == 5
    assert gpuctl("wait", "3", "2").returncode == 128 + 9
    assert gpuctl("wait", "1-9").returncode == 5


def test_wait_for_an_array_is_for_all_of_it(gpuctl):
    array = gpuctl.ok("submit", "-g", "0", "--array", "0-3", "--", "sh", "-c", "exit $((GPUD_ARRAY_INDEX / 3))")
    assert gpuctl("wait", array).returncode == 1
    assert gpuctl.json("show", array)["array_counts"] == {"completed": 3, "failed": 1}
    assert gpuctl("wait", f"{array}_[0-2]").returncode == 0
    assert gpuctl("wait", f"{array}_3").returncode == 1


def test_wait_waits_for_all_of_a_range_however_long_it_is(gpud, monkeypatch):
    monkeypatch.setattr(waiting, "_ROWS_MOST", 3)  # of a listing, so that few jobs are many
    for _ in range(4):
        gpud.submit("true", gpus=0)
    gpud.ended(gpud.submit("true", gpus=0, array="0-8"))
    for _ in range(4):
        gpud.submit("true", gpus=0, hold=True)
    with gpud.connect() as client:
        assert waiting.named(client, ["1-9"]) == [str(number) for number in range(1, 10)]
        assert waiting.named(client, ["3-4000000"]) == [str(number) for number in range(3, 10)]
        assert waiting.named(client, ["10-4000000"]) == []


def test_elements_are_asked_for_once_however_many_are_named(gpuctl, gpud):
    class Counting(Client):
        asked = 0

        def request(self, op, **fields):
            self.asked += 1
            return super().request(op, **fields)

    gpud.submit("true", gpus=0, array="0-8:2,11")
    gpud.submit("true", gpus=0)
    with Counting(gpud.socket) as client:
        assert waiting.named(client, ["1_0-99999999"]) == ["1_0", "1_2", "1_4", "1_6", "1_8", "1_11"]
        assert waiting.named(client, ["1_[11,3-6]"]) == ["1_11", "1_4", "1_6"]
        assert waiting.named(client, ["2_0-99999999", "3_0-9"]) == []
        assert client.asked == 4
    assert gpuctl("wait", "2_0-99999999").returncode == 125


def test_wait_keeps_its_own_failures_apart_from_the_jobs(gpuctl):
    assert gpuctl("wait", "77").returncode == 125
    assert gpuctl("wait").returncode == 125
    assert gpuctl("wait", "x").returncode == 125
    nobody = gpuctl("wait", "5-9", "70_[0-3]")
    assert (nobody.returncode, "no such jobs" in nobody.stderr) == (125, True)
    assert gpuctl("--socket", "/nowhere", "wait", "1").returncode == 125


def test_run_shows_the_output_and_exits_as_the_job(gpuctl):
    done = gpuctl("run", "-g", "1", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\nerr\n")
    assert gpuctl("run", "-g", "0", "--", "sh", "-c", "kill -15 $$").returncode == 128 + 15
    assert gpuctl("run", "-g", "0", "--", "no-such-program").returncode == 127
    assert gpuctl("run", "-g", "0", "--", "/etc/passwd").returncode == 126
    assert gpuctl("run", "-g", "99", "--", "true").returncode == 125
    assert gpuctl("run", "--no-such-option").returncode == 125


def test_run_in_json_is_the_job_on_stdout_and_its_output_on_stderr(gpuctl):
    done = gpuctl("run", "--json", "-g", "0", "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stderr) == (7, "out\n")
    assert json.loads(done.stdout)["exit_code"] == 7


@pytest.mark.parametrize("how", [("run", "-g", "0", "-o", "log", "--"), ("logs", "-f", "1")])
def test_who_follows_a_log_that_is_truncated_goes_on_from_its_start(gpuctl, how):
    for fifo in ("on", "off"):  # one each: a reader that is quick would find the writer before still there
        os.mkfifo(gpuctl.directory / fifo)
    (gpuctl.directory / "log").write_text("old\n")
    job = ("sh", "-c", "echo first; read go < on; : > log; echo second; read go < off; exit 3")
    if how[0] == "logs":
        gpuctl.ok("submit", "-g", "0", "-o", "log", "--", *job)
    words = (*how, *job) if how[0] == "run" else how
    with gpuctl.start(*words) as follower:
        while follower.stdout.readline() != "first\n":
            pass
        (gpuctl.directory / "on").write_text("go\n")
        assert follower.stdout.readline() == "second\n"
        (gpuctl.directory / "off").write_text("go\n")
        assert "log was truncated" in follower.communicate(timeout=30)[1]
        assert follower.returncode == (3 if how[0] == "run" else 0)


def test_run_shows_only_what_this_job_wrote(gpuctl):
    (gpuctl.directory / "5%a").mkdir()
    (gpuctl.directory / "5%a" / "log").write_text("old\n")
    words = ("run", "-g", "0", "-C", "5%a", "-o", "log", "--error", "err", "--", "sh", "-c", "echo new; echo wrong >&2")
    done = gpuctl(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "new\n", "wrong\n")


def read_until(process, text: str) -> None:
    """Read a process's output until a text has come."""
    seen = ""
    while text not in seen:
        assert select.select([process.stdout], [], [], 30)[0], seen
        data = os.read(process.stdout.fileno(), 4096).decode()
        assert data, seen
        seen += data


def test_ctrl_c_interrupts_a_running_job_and_a_second_one_cancels_it(gpuctl):
    trap = 'trap "echo interrupted" INT; echo ready; while :; do sleep 0.05; done'
    with gpuctl.start("run", "-g", "0", "--grace", "1", "--", "bash", "-c", trap) as run:
        read_until(run, "ready")
        run.send_signal(signal.SIGINT)
        read_until(run, "interrupted")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
    assert run.returncode in {128 + 15, 128 + 9}
    assert gpuctl.json("show", "1")["state"] == "cancelled"


def test_ctrl_c_cancels_a_job_that_waits(gpuctl):
    with gpuctl.start("run", "--hold", "--", "true") as run, gpuctl.start("events", "-f") as events:
        read_until(events, "submitted")
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
        events.terminate()
    assert (run.returncode, err) == (130, "gpuctl: job 1 cancelled\n")
    assert gpuctl.json("show", "1")["state"] == "cancelled"


@pytest.mark.parametrize(
    "imported", ["click.core", "gpuctl.cli", "gpuctl.submitting.submission", "gpuctl.commands.run"]
)
def test_an_early_ctrl_c_is_quiet_and_leaves_no_job_behind(gpuctl, imported):
    with gpuctl.start("run", "--hold", "--", "true", environ={"PYTHONPROFILEIMPORTTIME": "1"}) as run:
        assert any(line.endswith(f" {imported}\n") for line in run.stderr)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "Traceback" not in err
    assert {job["state"] for job in gpuctl.json("list")} <= {"cancelled"}


def test_a_job_outlives_the_terminal_it_was_run_from(gpuctl):
    with gpuctl.start("run", "-g", "0", "--", "sh", "-c", "echo ready; sleep 0.5; echo done") as run:
        read_until(run, "ready")
        run.send_signal(signal.SIGHUP)
        run.communicate(timeout=30)
    assert gpuctl("wait", "1").returncode == 0
    assert gpuctl.ok("logs", "1") == "ready\ndone"


def test_logs_follow_from_before_the_start_to_the_end(gpuctl):
    job = gpuctl.ok("submit", "-g", "0", "--hold", "--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert "has not started" in gpuctl("logs", job).stderr
    with gpuctl.start("logs", "-f", job) as logs:
        assert logs.stderr.readline() == f"gpuctl: job {job} has not started: held by its owner\n"
        gpuctl.ok("release", job)
        out, _ = logs.communicate(timeout=30)
    assert out == "1\n2\n3\n"
    assert gpuctl.ok("logs", "-n", "2") == "2\n3"
    assert gpuctl.ok("logs", "-n", "0") == ""


@pytest.mark.parametrize("words", [("logs", "-f", "1"), ("events", "-f")])
def test_who_follows_for_a_reader_that_left_ends_though_nothing_happens(gpuctl, words):
    gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", "echo ready; exec sleep 60")
    with gpuctl.start(*words) as follower:
        assert follower.stdout.readline()
        follower.stdout.close()  # as `| head -1` does
        assert follower.wait(timeout=30) == 141  # 128 + SIGPIPE
        assert follower.stderr.read() == ""


def test_logs_of_a_job_between_two_attempts_are_those_of_the_last(gpuctl):
    job = gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", "echo ready; exec sleep 60")
    until(lambda: gpuctl("logs", job).stdout == "ready\n")
    gpuctl.ok("pause")
    gpuctl.ok("requeue", job)
    until(lambda: gpuctl.json("show", job)["state"] == "queued")
    told = gpuctl("logs", job)
    assert told.stdout == "ready\n"
    assert told.stderr == f"gpuctl: the output of attempt 1; job {job} has not started again: the queue is paused\n"
    assert gpuctl.json("logs", job, "-n", "1")["lines"] == ["ready"]
    gpuctl.ok("cancel", job)
    gpuctl.ok("resume")


def test_why_and_reasons(gpuctl):
    gpuctl.ok("submit", "-g", "2", "-t", "1h", "--", "sleep", "60")
    gpuctl.ok("submit", "-g", "1", "--", "true")
    gpuctl.ok("submit", "--hold", "--", "true")
    assert "waits for a GPU" in gpuctl.ok("why", "2")
    assert "hint: to let it start: gpuctl release 3" in gpuctl.ok("why", "3")
    assert [job["id"] for job in gpuctl.json("why")] == ["2", "3"]
    assert "waits for a GPU" in gpuctl.ok("list")
    gpuctl.ok("cancel", "--mine", "--force")


def test_jobs_are_changed_by_id_by_range_and_by_filter(gpuctl):
    for _ in range(4):
        gpuctl.ok("submit", "--hold", "--", "true")
    assert gpuctl.json("priority", "1", "2", "-5") == {"changed": ["1", "2"], "notes": {}}
    assert [job["priority"] for job in gpuctl.json("list")] == [-5, -5, 0, 0]
    assert gpuctl.json("cancel", "2-3")["changed"] == ["2", "3"]
    assert gpuctl.json("release", "--state", "held")["changed"] == ["1", "4"]
    gpuctl.ok("wait", "1", "4")
    assert gpuctl.json("requeue", "1")["changed"] == ["1"]
    gpuctl.ok("wait", "1")
    assert gpuctl.json("show", "1")["attempt"] == 2


def test_cancelling_what_has_ended_is_done_already_and_changing_it_fails(gpuctl):
    gpuctl.ended("--", "true")
    done = gpuctl("cancel", "1")
    assert (done.returncode, done.stderr) == (0, "gpuctl: job 1 has ended already: completed\n")
    gpuctl.ended("--", "true")
    assert gpuctl("cancel", "1-2").stderr == "gpuctl: jobs 1 2: has ended already: completed\n"
    changes = (("signal", "1", "USR1"), ("update", "1", "-t", "+2h"), ("priority", "1-2", "3"), ("hold", "1"))
    for words in (*changes, ("release", "1")):
        done = gpuctl(*words)
        assert (done.returncode, "ended already" in done.stderr) == (1, True), words
    assert "has ended" in gpuctl.ok("why", "1")


def test_what_runs_is_listed_however_much_has_ended_since(gpuctl, gpud):
    runs = gpud.submit("sleep", "1000", gpus=0)
    gpud.running(runs)
    gpud.ended(gpud.submit("true", gpus=0, array="0-8"))
    waits = gpud.submit("true", gpus=0, hold=True)
    assert [job["id"] for job in gpuctl.json("list", "--limit", "1")] == [runs]
    assert [job["id"] for job in gpuctl.json("list", "--limit", "3")][:2] == [runs, waits]
    assert "8 more; see them with --limit 11" in gpuctl("list", "--limit", "3").stderr
    assert "8 more; see them with --limit 11" in gpuctl("--json", "list", "--limit", "3").stderr
    assert [job["id"] for job in gpuctl.json("list", "1-9", "--limit", "2")] == [runs, waits]
    gpuctl.ok("signal", runs, "STOP")
    until(lambda: gpuctl.json("show", runs)["stopped"])
    gpuctl.ok("signal", runs, "CONT")
    until(lambda: not gpuctl.json("show", runs)["stopped"])
    assert gpuctl.json("list", "--mine", "--user", "nobody") == []
    for words, code, text in (
        (("hold", runs), 1, "is running"),
        (("hold", waits), 0, "is held already"),
        (("release", runs), 0, "is not held"),
        (("requeue", "2"), 1, "has started all its elements"),
        (("rm", runs), 1, "to stop what runs"),
        (("rm", "2"), 0, "none of these waits"),
    ):
        done = gpuctl(*words)
        assert (done.returncode, text in done.stderr) == (code, True), (words, done.stderr)


def test_what_one_answer_has_no_room_for_is_counted(gpuctl, gpud):
    labels = {f"label{number:02}": "v" * 1000 for number in range(100)}
    for _ in range(130):
        gpud.submit("true", gpus=0, hold=True, labels=labels)
    listed = gpud.ask("list")
    assert len(listed["jobs"]) + listed["more"] == 130
    assert listed["jobs"][-1]["id"] == "130"
    said = gpuctl("list", "--limit", "200")
    assert (said.returncode, len(said.stdout.splitlines())) == (0, 1 + len(listed["jobs"]))
    assert f"{listed['more']} more are not shown; narrow it down" in said.stderr


def test_a_long_command_is_cut_in_listings_and_shown_whole(gpuctl, gpud):
    gpud.submit("true", gpus=0, hold=True)
    long = "x" * 500_000
    for _ in range(2):
        gpud.submit("echo", *[long] * 3, gpus=0, hold=True)
    assert [job["command"] for job in gpuctl.json("list")] == [["true"], ["echo", "..."], ["echo", "..."]]
    assert gpuctl.json("show", "3")["command"] == ["echo", *[long] * 3]


def test_jobs_that_have_not_ended_are_listed_first(gpuctl):
    gpuctl.ended("--", "true")
    gpuctl.ok("submit", "--hold", "--", "true")
    gpuctl.ok("submit", "--", "sh", "-c", "kill -TERM $$")
    gpuctl("wait", "3")
    gpuctl.ok("submit", "--hold", "--", "true")
    assert [job["id"] for job in gpuctl.json("list")] == ["2", "4", "1", "3"]
    assert [line.split()[0] for line in gpuctl.ok("list").splitlines()[1:]] == ["2", "4", "1", "3"]


def on_a_terminal(gpuctl, *words: str, lines: int, **environ: str) -> list[str]:
    """Return what gpuctl draws on a terminal of so many lines."""
    others = ("NO_COLOR", "LINES", "COLUMNS")
    terminal, its = pty.openpty()
    termios.tcsetwinsize(its, (lines, 100))
    try:
        subprocess.run(
            [sys.executable, "-m", "gpuctl", *words],
            env={key: value for key, value in gpuctl.environ.items() if key not in others} | environ,
            cwd=gpuctl.directory,
            stdin=its,
            stdout=its,
            check=True,
            timeout=30,
        )
        os.set_blocking(terminal, False)
        return os.read(terminal, 1 << 16).decode().splitlines()
    finally:
        os.close(its)
        os.close(terminal)


def test_bare_gpuctl_fits_the_terminal(gpuctl):
    gpuctl.ok("pause")
    for _ in range(8):
        gpuctl.ok("submit", "--", "true")
    screen = on_a_terminal(gpuctl, lines=14)
    assert len(screen) < 14
    assert screen[-1].startswith(f"{8 - sum('queued' in line for line in screen[1:-1]) + 1} jobs more")


def test_tables_have_colours_for_those_who_want_them(gpuctl):
    assert "\x1b[" in "".join(on_a_terminal(gpuctl, "gpus", lines=30, TERM="xterm"))
    assert "\x1b[" not in "".join(on_a_terminal(gpuctl, "gpus", lines=30, TERM="xterm", NO_COLOR="1"))


def test_a_selection_of_everything_by_oversight_is_refused(gpuctl):
    done = gpuctl("cancel")
    assert done.returncode == 2
    assert "--mine" in done.stderr


def test_a_drained_gpu_gets_no_job(gpuctl):
    gpuctl.ok("drain", "0", "--reason", "dust")
    assert [gpu["state"] for gpu in gpuctl.json("gpus")] == ["draining", "free"]
    assert "dust" in gpuctl.ok("gpus")
    gpuctl.ok("drain", "0-1")
    gpuctl.ok("undrain", "0,1")
    assert [gpu["state"] for gpu in gpuctl.json("gpus")] == ["free", "free"]


def test_a_paused_queue_starts_nothing(gpuctl):
    gpuctl.ok("pause", "--reason", "upgrade")
    job = gpuctl.ok("submit", "-g", "0", "--", "true")
    assert "upgrade" in gpuctl.json("show", job)["reason"]
    assert "paused: upgrade" in gpuctl.ok("status")
    gpuctl.ok("resume")
    assert gpuctl("wait", job).returncode == 0


def test_status_is_what_bare_gpuctl_shows(gpuctl):
    gpuctl.ok("submit", "--hold", "--", "true")
    screen = gpuctl.ok()
    assert "simulates 2xRTX4090" in screen
    assert "1 held" in screen
    assert [line.split()[:3] for line in screen.splitlines()[5:]] == [
        line.split()[:3] for line in gpuctl.ok("status").splitlines()[5:]
    ]


def test_events_tell_what_happened(gpuctl):
    gpuctl.ended("--", "true")
    kinds = [event["kind"] for event in gpuctl.json("events", "1")]
    assert kinds == ["submitted", "starting", "running", "completed"]
    assert "completed" in gpuctl.ok("events").splitlines()[-1]


def test_watch_is_for_terminals_and_in_json_for_programs(gpuctl):
    assert gpuctl("watch").returncode == 2
    with gpuctl.start("watch", "--json") as watch:
        read_until(watch, '"gpus"')
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=30)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["show", "99"], 3, "99"),
        (["cancel", "99"], 3, "99"),
        (["cancel", "5-9"], 0, "no such jobs"),
        (["hold", "5-9"], 0, "no such jobs"),
        (["requeue", "--mine"], 0, "what has ended is named by its state: --state failed"),
        (["cancel", "--group", "typo"], 3, "there is no group 'typo'"),
        (["drain", "7"], 3, "7"),
        (["show", "x"], 2, "no job id"),
        (["submit", "--after", "1,failed:2", "--", "true"], 2, "say it by itself: --after failed:2"),
        (["lst"], 2, "did you mean list"),
        (["list", "--bogus"], 2, "--bogus"),
        (["submit", "-g", "3", "--", "true"], 1, "2"),
        (["submit", "--gpu-type", "H9000", "--", "true"], 1, "H9000"),
        (["submit", "--gpu-memory", "900G", "--", "true"], 1, "24"),
        (["submit", "--array", "9-0", "--", "true"], 2, "9-0"),
        (["submit", "--", ""], 2, "empty"),
        (["submit"], 2, "nothing to run"),
        (["run"], 125, "gpuctl run -- python train.py"),
        (["submit", "--array", "0-99999999999", "--", "true"], 2, "indices go up to"),
    ],
)
def test_what_is_wrong_costs_nothing_and_says_what_to_do(gpuctl, words, status, said):
    done = gpuctl(*words)
    assert done.returncode == status, done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-program"], "no such command: no-such-program"),
        (["-C", "/no/such/directory", "--", "true"], "no such directory: /no/such/directory"),
    ],
)
def test_what_is_missing_is_missed_at_the_start(gpuctl, words, said):
    job = gpuctl.ended(*words)
    assert (job["state"], job["exit_code"]) == ("failed", None)
    assert said in job["reason"]
    assert "there is no " in gpuctl("submit", "--dry-run", *words).stderr
    logs = gpuctl("logs", job["id"])
    assert "never started" in logs.stderr
    assert said in logs.stderr
    assert "logs -f" not in logs.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [(("list",), 141), (("logs", "1"), 141), (("run", "-g", "0", "--", "echo", "x"), 125), (("submit", "true"), 1)],
)
def test_a_reader_that_has_seen_enough_ends_a_command_and_none_takes_that_for_the_jobs_end(gpuctl, words, status):
    gpuctl.ended("-g", "0", "--", "echo", "output")
    with gpuctl.start(*words) as printing:
        printing.stdout.close()
        err = printing.stderr.read()
    assert printing.returncode == status, err
    assert "Traceback" not in err
    assert ("the job is queued: 2" in err) == (status == 1)


def into(gpuctl, where: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run gpuctl with its output where a shell puts it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", sys.executable, "-m", "gpuctl", *words],
        env=gpuctl.environ,
        cwd=gpuctl.directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("where", [">/dev/full", ">&-", ">&- 0<&-"])
def test_output_that_cannot_be_written_is_one_line_and_a_failure(gpuctl, where):
    done = into(gpuctl, where, "submit", "-g", "0", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpuctl: cannot write to standard output: ")
    assert done.stderr.endswith("; the job is queued: 1\n")
    gpuctl.ok("wait", "1")
    for words, status in ((["list", "--all"], 1), (["logs", "1"], 1), (["run", "-g", "0", "echo"], 125)):
        done = into(gpuctl, where, *words)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
        assert "cannot write to standard output" in done.stderr


def test_a_job_that_cannot_open_its_output_says_so_by_its_end(gpuctl):
    (gpuctl.directory / "file").touch()  # root, too, may make nothing below it
    done = gpuctl("run", "-g", "0", "-o", "file/log", "--", "true")
    assert (done.returncode, done.stdout) == (126, "")
    assert "job 1 failed: cannot open the" in done.stderr
    assert "cannot read" not in done.stderr


def test_ctrl_c_on_a_terminal_says_what_it_does_to_a_job_that_waits(gpuctl):
    terminal, its = pty.openpty()
    command = [sys.executable, "-m", "gpuctl", "run", "--hold", "--", "true"]
    with subprocess.Popen(command, env=gpuctl.environ, cwd=gpuctl.directory, stderr=its) as run:
        os.close(its)
        assert b"job 1:" in os.read(terminal, 4096)
        run.send_signal(signal.SIGINT)
        said = b""
        while b"job 1 cancelled" not in said:
            said += os.read(terminal, 4096)
        assert run.wait(30) == 130
    os.close(terminal)
    assert b"cancelling job 1" in said
    assert b"again" not in said


def test_output_that_is_gone_is_told(gpuctl):
    job = gpuctl.ended("--", "true")
    Path(job["output"]).unlink()
    assert "there is no file" in gpuctl("logs", "1").stderr
