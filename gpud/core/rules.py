"""What an operator may set about deciding."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gpud.core.policies.parameters import Kind, Parameter
from gpud.model.tenant import Limits
from gpud.model.units import Seconds
from gpud.model.window import Pool

ASSUMED_RUNTIME = Parameter(
    "assumed_runtime", Kind.DURATION, 86_400.0, "how long a job of no known length is taken to run", 1.0
)
RESERVATIONS = Parameter(
    "reservations", Kind.COUNT, 1, "how many blocked jobs GPUs are kept free for, which no other job may delay"
)
STARVATION = Parameter(
    "starvation", Kind.DURATION, 3_600.0, "wait after which GPUs are kept free for a job under every policy; 0: none"
)
PREEMPTIBLE = Parameter("preemptible", Kind.FLAG, 0, "whether jobs that do not say give way to a higher priority")
PREEMPT_AFTER = Parameter("preempt_after", Kind.DURATION, 60.0, "how long a job runs before it can be preempted")
PREEMPT_MARGIN = Parameter("preempt_margin", Kind.COUNT, 1, "how much higher a priority must be to preempt", 1)
SAMPLE_EVERY = Parameter(
    "sample_every", Kind.DURATION, 15.0, "how often GPUs are looked at while jobs hold them; 0: never"
)
# What people set of them, by the field.
SETTINGS = {
    "assumed_runtime_s": ASSUMED_RUNTIME,
    "reservations": RESERVATIONS,
    "starvation_s": STARVATION,
    "preemptible": PREEMPTIBLE,
    "preempt_after_s": PREEMPT_AFTER,
    "preempt_margin": PREEMPT_MARGIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that deciding depends on.

    `policy` and `parameters` hold where no operator chose others.
    `assumed_runtime_s` is for a job of which nothing is known. `reservations` is how many blocked jobs reserve. Who has
    waited for `starvation_s` (0: nobody) reserves whatever the policy says. A preemptible job is preempted by one whose
    priority is higher by `preempt_margin` at least, and by nobody before it has run for `preempt_after_s`;
    `preemptible` is for jobs that do not say. `max_mishaps`: see core.lifecycle; `group_failures` (0: never): see
    core.groups. `cancel_unmet`: a job whose dependency can never be met is cancelled, not held. `placement` is how a
    node is chosen: see core.scoring. Without `backfill` nobody passes who does not fit. `sample_every_s`: see
    core.sampling.
    A GPU with a process on it that gpud did not start is given to nobody (`foreign` "avoid"), but for programs in
    `foreign_ignore`; `foreign_charge`: its time counts as use by whose process it is. At `thermal_limit_c` (None: none)
    a GPU gets no more jobs. A job that uses more of a shared GPU than it declared is told of (`gpu_memory_watch`
    "warn"), or stopped as well ("stop").
    """

    policy: str = "priority"
    parameters: Mapping[str, float] = field(default_factory=dict)
    assumed_runtime_s: Seconds = ASSUMED_RUNTIME.default
    foreign: str = "avoid"
    foreign_ignore: tuple[str, ...] = ()
    foreign_charge: bool = False
    thermal_limit_c: int | None = None
    gpu_memory_watch: str = "warn"
    limits: Limits = Limits()
    pools: tuple[Pool, ...] = ()
    reservations: int = int(RESERVATIONS.default)
    starvation_s: Seconds = STARVATION.default
    preemptible: bool = bool(PREEMPTIBLE.default)
    preempt_margin: int = int(PREEMPT_MARGIN.default)
    preempt_after_s: Seconds = PREEMPT_AFTER.default
    max_mishaps: int = 3
    group_failures: int = 3
    cancel_unmet: bool = False
    placement: str = "fgd"
    backfill: bool = True
    sample_every_s: Seconds = 0.0

    def changed(self, said: Mapping[str, float]) -> "Rules":
        """Return them with what was said of them, by the names that people write."""
        new = {name: of.typed(said[of.name]) for name, of in SETTINGS.items() if of.name in said}
        return replace(self, **new)  # type: ignore[arg-type]  # of the fields' types: see `typed`
