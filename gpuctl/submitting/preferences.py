"""One's own defaults for `submit` and `run`: options in the table [submit] of ~/.config/gpud/gpuctl.toml.

What is typed wins, and what stands in a script's directives. Read where the file exists, and only then.
"""

import tomllib
from typing import Any

import click

from gpuctl.errors import UsageError
from gpuctl.submitting import options

_ONE_OF = (frozenset({"gpus", "gpus_per_node", "gpu_ids", "nodes"}), frozenset({"retries", "retry_on"}))


def over(path: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the file's for those that nobody said. Raises UsageError, with the file's name."""
    own = _own()
    flags = {option.name for option in own if option.is_flag and not option.secondary_opts}
    said = {key for key, value in given.items() if value not in (None, ()) and not (value is False and key in flags)}
    said |= {key for family in _ONE_OF if family & said for key in family}
    return given | {key: value for key, value in _read(path, own).items() if key in given and key not in said}


def _read(path: str, own: list[click.Option]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="it holds your own defaults for submit"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not TOML: {error}", hint="write, for example: [submit] and below it: gpus = 0"
        ) from error
    table = document.pop("submit", {})
    if document or not isinstance(table, dict):
        unknown = next(iter(document), "submit")
        raise UsageError(f"{path}: unknown {unknown!r}", hint="it holds a table [submit] with options of gpuctl submit")
    return _understood(path, table, own)


def _own() -> list[click.Option]:
    """Return every option that a job can be submitted with."""

    def nothing() -> None:
        """Stand in for a command."""

    params = reversed(options.options(nothing).__click_params__)  # type: ignore[attr-defined]  # where Click keeps them
    return [param for param in params if isinstance(param, click.Option) and param.expose_value]


def _understood(path: str, table: dict[str, Any], own: list[click.Option]) -> dict[str, Any]:
    """Return the options of a table by their parameters' names, taken as if they had been typed. Raises UsageError."""
    words: list[str] = []
    for key, value in table.items():
        name = f"--{key.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            words += _typed(name, each, own)
    try:
        context = click.Command("[submit]", params=[*own], add_help_option=False).make_context("[submit]", words)
    except click.UsageError as error:
        raise UsageError(
            f"{path}: {error.format_message()}", hint="any option of gpuctl submit can stand there: time-limit = '2h'"
        ) from error
    typed = click.core.ParameterSource.COMMANDLINE
    return {key: value for key, value in context.params.items() if context.get_parameter_source(key) is typed}


def _typed(name: str, value: Any, own: list[click.Option]) -> list[str]:
    """Return an option as it would have been typed: a flag that is off is its opposite, or nothing."""
    if value is False:
        opposite = [word for option in own if name in option.opts for word in option.secondary_opts]
        return opposite[:1]
    return [name] if value is True else [f"{name}={value}"]
