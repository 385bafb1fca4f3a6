"""A small `sacct`: what jobs used, in the columns that scripts ask for at their end.

    sacct [-nPpXab] [-j JOB,...] [-u USER,...] [-S TIME] [-o FIELD[%WIDTH],...]

Without a job, one's own of the last day. Steps are not counted by themselves: there is a line for each job. What it is
asked beside that is named and left out. Standard library only; gpuctl knows the jobs.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from gpud.slurm.jobs import Row, gpuctl_words, job_name, job_number, moment, state
from gpud.slurm.squeue import date

_DEFAULT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
_BRIEF = "JobID,State,ExitCode"


def _clock(seconds: float | None) -> str:
    """Return a time as sacct writes it: `00:03:05`, `2-12:00:00`."""
    if seconds is None:
        return ""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hour:02}:{minute:02}:{second:02}"


def _used(key: str) -> Callable[[Row], Any]:
    return lambda row: (row.get("results") or {}).get(key)


def _size(mib: float | None) -> str:
    return "" if mib is None else f"{int(mib) << 10}K"


def _gpus(row: Row) -> str:
    gpus = f",gres/gpu={row['gpus']}" if row["gpus"] else ""
    return f"billing={row['cpus'] or 1},cpu={row['cpus'] or 1}{gpus},node={row['nodes']}"


_FIELDS: dict[str, Callable[[Row], object]] = {
    "jobid": lambda row: f"{row['id']}_[{row['array_pending']}]" if row.get("array") else row["id"],
    "jobidraw": lambda row: job_number(row["id"]),
    "jobname": lambda row: row["name"],
    "user": lambda row: row["user"],
    "uid": lambda row: row["uid"],
    "partition": lambda row: row["labels"].get("partition", "gpud"),
    "account": lambda row: row["labels"].get("account", ""),
    "qos": lambda row: row["labels"].get("qos", "normal"),
    "state": state,
    "exitcode": lambda row: f"{row['exit_code'] or 0}:{row['signal'] or 0}",
    "submit": lambda row: date(moment(row["submitted_at"])),
    "start": lambda row: date(moment(row["started_at"])),
    "end": lambda row: date(moment(row["ended_at"])),
    "elapsed": lambda row: _clock(_used("run_s")(row) or 0.0),
    "elapsedraw": lambda row: int(_used("run_s")(row) or 0),
    "timelimit": lambda row: "UNLIMITED" if row["time_limit_s"] is None else _clock(row["time_limit_s"]),
    "totalcpu": lambda row: _clock(_used("cpu_s")(row)),
    "maxrss": lambda row: _size(_used("memory_peak_mib")(row)),
    "consumedenergy": lambda row: int(_used("energy_j")(row) or 0),
    "consumedenergyraw": lambda row: int(_used("energy_j")(row) or 0),
    "reqmem": lambda row: f"{row['memory_mib'] or 0}M",
    **dict.fromkeys(("alloccpus", "ncpus", "reqcpus"), lambda row: row["cpus"] or 1),
    **dict.fromkeys(("nnodes", "allocnodes", "reqnodes"), lambda row: row["nodes"]),
    "nodelist": lambda row: ",".join(part["node"] for part in row["allocation"]) or "None assigned",
    **dict.fromkeys(("alloctres", "reqtres"), _gpus),
    "workdir": lambda row: row["workdir"],
}


def _said(name: str, row: Row) -> str:
    """Return what a field says of a job; of one that there is not here nothing."""
    field = _FIELDS.get(name.lower())
    return "" if field is None else str(field(row))


def _jobs(asked: argparse.Namespace) -> list[Row] | None:
    """Return the jobs that are asked for; None where gpuctl fails, and says why."""
    named = [job_name(re.sub(r"\.\w+$", "", word)) for word in (asked.jobs or "").split(",") if word]
    mine = [] if named or asked.user or asked.allusers else ["--mine"]
    since = ["--since", asked.starttime] if asked.starttime else [] if named else ["--since", "1d"]
    words = ["list", "--all", "--results", "--limit", "10000", "--sort", "id", *mine, *since, *named]
    done = subprocess.run([*gpuctl_words(), "--json", *words], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    users = None if asked.user is None else asked.user.split(",")
    return [row for row in json.loads(done.stdout) if users is None or {row["user"], str(row["uid"])} & {*users}]


def main(words: list[str]) -> int:
    """Print what jobs used; return the exit status."""
    parser = argparse.ArgumentParser("sacct", add_help=False)
    flags = (("-n", "--noheader"), ("-P", "--parsable2"), ("-p", "--parsable"), ("-X", "--allocations"))
    for names in (*flags, ("-a", "--allusers"), ("-b", "--brief")):
        parser.add_argument(*names, action="store_true")
    for short, long in (("-j", "--jobs"), ("-u", "--user"), ("-S", "--starttime"), ("-o", "--format")):
        parser.add_argument(short, long)
    parser.add_argument("--delimiter", default="|")
    asked, unknown = parser.parse_known_args(words)
    if unknown:
        sys.stderr.write(f"sacct: {' '.join(unknown)}: cannot be had here; left out\n")
    fields = [each.partition("%") for each in (asked.format or (_BRIEF if asked.brief else _DEFAULT)).split(",")]
    rows = _jobs(asked)
    if rows is None:
        return 1
    values = [[_said(name, row) for name, _, _ in fields] for row in rows]
    lines = [*([] if asked.noheader else [[name for name, _, _ in fields]]), *values]
    if not (asked.parsable or asked.parsable2):
        widths = [int(re.sub(r"\D", "", width) or 10) for _, _, width in fields]
        rules = [] if asked.noheader else [["-" * width for width in widths]]
        lines = [*lines[: len(rules)], *rules, *lines[len(rules) :]]
        padded = [[text[:width].rjust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
        print("\n".join(" ".join(line).rstrip() for line in padded))  # noqa: T201 - it is what was asked for
        return 0
    between = asked.delimiter
    print("\n".join(between.join(line) + between * asked.parsable for line in lines))  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
