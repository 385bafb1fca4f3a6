"""Jobs that come after others, and failures that are tried again, in a real gpud that is killed in between."""

import os
import threading

import pytest

from gpuctl.errors import GpuctlError


def a_job_that_waits(gpud, code=0, **fields):
    """Submit a job that ends with `code` when its FIFO is written to; return its id and how to let it end."""
    go = gpud.work / f"go{len(list(gpud.work.iterdir()))}"
    os.mkfifo(go)
    return gpud.submit("sh", "-c", f"read line < {go}; exit {code}", **fields), lambda: go.write_text("go\n")


def after(*jobs, when="success"):
    return {when: list(jobs)}


def test_a_chain_goes_on_although_gpud_is_killed_between_its_links(gpud):
    first, end = a_job_that_waits(gpud)
    second = gpud.submit("true", after=after(first))
    third = gpud.submit("true", after=after(second))
    gpud.running(first)
    gpud.kill()
    end()
    gpud.start()
    assert gpud.ended(third)["state"] == "completed"
    assert gpud.job(second)["started_at"] >= gpud.job(first)["ended_at"]


def test_what_failed_of_an_array_runs_again_by_the_hint_of_who_waits_for_it(gpud):
    gate = gpud.work / "gate"
    array = gpud.submit("sh", "-c", f'[ "$GPUD_ARRAY_INDEX" != 1 ] || [ -e {gate} ]', gpus=0, array="0-2")
    second = gpud.submit("true", gpus=0, after=after(array))
    gpud.ended(array)
    (why,) = gpud.ask("why", job=second)["jobs"]
    assert why["hint"].endswith(f"gpuctl requeue {array} --state failed")
    refused = gpud.ask("requeue", select={"jobs": [array]})
    assert refused["notes"][array].endswith("name those that are to run again, or how they ended: --state failed")
    gate.touch()

    assert gpud.ask("requeue", select={"jobs": [array], "state": ["failed"]})["changed"] == [f"{array}_1"]

    assert gpud.ended(second)["state"] == "completed"
    assert [gpud.job(f"{array}_{index}")["attempt"] for index in range(3)] == [1, 2, 1]


def test_a_singleton_comes_after_all_of_its_name_that_have_not_ended(gpud):
    first, end = a_job_that_waits(gpud, 3, name="alone")
    second, other = (gpud.submit("true", name=name, after={"singleton": []}) for name in ("alone", "another"))
    third = gpud.submit("true", name="alone", after={"singleton": []})
    gpud.ended(other)
    assert gpud.job(third)["after"] == [f"any:{first}", f"any:{second}"]
    end()
    assert gpud.ended(third)["started_at"] >= gpud.job(second)["ended_at"]


def test_what_is_waited_for_is_said_everywhere(gpud):
    first, end = a_job_that_waits(gpud)
    second = gpud.submit("true", after=after(first) | after(first, when="any"))
    gpud.running(first)
    (listed,) = gpud.ask("list", jobs=[second])["jobs"]
    (why,) = gpud.ask("why", job=second)["jobs"]
    assert (listed["state"], listed["after"]) == ("queued", [first, f"any:{first}"])
    assert listed["reason"] == f"waits for job {first} (running) to succeed, and for 1 more"
    assert why["code"] == "after"
    assert gpud.ask("show", job=first)["dependents"] == [second]
    end()
    gpud.ended(second)
    assert gpud.ask("show", job=first)["dependents"] == []


def test_who_can_never_start_is_held_with_the_reason_across_a_kill_and_waits_again_after_a_requeue(gpud):
    gate = gpud.work / "gate"
    first = gpud.submit("test", "-e", gate)
    second = gpud.submit("true", after=after(first))
    held = gpud.when(second, lambda job: job["state"] == "held")
    assert held["reason"] == f"was to start after job {first} succeeded, but that failed"
    gpud.kill()
    gpud.start()
    (why,) = gpud.ask("why", job=second)["jobs"]
    assert (why["code"], why["reason"]) == ("unmet", held["reason"])
    kinds = [event["kind"] for event in gpud.ask("events", since=0, jobs=[second])["events"]]
    assert kinds == ["submitted", "held"]

    gate.touch()
    gpud.ask("requeue", select={"jobs": [first]})
    assert gpud.ended(second)["state"] == "completed"


def test_a_release_starts_it_all_the_same(gpud):
    first = gpud.submit("false")
    second = gpud.submit("true", after=after(first))
    gpud.when(second, lambda job: job["state"] == "held")
    gpud.ask("release", select={"jobs": [second]})
    assert gpud.ended(second)["state"] == "completed"


def test_where_so_configured_who_can_never_start_is_cancelled_and_those_after_it_too(a_gpud):
    gpud = a_gpud("--simulate", "1xH100", "--after-failed", "cancel")
    first, end = a_job_that_waits(gpud, 3)
    second = gpud.submit("true", after=after(first))
    array = gpud.submit("true", after=after(second), array="0-9")
    cleanup = gpud.submit("true", after=after(first, when="failed"))
    end()
    over = [gpud.ended(job) for job in (second, array, cleanup)]
    assert [job["state"] for job in over] == ["cancelled", "cancelled", "completed"]
    assert over[1]["reason"] == f"was to start after job {second} succeeded, but that was cancelled"


def test_elements_and_whole_arrays_are_waited_for_across_a_kill(gpud):
    go = gpud.work / "go"
    os.mkfifo(go)
    wait = f"test $GPUD_ARRAY_INDEX != 1 || read line < {go}"
    array = gpud.submit("sh", "-c", wait, array="0-2")
    element, whole = gpud.submit("true", after=after(f"{array}_0")), gpud.submit("true", after=after(array))
    later = gpud.submit("true", array="0-1", after=after(f"{array}_0-2"))
    gpud.ended(element)
    gpud.kill()
    gpud.start()
    assert gpud.job(whole)["reason"].startswith(f"waits for job {array} (")
    go.write_text("go\n")
    assert [gpud.ended(job)["state"] for job in (whole, later)] == ["completed", "completed"]


def test_no_end_is_missed_however_the_submit_falls(gpud):
    """Each job ends at about the moment at which the one after it is looked up and queued."""
    jobs = []
    for _ in range(40):
        first = gpud.submit("true")
        jobs.append(gpud.submit("true", after=after(first)))
    assert {gpud.ended(job)["state"] for job in jobs} == {"completed"}


def test_many_clients_build_one_chain(gpud):
    first, end = a_job_that_waits(gpud)
    found = []

    def submit():
        with gpud.connect() as client:
            found.append(client.request("submit", **gpud.request_of("true", after=after(first)))["job"])

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    end()
    for thread in threads:
        thread.join()
    assert {gpud.ended(job)["state"] for job in found} == {"completed"}


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"success": ["999"]}, "no_such_job", "there is no job 999"),
        ({"success": ["800-900"]}, "no_such_job", "no job is named"),
        ({"success": []}, "no_such_job", "no job is named"),
        ({"perhaps": ["1"]}, "usage", "no way to end"),
        ({"success": ["one"]}, "usage", "not a job id"),
        ({"success": "1"}, "usage", "list"),
    ],
)
def test_a_wrong_dependency_is_refused_and_queues_nothing(gpud, asked, code, words):
    with pytest.raises(GpuctlError, match=words) as refused:
        gpud.submit("true", after=asked)
    assert refused.value.code == code
    assert gpud.ask("list", all=True)["jobs"] == []


# -- tried again


def test_a_job_is_tried_again_for_the_exit_codes_that_it_names(gpud):
    again = gpud.submit("sh", "-c", "test $GPUD_ATTEMPT = 2 || exit 75", retries=3, retry_on=["exit:75"])
    failed = gpud.submit("sh", "-c", "exit 3", retries=3, retry_on=["exit:75"])
    assert gpud.ended(failed)["attempt"] == 1
    gpud.when(again, lambda job: job["reason"] is not None and "attempt 2" in job["reason"])
    gpud.kill()
    gpud.start()
    over = gpud.ended(again)
    assert (over["state"], over["attempt"], over["retry_on"]) == ("completed", 2, ["exit:75"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"retry_on": ["bad luck"], "retries": 1}, "no kind of failure"),
        ({"retry_on": ["exit:0"], "retries": 1}, "no kind of failure"),
        ({"retry_on": ["oom"]}, "not how often"),
        ({"estimate_s": -1.0}, "the estimate"),
        ({"demand": {"gpus": 3, "nodes": 2}}, "same number on each"),
        ({"demand": {"gpus": 0, "share_mib": 10}}, "no GPU"),
        ({"demand": {"gpus": 1, "share_mib": 10, "share_permille": 10}}, "one of them"),
        ({"demand": {"gpus": 1, "share_permille": 1000}}, "fraction"),
        ({"demand": {"gpus": 1, "mig": "half"}}, "MIG profile"),
        ({"demand": {"gpus": 1, "gpu_type": "H100|"}}, "GPU type"),
        ({"demand": {"gpus": 1, "excluded_nodes": ["nowhere"]}}, "no node 'nowhere'"),
        ({"demand": {"gpus": 1, "excluded_gpus": ["7"]}}, "no GPU named '7'"),
        ({"demand": {"gpus": 1, "node_labels": {"a\nb": "c"}}}, "control characters"),
    ],
)
def test_what_cannot_be_meant_is_refused(gpud, fields, words):
    with pytest.raises(GpuctlError, match=words):
        gpud.submit("true", **fields)
    assert gpud.ask("list", all=True)["jobs"] == []
