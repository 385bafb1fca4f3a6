"""First come, first served: strictly in order of submission, whatever a job's priority.

Backfill lets small jobs slip in where that delays nobody.
"""

from collections.abc import Mapping

from gpud.core.policies.parameters import Surroundings
from gpud.core.policies.steady import Steady

SAYS = "in order of submission, whatever the priority"


class Fcfs(Steady):
    """The policy `fcfs`."""


def make(values: Mapping[str, float], surroundings: Surroundings) -> Fcfs:  # noqa: ARG001 - it looks at nothing
    """Return the policy."""
    return Fcfs()
