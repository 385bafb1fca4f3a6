"""What a policy is made from: parameters that people set, and what of the world it may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gpud.core.prediction import Predictor
from gpud.core.usage import Usage
from gpud.model.tenant import Tenant


class Kind(StrEnum):
    """How a parameter is written: a number, or a duration, kept in seconds."""

    NUMBER = "number"
    DURATION = "duration"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of a policy. Its name is its key in the configuration, too."""

    name: str
    kind: Kind
    default: float
    says: str
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator chose: a policy, and values for parameters of any; None, or not there: the configuration's."""

    policy: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


class Surroundings(Protocol):
    """What of the world a policy may look at."""

    @property
    def predictor(self) -> Predictor:
        """Return what is known of how long jobs run."""
        ...

    @property
    def usage(self) -> Usage:
        """Return what everybody has used."""
        ...

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """Return the tenants by name; none where nobody made any."""
        ...
