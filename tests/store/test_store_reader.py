"""What people ask of jobs, attempts and events, and that asking does not scan the history."""

import re
from itertools import chain

import pytest
from stored import ENVIRONMENT, ON_TWO, PROCESS, T0, TERMS, a_whole_life, added, for_user, over, running, starting

from gpud.model.array import parse_array
from gpud.model.changes import ArrayPut, Queued, Told, Unfolded
from gpud.model.job import End, Exit, format_job, job_id
from gpud.model.spec import ArrayState, Park, Place
from gpud.store.reader import _sources
from gpud.store.rows import AttemptRow, JobQuery

BOB = for_user(TERMS, "bob")


@pytest.fixture
def history(store, reader):
    """1 completed long ago, 2 (bob's) failed, 3 completed, 4 runs, 5 waits, 6 is an array with one started element."""
    store.commit([*a_whole_life(1), *a_whole_life(2, at=T0 + 50, end=End.FAILED, terms=BOB)])
    store.commit([*a_whole_life(3, at=T0 + 100), added(4), starting(job_id(4)), running(job_id(4))])
    indices, element = parse_array("0-3")[0], job_id(6, 0)
    store.commit([added(5, terms=BOB), added(6, array=indices), Unfolded(element, T0, Place(queued_us=6))])
    store.commit([starting(element), ArrayPut(job_id(6), T0, ArrayState(pending=indices.without_first(), live=1))])
    return reader


def listed(reader, **query):
    found, more = reader.jobs(JobQuery(**query))
    told = [(row.job, row.state, row.terms, row.group, row.place.park, row.array_state) for row in found]
    assert reader.standings(JobQuery(**query)) == (told, more)
    return " ".join(format_job(row.job) for row in found), more


@pytest.mark.parametrize(
    ("query", "jobs"),
    [
        ({}, "4 5 6 6_0"),
        ({"own": ("ann", T0 + 60)}, "3 4 5 6 6_0"),
        ({"own": ("bob", T0)}, "2 4 5 6 6_0"),
        ({"ended": True}, "1 2 3 4 5 6 6_0"),
        ({"ended": True, "user": "bob"}, "2 5"),
        ({"ended": True, "states": frozenset({"failed"})}, "2"),
        ({"ended": True, "states": frozenset({"failed", "completed", "running"})}, "1 2 3 4"),
        ({"ended": True, "user": "ann", "states": frozenset({"completed"})}, "1 3"),
        ({"states": frozenset({"starting", "completed"})}, "6_0"),
        ({"ended": True, "since": T0 + 50}, "2 3"),
        ({"ended": True, "name": "train-3"}, "3"),
        ({"name": "train-6"}, "6 6_0"),
        ({"spans": ((job_id(1), job_id(2)), (job_id(6), job_id(6, 9)), (job_id(2), job_id(2)))}, "1 2 6 6_0"),
        ({"spans": ((job_id(1), job_id(6, 9)),), "user": "bob"}, "2 5"),
        ({"spans": ()}, ""),
        ({"user": "nobody", "ended": True}, ""),
    ],
)
def test_a_listing_holds_what_was_asked_for(history, query, jobs):
    assert listed(history, **query) == (jobs, 0)


def test_a_listing_keeps_the_newest_and_says_how_many_more(history):
    assert listed(history, limit=2) == ("6 6_0", 2)
    assert listed(history, ended=True, limit=5) == ("3 4 5 6 6_0", 2)
    assert listed(history, ended=True, limit=4) == ("4 5 6 6_0", 3)
    assert listed(history, spans=((job_id(1), job_id(3)),), limit=1) == ("3", 2)
    assert listed(history, limit=0) == ("", 4)


def test_what_has_not_ended_is_never_left_out_for_what_has(store, history):
    store.commit([each for number in range(7, 12) for each in a_whole_life(number, at=T0 + 200)])

    assert listed(history, ended=True, limit=5) == ("4 5 6 6_0 11", 7)
    assert listed(history, own=("ann", T0), limit=4) == ("4 5 6 6_0", 7)
    assert listed(history, spans=((job_id(1), job_id(99)),), limit=5) == ("4 5 6 6_0 11", 7)


def test_what_runs_is_never_left_out_for_what_waits(history):
    assert listed(history, limit=2, first=(job_id(4), job_id(6, 0))) == ("4 6_0", 2)
    assert listed(history, limit=1, first=(job_id(4),), states=frozenset({"queued"})) == ("6", 1)
    assert listed(history, limit=3, first=(job_id(1), job_id(99))) == ("5 6 6_0", 1)


@pytest.mark.parametrize(
    "query",
    [
        JobQuery(),
        JobQuery(own=("ann", T0)),
        JobQuery(ended=True),
        JobQuery(ended=True, user="ann"),
        JobQuery(ended=True, states=frozenset({"lost"})),
        JobQuery(ended=True, since=T0),
        JobQuery(spans=((job_id(1), job_id(2)),)),
    ],
    ids=str,
)
def test_no_listing_scans_the_jobs(store, query):
    for select, values in chain.from_iterable(_sources(query)):
        plan = store._db.execute(f"EXPLAIN QUERY PLAN {select} ORDER BY job.id DESC LIMIT 9", values).fetchall()
        steps = " ".join(step for *_, step in plan)
        assert "SCAN job" not in re.sub(r"SCAN job USING (COVERING )?INDEX", "", steps), steps
        sorts = query.spans or query.own or query.since or "first.value" in select
        assert "TEMP B-TREE" not in steps or sorts, steps


def test_a_row_tells_everything_of_a_job(history):
    row = history.job(job_id(4))

    assert (row.state, row.terms, row.name, row.workdir) == ("running", TERMS, "train-4", "/home/ann/project")
    assert (row.command, row.place.attempt) == (("python", "train.py", "--seed", "4"), 1)
    assert (row.run.allocation, row.run.process, row.run.started_at, row.run.exit) == ((ON_TWO,), PROCESS, T0, None)
    assert (row.submitted_at, row.ended_at, row.array) == (T0, None, None)
    assert history.job(job_id(99)) is None


def test_an_arrays_row_tells_what_is_left_and_its_elements_their_own(history):
    (array, element), _ = history.jobs(JobQuery(spans=((job_id(6), job_id(6, 3)),)))

    assert (array.state, str(array.array), str(array.array_state.pending), array.run) == ("queued", "0-3", "1-3", None)
    assert (element.state, element.array, element.array_state, element.name) == ("starting", None, None, "train-6")


def test_every_attempt_of_a_job_is_told(reader, store):
    job, again = job_id(1), Place(queued_us=1, attempt=2, failures=1, park=Park.RETRY, not_before=T0 + 30)
    failed, _ = over(job, code=3)
    store.commit(
        [added(1), starting(job), running(job), failed, Queued(job, T0 + 1, again, "retried", "exit status 3")]
    )
    assert reader.job(job).run is None
    store.commit([starting(job, 2, T0 + 31)])

    first, second = reader.attempts(job)
    assert first.exit == Exit(at=T0, exit_code=3, cpu_s=2.0)
    assert (first.gpu_s, first.cause) == (20.0, None)
    assert second == AttemptRow(
        job=job,
        attempt=2,
        starting_at=T0 + 31,
        started_at=None,
        boot="boot-1",
        allocation=(ON_TWO,),
        process=None,
        shim=None,
        cause=None,
        kill_at=None,
        exit=None,
        gpu_s=None,
    )
    assert reader.job(job).run == second


def test_events_are_found_by_number_and_by_job(store, history):
    store.commit([Told(T0, "paused", {})])
    everything = history.events()

    assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
    assert history.events(since=len(everything) - 1) == everything[-1:]
    assert history.events(since=2, limit=3) == everything[2:5]
    of_six = history.events(spans=[(job_id(6), job_id(6, 9)), (job_id(6), job_id(6))])
    assert [(format_job(event.job), event.kind) for event in of_six] == [("6", "submitted"), ("6_0", "starting")]
    assert history.events(since=of_six[0].seq, spans=[(job_id(6), job_id(6, 9))], limit=1) == of_six[1:]


def test_an_environment_is_told_by_names_alone(history):
    assert history.environment(job_id(6, 0)) == ["HF_TOKEN", "HOME"]
    assert b"secret" in ENVIRONMENT
    assert history.environment(job_id(99)) is None


def test_a_finished_job_is_found_for_a_requeue_and_an_unfinished_one_is_not(history):
    found = history.finished([job_id(2), job_id(4), job_id(99)])

    assert list(found) == [job_id(2)]
    assert (found[job_id(2)].terms, found[job_id(2)].end, found[job_id(2)].place.attempt) == (BOB, End.FAILED, 1)


def test_jobs_are_counted_by_state(history):
    assert history.counts(ended_since=T0 + 60) == {"completed": 1, "queued": 2, "running": 1, "starting": 1}


def test_nonces_are_looked_up(history):
    assert history.nonces(["nonce-5", "nonce-77", "\udcff"]) == {"nonce-5": job_id(5)}


def test_a_reader_cannot_write(reader):
    with pytest.raises(Exception, match="readonly"):
        reader._db.execute("DELETE FROM job")
