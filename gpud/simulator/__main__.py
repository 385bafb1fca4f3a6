"""`python -m gpud.simulator`: one trace under one policy, told as JSON lines.

`{"progress": 0.25}` now and then, then `{"result": {...}}` (null where no job has ended in a history); or
`{"error": {"message": ..., "hint": ...}}` and exit status 2. `gpuctl simulate` is what people use.
"""

import argparse
import gc
import json
import signal
import sys
import time
from collections.abc import Sequence
from math import inf
from typing import Any

from gpud.model.gpu import Node
from gpud.model.units import Timestamp
from gpud.simulator.cluster import gpu_count, joined, per_node, read_cluster
from gpud.simulator.history import read_history
from gpud.simulator.metrics import curves, figures, rounded
from gpud.simulator.packing import pack
from gpud.simulator.replay import GROUNDS, check_policy, engine_for
from gpud.simulator.settings import read_settings, read_shares
from gpud.simulator.trace import Trace, TraceError, check_lengths, read_trace

_TELL_S = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay, and return the exit status."""
    asked = _parser().parse_args(arguments)
    gc.disable()  # a replay makes next to no cycles, and collecting costs a third of its time
    try:
        result = _replay(asked)
    except TraceError as error:
        _say({"error": {"message": error.message, "hint": error.hint}})
        return 2
    _say({"result": rounded(result)})
    return 0


def _replay(asked: argparse.Namespace) -> dict[str, Any] | None:
    ground = GROUNDS[asked.rules]
    policies = asked.among or [asked.policy]
    for name in policies:
        check_policy(name)
    said = read_settings(asked.set, policies)
    trace, nodes = _read(asked, together=ground.joined)
    if not trace.jobs:
        return None
    if asked.saturate is not None:
        return pack(trace, nodes, asked.placement, asked.saturate, asked.seeds, _Progress())
    check_lengths(trace)
    tenants = read_shares(asked.share, policies, trace)
    engine = engine_for(asked.policy, trace.jobs, nodes, ground, said=said, tenants=tenants, series=asked.series)
    began = time.perf_counter()
    engine.run(asked.until, _Progress())
    wall_s = time.perf_counter() - began
    result = {
        "trace": trace.name,
        "policy": asked.policy,
        **figures(engine),
        "skipped": trace.skipped,
        "rounded": trace.rounded,
        "wall_s": wall_s,
    }
    if asked.series:
        result["curves"] = curves(engine)
    return result


def _read(asked: argparse.Namespace, *, together: bool = False) -> tuple[Trace, tuple[Node, ...]]:
    """Return what to replay, and what on."""
    nodes = () if asked.cluster is None else read_cluster(asked.cluster)
    if asked.history is not None:
        trace, there = read_history(asked.history, Timestamp(asked.since), elsewhere=bool(nodes))
        nodes = nodes or there
    else:
        trace = None
    nodes = joined(nodes) if together else nodes
    trace = trace or read_trace(asked.trace, per_node=per_node(nodes))
    if asked.cluster is not None and not gpu_count(nodes) and all(job.terms.demand.gpus for job in trace.jobs):
        raise TraceError(f"{asked.cluster}: there is no GPU, and every job of {trace.name} asks for one")
    return trace, nodes


class _Progress:
    """Tells how far a replay is, not more often than somebody can see."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, part: float) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            _say({"progress": round(part, 3)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpud.simulator", description=__doc__)
    parser.add_argument("trace", nargs="?")
    parser.add_argument("--history", metavar="STORE")
    parser.add_argument("--since", type=float, default=0.0)
    parser.add_argument("--cluster")
    parser.add_argument("--policy", default="priority")
    parser.add_argument("--saturate", type=float)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--placement", default="best-fit")
    parser.add_argument("--rules", choices=sorted(GROUNDS), default="physical")
    parser.add_argument("--until", type=float, default=inf)
    parser.add_argument("--among", metavar="POLICY", action="append", default=[], help="what is replayed beside it")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--share", metavar="TENANT=SHARE", action="append", default=[])
    parser.add_argument("--series", action="store_true")
    return parser


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # who interrupts it, or reads no more, asks for no traceback
        signal.signal(number, signal.SIG_DFL)
    sys.exit(main())
