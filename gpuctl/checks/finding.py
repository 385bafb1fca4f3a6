"""What a check found."""

from dataclasses import dataclass
from typing import Any

from gpuctl.session import Session


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `result` is `ok`, `warning` (something will be missing) or `problem` (gpud cannot work)."""

    result: str
    check: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose gpud is looked at. `status` is what it says of itself, None where it does not answer.

    `state` is where it keeps its jobs, None where that cannot be said; `system`: it is the machine's.
    """

    session: Session
    status: dict[str, Any] | None
    state: str | None
    system: bool
