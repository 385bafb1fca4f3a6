"""What ended long ago goes, in bites; what was used stays counted, and no number is given twice."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from gpud_process import until
from stored import T0, a_whole_life, added, over, running, starting

from gpud.chores.pruning import Pruning
from gpud.model.array import IndexSet, parse_array
from gpud.model.changes import ArrayPut, Unfolded
from gpud.model.job import End, job_id
from gpud.model.spec import ArrayState, Place
from gpud.store import pruning
from gpud.store.jobs import Store

LATER = T0 + 1_000_000


def counts(path):
    with closing(sqlite3.connect(path)) as db:
        tables = ("job", "attempt", "event")
        return tuple(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)  # noqa: S608 - names


def test_jobs_go_in_bites_with_all_that_is_theirs_and_the_newest_and_the_unfinished_stay(store, monkeypatch):
    monkeypatch.setattr(pruning, "BITE", 3)
    for number in range(1, 8):
        store.commit(a_whole_life(number))
    store.commit([added(8), *a_whole_life(9)])
    with closing(sqlite3.connect(store.path)) as db:
        used = db.execute("SELECT * FROM usage").fetchall()

    bites = [store.prune(pruning.jobs, LATER) for _ in range(4)]

    assert bites == [3, 3, 1, 0]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT id FROM job ORDER BY id").fetchall() == [(job_id(8),), (job_id(9),)]
        assert {job for (job,) in db.execute("SELECT job FROM attempt")} == {job_id(9)}
        assert {job for (job,) in db.execute("SELECT job FROM event")} == {job_id(8), job_id(9)}
        assert db.execute("SELECT * FROM usage").fetchall() == used
    assert store.load().next_number == 10


def test_what_ended_since_stays(store):
    store.commit(a_whole_life(1))
    store.commit([added(2)])

    assert store.prune(pruning.jobs, T0) == 0
    assert store.prune(pruning.events, T0) == 0


def test_elements_stay_while_their_array_is_not_over(store):
    array, _ = parse_array("0-3")
    pending, _ = parse_array("1-3")
    job, element = job_id(1), job_id(1, 0)
    place, state = Place(priority=0, queued_us=1), ArrayState(pending=pending, live=1)
    store.commit([added(1, array=array), Unfolded(element, T0, place), ArrayPut(job, T0, state, None, None)])
    store.commit([starting(element), running(element), *over(element), added(2)])
    assert store.prune(pruning.jobs, LATER) == 0

    ended = ArrayState(pending=IndexSet(), counts=((End.COMPLETED, 4),))
    store.commit([ArrayPut(job, T0 + 2, ended, End.COMPLETED, None)])
    assert store.prune(pruning.jobs, LATER) == 2


def test_events_go_from_the_oldest_on_and_their_numbers_go_on(store, monkeypatch):
    monkeypatch.setattr(pruning, "BITE", 3)
    for number in range(1, 5):
        store.commit(a_whole_life(number))
    last = store.load().last_event

    removed = 0
    while bite := store.prune(pruning.events, LATER):
        assert bite <= 3
        removed += bite

    assert removed == last - 1
    assert Store.open(store.path).load().last_event == last


@pytest.mark.parametrize(("days", "left"), [(1, 1), (0, 3)])
def test_it_is_done_by_itself_for_as_long_as_jobs_are_kept(store, days, left):
    for number in (1, 2, 3):
        store.commit(a_whole_life(number))

    async def prune():
        with ThreadPoolExecutor(1) as writer:
            pruned = asyncio.Event()
            work = Pruning(
                clock=lambda: LATER, store=store, writer=writer, keep_days=lambda: pruned.set() or days, first_s=0.0
            )
            work.begin()
            await pruned.wait()
            await asyncio.to_thread(until, lambda: counts(store.path)[0] == left)
            work.end()

    asyncio.run(prune())
    assert counts(store.path)[0] == left
