"""`gpuctl simulate`, as people call it."""

import json
import os
import signal
import subprocess
import sys
from subprocess import PIPE
from xml.etree import ElementTree as ET

import psutil
import pytest
from gpud_process import until
from replaying import a_mix, written

from gpud.model.units import Timestamp
from gpud.simulator.history import read_history
from gpud.simulator.settings import read_shares

COLUMNS = "submit_s,duration_s,gpus,user"
# What scripts may count on.
KEYS = {
    *("trace", "policy", "jobs", "gpus", "avg_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "makespan_s", "wall_s"),
    *("avg_wait_s", "p50_wait_s", "p90_wait_s", "p99_wait_s", "max_wait_s", "wait_by_gpus", "avg_slowdown"),
    *("timed_out", "utilization", "fragmentation", "preemptions", "lost_gpu_s", "fairness", "tenants"),
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
    header, row = gpuctl("simulate", trace, *words[:-1], "refused,gpus").stdout.splitlines()
    assert (header.split()[:3], row.split()[-2:]) == (["trace.csv,", "16", "GPUs"], ["0", "0"])
    assert gpuctl("simulate", trace, *words[:-1], "gpus").stdout == "trace.csv, 16 GPUs\n"


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


def test_a_gpud_s_own_history_is_replayed_on_its_own_gpus_or_on_others(gpud, tmp_path):
    for name, share in (("vision", 3), ("idle", 5)):
        gpud.ask("tenant_create", name=name, share=share)
    jobs = [gpud.submit("sleep", "0.2"), gpud.submit("true"), gpud.submit("false", tenant="vision")]
    for job in jobs:
        gpud.ended(job)
    socket = tmp_path / "socket"  # not beside the database: gpud itself says where that is
    socket.symlink_to(gpud.socket)
    words = ["--socket", str(socket), "simulate", "--history", "--policy", "priority", "--json"]
    (here,), (elsewhere,) = (json.loads(gpuctl(*words, *more).stdout) for more in ([], ["--cluster", "1xH100"]))

    assert (here["trace"], here["jobs"], here["gpus"]) == ("history", 3, 2)
    assert (elsewhere["jobs"], elsewhere["gpus"]) == (3, 1)
    assert here["p99_jct_s"] >= 0.2
    trace, _ = read_history(str(gpud.state / "gpud.db"), Timestamp(0.0), elsewhere=False)
    shares = [
        [(each.name, each.share) for each in read_shares(words, ["fair_share"], trace)] for words in ([], ["vision=7"])
    ]
    assert shares == [[("vision", 3)], [("vision", 7)]]


def test_a_history_is_replayed_under_the_limits_of_its_tenants(gpud):
    gpud.ask("tenant_create", name="vision", max_gpus=1)
    for job in [gpud.submit("sleep", "0.5", gpus=1, tenant="vision") for _ in range(3)]:
        gpud.ended(job)
    words = ["--socket", gpud.socket, "simulate", "--history", "--policy", "fcfs,fifo", "--json"]

    ran = json.loads(gpuctl(*words).stdout)

    assert [each["makespan_s"] >= 1.5 and each["max_wait_s"] > 0.9 for each in ran] == [True, True]


def test_in_a_history_a_job_comes_when_those_have_ended_that_it_came_after(gpud):
    first = gpud.submit("sleep", "0.5")
    array = gpud.submit("true", array="0-1", after={"success": [first]})
    ended, _ = gpud.ended(first)["ended_at"], gpud.ended(array)

    trace, _ = read_history(str(gpud.state / "gpud.db"), Timestamp(0.0), elsewhere=False)

    assert [job.submit_s for job in trace.jobs[1:]] == [pytest.approx(ended, abs=0.01)] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.csv", "--cluster", "8x8xV100"], "cannot read nowhere.csv"),
        (["TRACE"], "name the GPUs"),
        ([], "name a trace"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "sfj"], "there is no policy 'sfj'"),
        (["-", "--cluster", "8x8xV100"], "- is standard input, and each policy reads"),
        (["TRACE", "--cluster", "8x8xV101"], "no simulated GPU 'V101'"),
        (["TRACE", "--cluster", "-1x2"], "'-1x2' is no simulated machine"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "-sjf"], "there is no policy '-sjf'"),
        (["TRACE", "--cluster", "8x8xV100", "--metric", "speed"], "there is no figure 'speed'"),
        (["TRACE", "--cluster", "8x8xV100", "--saturate", "-1"], "no multiple"),
        (["TRACE", "--cluster", "8x8xV100", "--saturate", "1", "--placement", "tight"], "no placement 'tight'"),
        (["TRACE", "--cluster", "8x8xV100", "--plot", "/nowhere/x.svg"], "cannot write /nowhere/x.svg"),
        (["TRACE", "--cluster", "8x8xV100", "--plot", "x.png"], "hint: --plot out.svg"),
        (["TRACE", "--cluster", "8x8xV100", "--placement", "fgd"], "hint: with --saturate 1.3"),
        (["TRACE", "--cluster", "8x8xV100", "--saturate", "1", "--policy", "sjf"], "--policy means nothing with"),
        (["TRACE", "--history"], "--history takes no trace"),
        (["TRACE", "--cluster", "8x8xV100", "--since", "1d"], "--since is for the history"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "las", "--set", "first_levl=1h"], "did you mean 'first_level'"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "sjf", "--set", "first_level=1h"], "no setting 'first_level'"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "las", "--set", "first_level=-1"], "write 90s, 2h or 7d; 1s"),
        (["TRACE", "--cluster", "8x8xV100", "--set", "aging_per_hour=nan"], "aging_per_hour cannot be 'nan'"),
        (["TRACE", "--cluster", "8x8xV100", "--set", "reservations=1.5"], "write a whole number; 0 at least"),
        (["TRACE", "--cluster", "8x8xV100", "--set", "starvation"], "'starvation' sets nothing"),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "fifo", "--set", "starvation=0"], "nothing can be set of fifo"),
        (["TRACE", "--cluster", "8x8xV100", "--share", "default=3"], "fair_share alone looks at shares"),
        (
            ["TRACE", "--cluster", "8x8xV100", "--policy", "fair_share", "--share", "lab=3"],
            "no job is of a tenant 'lab'",
        ),
        (["TRACE", "--cluster", "8x8xV100", "--policy", "fair_share", "--share", "default=0"], "cannot be '0'"),
    ],
)
def test_what_cannot_be_meant_is_said_and_costs_nothing(trace, words, said):
    done = gpuctl("simulate", *(trace if word == "TRACE" else word for word in words), status=2)

    assert said in done.stderr
    assert done.stderr.count(said) == 1
    assert "usage: python" not in done.stderr  # what it runs is not seen
    assert done.stdout == ""


def test_a_pipe_that_each_policy_would_read_a_part_of_is_refused(tmp_path):
    os.mkfifo(tmp_path / "piped.csv")
    done = gpuctl("simulate", str(tmp_path / "piped.csv"), "--cluster", "8x8xV100", "--policy", "sjf,fcfs", status=2)
    assert "piped.csv is a pipe" in done.stderr


def test_only_the_figures_that_were_asked_for_are_in_json_too_and_nothing_else_is_said(trace):
    done = gpuctl("simulate", trace, "--cluster", "2x8xV100", "--metric", "max_wait_s,gpus,jobs", "--json")

    assert [result.keys() for result in json.loads(done.stdout)] == [{"trace", "policy", "gpus", "jobs", "max_wait_s"}]
    assert done.stderr == ""


def test_what_is_refused_is_always_said_and_a_failure_where_it_is_all(tmp_path):
    trace = written(tmp_path / "t.csv", (0, 10, 1), (0, 10, 2))
    words = ["--policy", "fcfs,sjf", "--metric", "avg_jct_s"]

    some = gpuctl("simulate", trace, "--cluster", "1x1xV100", *words)
    assert some.stderr == "gpuctl: t.csv: 1 of 2 jobs were refused: they never fit these GPUs\n"
    trace = written(tmp_path / "t.csv", (0, 10, 2), (0, 10, 2))
    every = gpuctl("simulate", trace, "--cluster", "1x1xV100", *words, status=1)
    assert "2 of 2 jobs were refused" in every.stderr


def test_gangs_that_are_rounded_up_run_and_are_told(tmp_path):
    trace = written(tmp_path / "t.csv", (0, 10, 11), (0, 10, 16), (0, 10, 2))
    some = gpuctl("simulate", trace, "--cluster", "8x8xV100", "--json")
    huge = gpuctl("simulate", written(tmp_path / "h.csv", (0, 9, 10**15 - 1)), "--cluster", "8x8xV100", status=1)
    packed = gpuctl("simulate", trace, "--cluster", "8x8xV100", "--saturate", "1", "--seeds", "1")

    assert json.loads(some.stdout)[0]["jobs"] == 3
    why = "span nodes, and were rounded up to the same number of GPUs on each"
    assert some.stderr == packed.stderr == f"gpuctl: t.csv: 1 of 3 jobs {why}\n"
    assert "1 of 1 jobs were refused" in huge.stderr


def test_a_cluster_without_gpus_is_one_for_jobs_without_and_an_error_where_every_job_wants_one(tmp_path):
    cluster = written(tmp_path / "n.csv", ("a", 0), ("b", 0), columns="node,gpus")
    trace, mixed = (written(tmp_path / name, (0, 10, 1), (5, 10, gpus)) for name, gpus in (("t.csv", 1), ("m.csv", 0)))
    cluster_of_cpus = written(tmp_path / "c.csv", ("a", 0, 4), columns="node,gpus,cpus")

    refused = gpuctl("simulate", trace, "--cluster", cluster, status=2)
    assert refused.stderr == f"gpuctl: {cluster}: there is no GPU, and every job of t.csv asks for one\n"
    (said,) = json.loads(gpuctl("simulate", mixed, "--cluster", cluster_of_cpus, "--json").stdout)
    assert (said["jobs"], said["unfinished"]) == (1, 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_ends_a_simulation_ends_all_of_it_without_a_word(tmp_path, number, status):
    trace = written(tmp_path / "t.csv", *a_mix(30_000, gpus=(1, 2, 4)), columns=COLUMNS)
    words = [sys.executable, "-m", "gpuctl", "simulate", trace, "--cluster", "1x8xV100", "--policy", "sjf,las,fcfs"]
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as gpuctl:
        simulators = until(lambda: psutil.Process(gpuctl.pid).children())
        until(lambda: all(each.cpu_times().user > 0.5 for each in simulators))
        if number == signal.SIGINT:
            os.killpg(gpuctl.pid, number)  # as a terminal does
        else:
            gpuctl.send_signal(number)
        said = "".join(gpuctl.communicate(timeout=60))

    assert (said.strip(), gpuctl.returncode) == ("", status)  # Click ends the line on which ^C stands
    assert psutil.wait_procs(simulators, timeout=0)[1] == []


def test_a_simulator_whose_reader_left_ends_without_a_word(tmp_path):
    trace = written(tmp_path / "t.csv", *a_mix(30_000, gpus=(1, 2, 4)), columns=COLUMNS)
    words = [sys.executable, "-m", "gpud.simulator", trace, "--cluster", "1x8xV100", "--policy", "sjf"]
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True) as simulator:
        assert "progress" in simulator.stdout.readline()
        simulator.stdout.close()
        assert simulator.stderr.read() == ""

    assert simulator.returncode == -signal.SIGPIPE


def test_the_first_line_without_a_length_is_named_where_it_stands_in_the_file(tmp_path):
    trace = written(tmp_path / "t.csv", (60, 10, 1), (90, "", 1), (50, "", 1))
    done = gpuctl("simulate", trace, "--cluster", "1x1xV100", status=2)

    assert "t.csv, line 3, column duration_s: nothing, expected seconds" in done.stderr
    assert "--saturate" in done.stderr


def test_jobs_that_their_own_time_limit_ends_are_counted_where_there_are_any(tmp_path):
    columns = "submit_s,duration_s,gpus,time_limit_s"
    words = ["--cluster", "1x1xV100", "--policy", "fcfs"]
    some = [written(tmp_path / "t.csv", (0, 100, 1, 10), (0, 20, 1, 20), columns=columns), *words]
    none = gpuctl("simulate", written(tmp_path / "n.csv", (0, 10, 1, 10), columns=columns), *words)

    (said,) = json.loads(gpuctl("simulate", *some, "--json").stdout)
    assert (said["jobs"], said["timed_out"], said["makespan_s"]) == (2, 1, 30)
    assert "ended by their time limit" in gpuctl("simulate", *some).stdout
    assert "time limit" not in none.stdout


def test_a_setting_is_written_as_gpud_takes_it_and_counts_for_the_policies_that_have_it(tmp_path):
    rows = [(0, 5000, 1), (1000, 10, 1)]
    words = [written(tmp_path / "t.csv", *rows), "--cluster", "1x1xV100", "--policy", "las,fcfs", "--json"]
    waits = [
        [result["max_wait_s"] for result in json.loads(gpuctl("simulate", *words, *more).stdout)]
        for more in ([], ["--set", "first_level=10m"], ["--set", "first_level=600", "--set", "preempt_after=2h"])
    ]

    (usual, fcfs), (early, same), (never, _) = waits
    assert usual == fcfs == same == never == 4000
    assert early < 200


def test_the_rail_bounds_the_longest_wait_and_can_be_taken_away(tmp_path):
    rows = [(0, 86_400, 1), (1, 90_000, 1), *((2 + 3000 * number, 3000, 1) for number in range(200))]
    columns = "submit_s,duration_s,gpus,estimate_s"
    trace = written(tmp_path / "t.csv", *((*row, row[1]) for row in rows), columns=columns)
    words = ["simulate", trace, "--cluster", "1x1xV100", "--policy", "sjf", "--metric", "max_wait_s", "--json"]
    bounded, unbounded = (json.loads(gpuctl(*words, "--set", f"starvation={to}").stdout)[0] for to in ("1d", "off"))
    (in_order,) = json.loads(gpuctl(*words[:-4], "fifo", *words[-3:]).stdout)

    assert unbounded["max_wait_s"] > 600_000
    assert bounded["max_wait_s"] < 2.1 * in_order["max_wait_s"] < 400_000


def test_tenants_get_the_shares_that_they_are_given(tmp_path):
    rows = [(0, 600 + number % 7 * 300, 1, tenant) for number in range(700) for tenant in "AB"]
    trace = written(tmp_path / "t.csv", *rows, columns="submit_s,duration_s,gpus,tenant")
    words = ["--cluster", "1x8xV100", "--policy", "fair_share", "--share", "A=1", "--share", "B=3", "--until", "1d"]
    (result,) = json.loads(gpuctl("simulate", trace, *words, "--json").stdout)

    assert result["tenants"]["A"]["gpu_share"] == pytest.approx(0.25, rel=0.02)


def test_a_history_without_jobs_is_an_empty_answer(gpud):
    done = gpuctl("--socket", gpud.socket, "simulate", "--history", "--json")

    assert json.loads(done.stdout) == []
    assert "no job that ran has ended there" in done.stderr
