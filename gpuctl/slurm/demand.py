"""What `#SBATCH` lines ask of the machine: nodes, tasks, GPUs, CPUs and memory, which depend on each other.

As sbatch(1) counts: `--gres` and `--gpus-per-node` are each node's, `--gpus` is the total, `--mem` is each node's,
memory and CPUs of a task, a CPU or a GPU are multiplied. Where no GPU is asked for there is none.

Who types another number of nodes, or fewer GPUs, gets as many tasks less: else `srun` would start the tasks of two
nodes on the one that there is, and more tasks than GPUs.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from gpuctl.errors import UsageError
from gpuctl.slurm import values
from gpuctl.slurm.lines import Option
from gpud.model.units import plural

Note = Callable[[Option, str], None]
T = TypeVar("T")
_MEMORY = re.compile(r"(v|g|gpu_?)(ram|mem)", re.IGNORECASE)  # what clusters call the memory of a GPU
_OPTIONS = (
    "nodes ntasks ntasks-per-node ntasks-per-gpu gpus gpus-per-node gpus-per-task gpus-per-socket gres cpus-per-task"
    " cpus-per-gpu mincpus mem mem-per-cpu mem-per-gpu sockets-per-node"
)

_TASKS = "ntasks ntasks-per-node ntasks-per-gpu gpus-per-task nodes"  # what says how many there are


class Demand(NamedTuple):
    """What is asked for. `given` are options of submit; `read` are the options of sbatch that went into it."""

    given: dict[str, Any]
    read: frozenset[str]
    nodes: int
    tasks: int
    tasks_per_node: int
    said_per_node: int | None
    cpus_per_task: int | None
    cpus_per_gpu: int | None
    gpus_per_task: int | None
    gpus_per_node: int | None
    memory_per_cpu: int | None
    memory_per_gpu: int | None


def demand_of(said: dict[str, Option], note: Note, typed: dict[str, Any] | None = None) -> Demand:
    """Return what options ask for; `note` takes what is to be said of one. Raises UsageError, with the line.

    `typed` are options of submit, by their parameters' names, that were said elsewhere and win.
    """
    typed = typed or {}
    per_node, per_task = _number(said, "ntasks-per-node"), _gpus(said, "gpus-per-task", note)
    total, gres, on_node = _gpus(said, "gpus", note), _gres(said, note), _gpus(said, "gpus-per-node", note)
    on_node = on_node or gres
    tasks = _number(said, "ntasks")
    nodes = _nodes(said, tasks, per_node, total, on_node)
    if tasks is None:
        tasks = _tasks(said, nodes, per_node, total or (on_node and _Gpus(on_node.many * nodes, {})), per_task)
    on_one = -(-tasks // nodes)
    if typed.get("nodes") and typed["nodes"] != nodes:
        if total is not None and "gpus" not in typed:
            total = _Gpus(-(-total.many // nodes) * typed["nodes"], total.options)
            note(said["gpus"], f"on {typed['nodes']} of {nodes} nodes it gets {total.many:g}")
        nodes = typed["nodes"]
        tasks = on_one * nodes
    fewer = _fewer(typed, tasks, _whole(total, on_node, per_task, tasks, nodes), nodes)
    option = next((said[name] for name in _TASKS.split() if name in said), None)
    if fewer != tasks and option is not None:
        note(option, f"with so many GPUs srun starts {fewer} tasks, not {tasks}")
    tasks = fewer
    on_one = -(-tasks // nodes)
    given: dict[str, Any] = {"nodes": nodes} if nodes > 1 else {}
    if on_node is not None:
        given |= _on_each(on_node, nodes)
    elif total is not None:
        given |= {"gpus": total.many} | total.options
    elif per_task is not None:
        given |= {"gpus": per_task.many * tasks} | per_task.options
    elif "gpus-per-socket" in said:
        note(said["gpus-per-socket"], "sockets are not counted here: one is taken for all")
        sockets = _gpus(said, "gpus-per-socket", note)
        given |= {} if sockets is None else {"gpus": sockets.many} | sockets.options
    gpus = given.get("gpus", given.get("gpus_per_node", 0) * nodes)
    cpus, memory = _cpus(said, on_one, gpus / nodes), _memory(said, on_one, gpus / nodes, note)
    given |= {key: value for key, value in (("cpus", cpus), ("memory", memory)) if value}
    return Demand(
        given=given,
        read=frozenset(_OPTIONS.split()),
        nodes=nodes,
        tasks=tasks,
        tasks_per_node=on_one,
        said_per_node=per_node and on_one,
        cpus_per_task=_number(said, "cpus-per-task"),
        cpus_per_gpu=_number(said, "cpus-per-gpu"),
        gpus_per_task=None if per_task is None else int(per_task.many),
        gpus_per_node=None if on_node is None or isinstance(on_node.many, float) else on_node.many,
        memory_per_cpu=_size(said, "mem-per-cpu"),
        memory_per_gpu=_size(said, "mem-per-gpu"),
    )


def _whole(total: "_Gpus | None", on_node: "_Gpus | None", per_task: "_Gpus | None", tasks: int, nodes: int) -> float:
    """Return how many GPUs are asked for in all."""
    if on_node is not None:
        return on_node.many * nodes
    if total is not None:
        return total.many
    return 0 if per_task is None else per_task.many * tasks


def _fewer(typed: dict[str, Any], tasks: int, gpus: float, nodes: int) -> int:
    """Return how many tasks there are with the GPUs that are typed, where each has GPUs of its own: no more."""
    wanted = typed.get("gpus") or (typed.get("gpus_per_node") or 0) * nodes
    if tasks == 1 or not gpus or gpus % tasks or not wanted or wanted != int(wanted):
        return tasks
    return min(tasks, max(1, int(wanted // (gpus // tasks))))


class _Gpus(NamedTuple):
    """A number of GPUs, or a part of one, and what must be true of them."""

    many: float
    options: dict[str, Any]


def _on_each(gpus: _Gpus, nodes: int) -> dict[str, Any]:
    alone = nodes == 1 or isinstance(gpus.many, float)
    return {"gpus" if alone else "gpus_per_node": gpus.many} | gpus.options


def _nodes(said: dict[str, Option], tasks: int | None, per_node: int | None, total: _Gpus | None, on: Any) -> int:
    nodes = _number(said, "nodes")
    if nodes:
        return nodes
    if tasks and per_node:
        return -(-tasks // per_node)
    if total is not None and on is not None and on.many >= 1:
        return max(1, int(total.many // on.many))
    return 1


def _tasks(
    said: dict[str, Option], nodes: int, per_node: int | None, total: _Gpus | None, per_task: _Gpus | None
) -> int:
    if per_node:
        return per_node * nodes
    per_gpu = _number(said, "ntasks-per-gpu")
    if per_gpu and total is not None:
        return max(1, int(per_gpu * total.many))
    if per_task is not None and per_task.many and total is not None:
        return max(1, int(total.many // per_task.many))
    return nodes


def _cpus(said: dict[str, Option], tasks: int, gpus: float) -> int:
    """Return the CPUs of a node: none where neither CPUs nor several tasks are asked for, these by number or alone."""
    each, of_gpu = _number(said, "cpus-per-task"), _number(said, "cpus-per-gpu")
    if each is None and of_gpu is not None and gpus:
        cpus = round(of_gpu * gpus)
    else:
        several = tasks > 1 and ("ntasks" in said or not gpus)
        cpus = (each or 1) * tasks if each is not None or several else 0
    return max(cpus, _number(said, "mincpus") or 0)


def _memory(said: dict[str, Option], tasks: int, gpus: float, note: Note) -> int:
    """Return the memory of a node in MiB: 0 where none is asked for."""
    for name, times in (("mem", 1.0), ("mem-per-cpu", float(_cpus(said, tasks, gpus) or tasks)), ("mem-per-gpu", gpus)):
        size = _size(said, name)
        if size is not None:
            if not size:
                note(said[name], "all memory of a node cannot be asked for; none is counted")
            for other in {"mem", "mem-per-cpu", "mem-per-gpu"} & said.keys() - {name}:
                note(said[other], f"--{name} says otherwise; left out")
            return round(size * times)
    return 0


def _gpus(said: dict[str, Option], name: str, note: Note) -> _Gpus | None:
    option = said.get(name)
    if option is None:
        return None
    return _sum(option, _read(option, values.gpus), note)


def _gres(said: dict[str, Option], note: Note) -> _Gpus | None:
    option = said.get("gres")
    found, rest = [], {}
    gpus: _Gpus | None = None
    for resource in _read(option, values.resources) if option is not None else ():
        assert option is not None  # noqa: S101 - there are resources
        if resource.name.lower() == "gpu":
            found.append(resource)
        elif resource.name.lower() in ("mps", "shard"):
            gpus = _part(option, resource, note)
        elif _MEMORY.match(resource.name):
            rest["gpu_memory"] = _read(Option(option.line, "gres", resource.amount), values.mib)
        else:
            note(option, f"there is no {resource.name} here; left out")
    if found and option is not None:
        gpus = _sum(option, found, note)
    return gpus if gpus is None or not gpus.many else _Gpus(gpus.many, gpus.options | rest)


def _part(option: Option, resource: values.Resource, note: Note) -> _Gpus:
    """Return a part of a GPU: of `mps` hundredths; how large a `shard` is, only its cluster knows."""
    hundredths = _read(Option(option.line, "gres", resource.amount), values.count)
    if resource.name.lower() == "mps" and 0 < hundredths < 100:
        return _Gpus(hundredths / 100, {})
    note(option, f"how much of a GPU a {resource.name} is, is not known here: it gets a whole one")
    return _Gpus(1, {})


def _sum(option: Option, resources: list[values.Resource], note: Note) -> _Gpus:
    count = sum(_read(Option(option.line, option.name, each.amount), values.count) for each in resources)
    kinds = list(
        dict.fromkeys(each.kind for each in resources if each.kind and each.kind.lower() not in ("gpu", "mig"))
    )
    if any((each.kind or "").lower() == "mig" for each in resources):
        note(option, "it does not say what MIG profile: it gets a whole GPU (see --mig)")
    profiles = [profile for kind in kinds if (profile := values.mig(kind)) is not None]
    if profiles:
        return _Gpus(count, {"mig": profiles[0]})
    if len(kinds) > 1:
        note(option, f"it gets {plural(count, 'GPU')} of either kind")
    return _Gpus(count, {"gpu_type": "|".join(map(type_of, kinds))} if kinds else {})


def type_of(kind: str) -> str:
    """Return a cluster's name of a type of GPU as `--gpu-type` has it: `tesla_a100-80` is an A100 with 80 GB.

    Makers' names are left out where there is another: drivers came to say "NVIDIA", "Tesla" or neither of one GPU.
    """
    plain = re.sub(r"(?<=[a-z0-9])([_-])(16|20|24|32|40|48|80|94|96|141)g?$", r"\1\2gb", kind, flags=re.IGNORECASE)
    return re.sub(r"(?:(?:nvidia|tesla|quadro|geforce)[_-]+)+(?=\w)", "", plain, flags=re.IGNORECASE)


def _number(said: dict[str, Option], name: str) -> int | None:
    return None if name not in said else _read(said[name], values.count) or None


def _size(said: dict[str, Option], name: str) -> int | None:
    return None if name not in said else _read(said[name], values.mib)


def _read(option: Option, parse: Callable[[str], T]) -> T:
    try:
        return parse(option.value or "")
    except ValueError as error:
        hint = "sbatch sets no variables in #SBATCH lines" if "$" in (option.value or "") else None
        raise UsageError(f"line {option.line}: --{option.name}: {error}", hint=hint) from error
