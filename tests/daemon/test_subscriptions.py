"""Changes are pushed to who asked for them; why a job waits is always told; settings are read again."""

import os
import signal
import time

import pytest
from gpud_process import until

from gpuctl.client import ConnectionLostError


def heard(client, wanted, within_s=20):
    """Return the events that came, up to the first that `wanted` holds of."""
    events = []
    client._socket.settimeout(within_s)
    while not (events and wanted(events[-1])):
        events += [pushed["event"] for pushed in client.pushed(wait=True) if "event" in pushed]
    return events


def test_a_subscriber_is_pushed_every_change_in_order(gpud):
    with gpud.connect() as client:
        client.request("subscribe")
        job = gpud.submit("sh", "-c", "exit 3")
        events = heard(client, lambda event: event["kind"] == "failed")
    assert [event["kind"] for event in events] == ["submitted", "starting", "running", "failed"]
    assert {event["job"] for event in events} == {job}
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert events[-1]["detail"]["exit_code"] == 3


def test_a_subscriber_of_some_jobs_hears_of_those_alone(gpud):
    array = gpud.submit("true", array="0-1", hold=True)
    other = gpud.submit("true", hold=True)
    with gpud.connect() as client:
        client.request("subscribe", jobs=[array])
        gpud.ask("cancel", select={"jobs": [other]})
        gpud.ask("release", select={"jobs": [array]})
        events = heard(client, lambda event: event["kind"] == "completed" and event["job"] == array)
    assert {event["job"] for event in events} == {array, f"{array}_0", f"{array}_1"}


def test_who_subscribes_from_a_number_on_misses_nothing_also_across_a_kill(gpud):
    last = gpud.ask("events")["last"]
    jobs = [gpud.submit("true") for _ in range(5)]
    gpud.idle()
    gpud.kill()
    gpud.start()
    jobs += [gpud.submit("true") for _ in range(5)]
    with gpud.connect() as client:
        client.request("subscribe", since=last)
        events = []
        while sum(event["kind"] == "completed" for event in events) < 10:
            events += heard(client, lambda _: True)
    assert [event["seq"] for event in events] == list(range(last + 1, last + 1 + len(events)))
    assert [event["job"] for event in events if event["kind"] == "submitted"] == jobs


def test_who_looks_at_gpus_is_told_when_they_were_read(gpud):
    with gpud.connect() as client:
        client.request("subscribe", readings=True)
        client._socket.settimeout(20)
        told = [client.pushed(wait=True) for _ in range(2)]
    assert all({"readings": True} in pushed for pushed in told)


def test_a_subscriber_that_does_not_read_is_cut_off_and_costs_others_nothing(gpud):
    slow = gpud.connect()
    for _ in range(20):  # so every change is pushed to it twenty times, and megabytes come together soon
        slow.request("subscribe")
    array = gpud.submit("true", array="0-999", hold=True)
    with slow:
        changes = 0
        while f"client cut off (pid {os.getpid()}" not in gpud.said():
            gpud.ask("priority", select={"jobs": [f"{array}_[0-999]"]}, priority=changes % 100)  # a thousand events
            changes += 1
            assert changes < 500
        began = time.perf_counter()
        assert gpud.ask("ping")["ok"]
        assert time.perf_counter() - began < 1
        with pytest.raises(ConnectionLostError):
            heard(slow, lambda _: False)


def reasons(gpud):
    """Return the code and the reason of every job that waits."""
    return {told["id"]: (told["code"], told["reason"]) for told in gpud.ask("why")["jobs"]}


def test_every_waiting_job_has_a_reason(gpud):
    lasting = gpud.submit("sleep", "1000", gpus=1, time_limit_s=3600)
    gpud.running(lasting)
    first = gpud.submit("true", gpus=2)
    gpud.running(gpud.submit("sleep", "1000", demand={"cpus": 1}))
    waiting = {
        first: ("no_capacity", "waits for 2 GPUs"),
        gpud.submit("true", gpus=1): ("yields", f"would delay job {first}, which"),
        gpud.submit("true", gpus=1, hold=True): ("held", "held by its owner"),
        gpud.submit("true", begin_at=time.time() + 7200): ("begin", "begins in"),
        gpud.submit("true", gpus=0, demand={"cpus": 32}): ("no_capacity", "waits for 32 CPUs: 30 of 32 are free"),
    }
    failing = gpud.submit("false", retries=1)
    array = gpud.submit("sleep", "1000", array="0-9%1")
    gpud.when(failing, lambda shown: shown["attempt"] == 2)
    gpud.running(f"{array}_0")
    waiting[failing] = ("retry", "attempt 2 in")
    waiting[array] = ("throttled", "its array runs at most 1 at once")

    told = reasons(gpud)
    listed = {row["id"]: row["reason"] for row in gpud.ask("list", state=["queued", "held"])["jobs"]}

    assert told.keys() == waiting.keys() == listed.keys()
    for job, (code, words) in waiting.items():
        assert told[job][0] == code, told[job]
        assert told[job][1].startswith(words), told[job]
        assert listed[job].startswith(words), listed[job]
    (shown,) = gpud.ask("why", job=first)["jobs"]
    assert any(f"job {lasting} of" in line and "ends within" in line for line in shown["details"]), shown
    assert shown["expected_start_at"] > time.time() + 3000


def test_a_paused_queue_says_so_and_runs_on_when_resumed(gpud):
    gpud.ask("pause", reason="maintenance")
    job = gpud.submit("true")
    gpud.restart()
    assert reasons(gpud)[job] == ("paused", "the queue is paused: maintenance")
    gpud.ask("resume")
    assert gpud.ended(job)["exit_code"] == 0


def test_a_drained_gpu_gets_no_job_also_after_a_restart(gpud):
    gpud.ask("drain", targets=["0"], reason="a fan")
    gpud.restart()
    job = gpud.submit("true", gpus=2)
    assert "1 drained" in reasons(gpud)[job][1]
    assert [(gpu["state"], gpu["health_reason"]) for gpu in gpud.ask("gpus")["gpus"]] == [
        ("draining", "a fan"),
        ("free", None),
    ]
    gpud.ask("undrain", targets=["0"])
    assert gpud.ended(job)["exit_code"] == 0


@pytest.fixture
def configured(a_gpud, tmp_path):
    """A gpud with a file of settings, and the file."""
    file = tmp_path / "config.toml"
    file.write_text('simulate = "2xH100"\naging_per_hour = 3600.0\n')
    return a_gpud("--config", str(file)), file


def reload(gpud):
    """Have the settings read again, and wait until they were."""
    times = gpud.said().count("configuration")
    gpud.signal(signal.SIGHUP)
    until(lambda: gpud.said().count("configuration") > times)


def test_a_reload_changes_the_order_and_keeps_the_queue(configured):
    gpud, file = configured
    lasting = gpud.submit("sh", "-c", "read line < go", gpus=2)
    os.mkfifo(gpud.work / "go")
    gpud.running(lasting)
    early = gpud.submit("true", gpus=2)
    held = gpud.submit("true", hold=True)
    time.sleep(1.1)  # with aging of a point a second this outweighs the priority of 1 below
    late = gpud.submit("true", gpus=2, priority=1)
    before = [gpud.job(job)["queue_position"] for job in (early, late)]

    file.write_text('simulate = "2xH100"\naging_per_hour = 0.0\n')
    reload(gpud)

    assert before == [1, 2]
    assert [gpud.job(job)["queue_position"] for job in (early, late)] == [2, 1]
    assert [gpud.job(job)["state"] for job in (lasting, held)] == ["running", "held"]
    assert [gpu["jobs"] for gpu in gpud.ask("gpus")["gpus"]] == [[lasting], [lasting]]
    (gpud.work / "go").write_text("go\n")
    assert gpud.ended(early)["exit_code"] == 0
    assert gpud.job(late)["started_at"] < gpud.job(early)["started_at"]


def test_who_may_start_under_other_settings_starts_at_the_reload(configured):
    gpud, file = configured
    gpud.ask("reserve", targets=["0", "1"], at=time.time() + 3600, until=time.time() + 7200, whose=[], reason="work")
    job = gpud.submit("true", gpus=1)
    assert "would run into reservation" in gpud.job(job)["reason"]

    file.write_text('simulate = "2xH100"\nassumed_runtime = "30m"\n')
    reload(gpud)

    assert gpud.ended(job)["exit_code"] == 0


def test_a_wrong_setting_at_a_reload_changes_nothing(configured):
    gpud, file = configured
    file.write_text('simulate = "2xH100"\naging_per_huor = 0.0\n')
    reload(gpud)
    assert "configuration not changed" in gpud.said()
    assert "aging_per_huor" in gpud.said()
    assert gpud.ended(gpud.submit("true", gpus=2))["exit_code"] == 0


def test_a_reload_says_what_it_does_not_take_each_time(configured):
    gpud, file = configured
    file.write_text(f'simulate = "1xA10"\nstate_dir = "{gpud.folder}/other"\ncuda_visible_devices = "uuid"\n')
    for times in (1, 2):
        reload(gpud)
        assert gpud.said().count("not taken from the configuration before gpud is started anew: simulate") == times
    assert gpud.ask("status")["simulated"] == "2xH100"
    job = gpud.ended(gpud.submit("sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpus=1))
    assert job["output"].startswith(f"{gpud.state}/")


def test_reloads_amid_submits_and_ends_lose_nothing(configured):
    gpud, _ = configured
    jobs = []
    for _ in range(40):
        jobs += [gpud.submit("sh", "-c", "mkdir $GPUD_GPU_UUIDS && rmdir $GPUD_GPU_UUIDS", gpus=1) for _ in range(3)]
        gpud.signal(signal.SIGHUP)
    rows = {row["id"]: row for row in gpud.idle()}
    assert rows.keys() == set(jobs)
    assert {(row["exit_code"], row["attempt"]) for row in rows.values()} == {(0, 1)}
