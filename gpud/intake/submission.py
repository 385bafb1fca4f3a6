"""A submit as it came over the wire, made into a job's spec: everything that can be wrong with it is said here.

What the types cannot say (a negative count, a relative directory, a name that moves a terminal's cursor) is refused
with code `usage` before anything else looks at it. Whether a job could ever fit is not this module's question.
"""

import json
import re
import resource
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from itertools import dropwhile
from typing import Any

from gpud.model.array import IndexSet, parse_array
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import Demand
from gpud.model.spec import Dependency, JobSpec, Rewrite, Terms, name_group
from gpud.model.units import Mib, Timestamp, plural
from gpud.wire.changes import Update
from gpud.wire.check import Wrong
from gpud.wire.notices import check_rule
from gpud.wire.submission import DemandMap, Submit

_MOST = 100_000
PRIORITY_MOST = 1_000_000
_RETRIES_MOST = 1_000
_GRACE_MOST_S = 86_400.0
_NAME_MOST = 1_000
_NOTICES_MOST = 20
_TOLD_WITHOUT_APPRISE = frozenset({"http", "https", "command", "desktop", "mailto"})
_STARTED_MOST = 6 << 20  # bytes of words and variables, whatever its stack may be (execve(2))
_MIG = re.compile(r"(\d{1,2}c\.)?\d{1,2}g\.\d{1,4}gb(\+[\w.+]{1,30})?", re.ASCII | re.IGNORECASE)
_INTERPRETER = re.compile(r"(?:python|pypy)[\d.]*|(?:ba|z|da|k)?sh|Rscript|julia|perl|ruby|node")
_FLAGS = re.compile(r"-[uOBIsEqvx]+")  # of interpreters: they stand in front of a script, and take no word
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LIMIT_NAMES = frozenset(name.removeprefix("RLIMIT_") for name in dir(resource) if name.startswith("RLIMIT_"))


def spec_of(
    message: Submit,
    *,
    uid: int,
    gid: int,
    groups: tuple[int, ...],
    user: str,
    tenant: str,
    begin_at: float | None,
    after: tuple[Dependency, ...],
) -> JobSpec:
    """Return the spec of a job for the user that the kernel names. Raises Wrong.

    `begin_at` is the message's, taken from the wall clock to the daemon's; `after` its jobs, which have been looked up.
    """
    command = message["command"]
    if not message.get("claim", False):
        check_command(command)
    elif command:
        raise Wrong("a claim runs nothing", "leave the command out, or: gpuctl run -- ...")
    _check_workdir(message["workdir"])
    name = name_of(message)
    limits = {key: _limit(key, pair) for key, pair in message["limits"].items()}
    array, throttle = _array(message.get("array"))
    return JobSpec(
        nonce=message["nonce"],
        terms=_terms(message, name, uid=uid, user=user, tenant=tenant),
        name=name,
        command=tuple(command),
        workdir=message["workdir"],
        environment=environment_of(message["environment"]),
        gid=gid,
        groups=groups,
        umask=int(_between("the umask", message["umask"], 0, 0o777)),
        limits=limits,
        script=message.get("script"),
        output=_path_pattern("the output file", message.get("output")),
        error=_path_pattern("the error file", message.get("error")),
        labels=_labels(message.get("labels", {})),
        priority=message.get("priority", 0),
        hold=message.get("hold", False),
        begin_at=None if begin_at is None else Timestamp(begin_at),
        after=after,
        array=array,
        throttle=throttle,
        group=_word("the group", message.get("group")),
        key=_key(message),
        **_comforts(message),
    )


def _terms(message: Submit, name: str, *, uid: int, user: str, tenant: str) -> Terms:
    return Terms(
        demand=demand_of(message["demand"]),
        uid=uid,
        user=user,
        tenant=tenant,
        grace_s=_between("the grace time", message.get("grace_s", 30.0), 0.0, _GRACE_MOST_S),
        retries=int(_between("the number of retries", message.get("retries", 0), 0, _RETRIES_MOST)),
        time_limit_s=_duration("the time limit", message.get("time_limit_s")),
        estimate_s=_duration("the estimate", message.get("estimate_s")),
        name_group=name_group(name),
        preemptible=message.get("preemptible"),
        retry_on=_retry_on(message.get("retry_on", []), message.get("retries", 0)),
        claim=message.get("claim", False),
        idle_after_s=_duration("the idle time", message.get("idle_after_s")),
    )


def name_of(message: Submit) -> str:
    """Return what a job is called: as its user says, or as its program."""
    name = message.get("name") or program_of(message["command"])
    check_text("the name", name, _NAME_MOST)
    return name


def program_of(command: Sequence[str]) -> str:
    """Return a command's program by name; of an interpreter what that runs, for all of one's jobs are python's."""
    program = command[0].rstrip("/").rsplit("/", 1)[-1] if command else "claim"
    if _INTERPRETER.fullmatch(program):
        rest = list(dropwhile(_FLAGS.fullmatch, command[1:]))
        rest = rest[1:] if rest[:1] == ["-m"] else rest
        if rest and not rest[0].startswith("-"):
            program = rest[0].rstrip("/").rsplit("/", 1)[-1]
    return _CONTROL.sub("?", program)[:_NAME_MOST] or "/"


def _word(what: str, text: str | None) -> str | None:
    if text is not None:
        check_text(what, text, _NAME_MOST)
    return text


def _key(message: Submit) -> str | None:
    key = _word("the key", message.get("key"))
    if key is not None and "group" not in message:
        raise Wrong("a key is a job's in its group, and no group is named", "add --group NAME")
    return key


def checked(terms: Terms) -> Terms:
    """Return a job's terms, with what was changed in them. Raises Wrong."""
    return replace(
        terms,
        grace_s=_between("the grace time", terms.grace_s, 0.0, _GRACE_MOST_S),
        retries=int(_between("the number of retries", terms.retries, 0, _RETRIES_MOST)),
        time_limit_s=_duration("the time limit", terms.time_limit_s),
        estimate_s=_duration("the estimate", terms.estimate_s),
        retry_on=_retry_on(list(terms.retry_on), terms.retries),
    )


def rewrite_of(message: Update) -> Rewrite:
    """Return what is new in a job's spec beside its terms. Raises Wrong."""
    _check_workdir(message.get("workdir", "/"))
    new = _saved_and_told(message)
    said = [key for key in new if ("notify" if key == "notify" else "checkpoint_signal") in message]
    if "workdir" in message:
        new["mount"] = _path_pattern("the mount", message.get("mount"))
        said.append("mount")
    return Rewrite(
        name=_word("the name", message.get("name")),
        workdir=message.get("workdir"),
        output=_path_pattern("the output file", message.get("output")),
        error=_path_pattern("the error file", message.get("error")),
        labels=tuple(_labels(message.get("labels", {})).items()),
        group=message.get("group") and _word("the group", message["group"]),
        key="" if message.get("group") == "" else message.get("key") and _word("the key", message["key"]),
        submitted=tuple((key, new[key]) for key in said),
    )


def _saved_and_told(message: Submit | Update) -> dict[str, Any]:
    """Return when a job is asked to save what it has, and whom it tells, as fields of its spec. Raises Wrong."""
    signal, every_s = message.get("checkpoint_signal"), _duration("the interval", message.get("checkpoint_every_s"))
    if signal is not None:
        _between("the checkpoint signal", signal, 1, 64)
    elif message.get("checkpoint_before_s") is not None:
        raise Wrong("when a checkpoint is made is said, but not by which signal", "--checkpoint-signal USR1")
    elif every_s is not None:
        raise Wrong("how often a checkpoint is made is said, but not by which signal", "--checkpoint-signal USR1")
    notify = message.get("notify", [])
    if len(notify) > _NOTICES_MOST or any(len(pair) != 2 for pair in notify):
        raise Wrong(f"whom to notify is at most {_NOTICES_MOST} pairs of an event and a target")
    for event, target in notify:
        try:
            check_rule(event, target)
        except ValueError as error:
            raise Wrong(str(error)) from None
        scheme = target.partition(":")[0].lower()
        if scheme not in _TOLD_WITHOUT_APPRISE and find_spec("apprise") is None:
            hint = "install it where gpud is: pip install 'gpud[apprise]'"
            raise Wrong(f"{scheme}: nobody is told there: this gpud lacks apprise", hint)
    return {
        "checkpoint_signal": signal,
        "checkpoint_every_s": every_s,
        "checkpoint_before_s": _duration("the time before the limit", message.get("checkpoint_before_s")),
        "notify": tuple((event, target) for event, target in notify),
    }


def _comforts(message: Submit) -> dict[str, Any]:
    """Return what a job gets beside its GPUs, as fields of its spec. Raises Wrong."""
    commit = message.get("commit")
    if commit is not None and not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        raise Wrong(f"{commit!r} is not a commit")
    return {
        **_saved_and_told(message),
        "checkpoint_to": message.get("checkpoint_to", "all"),
        "terminal": check_size(message.get("terminal")),
        "unattended_s": _duration("the time without anybody", message.get("unattended_s")),
        "commit": commit,
        "dirty": message.get("dirty"),
        "sbatch": message.get("sbatch", False),
        "mount": _path_pattern("the mount", message.get("mount")),
    }


def demand_of(wanted: DemandMap) -> Demand:
    """Return what a job needs, from the protocol's map. Raises Wrong."""
    gpus = int(_between("the number of GPUs", wanted["gpus"], 0, _MOST))
    memory = wanted.get("gpu_memory_mib")
    kind = wanted.get("gpu_type")
    nodes = int(_between("the number of nodes", wanted.get("nodes", 1), 1, _MOST))
    ids = tuple(GpuId(each) for each in wanted.get("gpu_ids", ()))
    if kind is not None:
        check_text("the GPU type", kind, 200)
        if not all(re.search(r"[A-Za-z0-9*?]", each) for each in kind.split("|")):
            raise Wrong(f"{kind!r} is not a GPU type", "write a part of its name: H100, RTX4090, 'A100-80GB|H100'")
    if ids and len(ids) < gpus:
        raise Wrong(f"of {plural(len(ids), 'GPU')} named {gpus} are asked for")
    if gpus % nodes:
        raise Wrong(f"{plural(gpus, 'GPU')} cannot be the same number on each of {nodes} nodes", "see --gpus-per-node")
    _check_shares(wanted, gpus)
    labels = wanted.get("node_labels", {})
    for key, value in labels.items():
        check_text("a node label", f"{key}={value}", 1_000)
    if "pool" in wanted:
        check_text("the pool's name", wanted["pool"], 100)
    share = wanted.get("share_mib")
    return Demand(
        gpus=gpus,
        nodes=nodes,
        share_mib=None if share is None else Mib(share),
        share_permille=wanted.get("share_permille"),
        mig=wanted["mig"].lower() if "mig" in wanted else None,
        node_labels=tuple(sorted(labels.items())),
        excluded_nodes=tuple(NodeName(each) for each in sorted(set(wanted.get("excluded_nodes", ())))),
        excluded_gpus=tuple(GpuId(each) for each in sorted(set(wanted.get("excluded_gpus", ())))) if gpus else (),
        pool=wanted.get("pool"),
        spread=wanted.get("spread", False),
        gpu_memory_mib=Mib(int(_between("the GPU memory", memory, 1, 2**40))) if memory is not None and gpus else None,
        gpu_type=kind if gpus else None,
        gpu_ids=ids if gpus else (),
        cpus=int(_between("the number of CPUs", wanted.get("cpus", 0), 0, _MOST)),
        memory_mib=Mib(int(_between("the memory", wanted.get("memory_mib", 0), 0, 2**40))),
    )


def _check_shares(wanted: DemandMap, gpus: int) -> None:
    """Raise Wrong unless it is whole GPUs that are asked for, one kind of share, or MIG instances."""
    kinds = [key for key in ("share_mib", "share_permille", "mig") if key in wanted]
    if kinds and not gpus:
        raise Wrong("a part of a GPU is asked for, and no GPU", "leave --gpus out, or say how many parts")
    if len(kinds) > 1:
        raise Wrong("a share is so much memory, a fraction, or a MIG instance: one of them", "see gpuctl submit --help")
    _between("the share in MiB", wanted.get("share_mib", 1), 1, 2**40)
    if not 1 <= wanted.get("share_permille", 1) <= 999:
        raise Wrong("a fraction of a GPU is between 0.001 and 0.999", "--gpus 0.25")
    if not _MIG.fullmatch(wanted.get("mig", "1g.5gb")):
        raise Wrong(f"{wanted['mig']!r} is not a MIG profile", "write it as nvidia-smi mig -lgip does: 2g.10gb")


def _retry_on(words: list[str], retries: int) -> tuple[str, ...]:
    for word in words:
        code = word.removeprefix("exit:")
        if word not in {"failure", "oom", "lost"} and not (
            code != word and code.isascii() and code.isdigit() and len(code) < 4 and 0 < int(code) < 256
        ):
            raise Wrong(f"{word!r} is no kind of failure", "there are: failure, oom, lost, exit:75 (an exit code)")
    if words and not retries and set(words) != {"lost"}:
        raise Wrong("which failures are tried again is said, but not how often", "add --retries 3")
    return tuple(sorted(set(words)))


def _duration(what: str, seconds: float | None) -> float | None:
    return None if seconds is None else _between(what, seconds, 0.001, 4e8)


def _between(what: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise Wrong(f"{what} must be from {low:.15g} to {high:.15g}, not {value:.15g}")
    return value


def check_size(size: list[int] | None) -> tuple[int, int] | None:
    """Return a terminal's rows and columns. Raises Wrong."""
    if size is not None and (len(size) != 2 or not all(0 < each < 10_000 for each in size)):
        raise Wrong("a terminal's size is its rows and columns")
    return None if size is None else (size[0], size[1])


def check_command(command: list[str]) -> None:
    """Raise Wrong for what cannot be run."""
    if not command or not command[0]:
        raise Wrong("the command is empty", "gpuctl submit [options] -- program arguments...")
    if any("\0" in word for word in command):
        raise Wrong("the command holds a zero byte")


def check_text(what: str, text: str, most: int) -> None:
    """Raise Wrong for a text that moves a terminal's cursor, or is too long for a line."""
    if _CONTROL.search(text):
        raise Wrong(f"{what} holds control characters: {text!r}")
    if not text or len(text) > most:
        raise Wrong(f"{what} must have from 1 to {most} characters, not {len(text)}")


def _limit(name: str, pair: list[int]) -> tuple[int, int]:
    if name not in _LIMIT_NAMES:
        raise Wrong(f"unknown limit {name!r}")
    if len(pair) != 2 or min(pair) < -1:
        raise Wrong(f"limit {name} must be a soft and a hard value, -1 for none")
    return pair[0], pair[1]


@lru_cache(maxsize=8)  # a loop of submits sends the same shell's every time
def _environment(variables: frozenset[tuple[str, str]]) -> bytes:
    """Return the variables as one JSON object, the same bytes for the same variables: it is stored by its hash."""
    for name, value in variables:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise Wrong(f"{name!r} cannot be a variable of an environment")
    if sum(len(name) + len(value) + 2 for name, value in variables) > _STARTED_MOST:
        raise Wrong("no program can be started with more than 6 MiB of variables", "put what is large into a file")
    return json.dumps(dict(variables), sort_keys=True, separators=(",", ":")).encode()


def environment_of(variables: dict[str, str]) -> bytes:
    """Return the variables as one JSON object. Raises Wrong."""
    return _environment(frozenset(variables.items()))


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        check_text("a label's name", key, 100)
        check_text(f"the value of label {key}", value, 1000)
    if len(labels) > 100:
        raise Wrong("a job has at most 100 labels")
    return labels


def _check_workdir(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise Wrong(f"the working directory must be an absolute path, not {path!r}")


def _path_pattern(what: str, pattern: str | None) -> str | None:
    if pattern is not None and (not pattern or "\0" in pattern or len(pattern) > 4096):
        raise Wrong(f"{what} is not a path: {pattern!r}")
    return pattern


def _array(text: str | None) -> tuple[IndexSet | None, int | None]:
    if text is None:
        return None, None
    try:
        return parse_array(text)
    except ValueError as error:
        raise Wrong(str(error)) from None
