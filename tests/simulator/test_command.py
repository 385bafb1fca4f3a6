"""`gpuctl simulate`, as people call it."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from replaying import a_mix, written

COLUMNS = "submit_s,duration_s,gpus,user"
# What scripts may count on.
KEYS = {
    *("trace", "policy", "jobs", "gpus", "avg_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "makespan_s", "wall_s"),
    *("avg_wait_s", "p50_wait_s", "p90_wait_s", "p99_wait_s", "max_wait_s", "wait_by_gpus", "avg_slowdown"),
    *("utilization", "fragmentation", "preemptions", "lost_gpu_s", "fairness", "tenants"),
}


def gpuctl(*words, status=0):
    done = subprocess.run([sys.executable, "-m", "gpuctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def trace(tmp_path):
    return written(tmp_path / "trace.csv", *a_mix(40), columns=COLUMNS)


def test_json_is_an_array_of_one_object_a_policy_in_the_order_asked(trace):
    said = json.loads(gpuctl("simulate", trace, "--cluster", "2x8xV100", "--policy", "sjf,fcfs,srsf", "--json").stdout)

    assert [result["policy"] for result in said] == ["sjf", "fcfs", "srsf"]
    assert {(result["trace"], result["jobs"], result["gpus"]) for result in said} == {("trace.csv", 40, 16)}
    assert all(set(result) >= KEYS for result in said)


def test_the_table_has_a_column_a_policy_and_the_figures_that_were_asked_for(trace):
    words = ["--cluster", "2x8xV100", "--policy", "fcfs,sjf", "--metric", "avg_jct_s,preemptions"]
    header, *rows = gpuctl("simulate", trace, *words).stdout.splitlines()

    assert header.split()[-2:] == ["fcfs", "sjf"]
    assert [row.split(",")[0].split()[0] for row in rows] == ["completion", "preemptions"]


def test_a_drawing_is_an_svg_with_a_curve_for_each_policy_in_each_panel(trace, tmp_path):
    place = tmp_path / "out.svg"
    gpuctl("simulate", trace, "--cluster", "2x8xV100", "--policy", "fcfs,sjf", "--plot", str(place))

    curves = ET.parse(place).iter("{http://www.w3.org/2000/svg}title")  # noqa: S314 - our own file
    assert [curve.text for curve in curves] == ["fcfs", "sjf"] * 3


def test_packing_says_what_part_of_the_gpus_is_given_out(tmp_path):
    trace = written(tmp_path / "t.csv", (0, "", 1), (0, "", 0.5), (0, "", 0.5), (0, "", 2))
    words = ["--cluster", "2x4xV100", "--saturate", "1.3", "--seeds", "2", "--placement", "best-fit,spread"]
    said = json.loads(gpuctl("simulate", trace, *words, "--json").stdout)

    assert [result["placement"] for result in said] == ["best-fit", "spread"]
    assert all(80 < result["gpu_allocation_percent"] <= 100 for result in said)


def test_a_gpud_s_own_history_is_replayed_on_its_own_gpus_or_on_others(gpud):
    jobs = [gpud.submit("sleep", "0.2"), gpud.submit("true"), gpud.submit("false")]
    for job in jobs:
        gpud.ended(job)
    words = ["--socket", gpud.socket, "simulate", "--history", "--policy", "priority", "--json"]
    (here,), (elsewhere,) = (json.loads(gpuctl(*words, *more).stdout) for more in ([], ["--cluster", "1xH100"]))

    assert (here["trace"], here["jobs"], here["gpus"]) == ("history", 3, 2)
    assert (elsewhere["jobs"], elsewhere["gpus"]) == (3, 1)
    assert here["p99_jct_s"] >= 0.2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.csv", "--cluster", "8x8xV100"], "cannot read nowhere.csv"),
        (["TRACE"], "name the GPUs"),
        ([], "name a trace"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "sfj"], "there is no policy 'sfj'"),
        (["TRACE", "--cluster", "8x8xV101"], "no simulated GPU 'V101'"),
        (["TRACE", "--cluster", "8x8xV100", "--metric", "speed"], "there is no figure 'speed'"),
        (["TRACE", "--cluster", "8x8xV100", "--saturate", "-1"], "no multiple"),
        (["TRACE", "--cluster", "8x8xV100", "--saturate", "1", "--placement", "tight"], "no placement 'tight'"),
        (["TRACE", "--cluster", "8x8xV100", "--plot", "/nowhere/x.svg"], "cannot write /nowhere/x.svg"),
    ],
)
def test_what_cannot_be_meant_is_said_and_costs_nothing(trace, words, said):
    done = gpuctl("simulate", *(trace if word == "TRACE" else word for word in words), status=2)

    assert said in done.stderr
    assert done.stdout == ""
