"""A small `squeue`: gpud's unfinished jobs, in the columns that scripts ask for.

    squeue [-ahlr] [--start] [-j JOB,...] [-u USER,... | --me] [-t STATE,...] [-n NAME,...] [-p PARTITION,...]
           [-A ACCOUNT,...] [-q QOS,...] [-o FORMAT | -O FIELD,...]

What it is asked beside that is named and left out. Standard library only; gpuctl knows the jobs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable

from gpud.slurm.jobs import STATES, Row, gpuctl_words, job_name, job_number, moment, show

_LABELS = {"partition": "gpud", "account": "(null)", "qos": "normal"}  # and what stands there without one
_DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_STARTS = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %R"
_LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"


def _clock(seconds: float | None) -> str:
    """Return a time as Slurm writes it: `3:05`, `1:00:00`, `2-12:00:00`."""
    if seconds is None:
        return "UNLIMITED"
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def date(at: float | None) -> str:
    """Return a time as Slurm writes it."""
    return "N/A" if at is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def _used_s(row: Row) -> float:
    began = moment(row["started_at"])
    return 0.0 if began is None else time.time() - began


def _end(row: Row) -> float | None:
    began = moment(row["started_at"])
    return None if began is None or row["time_limit_s"] is None else began + row["time_limit_s"]


def _where(row: Row) -> str:
    nodes = ",".join(part["node"] for part in row["allocation"])
    return nodes or f"({row['reason'] or 'None'})"


def _label(name: str) -> Callable[[Row], object]:
    return lambda row: row["labels"].get(name, _LABELS[name])


# What -o and -O call a column, its title, and what stands there.
_COLUMNS: dict[str, tuple[str, str, Callable[[Row], object]]] = {
    "i": (
        "jobarrayid",
        "JOBID",
        lambda row: f"{row['id']}_[{row['array_pending']}]" if row.get("array_pending") else row["id"],
    ),
    "A": ("jobid", "JOBID", lambda row: job_number(row["id"])),
    "F": ("arrayjobid", "ARRAY_JOB_ID", lambda row: row["id"].partition("_")[0]),
    "K": ("arraytaskid", "ARRAY_TASK_ID", lambda row: "N/A" if row["array_index"] is None else row["array_index"]),
    "j": ("name", "NAME", lambda row: row["name"]),
    "u": ("username", "USER", lambda row: row["user"]),
    "t": ("statecompact", "ST", lambda row: STATES[row["state"]][0]),
    "T": ("state", "STATE", lambda row: STATES[row["state"]][1]),
    "M": ("timeused", "TIME", lambda row: _clock(_used_s(row))),
    "l": ("timelimit", "TIME_LIMIT", lambda row: _clock(row["time_limit_s"])),
    "L": (
        "timeleft",
        "TIME_LEFT",
        lambda row: _clock(None if row["time_limit_s"] is None else row["time_limit_s"] - _used_s(row)),
    ),
    "D": ("numnodes", "NODES", lambda row: row["nodes"]),
    "C": ("numcpus", "CPUS", lambda row: row["cpus"] or 1),
    "m": ("minmemory", "MIN_MEMORY", lambda row: f"{row['memory_mib'] or 0}M"),
    "b": ("tres-per-node", "TRES_PER_NODE", lambda row: f"gres/gpu:{row['gpus']}" if row["gpus"] else "N/A"),
    "N": ("nodelist", "NODELIST", lambda row: ",".join(part["node"] for part in row["allocation"])),
    "R": ("reasonlist", "NODELIST(REASON)", _where),
    "r": ("reason", "REASON", lambda row: row["reason"] or "None"),
    "P": ("partition", "PARTITION", _label("partition")),
    "a": ("account", "ACCOUNT", _label("account")),
    "q": ("qos", "QOS", _label("qos")),
    "Q": ("prioritylong", "PRIORITY", lambda row: row["priority"]),
    "S": ("starttime", "START_TIME", lambda row: date(moment(row["started_at"] or row["expected_start_at"]))),
    "e": ("endtime", "END_TIME", lambda row: date(_end(row))),
    "V": ("submittime", "SUBMIT_TIME", lambda row: date(moment(row["submitted_at"]))),
    "Z": ("workdir", "WORK_DIR", lambda row: row["workdir"]),
    "o": ("command", "COMMAND", lambda row: row["command"][0] if row["command"] else "(null)"),
}
_LETTERS = {name: letter for letter, (name, _, _) in _COLUMNS.items()}


def line(form: str, row: Row | None) -> str:
    """Return a job as a format of -o has it, `%.8j %T`; None: the titles."""

    def put(found: re.Match[str]) -> str:
        right, width, letter = found.groups()
        _, title, value = _COLUMNS.get(letter, ("", "N/A", lambda _: "N/A"))
        text = title if row is None else str(value(row))
        if width:
            text = text[: int(width)].rjust(int(width)) if right else text[: int(width)].ljust(int(width))
        return text

    return re.sub(r"%(\.?)(\d*)([a-zA-Z])", put, form)


def _form(asked: argparse.Namespace) -> str:
    if asked.Format is None:
        return str(asked.format or (_STARTS if asked.start else _LONG if asked.long else _DEFAULT))
    fields = (word.partition(":") for word in asked.Format.split(","))
    return "".join(
        f"%{re.sub('[^0-9]', '', width) or 20}{_LETTERS.get(name.lower(), 'y')}" for name, _, width in fields
    )


def _elements(row: Row) -> list[Row]:
    """Return an array's row as one for each element that has not started; another as it is."""
    if not row.get("array_pending"):
        return [row]
    indices: list[int] = []
    for part in row["array_pending"].split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        indices += range(int(first), int(last or first) + 1, int(step or 1))
    return [row | {"id": f"{row['id']}_{index}", "array": None, "array_index": index} for index in indices]


def _jobs(asked: argparse.Namespace) -> list[Row] | None:
    """Return the unfinished jobs that are asked for; None where gpuctl fails, and says why."""
    named = [job_name(word) for word in (asked.jobs or "").split(",") if word]
    words = ["--limit", "10000", *(["--mine"] if asked.me else []), *named]
    done = subprocess.run([*gpuctl_words(), "--json", "list", *words], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    users, names = ((text or "").split(",") for text in (asked.user, asked.name))
    labels = [(name, {*vars(asked)[name].split(",")}) for name in _LABELS if vars(asked)[name] is not None]
    states = (asked.states or ("pd" if asked.start else "all")).upper().split(",")
    return [
        each
        for row in json.loads(done.stdout)
        for each in (_elements(row) if asked.array else [row])
        if row["state"] in STATES
        and (asked.user is None or row["user"] in users or str(row["uid"]) in users)
        and (asked.name is None or row["name"] in names)
        and all(wanted & {*row["labels"].get(name, _LABELS[name]).split(",")} for name, wanted in labels)
        and ("ALL" in states or {*STATES[row["state"]]} & {*states})
    ]


def main(words: list[str]) -> int:
    """Print the queue; return the exit status."""
    if words[:1] in (["--help"], ["--usage"], ["--version"], ["-V"]):
        show(["squeue of gpud", *(__doc__ or "").split("\n")[2:4]])
        return 0
    parser = argparse.ArgumentParser("squeue", add_help=False)
    for names in (("-h", "--noheader"), ("--me",), ("-l", "--long"), ("-r", "--array"), ("-a", "--all"), ("--start",)):
        parser.add_argument(*names, action="store_true")
    pairs = (("-j", "--jobs"), ("-u", "--user"), ("-t", "--states"), ("-n", "--name"), ("-o", "--format"))
    for short, long in (*pairs, ("-O", "--Format"), ("-p", "--partition"), ("-A", "--account"), ("-q", "--qos")):
        parser.add_argument(short, long)
    asked, unknown = parser.parse_known_args(words)
    if unknown:
        sys.stderr.write(f"squeue: {' '.join(unknown)}: cannot be had here; left out\n")
    jobs, form = _jobs(asked), _form(asked)
    if jobs is None:
        return 1
    show(line(form, row).rstrip() for row in [*(() if asked.noheader else (None,)), *jobs])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
