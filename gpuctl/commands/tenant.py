"""Tenants: who is in them, and how much of the GPUs they may have."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from gpuctl import session
from gpuctl.client import Client
from gpuctl.parse import COUNT, DURATION, PRIORITY, Parsed, gpus_meant
from gpuctl.render import tenants as render
from gpuctl.session import Session, note

P = ParamSpec("P")
R = TypeVar("R")

NONE = "none"  # how people write that there is no limit


def _or_none(kind: Parsed) -> Parsed:
    """Return the type of a word that may be `none`."""
    return Parsed(kind.name, lambda text: NONE if text.lower() == NONE else kind.convert(text, None, None))


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= 1e9:
        raise ValueError(f"{text!r} is not a number of GPU-hours; write 500 or 0.5")
    return hours


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.001 <= share <= 1e6:
        raise ValueError(f"{text!r} is not a share; write 1, 3 or 0.5")
    return share


_LIMIT, _HOURS = _or_none(COUNT), _or_none(Parsed("H", _hours))
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--user", {"multiple": True, "metavar": "NAME", "help": "A member; may be repeated."}),
    ("--group", {"multiple": True, "metavar": "NAME", "help": "A group whose members are in it; may be repeated."}),
    ("--guaranteed", {"type": COUNT, "help": "GPUs that are its own whenever it wants them; others borrow idle ones."}),
    ("--max-gpus", {"type": _LIMIT, "metavar": "N|none", "help": "GPUs that it may have at once."}),
    ("--max-running", {"type": _LIMIT, "metavar": "N|none", "help": "Jobs that may run at once."}),
    ("--max-queued", {"type": _LIMIT, "metavar": "N|none", "help": "Jobs that may wait at once."}),
    ("--gpu-type", {"multiple": True, "metavar": "PATTERN|none", "help": "A GPU type it may use; may be repeated."}),
    ("--gpu-hours", {"type": _HOURS, "metavar": "H|none", "help": "GPU-hours that it may use in each window."}),
    ("--window", {"type": DURATION, "help": "How long such a window is (7d); another begins at once, at 0 hours."}),
    ("--share", {"type": Parsed("X", _share), "help": "Its weight under the policy fair_share (1)."}),
    ("--boost", {"type": PRIORITY, "help": "What is added to the priority of its jobs."}),
    ("--gpus", {"metavar": "GPU,...|none", "help": "GPUs that are its own alone: 0-3, or NODE:0,NODE:2."}),
    ("--borrow/--no-borrow", {"default": None, "help": "Whether it may use what is idle of others' guarantees."}),
)


def _options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options that say what a tenant is."""
    for name, settings in reversed(_OPTIONS):
        command = click.option(name, **settings)(command)
    return command


@click.group()
def tenant() -> None:
    """Share the GPUs between groups of users: limits, guarantees, GPU-hours."""


@tenant.command()
@click.argument("name")
@_options
@session.options
@click.pass_obj
def create(session: Session, /, name: str, **values: Any) -> None:
    """Make a tenant.

    Its members' jobs count for it from their next submit; who is in none stays in the tenant `default`.
    """
    _put(session, "tenant_create", name, values, f"there is a tenant {name} now")


@tenant.command("set")
@click.argument("name")
@_options
@click.option("--remove-user", multiple=True, metavar="NAME", help="A member to take out; may be repeated.")
@click.option("--remove-group", multiple=True, metavar="NAME", help="A group to take out; may be repeated.")
@session.options
@click.pass_obj
def set_(session: Session, /, name: str, **values: Any) -> None:
    """Change what is named of a tenant; `none` takes a limit away. Users and groups are added."""
    _put(session, "tenant_set", name, values, f"tenant {name} was changed")


@tenant.command("list")
@session.options
@click.pass_obj
def list_(session: Session) -> None:
    """List the tenants: what they have, of what they may have."""
    found = session.request("tenants")["tenants"]
    if session.json:
        session.print_json(found)
    elif found:
        click.echo("\n".join(render.rows(found)))
    else:
        note("there are no tenants: everybody shares everything")


@tenant.command()
@click.argument("name")
@session.options
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show all of one tenant."""
    (found,) = session.request("tenants", name=name)["tenants"]
    if session.json:
        session.print_json(found)
    else:
        click.echo("\n".join(render.whole(found)))


@tenant.command()
@click.argument("name")
@session.options
@click.pass_obj
def delete(session: Session, name: str) -> None:
    """Remove a tenant that has no jobs."""
    session.request("tenant_delete", name=name)
    if session.json:
        session.print_json({"changed": True})
    else:
        note(f"tenant {name} is gone")


def _put(session: Session, op: str, name: str, values: dict[str, Any], done: str) -> None:
    with session.connect() as client:
        window_s = _window_s(client, name) if op == "tenant_set" and values["window"] is not None else None
        changed = client.request(op, name=name, **_fields(values))["changed"]
        if session.json:
            session.print_json(client.request("tenants", name=name)["tenants"][0])
        else:
            note(done if changed else f"tenant {name} was so already")
            if window_s is not None and window_s != _window_s(client, name):
                note("a window of that length has begun now: 0 GPU-hours are used of it")


def _window_s(client: Client, name: str) -> float:
    """Return how long a tenant's windows are."""
    window_s: float = client.request("tenants", name=name)["tenants"][0]["window_s"]
    return window_s


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return what options say in the protocol's words."""
    names = {
        "user": "users",
        "group": "groups",
        "remove_user": "remove_users",
        "remove_group": "remove_groups",
        "guaranteed": "guaranteed_gpus",
        "gpu_type": "gpu_types",
        "window": "window_s",
    }
    fields: dict[str, Any] = {}
    clear = []
    for option, value in values.items():
        key = names.get(option, option)
        if value == NONE or (key == "gpu_types" and value == (NONE,)):
            clear.append(key)
        elif isinstance(value, tuple):
            fields |= {key: list(value)} if value else {}
        elif key == "gpus" and value is not None:
            fields[key] = gpus_meant([value])
        elif value is not None:
            fields[key] = value
    return {**fields, "clear": clear} if clear else fields
