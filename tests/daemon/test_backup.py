"""A copy of a gpud that runs, and going on from it: nothing known is lost, and nothing runs twice."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from gpud_process import ROOT


def gpuctl(gpud, *words):
    return subprocess.run(
        [sys.executable, "-m", "gpuctl", "--socket", gpud.socket, *words],
        env=gpud.environment | {"PYTHONPATH": str(ROOT)},
        cwd=gpud.work,
        capture_output=True,
        text=True,
        check=False,
    )


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
    for file in gpud.state.glob("gpud.db*"):
        file.unlink()
    shutil.copy(kept, gpud.state / "gpud.db")
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
    for file in gpud.state.glob("gpud.db*"):
        file.unlink()
    shutil.copy(gpud.work / "kept.db", gpud.state / "gpud.db")
    gpud.start()

    assert gpud.ended(job)["state"] == "lost"


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(gpud):
    refused = gpuctl(gpud, "daemon", "backup", "no/such/folder.db")

    assert refused.returncode == 1
    assert "No such file or directory" in refused.stderr
    assert list((gpud.state / "backups").iterdir()) == []
    with closing(sqlite3.connect(f"file:{gpud.state}/gpud.db?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
    assert Path(gpud.socket).is_socket()
