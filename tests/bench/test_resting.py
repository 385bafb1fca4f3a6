"""What gpud costs when nothing happens, when it comes back to a long history, and when somebody watches."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import pytest
from crowd import cpu_s
from fakenvml.fixture import fake_gpu
from gpud_process import ROOT, until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

FINISHED, ACTIVE, QUEUED = 1_000_000, 1_000, 100_000
IDLE_S = 20.0
WATCHED_S = 10.0
FRAME = b"\x1b[?2026h"  # the terminal is told to show what follows at once


def rss_mib(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def multiply(database, job, times, first):
    """Write all rows of a job so many times more, under numbers from `first` on."""
    new = {"id": "n << 24", "job": "n << 24", "nonce": "lower(hex(randomblob(16)))", "queued_us": "queued_us + n"}
    new["ended_at"] = f"ended_at - 30 * ({FINISHED} - n)"  # the history of a year
    counted = "VALUES (?) UNION ALL SELECT n + 1 FROM number LIMIT ?"
    for table, key in (("job", "id"), ("attempt", "job"), ("event", "job")):
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] != "seq"]
        copied = ", ".join(new.get(column, column) for column in columns)
        database.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) WITH RECURSIVE number(n) AS ({counted})"  # noqa: S608 - names of columns
            f" SELECT {copied} FROM number, {table} WHERE {key} = ?",
            (first, times, job << 24),
        )


def allocate(database, numbers, gpus):
    """Give each of these jobs, copies of one another, a GPU of its own."""
    for number, (uuid, node) in zip(numbers, gpus, strict=True):
        shares = [{"gpu": uuid, "memory_mib": None}]
        held = json.dumps([{"node": node, "shares": shares, "cpus": 0, "memory_mib": 0}])
        database.execute("UPDATE attempt SET allocation = ? WHERE job = ?", (held, number << 24))


def fill(gpud):
    """Give a gpud that does not run a long history, a long queue, and many jobs that run; return one of those."""
    ended = int(gpud.submit("true"))
    runs = int(gpud.submit("sleep", "3600", gpus=1))
    gpud.ended(str(ended))
    shown = gpud.running(str(runs))
    gpud.ask("pause")
    waits = int(gpud.submit("true", gpus=1))
    gpud.kill()
    with closing(sqlite3.connect(gpud.state / "gpud.db", isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        taken = shown["allocation"][0]["gpu_uuids"][0]
        gpus = database.execute("SELECT uuid, node FROM gpu WHERE uuid != ? LIMIT ?", (taken, ACTIVE - 1)).fetchall()
        others = range(FINISHED + 10, FINISHED + 10 + ACTIVE - 1)
        database.execute("BEGIN")
        database.execute("DELETE FROM setting WHERE key = 'paused'")
        multiply(database, ended, FINISHED, 10)
        multiply(database, runs, len(others), others.start)
        allocate(database, others, gpus)
        multiply(database, waits, QUEUED, others.stop)
        database.execute("COMMIT")
    # They all run as the one does that runs: the same process, the same shim, alive; each has its own record.
    record = (gpud.state / "records" / f"{runs}.1").read_bytes()
    for number in others:
        (gpud.state / "records" / f"{number}.1").write_bytes(record)
    return json.loads(record.partition(b" ")[2])


def starts_s(gpud, times=3):
    """Return the least time from its start until it answers what it was asked at once."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        gpud.start()
        ready_s = time.perf_counter() - began
        gpud.ask("status")
        taken.append((time.perf_counter() - began, ready_s))
        gpud.kill()
    return min(taken)


def test_a_long_history_makes_no_start_slow(a_gpud, budgets):
    empty = a_gpud("--simulate", "125x8xH100")
    gpud = a_gpud("--simulate", "125x8xH100")
    empty.kill()
    running = fill(gpud)
    try:
        bare_s, _ = starts_s(empty)
        answers_s, ready_s = starts_s(gpud)
        gpud.start()
        status = gpud.ask("status")
        assert status["jobs"]["running"] == ACTIVE, status["jobs"]
        assert status["jobs"]["queued"] == QUEUED + 1, status["jobs"]
        size = (gpud.state / "gpud.db").stat().st_size >> 20
        figure = f"ready {ready_s:.2f} s, answers {answers_s:.2f} s; {rss_mib(gpud.pid):.0f} MB"
    finally:
        gpud.kill()
        os.kill(running["pid"], signal.SIGKILL)
        shutil.rmtree(gpud.state)
    budgets.holds(
        "start with 1,000,000 finished, 100,000 queued, 1,000 active jobs",
        figure,
        f"with none {bare_s:.2f} s; the database has {size} MB",
        answers_s,
        most=1,
        unit=" s",
    )


def test_an_idle_gpud_sleeps(a_gpud, fake_nvml, budgets):
    fake_nvml.write(*(fake_gpu(index) for index in range(4)))
    gpud = a_gpud("--nvml-library", fake_nvml.library, environment=fake_nvml.environment)
    job = gpud.submit("sleep", "600", gpus=1)
    launcher = gpud.running(job) and gpud.pids(job)[2]
    gpud.ask("cancel", select={"jobs": [job]})
    gpud.ended(job)
    gpud._hang_up()
    until(lambda: {gpu["state"] for gpu in gpud.ask("gpus")["gpus"]} == {"free"})
    gpud._hang_up()
    before = cpu_s(gpud.pid), cpu_s(launcher)
    time.sleep(IDLE_S)  # the measurement: that nothing happens meanwhile
    after = cpu_s(gpud.pid), cpu_s(launcher)
    percent = [100 * (end - begin) / IDLE_S for begin, end in zip(before, after, strict=True)]
    floor = f"4 GPUs, {IDLE_S:.0f} s; the launcher process {percent[1]:.3f} %, {rss_mib(launcher):.0f} MB"
    budgets.holds("idle: CPU", f"{percent[0]:.3f} % of a core", floor, percent[0], most=0.2, unit=" %")
    budgets.holds("idle: memory", f"{rss_mib(gpud.pid):.1f} MB", floor, rss_mib(gpud.pid), most=45, unit=" MB")


def draw(gpud, act):
    """Run `gpuctl watch` on a terminal of 120 lines, calling `act` four times a second.

    Return what it drew at first and then, in how long, and for how much CPU time.
    """
    terminal, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 120, 160, 0, 0))
    words = [sys.executable, "-m", "gpuctl", "--socket", gpud.socket, "watch"]
    environ = gpud.environment | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environ, stdin=its, stdout=its, stderr=its) as watching:
        os.close(its)
        drawn = first = b""
        began = used = None
        while began is None or time.monotonic() < began + WATCHED_S:
            act()
            due = time.monotonic() + 0.25
            while (left := due - time.monotonic()) > 0:
                if select.select([terminal], [], [], left)[0]:
                    drawn += os.read(terminal, 1 << 16)
            if began is None and drawn.count(FRAME) >= 3:  # it is under way
                first, drawn, began, used = drawn, b"", time.monotonic(), cpu_s(watching.pid)
        took = time.monotonic() - began, cpu_s(watching.pid) - used
        watching.send_signal(signal.SIGINT)
        while select.select([terminal], [], [], 1.0)[0]:
            try:
                os.read(terminal, 1 << 16)
            except OSError:
                break
    os.close(terminal)
    return first, drawn, *took


def test_watching_costs_little(a_gpud, budgets):
    gpud = a_gpud("--simulate", "4xH100")
    jobs = [gpud.submit("true", gpus=1, hold=True, name=f"train-{number}") for number in range(100)]
    turn = iter(range(10_000))
    first, drawn, took_s, used_s = draw(
        gpud, lambda: gpud.ask("priority", select={"jobs": jobs[:1]}, priority=next(turn) % 100)
    )
    frames = drawn.count(FRAME)
    assert b"train-99" in first
    assert frames / took_s > 1.5
    budgets.holds(
        "gpuctl watch: 100 rows, twice a second",
        f"{1000 * used_s / frames:.1f} ms a frame, {frames / took_s:.1f} frames a second",
        f"{took_s:.0f} s, 160 x 120",
        100 * used_s / took_s,
        most=5,
        unit=" %",
    )
