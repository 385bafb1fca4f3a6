"""A small `scancel`: jobs are cancelled by gpuctl; a signal goes where Slurm would send it.

    scancel [--user USER | --me] [--state STATE] [--name NAME] [JOB...]
    scancel --signal SIGNAL [--batch | --full] JOB...

A signal goes to what `srun` started, with `--batch` to the script alone, with `--full` to all of the job's processes.
That holds for the job in which it is called; of another one all processes get it. Standard library only.
"""

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
    own = job_name(os.environ.get("SLURM_JOB_ID", ""))
    if own in jobs and "full" not in options:
        jobs = [job for job in jobs if job != own]
        _send(number, batch="batch" in options)
    return gpuctl("signal", *jobs, str(number)) if jobs else 0


def _send(number: int, *, batch: bool) -> None:
    """Send a signal to this job's script, or to the tasks of its steps; each has a process group of its own."""
    parents = dict(_processes())
    if batch:
        pid = os.getpid()
        while parents.get(pid, ("", 0))[1] in parents and parents[parents[pid][1]][0] != "gpud-shim":
            pid = parents[pid][1]
        os.kill(pid, number)
        return
    job = f"SLURM_JOB_ID={os.environ.get('SLURM_JOB_ID', '')}".encode()
    steps = {pid for pid, (name, _) in parents.items() if name == "gpud-srun" and job in _environment(pid)}
    tasks = [pid for pid, (_, parent) in parents.items() if parent in steps]
    if not tasks:
        sys.stderr.write("scancel: no step of this job runs; --batch: the script itself gets the signal\n")
    for pid in tasks:
        try:
            os.killpg(pid, number)
        except OSError:  # it has ended meanwhile
            continue


def _processes() -> list[tuple[int, tuple[str, int]]]:
    """Return what runs: its pid, its name and its parent."""
    found = []
    for word in os.listdir("/proc"):
        if word.isdigit():
            try:
                with open(f"/proc/{word}/stat", encoding="utf-8", errors="replace") as file:
                    head, _, tail = file.read().rpartition(")")
            except OSError:
                continue
            found.append((int(word), (head.partition("(")[2], int(tail.split()[1]))))
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
