"""In which order jobs are considered. A policy is one file and one line in the table below."""

from typing import Protocol

from gpud.core.policies.priority import Priority
from gpud.model.spec import Place, Terms


class Policy(Protocol):
    """Order = (rank of the line, key of the job inside it), lower first.

    A rank may change while jobs wait; a key is fixed when a job enters its line, so that a million waiting jobs are
    never sorted again.
    """

    def rank(self, terms: Terms) -> int:
        """Return the rank of a whole line."""
        ...

    def order(self, place: Place) -> int:
        """Return the key of one job inside its line, in microseconds; `queued_us` itself for a plain place."""
        ...


POLICIES = {"priority": Priority}
