"""The budget of a simulation: 82,000 jobs on 640 GPUs, under one policy of each kind."""

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
        engine = engine_for(policy, trace.jobs, nodes, GROUNDS["physical"], said={})
        gc.collect()
        gc.disable()
        began = time.process_time()
        engine.run()
        took_s = time.process_time() - began
        gc.enable()
        return engine, took_s

    return run


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
