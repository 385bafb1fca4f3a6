"""A small `scancel`: jobs are cancelled by gpuctl; a signal goes where Slurm would send it.

    scancel [--user USER | --me] [--state STATE] [--name NAME] [JOB...]
    scancel --signal SIGNAL [--batch | --full] JOB...

A signal goes to what `srun` started, with `--batch` to the script alone, with `--full` to all of the job's processes.
Of another job in which there is no such thing all processes get it. Standard library only.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import NoReturn

from gpud.slurm.jobs import gpuctl, gpuctl_words, job_name

_NEED = {"s": "signal", "u": "user", "t": "state", "n": "name"}
_SAME = {"jobname": "name"}
_NONE = {"b": "batch", "f": "full", "Q": "quiet", "v": "verbose", "i": "interactive", "H": "hurry", "": "me"}
_STATES = {"PENDING": ("queued", "held"), "PD": ("queued", "held"), "RUNNING": ("running",), "R": ("running",)}


def main(words: list[str]) -> int:
    """Do what the words ask for; return the exit status."""
    options, jobs = _parse(words)
    if "signal" in options:
        return _signal(options, jobs)
    chosen = ["--user", options["user"]] if "user" in options else []
    if "state" in options:
        states = _STATES.get(options["state"].upper()) or _fail(f"gpud has no state {options['state']!r}")
        chosen += [word for state in states for word in ("--state", state)]
    if "user" not in options and ("me" in options or ((chosen or "name" in options) and not jobs)):
        chosen.append("--mine")
    if "name" in options:
        jobs, chosen = _named(options["name"].split(","), [*chosen, *jobs]), []
        if not jobs:
            return 0  # as Slurm's
    if not jobs and not chosen:
        _fail("no job is named")
    return gpuctl("cancel", *chosen, *jobs)


def _named(names: list[str], chosen: list[str]) -> list[str]:
    """Return the unfinished jobs of these names among those that are chosen."""
    command = [*gpuctl_words(), "--json", "list", "--limit", "10000", *chosen]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    rows = json.loads(done.stdout)
    return [row["id"] for row in rows if row["name"] in names and row["ended_at"] is None]


def _parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options by their long names, and the jobs as gpuctl calls them."""
    options: dict[str, str] = {}
    jobs: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            jobs += [job_name(each) for each in word.split(",") if each]
            continue
        given, equals, value = word[2:].partition("=")
        if not word.startswith("--"):
            given = _NEED.get(word[1]) or _NONE.get(word[1], word[1])
            value = equals = word[2:]
        given = _SAME.get(given, given)
        if given in _NEED.values():
            options[given] = value if equals else rest.pop(0) if rest else _fail(f"{word} needs a value")
        elif given in _NONE.values():
            options[given] = ""
        else:
            _fail(f"{word} cannot be had here: name jobs, or --user, --me, --state, --name")
    return options, jobs


def _signal(options: dict[str, str], jobs: list[str]) -> int:
    """Send a signal to jobs, or to parts of this one."""
    name = options["signal"].upper().removeprefix("SIG")
    known = signal.Signals.__members__.get(f"SIG{name}")
    number = int(name) if name.isdigit() else int(known or 0)
    if not 0 < number < signal.NSIG:
        _fail(f"{options['signal']!r} is no signal")
    if not jobs:
        _fail("no job is named")
    if "full" not in options:
        jobs = [job for job in jobs if not _send(job, number, batch="batch" in options)]
    return gpuctl("signal", *jobs, str(number)) if jobs else 0


def _send(job: str, number: int, *, batch: bool) -> bool:
    """Send a signal to a job's script, or to the tasks of its steps; each has a process group of its own.

    Return whether there are any; of this job it is said that there are none.
    """
    processes = _processes()
    kept = os.environ.get("GPUD_STEP_LOCKS", "")  # of this gpud: another may have a job of that number, too
    place = f"GPUD_STEP_LOCKS={os.path.dirname(kept)}/{job}"
    whose = (f"{place}.".encode(), f"{place}_".encode())  # an attempt of it, or of an element
    shims = {pid for pid, (name, _, _) in processes.items() if name == "gpud-shim"}
    of_job = [
        pid
        for pid, (name, parent, _) in processes.items()
        if (parent in shims if batch else name == "gpud-srun")
        and any(each.startswith(whose) for each in _environment(pid))
    ]
    if batch:
        of_job.sort(key=lambda pid: processes[pid][2], reverse=True)
        scripts = {processes[pid][1]: pid for pid in of_job}  # the first one: a shim is given orphans later
        for pid in scripts.values():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)
        return bool(scripts)
    tasks = [pid for pid, (_, parent, _) in processes.items() if parent in of_job]
    if not tasks and job == job_name(os.environ.get("SLURM_JOB_ID", "")):
        sys.stderr.write("scancel: no step of this job runs; --batch: the script itself gets the signal\n")
        return True
    for pid in tasks:
        try:
            os.killpg(pid, number)
        except OSError:  # it has ended meanwhile
            continue
    return bool(tasks)


def _processes() -> dict[int, tuple[str, int, int]]:
    """Return what runs by its pid: its name, its parent, and when it began."""
    found = {}
    for word in os.listdir("/proc"):
        if word.isdigit():
            try:
                with open(f"/proc/{word}/stat", encoding="utf-8", errors="replace") as file:
                    head, _, tail = file.read().rpartition(")")
            except OSError:
                continue
            fields = tail.split()
            found[int(word)] = (head.partition("(")[2], int(fields[1]), int(fields[19]))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _fail(text: str) -> NoReturn:
    sys.stderr.write(f"scancel: error: {text}\n")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
