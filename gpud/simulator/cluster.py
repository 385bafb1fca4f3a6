"""What a simulation runs on: `8x8xV100` as the simulated inventory reads it, or a file with a line for each node.

Columns of such a file: `node`, `gpus`, `gpu_type`, `cpus`, `mem_gb`, and (else known by the type's name, else 16)
`gpu_mem_gb`. CPUs are counted in thousandths: see `trace`.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from gpud.inventory.simulated import CATALOGUE, GPUS_MAX, parse_nodes
from gpud.model.gpu import Gpu, GpuId, Node, NodeName
from gpud.model.units import Mib
from gpud.simulator.trace import MILLI, TraceError, opened, rows

_UNKNOWN_GIB = 16
_SIZE_IN_NAME = re.compile(r"(?:M|-)(\d+)(?:GB)?$")


def read_cluster(spec: str) -> tuple[Node, ...]:
    """Return the nodes of a specification or of a file. Raises TraceError."""
    if spec.lower().endswith((".csv", ".csv.gz")) or Path(spec).is_file():
        return _read(Path(spec))
    try:
        nodes = parse_nodes(spec, NodeName("sim-1"))
    except ValueError as error:
        raise TraceError(str(error), "or a file: --cluster nodes.csv") from None
    return tuple(replace(node, cpus=MILLI * node.cpus) for node in nodes)


def joined(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return one node with everything: a cluster in which no job is too large for what is left of a node.

    For rules under which running jobs are packed anew at every event.
    """
    gpus = tuple(replace(gpu, index=at) for at, gpu in enumerate(gpu for node in nodes for gpu in node.gpus))
    cpus, memory_mib = sum(node.cpus for node in nodes), sum(node.memory_mib for node in nodes)
    return (Node(name=NodeName("all"), cpus=cpus, memory_mib=Mib(memory_mib), gpus=gpus),)


def per_node(nodes: tuple[Node, ...]) -> int:
    """Return how many GPUs most of the nodes with GPUs have at least: what a job may ask of one node."""
    return max((len(node.gpus) for node in nodes), default=0)


def gpu_count(nodes: tuple[Node, ...]) -> int:
    """Return how many GPUs there are."""
    return sum(len(node.gpus) for node in nodes)


def _read(place: Path) -> tuple[Node, ...]:
    nodes: list[Node] = []
    left = GPUS_MAX
    try:
        with opened(place) as lines:
            for row in rows(place, lines, ("node", "gpus")):
                count = row.needed("gpus", "a number of GPUs")
                if count != int(count):
                    raise row.wrong("gpus", "whole GPUs")
                left -= int(count)
                if left < 0:
                    raise row.wrong("gpus", f"{GPUS_MAX} GPUs at most in all")
                name, kind = row.text("node"), row.text("gpu_type") or "GPU"
                gib = row.number("gpu_mem_gb", "GiB", least=1) or _memory_gib(kind)
                cpus, memory = row.number("cpus", "a number of CPUs"), row.number("mem_gb", "GiB")
                gpus = tuple(_gpu(name, kind, at, gib) for at in range(int(count)))
                nodes.append(
                    Node(
                        name=NodeName(name or f"node-{row.line}"),
                        cpus=round(MILLI * (16 * count if cpus is None else cpus)),
                        memory_mib=Mib(round(1024 * (128 * count if memory is None else memory))),
                        gpus=gpus,
                    )
                )
    except OSError as error:
        raise TraceError(f"cannot read {place}: {error.strerror}") from error
    twice = [name for name, count in Counter(node.name for node in nodes).items() if count > 1]
    if twice or not nodes:
        raise TraceError(
            f"{place.name}: the node {twice[0][:40]!r} stands there twice" if twice else f"{place.name}: no nodes"
        )
    return tuple(nodes)


def _gpu(node: str, kind: str, at: int, gib: float) -> Gpu:
    # As drivers do, it shows a little less than it is sold by; in whole thousands, so that 0.46 of it is no fraction.
    return Gpu(id=GpuId(f"{node}:{at}"), index=at, name=kind, memory_total_mib=Mib(round(gib * 1000)), simulated=True)


def _memory_gib(kind: str) -> int:
    in_name = _SIZE_IN_NAME.search(kind)
    if in_name is not None:
        return int(in_name[1])
    model = CATALOGUE.get(kind)
    return _UNKNOWN_GIB if model is None else round(model.memory_mib / 1024)
