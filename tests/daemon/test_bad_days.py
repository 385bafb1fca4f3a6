"""Bad days of a machine: no process, no file, no clock and no directory to be had, and jobs that behave badly."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakenvml.fixture import compiler
from gpud_process import lives, marked, until

from gpuctl.errors import GpuctlError, RefusedError

TREE = """
import os, time
for _ in range(1_000):
    if not os.fork():
        time.sleep(1_000)
open("grown", "w")
time.sleep(1_000)
"""
CROWD = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
crowd = [socket.socket(socket.AF_UNIX) for _ in range(2_000)]
for each in crowd:
    each.connect(sys.argv[1])
print("all there", flush=True)
sys.stdin.read()
"""
HIDDEN = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        open("hidden", "w")
        time.sleep(1_000)
    os._exit(0)
os.wait()
while not os.path.exists("hidden"):
    time.sleep(0.01)
"""


def limit(pid, what):
    subprocess.run(["prlimit", f"--pid={pid}", what], check=True)


def left_of(gpud, program):
    """Return what lives of a job that runs this Python program."""
    found = []
    for pid in marked(gpud.folder):
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


# -- jobs that behave badly


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One gpud for all of them: none may do it harm."""
    from gpud_process import Gpud  # noqa: PLC0415 - the fixture of one test starts one for each

    gpud = Gpud(tmp_path_factory.mktemp("jobs"), "--simulate", "2xRTX4090").start()
    yield gpud
    left = gpud.close()
    assert not left, left


def test_a_job_that_ignores_term_is_killed_after_its_grace(shared):
    job = shared.submit("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done", gpus=1, grace_s=0.3)
    until(lambda: shared.running(job) and "up" in shared.output(job))
    shared.ask("cancel", select={"jobs": [job]})
    assert shared.ended(job)["state"] == "cancelled"


def test_what_a_job_hides_by_forking_twice_does_not_outlive_it(shared):
    job = shared.submit(sys.executable, "-c", HIDDEN, gpus=1)
    assert shared.ended(job)["exit_code"] == 0
    assert not left_of(shared, HIDDEN)


def test_a_job_that_closes_everything_ends_as_it_says(shared):
    job = shared.submit(sys.executable, "-c", "import os; os.closerange(0, 65_536); os._exit(7)")
    assert shared.ended(job)["exit_code"] == 7


def test_a_job_that_kills_its_parent_is_still_told_of(shared):
    job = shared.submit("sh", "-c", "kill -9 $PPID; sleep 0.3; exit 5", gpus=1)
    assert shared.ended(job)["exit_code"] == 5
    assert shared.ended(shared.submit("true", gpus=2))["state"] == "completed"


@pytest.mark.fault
def test_of_a_thousand_children_none_is_left(shared):
    job = shared.submit(sys.executable, "-c", TREE, gpus=1, grace_s=5.0)
    until((shared.work / "grown").exists)
    assert len(left_of(shared, TREE)) == 1_001
    shared.ask("cancel", select={"jobs": [job]})
    assert shared.ended(job, within_s=60)["state"] == "cancelled"
    assert not left_of(shared, TREE)


# -- a machine that has no more of something


@pytest.fixture
def bad_day(tmp_path):
    """A library that sets clocks and refuses forks."""
    library = tmp_path / "bad_day.so"
    source = Path(__file__).with_name("bad_day.c")
    command = [*compiler(), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return str(library)


@pytest.mark.fault
def test_forks_that_are_refused_delay_jobs_and_count_for_nothing(a_gpud, bad_day, tmp_path):
    refused = tmp_path / "refused"
    gpud = a_gpud("--simulate", "4xRTX4090", environment={"LD_PRELOAD": bad_day, "FORKS_REFUSED": str(refused)})
    refused.touch()
    jobs = [gpud.submit("sh", "-c", f"echo {at} >>ran", gpus=1) for at in range(6)]
    reasons = until(lambda: [why for job in jobs if (why := gpud.job(job)["reason"] or "") if "could not start" in why])
    assert "Resource temporarily unavailable" in reasons[0]
    refused.unlink()
    assert {gpud.ended(job, within_s=60)["state"] for job in jobs} == {"completed"}
    assert sorted((gpud.work / "ran").read_text().split()) == [str(at) for at in range(6)]


def test_without_a_file_to_be_had_those_who_are_served_stay_so(gpud):
    gpud.ask("ping")
    there = len(list(Path(f"/proc/{gpud.pid}/fd").iterdir()))
    limit(gpud.pid, f"--nofile={there + 20}:")
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for each in crowd:
        each.connect(gpud.socket)
    job = gpud.submit("sh", "-c", "exit 3")
    gpud.ask("ping")
    for each in crowd:
        each.close()
    until(lambda: gpud.job(job)["state"] == "failed")
    with gpud.connect() as another:
        assert another.request("show", job=job)["job"]["exit_code"] == 3


@contextlib.contextmanager
def held_up(path):
    """Have everybody who opens this file wait, until a signal kills them: as one of a server that does not answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    content_cloexec, open_perm, here = 0x5, 0x10000, -100  # linux/fanotify.h, linux/fcntl.h
    group = libc.fanotify_init(content_cloexec, os.O_RDONLY)
    if group < 0 or libc.fanotify_mark(group, 1, ctypes.c_uint64(open_perm), here, bytes(path)) < 0:
        pytest.skip(f"nobody can be held up here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.close(group)


@pytest.mark.fault
def test_a_log_whose_server_does_not_answer_keeps_no_gpu(shared):
    log, go = shared.work / "held.log", shared.work / "held"
    waits = "echo said; until [ -e held ]; do sleep 0.02; done; exit 3"
    job = shared.submit("sh", "-c", waits, gpus=2, output=str(log), time_limit_s=1000.0)
    until(lambda: log.exists() and log.read_text() == "said\n")
    with held_up(log):
        go.touch()
        ended = shared.ended(job, within_s=60)
        assert (ended["state"], ended["exit_code"]) == ("failed", 3)
        assert shared.ended(shared.submit("true", gpus=2))["exit_code"] == 0
    assert shared.ask("show", job=job)["attempts"][-1]["max_rss_mib"]


@pytest.mark.fault
def test_two_thousand_who_say_nothing_keep_nobody_waiting(gpud):
    words = [sys.executable, "-c", CROWD, gpud.socket]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout.readline() == b"all there\n"
        for _ in range(20):
            with gpud.connect() as client:
                client.request("ping")
        assert gpud.ended(gpud.submit("true", gpus=1))["state"] == "completed"
        until(lambda: len(list(Path(f"/proc/{gpud.pid}/fd").iterdir())) < 100)  # they were cut off
        crowd.stdin.close()


# -- what is taken away


@pytest.mark.fault
def test_a_state_directory_that_is_removed_ends_gpud_with_a_word_and_no_job(gpud):
    # What says where its TMPDIR is goes with the records: it stays, and so is to lie where the test's files do.
    own = {"TMPDIR": str(gpud.work)}
    job = gpud.submit("sh", "-c", "while [ -e go ]; do sleep 0.02; done", gpus=1, env=own)
    (gpud.work / "go").touch()
    gpud.running(job)
    pid, *_ = gpud.pids(job)
    shutil.rmtree(gpud.state)
    with contextlib.suppress(GpuctlError):
        gpud.submit("true")
    assert gpud.process.wait(60) == 1
    assert "was removed under gpud" in gpud.said()
    assert lives(pid)
    (gpud.work / "go").unlink()
    until(lambda: not lives(pid))


def test_who_asks_a_gpud_whose_state_directory_was_moved_away_is_told_so(gpud):
    gpud.ended(gpud.submit("true"))
    gpud.state.rename(gpud.folder / "away")
    with pytest.raises(RefusedError, match="was removed under gpud"):
        gpud.ask("list")
    assert gpud.process.wait(60) == 1


def refusal(gpud):
    """Return what a gpud says that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "gpud", "--state-dir", str(gpud.state), *gpud.options],
        env=gpud.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stderr


def test_behind_a_database_that_was_moved_away_numbers_go_on(gpud):
    (gpud.work / "go").touch()
    gpud.ended(gpud.submit("sh", "-c", "exit 4"))
    job = gpud.submit("sh", "-c", "while [ -e go ]; do sleep 0.02; done")
    gpud.running(job)
    pid, *_ = gpud.pids(job)
    gpud.kill()
    database, log = gpud.state / "gpud.db", gpud.state / "gpud.db-wal"
    with log.open("r+b") as file:
        file.seek(100)
        file.write(b"garbled")
    assert f"it knows no job from 1 on, and job {job} was started" in refusal(gpud)
    kept = log.read_bytes()
    database.rename(database.with_name("away"))
    assert "gpud.db-wal, which holds a part of it, is there" in refusal(gpud)
    assert log.read_bytes() == kept
    for each in (database, log):
        each.write_bytes(b"garbled" * 1_000)
    assert "move it away" in refusal(gpud)
    log.unlink()
    database.write_bytes(b"")  # as a machine that went down may leave a file: it is no new one
    assert f"it knows no job from 1 on, and job {job} was started" in refusal(gpud)
    for each in gpud.state.glob("gpud.db*"):
        each.rename(each.with_name(f"old-{each.name}"))
    gpud.start()
    after = gpud.submit("sh", "-c", "exit 6")
    assert int(after) > int(job)
    assert gpud.ended(after)["exit_code"] == 6
    assert gpud.pids(job)[0] == pid  # it is taken up
    (gpud.work / "go").unlink()
    assert gpud.ended(job)["state"] == "completed"
    (gpud.state / "gpud.db").unlink()
    with pytest.raises(GpuctlError):
        gpud.submit("true")  # nobody is told of a job that is gone with the next start
    assert gpud.process.wait(60) == 1


@pytest.mark.fault
def test_a_clock_set_back_by_an_hour_moves_no_deadline(a_gpud, bad_day, tmp_path):
    off_by = tmp_path / "off_by"
    off_by.write_text("0")
    clocked = {"LD_PRELOAD": bad_day, "CLOCK_OFF_BY": str(off_by)}
    gpud = a_gpud("--simulate", "2xRTX4090", environment=clocked)
    limited = gpud.submit("sleep", "1000", gpus=1, time_limit_s=3.0)
    later = gpud.submit("true", begin_at=time.time() + 4.0)
    gpud.running(limited)
    off_by.write_text("-3600")
    assert gpud.ended(limited)["state"] == "timed_out"
    shown = gpud.ended(later)
    assert shown["state"] == "completed"
    assert shown["ended_at"] - shown["submitted_at"] >= 3.5
    gpud.kill()
    gpud.start()
    again = gpud.ended(gpud.submit("true"))
    assert again["submitted_at"] >= shown["ended_at"]  # the clock of a boot is one, whatever the wall's says
    off_by.write_text("0")
