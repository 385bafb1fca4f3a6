"""What an operator may set about deciding."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpud.model.tenant import Limits
from gpud.model.units import Seconds
from gpud.model.window import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that deciding depends on.

    `policy` and `parameters` hold where no operator chose others.
    `assumed_runtime_s` is for a job of which nothing is known. `reservations` is how many blocked jobs reserve. Who has
    waited for `starvation_s` (0: nobody) reserves whatever the policy says. A preemptible job is preempted by one whose
    priority is higher by `preempt_margin` at least, and by nobody before it has run for `preempt_after_s`;
    `preemptible` is for jobs that do not say. `max_mishaps`: see core.lifecycle. `cancel_unmet`: a job whose dependency
    can never be met is cancelled, not held. `placement` is how a node is chosen: see core.scoring. Without `backfill`
    nobody passes who does not fit.
    """

    policy: str = "priority"
    parameters: Mapping[str, float] = field(default_factory=dict)
    assumed_runtime_s: Seconds = 86_400.0
    foreign_ignore: tuple[str, ...] = ()
    limits: Limits = Limits()
    pools: tuple[Pool, ...] = ()
    reservations: int = 1
    starvation_s: Seconds = 86_400.0
    preemptible: bool = False
    preempt_margin: int = 1
    preempt_after_s: Seconds = 60.0
    max_mishaps: int = 3
    cancel_unmet: bool = False
    placement: str = "fgd"
    backfill: bool = True
