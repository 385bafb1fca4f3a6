"""What the options of `#SBATCH` lines come to here: options of `gpuctl submit`, variables, and words about the rest.

Nothing is dropped in silence: an option is mapped, or needs nothing, or there is a note that says what is done instead.
"""

import os
import pwd
import re
import time
from collections.abc import Callable
from shlex import quote
from typing import Any, NamedTuple

from gpuctl.errors import UsageError
from gpuctl.slurm import values
from gpuctl.slurm.demand import Demand, demand_of, type_of
from gpuctl.slurm.lines import Option

PRIORITY_MOST = 1_000_000
_KEPT = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR"})
_SETS = ("SLURM_", "SLURMD_", "GPUD_STEP_")
_TOLD = {"BEGIN": "start", "END": "end", "FAIL": "failure", "INVALID_DEPEND": "failure", "TIME_LIMIT": "failure"}
_AFTER = {"after": "any", "afterany": "any", "afterok": "success", "aftercorr": "success", "afternotok": "failed"}
# What changes nothing here, or is so anyway.
_GRANTED = (
    "parsable quiet verbose ignore-pbs no-kill wait-all-nodes gres-flags gpu-bind acctg-freq no-requeue get-user-env"
    " resv-ports mail-user"  # which alone has nobody told anything there, too
)
_GRANTED_AS = {
    "input": ("/dev/null", "none"),
    "kill-on-invalid-dep": ("no",),
    "open-mode": ("append",),
    "propagate": (None, "ALL"),
}
_CONTAINER = "containers are not started here; left out: start it in the script (docker run, apptainer exec)"
_ELSEWHERE = {
    "clusters": "there are no clusters here; left out",
    "container": _CONTAINER,
    "container-image": _CONTAINER,
    "image": _CONTAINER,
    "constraint": "Slurm's features of nodes mean nothing here; left out (see --gpu-type, --node-label)",
    "exclude": "Slurm's names of nodes mean nothing here; left out (see --not-node)",
    "exclusive": "GPUs are its own, the rest of the machine is not; left out",
    "help": "left out",
    "input": "a job's stdin is /dev/null; left out",
    "kill-on-invalid-dep": "what can never start is held, or cancelled, as gpud's after_failed says",
    "licenses": "there are no licences here; left out",
    "nodelist": "Slurm's names of nodes mean nothing here; left out",
    "open-mode": "output is always appended to",
    "priority": "Slurm's priorities mean nothing here; left out (see --priority)",
    "propagate": "all limits of the shell that submits are the job's",
    "reservation": "Slurm's reservations mean nothing here; left out (see gpuctl reserve)",
    "test-only": "it is queued all the same: gpuctl submit --dry-run queues nothing",
    "wait": "submit does not wait; write gpuctl run, or gpuctl wait",
    "wrap": "the script itself is run; left out",
}

# What clusters call a type of GPU among their features of nodes: v100, l40s, rtx6000, 2080ti, a100_80gb.
_TYPE = re.compile(
    r"(?:(?:[abhklptv]|g[bh])\d{2,3}s?|[lt]4|(?:rtx[_-]?a?|gtx[_-]?|a)\d{4}(?:ti)?|\d{4}ti)([_-]\d+gb?)?", re.IGNORECASE
)
_GPUS = frozenset({"gpus", "gpus_per_node", "gpu_ids", "gpu_memory", "gpu_type", "mig", "share"})
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")


class Understood(NamedTuple):
    """What is queued for the lines.

    `given` are options of submit by their parameters' names, `fields` more of the request. Of the submitter's
    variables those named by `keep` are passed on (None: all), then `environment` is added. `notes` stand by line.
    """

    given: dict[str, Any]
    fields: dict[str, Any]
    keep: frozenset[str] | None
    environment: dict[str, str]
    notes: list[tuple[int, str]]


def understood(options: list[Option], *, submit_dir: str, typed: dict[str, Any] | None = None) -> Understood:
    """Return what options come to; the last of several alike counts. Raises UsageError, with the line.

    `typed` are options of submit that were said elsewhere and win.
    """
    return _Script(options, submit_dir, typed or {}).read()


class _Script:
    """The options of one script, and what has been made of them so far."""

    def __init__(self, options: list[Option], submit_dir: str, typed: dict[str, Any]) -> None:
        self.typed = typed
        self.options = [each for option in options for each in _of_tres(option)]
        self.said = {option.name: option for option in self.options if option.value != ""}
        self.given: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}
        self.keep: frozenset[str] | None = None
        self.notes = [
            (option.line, f"--{option.name}: has no value; left out") for option in options if option.value == ""
        ]
        self.environment = {
            "SLURM_SUBMIT_DIR": submit_dir,
            "SLURM_SUBMIT_HOST": os.uname().nodename,
            "SLURM_JOB_PARTITION": "gpud",
            "SLURM_JOB_ACCOUNT": "gpud",
            "SLURM_JOB_QOS": "normal",
        }

    def read(self) -> Understood:
        demand = demand_of(self.said, self.note, self.typed)
        self.given |= demand.given
        self.environment |= _variables(demand)
        if bind := self._bind():
            self.environment["SLURM_GPU_BIND"] = bind
        readers: dict[str, Callable[[Option, str], None]] = {
            "job-name": self._name,
            "time": self._time,
            "array": self._array,
            "dependency": self._dependency,
            "output": self._file,
            "error": self._file,
            "chdir": self._chdir,
            "begin": self._begin,
            "nice": self._nice,
            "hold": self._hold,
            "requeue": self._requeue,
            "signal": self._signal,
            "mail-type": self._mail,
            "export": self._export,
            **dict.fromkeys(("partition", "account", "qos", "comment"), self._label),
        }
        for option in self.said.values():
            if _VARIABLE.search(option.value or ""):
                self.note(option, "sbatch sets no variables in #SBATCH lines: it is taken as it stands")
            if option.name in readers:
                try:
                    readers[option.name](option, option.value or "")
                except ValueError as error:
                    hint = "sbatch sets no variables in #SBATCH lines" if "$" in (option.value or "") else None
                    raise UsageError(f"line {option.line}: --{option.name}: {error}", hint=hint) from error
            elif option.name not in demand.read:
                self._rest(option)
        self.given.setdefault("output", "slurm-%j.out")
        if not demand.given.keys() & _GPUS and not self.typed.keys() & _GPUS:
            self._note_none()
        return Understood(self.given, self.fields, self.keep, self.environment, sorted(self.notes))

    def _note_none(self) -> None:
        """Say that there is no GPU where a cluster may have given some without a word: whole nodes, or by the queue."""
        for option in self.said.values():
            gpus = option.name in ("partition", "constraint", "qos") and "gpu" in (option.value or "").lower()
            if gpus or option.name in ("exclusive", "cpus-per-gpu", "mem-per-gpu", "ntasks-per-gpu"):
                self.note(option, "no line asks for GPUs, so there are none: add --gpus N")
                return

    def note(self, option: Option, text: str) -> None:
        value = "" if option.value is None else f"={option.value}"
        self.notes.append((option.line, f"--{option.name}{value}: {text}"))

    def _bind(self) -> str | None:
        """Return which GPUs each task of a step sees, where that is said."""
        if "gpu-bind" in self.said:
            return self.said["gpu-bind"].value
        each = self.said.get("ntasks-per-gpu")
        return None if each is None else f"single:{each.value}"

    def _rest(self, option: Option) -> None:
        silent = option.name in _GRANTED.split() or option.value in _GRANTED_AS.get(option.name, ())
        if not silent:
            self.note(option, _kind(option) or _ELSEWHERE.get(option.name, "means nothing here; left out"))

    def _name(self, _: Option, value: str) -> None:
        if value:
            self.given["name"] = value

    def _time(self, _: Option, value: str) -> None:
        limit = values.seconds(value)
        if limit is not None:
            self.given["time_limit"] = limit

    def _array(self, _: Option, value: str) -> None:
        spec, percent, most = re.sub(r"[][ ]", "", value).partition("%")  # sbatch leaves brackets out, too
        if not re.fullmatch(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*", spec) or (percent and not most.isdigit()):
            raise ValueError(f"{value!r} is not an array; write 0-9, 0-15:4, 1,3,5 or 0-99%8")
        self.given["array"] = f"{spec}{percent}{most}"

    def _dependency(self, option: Option, value: str) -> None:
        after = []
        for kind, jobs in values.dependencies(value):
            if kind == "singleton" and not jobs:
                after.append((kind, jobs))
                continue
            if kind not in _AFTER or not jobs:
                self.note(option, f"{kind} is not kept here; left out")
                continue
            after.append((_AFTER[kind], jobs))
            if kind == "after":
                self.note(option, "it waits until they have ended, not until they have begun")
            elif kind == "aftercorr":
                self.note(option, "every element waits for the whole of the other array")
        if "?" in value:
            self.note(option, "it waits for all of them, not for one")
        if after:
            self.given["after"] = tuple(after)

    def _file(self, option: Option, value: str) -> None:
        self.given[option.name] = path = _pattern(value)
        folder = re.sub(r"/?[^/]*%.*", "", os.path.dirname(path))  # gpud makes what is called by the job
        base = self.said["chdir"].value if "chdir" in self.said else None
        if folder and not os.path.isdir(os.path.join(*map(os.path.expanduser, (base or "", folder)))):
            self.note(option, f"there is no directory {folder} now; without it, the job cannot start")

    def _chdir(self, option: Option, value: str) -> None:
        self.given["workdir"] = value
        if not os.path.isdir(os.path.expanduser(value)):
            self.note(option, f"there is no directory {value} now; without it, the job cannot start")

    def _begin(self, option: Option, value: str) -> None:
        now = time.time()
        moment = values.moment(value, now)
        if moment < now - 1:
            self.note(option, "is past; left out: it may start at once")
        else:
            self.given["begin"] = moment

    def _nice(self, option: Option, value: str) -> None:
        if not re.fullmatch(r"[+-]?\d*", value):
            raise ValueError(f"{value!r} is not a number")
        nice = int(value or 100)
        if nice < 0:
            self.note(option, "left out: to go before others, say --priority")
        else:
            self.given["priority"] = -min(nice, PRIORITY_MOST)

    def _hold(self, _: Option, __: str) -> None:
        self.given["hold"] = True

    def _requeue(self, _: Option, __: str) -> None:
        if not ("no-requeue" in self.said and self.options.index(self.said["no-requeue"]) > self._at("requeue")):
            self.given["retry_on"] = (["lost"],)

    def _at(self, name: str) -> int:
        return self.options.index(self.said[name])

    def _signal(self, option: Option, value: str) -> None:
        number, before_s, to = values.notice(value)
        self.fields |= {"checkpoint_signal": number, "checkpoint_before_s": before_s, "checkpoint_to": to}
        if "time" not in self.said and "time_limit" not in self.typed:
            self.note(option, "without --time there is no end before which it could come")

    def _mail(self, option: Option, _: str) -> None:
        """Take the types of all such lines together, as sbatch does."""
        kinds = [each.value or "" for each in self.options if each.name == "mail-type"]
        wanted = {kind.strip().upper() for kind in ",".join(kinds).split(",")} - {"", "NONE", "ARRAY_TASKS"}
        wanted |= {"BEGIN", "END"} if "ALL" in wanted else set()
        untold = sorted(wanted - _TOLD.keys() - {"ALL", *(() if "ALL" not in wanted else ("REQUEUE", "STAGE_OUT"))})
        if untold:
            self.note(option, f"nobody is told of {', '.join(untold)}")
        told = {_TOLD[kind] for kind in wanted if kind in _TOLD}
        told -= {"failure"} if "end" in told else set()
        said = self.said.get("mail-user")
        users = (said.value or "" if said is not None else user()).split(",")
        rules = [
            [(event, f"mailto:{user.strip()}") for event in sorted(told)] for user in users if user.strip() and told
        ]
        if rules and not any(
            os.access(f"{folder}/sendmail", os.X_OK) for folder in ("/usr/sbin", "/usr/lib", "/usr/bin")
        ):
            self.note(option, "this machine has no sendmail: mail is sent only where gpud has apprise (gpuctl notify)")
        if rules:
            self.given["notify"] = tuple(rules)

    def _export(self, _: Option, value: str) -> None:
        words = [word.strip() for word in value.split(",") if word.strip()]
        names = {word for word in words if "=" not in word}
        if not {name.upper() for name in names} & {"ALL"}:
            self.keep = _KEPT | {name for name in names if name.upper() not in ("NONE", "NIL")}
        self.given["env"] = tuple(word for word in words if "=" in word and not word.startswith("="))

    def _label(self, option: Option, value: str) -> None:
        if not value:
            return
        self.given["label"] = (*self.given.get("label", ()), (option.name, value))
        if option.name != "comment":
            kinds = {"partition": "partitions", "account": "accounts", "qos": "QOS"}[option.name]
            self.note(option, f"there are no {kinds} here; kept as a label")
            self.environment[f"SLURM_JOB_{option.name.upper()}"] = value


def _kind(option: Option) -> str | None:
    """Return what is to be said of features of nodes that are types of GPUs, `tesla_v100|a100`; else None."""
    kinds = [type_of(each) for each in re.split(r"[|,]", re.sub(r"[][()\s]", "", option.value or ""))]
    if option.name != "constraint" or not all(map(_TYPE.fullmatch, kinds)):
        return None
    typed = f"--gpu-type {quote('|'.join(kinds))}"
    return f"Slurm's features of nodes mean nothing here; left out (for such GPUs: {typed})"


def _of_tres(option: Option) -> list[Option]:
    """Return what `--tres-per-task=cpu=4,gres/gpu:a100:2` says as the options that say so, too; others as they are."""
    if option.name != "tres-per-task":
        return [option]
    found, rest = [], []
    for word in (option.value or "").split(","):
        match = re.fullmatch(r"(cpu|(?:gres/)?gpu)[:=](.+)", word.strip())
        if match is None:
            rest.append(word)
        else:
            found.append(Option(option.line, "cpus-per-task" if match[1] == "cpu" else "gpus-per-task", match[2]))
    return [*found, option._replace(value=",".join(rest))] if rest else found


def passed_on(environment: dict[str, str], keep: frozenset[str] | None) -> dict[str, str]:
    """Return what a job is passed of its submitter's variables; nothing of a job that it was submitted from."""
    passed = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_SETS) and (keep is None or name in keep or name.startswith("LC_"))
    }
    if "PATH" in passed and (own := environment.get("GPUD_STEP_BIN")):
        passed["PATH"] = os.pathsep.join(each for each in passed["PATH"].split(os.pathsep) if each != own)
    return passed


def _variables(demand: Demand) -> dict[str, str]:
    """Return what Slurm tells a script of what it asked for; SLURM_NTASKS is told to what `srun` starts alone.

    PyTorch Lightning takes SLURM_NTASKS for a sign that srun started it, and waits for the others.
    """
    each = str(demand.tasks_per_node)
    told = {
        "GPUD_STEP_TASKS": str(demand.tasks),
        "SLURM_TASKS_PER_NODE": each if demand.nodes == 1 else f"{each}(x{demand.nodes})",
    }
    optional = {
        "GPUD_STEP_GPUS_PER_TASK": demand.gpus_per_task,
        "SLURM_GPUS_PER_TASK": demand.gpus_per_task,
        "SLURM_NTASKS_PER_NODE": demand.said_per_node,
        "SLURM_CPUS_PER_TASK": demand.cpus_per_task,
        "SLURM_CPUS_PER_GPU": demand.cpus_per_gpu,
        "SLURM_GPUS_PER_NODE": demand.gpus_per_node,
        "SLURM_MEM_PER_CPU": demand.memory_per_cpu,
        "SLURM_MEM_PER_GPU": demand.memory_per_gpu,
    }
    return told | {name: str(value) for name, value in optional.items() if value is not None}


def _pattern(text: str) -> str:
    """Return a file's pattern with what is known of the job's user and node put in."""
    known = {"u": user(), "N": os.uname().nodename.partition(".")[0], "n": "0", "t": "0", "s": "batch", "J": "%j"}

    def put(found: re.Match[str]) -> str:
        return known.get(found[2], found[0])

    return re.sub(r"%(\d*)(.)", put, text)


def user() -> str:
    """Return the user's name, or number where there is none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
