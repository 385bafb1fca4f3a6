"""Replays against what is known without them: an exact recursion, arithmetic, and what every policy must keep."""

import json
import random
import subprocess
import sys

import pytest
from replaying import a_mix, replayed, written

from gpud.core.policies import POLICIES
from gpud.model.job import Demand
from gpud.model.spec import Terms
from gpud.model.units import Mib
from gpud.simulator.cluster import joined, read_cluster
from gpud.simulator.metrics import figures
from gpud.simulator.replay import GROUNDS, ORACLES, engine_for
from gpud.simulator.trace import TraceJob


def ends(engine):
    return [run.ended_at for run in engine.runs]


def test_one_gpu_serves_as_the_recursion_of_lindley_says(tmp_path):
    rng, at = random.Random(1), 0.0  # noqa: S311 - examples, not secrets
    rows = []
    for _ in range(2_000):
        at += rng.expovariate(0.7)
        rows.append((at, rng.expovariate(1.0), 1))
    free, expected = 0.0, []
    for submit, lasts, _ in rows:
        free = max(free, submit) + lasts
        expected.append(free)

    assert ends(replayed(tmp_path, *rows)) == pytest.approx(expected, abs=1e-6)


def test_the_shortest_remaining_goes_first_and_who_gives_way_does_a_minute_again(tmp_path):
    engine = replayed(tmp_path, (0, 1000, 1), (90, 100, 1), policy="srtf")

    # The short one waits for the full minute, at which the long one has 880 s left.
    assert ends(engine) == [120 + 100 + 880 + 60, 220]
    said = figures(engine)
    assert (said["preemptions"], said["lost_gpu_s"], said["max_wait_s"]) == (1, 60.0, 160.0)


def test_under_the_rules_of_muri_all_that_run_do_ten_seconds_again_whenever_anything_happens(tmp_path):
    rows = [(0, 1000, 1), (100, 1000, 1), (104, 2000, 1)]
    engine = replayed(tmp_path, *rows, cluster="1x3xV100", rules="muri")

    # One comes, one comes 4 s later, in which nothing was done; then one ends, and another.
    assert ends(engine) == pytest.approx([1015 + 14, 100 + 1015 + 4 + 10, 104 + 2030 + 10 + 10])
    assert figures(engine)["lost_gpu_s"] == pytest.approx(14 + 14 + 20)


def test_a_gang_takes_its_nodes_together_and_a_fraction_leaves_the_rest_to_others(tmp_path):
    rows = [(0, 100, 16), (1, 10, 0.5), (2, 10, 0.5), (3, 10, 0.25)]
    engine = replayed(tmp_path, *rows, cluster="2x8xV100")

    assert [run.started_at for run in engine.runs] == [0.0, 100.0, 100.0, 100.0]
    assert figures(engine)["utilization"] == pytest.approx((1600 + 12.5) / (16 * 110))


def test_what_is_shared_counts_as_the_part_of_a_gpu_that_it_is_of_and_no_more(tmp_path):
    rows = [(0, 10, 0.6, 8), (0, 10, 0.6, 8)]
    apart = replayed(tmp_path, *rows, cluster="1x1xA100-80GB", columns="submit_s,duration_s,gpus,gpu_mem_gb")
    by_memory = TraceJob(0.0, 10.0, Terms(demand=Demand(share_mib=Mib(20 * 1024)), uid=0, user="ada", tenant="default"))
    together = engine_for("fcfs", [by_memory] * 4, read_cluster("1x2xA100-80GB"), GROUNDS["physical"], said={})
    together.run()

    assert (ends(apart), figures(apart)["utilization"]) == ([10.0, 20.0], pytest.approx(0.6))
    assert (ends(together), figures(together)["utilization"]) == ([10.0] * 4, pytest.approx(0.5))
    assert figures(together)["tenants"]["ada"]["gpu_s"] == pytest.approx(10.0)


def test_types_and_memory_say_where_a_job_may_run_and_what_fits_nowhere_is_counted(tmp_path):
    nodes = [("a", 1, "T4", 16), ("b", 1, "A10", 24)]
    cluster = written(tmp_path / "nodes.csv", *nodes, columns="node,gpus,gpu_type,gpu_mem_gb")
    columns = "submit_s,duration_s,gpus,gpu_type,gpu_mem_gb"
    rows = [
        (0, 50, 1, "A10", ""),
        (1, 50, 1, "A10", ""),
        (2, 50, 1, "", 20),
        (3, 5, 1, "T4|A10", ""),
        (4, 5, 1, "H100", ""),
    ]
    engine = replayed(tmp_path, *rows, cluster=cluster, columns=columns)

    assert ends(engine) == [50.0, 100.0, 150.0, 8.0, None]
    assert figures(engine)["refused"] == 1


def test_what_has_not_ended_at_the_end_is_counted_and_what_it_used_too(tmp_path):
    said = figures(replayed(tmp_path, (0, 1000, 1), (0, 10, 1), until=400.0))

    assert (said["jobs"], said["unfinished"], said["utilization"]) == (0, 2, 1.0)
    assert said["tenants"]["nobody"]["gpu_s"] == 400.0


@pytest.mark.parametrize("policy", [*sorted(POLICIES), *sorted(ORACLES)])
def test_every_job_ends_when_its_work_is_done_and_all_use_is_accounted_for(tmp_path, policy):
    rows = list(a_mix(150))
    engine = replayed(tmp_path, *rows, cluster="2x8xV100", policy=policy, columns="submit_s,duration_s,gpus,user")

    for run in engine.runs:
        assert run.ended_at is not None
        assert run.had_s == pytest.approx(run.job.duration_s + 60 * run.preemptions)
        assert run.ended_at - run.job.submit_s >= run.had_s - 1e-6
    used = sum(run.had_s * run.job.terms.demand.gpu_weight for run in engine.runs)
    assert engine.meter.busy_gpu_s == pytest.approx(used)
    assert figures(engine)["utilization"] <= 1


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_where_nobody_waits_a_start_changes_nothing_and_takes_no_cycle(tmp_path, policy):
    assert replayed(tmp_path, (0, 30, 1), (500, 30, 1), cluster="1x1xV100", policy=policy).cycles == 4


def test_packed_anew_at_every_event_means_one_node_with_everything():
    (node,) = joined(read_cluster("2x4xV100"))

    assert [gpu.index for gpu in node.gpus] == list(range(8))
    assert len({gpu.id for gpu in node.gpus}) == 8


@pytest.mark.parametrize("policy", ["sjf", "las", "srsf"])
def test_the_same_comes_out_whatever_the_hash_seed(tmp_path, policy):
    trace = written(tmp_path / "t.csv", *a_mix(120), columns="submit_s,duration_s,gpus,user")

    def said(seed):
        words = [sys.executable, "-m", "gpud.simulator", trace, "--cluster", "2x8xV100", "--policy", policy]
        done = subprocess.run(words, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed})
        result = json.loads(done.stdout.splitlines()[-1])["result"]
        return {key: value for key, value in result.items() if key != "wall_s"}

    assert said("1") == said("2")
