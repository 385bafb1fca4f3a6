"""Traces in words, and what became of them."""

import random

from gpud.simulator.cluster import per_node, read_cluster
from gpud.simulator.replay import GROUNDS, engine_for
from gpud.simulator.trace import read_trace


def written(path, *rows, columns="submit_s,duration_s,gpus"):
    """Write a trace, or a cluster, and return its path."""
    path.write_text("\n".join([columns, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return str(path)


def replayed(
    folder,
    *rows,
    cluster="1x1xV100",
    policy="fcfs",
    columns="submit_s,duration_s,gpus",
    until=None,
    rules="physical",
    **said,
):
    """Replay rows of a trace, and return the engine that did."""
    nodes = read_cluster(cluster)
    trace = read_trace(written(folder / "t.csv", *rows, columns=columns), per_node=per_node(nodes))
    engine = engine_for(policy, trace.jobs, nodes, GROUNDS[rules], said=said)
    engine.run(*([] if until is None else [until]))
    return engine


def a_mix(jobs, *, seed=7, gpus=(1, 1, 1, 2, 4, 8, 16, 0.5, 0.25)):
    """Yield jobs of all sizes, of five users: when, how long, how many GPUs, whose."""
    rng = random.Random(seed)  # noqa: S311 - examples, not secrets
    at = 0.0
    for number in range(jobs):
        at += rng.expovariate(1 / 200)
        yield round(at, 3), round(rng.lognormvariate(6, 1.5), 3), rng.choice(gpus), f"user{number % 5}"
