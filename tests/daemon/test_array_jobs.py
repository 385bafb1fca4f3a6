"""Arrays: one entry that unfolds as it starts, and many jobs."""

import os
import time

import pytest
from gpud_process import until

from gpuctl.errors import RefusedError

APPEND = "echo $GPUD_ARRAY_INDEX >> ran"


def counts_of(gpud, array):
    """Return an array's counters by end."""
    return gpud.job(array)["array_counts"]


def test_every_element_runs_once_and_knows_its_index(gpud):
    array = gpud.submit("sh", "-c", f"{APPEND}; test $GPUD_ARRAY_INDEX != 4", array="0-9:2,11")

    over = gpud.ended(array)

    ran = (gpud.work / "ran").read_text().split()
    assert sorted(ran, key=int) == ["0", "2", "4", "6", "8", "11"]
    assert (over["state"], over["exit_code"], over["array_counts"]) == ("failed", 1, {"completed": 5, "failed": 1})
    assert gpud.job(f"{array}_4")["exit_code"] == 1
    shown = gpud.ask("show", job=array)
    elements = shown["elements"]
    assert [each["id"] for each in elements] == [f"{array}_{index}" for index in (0, 2, 4, 6, 8, 11)]
    assert shown["job"]["started_at"] == min(each["started_at"] for each in elements)


def test_a_throttle_lets_so_many_run_and_no_more(gpud):
    """Each makes one of two places its own, or says that there was none."""
    (gpud.work / "places").mkdir()
    script = (
        "mkdir places/a 2>&- && mine=a || mkdir places/b 2>&- && mine=${mine:-b} || echo none >> crowded;"
        " sleep 0.05; rmdir places/$mine"
    )
    array = gpud.submit("sh", "-c", script, array="0-11%2")
    gpud.running(f"{array}_0")
    assert gpud.job(array)["reason"] == "its array runs at most 2 at once"

    assert gpud.ended(array)["array_counts"] == {"completed": 12}
    assert not (gpud.work / "crowded").exists()


def listed(gpud, word):
    """What a listing of one word shows: ids, and of arrays what has not started."""
    return {(row["id"], row.get("array_pending")) for row in gpud.ask("list", jobs=[word])["jobs"]}


def test_a_part_of_an_array_can_be_cancelled(gpud):
    os.mkfifo(gpud.work / "go")
    array = gpud.submit("sh", "-c", "read line < go", array="0-9%2")
    for index in (0, 1):
        gpud.running(f"{array}_{index}")

    reply = gpud.ask("cancel", select={"jobs": [f"{array}_1", f"{array}_[5-9]"]}, force=True)

    assert reply["changed"] == [f"{array}_{index}" for index in (1, 5, 6, 7, 8, 9)]
    gpud.running(f"{array}_2")
    assert gpud.job(array)["array_pending"] == "3-4"
    assert listed(gpud, f"{array}_[2-8]") == {
        (array, "3-4"),
        *((f"{array}_{index}", None) for index in (2, 5, 6, 7, 8)),
    }
    assert listed(gpud, f"{array}_4") == {(f"{array}_4", None)}
    until(lambda: counts_of(gpud, array) == {"running": 2, "queued": 2, "cancelled": 6})
    with (gpud.work / "go").open("w") as go:
        go.write("go\n" * 100)
        go.flush()
        gpud.when(array, lambda shown: shown["ended_at"] is not None)
    assert counts_of(gpud, array) == {"completed": 4, "cancelled": 6}


def test_cancelling_an_array_ends_all_of_it(gpud):
    array = gpud.submit("sleep", "1000", array="0-99999%3")
    for index in range(3):
        gpud.running(f"{array}_{index}")
    gpud.ask("cancel", select={"jobs": [array]}, force=True)
    assert gpud.ended(array)["state"] == "cancelled"
    assert counts_of(gpud, array) == {"cancelled": 100_000}
    assert listed(gpud, f"{array}_99999") == {(f"{array}_99999", None)}
    assert listed(gpud, f"{array}_100000-100001") == set()
    with pytest.raises(RefusedError, match="there is no job"):
        listed(gpud, f"{array}_100000")
    note = gpud.ask("cancel", select={"jobs": [f"{array}_99999"]})
    assert (note["changed"], note["notes"]) == ([], {f"{array}_99999": "has ended already: cancelled"})


def test_elements_that_were_cancelled_before_they_started_can_run_after_all(gpud):
    array = gpud.submit("sh", "-c", APPEND, array="0-9", hold=True)
    gpud.ask("cancel", select={"jobs": [array]})
    assert gpud.ended(array)["state"] == "cancelled"

    gpud.ask("requeue", select={"jobs": [f"{array}_4"]})
    gpud.when(array, lambda shown: shown["array_counts"] == {"cancelled": 9, "completed": 1})
    assert (gpud.work / "ran").read_text().split() == ["4"]
    gpud.ask("requeue", select={"jobs": [array]})
    gpud.when(array, lambda shown: shown["array_counts"] == {"completed": 10})
    assert sorted((gpud.work / "ran").read_text().split()) == [str(index) for index in range(10)]


def test_an_array_goes_on_where_it_was_after_a_kill(gpud):
    array = gpud.submit("sh", "-c", APPEND, array="0-59%4")
    until(lambda: (gpud.work / "ran").exists() and len((gpud.work / "ran").read_text().split()) > 10)
    gpud.kill()
    gpud.start()
    assert gpud.ended(array)["array_counts"] == {"completed": 60}
    assert sorted(map(int, (gpud.work / "ran").read_text().split())) == list(range(60))


def test_elements_can_be_held_and_requeued(gpud):
    array = gpud.submit("sh", "-c", APPEND, array="0-3", hold=True)
    gpud.ask("release", select={"jobs": [f"{array}_2"]})
    assert gpud.ended(f"{array}_2")["state"] == "completed"
    assert (gpud.work / "ran").read_text().split() == ["2"]
    assert gpud.job(array)["state"] == "held"

    gpud.ask("requeue", select={"jobs": [f"{array}_2"]})
    gpud.when(f"{array}_2", lambda shown: shown["state"] == "completed" and shown["attempt"] == 2)
    gpud.ask("release", select={"jobs": [array]})
    gpud.ended(array)

    assert sorted((gpud.work / "ran").read_text().split()) == ["0", "1", "2", "2", "3"]
    gpud.ask("requeue", select={"jobs": [f"{array}_[0-1]"]})
    gpud.when(array, lambda shown: shown["ended_at"] is not None and counts_of(gpud, array) == {"completed": 4})
    assert sorted((gpud.work / "ran").read_text().split()) == ["0", "0", "1", "1", "2", "2", "3"]


def test_an_array_of_100_000_costs_what_one_job_costs(gpud):
    gpud.ask("pause")

    def cost(**fields):
        began = time.perf_counter()
        gpud.submit("true", **fields)
        return time.perf_counter() - began

    one = sorted(cost() for _ in range(30))
    many = sorted(cost(array="0-99999%8") for _ in range(30))

    assert many[0] < 3 * one[0], (one, many)
    assert (gpud.state / "gpud.db").stat().st_size + (gpud.state / "gpud.db-wal").stat().st_size < 8_000_000


@pytest.mark.timeout(120)
def test_ten_thousand_queued_jobs_slow_nobody_down(gpud):
    os.mkfifo(gpud.work / "go")
    gpud.running(gpud.submit("sh", "-c", "read line < go", gpus=2))
    requests = [{"op": "submit", "id": at, **gpud.request_of("true", gpus=2)} for at in range(10_000)]

    def cost():
        began = time.perf_counter()
        gpud.submit("true", gpus=2)
        return time.perf_counter() - began

    empty = sorted(cost() for _ in range(30))
    printed = pipelined(gpud, requests)
    full = sorted(cost() for _ in range(30))

    assert len(set(printed)) == 10_000
    assert full[0] < 3 * empty[0], (empty, full)
    began = time.perf_counter()
    some = gpud.ask("list", limit=10)
    assert (len(some["jobs"]), some["more"]) == (10, 10_000), "it counts no further"
    assert gpud.job(printed[-1])["queue_position"] == 10_030
    assert time.perf_counter() - began < 2
    everything = gpud.ask("list")
    assert (len(everything["jobs"]), everything["more"]) == (10_000, 61)
    gpud.kill()
    began = time.perf_counter()
    gpud.start()
    assert time.perf_counter() - began < 5
    assert gpud.job(printed[-1])["queue_position"] == 10_030
    mine = gpud.ask("cancel", select={"jobs": [f"{printed[0]}-{printed[-1]}"]})
    assert len(mine["changed"]) == 10_000


def pipelined(gpud, requests):
    """Send requests without waiting for answers; return the jobs."""
    from gpud.wire.codec import Frames, pack  # noqa: PLC0415 - only here are frames made by hand

    frames, jobs = Frames(), []
    with gpud.connect() as client:
        client.request("ping")
        raw = client._socket
        for at in range(0, len(requests), 200):
            raw.sendall(b"".join(map(pack, requests[at : at + 200])))
            while len(jobs) < min(at + 200, len(requests)):
                data = raw.recv(1 << 18)
                assert data, gpud.said()
                jobs += [reply["job"] for reply in frames.feed(data)]
    return jobs
