"""What every command shares: which gpud it speaks to, and how it prints.

Held by Click's context; a command gets it by `click.pass_obj`.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ParamSpec, TypeVar

import click

from gpuctl.client import Client, socket_path
from gpuctl.errors import UnreachableError

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """One call of gpuctl. `socket` is what `--socket` said; `json`, `paged`: whether JSON, a pager is wanted."""

    def __init__(self, socket: str | None = None) -> None:
        self.socket = socket
        self.json = False
        self.paged = True

    def connect(self, *, start: bool = True) -> Client:
        """Return a connection to gpud; with `start`, the user's own is started where none runs."""
        path = socket_path(self.socket)
        try:
            return Client(path, start=(lambda: self._started(path)) if start else None, told=note)
        except UnreachableError as error:
            if start and self.socket is None:
                _ask_for_the_machine_s(path, error)
            raise

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask gpud one thing."""
        with self.connect() as client:
            return client.request(op, **fields)

    def print_json(self, document: object) -> None:
        """Print one JSON document."""
        from gpuctl.render.plain import to_json  # noqa: PLC0415 - submit has no time for json

        click.echo(to_json(document))

    def show(self, lines: Sequence[str]) -> None:
        """Print lines for a person, who may want to leaf through them."""
        from gpuctl.render.paging import page  # noqa: PLC0415 - as above

        page(lines, wanted=self.paged)

    def _started(self, path: str) -> bool:
        """Return whether the user's own gpud was started: it is if no other is meant. Raises UnreachableError."""
        from gpuctl.setup import starting  # noqa: PLC0415 - as above
        from gpud.wire import address  # noqa: PLC0415 - only where no gpud answers

        if not starting.is_own(path):
            return False
        pid = starting.start_daemon(path, on_the_way=True)
        if pid is not None:
            note(f"started your own gpud (log: {starting.log_path(address.state_dir())})")
            nice = starting.niceness(pid)
            if nice > 0:
                note(f"it has this shell's niceness, {nice}, and so has every job; from another: gpuctl daemon restart")
        return True


def _ask_for_the_machine_s(path: str, error: UnreachableError) -> None:
    """Raise UnreachableError with who can help, where the machine has a gpud and no other is meant."""
    from gpuctl.setup import starting  # noqa: PLC0415 - only where no gpud answers
    from gpud.wire import address  # noqa: PLC0415 - as above

    if address.has_system_gpud() and not starting.is_own(path):
        installed = address.has_system_units()
        gone = f"it is not installed; without {address.SYSTEM_CONFIG} you would have one of your own"
        raise UnreachableError(
            f"this machine's gpud does not answer on {address.SYSTEM_SOCKET}",
            hint=f"ask the administrator{', or: sudo systemctl start gpud' if installed else f': {gone}'}",
        ) from error


def note(text: str) -> None:
    """Say something to the person, beside the data."""
    click.echo(f"gpuctl: {legible(text)}", err=True)


def legible(text: str) -> str:
    """Return a text for a terminal, line by line: what others chose may be in it, and moves nobody's cursor."""
    if text.isprintable():
        return text
    from gpuctl.render.text import clean  # noqa: PLC0415 - what is said is mostly printable

    return "\n".join(map(clean, text.split("\n")))


@cache
def note_once(text: str) -> None:
    """Say something once, as what holds for each of a thousand jobs of a file."""
    note(text)


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.ensure_object(Session).json |= value


def _set_socket(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Session).socket = value


def _set_color(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.color = {"always": True, "never": False}.get(value, color_wanted(os.environ))


def _set_paged(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).paged = False


def color_wanted(environ: Mapping[str, str]) -> bool | None:
    """Return whether the environment wants colours; None: on a terminal (no-color.org, force-color.org)."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return False if environ.get("TERM") == "dumb" else None


def display(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command that draws `--color` and `--no-pager`, beside what every command has."""
    for name, settings in (
        ("--no-pager", {"is_flag": True, "callback": _set_paged, "help": "Print what is long as it is."}),
        (
            "--color",
            {
                "type": click.Choice(["auto", "always", "never"]),
                "callback": _set_color,
                "help": "Colours: on a terminal (auto, also $NO_COLOR, $FORCE_COLOR), or as said.",
            },
        ),
    ):
        command = click.option(name, expose_value=False, **settings)(command)  # type: ignore[arg-type]  # a table
    return options(command)


def options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--json` and `--socket`, which may stand before it as well as after it."""
    for name, settings in (
        ("--socket", {"metavar": "PATH", "callback": _set_socket, "help": "The gpud to speak to."}),
        ("--json", {"is_flag": True, "callback": _set_json, "help": "Print JSON."}),
    ):
        command = click.option(name, expose_value=False, **settings)(command)  # type: ignore[arg-type]  # a table
    return command


def on_terminal() -> bool:
    """Return whether a person reads what goes to stderr."""
    return sys.stderr.isatty()
