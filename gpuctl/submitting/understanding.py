"""What was understood of a submit, for a dry run: its options as they could have been typed, and the request."""

import shlex
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gpuctl.errors import RefusedError
from gpuctl.parse import AFTER, BEGIN, DURATION, GRACE, KINDS, LABEL, LIMIT, SIZE

if TYPE_CHECKING:
    from gpuctl.submitting.directives import Script

_UNSHOWN = ("environment", "limits", "umask", "script")
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def written(command: click.Command, given: dict[str, Any], *, literal: bool = False) -> list[str]:
    """Return options, by their parameters' names, and the command as words of a command line."""
    words: list[str] = []
    for param in command.params:
        if isinstance(param, click.Option) and param.expose_value and param.name in given and param.name != "dry_run":
            value = given[param.name]
            for each in value or () if param.multiple else [value]:
                words += _option(param, each)
    return [*words, *(["--"] if literal else []), *given["command"]]


def line(words: list[str]) -> str:
    """Return words as one line that a shell would take apart again."""
    return shlex.join(["gpuctl", "submit", *words])


def beside(script: "Script | None") -> list[str]:
    """Return what was understood of `#SBATCH` lines and is no option of submit, as words for people."""
    if script is None or script.of_slurm is None:
        return []
    words, fields, of_slurm = [], script.fields, script.of_slurm
    if "checkpoint_to" in fields and not script.given.get("checkpoint_signal"):
        number, to = fields["checkpoint_signal"], "the script" if fields["checkpoint_to"] == "script" else "its steps"
        name = next((each.name for each in signal.Signals if each == number), f"signal {number}")
        if script.given.get("time_limit"):
            words.append(f"{name} goes to {to} {fields['checkpoint_before_s']:g} s before the time limit")
    if of_slurm.keep is not None:
        words.append("of your variables it gets those of a login, and those that --export names")
    tasks = of_slurm.environment["GPUD_STEP_TASKS"]
    return [*words, f"srun starts {tasks} tasks"] if tasks != "1" else words


def document(
    words: list[str], fields: dict[str, Any], script: "Script | None", refused: RefusedError | None
) -> dict[str, Any]:
    """Return a dry run as `--json` prints it: `request` is what would be sent, less what a shell gives every job."""
    of_slurm = None if script is None else script.of_slurm
    return {
        "id": None,
        "queue_position": None,
        "reason": None if refused is None else refused.message,
        "options": words,
        "request": {key: value for key, value in fields.items() if key not in _UNSHOWN},
        "variables": {} if of_slurm is None else of_slurm.environment,
        "notes": [] if script is None else script.notes,
    }


def _option(param: click.Option, value: Any) -> list[str]:
    name = max(param.opts, key=len)
    if value is None or value is False:
        return [param.secondary_opts[0]] if value is False and param.secondary_opts else []
    return [name] if value is True else [name, _word(param.type, value)]


def _word(kind: object, value: Any) -> str:
    """Return a value as it is typed."""
    if kind in (DURATION, GRACE, LIMIT):
        return _duration(value)
    if kind is SIZE:
        return f"{value // 1024}G" if value % 1024 == 0 else f"{value}M"
    if kind is BEGIN:
        return datetime.fromtimestamp(value, UTC).astimezone().isoformat(timespec="seconds")
    if kind is AFTER:
        when, jobs = value
        named = ",".join(jobs)
        return named if when == "success" else f"{when}:{named}" if jobs else str(when)
    if kind is LABEL:
        return "=".join(value)
    if kind is KINDS:
        return ",".join(value)
    if isinstance(value, list):  # pairs of an event and whom to tell
        return f"{','.join(event for event, _ in value)}={value[0][1]}"
    return str(value)


def _duration(seconds: float) -> str:
    left, words = seconds, ""
    for unit, size in _UNITS if seconds == int(seconds) else ():
        words += f"{int(left // size)}{unit}" if left >= size else ""
        left %= size
    return words or f"{seconds:g}"
