"""A copy of a gpud that runs, and going on from it: nothing known is lost, and nothing runs twice."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from fakenvml.fixture import fake_gpu
from gpud_process import ROOT, lives, until

SUDO = "setpriv --reuid=1 --clear-groups" if os.getuid() == 0 else ""
UNTIL = "while [ ! -e {0} ]; do sleep 0.02; done; exit {1}"


def gpuctl(gpud, *words, before=()):
    return subprocess.run(
        [*before, sys.executable, "-m", "gpuctl", "--socket", gpud.socket, *words],
        env=gpud.environment | {"PYTHONPATH": str(ROOT)},
        cwd=gpud.work,
        capture_output=True,
        text=True,
        check=False,
    )


def put_in_place(gpud, kept):
    """Have a copy in the place of the database."""
    for file in gpud.state.glob("gpud.db*"):
        file.unlink()
    shutil.copy(kept, gpud.state / "gpud.db")


def test_a_copy_of_a_running_gpud_is_one_to_go_on_from(gpud):
    os.mkfifo(gpud.work / "gate")
    done = gpud.submit("true")
    gpud.ended(done)
    waits_for_gate = ("sh", "-c", "read status < gate; exit $status")
    running = gpud.submit(*waits_for_gate, gpus=2, env={"HF_TOKEN": "secret-token"})
    gpud.running(running)
    waiting = gpud.submit("touch", "started", gpus=2)
    array = gpud.submit("touch", "started", array="0-9", hold=True)
    again = gpud.submit("sh", "-c", "read status < again; touch over; exit $status", retries=1, env={"TOKEN": "x"})
    os.mkfifo(gpud.work / "again")
    gpud.running(again)

    saved = gpuctl(gpud, "daemon", "backup", "kept.db")
    assert saved.returncode == 0, saved.stderr
    kept = gpud.work / "kept.db"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert b"secret-token" not in kept.read_bytes()
    assert list((gpud.state / "backups").iterdir()) == []

    since = gpud.submit("true")
    gpud.ended(since)
    gpud.stop()
    put_in_place(gpud, kept)
    checked = subprocess.run(
        [sys.executable, "-m", "gpud", "--state-dir", str(gpud.state), "--check"],
        env=gpud.environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert checked.returncode == 0
    gpud.start()

    assert gpud.job(done)["state"] == "completed"
    for held in (waiting, array):
        shown = gpud.job(held)
        assert (shown["state"], shown["reason"]) == ("held", "its environment is not in the backup; submit it again")
        refused = gpud.ask("release", select={"jobs": [held]})
        assert (refused["changed"], refused["notes"]) == ([], {held: shown["reason"]})
    assert gpud.ask("release", select={"jobs": [f"{array}_3"]})["changed"] == []
    assert int(gpud.submit("true")) > int(since)
    (gpud.work / "gate").write_text("7\n")
    ended = gpud.ended(running)
    assert (ended["exit_code"], ended["attempt"]) == (7, 1)
    (gpud.work / "again").write_text("1\n")
    ended = gpud.ended(again)
    assert (ended["state"], ended["attempt"]) == ("failed", 2)
    assert "its environment is not in the backup" in ended["reason"]
    assert not (gpud.work / "started").exists()


def test_what_ended_since_the_copy_is_lost_and_said_to_be(gpud):
    os.mkfifo(gpud.work / "gate")
    job = gpud.submit("sh", "-c", "read status < gate; exit $status", gpus=1)
    gpud.running(job)
    assert gpuctl(gpud, "daemon", "backup", "kept.db").returncode == 0
    (gpud.work / "gate").write_text("0\n")
    gpud.ended(job)
    gpud.stop()
    put_in_place(gpud, gpud.work / "kept.db")
    (gpud.state / "logs" / f"{10**14}.1.log").touch()  # by a user
    gpud.start()

    assert gpud.ended(job)["state"] == "lost"
    assert int(gpud.submit("true")) < 10**10
    (alert,) = [each for each in gpud.ask("events")["events"] if each["kind"] == "alert"]
    assert "gpud goes on from a copy of its database, made 2" in alert["detail"]["message"]


def gpus_held(gpud):
    """Return what the attempts of elements hold, as gpud noted it."""
    select = "SELECT job, attempt, allocation FROM attempt WHERE job % (1 << 24) AND ended_at IS NULL"
    with closing(sqlite3.connect(gpud.state / "gpud.db")) as database:
        return sorted((job, attempt, json.loads(held)[0]["shares"]) for job, attempt, held in database.execute(select))


def test_what_was_started_since_the_copy_is_taken_up(a_gpud, fake_nvml):
    """Its GPUs are its own, `cancel` reaches it, and its end is its own; nothing of it runs twice."""
    own = f"GPU-{os.getpid():08x}"  # leases are the whole machine's
    fake_nvml.write(*(fake_gpu(index).replace("GPU-fa4e", f"{own}-") for index in range(3)))
    gpud = a_gpud("--nvml-library", fake_nvml.library, environment=fake_nvml.environment)

    def a_job(code=0, **fields):
        return gpud.submit("sh", "-c", UNTIL.format("over", code), **fields)

    shared = {"gpus": 1, "share_mib": 1_000}
    blocks = a_job(gpus=3)
    gpud.running(blocks)
    waits = a_job(4, gpus=1)
    ends = gpud.submit("sh", "-c", UNTIL.format("early", 5), demand=shared)
    elements = a_job(6, array="0-3", hold=True, demand=shared)
    again = a_job()
    gpud.running(again)
    failed = gpud.submit("sh", "-c", f"[ -e second ] || exit 3; {UNTIL.format('over', 7)}")
    gpud.ended(failed)
    kept = gpud.ask("backup")["path"]

    (gpud.work / "second").touch()
    gpud.ask("cancel", select={"jobs": [blocks]})
    gpud.ask("release", select={"jobs": [f"{elements}_{index}" for index in (0, 2)]})
    gpud.ask("requeue", select={"jobs": [again, failed]})
    since = a_job(8, gpus=1, time_limit_s=3_600.0)
    array = a_job(9, array="1,5", demand=shared)
    run = [waits, f"{elements}_0", f"{elements}_2", again, failed, since, f"{array}_1", f"{array}_5"]
    before = {job: gpud.running(job) for job in run}
    held = gpus_held(gpud)
    pids = [gpud.pids(job)[0] for job in (*run, ends) if gpud.running(job)]
    gpud.kill()
    (gpud.work / "early").touch()
    until(lambda: not lives(pids[-1]))
    put_in_place(gpud, kept)
    gpud.start()

    for job in run:
        now = gpud.running(job)
        for what in ("attempt", "allocation", "started_at", "command", "workdir", "output", "user", "time_limit_s"):
            assert now[what] == before[job][what], (job, what)
    assert [gpud.pids(job)[0] for job in run] == pids[:-1]
    assert gpus_held(gpud) == held
    assert gpud.ended(ends)["exit_code"] == 5
    assert gpud.ended(blocks)["state"] == "lost"  # its end was not seen; until then it is taken to hold them, too
    assert {each["state"] for each in gpud.ask("gpus")["gpus"]} == {"busy", "shared"}
    assert gpud.job(f"{elements}_1")["state"] == "held"
    refused = gpud.ask("requeue", select={"jobs": [again]})
    assert refused["notes"] == {again: "its environment is not in the backup; submit it again"}
    assert int(gpud.submit("true")) > int(array)
    gpud.ask("cancel", select={"jobs": [since, f"{array}_5"]})
    assert {gpud.ended(job)["state"] for job in (since, f"{array}_5")} == {"cancelled"}
    (gpud.work / "over").touch()
    codes = [gpud.ended(job)["exit_code"] for job in (waits, f"{elements}_0", f"{elements}_2", again, failed)]
    assert codes == [4, 6, 6, 0, 7]
    assert gpud.ended(f"{array}_1")["exit_code"] == 9
    assert gpud.ended(array)["state"] == "failed"


def test_what_a_process_makes_of_itself_changes_neither_whose_it_is_nor_what_others_see(gpud):
    done = gpud.submit("true")
    gpud.ended(done)
    kept = gpud.ask("backup")["path"]
    job = gpud.submit("sh", "-c", f"GPUD_GPU_MEMORY_MIB={'9' * 5_000} exec {SUDO} sleep 1000", gpus=1)
    user, pid = gpud.running(job)["user"], gpud.pids(job)[0]
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    gpud.kill()
    put_in_place(gpud, kept)
    shutil.copy(gpud.state / "records" / f"{job}.1", gpud.state / "records" / f"{done}_3.1")  # it is no array
    gpud.start()
    assert [(each["id"], each["user"]) for each in gpud.ask("list", state=["running"])["jobs"]] == [(job, user)]


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(gpud):
    refused = gpuctl(gpud, "daemon", "backup", "no/such/folder.db")

    assert refused.returncode == 1
    assert "No such file or directory" in refused.stderr
    refused = gpuctl(gpud, "daemon", "backup", str(gpud.state / "gpud.db"))
    assert refused.returncode == 1
    assert "would lie among gpud's own files" in refused.stderr
    (gpud.work / "link").symlink_to("/dev/fd/1")
    refused = gpuctl(gpud, "daemon", "backup", "link")
    assert refused.stderr.startswith("gpuctl: link is there, and no file to replace\n")
    (gpud.work / "link").unlink()
    refused = gpuctl(gpud, "daemon", "backup", "kept", before=["prlimit", "--fsize=8192"])
    assert refused.stderr == "gpuctl: cannot write kept: File too large\n"
    subprocess.run(["prlimit", f"--pid={gpud.pid}", "--fsize=8192:"], check=True)
    assert "cannot write" in gpuctl(gpud, "daemon", "backup", "kept").stderr
    subprocess.run(["prlimit", f"--pid={gpud.pid}", "--fsize=unlimited:"], check=True)
    assert list(gpud.work.iterdir()) == []
    assert list((gpud.state / "backups").iterdir()) == []
    with closing(sqlite3.connect(f"file:{gpud.state}/gpud.db?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
    assert Path(gpud.socket).is_socket()
