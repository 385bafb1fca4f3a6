"""What questions cost where there is much: why, on a thousand nodes; the stats of a busy week."""

import json
import sqlite3
import time
from contextlib import closing

import pytest
from budgets import best_ms

from gpud.core.commands import Submit
from gpud.core.cycle import cycle
from gpud.core.policies.priority import Priority
from gpud.core.queue import job_of
from gpud.core.rules import Rules
from gpud.core.why import why
from gpud.core.world import World
from gpud.model.gpu import Gpu, GpuId, Node, NodeName
from gpud.model.job import Demand
from gpud.model.observations import NodeSeen
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Mib, Timestamp
from gpud.model.window import Pool
from gpud.store.jobs import Store
from gpud.store.reader import Reader
from gpud.store.rows import JobRow
from gpud.views.explaining import why_map
from gpud.views.jobs import Scene
from gpud.views.reasons import in_a_sentence

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

NOW = Timestamp(1_700_000_000.0)
WEEK_S = 604_800.0
JOBS = 1_000_000


def a_node(number):
    gpus = tuple(
        Gpu(id=GpuId(f"{number}-{at}"), index=at, name="NVIDIA H100", memory_total_mib=Mib(81_559), simulated=True)
        for at in range(8)
    )
    return Node(name=NodeName(f"n{number:04}"), cpus=256, memory_mib=Mib(1 << 20), gpus=gpus)


def a_job(token, gpus, cpus=0):
    demand = Demand(gpus=gpus, cpus=cpus)
    terms = Terms(demand=demand, uid=token % 20, user=f"user{token % 20}", tenant="", time_limit_s=3600.0 + token)
    spec = JobSpec(
        nonce=str(token), terms=terms, name="j", command=("true",), workdir="/", environment=b"{}", gid=1, groups=()
    )
    return Submit(token, spec)


def a_full_fleet(rules):
    """Return a world of 8,000 GPUs that 3,200 jobs hold, in which 5,000 jobs of 50 demands wait."""
    world = World(Priority(1.0), rules, "boot")
    cycle(world, [NodeSeen(a_node(number)) for number in range(1000)], NOW)
    cycle(world, [a_job(token, 1 + token % 4) for token in range(4000)], NOW)
    cycle(world, [a_job(token, 1 + token % 8, cpus=token % 50 // 8) for token in range(5000)], NOW)
    return world


def as_row(world, job):
    waiting = world.waiting(job)
    return JobRow(
        job=job,
        state="queued",
        reason=None,
        terms=waiting.terms,
        place=waiting.place,
        name="j",
        command=("true",),
        workdir="/",
        labels={},
        output=None,
        error=None,
        begin_at=None,
        submitted_at=NOW,
        updated_at=NOW,
        ended_at=None,
        array=None,
        array_state=None,
        run=None,
    )


@pytest.mark.parametrize("rules", [Rules(), Rules(pools=(Pool(name="one", gpus=("n0000:0",)),))], ids=["", "a pool"])
def test_why_of_one_job_and_the_reasons_of_five_thousand(budgets, request, rules):
    world, kind = a_full_fleet(rules), request.node.callspec.id
    waiting = [job_of(entry) for _, entry in sorted(world.queue.standing())]
    scene, row = Scene(world=world, now=NOW, log_dir=str), as_row(world, waiting[-1])
    assert len(world.active) > 3000
    assert len(waiting) > 5000

    def anew():
        world.lacking.clear()

    def one():
        anew()
        return why_map(scene, row, 1, deep=True)

    def listing():
        anew()
        for job in waiting[:5000]:
            in_a_sentence(world, job, why(world, job, NOW), NOW)

    assert len(one()["details"]) >= 20
    one_ms, listing_ms = best_ms(one, rounds=5), best_ms(listing, rounds=2)
    given = f"1,000 nodes, {len(waiting)} wait {kind}".strip()
    budgets.holds("why of one job", f"{one_ms:.0f} ms", given, one_ms, most=50, unit=" ms")
    budgets.holds("reasons of 5,000 jobs", f"{listing_ms:.0f} ms", given, listing_ms / 1000, most=4, unit=" s")


def test_stats_of_a_week_of_a_million_jobs(budgets, tmp_path):
    path = str(tmp_path / "gpud.sqlite")
    Store.open(path).close()
    shares = [{"gpu": f"GPU-{number:08x}-1111-2222-3333-444444444444"} for number in range(2)]
    allocation, submitted = json.dumps([{"node": "n1", "shares": shares}]), json.dumps({"umask": 18, "begin_at": None})
    moments = [(number << 24, NOW - WEEK_S * (1 - number / JOBS)) for number in range(1, JOBS + 1)]
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("INSERT INTO terms VALUES (1, '{}')")
        database.executemany(
            "INSERT INTO job (id, state, submitted_at, updated_at, ended_at, terms, priority, queued_us, uid, user,"
            " tenant, name, name_group, command, workdir, submitted)"
            " VALUES (?, 'completed', ?, ?, ?, 1, 0, 0, 1, 'u', '', 'n', 'n', '[\"python\"]', '/home/u/project', ?)",
            ((job, at, at + 500, at + 500, submitted) for job, at in moments),
        )
        database.executemany(
            "INSERT INTO attempt (job, attempt, starting_at, since, started_at, boot, allocation, ended_at, gpu_s)"
            " VALUES (?, 1, ?, ?, ?, 'b', ?, ?, 800)",
            ((job, at + 100, at + 100, at + 100, allocation, at + 500) for job, at in moments),
        )
        database.commit()
    reader = Reader(path)
    began = time.perf_counter()
    past = reader.past([Timestamp(NOW - length_s) for length_s in (3600.0, 86_400.0, WEEK_S)], [])
    took_s = time.perf_counter() - began
    reader.close()
    assert past[2].starts == JOBS
    assert past[2].waits_s == pytest.approx((100, 100, 100))
    budgets.holds(
        "stats of an hour, a day, a week", f"{took_s:.2f} s", f"{JOBS:,} jobs ended", took_s, most=2, unit=" s"
    )
