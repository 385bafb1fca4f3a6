"""gpud's jobs as Slurm calls them, and how gpuctl is asked about them. Standard library only, and little of it."""

import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
_SHIFT = 24  # an element is one number to Slurm: see gpud.model.job
STATES = {
    **dict.fromkeys(("held", "queued"), ("PD", "PENDING")),
    "starting": ("CF", "CONFIGURING"),
    "running": ("R", "RUNNING"),
    "stopping": ("CG", "COMPLETING"),
}
_ENDS = {"timed_out": "TIMEOUT", "lost": "NODE_FAIL"}


def job_name(word: str) -> str:
    """Return a job as gpuctl calls it, from the number that SLURM_JOB_ID has of it."""
    number = word.removeprefix("JobId=").removeprefix("jobid=")
    if number.isdigit() and int(number) >> _SHIFT and (index := int(number) & ((1 << _SHIFT) - 1)):
        return f"{int(number) >> _SHIFT}_{index - 1}"
    return number


def job_number(name: str) -> str:
    """Return the number that SLURM_JOB_ID has of a job: the inverse of `job_name`."""
    number, _, index = name.partition("_")
    return str((int(number) << _SHIFT) + int(index) + 1) if index.isdigit() else number


def state(row: Row) -> str:
    """Return a job's state as Slurm calls it."""
    return STATES[row["state"]][1] if row["state"] in STATES else _ENDS.get(row["state"], row["state"].upper())


def moment(text: str | None) -> float | None:
    """Return a time of gpuctl's JSON in seconds since 1970."""
    from datetime import datetime  # noqa: PLC0415 - srun has no time for it

    return None if text is None else datetime.fromisoformat(text).timestamp()


def show(lines: Iterable[str]) -> None:
    """Print lines; who reads them may have had enough, as `head` has."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def gpuctl(*words: str) -> int:
    """Let gpuctl do it."""
    command = [*gpuctl_words(), *words]
    os.execv(command[0], command)  # noqa: S606 - without a shell


def gpuctl_words() -> list[str]:
    """Return how gpuctl is called from here."""
    python = os.environ.get("GPUD_STEP_PYTHON", sys.executable)
    begin = "import sys; sys.path.append(sys.argv.pop(1)); from gpuctl.__main__ import main; main()"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [python, "-I", "-c", begin, root]
