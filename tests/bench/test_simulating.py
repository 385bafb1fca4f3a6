"""The budget of a simulation: 82,000 jobs on 640 GPUs, under one policy of each kind; and as many demands as jobs."""

import gc
import time

import pytest
from philly import GPUS, JOBS, philly

from gpud.simulator.cluster import per_node, read_cluster
from gpud.simulator.replay import GROUNDS, engine_for
from gpud.simulator.trace import read_trace

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    """Return a function that replays the trace under a policy, and returns the engine and the seconds it took."""
    nodes = read_cluster(f"{GPUS // 8}x8xV100")
    trace = read_trace(str(philly(tmp_path_factory.mktemp("philly") / "philly.csv")), per_node=per_node(nodes))

    def run(policy):
        return _replayed(trace, nodes, policy)

    return run


def _replayed(trace, nodes, policy):
    """Replay a trace; return the engine, and the seconds of CPU that it took."""
    engine = engine_for(policy, trace.jobs, nodes, GROUNDS["physical"], said={})
    gc.collect()
    gc.disable()
    began = time.process_time()
    engine.run()
    took_s = time.process_time() - began
    gc.enable()
    return engine, took_s


@pytest.mark.parametrize(
    ("policy", "most_s"), [("fifo", 3), ("srsf", 10), ("las", 10), ("sjf", 60), ("easy-oracle", 60)]
)
def test_a_large_trace_takes_seconds(replay, budgets, policy, most_s):
    engine, took_s = replay(policy)
    assert all(run.ended_at is not None for run in engine.runs)
    budgets.holds(
        f"{JOBS} jobs on {GPUS} GPUs under {policy}",
        f"{took_s:.1f} s of CPU, {engine.cycles} cycles",
        f"{1e6 * took_s / engine.cycles:.0f} us a cycle",
        took_s,
        most=most_s,
        unit=" s",
    )


@pytest.mark.parametrize("policy", ["fcfs", "sjf", "las"])
def test_that_every_job_asks_for_something_else_costs_little(tmp_path, budgets, policy):
    """As many demands as jobs: the number of CPUs differs by thousandths, and there are enough for all."""
    nodes = read_cluster("20x8xV100")
    alike = philly(tmp_path / "alike.csv", jobs=8000, gpus=8 * len(nodes), load=1.0)
    header, *rows = alike.read_text().splitlines()
    fields = [row.split(",") for row in rows]
    for number, row in enumerate(fields):
        row[5] = str(int(row[3]) * (1 + number % 997 / 1000))
    unlike = tmp_path / "unlike.csv"
    unlike.write_text("\n".join([header, *map(",".join, fields)]) + "\n")
    (_, alike_s), (engine, unlike_s) = (
        _replayed(read_trace(str(path), per_node=8), nodes, policy) for path in (alike, unlike)
    )
    demands = len({run.job.terms.demand for run in engine.runs})
    budgets.holds(
        f"{len(rows)} jobs with {demands} demands under {policy}",
        f"{1e6 * unlike_s / len(rows):.0f} us a job",
        f"{1e6 * alike_s / len(rows):.0f} with 5",
        unlike_s / alike_s,
        most=4,
    )
