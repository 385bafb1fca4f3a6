"""Reading the configuration: files, then variables, then the command line; the later word wins.

A setting that is not understood stops the start, and names itself, where it stands, and the nearest that is known.
"""

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gpud import __version__
from gpud.settings import forms
from gpud.settings.config import TABLE, Config
from gpud.settings.forms import Form
from gpud.wire.address import (
    SYSTEM_CONFIG,
    SYSTEM_SOCKET,
    SYSTEM_STATE,
    AddressError,
    network_type,
    state_dir,
    user_config,
)
from gpud.wire.check import Wrong, check_value, nearest

# Where the machine's own gpud is; a user's gpud leaves these keys of the system's file alone.
_PLACES = frozenset({"system", "socket", "state_dir"})
# Variables that others read: gpuctl, commands of notices, tests of crashes.
_OTHERS = ("config", "host", "pager", "ssh", "webhook_secret", "event", "text", "notice", "kill_at")
# What a gpud that serves every user starts from; one's own has no limits for its one user.
_FOR_EVERYBODY = {
    "policy": "fair_share",
    "connections_per_user": 200,
    "requests_per_second": 100,
    "subscriptions_per_user": 100,
    "submit_mib_per_day": 4096,
    "max_queued_per_user": 100_000,
}


class ConfigError(Exception):
    """A setting that cannot be used; `hint` says what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def load(arguments: Sequence[str], environ: Mapping[str, str] = os.environ, system_file: str = SYSTEM_CONFIG) -> Config:
    """Return the configuration of a gpud started with these arguments.

    Read it again for a reload. Raises ConfigError. `--help` and `--version` are answered, and end the process.
    """
    options = _options(arguments)
    named = options.pop("config", None) or environ.get("GPUD_CONFIG")
    check = options.pop("check", False)
    variables = _variables(environ)
    machine = {} if named else _file(system_file)
    system = (variables | options).get("system", machine.get("system", False) and os.getuid() == 0)
    if named:
        layers = {forms.path(named): _file(forms.path(named), must_exist=True)}
    elif system:
        layers = {system_file: machine}
    else:
        shared = {key: value for key, value in machine.items() if key not in _PLACES}
        layers = {system_file: shared, user_config(): _file(user_config())}
    said: dict[str, Any] = dict(_FOR_EVERYBODY) if system else {}
    origins = dict.fromkeys(said, "default of a gpud for everybody")
    for where, layer in (*layers.items(), ("$", variables), ("--", options)):
        said |= layer
        origins |= {key: {"$": f"$GPUD_{key.upper()}", "--": _option(key)}.get(where, where) for key in layer}
    files = tuple(path for path in layers if Path(path).exists())
    values = {TABLE[key].name: value for key, value in said.items()}
    return _placed(Config(files=files, origins=tuple(origins.items()), check=check, **values))


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return what to say of variables that look like settings, and that nothing is read from."""
    if "GPUD_JOB_ID" in environ:  # inside of a job, which is told many of that kind
        return []
    known = [*TABLE, *_OTHERS]
    words = (name.removeprefix("GPUD_").lower() for name in sorted(environ) if name.startswith("GPUD_"))
    unread = ((word, nearest(word, known)) for word in words if word not in known)
    return [f"$GPUD_{word.upper()} is not read, there is no setting {word!r}: {near}" for word, near in unread if near]


def taken(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return what a running gpud makes of a new configuration, and the keys that differ and that it cannot change."""
    left = {
        each.name: key
        for key, each in TABLE.items()
        if not each.metadata["live"] and getattr(old, each.name) != getattr(new, each.name)
    }
    return replace(new, **{name: getattr(old, name) for name in left}), list(left.values())


def _placed(config: Config) -> Config:
    """Return the configuration with the places filled in. Raises ConfigError for those that cannot be used."""
    if config.system and os.getuid() != 0:
        raise ConfigError("--system is for root: jobs run as who submitted them", "without it, gpud serves you alone")
    try:
        state = config.state_dir or (SYSTEM_STATE if config.system else state_dir())
    except AddressError as error:
        raise ConfigError(str(error), error.hint) from error
    kind = network_type(state)
    if kind:
        raise ConfigError(
            f"the state directory {state} is on a network file system ({kind}), where SQLite loses data",
            f"name a local one: --state-dir /var/tmp/gpud-{os.getuid()}",
        )
    owner = _owner(f"{state}/gpud.db")
    if not config.system and owner not in {None, os.getuid()}:
        raise ConfigError(
            f"the queue in {state} is user {owner}'s, and you are user {os.getuid()}: its jobs would run as you",
            "become that user (sudo -u), have a queue of your own (sudo -H, or --state-dir), or make it yours (chown)",
        )
    socket = config.socket or (SYSTEM_SOCKET if config.system else f"{state}/gpud.sock")
    return replace(config, state_dir=state, socket=socket)


def _owner(path: str) -> int | None:
    """Return whose a file is; None where there is none, or none that can be looked at."""
    try:
        return Path(path).stat().st_uid
    except OSError:
        return None


def _file(path: str, *, must_exist: bool = False) -> dict[str, Any]:
    """Return the settings of a file, by key; none where it is missing and may be."""
    try:
        said = tomllib.loads(Path(path).read_text())
    except (FileNotFoundError, NotADirectoryError):  # a home may be /dev/null
        if not must_exist:
            return {}
        raise ConfigError(f"{path}: no such file", "--config names a file of settings, in TOML") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's and UTF-8's
        raise ConfigError(f"{path} is not TOML: {error}") from error
    settings = {}
    for key, value in said.items():
        if key not in TABLE:
            hint = nearest(key, TABLE) or "see what there is: gpuctl config --all"
            raise ConfigError(f"{path}: unknown key {key!r}", hint)
        settings[key] = _value(key, value, key, f"{path}: ")
    return settings


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of the variables that are set, and not empty."""
    return {
        key: _value(key, _read(key, text, f"${name}"), f"${name}")
        for key, name in ((key, f"GPUD_{key.upper()}") for key in TABLE)
        if (text := environ.get(name))
    }


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the command line, and `config` and `check`."""
    parser = _Parser(
        prog="gpud",
        description="The daemon of a GPU queue. It runs in the foreground and logs to stderr; "
        "jobs run on when it ends. Every option is a key of config.toml and a variable GPUD_... too.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"gpud {__version__}")
    parser.add_argument("--config", metavar="FILE", help="read this file alone, not those in /etc/gpud and ~/.config")
    parser.add_argument("--check", action="store_true", help="only look at the configuration and the database")
    for key, each in TABLE.items():
        option, kind, meaning = _option(key), each.metadata["kind"], each.metadata["help"]
        if kind.toml is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, dest=key, help=meaning)
        else:
            parser.add_argument(option, metavar=kind.shown, dest=key, help=meaning)
    said = vars(parser.parse_args(arguments))
    return {
        key: value if key in {"config", "check"} else _value(key, _read(key, value, _option(key)), _option(key))
        for key, value in said.items()
    }


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _read(key: str, text: str | bool, where: str) -> object:
    if isinstance(text, bool):
        return text
    try:
        return TABLE[key].metadata["kind"].read(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(key: str, value: object, where: str, file: str = "") -> object:
    kind: Form = TABLE[key].metadata["kind"]
    try:
        check_value(kind.toml, value, where)
        return kind.value(value)
    except Wrong as wrong:
        raise ConfigError(f"{file}{wrong.message}", wrong.hint) from None
    except ValueError as error:
        raise ConfigError(f"{file}{where}: {error}") from None


class _Parser(argparse.ArgumentParser):
    """Complains as the rest of the configuration does."""

    def error(self, message: str) -> NoReturn:
        prefix, _, words = message.partition("unrecognized arguments: ")
        hint = None if prefix else nearest(words.split(" ")[0].split("=")[0], ["--config", *map(_option, TABLE)])
        raise ConfigError(message, hint or "gpud --help lists what it takes")
