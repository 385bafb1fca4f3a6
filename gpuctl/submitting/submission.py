"""What `submit` and `run` say to gpud: the request made of their options.

gpuctl runs no shell: what one would have done with the words is refused with what to write instead (`places`).
"""

import os
import re
import resource
import time
from typing import TYPE_CHECKING, Any

from gpuctl import session
from gpuctl.errors import UsageError
from gpuctl.parse import HoursAndMinutes, after_of, gpus_meant, parse_checkpoint, variables
from gpuctl.submitting.places import expect_script, here, mount_of, repository, script_of
from gpud.model.units import plural

if TYPE_CHECKING:
    from gpuctl.submitting.directives import Script

_PYTHONS_OWN = ("C.UTF-8", "C.utf8", "UTF-8")  # where the locale is C, Python says so in LC_CTYPE (PEP 538)
_LIMITS = (
    *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS"),
    *("RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
)
_GPUD_SETS = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"})
_GPUD_SETS_PREFIXES = (
    *("GPUD_JOB_", "GPUD_ARRAY_", "GPUD_ATTEMPT", "GPUD_GPU_", "GPUD_NODE", "GPUD_SCRIPT"),
    *("GPUD_PROGRESS_", "GPUD_CHECKPOINT_", "GPUD_DOCKER_", "GPUD_CLAIM"),
)
# Options in a script's comments, what looks like some, and commands that there are for scripts with #SBATCH lines.
_DIRECTIVES = re.compile(
    rb"\n(?:[ \t]*#(?:SBATCH|GPUCTL)|!?#[\w$]{1,8}[ \t]+-"
    rb"|[^\n#]*\b(?:s(?:run|batch|control|queue|cancel|acct)[ \t]|docker[ ]run[ ]|master[_-]port[= ]"
    rb"|(?:CUDA_VISIBLE_DEVICES|MASTER_PORT)=[\"']?\d))"
)


def fields(given: dict[str, Any], *, literal: bool) -> dict[str, Any]:
    """Return the fields of a `submit` request, all but the nonce. Raises UsageError."""
    return asked(given, literal=literal)[0]


def asked(given: dict[str, Any], *, literal: bool) -> tuple[dict[str, Any], "Script | None"]:
    """Return the fields of a `submit` request, and the script whose directives went into them. Raises UsageError."""
    command = list(given["command"])
    content = script_of(command, literal=literal)
    script = None
    if content is None:
        _expect_own(" ".join(command))
        if not literal:
            expect_script(command)
    if content is not None and _DIRECTIVES.search(content):
        script = _directed(given, content, command[0])
        given, content = script.given, script.content
    given = with_preferences(given)
    workdir = directory(given["workdir"])
    request: dict[str, Any] = {
        "demand": _demand(given),
        "command": command,
        "workdir": workdir,
        "environment": _environment(given, workdir, script),
        "umask": _umask(),
        "limits": _limits(),
    }
    top = repository(workdir)
    if top is not None:
        from gpuctl.submitting import git  # noqa: PLC0415 - where there is no repository there is nothing to ask

        request |= git.recorded(top, int(time.monotonic()))
    if content is not None:
        command[0] = os.environ.get("GPUD_STEP_SCRIPT") or os.path.abspath(command[0])  # a job's sbatch sends a copy
        request["script"] = content
    optional = {
        "name": given["name"],
        "priority": given["priority"],
        "time_limit_s": _limit(given["time_limit"]),
        "grace_s": given["grace"],
        "estimate_s": given["estimate"],
        "preemptible": given["preemptible"],
        **checkpoint(given),
        "retries": given["retries"],
        "retry_on": _retry_on(given),
        "after": after_of(given["after"]),
        "tenant": given["tenant"],
        "notify": told_of(given),
        "group": given["group"],
        "key": given["key"],
        "array": given["array"],
        "begin_at": given["begin"],
        "hold": given["hold"] or None,
        "labels": dict(given["label"]) or None,
        "output": path_pattern(given["output"], "--output", workdir),
        "error": path_pattern(given["error"], "--error", workdir),
        "mount": mount_of(workdir),
    }
    request |= {key: value for key, value in optional.items() if value is not None}
    if script is None:
        expect_directories(
            workdir, *(os.path.dirname(request[name]) for name in ("output", "error") if name in request)
        )
    return (request if script is None else script.fields | request), script


def _limit(limit: float | None) -> float | None:
    """Return a time limit; say what `30:00` is, which sbatch reads otherwise."""
    if isinstance(limit, HoursAndMinutes):
        hours, minutes = divmod(int(limit) // 60, 60)
        instead = f"for minutes and seconds write {hours}m{f'{minutes}s' if minutes else ''}"
        session.note_once(f"--time-limit {hours}:{minutes:02} are hours and minutes; {instead}")
    return limit


def _expect_own(text: str) -> None:
    """Say what a command takes that may be other jobs'."""
    if any(word in text for word in ("CUDA_VISIBLE_DEVICES=", "--gpus", "MASTER_PORT=", "_port", "-port")):
        from gpuctl.slurm.advice import shared  # noqa: PLC0415 - most jobs say nothing of it

        for _, said in shared(text):
            session.note_once(said)


def with_preferences(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options with one's own defaults for what was not said. Raises UsageError for a wrong one."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = f"{home}/gpud/gpuctl.toml"
    if not os.path.exists(path):
        return given
    from gpuctl.submitting import preferences  # noqa: PLC0415 - most have none

    return preferences.over(path, given)


def _directed(given: dict[str, Any], content: bytes, path: str) -> "Script":
    """Return a script with its directives understood, and say what is to be said of them. Raises UsageError."""
    from gpuctl.submitting import directives  # noqa: PLC0415 - most jobs have none

    script = directives.read(given, content, path=path, submit_dir=here())
    for text in script.notes:
        session.note_once(text)
    return script


def new_nonce() -> str:
    """Return what makes a submit safe to send twice.

    It begins with the time, so that gpud's index of them grows at one end: a batch of submits writes a third as much.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def next_words(job: str, reply: dict[str, Any]) -> str:
    """Return what happens next to a job that was just submitted: `job 17: third in line`."""
    position, reason = reply.get("position"), reply.get("reason")
    place = "" if position is None else f"{ordinal(position)} in line"
    return f"job {job}: " + ("; ".join(filter(None, (place, reason))) or "starts now")


def ordinal(number: int) -> str:
    """Return `first` ... `tenth`, then `11th`, `22nd`."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    if 1 <= number <= len(words):
        return words[number - 1]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{suffix}"


def _demand(given: dict[str, Any]) -> dict[str, Any]:
    ids = _names(given, "gpu_ids", "gpuctl gpus")
    permille, share_mib = _share(given)
    gpus, nodes = _gpus_and_nodes(given if permille is None else given | {"gpus": 1}, 1 if ids is None else len(ids))
    optional = {
        "nodes": nodes if nodes > 1 else None,
        "share_mib": share_mib,
        "share_permille": permille,
        "mig": given["mig"],
        "gpu_memory_mib": given["gpu_memory"] if share_mib is None else None,
        "gpu_type": given["gpu_type"],
        "gpu_ids": ids,
        "cpus": given["cpus"],
        "memory_mib": given["memory"],
        "node_labels": dict(given["node_label"]) or None,
        "excluded_nodes": _names(given, "not_node", "gpuctl nodes"),
        "excluded_gpus": _names(given, "not_gpu", "gpuctl gpus"),
        "pool": given["pool"],
        "spread": given["spread"] or None,
    }
    return {"gpus": gpus} | {key: value for key, value in optional.items() if value is not None}


def part_of_demand(given: dict[str, Any]) -> dict[str, Any]:
    """Return what options change of a demand, for an `update`. Raises UsageError."""
    counted = any(given[key] not in (None, ()) for key in ("gpus", "nodes", "gpus_per_node", "gpu_ids"))
    new = _demand(given)
    if not counted and not given["share"]:
        del new["gpus"]
    elif isinstance(given["gpus"], int) and not given["share"] and given["mig"] is None:
        new["whole"] = True
    elif given["share"] and given["gpus"] is None:
        del new["gpus"]
    return new


def _gpus_and_nodes(given: dict[str, Any], alone: int) -> tuple[int, int]:
    """Return how many GPUs in total, on how many nodes; `alone`: on one, where nothing is said. Raises UsageError."""
    gpus, nodes, per_node = given["gpus"], given["nodes"], given["gpus_per_node"]
    if per_node is not None:
        if nodes is None:
            nodes = max(1, gpus // per_node) if gpus and per_node else 1
        if gpus is not None and gpus != per_node * nodes:
            are = "is" if gpus == 1 else "are"
            on = f"on each of {nodes} nodes" if nodes > 1 else "on one node"
            raise UsageError(f"{plural(gpus, 'GPU')} in total {are} not {per_node} {on}", hint="leave --gpus out")
        return per_node * nodes, nodes
    nodes = nodes or 1
    if gpus is None:
        gpus = alone if nodes == 1 else nodes
    if gpus % nodes:
        hint = "say how many each has: --gpus-per-node"
        raise UsageError(f"{plural(gpus, 'GPU')} cannot be the same number on each of {nodes} nodes", hint=hint)
    return gpus, nodes


def _share(given: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the thousandths of a GPU, or the MiB of each, that a job takes; None and None: whole ones."""
    gpus, memory = given["gpus"], given["gpu_memory"]
    parted = isinstance(gpus, float)
    if given["mig"] is not None and (parted or given["share"]):
        raise UsageError("a MIG instance is taken whole", hint="leave --share out, or --mig")
    if parted:
        if (given["nodes"] or 1) > 1 or given["gpus_per_node"] is not None:
            raise UsageError("a part of a GPU is on one node", hint="leave --nodes and --gpus-per-node out")
        return round(gpus * 1000), None
    if given["share"] and memory is None:
        hint = "say how much it needs: --share --gpu-memory 8G; or a part: --gpus 0.25"
        raise UsageError("--share does not say how much of the GPU", hint=hint)
    return None, memory if given["share"] else None


def _names(given: dict[str, Any], key: str, shown_by: str) -> list[str] | None:
    """Return the words of lists that hold together, or None. Raises UsageError for an empty one."""
    text = ",".join(given[key])
    names = [word.strip() for word in text.split(",")] if given[key] else None
    if names is not None and not all(names):
        option, what = f"--{key.replace('_', '-')}", "node" if key == "not_node" else "GPU"
        raise UsageError(f"{option} {text!r} names no {what}", hint=f"write {option} A,B; {shown_by} shows them")
    return names if names is None or key == "not_node" else gpus_meant(names)


def _retry_on(given: dict[str, Any]) -> list[str] | None:
    kinds = [kind for kinds in given["retry_on"] for kind in kinds]
    if not given["retries"] and any(kind != "lost" for kind in kinds):
        raise UsageError("--retry-on says when to try again, but not how often", hint="add --retries 3")
    return kinds or None


def told_of(given: dict[str, Any]) -> list[list[str]] | None:
    """Return pairs of an event and a target, or None where nobody is told of anything."""
    return [[*pair] for rule in given["notify"] for pair in rule] or None


def checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """Return when a job is asked to save what it has, and how."""
    word = given.get("checkpoint_signal")
    number, before_s = (None, None) if word is None else parse_checkpoint(word)
    every_s, limit_s = given.get("checkpoint_interval"), given.get("time_limit")
    if before_s is not None and limit_s is not None and before_s >= limit_s:
        from gpud.model.units import format_duration  # noqa: PLC0415 - most calls are right

        early = f"{format_duration(before_s)} before a time limit of {format_duration(limit_s)}, it has not begun"
        raise UsageError(
            f"--checkpoint-signal {word}: {early}", hint="name a shorter time behind the @, or a longer --time-limit"
        )
    return {"checkpoint_signal": number, "checkpoint_before_s": before_s, "checkpoint_every_s": every_s}


def directory(asked: str | None) -> str:
    """Return the directory the job runs in; that it exists is found out at its start, for a job may make it."""
    if asked is not None:
        if not asked or "\0" in asked:
            raise UsageError("--workdir names no directory")
        named = os.path.expanduser(asked)
        return os.path.normpath(named if os.path.isabs(named) else os.path.join(here(), named))
    return here()


def expect_directories(*folders: str) -> None:
    """Say which directories are not there; another job may make them."""
    for folder in folders:
        if not os.path.isdir(folder) and "%" not in folder:
            session.note_once(f"there is no directory {folder} now; without it, the job cannot start")


def _environment(given: dict[str, Any], workdir: str, script: "Script | None") -> dict[str, str]:
    environment = dict(os.environ)
    if environment.get("LC_CTYPE") in _PYTHONS_OWN and not _was_given("LC_CTYPE"):
        del environment["LC_CTYPE"]
    if script is not None:
        environment = script.environment(environment)
    elif "GPUD_STEP_BIN" in environment:
        from gpuctl.slurm.mapping import passed_on  # noqa: PLC0415 - only inside a job that was told of Slurm

        environment = passed_on(environment, None)
    if given["workdir"] is not None:
        environment["PWD"] = workdir
    said = variables(given["env"], given["env_file"])
    unused = [name for name in said if name in _GPUD_SETS or name.startswith(_GPUD_SETS_PREFIXES)]
    if unused:
        session.note(f"gpud sets {', '.join(unused)} itself: what was given for it is not used")
    return environment | said


def _was_given(name: str) -> bool:
    """Return whether this process began with a variable."""
    try:
        with open("/proc/self/environ", "rb") as began:
            return any(each.startswith(f"{name}=".encode()) for each in began.read().split(b"\0"))
    except OSError:  # no /proc
        return True


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _limits() -> dict[str, list[int]]:
    kinds = {name: getattr(resource, f"RLIMIT_{name}", None) for name in _LIMITS}
    return {name: list(resource.getrlimit(kind)) for name, kind in kinds.items() if kind is not None}


def path_pattern(path: str | None, option: str, workdir: str) -> str | None:
    """Return where output goes, from the root on. Raises UsageError."""
    if path is None:
        return None
    if not path or path.endswith("/") or "\0" in path:
        raise UsageError(f"{option} {path!r} names no file")
    return os.path.join(workdir.replace("%", "%%"), os.path.expanduser(path))  # a directory's own % is no pattern
