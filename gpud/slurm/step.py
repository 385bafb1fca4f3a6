"""What a step of `srun` is asked for: its options, its tasks, its GPUs, and what each task is told.

A step that asks for GPUs, or for fewer tasks than the job has, waits until other steps of the job have left it so
many: they lock bytes of the script's kept copy, which the kernel gives back when they end.
"""

import fcntl
import os
import re
import shlex
import sys
import time
from typing import NamedTuple, NoReturn

# Long options of srun(1): those that need a value, may have one, have none; and the letters for some.
_OPTIONS = {
    "need": """
    account acctg-freq bb bbf bcast bell begin chdir cluster-constraint clusters comment compress constraint
    container-image container-mounts container-name container-workdir core-spec cores-per-socket cpu-bind cpu-freq
    cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution epilog error exclude export extra-node-info
    gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input jobid job-name
    licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus mpi msg-timeout network
    nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition
    power prefer priority profile prolog propagate qos relative reservation resv-ports signal slurmd-debug
    sockets-per-node switches task-epilog task-prolog thread-spec threads threads-per-core time time-min tmp
    tres-bind tres-per-task uid wait wckey tasks-per-node accel-bind het-group pack-group""",
    "may": "exclusive kill-on-bad-exit nice no-kill",
    "none": """
    contiguous disable-status exact hold immediate interactive label multi-prog no-allocate overcommit overlap
    oversubscribe preserve-env pty quiet quit-on-interrupt reboot share spread-job test-only unbuffered use-min-nodes
    verbose whole x11 help version""",
}
_LETTERS = """
    A=account n=ntasks N=nodes c=cpus-per-task G=gpus l=label o=output e=error i=input D=chdir J=job-name
    K=kill-on-bad-exit u=unbuffered w=nodelist x=exclude p=partition t=time W=wait m=distribution r=relative v=verbose
    Q=quiet q=qos s=oversubscribe O=overcommit H=hold C=constraint k=no-kill L=licenses T=threads B=extra-node-info
    d=dependency X=disable-status E=preserve-env I=immediate S=core-spec M=clusters Z=no-allocate"""
_KINDS = {word: kind for kind, words in _OPTIONS.items() for word in words.split()}
_SHORT = dict(pair.split("=") for pair in _LETTERS.split())
_TASKS_AT = 1 << 16  # where the bytes of tasks begin: those of GPUs are below, and byte 0 is the queue's
NODE = os.environ.get("SLURMD_NODENAME") or os.uname().nodename


class Step(NamedTuple):
    """What is started: so many tasks over so many nodes, each with these GPUs (None: all that the job has)."""

    command: list[str]
    options: dict[str, str]
    tasks: int
    nodes: int
    gpus: list[list[str]] | None


def say(text: str) -> None:
    """Tell the person, beside what tasks print."""
    sys.stderr.write(f"srun: {text}\n")
    sys.stderr.flush()


def fail(text: str) -> NoReturn:
    """End before anything was started."""
    say(f"error: {text}")
    sys.exit(1)


def parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options by their long names, and the command."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            name = given.replace("_", "-")
            near = [name] if name in _KINDS else [each for each in _KINDS if each.startswith(name)]
            if len(near) != 1:
                fail(f"unrecognized option '{word}'")
            name = near[0]
            if _KINDS[name] == "need" and not equals:
                value = rest.pop(0) if rest else fail(f"option '--{name}' requires an argument")
        else:
            name = _SHORT.get(word[1]) or fail(f"invalid option -- '{word[1]}'")
            value = word[2:].removeprefix("=")
            if _KINDS[name] == "need":
                value = value or (rest.pop(0) if rest else fail(f"option requires an argument -- '{word[1]}'"))
            elif value and _KINDS[name] == "none":
                rest.insert(0, f"-{value}")
        if name == "ntasks" and not value[:1].isdigit():  # of a $SLURM_NTASKS, which is empty outside of steps: all
            rest[:0] = [value] if value else []
            continue
        options["ntasks-per-node" if name == "tasks-per-node" else name] = value
    return options, rest


def number(options: dict[str, str], name: str) -> int | None:
    """Return an option that counts: `4`, `2-4` (the least), `a100:2`."""
    text = options.get(name)
    found = None if text is None else re.fullmatch(r"(?:[^:]+:)*(\d+)(?:-\d+)?", text.strip())
    if text is not None and found is None:
        fail(f"--{name}: {text!r} is not a number")
    return None if found is None else int(found[1])


def step_of(options: dict[str, str], command: list[str]) -> Step:
    """Return the step that options ask for in this job."""
    all_nodes = int(os.environ.get("SLURM_NNODES") or 1)
    nodes = min(number(options, "nodes") or all_nodes, all_nodes)
    visible = visible_gpus()
    asked, per_task, per_gpu = gpus_asked(options), number(options, "gpus-per-task"), number(options, "ntasks-per-gpu")
    tasks, per_node = number(options, "ntasks"), number(options, "ntasks-per-node")
    if "pty" in options:
        tasks = 1
    elif tasks is None and per_node is not None:
        tasks = per_node * nodes
    elif tasks is None and asked and (per_task or per_gpu):
        tasks = asked // per_task if per_task else asked * (per_gpu or 1)
    tasks = tasks or int(os.environ.get("GPUD_STEP_TASKS") or 1)
    nodes = min(nodes, tasks)
    said = per_task
    if per_task is None and asked is None:
        per_task = int(os.environ.get("GPUD_STEP_GPUS_PER_TASK") or 0) or None
        per_task = per_task if per_task is not None and per_task * -(-tasks // nodes) <= len(visible) else None
    wanted = asked
    if wanted is None and said is not None:
        wanted = said * -(-tasks // nodes)
    if wanted is not None and wanted > len(visible):
        many = f"{wanted} GPU{'s' * (wanted != 1)}"
        fail(f"Unable to create step: it asks for {many}, and the job has {len(visible)} on this node")
    held = acquire(options, visible, wanted, tasks)
    return Step(command, options, tasks, nodes, shares(options, held, wanted, per_task, per_gpu, tasks, nodes))


def visible_gpus() -> list[str]:
    """Return the GPUs that there are for a step, and have its tasks see them.

    They are the job's, or those of them that the script has left visible. What it says of others means the job's own
    on a cluster, which counts them from 0, and where Slurm's srun tells them to tasks whatever the script said.
    """
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = os.environ.get("GPUD_STEP_GPUS", said or "")
    seen = [each.strip() for each in (said or "").split(",") if each.strip()]
    if seen[:1] == ["-1"]:  # as many hide them all
        return []
    if said is None or not {*seen} <= {*own.split(","), *os.environ.get("GPUD_GPU_UUIDS", "").split(",")}:
        if said is not None:
            say(f"CUDA_VISIBLE_DEVICES={said} are not this job's GPUs: tasks see {own or 'none'}")
        os.environ["CUDA_VISIBLE_DEVICES"] = own
        seen = [each for each in own.split(",") if each]
    return seen


def programs(step: Step) -> list[list[str]]:
    """Return each task's command from a file of `RANKS COMMAND`: `0 ./master`, `1-3 ./worker %t %o`, `* ./other`."""
    found: dict[int, list[str]] = {}
    try:
        with open(step.command[0], encoding="utf-8", errors="surrogateescape") as file:
            text = file.read().replace("\\\n", " ")
    except OSError as error:
        fail(f"{step.command[0]}: {error.strerror}")
    for line in text.splitlines():
        try:
            ranks, *words = shlex.split(line, comments=True) or [""]
            each = (part.replace("*", f"0-{step.tasks - 1}").split("-") for part in ranks.split(",") if words)
            whose = [rank for ends in each for rank in range(int(ends[0]), int(ends[-1]) + 1)]
        except ValueError:
            fail(f"{step.command[0]}: {line!r} is not RANKS COMMAND")
        for offset, rank in enumerate(whose):
            found.setdefault(rank, [word.replace("%t", str(rank)).replace("%o", str(offset)) for word in words])
    if missing := [rank for rank in range(step.tasks) if rank not in found]:
        fail(f"{step.command[0]} says nothing of task {missing[0]}")
    return [found[rank] for rank in range(step.tasks)]


def gpus_asked(options: dict[str, str]) -> int | None:
    """Return how many GPUs a step asks for by itself; None where it says nothing."""
    for name in ("gpus", "gpus-per-node"):
        if name in options:
            return number(options, name)
    gres = options.get("gres")
    if gres is None:
        return None
    words = [word.replace("gres/", "").replace("=", ":").split(":") for word in gres.split(",")]
    return sum(int(word[-1]) if word[-1].isdigit() else 1 for word in words if word[0] == "gpu")


def shares(
    options: dict[str, str],
    held: list[str],
    wanted: int | None,
    per_task: int | None,
    per_gpu: int | None,
    tasks: int,
    nodes: int,
) -> list[list[str]] | None:
    """Return each task's GPUs; None where every task sees all of the job's."""
    bind = options.get("gpu-bind", os.environ.get("SLURM_GPU_BIND", "")).removeprefix("verbose,")
    how = re.fullmatch(r"(single|per_task|map_gpu):(\d+(?:,\d+)*)", bind)
    told = [] if how is None else [int(each) for each in how[2].split(",")]
    here = -(-tasks // nodes)
    if how is not None and how[1] == "map_gpu" and held:
        return [[held[told[rank % here % len(told)] % len(held)]] for rank in range(tasks)]
    if how is not None and how[1] == "single":
        per_task, per_gpu = None, per_gpu or told[0]
    elif how is not None:
        per_task = per_task or told[0]
    if bind == "none":
        per_task = per_gpu = None
    if per_task is not None and held:
        return [held[rank % here * per_task : (rank % here + 1) * per_task] for rank in range(tasks)]
    if per_gpu and held:
        return [[held[rank % here // per_gpu % len(held)]] for rank in range(tasks)]
    return None if wanted is None else [held] * tasks


def acquire(options: dict[str, str], visible: list[str], wanted: int | None, tasks: int) -> list[str]:
    """Return the GPUs of a step, once other steps of the job have left it GPUs and tasks."""
    path = os.environ.get("GPUD_STEP_LOCKS")
    total = int(os.environ.get("GPUD_STEP_TASKS") or 1)
    slots = tasks if tasks < total else 0
    if path is None or "overlap" in options or "SLURM_OVERLAP" in os.environ or not (wanted or slots):
        return visible if wanted is None else visible[:wanted]
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # the script is not kept any more: nobody else can hold anything either
        return visible if wanted is None else visible[:wanted]
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    held: list[int] = []
    told = False
    for first, count, many in ((1, wanted or 0, len(visible)), (_TASKS_AT, slots, total)):
        got: list[int] = []
        while True:
            for at in range(first, first + many):
                if len(got) < count and at not in got and _lock(file, at):
                    got.append(at)
            if len(got) >= count:
                break
            if not told:
                say("waits for other steps of this job to end (--overlap: does not wait)")
                told = True
            time.sleep(0.1)
        held += got
    fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)  # the next in the queue may look for what is left; the file stays open
    return visible if wanted is None else [visible[at - 1] for at in sorted(held) if at < _TASKS_AT]


def _lock(file: int, at: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
    except OSError:
        return False
    return True


def environment(step: Step, rank: int) -> dict[str, str]:
    """Return what a task is told, beside what srun itself was."""
    here = -(-step.tasks // step.nodes)
    passed = dict(os.environ)
    words = [word for word in step.options.get("export", "ALL").split(",") if word.partition("=")[0]]
    if not {word.upper() for word in words} & {"ALL"}:
        kept = {"PATH", "HOME", "USER", "SHELL", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", *words}
        passed = {name: value for name, value in passed.items() if name in kept or name.startswith(("SLURM", "GPUD_"))}
    passed |= dict(word.split("=", 1) for word in words if "=" in word)
    told = {
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank % here,
        "SLURM_NODEID": rank // here,
        "SLURM_NTASKS": step.tasks,
        "SLURM_NPROCS": step.tasks,
        "SLURM_NTASKS_PER_NODE": here,
        "SLURM_TASKS_PER_NODE": here if step.nodes == 1 else f"{here}(x{step.nodes})",
        "SLURM_STEP_ID": os.getpid(),
        "SLURM_STEPID": os.getpid(),
        "SLURM_STEP_NUM_TASKS": step.tasks,
        "SLURM_STEP_NUM_NODES": step.nodes,
        "SLURM_STEP_TASKS_PER_NODE": here if step.nodes == 1 else f"{here}(x{step.nodes})",
        "SLURM_STEP_NODELIST": ",".join(os.environ.get("SLURM_JOB_NODELIST", NODE).split(",")[: step.nodes]),
        "SLURM_GTIDS": ",".join(
            str(each) for each in range(rank // here * here, min(rank // here * here + here, step.tasks))
        ),
        "SLURM_LAUNCHNODE_IPADDR": "127.0.0.1",
        "SLURM_SRUN_COMM_HOST": "127.0.0.1",
    }
    if "cpus-per-task" in step.options:
        told["SLURM_CPUS_PER_TASK"] = step.options["cpus-per-task"]
    if "job-name" in step.options:
        told["SLURM_JOB_NAME"] = step.options["job-name"]
    if step.gpus is not None:
        told |= dict.fromkeys(("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS"), ",".join(step.gpus[rank]))
    elif passed.get("CUDA_VISIBLE_DEVICES"):
        told["SLURM_STEP_GPUS"] = passed["CUDA_VISIBLE_DEVICES"]
    return passed | {name: str(value) for name, value in told.items()}
