"""The protocol's page of `stats`: how the queue stands, and what the last hour, day and week were like.

Who waits and runs is counted by user and tenant, which everybody may see; names and commands of jobs are not in it.
"""

from typing import Literal, NotRequired, TypedDict


class Stats(TypedDict):
    """How the queue stands and how it went. Reply: `StatsReply`."""

    op: Literal["stats"]
    id: int


class CountMap(TypedDict):
    """What a user, or a tenant, has now. Elements of arrays count one each; `gpus` is a fraction for parts of GPUs."""

    name: str
    queued: int
    running: int
    gpus: float


class LineMap(TypedDict):
    """Jobs of one user that ask for the same: so many `jobs`, of which `head` is first and has waited for so long.

    The rest are the keys of a job that say what it needs.
    """

    user: str
    tenant: str
    jobs: int
    head: str
    head_waits_s: float
    gpus: float
    nodes: int
    share: bool
    mig: str | None
    gpu_memory_mib: int | None
    gpu_type: str | None
    pool: str | None
    cpus: int
    memory_mib: int | None
    time_limit_s: float | None
    estimate_s: float | None
    retries: int
    retry_on: list[str]


class Percentiles(TypedDict):
    """Of a hundred jobs, so many took that long at most, in seconds."""

    p50: float
    p90: float
    p99: float


class PeriodMap(TypedDict):
    """What happened in the last `seconds` of a "hour", "day" or "week": fewer where gpud has no longer a history.

    `wait_s`: from submission (or the begin time asked for, where that is later) to the first start, of jobs that
    started, time held or behind other jobs included; `turnaround_s`: from submission to the end, of jobs that ran and
    ended. Both are taken from one in `sampled_every` jobs; None: of nobody. `starts` and `ended` count attempts.
    `gpu_s` is GPU-time that jobs held; `utilization` is that by what the GPUs that were there had to give; None without
    GPUs. `lost_gpu_s` is what attempts had that were preempted.
    """

    period: str
    seconds: float
    starts: int
    starts_per_minute: float
    ended: int
    wait_s: Percentiles | None
    turnaround_s: Percentiles | None
    sampled_every: int
    gpu_s: float
    utilization: float | None
    lost_gpu_s: float


class CycleMap(TypedDict):
    """What the last decision cost, and what one costs on average (the newest weigh most), in milliseconds."""

    ms: float
    smoothed_ms: float
    inputs: int
    starts: int
    count: int


class Usage(TypedDict):
    """What GPUs were used for since then: the whole hours, and what runs now. Reply: `UsageReply`."""

    op: Literal["usage"]
    id: int
    by: Literal["user", "tenant", "gpu", "group"]
    since: float


class UsageMap(TypedDict):
    """What a user, tenant, GPU or group had: GPU-seconds, and of those that were measured how they went.

    `utilization` is the mean over `measured_gpu_s`, from 0 to 1, and `idle_gpu_s` the part of them at 0 %: None and 0
    where nothing was measured. `ended` counts attempts, `wait_s` is the mean wait for a first start, counted as in
    `stats`. `gpu` names a GPU's model. `cost` is None where no prices are configured.
    """

    name: str
    gpu: str | None
    gpu_s: float
    utilization: float | None
    measured_gpu_s: float
    idle_gpu_s: float
    energy_j: float | None
    ended: int
    wait_s: float | None
    foreign_gpu_s: float
    cost: float | None


class UsageReply(TypedDict):
    """The most used first. `since_at` is the beginning of the first hour that counts; `gpus` are there now.

    `there_gpu_s` is what the GPUs that were there had to give.
    """

    by: str
    since_at: float
    until_at: float
    gpus: int
    there_gpu_s: NotRequired[float]
    rows: list[UsageMap]


class StatsReply(TypedDict):
    """`jobs` by state; the largest `lines` and how many more there are; the periods, the shortest first.

    `gpus` are those that can be given out or are. `tenants` is empty where none is configured. `cycle` is None before
    the first.
    """

    jobs: dict[str, int]
    users: list[CountMap]
    tenants: list[CountMap]
    lines: list[LineMap]
    lines_more: int
    gpus: int
    periods: list[PeriodMap]
    cycle: CycleMap | None
