"""Options that stand in a script's own comments: `#GPUCTL --gpus 2 --time-limit 2h`, and `#SBATCH` lines.

`#GPUCTL` takes any option of submit and wins over `#SBATCH`; the command line wins over both. Only scripts that have
such lines pay for this module.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from gpuctl.errors import UsageError
from gpuctl.parse import BareSeconds
from gpuctl.slurm.advice import advice, missing, unread
from gpuctl.slurm.lines import Directive, directives, options as sbatch_options
from gpuctl.slurm.mapping import Understood, passed_on, understood, user
from gpuctl.submitting import options

# What is said of these in several places holds together.
_TOGETHER = frozenset({"label", "env", "node_label", "notify", "not_gpu", "not_node"})
_ONE_OF = (frozenset({"gpus", "gpus_per_node"}), frozenset({"retries", "retry_on"}))  # who says one of these, says all
_INSTEAD = (
    ("of type", "--gpu-type '*'"),
    ("CPU", "--cpus N"),
    ("of memory", "--memory SIZE"),
    ("nodes", "--nodes 1"),
    ("GPUs", "--gpus N"),
)
_OF_GPUS = ("gpus", "gpus_per_node", "gpu_ids", "gpu_memory", "gpu_type", "share", "mig")


class Script(NamedTuple):
    """A script with its directives understood.

    `given` are the options in force, the command line's included; `fields` is more of the request, `content` what is
    to be kept of the script. `of_slurm` is what its `#SBATCH` lines came to, where it has any. `notes` are for people.
    """

    given: dict[str, Any]
    fields: dict[str, Any]
    content: bytes
    of_slurm: Understood | None
    notes: list[str]

    def hint_for(self, refusal: str) -> str | None:
        """Return what to type where the machine has not what the script asks for, as the words of a refusal say it."""
        for word, typed in _INSTEAD:
            if word in refusal:
                return f"what is typed wins over the script: gpuctl submit {typed} {self.given['command'][0]}"
        return None

    def environment(self, submitted: dict[str, str]) -> dict[str, str]:
        """Return the variables that the job is passed."""
        if self.of_slurm is None:
            return submitted
        return {"USER": user()} | passed_on(submitted, self.of_slurm.keep) | self.of_slurm.environment


def read(given: dict[str, Any], content: bytes, *, path: str, submit_dir: str) -> Script:
    """Return what a script and the command line ask for together. Raises UsageError, with the script's line."""
    name = os.path.basename(path)
    text = content.decode("utf-8", "surrogateescape")
    found, late = directives(text)
    notes = [(line, f"{name}, line {line}: {note}") for line, note in (*late.items(), *unread(text))]
    try:
        slurm_s = any("#SBATCH" in note for note in late.values()) or any(each.kind == "SBATCH" for each in found)
        wins: dict[str, Any] = {}
        for each in found:
            if each.kind == "GPUCTL":
                wins = _over(wins, _own(each))
        wins = _over(wins, {key: value for key, value in given.items() if _said(value)})
        of_slurm = _slurm([each for each in found if each.kind == "SBATCH"], submit_dir, wins) if slurm_s else None
    except UsageError as error:
        raise UsageError(f"{name}, {error.message}", hint=error.hint) from error
    merged = given | (wins if of_slurm is None else _over(of_slurm.given, wins))
    fields: dict[str, Any] = {}
    if of_slurm is not None:
        fields = {"sbatch": True} | of_slurm.fields
        if not any(_said(merged.get(key)) for key in _OF_GPUS):
            merged["gpus"] = 0
        taken = {key for key, value in given.items() if _said(value)}
        notes += [(line, f"{name}, line {line}: {note}") for line, note in of_slurm.notes if not _moot(note, taken)]
        told = {word.partition("=")[0] for word in merged["env"]}
        said = advice(text, gpus=merged.get("gpus") != 0, tasks=of_slurm.environment["GPUD_STEP_TASKS"], told=told)
        notes += [(line, f"{name}, line {line}: {note}") for line, note in said]
        notes += [(0, note) for note in _typed_otherwise(given)]
    else:
        notes += [(line, f"{name}, line {line}: {note}") for line, note in missing(text)]
    if found and b"\r\n" in content:
        content = content.replace(b"\r\n", b"\n")
        notes.append((0, f"{name}: its Windows line ends are taken off in the copy that is run"))
    return Script(merged, fields, content, of_slurm, [note for _, note in sorted(notes)])


def _slurm(lines: list[Directive], submit_dir: str, wins: dict[str, Any]) -> Understood:
    found, strange = sbatch_options(lines)
    result = understood(found, submit_dir=submit_dir, typed=wins)
    more = [(line, note) for line, notes in strange.items() for note in notes]
    return result._replace(notes=sorted([*result.notes, *more]))


def _own(line: Directive) -> dict[str, Any]:
    """Return the options of a `#GPUCTL` line by their parameters' names. Raises UsageError."""

    def nothing() -> None:
        """Stand in for a command."""

    params = reversed(options.options(nothing).__click_params__)  # type: ignore[attr-defined]  # where Click keeps them
    own = [param for param in params if isinstance(param, click.Option) and param.expose_value]
    try:
        context = click.Command("#GPUCTL", params=[*own], add_help_option=False).make_context("#GPUCTL", [*line.words])
    except click.UsageError as error:
        hint = "any option of gpuctl submit can stand there: gpuctl submit --help"
        raise UsageError(f"line {line.line}: {error.format_message()}", hint=hint) from error
    return {key: value for key, value in context.params.items() if _said(value)}


def _said(value: Any) -> bool:
    """Return whether somebody said so: what is not said is None, a flag that is not set, or an empty list."""
    return value is not None and value is not False and value != ()


def _over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return both, where the upper wins."""
    gone = {key for family in _ONE_OF if family & upper.keys() for key in family}
    both = {key: (*lower.get(key, ()), *value) for key, value in upper.items() if key in _TOGETHER}
    return {key: value for key, value in lower.items() if key not in gone} | upper | both


def _typed_otherwise(given: dict[str, Any]) -> Iterator[str]:
    """Yield what is to be said of the command line before a script for sbatch, where that means other things."""
    limit, name = given["time_limit"], given["name"]
    if isinstance(limit, BareSeconds):
        yield f"--time-limit {limit:g} are seconds, where sbatch counts minutes: for those write {limit:g}m"
    if (name or "").isdigit():
        yield f"-n {name} is its name, not a number of tasks: that is a line #SBATCH --ntasks={name} in the script"


def _moot(note: str, taken: set[str]) -> bool:
    """Return whether the command line said otherwise than what a note is about."""
    return {"output": "output", "error": "error"}.get(note.removeprefix("--").partition("=")[0], "") in taken
