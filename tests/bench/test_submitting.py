"""What a submit costs gpud: alone, among many, behind many, and for those who ask for something else meanwhile."""

import os
import select
import sqlite3
import statistics
import struct
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from budgets import p99
from crowd import SHELL, Crowd, submits
from gpud_process import ROOT

from gpud.intake.submission import spec_of
from gpud.model.changes import Added
from gpud.model.job import job_id
from gpud.model.spec import Place
from gpud.model.units import Timestamp
from gpud.store.jobs import Store

UNGROUPED = str(Path(__file__).with_name("ungrouped.py"))

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


def commits_per_s(path, request, count):
    """Return how many submits a second the store alone takes, with nobody to answer, when each waits for the disk."""
    changes = []
    for number in range(1, count + 1):
        asked = request | {"nonce": f"number {number}"}
        who = {"uid": os.getuid(), "gid": 0, "groups": (), "user": "someone", "tenant": "default"}
        spec = spec_of(asked, **who, begin_at=None, after=())
        changes.append(Added(job_id(number), Timestamp(number), spec, Place(queued_us=number)))
    with closing(Store.open(path)) as store:
        began = time.perf_counter()
        for change in changes:
            store.commit([change])
        return count / (time.perf_counter() - began)


def test_fifty_clients_are_served_several_times_as_fast_as_one_commit_each_would(a_gpud, tmp_path, budgets):
    grouped = a_gpud("--simulate", "1xH100")
    single = a_gpud("--simulate", "1xH100", before=(sys.executable, UNGROUPED), environment={"PYTHONPATH": str(ROOT)})
    rates = {grouped: [], single: []}
    store = []
    for gpud in rates:
        gpud.submit("sleep", "600", gpus=1)
    for turn in range(12):  # short turns: some meet a quiet moment of a busy machine
        for gpud, count in ((grouped, 2_000), (single, 500)):
            with Crowd(gpud, 50) as crowd:
                replies, took_s = crowd.send(submits(gpud, count, gpus=1))
                rates[gpud].append(len(replies) / took_s)
        store.append(commits_per_s(f"{tmp_path}/{turn}.db", grouped.request_of("true", env=SHELL, gpus=1), 200))
    budgets.holds(
        "durable submits, 50 clients, against one commit each",
        f"{max(rates[grouped]):,.0f}/s",
        f"the same gpud, each alone {max(rates[single]):,.0f}/s; the store alone {max(store):,.0f}/s",
        max(rates[grouped]) / max(rates[single]),
        least=4,
    )


def resets(gpud):
    """Return how often SQLite began its log anew (sqlite.org/walformat.html: the header's checkpoint sequence)."""
    return struct.unpack(">I", (gpud.state / "gpud.db-wal").read_bytes()[12:16])[0]


def test_a_batch_of_submits_is_synced_once(a_gpud, a_disk, budgets):
    disk = a_disk(2_000)
    gpud = a_gpud("--simulate", "1xH100", environment=disk.environment)
    with Crowd(gpud, 50) as crowd:
        before, reset = disk.syncs, resets(gpud)
        crowd.send(submits(gpud, 1_500, gpus=1, hold=True))
        syncs = disk.syncs - before
        checkpoints = 1 + resets(gpud) - reset  # the last one's log may not have begun anew yet
    with closing(sqlite3.connect(f"file:{gpud.state}/gpud.db?mode=ro", uri=True)) as database:
        # A batch is dated once.
        (batches,) = database.execute("SELECT count(DISTINCT submitted_at) FROM job").fetchone()
    budgets.holds(
        "fdatasync per batch of submits",
        f"{syncs} for 1,500 submits",
        f"{batches} batches, and 3 for each time that SQLite empties its log: {checkpoints - 1} or {checkpoints}",
        (syncs - 3 * checkpoints) / batches,
        most=1,
        unit="",
    )
    assert batches <= 300  # 50 at once, most of the time


def ping_ms(client):
    began = time.perf_counter()
    client.request("ping")
    return 1000 * (time.perf_counter() - began)


def test_ping_is_answered_at_once_while_the_disk_is_slow(a_gpud, a_disk, budgets):
    disk = a_disk(10_000)
    gpud = a_gpud("--simulate", "1xH100", environment=disk.environment)
    idle = a_gpud("--simulate", "1xH100")
    gpud.submit("sleep", "600", gpus=1)
    taken, floor = [], []
    with gpud.connect() as client, idle.connect() as other, Crowd(gpud, 20) as crowd:
        pid = os.fork()
        if pid == 0:  # those who submit: they must not share a Python with the one who measures
            end = time.monotonic() + 8
            crowd.send(submits(gpud, 20_000, gpus=1), until=lambda: time.monotonic() > end)
            os._exit(0)
        pidfd = os.pidfd_open(pid)
        while not select.select([pidfd], [], [], 0.002)[0]:
            taken.append(ping_ms(client))
            floor.append(ping_ms(other))
        os.close(pidfd)
        assert os.waitpid(pid, 0)[1] == 0
    submitted = int(gpud.submit("true", hold=True)) - 2
    budgets.holds(
        "ping while 20 clients submit and every fsync takes 10 ms more: p99, beyond an idle gpud's",
        f"median {statistics.median(taken):.2f} ms, p99 {p99(taken):.2f} ms; {submitted / 8:,.0f} submits/s",
        f"an idle gpud meanwhile: median {statistics.median(floor):.2f} ms, p99 {p99(floor):.2f} ms",
        max(0.0, p99(taken) - p99(floor)),
        most=5,
        unit=" ms",
    )
    assert len(taken) > 500
    assert submitted > 1_000


def test_a_long_queue_makes_a_submit_no_dearer(a_gpud, budgets):
    empty, full = a_gpud("--simulate", "1xH100"), a_gpud("--simulate", "1xH100")
    for gpud in (empty, full):
        gpud.submit("sleep", "600", gpus=1)
    with Crowd(full, 50) as crowd:
        for limit_s in range(10):
            crowd.send(submits(full, 1_000, gpus=1, time_limit_s=1_000.0 + limit_s))
    taken = {empty: [], full: []}
    for turn in range(30):
        for gpud in (empty, full):
            with Crowd(gpud, 1) as crowd:
                submit = submits(gpud, 40, gpus=1, time_limit_s=1_000.0 + turn % 10, next=True)
                replies, took_s = crowd.send(submit)
            taken[gpud].append(1000 * took_s / len(replies))
            gpud.ask("cancel", select={"jobs": [reply["job"] for reply in replies]})
    budgets.holds(
        "a submit with 10,000 queued against none",
        f"{min(taken[full]):.3f} ms",
        f"none queued: {min(taken[empty]):.3f} ms",
        min(taken[full]) / min(taken[empty]),
        most=1.1,
    )
