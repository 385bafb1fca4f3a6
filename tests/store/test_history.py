"""What the last hour, day and week are said to have been like, from the store alone."""

import sqlite3
from contextlib import closing

import pytest
from stored import T0, added, running, starting

from gpud.model.array import parse_array
from gpud.model.changes import AttemptEnded, Ended, Unfolded
from gpud.model.job import End, Exit, StopCause, job_id
from gpud.model.spec import Place
from gpud.store import history


def attempt(job, started, ended, *, number=1, cause=None, gpus=2):
    """Return an attempt, in seconds since T0."""
    over = Exit(at=T0 + ended, exit_code=0)
    return [
        starting(job, number, T0 + started),
        running(job, number, T0 + started),
        AttemptEnded(job, number, over, cause, 1000, "lab", float(gpus * (ended - started))),
    ]


def lived(number, submitted, started, ended, **more):
    """Return the changes of a job that ran once, in seconds since T0."""
    job = job_id(number)
    end = Ended(job, T0 + ended, End.COMPLETED, Exit(at=T0 + ended, exit_code=0))
    return [added(number, T0 + submitted, **more), *attempt(job, started, ended), end]


def test_of_what_began_before_a_period_only_the_rest_counts(store, reader):
    store.commit([*lived(1, 0, 500, 1500), *lived(2, 900, 1100, 1200), *lived(3, 0, 10, 20)])

    (past,) = reader.past([T0 + 1000], [])

    assert (past.starts, past.ended, past.gpu_s, past.lost_gpu_s) == (1, 2, 2 * 500.0 + 2 * 100.0, 0.0)
    assert past.waits_s == (200.0, 200.0, 200.0)
    assert past.turnarounds_s == (300.0, 1500.0, 1500.0)
    assert (past.every, reader.begun_at()) == (1, T0)


def test_percentiles_are_what_so_many_in_a_hundred_took_at_most(store, reader):
    for number in range(1, 101):
        store.commit(lived(number, 0, number, number + 1000))
    (past,) = reader.past([T0], [])
    assert past.waits_s == (50.0, 90.0, 99.0)
    assert past.turnarounds_s == (1050.0, 1090.0, 1099.0)


def test_waits_are_until_the_first_start_and_from_the_begin_time_that_was_asked_for(store, reader):
    again = job_id(1)
    store.commit([added(1), *attempt(again, 10, 20, cause=StopCause.PREEMPTED), *attempt(again, 500, 600, number=2)])
    store.commit(lived(2, 0, 100, 200, begin_at=T0 + 90))
    (past,) = reader.past([T0], [])
    (spent,) = reader.spent("user", T0)
    assert (spent.attempts, spent.starts, spent.wait_s) == (3, 2, 20.0), "one definition for stats and usage"
    assert (past.ended, past.waits_s, past.starts, past.lost_gpu_s) == (3, (10.0, 10.0, 10.0), 3, 20.0)


def test_what_still_runs_has_waited_too(store, reader):
    store.commit([added(1), starting(job_id(1), at=T0 + 30), running(job_id(1), at=T0 + 30)])
    early, late = reader.past([T0, T0 + 60], [(job_id(1), T0 + 30)])
    assert (early.waits_s, late.waits_s) == ((30.0, 30.0, 30.0), None)
    assert (early.starts, early.ended, early.turnarounds_s) == (0, 0, None)


def test_elements_count_one_each_and_their_array_for_nothing(store, reader):
    array = added(1, array=parse_array("0-2")[0])
    store.commit([array])
    for index in range(3):
        job = job_id(1, index)
        end = Ended(job, T0 + 100, End.COMPLETED, Exit(at=T0 + 100, exit_code=0))
        store.commit([Unfolded(job, T0, Place(queued_us=1)), *attempt(job, 10 * index, 100), end])
    store.commit([Ended(job_id(1), T0 + 100, End.COMPLETED, None)])
    (past,) = reader.past([T0], [])
    assert (past.starts, past.waits_s, past.turnarounds_s) == (3, (10.0, 20.0, 20.0), (100.0, 100.0, 100.0))


def test_of_very_many_a_sample_is_looked_at_and_it_is_like_all(store, reader, monkeypatch):
    """Also where every 64th is another kind of job, as in arrays of 64 whose first element waits longest."""
    monkeypatch.setattr(history, "SAMPLE", 500)
    changes = []
    for number in range(1, 6401):
        changes += lived(number, 0, number * 7_919 % 100 if number % 64 else 1000, 1000)
    store.commit(changes)

    (past,) = reader.past([T0], [])

    assert (past.every, past.starts) == (13, 6400)
    assert past.waits_s == (pytest.approx(50, abs=6), pytest.approx(90, abs=4), 1000)


def test_no_period_reads_more_rows_than_its_sample_has(store):
    with closing(sqlite3.connect(store.path)) as database:
        asked = {"since": T0, "every": 1, "active": "[]"}
        plans = {
            query: [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}", asked)]
            for query in (history._ATTEMPTS, history._WAITS, history._TURNAROUNDS)
        }
    for query, plan in plans.items():
        assert not [step for step in plan if scans(step)], plan
        assert any("COVERING INDEX" in step and "ended_at>?" in step for step in plan), query


def scans(step):
    """Return whether a step of a plan looks at every row of a table."""
    return step.startswith("SCAN") and "json_each" not in step and "VIRTUAL" not in step and "chosen" not in step
