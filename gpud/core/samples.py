"""What readings of GPUs add up to for each attempt that holds some: see `sampling`, which asks for them."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any

from gpud.core.alarms import Alarms
from gpud.model.gpu import GpuId, Reading
from gpud.model.job import JobId
from gpud.model.units import Mib, Seconds, Timestamp
from gpud.model.use import GpuUse


@dataclass(slots=True)
class Tally:
    """One GPU, held by one attempt: as `GpuUse`, while it adds up. `at` is up to when it stands for."""

    at: Timestamp
    readings: int = 0
    seen_s: Seconds = 0.0
    known_s: Seconds = 0.0
    busy_s: Seconds = 0.0
    idle_s: Seconds = 0.0
    busiest_percent: int | None = None
    memory_peak_mib: Mib | None = None
    energy_j: float | None = None

    def add(self, reading: Reading, memory_mib: Mib | None, most_s: Seconds, *, alone: bool) -> None:
        """Count a reading, for the time since the last but no more than `most_s`.

        `memory_mib` is what the attempt had of the GPU's memory, None where that is unknown; `alone`: nobody shared it.
        """
        passed_s = min(reading.at - self.at, most_s)
        if passed_s <= 0:
            return  # told twice, or of before
        self.at, self.readings, self.seen_s = reading.at, self.readings + 1, self.seen_s + passed_s
        if memory_mib is not None:
            self.memory_peak_mib = Mib(max(memory_mib, self.memory_peak_mib or 0))
        percent = reading.utilization_percent
        if alone and percent is not None:
            self.known_s += passed_s
            self.busy_s += passed_s * percent / 100
            self.idle_s += passed_s if percent == 0 else 0.0
            self.busiest_percent = max(percent, self.busiest_percent or 0)
        if alone and reading.power_w is not None:
            self.energy_j = (self.energy_j or 0.0) + passed_s * reading.power_w

    def use(self, gpu: GpuId) -> GpuUse:
        """Return it as a value."""
        return GpuUse(
            gpu=gpu,
            readings=self.readings,
            seen_s=self.seen_s,
            known_s=self.known_s,
            busy_s=self.busy_s,
            idle_s=self.idle_s,
            busiest_percent=self.busiest_percent,
            memory_peak_mib=self.memory_peak_mib,
            energy_j=self.energy_j,
        )


_NUMBERS = len(fields(Tally))  # what a later gpud may have added is not known here


@dataclass(slots=True)
class Samples:
    """The tallies of active jobs, by GPU, and when the GPUs of each are looked at next.

    `kept_at` is when they were made durable last, or there were none yet.
    """

    due: Alarms = field(default_factory=Alarms)
    tallies: dict[JobId, dict[GpuId, Tally]] = field(default_factory=dict)
    kept_at: Timestamp = Timestamp(0.0)

    def uses(self, job: JobId) -> tuple[GpuUse, ...]:
        """Return what is known of an active attempt by now."""
        return tuple(tally.use(gpu) for gpu, tally in self.tallies.get(job, {}).items() if tally.readings)

    def plain(self, attempts: Mapping[JobId, int]) -> list[Any]:
        """Return the tallies as plain data; `attempts` are the active jobs'."""
        known = ((job, tallies) for job, tallies in self.tallies.items() if job in attempts)
        return [
            [int(job), attempts[job], [[str(gpu), *astuple(tally)] for gpu, tally in tallies.items()]]
            for job, tallies in known
        ]

    def restore(self, plain: object, attempts: Mapping[JobId, int]) -> None:
        """Go on with what `plain` gave, of attempts that still run."""
        for job, attempt, tallies in plain if isinstance(plain, list) else ():
            if attempts.get(JobId(job)) == attempt:
                self.tallies[JobId(job)] = {GpuId(gpu): Tally(*numbers[:_NUMBERS]) for gpu, *numbers in tallies}
