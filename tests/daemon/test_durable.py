"""A printed job id is durable, and every job runs exactly once per attempt, whenever gpud is killed.

Jobs tell in files of their own: a line at the start and one at the end, and a directory for each GPU that they hold,
which only one of them can make.
"""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from gpud_process import marked, name_of

from gpuctl.client import Client
from gpuctl.errors import GpuctlError

# The job under test: mkdir(2) tells who had a GPU first, whatever the clocks say.
STORY = """
echo start $GPUD_ATTEMPT >> $STORY/$GPUD_JOB_ID
for gpu in $(echo $GPUD_GPU_UUIDS | tr , ' '); do mkdir $STORY/held/$gpu || echo $gpu $GPUD_JOB_ID >> $STORY/twice; done
sleep $0
for gpu in $(echo $GPUD_GPU_UUIDS | tr , ' '); do rmdir $STORY/held/$gpu; done
echo end $GPUD_ATTEMPT >> $STORY/$GPUD_JOB_ID
exit $1
"""


class Submitter(threading.Thread):
    """Submits jobs one after the other, through every death of gpud, and keeps what it was told."""

    def __init__(self, gpud, seed, story):
        super().__init__()
        self.gpud = gpud
        self.dice = random.Random(seed)  # noqa: S311 - dice
        self.story = story
        self.enough = threading.Event()
        self.exits = {}  # by printed id
        self.refused = []

    def run(self):
        client = None
        while not self.enough.is_set():
            try:
                client = client or Client(self.gpud.socket)
                code = self.dice.choice([0, 0, 0, 1, 42])
                length = self.dice.choice(["0", "0.02", "0.2"])
                request = self.gpud.request_of(
                    *("sh", "-c", STORY, length, str(code)),
                    gpus=self.dice.choice([0, 1, 1, 2]),
                    env={"STORY": self.story},
                )
                job = client.request("submit", **request)["job"]
                assert job not in self.exits
                self.exits[job] = code
            except GpuctlError as error:
                self.refused.append(error)
                if client is not None:
                    client.close()
                client = None
                self.enough.wait(0.02)
            self.enough.wait(self.dice.uniform(0, 0.06))
        if client is not None:
            client.close()


def killed_again_and_again(gpud, kills, seed):
    """Kill gpud at random moments while jobs are submitted, run and end; return what was submitted, and how it went."""
    story = gpud.work / "story"
    (story / "held").mkdir(parents=True)
    dice = random.Random(seed)  # noqa: S311 - dice
    submitters = [Submitter(gpud, f"{seed}/{number}", str(story)) for number in range(2)]
    for submitter in submitters:
        submitter.start()
    try:
        for kill in range(kills):
            time.sleep(dice.expovariate(1 / 0.15))  # what is tested is a kill at any moment
            gpud.kill()
            gpud.start(ready=kill % 3 != 2)  # now and then it is killed before it is ready
    finally:
        for submitter in submitters:
            submitter.enough.set()
        for submitter in submitters:
            submitter.join()
    if gpud.process.poll() is not None or kills % 3 == 0:
        gpud.kill()
        gpud.start()
    exits = {job: code for submitter in submitters for job, code in submitter.exits.items()}
    return exits, {row["id"]: row for row in gpud.idle(120)}, story


def check(exits, rows, story):
    """Hold what happened against what was promised."""
    assert exits
    assert exits.keys() <= rows.keys(), "printed ids are gone"
    assert not (story / "twice").exists(), (story / "twice").read_text()
    for job, row in rows.items():
        wanted = exits.get(job, row["exit_code"])  # a submit whose answer was lost may have been made durable
        assert (row["exit_code"], row["state"]) == (wanted, "failed" if wanted else "completed"), row
        attempts = range(1, row["attempt"] + 1)
        lines = (story / job).read_text().splitlines()
        # An attempt that gpud's death kept from starting counts a number, and leaves no line.
        assert sorted(lines) == sorted({*lines}), f"{job} ran twice: {lines}"
        assert lines == [f"start {attempts[-1]}", f"end {attempts[-1]}"], f"{job}: {lines}"


def test_ten_kills_lose_no_job_and_run_none_twice(a_gpud):
    gpud = a_gpud("--simulate", "4xRTX4090")
    check(*killed_again_and_again(gpud, 10, seed=time.time_ns()))


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_hundred_kills_lose_no_job_and_run_none_twice(a_gpud):
    gpud = a_gpud("--simulate", "4xRTX4090")
    check(*killed_again_and_again(gpud, 100, seed=time.time_ns()))


def test_the_same_nonce_twice_is_one_job_also_across_a_kill(gpud):
    request = gpud.request_of("true", hold=True)
    first = gpud.ask("submit", **request)["job"]

    assert gpud.ask("submit", **request)["job"] == first
    assert gpud.ask("submit", **request, retry=True)["job"] == first
    gpud.kill()
    gpud.start()
    assert gpud.ask("submit", **request, retry=True)["job"] == first
    assert gpud.ask("submit", **request)["job"] == first
    assert [row["id"] for row in gpud.ask("list")["jobs"]] == [first]


def test_the_same_nonce_twice_in_one_batch_is_one_job(gpud):
    """Two frames in one write are one batch of the loop."""
    from gpud.wire.codec import Frames, pack  # noqa: PLC0415 - only here are frames made by hand

    request = {"op": "submit", **gpud.request_of("true", hold=True)}
    with gpud.connect() as client:
        client.request("ping")
        raw = client._socket
        raw.sendall(pack({**request, "id": 100}) + pack({**request, "id": 101}))
        frames, replies = Frames(), []
        while len(replies) < 2:
            data = raw.recv(1 << 16)
            assert data, gpud.said()
            replies += frames.feed(data)

    assert [reply["ok"] for reply in replies] == [True, True], replies
    assert replies[0]["job"] == replies[1]["job"]
    assert len(gpud.ask("list")["jobs"]) == 1


def test_what_was_answered_before_a_kill_is_there_after_it(gpud):
    """The answer comes after the commit: however soon the kill, the id holds."""
    printed = []
    for _ in range(5):
        printed += [gpud.submit("true", hold=True) for _ in range(5)]
        gpud.kill()
        gpud.start()
    assert {row["id"] for row in gpud.ask("list")["jobs"]} == set(printed)


def test_launchers_killed_amid_starts_lose_no_job_and_start_none_twice(a_gpud):
    chaos(a_gpud("--simulate", "4xRTX4090"), 8, time.time_ns(), ["launcher"])


@pytest.mark.fault
@pytest.mark.timeout(300)
def test_gpud_launchers_and_shims_killed_at_random_never_share_a_gpu(a_gpud):
    chaos(a_gpud("--simulate", "4xRTX4090"), 200, time.time_ns(), ["gpud", "launcher", "shim", "shim"])


def chaos(gpud, kills, seed, victims):
    """Kill what attends jobs, at random; a job whose shim and launcher both died may be lost, and nothing else."""
    story = gpud.work / "story"
    (story / "held").mkdir(parents=True)
    dice = random.Random(seed)  # noqa: S311 - dice
    submitter = Submitter(gpud, seed, str(story))
    submitter.start()
    try:
        for _ in range(kills):
            time.sleep(dice.expovariate(1 / 0.15))  # what is tested is a kill at any moment
            victim = dice.choice(victims)
            if victim == "gpud":
                gpud.kill()
                gpud.start()
                continue
            found = [pid for pid in marked(gpud.folder) if name_of(pid) == f"gpud-{victim}"]
            if found:
                with suppress(ProcessLookupError):
                    os.kill(dice.choice(found), signal.SIGKILL)
    finally:
        submitter.enough.set()
        submitter.join()
    rows = {row["id"]: row for row in gpud.idle(120)}
    assert submitter.exits.keys() <= rows.keys(), "printed ids are gone"
    assert not (story / "twice").exists(), f"{seed}: {(story / 'twice').read_text()}"
    for job, row in rows.items():
        lines = (story / job).read_text().splitlines() if (story / job).exists() else []
        told = (seed, job, lines, {key: row[key] for key in ("state", "reason", "exit_code", "signal", "attempt")})
        assert len(lines) == len(set(lines)), told
        if row["state"] == "lost" or (row["signal"] == signal.SIGKILL and not lines):
            # Between fork and exec a job bears its shim's name, so that it may have been the victim itself.
            assert "shim" in victims, told
        else:
            assert row["exit_code"] == submitter.exits.get(job, row["exit_code"]), told
            assert f"end {row['attempt']}" in lines, told
