"""`gpuctl stats`, asked of a gpud that has something to tell; and as people read it."""

import json

import pytest

from gpuctl.render import stats as render

PERIOD = {
    "period": "hour",
    "seconds": 3600.0,
    "starts": 120,
    "starts_per_minute": 2.0,
    "ended": 100,
    "wait_s": {"p50": 5.0, "p90": 60.0, "p99": 3700.0},
    "turnaround_s": None,
    "sampled_every": 1,
    "gpu_s": 14_400.0,
    "utilization": 0.5,
    "lost_gpu_s": 90.0,
}
FOUND = {
    "jobs": {"queued": 3, "held": 0, "starting": 0, "running": 1, "stopping": 0},
    "users": [{"name": "ada", "queued": 3, "running": 1, "gpus": 0.5}],
    "tenants": [],
    "lines": [],
    "lines_more": 2,
    "gpus": 8,
    "periods": [PERIOD],
    "cycle": {"ms": 1.234, "smoothed_ms": 0.5, "inputs": 1, "starts": 2, "count": 9},
}


def test_the_queue_is_counted_by_state_user_and_line(gpuctl):
    gpuctl.ok("submit", "-g", "2", "--", "sleep", "600")
    gpuctl.ok("submit", "-g", "1", "-t", "1h", "--array", "0-9", "--", "true")
    gpuctl.ok("submit", "-g", "2", "--cpus", "3", "--", "true")
    gpuctl.ok("submit", "--hold", "--", "true")
    gpuctl.ok("submit", "--hold", "--array", "0-4", "--", "true")

    found = gpuctl.json("stats")

    assert found["jobs"]["queued"] == 11
    assert found["jobs"]["held"] == 6
    assert found["jobs"]["starting"] + found["jobs"]["running"] == 1
    (user,) = found["users"]
    assert (user["queued"], user["running"], user["gpus"]) == (17, 1, 2)
    assert [(each["jobs"], each["head"], each["gpus"], each["cpus"]) for each in found["lines"]] == [
        (10, "2", 1, 0),
        (1, "3", 2, 3),
    ]
    assert (found["tenants"], found["lines_more"], found["gpus"]) == ([], 0, 2)
    assert found["cycle"]["count"] > 0
    assert 0 < found["cycle"]["ms"] < 1000
    shown = gpuctl.ok("stats")
    assert shown.startswith("jobs: 11 queued, 6 held, 1 ")
    assert "1 GPU, at most 1h" in shown
    assert "2 GPUs, 3 CPUs" in shown


def test_what_was_is_told_and_a_restart_forgets_none_of_it(gpuctl, gpud):
    for _ in range(3):
        gpuctl.ended("--", "true")
    gpud.restart()
    job = gpuctl.ok("submit", "-g", "2", "--", "sleep", "600")
    gpud.running(job)

    hour, day, week = gpuctl.json("stats")["periods"]

    assert (hour["starts"], hour["ended"], hour["sampled_every"]) == (4, 3, 1)
    assert 0 <= hour["wait_s"]["p50"] <= hour["turnaround_s"]["p50"] < 30
    assert hour["wait_s"]["p50"] <= hour["wait_s"]["p90"] <= hour["wait_s"]["p99"]
    assert hour["starts_per_minute"] == pytest.approx(60 * 4 / hour["seconds"])
    least = hour["gpu_s"] / 2 / hour["seconds"]  # the GPUs were known a moment after the history had begun
    assert 0 < 0.999 * least < hour["utilization"] <= 1
    assert ({**hour, "period": "day"}, {**hour, "period": "week"}) == (day, week), "there is no longer history"


def test_the_cost_of_deciding_is_not_that_of_asking(gpuctl):
    gpuctl.ok("submit", "--hold", "--", "true")
    first, second = gpuctl.json("stats")["cycle"], gpuctl.json("stats")["cycle"]
    assert first == second
    assert first["inputs"] > 0


def test_tenants_are_counted_once_there_are_any(gpuctl):
    gpuctl.ok("submit", "-g", "2", "--", "sleep", "600")
    assert gpuctl.json("stats")["tenants"] == []
    gpuctl.ok("tenant", "create", "vision", "--user", "nobody")
    assert [(each["name"], each["gpus"]) for each in gpuctl.json("stats")["tenants"]] == [("default", 2)]


def test_people_read_percentiles_and_what_was_lost():
    text = "\n".join(render.lines(FOUND))
    assert "jobs: 3 queued, 1 running" in text
    assert "ada        3        1   0.5" in text
    (hour,) = [line.split() for line in text.splitlines() if line.startswith("hour")]
    assert hour == ["hour", "120", "2", "5s", "1m", "1h1m", "-", "50%", "1m30s", "lost"]
    assert "and 2 shorter lines" in text
    assert "deciding: 1.2 ms the last time (1 input, 2 starts), 0.5 ms on average" in text


def test_a_sample_is_told_to_be_one():
    periods = [{**PERIOD, "sampled_every": 1}, {**PERIOD, "period": "day", "seconds": 86_400.0, "sampled_every": 29}]
    assert "of one job in 29" in "\n".join(render.lines({**FOUND, "periods": periods}))
    assert "of one job" not in "\n".join(render.lines(FOUND))


def test_a_young_gpud_tells_how_far_back_it_knows(gpuctl):
    lines = gpuctl.ok("stats").splitlines()
    periods = lines[next(at for at, line in enumerate(lines) if line.startswith("LAST")) + 1 :]
    assert len([line for line in periods if line and not line.startswith("deciding")]) == 1
    assert json.loads(gpuctl.ok("stats", "--json"))["periods"][2]["seconds"] < 600
