"""A file of jobs in TOML: [defaults], [[job]] with a `command` and the options of `submit` by name, [job.grid].

Of a job with a grid `{name}` is what the grid has of that name, `{{name}}` that word in braces; `${name}` is a shell's.
"""

import itertools
import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

from gpuctl.errors import UsageError
from gpuctl.submitting.braces import check_count, expanded

_HEAD = re.compile(r"\s*\[\[\s*job\s*\]\]")
_NAMED = re.compile(r"\{(\{[^\W\d][\w.-]*\})\}|(?<!\$)\{([^\W\d][\w.-]*)\}")
_HINT = "write [[job]] with command = 'python train.py', and options by their names: gpus = 2"


def jobs(text: str, called: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every job, as one would type them behind `gpuctl submit`, with where it stands."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{called}: {error}") from error
    defaults, each = document.get("defaults", {}), document.get("job", [])
    wrong = document.keys() - {"defaults", "job"}
    wrong |= {"defaults"} if not isinstance(defaults, dict) else set()
    wrong |= {"job"} if not isinstance(each, list) or not all(isinstance(job, dict) for job in each) else set()
    if wrong:
        raise UsageError(f"{called}: {min(wrong)!r} is not understood here", hint=_HINT)
    heads = [number for number, line in enumerate(text.splitlines(), 1) if _HEAD.match(line)]
    for number, job in enumerate(each):
        where = f"{called}:{heads[number]}" if number < len(heads) else f"{called}: job {number + 1}"
        try:
            for words in _job({**defaults, **job}):
                yield where, words
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from error


def _job(job: dict[str, Any]) -> Iterator[list[str]]:
    command, grid = job.pop("command", None), job.pop("grid", {})
    if not isinstance(command, str | list) or not command:
        raise UsageError("a job without a command", hint=_HINT)
    if not isinstance(grid, dict) or [] in grid.values():
        raise UsageError("its grid is no table of names, each with values", hint="[job.grid], then: lr = [0.1, 0.01]")
    axes = {name: values if isinstance(values, list) else [values] for name, values in grid.items()}
    _check_grid(axes, command, job)
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, map(_written, combination), strict=True))
        options = [word for name, value in job.items() for word in _option(name, value)]
        if isinstance(command, list):
            yield [_filled(word, values) for word in [*options, "--", *map(_written, command)]]
            continue
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(str(error).lower(), hint="quotes come in pairs") from error
        for each in expanded([_filled(word, values) for word in words]):
            yield [*(_filled(word, values) for word in options), *each]


def _check_grid(axes: dict[str, list[Any]], command: object, job: dict[str, Any]) -> None:
    """Raise UsageError for a name that only one of a grid and its job has, or for too large a grid."""
    used = {found[2] for found in _NAMED.finditer(repr((command, job))) if found[2]} if axes else set()
    for name in axes.keys() - used:
        raise UsageError(f"its grid has {name}, which its command does not use", hint=f"write {{{name}}} in it")
    for name in sorted(used - axes.keys()):
        hint = f"its grid has {', '.join(axes)}; where these braces are meant, write {{{{{name}}}}}"
        raise UsageError(f"{{{name}}} is not in its grid", hint=hint)
    check_count("its grid makes", math.prod(map(len, axes.values())))


def _option(name: str, value: object) -> list[str]:
    """Return an option's words: a list repeats it, a table gives it K=V."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else [f"--no-{option.removeprefix('--')}"] if name == "preemptible" else []
    if isinstance(value, dict):
        return [word for key, each in value.items() for word in (option, f"{key}={_written(each)}")]
    values = value if isinstance(value, list) else [value]
    return [word for each in values for word in (option, _written(each))]


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filled(word: str, values: dict[str, str]) -> str:
    return _NAMED.sub(lambda found: found[1] or values[found[2]], word) if values else word
