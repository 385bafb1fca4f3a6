"""What gpud tells of its jobs and GPUs: no guess, no two words for one thing, and numbers to act on."""

import os
import pwd
import subprocess
import sys
import time

import pytest
from gpud_process import ROOT, until

from gpuctl.errors import RefusedError


def test_a_gpu_that_is_drained_while_it_is_busy_stays_busy_and_is_told_as_drained(gpud):
    gpud.running(gpud.submit("sleep", "60", gpus=2))
    gpud.ask("drain", targets=["0"])
    gpud.ask("drain", targets=["1"], reason="fan")
    first, second = gpud.ask("gpus")["gpus"]
    assert (first["state"], first["health"], first["health_reason"]) == ("busy", "draining", None)
    assert (second["state"], second["health"], second["health_reason"]) == ("busy", "draining", "fan")


def test_a_job_that_can_never_fit_says_so_once_gpus_are_seen(a_gpud):
    blind = a_gpud("--nvml-library", "/nowhere/libnvidia-ml.so.1")
    job = blind.submit("true", gpus=8)
    assert blind.job(job)["reason"].startswith("no GPU was found")
    blind.options = ("--simulate", "2xRTX4090")
    blind.restart()
    told = blind.ask("why", job=job)["jobs"][0]
    assert (told["code"], told["reason"]) == ("never_fits", "8 GPUs are asked for; this machine has 2")
    assert f"gpuctl cancel {job}" in told["hint"]
    assert blind.job(job)["reason"] == told["reason"]


def test_a_job_that_waits_for_cpus_or_memory_says_how_many_are_free(gpud):
    node = gpud.ask("nodes")["nodes"][0]
    cpus, memory = node["cpus"], node["memory_mib"]
    gpud.running(gpud.submit("sleep", "60", demand={"cpus": cpus - 3, "memory_mib": memory - 1024}))
    wants_cpus = gpud.submit("true", demand={"cpus": 4})
    wants_memory = gpud.submit("true", demand={"memory_mib": 2048})
    wants_both = gpud.submit("true", gpus=1, demand={"cpus": 4})
    assert gpud.job(wants_cpus)["reason"] == f"waits for 4 CPUs: 3 of {cpus} are free"
    assert gpud.job(wants_both)["reason"] == f"waits for 4 CPUs: 3 of {cpus} are free"
    assert gpud.job(wants_memory)["reason"] == f"waits for 2G of memory: 1G of {memory // 1024}G are free"


def test_a_job_that_could_not_start_never_started_whatever_kept_it(gpud):
    not_there = gpud.submit("pyhton")
    nowhere = gpud.submit("true", workdir="/nowhere")
    (gpud.work / "file").write_text("")
    no_log = gpud.submit("true", output=f"{gpud.work}/file/log")
    for job in (not_there, nowhere, no_log):
        over = gpud.ended(job)
        assert (over["state"], over["started_at"], over["exit_code"]) == ("failed", None, None)
        assert over["reason"]
        attempt = gpud.ask("show", job=job)["attempts"][0]
        assert (attempt["started_at"], attempt["could_not_start"]) == (None, True)


def test_a_job_that_never_started_has_no_output(gpud):
    job = gpud.submit("true", hold=True)
    assert gpud.job(job)["output"]
    gpud.ask("cancel", select={"jobs": [job]})
    assert (gpud.job(job)["output"], gpud.job(job)["error"]) == (None, None)


def test_who_asks_why_everybody_waits_is_told_of_the_next_in_line_first(gpud):
    gpud.ask("pause")
    job = {key: value for key, value in gpud.request_of("true").items() if key in {"demand", "command", "workdir"}}
    shared = {key: gpud.request_of("true")[key] for key in ("environment", "umask", "limits")}
    jobs = gpud.ask("submit_many", nonce="many-wait", jobs=[job] * 1_200, **shared)["jobs"]
    told = gpud.ask("why", limit=3)["jobs"]
    assert [(each["id"], each["position"]) for each in told] == [(jobs[at], at + 1) for at in range(3)]
    assert len(gpud.ask("why", limit=5_000)["jobs"]) == 1_000
    chained = job | {"after": {"any": [f"{jobs[0]}-{jobs[999]}"]}}
    with pytest.raises(RefusedError, match="comes after many"):
        gpud.ask("submit_many", nonce="many-after", jobs=[chained] * 101, **shared)
    gpud.ask("cancel", select={"mine": True})
    gpud.ask("resume")


def test_begin_time_and_array_limit_can_be_read(gpud):
    begin_at = time.time() + 7200
    later = gpud.job(gpud.submit("true", begin_at=begin_at))
    assert abs(later["begin_at"] - begin_at) < 1
    assert later["array_limit"] is None
    array = gpud.job(gpud.submit("true", array="0-3%2", hold=True))
    assert (array["begin_at"], array["array_limit"]) == (None, 2)


def test_an_array_counts_its_elements_in_every_state(gpud):
    array = gpud.submit("sh", "-c", "test $GPUD_ARRAY_INDEX = 0 || exec sleep 60", gpus=1, array="0-5")
    gpud.ended(f"{array}_0")
    gpud.ask("hold", select={"jobs": [f"{array}_5"]})
    expected = {"running": 2, "held": 1, "queued": 2, "completed": 1}
    assert until(lambda: gpud.job(array)["array_counts"] == expected)


def test_who_repeats_a_drain_or_a_pause_without_a_reason_leaves_the_first_reason(gpud):
    gpud.ask("drain", targets=["0"], reason="fan")
    assert gpud.ask("drain", targets=["0"])["changed"] == []
    gpud.ask("drain", targets=["0", "1"])
    assert [gpu["health_reason"] for gpu in gpud.ask("gpus")["gpus"]] == ["fan", None]
    gpud.ask("pause", reason="power")
    assert gpud.ask("pause")["changed"] is False
    assert gpud.ask("status")["paused"] == "power"


def test_events_of_operators_name_them(gpud):
    gpud.ask("drain", targets=["0"])
    gpud.ask("undrain", targets=["0"])
    gpud.ask("pause")
    gpud.ask("resume")
    events = {event["kind"]: event["detail"]["by"] for event in gpud.ask("events")["events"]}
    me = pwd.getpwuid(os.getuid()).pw_name
    assert events == dict.fromkeys(("drained", "undrained", "paused", "resumed"), me)


def test_a_message_is_one_line_of_the_log_whatever_names_are_in_it():
    evil = "eve\n<0>the machine burns\x1b[2J\u202e"
    code = f"""if True:
        import logging
        from gpud.settings.config import Config
        from gpud.chores.journal import start_log
        start_log(Config())
        logging.error("GPU 0 is used by %s", {evil!r})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    (line,) = done.stderr.splitlines()
    assert line.endswith("GPU 0 is used by eve\\n<0>the machine burns\\x1b[2J\\u202e")
