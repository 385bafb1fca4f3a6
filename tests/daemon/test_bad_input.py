"""Bad input costs nothing: a clear error with a hint, nothing half-done, nothing lost, no daemon down."""

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpud_process import ROOT, until

from gpuctl.errors import RefusedError
from gpud.wire.address import reachable
from gpud.wire.codec import Frames, pack
from gpud.wire.messages import REQUESTS


def refusal(gpud, op, **fields):
    """Return what is said to a request that must be refused."""
    with pytest.raises(RefusedError) as refused:
        gpud.ask(op, **fields)
    return refused.value


@pytest.mark.parametrize(
    ("demand", "code", "message", "hint"),
    [
        ({"gpus": 3}, "never_fits", "3 GPUs are asked for; this machine has 2", "--gpus 2"),
        ({"gpus": 1, "gpu_type": "H100"}, "never_fits", "no GPU here is of type 'H100'", "2 x NVIDIA GeForce RTX 4090"),
        ({"gpus": 1, "gpu_memory_mib": 81920}, "never_fits", "no GPU here has 80G", "the largest has 24G"),
        ({"gpus": 1, "gpu_memory_mib": 24577}, "never_fits", "no GPU here has 24577M", "the largest has 24G"),
        ({"gpus": 1, "cpus": 4711}, "never_fits", "4711 CPUs are asked for", ""),
        ({"gpus": 0, "memory_mib": 2**30}, "never_fits", "of memory is asked for", ""),
        ({"gpus": -1}, "usage", "the number of GPUs must be from 0", ""),
        ({"gpus": 1, "gpu_ids": ["7"]}, "no_such_gpu", "there is no GPU named '7'", "gpuctl gpus"),
        ({"gpus": True}, "usage", "demand.gpus", ""),
        ({"gpus": 1.5}, "usage", "demand.gpus", ""),
        ({"gpus": 1, "gpu_tipe": "x"}, "usage", "gpu_tipe", "gpu_type"),
        ({}, "usage", "gpus", ""),
    ],
)
@pytest.mark.usefixtures("kept")
def test_a_demand_that_cannot_be_met_is_refused_with_what_is_possible(kept, demand, code, message, hint):
    request = kept.request_of("true") | {"demand": demand}
    said = refusal(kept, "submit", **request)
    assert said.code == code
    assert message in said.message
    assert hint in (said.hint or "")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One gpud for everything that must cost it nothing; it is as empty at the end as it was."""
    from gpud_process import Gpud  # noqa: PLC0415 - the class, beside the fixture of its name

    gpud = Gpud(tmp_path_factory.mktemp("kept") / "gpud", "--simulate", "2xRTX4090").start()
    pid = gpud.pid
    yield gpud
    try:
        assert gpud.process.poll() is None, gpud.said()
        assert gpud.pid == pid
        assert gpud.ask("list", all=True)["jobs"] == []
        assert "Traceback" not in gpud.said(), gpud.said()
    finally:
        left = gpud.close()
    assert not left


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"command": []}, "the command is empty"),
        ({"command": [""]}, "the command is empty"),
        ({"command": ["a\0b"]}, "zero byte"),
        ({"workdir": "relative"}, "absolute path"),
        ({"workdir": "/a\0"}, "absolute path"),
        ({"priority": 10**7}, "the priority must be from"),
        ({"retries": -1}, "the number of retries must be from 0"),
        ({"time_limit_s": 0.0}, "the time limit must be from"),
        ({"time_limit_s": float("nan")}, "time_limit_s must be a number, not nan"),
        ({"grace_s": -1}, "the grace time must be from 0"),
        ({"umask": 4096}, "the umask must be from 0"),
        ({"array": "5 apples"}, "is not an array"),
        ({"array": "1-5%0"}, "%0 would let no element run"),
        ({"array": "0-99999999"}, "indices go up to"),
        ({"name": "\x1b[2J"}, "control characters"),
        ({"labels": {"": "x"}}, "label"),
        ({"environment": {"A=B": "x"}}, "cannot be a variable"),
        ({"environment": {"A": "x" * (6 << 20)}}, "more than 6 MiB of variables"),
        ({"limits": {"NOFILE": [1]}}, "NOFILE"),
        ({"limits": {"NOFLIE": [1, 2]}}, "unknown limit 'NOFLIE'"),
        ({"nonce": ""}, "a nonce has"),
        ({"output": ""}, "the output file"),
        ({"commnad": ["x"]}, "commnad"),
    ],
)
def test_a_wrong_submit_is_refused_and_leaves_nothing(kept, wrong, message):
    said = refusal(kept, "submit", **kept.request_of("true") | wrong)
    assert said.code == "usage"
    assert message in said.message


@pytest.mark.parametrize(
    "word", ["", "x", "-1", "1-", "5-3", "1_", "1_x", "1_[3", "9" * 400, "1_5-2", "12_7_3", "\uff11"]
)
@pytest.mark.parametrize("op", ["show", "cancel", "why", "list"])
def test_what_is_no_job_is_refused(kept, op, word):
    named = {
        "show": {"job": word},
        "why": {"job": word},
        "list": {"jobs": [word]},
        "cancel": {"select": {"jobs": [word]}},
    }
    assert refusal(kept, op, **named[op]).code in {"usage", "no_such_job"}


@pytest.mark.parametrize(("op", "named"), [("show", "job"), ("cancel", "select"), ("list", "jobs")])
def test_the_number_that_slurms_scripts_know_an_element_by_is_told_as_gpuctl_calls_it(kept, op, named):
    word = str((12 << 24) + 8)
    said = refusal(kept, op, **{named: {"job": word, "jobs": [word], "select": {"jobs": [word]}}[named]})
    assert (said.code, said.hint) == ("no_such_job", "as a SLURM_JOB_ID that is 12_7")


ODD = [
    *(
        None,
        True,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "1",
        "1_2",
        "\0",
        "\udcff",
        "é" * 500,
    ),
    *(
        [],
        [[]],
        ["1"],
        [None],
        {},
        {"jobs": []},
        {"jobs": ["1"]},
        {"": ""},
        {"gpus": 1},
        b"\xff",
        [1, 2],
        "0-9%2",
        "sim-1",
    ),
]


def mangled(dice, gpud):
    """Return a request with something wrong, or odd, in it; what happens to be right must do no harm either."""
    op = dice.choice(sorted(REQUESTS))
    if op == "submit":
        request = gpud.request_of("true") | {"dry_run": True}
        keys = [*request, *REQUESTS[op].__annotations__]
        for _ in range(dice.randrange(1, 3)):
            request[dice.choice(keys)] = dice.choice(ODD)
        request["dry_run"] = True
        if dice.random() < 0.3:
            del request[dice.choice(list(request))]
            request["dry_run"] = True
    else:
        keys = [key for key in REQUESTS[op].__annotations__ if key not in {"op", "id"}]
        request = {key: dice.choice(ODD) for key in keys if dice.random() < 0.7}
    if dice.random() < 0.1:
        request[dice.choice(["jbos", "id", "ok", ""])] = dice.choice(ODD)
    if op in {"pause", "drain"}:
        op = {"pause": "resume", "drain": "undrain"}[op]  # these would do as they are told
    return {"op": op if dice.random() < 0.97 else dice.choice(ODD), **request}


def fuzz(gpud, seed, count):
    """Send odd requests; each must be answered, and none may do harm."""
    dice = random.Random(seed)  # noqa: S311 - dice
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(30)
        raw.connect(reachable(gpud.socket))
        raw.sendall(pack({"protocol": [0, 1]}))
        frames = Frames()
        heard = []
        while not heard:
            heard += frames.feed(raw.recv(1 << 16))
        answered = 0
        for number in range(count):
            request = {"id": number, **mangled(dice, gpud)}
            try:
                raw.sendall(pack(request))
            except OverflowError:
                continue
            reply = None
            while reply is None:
                data = raw.recv(1 << 18)
                assert data, (seed, request, gpud.said())
                for message in frames.feed(data):
                    if "ok" in message:
                        reply = message
            answered += 1
            assert reply["ok"] or reply["error"]["message"], (seed, request, reply)
    return answered


def test_odd_requests_are_answered_and_cost_nothing(kept):
    seed = time.time_ns()
    assert fuzz(kept, seed, 1500) > 1200
    assert kept.ask("ping")["ok"]


@pytest.mark.fault
def test_many_odd_requests_are_answered_and_cost_nothing(kept):
    seed = time.time_ns()
    assert fuzz(kept, seed, 50_000) > 40_000
    assert kept.ask("ping")["ok"]


def open_files(gpud):
    """Return how many files gpud has open."""
    return len(list(Path(f"/proc/{gpud.pid}/fd").iterdir()))


def test_a_thousand_connections_of_garbage_do_no_harm(kept):
    dice = random.Random(7)  # noqa: S311 - dice
    files = open_files(kept)
    garbage = [b"GET / HTTP/1.1\r\n\r\n", b"", b"\0" * 100, b"\xff" * 9, pack({"protocol": [99, 100]}), b"\0\0\0\5ab"]
    for begin in range(0, 1000, 100):
        with contextlib.ExitStack() as stack:
            for at in range(begin, begin + 100):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(reachable(kept.socket))
                with contextlib.suppress(BrokenPipeError):
                    one.sendall(garbage[at % len(garbage)] or dice.randbytes(dice.randrange(1, 3000)))
            began = time.perf_counter()
            assert kept.ask("ping")["ok"]
            assert time.perf_counter() - began < 1
    with kept.connect() as client:
        client.request("ping")
    until(lambda: open_files(kept) <= files + 2, within_s=10)  # no connection is left open


def test_a_small_request_that_names_very_much_costs_little(kept):
    """Each of them took minutes or gigabytes where it was done as it is written."""
    overlapping = ["5_0-999998:2,1-999999:2"] * 1_000
    ranges = [f"{first}-{first + 999}" for first in range(1, 3_000_000, 1_001)]
    peak = peak_mib(kept)
    for op, fields, says in (
        ("list", {"jobs": overlapping}, "is not a job id"),
        ("events", {"jobs": overlapping}, "is not a job id"),
        ("cancel", {"select": {"jobs": overlapping}}, "is not a job id"),
        ("list", {"jobs": ["5_" + "1," * 600_000 + "1"]}, "so many jobs"),
        ("submit", kept.request_of("true", array="0-99998:2,1-99999:2"), "ranges that overlap"),
        ("list", {"labels": [f"key{number}" for number in range(3_000)]}, "at most 100 labels"),
        ("cancel", {"select": {"jobs": ranges}}, None),
    ):
        refused = None
        try:
            kept.ask(op, **fields)
        except RefusedError as error:
            refused = str(error)
        assert (refused is None) if says is None else re.search(says, refused or ""), (op, refused)
    assert peak_mib(kept) - peak < 300


def peak_mib(gpud):
    """Return the most memory that gpud ever had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{gpud.pid}/status").read_text())[1]) >> 10


def gpud_says(*options, **settings):
    """Run a gpud that cannot start; return its exit status and what it says."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GPUD_")}
    done = subprocess.run(
        [sys.executable, "-m", "gpud", "--simulate", "1xH100", *options],
        env=environment | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_second_gpud_on_one_state_directory_is_refused(gpud):
    status, said = gpud_says("--state-dir", str(gpud.state))

    assert status == 75
    assert str(gpud.pid) in said
    assert "Traceback" not in said
    assert gpud.ended(gpud.submit("true"))["exit_code"] == 0


def test_a_damaged_database_is_refused_and_left_as_it_is(gpud):
    gpud.stop()
    database = gpud.state / "gpud.db"
    damaged = b"SQLite format 3\0" + b"x" * 8000
    database.write_bytes(damaged)

    status, said = gpud_says("--state-dir", str(gpud.state))

    assert status == 1
    assert "is damaged" in said
    assert "hint: " in said
    assert "Traceback" not in said
    assert database.read_bytes() == damaged


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path):
    a_file = tmp_path / "file"
    a_file.write_text("")
    status, said = gpud_says("--state-dir", str(a_file))
    assert (status, "Traceback" in said) == (1, False), said
    assert str(a_file) in said
    assert "hint: " in said
    status, said = gpud_says("--state-dir", "/proc/gpud")
    assert (status, "Traceback" in said) == (1, False), said
    assert "/proc/gpud" in said


def test_a_state_directory_of_another_user_is_told(gpud):
    gpud.stop()
    gpud.state.chmod(0o500)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*command, sys.executable, "-m", "gpud", "--simulate", "1xH100", "--state-dir", str(gpud.state)],
        env={**gpud.environment, "HOME": "/nonexistent"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    gpud.state.chmod(0o700)
    assert done.returncode == 1, done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_simulation_names_the_nearest(tmp_path):
    status, said = gpud_says("--state-dir", str(tmp_path), "--simulate", "4xRTX409")
    assert (status, "Traceback" in said) == (2, False), said
    assert "did you mean RTX4090" in said
