"""GPUs and nodes for people."""

from collections.abc import Sequence
from typing import Any

from gpuctl.render.text import Column, clock, colored, plural, size, table

Gpu = dict[str, Any]

_COLUMNS = (
    Column("GPU"),
    Column("NAME", elastic=True),
    Column("STATE"),
    Column("MEMORY", right=True),
    Column("UTIL", right=True, spare=True),
    Column("TEMP", right=True, spare=True),
    Column("POWER", right=True, spare=True),
    Column("WHAT IS ON IT", elastic=True),
)
_UUID_START = 12  # of a UUID's characters: GPU-1a2b3c4d
SIMULATED = "simulated GPUs: no hardware is behind them"


def rows(gpus: Sequence[Gpu], *, width: int | None = None) -> list[str]:
    """Return the table of GPUs, each with its MIG instances below it."""
    nodes, gpus = _several(gpus), _nested(gpus)
    heading, *lines = table(_COLUMNS, [_row(gpu, nodes) for gpu in gpus], width=width)
    return [heading, *(colored(line, gpu["state"]) for line, gpu in zip(lines, gpus, strict=True))]


def links(gpus: Sequence[Gpu]) -> list[str]:
    """Return the table of how GPUs reach each other: those in one group of a node do."""
    columns = (Column("GPU"), Column("NAME", elastic=True), *map(Column, ("NVLINK", "PCIE", "NUMA", "BUS")))
    nodes = _several(gpus)
    return table(
        columns,
        [
            (_number(gpu, nodes), _name(gpu), *(_known(gpu[key]) for key in ("nvlink", "pcie", "numa", "pci_id")))
            for gpu in _nested(gpus)
        ],
    )


def health(gpus: Sequence[Gpu]) -> list[str]:
    """Return the table of how well GPUs are: a line for each thing that is wrong with one."""
    nodes = _several(gpus)
    columns = (
        *map(Column, ("GPU", "HEALTH")),
        Column("SINCE", spare=True),
        Column("WHY", elastic=True),
        Column("WHAT CLEARS IT", elastic=True),
    )
    cells, states = [], []
    of = {gpu.get("uuid"): gpu["faults"] for gpu in gpus}
    for gpu in _nested(gpus):
        wrong = [(fault["level"], clock(fault["since"]), fault["reason"], fault["clears"]) for fault in gpu["faults"]]
        drained = _drained(gpu, of.get(gpu.get("parent"), []))
        beside = _beside(gpu)
        known = {"healthy", *(fault["level"] for fault in gpu["faults"])}
        if not (wrong or beside) or drained or gpu["health"] not in known:
            wrong.insert(0, (gpu["health"], "", gpu["health_reason"] or "", "gpuctl undrain" if drained else ""))
        if beside:
            wrong.append((gpu["health"], "", beside, ""))
        cells += [(_number(gpu, nodes), *each) for each in wrong]
        states += [gpu["state"]] * len(wrong)
    heading, *lines = table(columns, cells)
    return [heading, *(colored(line, state) for line, state in zip(lines, states, strict=True))]


def _several(gpus: Sequence[Gpu]) -> bool:
    return len({gpu["node"] for gpu in gpus}) > 1


def _nested(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return each GPU followed by its instances."""
    parts: dict[str | None, list[Gpu]] = {gpu.get("uuid"): [] for gpu in gpus if not gpu.get("parent")}
    whole = [gpu for gpu in gpus if not gpu.get("parent") or gpu["parent"] not in parts]
    for gpu in gpus:
        if gpu.get("parent"):
            parts.get(gpu["parent"], []).append(gpu)
    return [each for gpu in whole for each in (gpu, *parts.get(gpu.get("uuid"), ()))]


def _number(gpu: Gpu, nodes: bool) -> str:
    inside = "  " if gpu.get("parent") else ""
    return inside + (f"{gpu['node']}:{_index(gpu)}" if nodes else _index(gpu))


def _name(gpu: Gpu) -> str:
    return short_name(gpu) + (" (simulated)" if gpu["simulated"] else "")


def short_name(gpu: Gpu) -> str:
    """Return the name of a GPU, or of an instance, without what all have in common: `RTX 4090`, `MIG 2g.10gb`."""
    return f"MIG {gpu['mig']}" if gpu.get("mig") else gpu["name"].removeprefix("NVIDIA ").removeprefix("GeForce ")


def _known(value: object) -> str:
    return "-" if value is None else str(value)


def _row(gpu: Gpu, nodes: bool) -> tuple[str, ...]:
    return (
        _number(gpu, nodes),
        _name(gpu),
        gpu["state"] + (", draining" if _drains(gpu) else ""),
        f"{size(gpu['memory_used_mib'])}/{size(gpu['memory_total_mib'])}",
        _with_unit(gpu["utilization_percent"], "%"),
        _with_unit(gpu["temperature_c"], "C"),
        _with_unit(gpu["power_w"], "W"),
        on_it(gpu),
    )


def _index(gpu: Gpu) -> str:
    """Return the number of a GPU; of one that is gone, whose number another may have, the start of its UUID."""
    return (gpu.get("uuid") or "-")[:_UUID_START] if gpu["index"] is None else str(gpu["index"])


def _drained(gpu: Gpu, around: Sequence[dict[str, Any]]) -> bool:
    """Return whether a person has drained a GPU, whatever else is wrong with it, or `around` it."""
    drains = gpu["state"] == "draining" or _drains(gpu)
    return drains and gpu["health_reason"] not in {fault["reason"] for fault in (*gpu["faults"], *around)}


def _drains(gpu: Gpu) -> bool:
    """Return whether a GPU is to get no more jobs, and still has one."""
    return gpu.get("health") == "draining" and gpu["state"] in {"busy", "shared", "releasing"}


def on_it(gpu: Gpu) -> str:
    """Return the jobs on a GPU, what is wrong with it, whose processes gpud did not start, and whom it is kept for."""
    words, beside = [], _beside(gpu)
    jobs = gpu["jobs"] or []
    if jobs:
        words.append(("job " if len(jobs) == 1 else "jobs ") + ", ".join(jobs))
    if gpu["health_reason"]:
        words.append(gpu["health_reason"])
    if beside:
        words.append(beside)
    words += [f"for {whose}" for whose in gpu.get("kept_for") or ()]
    return "; ".join(words)


def _beside(gpu: Gpu) -> str:
    """Return the strangers on a GPU, where that it is used by them is not all that its state says."""
    found = strangers(gpu) if gpu["state"] not in {"foreign", "releasing"} else ""
    return f"foreign: {found}" if found else ""


def strangers(gpu: Gpu) -> str:
    """Return the processes on a GPU that gpud did not start, whatever jobs it has: `bob python 3G`."""
    words = []
    for process in gpu["processes"] or ():
        if process.get("since") is not None:
            program = (process["command"] or "").split(" ", 1)[0].rpartition("/")[2]
            memory = "" if process["memory_mib"] is None else size(process["memory_mib"])
            words.append(" ".join(filter(None, (process["user"] or f"pid {process['pid']}", program, memory))))
    return ", ".join(words)


def _with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{round(value)}{unit}"


def node_rows(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of nodes."""
    columns = (
        Column("NODE"),
        Column("STATE"),
        Column("GPUS FREE", right=True),
        Column("CPUS USED", right=True),
        Column("MEMORY USED", right=True),
        Column("DRIVER"),
        Column("LABELS", elastic=True, spare=True),
        Column("WHY", elastic=True),
    )
    cells = [
        (
            node["name"],
            node["state"],
            f"{node['gpus_free']}/{node['gpus']}",
            f"{node['cpus_used']}/{node['cpus']}",
            f"{size(node['memory_used_mib'])}/{size(node['memory_mib'])}",
            "simulated" if node["simulated"] else node["driver"] or "none",
            " ".join(f"{key}={value}" for key, value in node.get("labels", {}).items()),
            node["reason"] or "",
        )
        for node in nodes
    ]
    heading, *lines = table(columns, cells)
    return [heading, *(colored(line, node["state"]) for line, node in zip(lines, nodes, strict=True))]


def summary(gpus: Sequence[Gpu]) -> str:
    """Return how many GPUs there are of each state: `16 GPUs: 12 busy, 4 free`."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu["state"]] = counts.get(gpu["state"], 0) + 1
    draining = sum(map(_drains, gpus))
    words = [f"{count} {state}" for state, count in sorted(counts.items())]
    return f"{plural(len(gpus), 'GPU')}: {', '.join(words)}" + (f" ({draining} of them draining)" if draining else "")
