"""What a policy is made from: parameters that people set, and what of the world it may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Protocol

from gpud.core.prediction import Predictor
from gpud.core.usage import Usage
from gpud.model.tenant import Tenant
from gpud.model.units import format_duration, parse_duration


class Kind(StrEnum):
    """How a parameter is written: a number, a duration, kept in seconds, a whole number, or yes and no (1 and 0)."""

    NUMBER = "number"
    DURATION = "duration"
    COUNT = "count"
    FLAG = "flag"


_NONE = frozenset({"0", "0s", "off"})  # of a duration, where none is one
_FLAGS = {"yes": 1.0, "true": 1.0, "on": 1.0, "1": 1.0, "no": 0.0, "false": 0.0, "off": 0.0, "0": 0.0}
_EXAMPLES = {
    Kind.NUMBER: "write a number, like 1.5",
    Kind.DURATION: "write 90s, 2h or 7d",
    Kind.COUNT: "write a whole number",
    Kind.FLAG: "write yes or no",
}
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of a policy, or of `Rules`. Its name is its key in the configuration, too."""

    name: str
    kind: Kind
    default: float
    says: str
    least: float = 0.0

    @property
    def wanted(self) -> str:
        """Return what to write for it."""
        bounds = f"; {self.least:g} at least"
        if self.kind is Kind.DURATION:
            bounds = f"; {format_duration(self.least)} at least, ten years at most"
        return _EXAMPLES[self.kind] + ("" if self.kind is Kind.FLAG else bounds)

    def read(self, text: str) -> float | None:
        """Return the value that people mean; None where they can mean none."""
        try:
            value = self._value(text.strip().lower())
        except ValueError:
            return None
        return value if self.least <= value < inf else None

    def _value(self, word: str) -> float:
        match self.kind:
            case Kind.DURATION:
                return 0.0 if word in _NONE else parse_duration(word)
            case Kind.FLAG:
                return _FLAGS.get(word, inf)
            case Kind.COUNT:
                return float(word) if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS else inf
            case Kind.NUMBER:
                return float(word)

    def typed(self, value: float) -> float:
        """Return a value as what it is: a whole number, true or false, or as it is."""
        if self.kind is Kind.FLAG:
            return bool(value)
        return int(value) if self.kind is Kind.COUNT else float(value)


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
