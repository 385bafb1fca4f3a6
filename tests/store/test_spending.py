"""What GPUs were used for: by whom, in which hour, also once the jobs are forgotten."""

import gzip
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from stored import ON_TWO, T0, TERMS, added, running, starting

from gpud.model.changes import AttemptEnded, StrangerSeen
from gpud.model.gpu import Share
from gpud.model.job import Exit, job_id
from gpud.model.units import Mib, Timestamp
from gpud.model.use import GpuUse
from gpud.store.jobs import Store
from gpud.store.reader import Reader

HOUR = 3600.0
NEXT = T0 // HOUR * HOUR + HOUR  # the next full hour


def lived(number, user, started, ended, *, group=None, waited=0.0, uses=()):
    """Return the changes of a job on two GPUs that ran once."""
    job = job_id(number)
    terms = replace(TERMS, user=user)
    over = AttemptEnded(
        job, 1, Exit(at=Timestamp(ended), exit_code=0), None, terms.uid, "lab", 2 * (ended - started), uses
    )
    return [
        added(number, Timestamp(started - waited), terms=terms, group=group),
        starting(job, 1, Timestamp(started)),
        running(job, 1, Timestamp(started)),
        over,
    ]


def by(reader, what, since=T0):
    return {each.key: each for each in reader.spent(what, Timestamp(since))}


def test_an_attempts_time_counts_in_the_hours_in_which_it_ran(store, reader):
    store.commit(lived(1, "ann", NEXT - 600, NEXT + 1800, waited=60.0))

    assert by(reader, "user")["ann"].gpu_s == pytest.approx(2 * 2400)
    late = by(reader, "user", NEXT)["ann"]
    assert late.gpu_s == pytest.approx(2 * 1800)
    assert (late.attempts, late.starts, late.wait_s) == (1, 1, 60.0)
    assert by(reader, "user", NEXT + HOUR) == {}


def test_parts_by_memory_cost_each_gpu_what_they_are_of_it(store, reader):
    added_, *_, over = lived(1, "ann", T0, T0 + 1000)
    shares = tuple(
        Share(gpu=gpu, memory_mib=Mib(8192), milli=milli) for gpu, milli in zip(ON_TWO.gpus, (300, 100), strict=True)
    )
    allocation = replace(ON_TWO, shares=shares)
    over = replace(over, gpu_s=400.0)
    store.commit([added_, starting(job_id(1), 1, T0, allocation), running(job_id(1), 1, T0, allocation), over])

    assert [by(reader, "gpu")[gpu].gpu_s for gpu in ON_TWO.gpus] == pytest.approx([300.0, 100.0])


def test_a_part_of_a_gpu_of_which_nobody_knows_the_size_counts_as_all_of_it(store, reader):
    """Beside one that is known, as of a job that is taken up after a restored copy."""
    added_, *_, over = lived(1, "ann", T0, T0 + 1000)
    known, unknown = (Share(gpu=gpu, memory_mib=Mib(8192)) for gpu in ON_TWO.gpus)
    allocation = replace(ON_TWO, shares=(replace(known, milli=250), unknown))
    store.commit([added_, starting(job_id(1), 1, T0, allocation), replace(over, gpu_s=1250.0)])

    assert [by(reader, "gpu")[gpu].gpu_s for gpu in ON_TWO.gpus] == pytest.approx([250.0, 1000.0])


def test_users_groups_and_gpus_each_get_what_was_seen_of_theirs(store, reader):
    first, second = ON_TWO.gpus
    seen = {"readings": 100, "seen_s": 1000.0, "known_s": 1000.0}
    busy = GpuUse(gpu=first, **seen, busy_s=800.0, busiest_percent=90, energy_j=5e5)
    idle = GpuUse(gpu=second, **seen, idle_s=1000.0, busiest_percent=0, energy_j=1e5)
    store.commit(lived(1, "ann", T0, T0 + 1000, group="sweep", uses=(busy, idle)))
    store.commit(lived(2, "bob", T0 + 1000, T0 + 1100))

    users, gpus, groups = by(reader, "user"), by(reader, "gpu"), by(reader, "group")

    assert {name: each.gpu_s for name, each in users.items()} == pytest.approx({"ann": 2000.0, "bob": 200.0})
    assert (users["ann"].busy_s, users["ann"].idle_s, users["ann"].energy_j) == pytest.approx((800.0, 1000.0, 6e5))
    assert (gpus[first].busy_s, gpus[second].busy_s) == pytest.approx((800.0, 0.0))
    assert (gpus[first].attempts, gpus[second].attempts) == (2, 0)  # each on its first GPU
    assert groups.keys() == {"sweep", ""}
    assert by(reader, "tenant")["lab"].known_s == pytest.approx(2000.0)


def test_what_was_had_without_a_job_counts_beside_what_jobs_had(store, reader):
    first, second = ON_TWO.gpus
    store.commit(lived(1, "ann", T0, T0 + 1000))
    store.commit([StrangerSeen(Timestamp(T0 + each), first, "ann", "lab", 60.0) for each in (1000, 1060)])
    store.commit([StrangerSeen(Timestamp(T0 + 1060), second, "eve", "default", 30.0)])

    users, gpus = by(reader, "user"), by(reader, "gpu")
    assert (users["ann"].gpu_s, users["ann"].foreign_s) == pytest.approx((2000.0, 120.0))
    assert (users["eve"].gpu_s, users["eve"].foreign_s, users["eve"].attempts) == (0.0, 30.0, 0)
    assert (gpus[first].foreign_s, gpus[second].foreign_s) == (120.0, 30.0)
    assert by(reader, "tenant")["default"].foreign_s == 30.0


def test_a_run_of_weeks_is_counted_by_the_day_and_whole(store, reader):
    store.commit(lived(1, "ann", T0, T0 + 30 * 24 * HOUR))

    assert by(reader, "user", 0.0)["ann"].gpu_s == pytest.approx(2 * 30 * 24 * HOUR)
    with closing(sqlite3.connect(store.path)) as database:
        assert database.execute("SELECT count(*) FROM spent").fetchone()[0] <= 2 * 32


def test_it_is_told_without_a_look_at_the_jobs(store, reader):
    store.commit(lived(1, "ann", T0, T0 + 1000))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("DELETE FROM attempt")
        database.execute("DELETE FROM job")

    assert by(reader, "user")["ann"].gpu_s == pytest.approx(2000.0)


def test_what_a_database_of_an_earlier_gpud_holds_counts_too(tmp_path):
    path = tmp_path / "gpud.sqlite"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "schema-1.sqlite.gz").read_bytes()))
    store = Store.open(str(path))
    reader = Reader(store.path)
    with closing(sqlite3.connect(path)) as database:
        wanted = database.execute("SELECT sum(gpu_s), count(*) FROM attempt WHERE ended_at IS NOT NULL").fetchone()

    spent = reader.spent("tenant", Timestamp(0.0))
    reader.close()
    store.close()

    assert (sum(each.gpu_s for each in spent), sum(each.attempts for each in spent)) == pytest.approx(wanted)
    assert wanted[1] > 0
