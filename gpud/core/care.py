"""What gpud remembers of the GPUs' troubles: see `nursing`, which keeps it."""

from dataclasses import dataclass, field

from gpud.model.changes import Told
from gpud.model.gpu import GpuId
from gpud.model.job import JobId
from gpud.model.units import Seconds, Timestamp


@dataclass(slots=True)
class Care:
    """`attended` are GPUs that are looked at from `due` on although no job holds them: sick, or with strangers.

    `guests` names the stranger whom the last look found on a job's GPU, `over` since when a job uses more GPU memory
    than it declared, and how much, `idle` the jobs that were told of for using none of their GPUs, `unused` since when
    nobody uses a claim's. `foreign_s` are the GPU-seconds of strangers by their uid, `written_at` when those were last
    kept, `unpaid_s` what of them was not kept yet, by user and GPU, `untold` what was told by a commit that failed.
    """

    attended: dict[GpuId, None] = field(default_factory=dict)
    due: Timestamp | None = None
    guests: dict[JobId, tuple[GpuId, str]] = field(default_factory=dict)
    over: dict[JobId, tuple[Timestamp, str]] = field(default_factory=dict)
    idle: dict[JobId, None] = field(default_factory=dict)
    unused: dict[JobId, Timestamp] = field(default_factory=dict)
    foreign_s: dict[int, Seconds] = field(default_factory=dict)
    unpaid_s: dict[tuple[str, GpuId], Seconds] = field(default_factory=dict)
    untold: list[Told] = field(default_factory=list)
    written_at: Timestamp | None = None
    puzzled: bool = False  # it was told that pids of the driver are not those that are seen here

    def forget(self, job: JobId) -> None:
        """Forget what was noted of an attempt that is over."""
        self.guests.pop(job, None)
        self.over.pop(job, None)
        self.idle.pop(job, None)
        self.unused.pop(job, None)
