"""What became of jobs, when the others start, and who used what: as a person asks a gpud that runs."""

import csv
import re
import time

import pytest
from gpud_process import until

from gpuctl.render import usage as page
from gpud.core.choice import world_of
from gpud.core.rules import Rules
from gpud.model.gpu import Allocation, GpuId, NodeName, Share
from gpud.model.job import Demand, End, Exit, job_id
from gpud.model.spec import Place, Terms
from gpud.model.units import Timestamp
from gpud.model.use import GpuUse
from gpud.store.rows import AttemptRow, JobRow
from gpud.views.results import results

HOUR = 3_600.0


def told_of(*busiest, ran_s=HOUR, seen_s=HOUR, busy=1.0):
    """Return what is told of a job that held GPUs, each of which was at most so busy."""
    gpus = [GpuId(f"gpu-{at}") for at in range(len(busiest))]
    uses = tuple(
        GpuUse(
            gpu=gpu,
            readings=100,
            seen_s=seen_s,
            known_s=seen_s,
            busy_s=busy * seen_s * percent / 100,
            busiest_percent=percent,
        )
        for gpu, percent in zip(gpus, busiest, strict=True)
    )
    run = AttemptRow(
        job=job_id(1),
        attempt=1,
        starting_at=Timestamp(0.0),
        started_at=Timestamp(0.0),
        boot="",
        allocation=(Allocation(node=NodeName("n"), shares=tuple(Share(gpu=gpu) for gpu in gpus)),),
        process=None,
        shim=None,
        cause=None,
        kill_at=None,
        exit=Exit(at=Timestamp(ran_s), exit_code=0),
        gpu_s=ran_s,
        uses=uses,
    )
    row = JobRow(
        job=job_id(1),
        state=End.COMPLETED,
        reason=None,
        terms=Terms(demand=Demand(gpus=len(gpus)), uid=0, user="ada", tenant="default"),
        place=Place(priority=0, queued_us=0, attempt=1),
        name="train",
        command=("true",),
        workdir="/",
        labels={},
        output=None,
        error=None,
        begin_at=None,
        submitted_at=Timestamp(0.0),
        updated_at=Timestamp(ran_s),
        ended_at=Timestamp(ran_s),
        array=None,
        array_state=None,
        run=run,
    )
    return results(world_of(Rules(), "boot-1"), row, run, Timestamp(ran_s))


@pytest.mark.parametrize(
    ("busiest", "busy", "wasted"),
    [
        ((90, 0, 0, 0), 0.8, "asked for 4 GPUs, 3 never used"),
        ((0, 0), 1.0, "asked for 2 GPUs, and never used them"),
        ((0,), 1.0, "asked for 1 GPU, and never used it"),
        ((90, 90), 0.05, "its GPUs were busy for 4 % of the time"),
        ((90, 90), 0.8, None),
    ],
)
def test_what_was_wasted_is_told_in_a_sentence(busiest, busy, wasted):
    assert told_of(*busiest, busy=busy)["wasted"] == wasted


def test_of_a_job_that_was_hardly_seen_nobody_says_that_it_wasted_anything():
    seen_late = told_of(90, 0, 0, 0, ran_s=72 * HOUR, seen_s=HOUR)
    assert (seen_late["wasted"], seen_late["gpus_unused"]) == (None, 0)
    assert told_of(9, 9, ran_s=72 * HOUR, seen_s=HOUR)["wasted"] is None
    assert told_of(0, ran_s=50.0, seen_s=50.0)["wasted"] is None


def test_everybody_who_waits_is_told_when_or_why_nobody_can_tell(gpuctl):
    gpuctl.ok("submit", "-g", "2", "--estimate", "1h", "--", "sleep", "600")
    following = gpuctl.ok("submit", "-g", "2", "--", "true")
    behind = gpuctl.ok("submit", "-g", "2", "--", "true")
    held = gpuctl.ok("submit", "--hold", "--", "true")

    listed = {job["id"]: job for job in gpuctl.json("list")}
    (first,) = gpuctl.json("why", following)

    assert first["expected_start_at"] is not None
    assert listed[behind]["expected_start_at"] is None
    assert f"behind job {following}" in gpuctl.json("show", behind)["expected_start_unknown"]
    assert listed[held]["expected_start_unknown"] == "it is held"
    assert "(starts in " in gpuctl.ok("list")
    assert "nobody can tell when it starts: it comes behind" in gpuctl.ok("why", behind)


def test_whom_it_yields_to_may_start_then_where_nobody_can_tell(gpuctl):
    endless = gpuctl.ok("submit", "-g", "1", "--", "sleep", "600")
    wide = gpuctl.ok("submit", "-g", "2", "--", "true")
    small = gpuctl.ok("submit", "-g", "1", "--", "true")
    until(lambda: f"behind job {endless}" in (gpuctl.json("show", wide)["expected_start_unknown"] or ""))
    listed = {job["id"]: job for job in gpuctl.json("list")}
    assert listed[small]["reason"].startswith(f"would delay job {wide}, which may start in ")


def test_behind_a_job_that_runs_longer_than_expected_no_moment_is_told(gpuctl):
    over = gpuctl.ok("submit", "-g", "1", "--estimate", "1s", "--", "sleep", "600")
    wide = gpuctl.ok("submit", "-g", "2", "--", "true")
    small = gpuctl.ok("submit", "-g", "1", "-t", "1h", "--", "true")
    late = f"it comes behind job {over}, which runs longer than expected"
    until(lambda: gpuctl.json("show", wide)["expected_start_unknown"] == late)
    listed = {job["id"]: job for job in gpuctl.json("list")}
    assert listed[wide]["expected_start_at"] is None
    assert listed[small]["reason"] == f"would delay job {wide}, which is to start soon"
    assert "will be kept free for it\n" in gpuctl.ok("why", wide) + "\n"


def test_show_opens_with_what_ended_a_job_and_closes_with_the_end_of_its_output(gpuctl):
    words = "for i in $(seq 30); do echo line $i; done; exit 3"
    failed = gpuctl.ended("--", "sh", "-c", words)
    shown = gpuctl.ok("show", failed["id"]).splitlines()
    assert shown[1].split(None, 1) == ["end", "its program failed: exit code 3"]
    assert [line.strip() for line in shown[-21:]] == ["the end of its output", *(f"line {at}" for at in range(11, 31))]

    limited = gpuctl.ended("-t", "1s", "--", "sleep", "600")
    killed = gpuctl.ended("--", "sh", "-c", "kill -9 $$")
    waiting = gpuctl.ok("submit", "--hold", "--", "true")
    gpuctl.ok("cancel", waiting)

    assert limited["happened"] == "it reached its time limit of 1s, and was ended for that"
    assert killed["happened"].startswith("somebody killed it (SIGKILL), and not gpud")
    me = killed["user"]
    assert gpuctl.json("show", waiting)["happened"] == f"it was cancelled by {me} before it started"

    running = gpuctl.ok("submit", "--", "sleep", "600")
    until(lambda: gpuctl.json("show", running)["state"] == "running")
    gpuctl.ok("cancel", running)
    gpuctl("wait", running)
    shown = gpuctl.json("show", running)
    assert re.fullmatch(f"it was cancelled by {re.escape(me)} \\d+s after it started", shown["happened"])
    assert [event["detail"]["by"] for event in shown["events"] if event["kind"] == "stopping"] == [me]


def test_after_its_end_a_job_tells_what_it_used_and_usage_who_did(gpuctl):
    job = gpuctl.ok("submit", "-g", "2", "-n", "train", "--", "sleep", "600")
    deadline = time.monotonic() + 30
    while not (gpuctl.json("show", job)["results"] or {}).get("measured_s") and time.monotonic() < deadline:
        gpuctl.ok("gpus")  # looks, as a person would, sooner than gpud itself
    gpuctl.ok("cancel", job)
    gpuctl("wait", job)

    used = gpuctl.json("show", job)["results"]
    (row,) = csv.DictReader(gpuctl.ok("show", job, "--csv").splitlines())

    assert used["gpus"] == 2
    assert 0.8 < used["utilization"] <= 1.0  # simulated GPUs that hold a job look busy
    assert used["energy_j"] > 0
    assert [each["gpu_index"] for each in used["by_gpu"]] == [0, 1]
    assert (row["name"], row["gpus"], row["gpus_unused"], row["wasted"]) == ("train", "2", "0", "")

    (mine,) = gpuctl.json("usage")["rows"]
    gpus = gpuctl.json("usage", "--by", "gpu")["rows"]
    (line,) = csv.DictReader(gpuctl.ok("usage", "--csv", "--since", "1h").splitlines())
    assert gpuctl("--json", "usage", "--csv").returncode == 2
    assert mine["gpu_s"] == pytest.approx(sum(each["gpu_s"] for each in gpus))
    assert mine["gpu_s"] == pytest.approx(2 * used["run_s"], abs=2.0)
    assert (mine["ended"], line["user"], line["ended"]) == (1, mine["name"], "1")
    assert "BUSY" in gpuctl.ok("usage")

    other = gpuctl.ended("true")["id"]
    both = list(csv.DictReader(gpuctl.ok("list", "--all", "--csv").splitlines()))
    assert both == list(csv.DictReader(gpuctl.ok("show", job, other, "--csv").splitlines()))
    assert (both[0], both[1]["gpus"], both[1]["ended_at"][-1]) == (row, "0", "Z")
    assert [each["results"]["gpus"] for each in gpuctl.json("list", "--all", "--results")] == [2, 0]
    assert [each["results"]["gpus"] for each in gpuctl.json("show", "1-99")] == [2, 0]


def test_a_line_of_usage_has_a_bar_on_a_terminal_and_a_cost_where_prices_are_known():
    row = {
        "name": "ada",
        "gpu": None,
        "gpu_s": 36_000.0,
        "utilization": 0.5,
        "measured_gpu_s": 36_000.0,
        "idle_gpu_s": 3_600.0,
        "energy_j": 3.6e6,
        "ended": 7,
        "wait_s": 90.0,
        "foreign_gpu_s": 0.0,
        "cost": 25.0,
    }
    less = {**row, "name": "bob", "gpu_s": 9_000.0, "utilization": None, "measured_gpu_s": 0.0, "cost": 0.0}
    found = {"by": "user", "since_at": 0.0, "until_at": 36_000.0, "gpus": 2, "rows": [row, less]}

    _, _, heading, ada, bob = page.lines(found, bars=True)

    assert heading.split() == ["USER", "GPU-HOURS", "OF", "ALL", "BUSY", "IDLE", "ENERGY", "ATTEMPTS", "WAIT", "COST"]
    assert ada.split() == ["ada", "10.00", "█" * 20, "50%", "50%", "1.00", "1.0", "kWh", "7", "1m30s", "25.00"]
    assert bob.split()[:6] == ["bob", "2.50", "█" * 5, "12%", "-", "-"]
    assert "█" not in "".join(page.lines(found, bars=False))
