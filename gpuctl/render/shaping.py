"""`--columns`, `--format` and `--sort`: what a listing shows, chosen by whoever reads it, or their script."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gpuctl.errors import UsageError
from gpuctl.render import fields
from gpuctl.render.fields import Field, Item
from gpuctl.session import Session


class Shape(NamedTuple):
    """What was asked for: `columns` and `format` contradict each other; None is what the table is without a word."""

    columns: tuple[str, ...] | None
    format: str | None
    sort: str | None

    def sorted(self, items: Sequence[Item], known: Iterable[str] = ()) -> Sequence[Item]:
        """Return the items in the order that was asked for. Raises UsageError for a key that they have not."""
        if self.sort is None:
            return items
        keys = {*known, *(key for item in items for key in item)}
        if keys:
            fields.check_key(self.sort.removeprefix("-"), keys, "--sort")
        return fields.sorted_by(items, self.sort)

    def lines(
        self,
        of: Mapping[str, Field],
        items: Sequence[Item],
        usual: Callable[[Sequence[Item]], list[str]],
        known: Iterable[str] = (),
    ) -> list[str]:
        """Return the items as lines; `usual` makes the table of those who said nothing. Raises UsageError."""
        if self.format is not None:
            return fields.formatted(self.format, items, known)
        if self.columns is not None:
            return fields.rows(of, self.columns, items) if items else []
        return usual(items) if items else []


class _Names(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]  # as in parse
    """Names of columns, apart by commas."""

    name = "NAME,..."
    lists = True

    def __init__(self, of: Iterable[str]) -> None:
        self.choices = tuple(of)


def options(of: Mapping[str, Field]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options that make its `shape`."""
    example = "'{id} {state}'" if "id" in of else "'{name} {state}'"

    def columns(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        names = tuple(word.strip().lower().replace("-", "_") for word in value.split(",") if word.strip())
        for name in names or ("",):
            fields.check_key(name, of, "--columns")
        return names

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def shaped(
            *args: Any, columns: tuple[str, ...] | None, template: str | None, sort: str | None, **rest: Any
        ) -> Any:
            if columns is not None and template is not None:
                raise UsageError("--columns and --format contradict each other", hint="leave one of them out")
            if template == "":
                raise UsageError("--format is empty", hint=f"write keys of the JSON: --format {example}")
            session = click.get_current_context().find_object(Session)
            if session is not None and session.json and (columns is not None or template is not None):
                raise UsageError("--json prints every key", hint="leave --json out, or pick keys with jq")
            return command(*args, shape=Shape(columns, template, sort), **rest)

        listed = f"Show these: {', '.join(of)}."
        for option in (
            click.option("--sort", metavar="KEY", help="Order by a key of the JSON; -KEY: the other way round."),
            click.option("--format", "template", metavar="TEMPLATE", help=f"A line each: {example}, keys of the JSON."),
            click.option("--columns", type=_Names(of), callback=columns, help=listed),
        ):
            shaped = option(shaped)
        return shaped

    return give
