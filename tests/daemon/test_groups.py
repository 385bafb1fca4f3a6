"""Groups and keys in a real gpud: nothing runs twice, all or none are queued, and who fails again and again is held."""

import threading

import pytest
from gpud_process import Gpud

from gpuctl.errors import RefusedError


@pytest.fixture(scope="module")
def gpud(tmp_path_factory):
    gpud = Gpud(tmp_path_factory.mktemp("groups"), "--simulate", "2xRTX4090").start()
    yield gpud
    assert not gpud.close()


def asked(gpud, *command, **fields):
    """Return the whole reply to a submit."""
    return gpud.ask("submit", **gpud.request_of(*command, **fields))


def many(gpud, *commands, **fields):
    """Return the fields of a `submit_many` of these commands."""
    request = gpud.request_of("true")
    shared = {key: request[key] for key in ("nonce", "environment", "umask", "limits")}
    jobs = [
        {"demand": {"gpus": 0}, "command": list(command), "workdir": str(gpud.work), "where": f"jobs.txt:{line}"}
        | fields
        for line, command in enumerate(commands, 1)
    ]
    return shared | {"jobs": jobs}


def group_of(gpud, name):
    (found,) = gpud.ask("groups", name=name)["groups"]
    return found


def test_a_key_that_waits_runs_or_has_completed_is_not_queued_again(gpud):
    first = asked(gpud, "true", group="g", key="k", hold=True)["job"]
    assert asked(gpud, "false", group="g", key="k")["there"] == "held"
    gpud.ask("release", select={"jobs": [first]})
    gpud.ended(first)
    again = asked(gpud, "false", group="g", key="k")
    assert (again["job"], again["there"]) == (first, "completed")
    other = asked(gpud, "true", group="g", key="other")
    assert "there" not in other
    assert other["job"] != first


@pytest.mark.parametrize("command", ["false", "no-such-program"])
def test_a_key_that_failed_is_queued_anew(gpud, command):
    first = gpud.submit(command, group=f"failed-{command}", key="k")
    gpud.ended(first)
    second = gpud.submit("true", group=f"failed-{command}", key="k")
    assert second != first
    gpud.ended(second)
    said = gpud.ask("requeue", select={"jobs": [first]})
    assert said["changed"] == []
    assert said["notes"] == {first: f"is not run again: job {second} has its key in group failed-{command}"}


def test_submits_of_one_key_at_once_are_one_job(gpud):
    jobs = []

    def submit():
        with gpud.connect() as client:
            jobs.append(client.request("submit", **gpud.request_of("true", group="race", key="k"))["job"])

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 8
    assert len(set(jobs)) == 1


def test_a_key_is_known_after_a_kill(gpud):
    done, held = (gpud.submit("true", group="durable", key=key, hold=key == "held") for key in ("done", "held"))
    gpud.ended(done)
    gpud.kill()
    gpud.start()
    assert asked(gpud, "true", group="durable", key="done")["job"] == done
    assert asked(gpud, "true", group="durable", key="held")["job"] == held


def test_a_key_alone_is_refused(gpud):
    with pytest.raises(RefusedError, match="no group is named"):
        gpud.submit("true", key="k")


def test_a_group_that_there_never_was_is_no_selection(gpud):
    with pytest.raises(RefusedError, match="there is no group 'typo'") as refused:
        gpud.ask("cancel", select={"group": "typo"})
    assert refused.value.code == "no_such_group"
    gpud.ended(gpud.submit("true", group="was"))
    assert gpud.ask("cancel", select={"group": "was"})["changed"] == []


def test_an_array_has_a_key_and_its_elements_have_none(gpud):
    array = gpud.submit("true", group="array", key="k", array="0-2")
    gpud.ended(array)
    assert asked(gpud, "true", group="array", key="k", array="0-2")["job"] == array
    rows = gpud.ask("list", group="array", all=True)["jobs"]
    assert [(row["group"], row["key"]) for row in rows] == [("array", None)] * 3
    assert group_of(gpud, "array")["counts"] == {"completed": 3}


def test_a_larger_array_under_the_key_of_one_that_is_there_is_refused(gpud):
    first = asked(gpud, "true", group="grows", key="k", array="0-3", hold=True)["job"]
    assert asked(gpud, "true", group="grows", key="k", array="1-3")["there"] == "held"
    with pytest.raises(RefusedError, match=f"job {first}, which has the key 'k', is there without elements 4-9"):
        asked(gpud, "true", group="grows", key="k", array="0-9")
    gpud.ask("cancel", select={"group": "grows"})


def test_of_an_array_that_failed_only_what_has_not_completed_runs_again(gpud):
    def asked_for(code, array="0-3"):
        command = "exit $(( GPUD_ARRAY_INDEX == 2 ? CODE : 0 ))"
        return asked(gpud, "sh", "-c", command, group="part", key="k", array=array, env={"CODE": code})

    first = asked_for("3")["job"]
    assert gpud.ended(first)["state"] == "failed"
    again = asked_for("3")
    assert again["done"] == "0-1,3"
    assert gpud.ended(again["job"])["array_counts"] == {"completed": 3, "failed": 1}
    assert asked_for("0", "0-1") | {"id": 0} == {"id": 0, "ok": True, "job": again["job"], "there": "completed"}
    last = asked_for("0")
    assert gpud.ended(last["job"])["state"] == "completed"
    assert [row["array_index"] for row in gpud.ask("show", job=last["job"])["elements"]] == [2]
    assert asked_for("0")["there"] == "completed"
    assert group_of(gpud, "part")["counts"] == {"completed": 4}
    with pytest.raises(RefusedError, match="has completed without elements 4-5"):
        asked_for("0", "0-5")


def test_of_a_key_that_failed_twice_the_newest_runs_again(gpud):
    old = gpud.submit("false", group="twice", key="k", hold=True)
    first = gpud.submit("false", group="twice")  # whom the old one was told later to come after
    gpud.ask("update", select={"jobs": [old]}, after={"any": [first]})
    gpud.ask("release", select={"jobs": [old]})
    gpud.ended(old)
    new = gpud.submit("false", group="twice", key="k")
    gpud.ended(new)
    said = gpud.ask("requeue", select={"jobs": [first, old, new]})
    assert said["changed"] == [first, new]
    assert list(said["notes"]) == [old]


def test_many_are_queued_in_their_order_and_what_is_there_is_told(gpud):
    commands = [("true", str(number)) for number in range(5)]
    request = many(gpud, *commands, group="many")
    for number, job in enumerate(request["jobs"]):
        job["key"] = str(number)
    first = gpud.ask("submit_many", **request)
    assert first["jobs"] == sorted(first["jobs"], key=int)
    for job in first["jobs"]:
        gpud.ended(job)
    again = gpud.ask("submit_many", **request | {"nonce": "another-nonce"})
    assert again["jobs"] == first["jobs"]
    assert again["there"] == dict.fromkeys(first["jobs"], "completed")


def test_one_that_is_wrong_refuses_all_and_says_where(gpud):
    request = many(gpud, ("true",), ("true",), ("true",), group="refused")
    request["jobs"][1]["demand"] = {"gpus": 99}
    with pytest.raises(RefusedError, match=r"jobs\.txt:2: 99 GPUs are asked for"):
        gpud.ask("submit_many", **request)
    request["jobs"][1] = request["jobs"][0] | {"workdir": "here", "where": "jobs.txt:2"}
    with pytest.raises(RefusedError, match=r"jobs\.txt:2: the working directory"):
        gpud.ask("submit_many", **request)
    with pytest.raises(RefusedError, match="no group 'refused'"):
        gpud.ask("groups", name="refused")


def test_parts_are_one_submit_and_count_only_when_all_are_here(gpud):
    first, last = many(gpud, ("true", "1"), group="parts"), many(gpud, ("true", "2"), group="parts")
    last["nonce"] = first["nonce"]
    with gpud.connect() as client:  # and goes before the last part
        client.request("submit_many", **first, part=0, more=True)
    with pytest.raises(RefusedError, match="parts of these jobs are missing"):
        gpud.ask("submit_many", **last, part=1)
    gpud.ask("submit_many", **first, part=0, more=True)
    jobs = gpud.ask("submit_many", **last, part=1)["jobs"]
    assert len(jobs) == 2
    gpud.ask("submit_many", **first, part=0, more=True, retry=True)
    assert gpud.ask("submit_many", **last, part=1, retry=True)["jobs"] == jobs
    for job in jobs:
        gpud.ended(job)
    assert group_of(gpud, "parts")["total"] == 2


def test_after_three_failures_in_a_row_the_rest_of_a_group_is_held(gpud):
    waiting = gpud.submit("true", group="bad", begin_at=4e9)
    for _ in range(2):
        gpud.ended(gpud.submit("false", group="bad"))
    gpud.ended(gpud.submit("true", group="bad"))  # begins to count anew
    for _ in range(2):
        gpud.ended(gpud.submit("false", group="bad"))
    assert gpud.job(waiting)["state"] == "queued"
    last = gpud.submit("false", group="bad")
    held = gpud.when(waiting, lambda job: job["state"] == "held")
    assert held["reason"] == (
        f"group bad had 3 failures in a row (gpuctl logs {last}); go on with gpuctl release --group bad"
    )
    gpud.kill()
    gpud.start()
    assert gpud.job(waiting)["reason"] == held["reason"]
    assert group_of(gpud, "bad")["held"] == held["reason"]
    more = gpud.submit("true", group="bad")
    assert gpud.job(more)["reason"] == held["reason"]

    assert gpud.ask("release", select={"group": "bad"})["changed"] == [waiting, more]
    assert gpud.ended(more)["state"] == "completed"
    assert group_of(gpud, "bad")["held"] is None
    gpud.ask("cancel", select={"group": "bad"})


def test_who_comes_after_three_failures_is_held_with_the_next_one(gpud):
    for _ in range(3):
        gpud.ended(gpud.submit("false", group="slowly"))
    waiting = gpud.submit("true", group="slowly", begin_at=4e9)
    assert gpud.job(waiting)["state"] == "queued"
    gpud.ended(gpud.submit("false", group="slowly"))
    gpud.when(waiting, lambda job: job["state"] == "held")
    gpud.ask("cancel", select={"group": "slowly"})


def test_what_is_run_again_of_a_held_group_is_held_too_after_three_failures_more(gpud):
    waiting = gpud.submit("true", group="again", begin_at=4e9)
    failed = [gpud.submit("false", group="again", gpus=2) for _ in range(3)]
    gpud.when(waiting, lambda job: job["state"] == "held")
    gpud.ask("release", select={"jobs": [waiting]})
    failed += [gpud.submit("false", group="again", gpus=2) for _ in range(3)]
    gpud.when(waiting, lambda job: job["state"] == "held")

    gpud.ask("requeue", select={"jobs": failed})
    last = [gpud.when(job, lambda job: job["attempt"] == 2 and job["state"] in {"failed", "held"}) for job in failed]

    assert [job["state"] for job in last] == ["failed"] * 3 + ["held"] * 3
    assert "logs " + failed[2] in group_of(gpud, "again")["held"]
    gpud.ask("cancel", select={"group": "again"})


def test_a_group_s_progress_counts_each_key_once(gpud):
    gpud.ended(gpud.submit("false", group="progress", key="k"))
    gpud.ended(gpud.submit("true", group="progress", key="k"))
    array = gpud.submit("true", group="progress", array="0-9", hold=True)
    shown = group_of(gpud, "progress")
    assert (shown["counts"], shown["done"], shown["total"]) == ({"completed": 1, "held": 10}, 1, 11)
    gpud.ask("cancel", select={"jobs": [array]})
    assert group_of(gpud, "progress")["done"] == 11
