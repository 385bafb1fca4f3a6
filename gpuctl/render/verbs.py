"""The command tree as shells complete it: what Click knows of commands and options, and what gpud is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import click

from gpuctl.topics import TOPICS

_FILES = frozenset({"FILE", "PATH"})
# What gpud is asked for on TAB: jobs (all, unfinished ones, those that run, or wait), claims, GPUs, nodes, other names.
ASKED = {
    **dict.fromkeys(("ids", "live", "running", "waiting"), "job"),
    "claims": "claim",
    "gpus": "GPU or node",
    "nodes": "node",
    "types": "GPU type",
    "groups": "group",
    "tenants": "tenant",
    "users": "user",
    "policies": "policy",
    "settings": "setting",
}
_ON_LIVE = frozenset({"cancel", "priority", "wait", "update", "attach"})
_ON_OTHERS = {"exec": "running", "signal": "running", "claim": "claims", "hold": "waiting", "release": "waiting"}
_SIGNALS = ("USR1", "USR2", "INT", "TERM", "HUP", "QUIT", "STOP", "CONT")  # with which jobs are told anything
_OF_ARGUMENTS = {"jobs": "ids", "job": "ids", "targets": "gpus", "command": "command"}
_OF_NAMES = {"group": "groups", "policy": "policies", "show": "tenants", "set": "tenants", "delete": "tenants"}
_OF_OPTIONS = {
    "--group": "groups",
    "--tenant": "tenants",
    "--user": "users",
    "--gpu-type": "types",
    "--not-node": "nodes",
    "--not-gpu": "gpus",
    "--gpu-ids": "gpus",
    "--after": "ids",
}
_OF_THE_SYSTEM = frozenset({"create", "set"})  # a tenant's users and groups are the machine's


@dataclass(frozen=True, slots=True)
class Flag:
    """An option: its spellings, its help, and what its value is ("" for none): `files`, `dirs`, words, or a name.

    `lists`: several of the words may stand there, apart by commas.
    """

    names: tuple[str, ...]
    help: str
    value: str = ""
    words: tuple[str, ...] = ()
    repeats: bool = False
    asks: str = ""  # of `ASKED`
    lists: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """A command. `takes` is what follows the options: of `ASKED`, `command` (another program's line), or nothing.

    `first` of `ASKED` is one word before another program's line. `words` may stand there, beside what is asked for
    where their beginning is typed.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]
    takes: str = ""
    first: str = ""
    words: tuple[str, ...] = ()
    verbs: tuple["Verb", ...] = ()

    @property
    def valued(self) -> list[str]:
        """Return the spellings of the options that want a value."""
        return [name for flag in self.flags if flag.value for name in flag.names]


def tree(command: click.Command) -> Verb:
    """Return what is to be completed under gpuctl's own command; an alias takes what its command does."""
    root = _verb("gpuctl", command, click.Context(command, info_name="gpuctl", **command.context_settings))
    by_name = {verb.name: verb for verb in root.verbs}
    more = [
        replace(
            by_name[words[0]],
            name=alias,
            help=f"As gpuctl {' '.join(words)}",
            takes="waiting" if "--waiting" in words else by_name[words[0]].takes,
        )
        for alias, words in getattr(command, "aliases", {}).items()
    ]
    names = tuple(verb.name for verb in (*root.verbs, *more))
    explained = (*names, *(topic for topic in TOPICS if topic not in names))
    verbs = (replace(verb, words=explained) if verb.name == "help" else verb for verb in (*root.verbs, *more))
    return replace(root, verbs=tuple(verbs), words=names)


def _verb(name: str, command: click.Command, context: click.Context) -> Verb:
    verbs: list[Verb] = []
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                verbs.append(_verb(each, found, click.Context(found, info_name=each, parent=context)))
    takes, first, words = "", "", _SIGNALS if name == "signal" else tuple(verb.name for verb in verbs)
    for parameter in command.params:
        if not isinstance(parameter, click.Argument):
            continue
        if isinstance(parameter.type, click.Choice):
            words = tuple(str(word) for word in parameter.type.choices)
        of = _OF_NAMES.get(name, "") if parameter.name == "name" else _OF_ARGUMENTS.get(parameter.name or "", "")
        if name == "config":
            of = "settings"
        if of == "ids":
            of = "live" if name in _ON_LIVE else _ON_OTHERS.get(name, of)
        if of == "command":
            first = takes
        takes = of or takes
    flags = tuple(_flag(each, name) for each in command.get_params(context) if isinstance(each, click.Option))
    return Verb(name, command.get_short_help_str(100), flags, takes, first, words, tuple(verbs))


def _flag(option: click.Option, verb: str) -> Flag:
    spelled = [*option.opts, *option.secondary_opts]  # --spread and --pack
    names = tuple(sorted(spelled, key=lambda name: (len(name), name)))  # Click's own order depends on its version
    text = (option.help or "").rstrip(".")
    if option.is_flag:
        return Flag(names, text)
    words = tuple(str(word) for word in getattr(option.type, "choices", ()))
    metavar = option.metavar or option.type.name.upper()
    value = "files" if metavar in _FILES else "dirs" if metavar == "DIR" else metavar
    asks = "" if verb in _OF_THE_SYSTEM else next((_OF_OPTIONS[name] for name in names if name in _OF_OPTIONS), "")
    return Flag(names, text, value, words, option.multiple, asks, getattr(option.type, "lists", False))


def paths(verb: Verb, path: str = "") -> Iterator[tuple[str, Verb]]:
    """Yield every command with its words: "", "submit", "daemon start"."""
    yield path, verb
    for each in verb.verbs:
        yield from paths(each, f"{path} {each.name}".strip())
