"""Higher priority first, and waiting counts: the default.

A job's standing is `priority + aging_per_hour x hours waited`. All jobs gain at the same rate, so their order never
changes by itself, and `queued_at - priority / aging_per_hour` (in hours) orders them once and for all. Among equals
the first to be submitted comes first. The linear form is that of Slurm's age factor before its cap
(slurm.schedmd.com/priority_multifactor.html).
"""

from collections.abc import Mapping

from gpud.core.policies.parameters import Kind, Parameter, Surroundings
from gpud.core.policies.steady import Steady
from gpud.model.spec import Place

SAYS = "higher priority first; waiting raises it, and among equals the first to be submitted comes first"
AGING = Parameter("aging_per_hour", Kind.NUMBER, 1.0, "priority that a job gains by each hour of waiting")

_HOUR_US = 3_600_000_000
# Without aging a priority point outweighs any wait: a thousand years.
_NEVER_US = 1000 * 366 * 24 * _HOUR_US


class Priority(Steady):
    """The policy `priority`. `aging_per_hour` 0: no aging, strictly by priority."""

    def __init__(self, aging_per_hour: float) -> None:
        self._point_us = round(_HOUR_US / aging_per_hour) if aging_per_hour > 0 else _NEVER_US

    def order(self, place: Place) -> int:
        """Return the moment, in microseconds, at which a job of priority 0 would stand the same."""
        return place.queued_us - place.priority * self._point_us


def make(values: Mapping[str, float], surroundings: Surroundings) -> Priority:  # noqa: ARG001 - it looks at nothing
    """Return the policy."""
    return Priority(values[AGING.name])
