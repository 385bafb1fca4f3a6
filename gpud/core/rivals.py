"""How many blocked jobs reserve: the first K of those that could have the same GPUs.

A job for which only GPUs of another type, MIG profile or pool will do, or none at all, is never in their way, unless
both ask for CPUs or memory. Were there K reservations for all together, who waits for one type would keep a gang from
ever having another. Who takes several types counts for the one that it has reserved.
"""

from collections.abc import Collection, Iterable

from gpud.core.fleet import GpuState, Kind
from gpud.core.placement import wants
from gpud.model.job import Demand

_REMEMBERED = 4096  # demands
Rivals = frozenset[tuple[str | None, Kind] | None]


class Suiting:
    """What would suit each demand: kinds of GPUs, of which pool; None: CPUs and memory."""

    def __init__(self) -> None:
        self._kinds: set[Kind] | None = None
        self._of: dict[Demand, Rivals] = {}

    def forget(self) -> None:
        """Forget it: there are others."""
        self._kinds = None
        self._of.clear()

    def of(self, demand: Demand, gpus: Iterable[GpuState]) -> Rivals:
        """Return what suits a demand: demands of which no two have one in common are in nobody's way."""
        found = self._of.get(demand)
        if found is None:
            if self._kinds is None:
                self._kinds = {state.kind for state in gpus}
            if len(self._of) >= _REMEMBERED:
                self._of.clear()
            kinds = {(demand.pool, kind) for kind in self._kinds if demand.gpus and wants(demand, *kind)}
            host = {None} if demand.cpus_counted or demand.memory_mib else set[None]()
            found = self._of[demand] = frozenset(kinds | host)
        return found


class Slots:
    """Who may still reserve in one round: until there are so many of each kind of GPUs that would suit it.

    Whoever is blocked and may not closes these to all that could have the same: it comes before them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[tuple[str | None, Kind] | None, int] = {}
        self._closed: set[tuple[str | None, Kind] | None] = set()

    def open(self, rivals: Rivals) -> bool:
        """Return whether one more of these may reserve; whom nothing suits never does."""
        return self._most > 0 and bool(rivals) and self._closed.isdisjoint(rivals)

    def take(self, rivals: Rivals, reserved: Iterable[GpuState]) -> None:
        """Count one that has reserved these GPUs: only what it is to have is not there for others."""
        kinds = {state.kind for state in reserved}
        for each in rivals:
            if each is None or each[1] in kinds:
                self._taken[each] = self._taken.get(each, 0) + 1
                if self._taken[each] >= self._most:
                    self._closed.add(each)

    def close(self, rivals: Rivals) -> None:
        """Let nobody reserve any more who could have the same."""
        self._closed |= rivals

    def any(self, waiting: Collection[Rivals]) -> bool:
        """Return whether one more of some of these may reserve."""
        return any(self.open(each) for each in waiting)
