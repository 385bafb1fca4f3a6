"""What gpud was told: defaults, then files, then variables, then the command line; the later word wins.

The fields of `Config` are the one table: each is a key of config.toml, a variable GPUD_KEY and an option --key. A
setting that is not understood stops the start, and names itself, where it stands, and the nearest that is known.
"""

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from gpud import __version__, forms
from gpud.check import Wrong, check_value, nearest
from gpud.core import rules
from gpud.core.fragmentation import PLACEMENTS
from gpud.core.policies import POLICIES, fair_share, las, priority
from gpud.core.policies.parameters import Parameter
from gpud.core.rules import Rules
from gpud.forms import Form
from gpud.model.gpu import Node
from gpud.model.tenant import Limits
from gpud.model.units import Mib, Seconds
from gpud.model.window import Pool
from gpud.wire.address import (
    SYSTEM_CONFIG,
    SYSTEM_SOCKET,
    SYSTEM_STATE,
    AddressError,
    network_type,
    state_dir,
    user_config,
)

# Where the machine's own gpud is; a user's gpud leaves these keys of the system's file alone.
_PLACES = frozenset({"system", "socket", "state_dir"})
# What a gpud that serves every user starts from; one's own has no limits for its one user.
_FOR_EVERYBODY = {
    "policy": "fair_share",
    "connections_per_user": 200,
    "requests_per_second": 100,
    "subscriptions_per_user": 100,
    "max_queued_per_user": 100_000,
}


class ConfigError(Exception):
    """A setting that cannot be used; `hint` says what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _key(default: Any, kind: Form, meaning: str, *, live: bool = False, key: str | None = None) -> Any:  # noqa: ANN401 - as field()
    """Declare a setting. `live`: a reload changes it in a running gpud."""
    return field(default=default, metadata={"kind": kind, "help": meaning, "live": live, "key": key})


def _parameter(of: Parameter) -> Any:  # noqa: ANN401 - as field()
    """Declare a parameter: a policy's, which may also be set while gpud runs (gpuctl policy), or one of `Rules`."""
    return _key(of.typed(of.default), forms.of_parameter(of), of.says, live=True, key=of.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, and `files`: the configuration files that were read. `check`: only look, start nothing."""

    socket: str = _key("", forms.PATH, "the socket to listen on")
    state_dir: str = _key("", forms.PATH, "where jobs, logs and the socket are kept; local to this machine")
    simulate: str | None = _key(
        None,
        replace(forms.TEXT, shown="SPEC"),
        "serve simulated GPUs: 4xRTX4090, 2x8xH100 (nodes x GPUs), or A100-80GB:7x1g.10gb (split by MIG)",
    )
    nvml_library: str | None = _key(None, forms.PATH, "NVIDIA's management library, where it is not found by itself")
    system: bool = _key(
        False, forms.FLAG, "serve every user of the machine, jobs running as who submitted them (root only)"
    )
    gpus: tuple[int, ...] | None = _key(None, forms.GPUS, "indices of the GPUs to give out; all by default")
    foreign: str = _key(
        "avoid",
        forms.choice("avoid", "ignore"),
        "what becomes of a GPU with processes on it that gpud did not start",
        live=True,
    )
    foreign_charge: bool = _key(
        False, forms.FLAG, "count the time of such processes as use of whose they are, for fair_share", live=True
    )
    thermal_limit: int | None = _key(
        None, forms.COUNT, "degrees Celsius at which a GPU gets no more jobs until it is cooler", live=True
    )
    gpu_memory_watch: str = _key(
        "warn",
        forms.choice("warn", "stop"),
        "what is done about a job that uses more of a shared GPU's memory than it declared",
        live=True,
    )
    foreign_ignore: tuple[str, ...] = _key(
        (), forms.NAMES, "programs that may share a GPU with jobs unseen, by process name", live=True
    )
    fence: str = _key(
        "auto",
        forms.choice("auto", "devices", "landlock", "off"),
        "what keeps a job from others' GPUs; auto is devices with --system, where that can be had",
        live=True,
    )
    login_fence: bool = _key(
        False, forms.FLAG, "with --system: what users start by themselves opens no GPU, only what gpud starts"
    )
    log_max: int | None = _key(
        Mib(10 * 1024), forms.SIZE, "how much of a job's output is kept (its end), or 'unlimited'", live=True
    )
    cuda_visible_devices: str = _key(
        "index", forms.choice("index", "uuid"), "how a job is told its GPUs in CUDA_VISIBLE_DEVICES", live=True
    )
    policy: str = _key("priority", replace(forms.TEXT, shown="NAME"), "who goes first", live=True)
    aging_per_hour: float = _parameter(priority.AGING)
    half_life: Seconds = _parameter(fair_share.HALF_LIFE)
    head_start: Seconds = _parameter(fair_share.HEAD_START)
    first_level: Seconds = _parameter(las.FIRST)
    level_factor: float = _parameter(las.FACTOR)
    preempt_every: Seconds = _parameter(las.EVERY)
    assumed_runtime_s: Seconds = _parameter(rules.ASSUMED_RUNTIME)
    reservations: int = _parameter(rules.RESERVATIONS)
    starvation_s: Seconds = _parameter(rules.STARVATION)
    preemptible: bool = _parameter(rules.PREEMPTIBLE)
    preempt_after_s: Seconds = _parameter(rules.PREEMPT_AFTER)
    preempt_margin: int = _parameter(rules.PREEMPT_MARGIN)
    sample_every_s: Seconds = _parameter(rules.SAMPLE_EVERY)
    gpu_hour_price: tuple[tuple[str, float], ...] = _key(
        (), forms.PRICES, "what an hour of a GPU costs, by its type: {H100 = 2.5, '*' = 1}; the first that fits counts"
    )
    placement: str = _key(
        "fgd", forms.choice(*PLACEMENTS), "how nodes are chosen: by what usually comes, the least free, the most free"
    )
    after_failed: str = _key(
        "hold",
        forms.choice("hold", "cancel"),
        "what becomes of a job that comes after one which ended otherwise than it must",
        live=True,
    )
    max_mishaps: int = _key(
        3, forms.COUNT, "lost GPUs and nodes after which a job that may be retried is not started again", live=True
    )
    group_failures: int = _key(
        3, forms.COUNT, "quick failures in a row after which the rest of a group is held; 0: never", live=True
    )
    log_level: str = _key(
        "info", forms.choice("debug", "info", "warning", "error"), "the least that is worth a line", live=True
    )
    admins: tuple[str, ...] = _key((), forms.NAMES, "users who may do what root may (of gpud)", live=True)
    admin_groups: tuple[str, ...] = _key((), forms.NAMES, "groups whose members may do what root may", live=True)
    operators: tuple[str, ...] = _key(
        (), forms.NAMES, "users who keep the queue going: drain, pause, cancel", live=True
    )
    operator_groups: tuple[str, ...] = _key((), forms.NAMES, "groups whose members do", live=True)
    viewers: tuple[str, ...] = _key((), forms.NAMES, "users who may look, and not submit", live=True)
    viewer_groups: tuple[str, ...] = _key((), forms.NAMES, "groups whose members may look, and not submit", live=True)
    connections_per_user: int | None = _key(None, forms.COUNT, "connections of one user at once", live=True)
    requests_per_second: int | None = _key(
        None, forms.COUNT, "requests of one user that are served, in the long run", live=True
    )
    requests_at_once: int = _key(1000, forms.COUNT, "requests that one user may save up for a burst", live=True)
    subscriptions_per_user: int | None = _key(None, forms.COUNT, "subscriptions of one user at once", live=True)
    request_mib: int = _key(16, forms.COUNT, "the largest request, in MiB; more than 16 does not travel", live=True)
    job_limits: tuple[tuple[str, int, int], ...] = _key(
        (),
        forms.LIMITS,
        "limits of jobs, whatever their submitter's: {NOFILE = 65536, MEMLOCK = 'unlimited'}",
        live=True,
    )
    log_format: str = _key("text", forms.choice("text", "json"), "how its own log is written: for people, or as JSON")
    alerts: tuple[str, ...] = _key(
        (),
        forms.TARGETS,
        "whom to tell of lost GPUs, foreign use, a full disk: https://..., command:..., mailto:...",
        live=True,
    )
    long_wait_s: Seconds = _key(
        3600.0, forms.DURATION, "how long a job waits until who asked for that is told", live=True, key="long_wait"
    )
    keep_days: int = _key(
        365, forms.COUNT, "days after which jobs that ended, and events, are forgotten; 0: never", live=True
    )
    max_queued: int | None = _key(None, forms.COUNT, "jobs that may wait at once", live=True)
    max_running: int | None = _key(None, forms.COUNT, "jobs that may run at once", live=True)
    max_queued_per_user: int | None = _key(None, forms.COUNT, "jobs of one user that may wait at once", live=True)
    max_running_per_user: int | None = _key(None, forms.COUNT, "jobs of one user that may run at once", live=True)
    max_gpus_per_user: int | None = _key(None, forms.COUNT, "GPUs that one user may have at once", live=True)
    max_queued_per_tenant: int | None = _key(None, forms.COUNT, "jobs of one tenant that may wait at once", live=True)
    max_running_per_tenant: int | None = _key(None, forms.COUNT, "jobs of one tenant that may run at once", live=True)
    pools: tuple[Pool, ...] = _key(
        (),
        forms.POOLS,
        "GPUs for jobs that ask for them by name: {debug = {gpus = [3], max_time = '30m'}}",
        live=True,
        key="pool",
    )
    nodes: tuple[tuple[str, forms.Labels], ...] = _key(
        (),
        forms.NODES,
        "labels of nodes, for jobs that ask for them: {NAME = {labels = {rack = 'b2'}}}",
        live=True,
        key="node",
    )
    files: tuple[str, ...] = ()
    check: bool = False

    @property
    def parameters(self) -> dict[str, float]:
        """Return the parameters of all policies."""
        names = {each.name for described in POLICIES.values() for each in described.parameters}
        return {name: getattr(self, name) for name in names}

    def labelled(self, node: Node) -> Node:
        """Return a node with the labels that it is to have."""
        return replace(node, labels=dict(self.nodes).get(node.name, ()))

    @property
    def rules(self) -> Rules:
        """Return what deciding depends on."""
        return Rules(
            policy=self.policy,
            parameters=self.parameters,
            foreign=self.foreign,
            foreign_ignore=self.foreign_ignore,
            foreign_charge=self.foreign_charge,
            thermal_limit_c=self.thermal_limit,
            gpu_memory_watch=self.gpu_memory_watch,
            limits=self.limits,
            pools=self.pools,
            max_mishaps=self.max_mishaps,
            group_failures=self.group_failures,
            cancel_unmet=self.after_failed == "cancel",
            placement=self.placement,
            sample_every_s=self.sample_every_s,
            **{name: getattr(self, name) for name in rules.SETTINGS},
        )

    @property
    def limits(self) -> Limits:
        """Return what everybody may have."""
        return Limits(
            queued=self.max_queued,
            running=self.max_running,
            queued_per_user=self.max_queued_per_user,
            running_per_user=self.max_running_per_user,
            gpus_per_user=self.max_gpus_per_user,
            queued_per_tenant=self.max_queued_per_tenant,
            running_per_tenant=self.max_running_per_tenant,
        )


# Config's own field by the name that people write.
_TABLE = {each.metadata["key"] or each.name: each for each in fields(Config) if each.metadata}


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
    for layer in (*layers.values(), variables, options):
        said |= layer
    files = tuple(path for path in layers if Path(path).exists())
    return _placed(Config(files=files, check=check, **{_TABLE[key].name: value for key, value in said.items()}))


def taken(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return what a running gpud makes of a new configuration, and the keys that differ and that it cannot change."""
    left = {
        each.name: key
        for key, each in _TABLE.items()
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
    socket = config.socket or (SYSTEM_SOCKET if config.system else f"{state}/gpud.sock")
    return replace(config, state_dir=state, socket=socket)


def _file(path: str, *, must_exist: bool = False) -> dict[str, Any]:
    """Return the settings of a file, by key; none where it is missing and may be."""
    try:
        said = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        if not must_exist:
            return {}
        raise ConfigError(f"{path}: no such file", "--config names a file of settings, in TOML") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's and UTF-8's
        raise ConfigError(f"{path} is not TOML: {error}") from error
    settings = {}
    for key, value in said.items():
        if key not in _TABLE:
            raise ConfigError(f"{path}: unknown key {key!r}", nearest(key, _TABLE))
        settings[key] = _value(key, value, key, f"{path}: ")
    return settings


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of the variables that are set, and not empty."""
    return {
        key: _value(key, _read(key, text, f"${name}"), f"${name}")
        for key, name in ((key, f"GPUD_{key.upper()}") for key in _TABLE)
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
    for key, each in _TABLE.items():
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
        return _TABLE[key].metadata["kind"].read(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(key: str, value: object, where: str, file: str = "") -> object:
    kind: Form = _TABLE[key].metadata["kind"]
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
        hint = None if prefix else nearest(words.split(" ")[0].split("=")[0], ["--config", *map(_option, _TABLE)])
        raise ConfigError(message, hint or "gpud --help lists what it takes")
