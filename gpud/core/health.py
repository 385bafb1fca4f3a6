"""How well a GPU is, and why: rules over what was seen of it. They decide nothing and know no world.

A GPU is as well as the worst of its faults lets it be. A fault has a cause, a moment since when, and what would clear
it. Most end by themselves when a later look shows the cause gone; those that need a person (`person`) last until
`gpuctl undrain`, over restarts of gpud, and those of which a reboot is the cure (`boot`) until then at most.

Rules as in NVIDIA's own DCGM and its device plugin: counts of corrected errors say nothing; slowing down for heat
counts after a minute of it; a limit that a reading crosses is left by a margin before it is well again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from gpud.model.gpu import Reading, Unreadable
from gpud.model.health import Signs
from gpud.model.job import JobId
from gpud.model.units import Mib, Seconds, Timestamp

SLOW_S: Seconds = 60.0  # of slowing down, or of none, before it counts
COOLER_C = 5  # below the limit before a GPU that was too hot is used again
CAPPED = 0.7  # of its usual power limit: below that a GPU is a slow one
DEATHS = 3  # different jobs in a row
EARLY_S: Seconds = 30.0  # after its start
_RESET = "by itself, after a reset (nvidia-smi --gpu-reset) or a reboot"


class Level(StrEnum):
    """How well a GPU is, the best first."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # used after all others
    DRAINING = "draining"  # no new jobs
    LOST = "lost"


_RANK = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a GPU, since when, and what would clear it. `boot`: a reboot after that one does."""

    level: Level
    says: str
    clears: str
    since: Timestamp = Timestamp(0.0)
    person: bool = False
    boot: str | None = None


@dataclass(slots=True)
class Stranger:
    """A process on a GPU that gpud did not start; `looks` counts how often it was seen there, `words` is who it is.

    `idle_since` is when the GPU was first seen doing nothing, and at every look since. `alarmed`: it was told of.
    """

    since: Timestamp
    words: str
    looks: int = 0
    idle_since: Timestamp | None = None
    alarmed: bool = False


@dataclass(slots=True)
class Health:
    """What is known of one GPU's health.

    `slowed_since` and `even_since`: since when every look found it slowed down, or not. `idle_since`: since when none
    found it doing anything. `deaths` are the last jobs that died on it early, with their users, and none since.
    `heard` is when each XID was last told of, `alerted` when each cause last was an alert. `counted_at` is up to when
    strangers' use was counted.
    """

    faults: dict[str, Fault] = field(default_factory=dict)
    slowed_since: Timestamp | None = None
    even_since: Timestamp | None = None
    idle_since: Timestamp | None = None
    deaths: dict[JobId, str] = field(default_factory=dict)
    heard: dict[int, Timestamp] = field(default_factory=dict)
    alerted: dict[str, Timestamp] = field(default_factory=dict)
    strangers: dict[tuple[int, int], Stranger] = field(default_factory=dict)
    counted_at: Timestamp | None = None

    @property
    def level(self) -> Level:
        """Return how well it is."""
        return max((fault.level for fault in self.faults.values()), key=_RANK.__getitem__, default=Level.HEALTHY)

    @property
    def closed(self) -> bool:
        """Return whether it gets no new jobs."""
        return bool(self.faults) and self.level in {Level.DRAINING, Level.LOST}

    @property
    def degraded(self) -> bool:
        """Return whether it is used after all others."""
        return bool(self.faults) and self.level is Level.DEGRADED

    def worst(self) -> tuple[str, Fault] | None:
        """Return the cause and fault that matter most: of equals, the oldest."""
        return max(self.faults.items(), key=lambda each: (_RANK[each[1].level], -each[1].since), default=None)


LATE = Fault(level=Level.DEGRADED, says="it does not answer at once, as others do", clears="by itself, when it answers")
Finding = tuple[str, Fault | None]  # a cause, and the fault that it makes; None: that one is over


def findings(health: Health, seen: Reading | Unreadable, thermal_limit_c: int | None) -> Iterator[Finding]:
    """Yield what a look says of each cause; of those that it does not mention nothing is new."""
    yield "late", None
    if isinstance(seen, Unreadable):
        if seen.split:
            return
        clears = _RESET if seen.reset else "by itself, when the driver answers for it"
        silent = Fault(level=Level.DRAINING, says=seen.reason, clears=clears)
        lost = Fault(level=Level.LOST, says=seen.reason, clears="by itself, when the driver has it; mostly a reboot")
        yield "unreadable", None if seen.lost else silent
        yield "lost", lost if seen.lost else None
        return
    yield "unreadable", None
    yield "lost", None
    yield "heat", _heat(health, seen, thermal_limit_c)
    yield from _slow(health, seen)
    if seen.signs is not None:
        yield from _signs(seen.signs)


def _heat(health: Health, seen: Reading, limit_c: int | None) -> Fault | None:
    if limit_c is None or seen.temperature_c is None:
        return None
    cool_c = limit_c - COOLER_C
    if seen.temperature_c < limit_c and ("heat" not in health.faults or seen.temperature_c <= cool_c):
        return None
    return Fault(
        level=Level.DRAINING,
        says=f"{seen.temperature_c} C, and the limit is {limit_c} C",
        clears=f"by itself, at {cool_c} C",
    )


def _slow(health: Health, seen: Reading) -> Iterator[Finding]:
    """Yield what looks at a GPU's throttle reasons say, over the time that they were the same."""
    if seen.slowed is None:
        return
    if seen.slowed:
        health.even_since = None
        health.slowed_since = health.slowed_since or seen.at
        if seen.at - health.slowed_since >= SLOW_S:
            clears = "by itself, after a minute at full clocks; see to its cooling and power"
            yield "slowed", Fault(level=Level.DEGRADED, says=f"slowed down by {', '.join(seen.slowed)}", clears=clears)
        return
    health.slowed_since = None
    health.even_since = health.even_since or seen.at
    if seen.at - health.even_since >= SLOW_S or "slowed" not in health.faults:
        yield "slowed", None


def _signs(signs: Signs) -> Iterator[Finding]:
    yield (
        "memory errors",
        _fault(
            signs.ecc_uncorrected,
            Level.DEGRADED,
            f"{signs.ecc_uncorrected} memory errors that could not be corrected",
            _RESET,
        ),
    )
    yield "remap", _fault(signs.remap_pending, Level.DRAINING, "failed memory waits to be replaced", _RESET)
    yield (
        "remap failed",
        _fault(signs.remap_failed, Level.DRAINING, "failed memory cannot be replaced any more", "a new GPU"),
    )
    width, most = signs.pcie_width or 0, signs.pcie_width_max or 0
    yield (
        "pcie",
        _fault(
            0 < width < most,
            Level.DEGRADED,
            f"its PCIe link has {width} lanes of {most}",
            "by itself, at full width; see to how it sits in its slot",
        ),
    )
    limit, usual = signs.power_limit_w or 0, signs.power_default_w or 0
    yield (
        "power",
        _fault(
            0 < limit < CAPPED * usual,
            Level.DEGRADED,
            f"its power is limited to {limit:.0f} W of {usual:.0f} W",
            "by itself, at its usual limit (nvidia-smi -pl)",
        ),
    )
    yield (
        "recovery",
        _fault(
            signs.recovery,
            Level.DRAINING,
            f"the driver wants a {signs.recovery}",
            f"by itself, after a {signs.recovery}",
        ),
    )


def _fault(so: object, level: Level, says: str, clears: str) -> Fault | None:
    return Fault(level=level, says=says, clears=clears) if so else None


def hoarded(used_mib: Mib, idle_mib: Mib, *, contained: bool) -> Fault:
    """Return the fault of a GPU whose memory is in use while nobody is seen on it."""
    who = " (gpud runs in a container, and sees no processes outside)" if contained else ""
    return Fault(
        level=Level.DRAINING,
        says=f"{used_mib} MiB of its memory are in use, by no process that is seen here{who}",
        clears=f"by itself, at its idle use of about {idle_mib} MiB; gpuctl undrain takes that for its idle use",
    )


def deadly(jobs: str) -> Fault:
    """Return the fault of a GPU on which job after job died."""
    return Fault(
        level=Level.DRAINING,
        says=f"{DEATHS} jobs in a row died on it within {EARLY_S:.0f} s of their start: {jobs}",
        clears="a look at it and at them, then gpuctl undrain",
        person=True,
    )


def kept(fault: Fault) -> dict[str, object]:
    """Return a fault as a plain value, to be kept."""
    return {"level": fault.level.value, "says": fault.says, "clears": fault.clears} | {
        "since": fault.since,
        "boot": fault.boot,
    }


def restored(plain: dict[str, object]) -> Fault:
    """Return a fault that was kept: only those are that need a person."""
    since, boot = plain["since"], plain["boot"]
    return Fault(
        level=Level(str(plain["level"])),
        says=str(plain["says"]),
        clears=str(plain["clears"]),
        since=Timestamp(since if isinstance(since, float) else 0.0),
        person=True,
        boot=boot if isinstance(boot, str) else None,
    )
