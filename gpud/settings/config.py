"""Every setting that there is.

The fields of `Config` are the one table: each is a key of config.toml, a variable GPUD_KEY and an option --key; how
these are read: `sources`.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from gpud.core import rules
from gpud.core.fragmentation import PLACEMENTS
from gpud.core.policies import POLICIES, fair_share, las, priority
from gpud.core.policies.parameters import Parameter
from gpud.core.rules import Rules
from gpud.model.gpu import Node
from gpud.model.tenant import Limits
from gpud.model.units import Mib, Seconds
from gpud.model.window import Pool
from gpud.settings import forms
from gpud.settings.forms import Form


def _key(default: Any, kind: Form, meaning: str, *, live: bool = False, key: str | None = None) -> Any:  # noqa: ANN401 - as field()
    """Declare a setting. `live`: a reload changes it in a running gpud."""
    return field(default=default, metadata={"kind": kind, "help": meaning, "live": live, "key": key})


def _parameter(of: Parameter) -> Any:  # noqa: ANN401 - as field()
    """Declare a parameter: a policy's, which may also be set while gpud runs (gpuctl policy), or one of `Rules`."""
    return _key(of.typed(of.default), forms.of_parameter(of), of.says, live=True, key=of.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, and `files`: the configuration files that were read. `check`: only look, start nothing.

    `origins` says of each key that somebody said where: a file, a variable, an option.
    """

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
        Mib(10 * 1024),
        forms.SIZE,
        "how much of a job's output is kept, or 'unlimited'; of more, its end: 15/16 of that at least",
        live=True,
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
    connections_per_user: int | None = _key(
        None, forms.COUNT, "connections of one user at once; 0: any number", live=True
    )
    requests_per_second: int | None = _key(
        None, forms.COUNT, "requests of one user that are served, in the long run; 0: any number", live=True
    )
    requests_at_once: int = _key(1000, forms.COUNT, "requests that one user may save up for a burst", live=True)
    subscriptions_per_user: int | None = _key(
        None, forms.COUNT, "subscriptions of one user at once; 0: any number", live=True
    )
    submit_mib_per_day: int | None = _key(
        None,
        forms.COUNT,
        "MiB that one user may submit in a day: commands, environments, scripts; 0: any number",
        live=True,
    )
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
    origins: tuple[tuple[str, str], ...] = field(default=(), compare=False)
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
TABLE = {each.metadata["key"] or each.name: each for each in fields(Config) if each.metadata}
