"""A small `sacct`: what jobs used, in the columns that scripts ask for at their end.

    sacct [-nPpXab] [-j JOB,...] [-u USER,...] [-s STATE,...] [--name NAME,...] [-S TIME] [-o FIELD[%WIDTH],...]

Without a job, one's own of the last day. Steps are not counted by themselves: there is a line for each job. What it is
asked beside that is named and left out. Standard library only; gpuctl knows the jobs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from gpud.slurm.jobs import Row, gpuctl_words, job_name, job_number, moment, show, state
from gpud.slurm.squeue import date

_BRIEFLY = {"PENDING": "PD", "RUNNING": "R", "COMPLETED": "CD", "FAILED": "F", "CANCELLED": "CA", "TIMEOUT": "TO"}
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
    "jobid": lambda row: f"{row['id']}_[{row['array_pending']}]" if row.get("array_pending") else row["id"],
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
    since = ["--since", _since(asked.starttime)] if asked.starttime else [] if named else ["--since", "1d"]
    words = ["list", "--all", "--results", "--limit", "10000", "--sort", "id", *mine, *since, *named]
    done = subprocess.run([*gpuctl_words(), "--json", *words], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    chosen = (None if text is None else {*text.split(",")} for text in (asked.user, asked.name, asked.state))
    users, names, states = chosen
    return [
        row
        for row in json.loads(done.stdout)
        if (users is None or {row["user"], str(row["uid"])} & users)
        and (names is None or row["name"] in names)
        and (states is None or {state(row), _BRIEFLY.get(state(row), "")} & {each.upper() for each in states})
    ]


def _since(text: str) -> str:
    """Return a time of sacct's as gpuctl has it: `now-2days` is `2d`, `11/22` a day of this year."""
    away = re.fullmatch(r"now(?:-(\d+)(s|m|h|d|w)?[a-z]*)?", text)
    if away is not None:
        return f"{int(away[1] or 1) * (7 if away[2] == 'w' else 1)}{(away[2] or 's').replace('w', 'd')}"
    if (day := re.fullmatch(r"(\d\d)[/.](\d\d)(?:[/.](\d\d))?", text)) is not None:
        return f"{'20' + day[3] if day[3] else time.localtime().tm_year}-{day[1]}-{day[2]}"
    return {"midnight": "00:00", "noon": "12:00", "teatime": "16:00"}.get(text, text)


def main(words: list[str]) -> int:
    """Print what jobs used; return the exit status."""
    if words[:1] in (["--help"], ["-h"], ["--usage"], ["--version"], ["-V"]):
        show(["sacct of gpud", *(__doc__ or "").split("\n")[2:3]])
        return 0
    if words[:1] in (["--helpformat"], ["-e"]):
        show(_FIELDS)
        return 0
    parser = argparse.ArgumentParser("sacct", add_help=False)
    flags = (("-n", "--noheader"), ("-P", "--parsable2"), ("-p", "--parsable"), ("-X", "--allocations"))
    for names in (*flags, ("-a", "--allusers"), ("-b", "--brief")):
        parser.add_argument(*names, action="store_true")
    for pair in ("-j --jobs", "-u --user", "-S --starttime", "-E --endtime", "-s --state", "-o --format", "--name"):
        parser.add_argument(*pair.split())
    parser.add_argument("--delimiter", default="|")
    asked, unknown = parser.parse_known_args(words)
    if asked.endtime not in (None, "now"):
        unknown.append(f"--endtime={asked.endtime}")
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
        show(" ".join(line).rstrip() for line in padded)
        return 0
    between = asked.delimiter
    show(between.join(line) + between * asked.parsable for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
