"""The budget of a cycle: what a million queued jobs cost more than ten thousand, in the same thousand lines."""

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import pytest

from gpud.core.commands import Submit
from gpud.core.cycle import cycle
from gpud.core.policies.priority import Priority
from gpud.core.restore import restore
from gpud.core.rules import Rules
from gpud.core.world import World
from gpud.model.gpu import Gpu, GpuId, Node, NodeName
from gpud.model.job import Demand, Exit, JobId, job_id
from gpud.model.observations import Exited, NodeSeen
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Mib, Timestamp

pytestmark = pytest.mark.bench

NOW = 1_700_000_000.0
LINES = [
    Terms(demand=Demand(gpus=1 + number % 2, cpus=number % 4), uid=number, user=f"user{number}", tenant="")
    for number in range(1000)
]
NODE = Node(
    name=NodeName("n1"),
    cpus=256,
    memory_mib=Mib(1 << 20),
    gpus=tuple(
        Gpu(id=GpuId(f"GPU-{index}"), index=index, name="NVIDIA H100", memory_total_mib=Mib(81_559), simulated=True)
        for index in range(16)
    ),
)


@dataclass
class Measured:
    queued: int
    load_s: float
    bytes_a_job: float
    idle_ms: float
    start_us: float
    submit_us: float
    told_ms: float


def waiting(jobs: int) -> Iterator[tuple[JobId, Terms, int, int]]:
    for number in range(1, jobs + 1):
        yield job_id(number), LINES[number * 7_919 % len(LINES)], 0, number


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def timed(world: World, inputs: list[object], now: float) -> float:
    before = time.perf_counter()
    cycle(world, inputs, Timestamp(now))
    return time.perf_counter() - before


def ends(world: World, jobs: int) -> list[object]:
    """Return the ends of that many running jobs."""
    some = list(world.active.values())[:jobs]
    return [Exited(job.job, job.place.attempt, Exit(at=Timestamp(NOW), exit_code=0)) for job in some]


def measure(jobs: int) -> Measured:
    gc.collect()
    world = World(Priority(1.0), Rules(), "boot")
    memory, began = resident(), time.perf_counter()
    restore(world, nodes=[NODE], waiting=waiting(jobs), others=[], settings={}, next_number=jobs + 1)
    load_s = time.perf_counter() - began
    bytes_a_job = (resident() - memory) / jobs
    gc.freeze()
    clock = count(NOW)
    cycle(world, [NodeSeen(NODE)], Timestamp(next(clock)))
    nothing = [Exited(JobId(0), 1, Exit(at=Timestamp(NOW), exit_code=0))]  # stirs, and frees nothing
    idle = [timed(world, list(nothing), next(clock)) for _ in range(300)]
    starting = []
    for _ in range(300):
        before = set(world.active)
        batch = ends(world, 4)
        took = timed(world, batch, next(clock))
        starting.append((took - median(idle)) / max(1, len(set(world.active) - before)))
    specs = [a_spec(LINES[number]) for number in range(50)]
    submits = [timed(world, [Submit(1, spec) for spec in specs], next(clock)) / len(specs) for _ in range(20)]
    told = [timed(world, [Submit(1, specs[0], tell=True)], next(clock)) for _ in range(20)]
    gc.unfreeze()
    return Measured(
        jobs,
        load_s,
        bytes_a_job,
        median(idle) * 1e3,
        median(starting) * 1e6,
        median(submits) * 1e6,
        median(told) * 1e3,
    )


def a_spec(terms: Terms) -> JobSpec:
    return JobSpec(
        nonce="",
        terms=terms,
        name="job",
        command=("true",),
        workdir="/",
        environment=b"{}",
        gid=1,
        groups=(),
    )


def test_a_million_queued_jobs_cost_what_ten_thousand_do(budgets):
    few, many = measure(10_000), measure(1_000_000)
    budgets.holds(
        "memory of a queued job, of 1,000,000",
        f"loaded in {many.load_s:.2f} s",
        f"of 10,000: {few.bytes_a_job:.0f} bytes, {few.load_s:.2f} s",
        many.bytes_a_job,
        most=200,
        unit=" bytes",
    )
    budgets.holds(
        "1,000,000 queued against 10,000, more for a start",
        f"{many.start_us:.1f} us (a submit {many.submit_us:.1f} us; told its position {many.told_ms:.3f} ms)",
        f"{few.start_us:.1f} us (a submit {few.submit_us:.1f} us; told its position {few.told_ms:.3f} ms)",
        max(0.0, many.start_us - few.start_us),
        most=10,
        unit=" us",
    )
    budgets.holds(
        "1,000,000 queued against 10,000, more for a cycle",
        f"{many.idle_ms:.3f} ms",
        f"{few.idle_ms:.3f} ms",
        max(0.0, many.idle_ms - few.idle_ms),
        most=0.1,
        unit=" ms",
    )
