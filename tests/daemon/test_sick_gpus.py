"""GPUs that misbehave under a real gpud, on a real driver library: who is told, who is ended, what is kept."""

import os
from pathlib import Path

import pytest
from cli.conftest import Gpuctl
from fakenvml.fixture import fake_gpu, fake_uuid
from gpud_process import until

WAITS = ("sh", "-c", "read line < go")


@pytest.fixture
def machine(a_gpud, fake_nvml, own):
    """Return a gpud on two GPUs, and a function that says how these are from now on."""

    def are(*gpus):
        fake_nvml.write(*map(own, gpus))

    are(fake_gpu(0), fake_gpu(1))
    gpud = a_gpud("--nvml-library", fake_nvml.library, environment=fake_nvml.environment)
    until(lambda: [gpu["state"] for gpu in gpud.ask("gpus")["gpus"]] == ["free", "free"])
    os.mkfifo(gpud.work / "go")
    return gpud, are


def gpu_of(gpud, index=0):
    """Return a GPU as `gpus` tells it, freshly read."""
    return gpud.ask("gpus")["gpus"][index]


def told(gpud, kind):
    """Return the events of a kind."""
    return [event for event in gpud.ask("events", limit=1000)["events"] if event["kind"] == kind]


def test_an_error_of_the_hardware_is_told_kept_over_a_crash_and_ended_by_a_person(machine):
    gpud, are = machine
    gpuctl = Gpuctl(gpud)

    are(fake_gpu(0, "xid 1 48"), fake_gpu(1))
    sick = until(lambda: (gpu := gpu_of(gpud))["state"] == "unhealthy" and gpu)

    assert sick["health"] == "draining"
    assert "XID 48" in sick["health_reason"]
    (fault,) = sick["faults"]
    assert (fault["cause"], fault["person"]) == ("xid 48", True)
    assert [event["detail"]["what"] for event in told(gpud, "alert")] == ["gpu_drained"]
    until(lambda: "WARNING gpu_drained: GPU 0" in gpud.said())
    assert gpud.said().count("XID 48") == 1

    gpud.kill()
    gpud.start()
    until(lambda: gpu_of(gpud)["state"] == "unhealthy")
    assert [event["detail"]["what"] for event in told(gpud, "alert")] == ["gpu_drained", "gpud_restarted"]
    table = gpuctl.ok("gpus", "--health")
    assert "XID 48: double-bit memory error" in table
    assert "gpuctl undrain" in table
    assert ": 1 unhealthy\n" in gpuctl("doctor").stdout
    waiting = gpud.submit("true", gpus=2)
    gpuctl.ok("undrain", "0")
    assert gpud.ended(waiting)["exit_code"] == 0
    gpud.restart()
    assert until(lambda: (gpu := gpu_of(gpud))["state"] == "free" and gpu)["faults"] == []
    assert len(told(gpud, "alert")) == 2  # a gpud that was stopped did not crash


def test_a_job_on_a_gpu_that_falls_off_the_bus_fails_for_that_or_goes_elsewhere(machine, own):
    gpud, are = machine
    sound, sick = (gpud.submit(*WAITS, gpus=1, retries=retries) for retries in (0, 1))
    at = {job: gpud.running(job)["allocation"][0]["gpu_indices"][0] for job in (sound, sick)}

    are(*(fake_gpu(index, *(["lost"] if at[sick] == index else [])) for index in (0, 1)))
    gpu_of(gpud)

    gpud.when(sick, lambda shown: shown["state"] == "queued")
    assert "was lost" in told(gpud, "retried")[0]["detail"]["reason"]
    assert gpud.job(sound)["state"] == "running"
    lost = [event for event in told(gpud, "alert") if event["detail"]["what"] == "gpu_lost"]
    assert [event["detail"]["gpu"] for event in lost] == [own(fake_uuid(at[sick]))]

    are(*(fake_gpu(index, "lost") for index in (0, 1)))
    gpu_of(gpud)
    ended = gpud.ended(sound)
    assert (ended["state"], "was lost" in ended["reason"]) == ("failed", True)


def test_a_gpu_that_mends_by_itself_says_what_was_wrong_and_since_when(machine):
    gpud, are = machine
    are(fake_gpu(0, "error nvmlDeviceGetMemoryInfo_v2 999"), fake_gpu(1))
    ill = until(lambda: (gpu := gpu_of(gpud))["health"] == "draining" and gpu)
    assert ill["state"] == "unknown"
    (fault,) = ill["faults"]
    assert fault["cause"] == "unreadable"
    are(fake_gpu(0), fake_gpu(1))
    until(lambda: gpu_of(gpud)["health"] == "healthy")
    found = [event["detail"]["found"] for event in told(gpud, "health")]
    assert found == [True, False]


def test_a_job_over_what_it_declared_of_a_shared_gpu_says_so_while_it_runs_and_afterwards(machine):
    gpud, are = machine
    job = gpud.submit(*WAITS, gpus=1, demand={"share_mib": 1024})
    index = gpud.running(job)["allocation"][0]["gpu_indices"][0]
    pid = gpud.ask("show", job=job)["attempts"][0]["pid"]
    hungry = {"used_mib": 3000, "processes": [f"process {pid} 3000 compute"]}

    are(*(fake_gpu(each, **(hungry if each == index else {})) for each in (0, 1)))
    said = f"it uses 2.9G of GPU {index}, and declared 1G"
    until(lambda: gpu_of(gpud) and gpud.job(job)["reason"] == said)
    assert [event["detail"]["reason"] for event in told(gpud, "gpu_memory")] == [said]
    until(lambda: Path(gpud.job(job)["output"]).read_text().endswith(f"\ngpud: job {job}: {said}\n"))

    (gpud.work / "go").write_text("\n")
    gpud.ended(job)
    assert gpud.ask("show", job=job)["happened"].endswith(f"; on the way gpud saw: {said}")
