"""Jobs get GPUs that are linked, and MIG instances by name: on a real driver library."""

import os
from pathlib import Path

import pytest
from cli.conftest import Gpuctl
from fakenvml.fixture import fake_gpu, fake_instance, fake_mig_uuid, fake_uuid
from gpud_process import until

from gpuctl.errors import RefusedError

TELL = 'echo "$CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES"'
PROFILES = ("2g.10gb", "2g.10gb", "1g.5gb")


@pytest.fixture
def machine(a_gpud, fake_nvml, own):
    """Return a function that starts a gpud on a machine with these GPUs."""

    def start(*gpus):
        fake_nvml.write(*map(own, gpus))
        return a_gpud("--nvml-library", fake_nvml.library, environment=fake_nvml.environment)

    return start


@pytest.fixture
def split(machine):
    """Start a gpud on a GPU that is split, one that is split into nothing, and a whole one."""
    parts = [fake_instance(number, profile) for number, profile in enumerate(PROFILES)]
    return machine(fake_gpu(0, "mig 1"), *parts, fake_gpu(1, "mig 1"), fake_gpu(2, "mig 0"))


def devices(gpud):
    """Return what there is to list, by UUID."""
    return {gpu["uuid"]: gpu for gpu in gpud.ask("gpus")["gpus"]}


def waits(gpud, job):
    """Return why a job waits, once nothing has to be looked at first."""
    return until(lambda: (told := gpud.ask("why", job=job)["jobs"][0]["reason"]) and told)


def test_a_job_gets_the_gpus_that_nvlink_joins(machine, own):
    gpud = machine(fake_gpu(0, "level 1 10"), fake_gpu(1, "nvlink 3"), fake_gpu(2, "level 3 10"), fake_gpu(3))
    until(lambda: {gpu["state"] for gpu in gpud.ask("gpus")["gpus"]} == {"free"})  # else it gets those seen first

    first = gpud.submit("sh", "-c", TELL, gpus=2)

    assert gpud.ended(first)["exit_code"] == 0
    assert gpud.output(first) == "1,3 " + own(f"{fake_uuid(1)},{fake_uuid(3)}\n")
    nvlink = [gpu["nvlink"] for gpu in gpud.ask("gpus")["gpus"]]
    assert nvlink == [None, "nvlink-0", None, "nvlink-0"]


def test_who_asks_for_an_instance_gets_one_by_name_and_nobody_else_the_same(split, own):
    holds = f"{TELL}; read line < $GPUD_JOB_ID"
    for job in ("1", "2"):
        os.mkfifo(split.work / job)
    holders = [split.submit("sh", "-c", holds, gpus=1, demand={"mig": "2g.10gb"}) for _ in range(2)]
    for job in holders:
        split.running(job)
    third = split.submit("sh", "-c", TELL, gpus=1, demand={"mig": "2g.10gb"})

    assert "2 GPUs" not in waits(split, third)
    seen = devices(split)
    given = [seen[own(fake_mig_uuid(number))]["jobs"] for number in (0, 1)]
    assert sorted(given) == [[holders[0]], [holders[1]]]
    assert (split.job(third)["state"], seen[own(fake_mig_uuid(2))]["state"]) == ("queued", "free")
    sockets = Path("/proc/net/unix").read_text()
    assert [f"@gpud/{own(fake_mig_uuid(number))}" in sockets for number in range(3)] == [True, True, False]
    for job in holders:
        (split.work / job).write_text("go\n")
    for number, (job,) in enumerate(given):
        assert split.ended(job)["exit_code"] == 0
        assert split.output(job) == own(f"{fake_mig_uuid(number)} {fake_mig_uuid(number)}\n")
    assert split.ended(third)["exit_code"] == 0
    assert "MIG-" in split.output(third)


def test_a_gpu_in_mig_mode_is_listed_and_never_given_out(split, own):
    whole = split.submit("sh", "-c", f"{TELL}; sleep 1000", gpus=1)
    split.running(whole)
    second = split.submit("true", gpus=1)

    waits(split, second)
    seen = devices(split)
    assert [seen[own(fake_uuid(index))]["state"] for index in range(3)] == ["split", "split", "busy"]
    assert seen[own(fake_uuid(0))]["health_reason"] is None
    assert "nvidia-smi mig -cgi" in seen[own(fake_uuid(1))]["health_reason"]
    # By name: how CUDA counts beside a GPU in MIG mode differs.
    assert until(lambda: split.output(whole)).startswith(own(fake_uuid(2)))
    assert (split.ask("nodes")["nodes"][0]["gpus"], split.job(second)["state"]) == (4, "queued")
    with pytest.raises(RefusedError, match="2 GPUs are asked for; this machine has 1"):
        split.submit("true", gpus=2)
    split.ask("cancel", select={"mine": True})


def test_a_gpus_name_means_its_instances_too(split):
    gpuctl = Gpuctl(split)

    gpuctl.ok("drain", "0", "--reason", "dust")

    assert [gpu["health"] for gpu in gpuctl.json("gpus") if gpu["mig"]] == ["draining"] * 3
    job = gpuctl.ok("submit", "--mig", "2g.10gb", "--", "true")
    assert "2 drained" in waits(split, job)
    gpuctl.ok("undrain", "4")
    assert split.ended(job)["allocation"][0]["gpu_indices"] == [4]


def test_instances_stand_below_their_gpu(split):
    gpuctl = Gpuctl(split)

    heading, *rows = gpuctl.ok("gpus").splitlines()

    assert [row.split()[:3] for row in rows] == [
        ["0", "Fake", "split"],
        ["3", "MIG", "2g.10gb"],
        ["4", "MIG", "2g.10gb"],
        ["5", "MIG", "1g.5gb"],
        ["1", "Fake", "split"],
        ["2", "Fake", "free"],
    ]
    assert heading.startswith("GPU")
    assert [row.startswith("  ") for row in rows] == [False, True, True, True, False, False]
    assert gpuctl.ok("gpus", "--topology").splitlines()[0].split() == ["GPU", "NAME", "NVLINK", "PCIE", "NUMA", "BUS"]


def test_a_gpud_that_comes_back_knows_its_instances_and_forgets_those_that_went(split, fake_nvml, own):
    job = split.submit("sleep", "1000", gpus=1, demand={"mig": "1g.5gb"})
    split.running(job)
    split.stop()
    parts = [fake_instance(2, "1g.5gb"), fake_instance(3, "3g.20gb")]
    fake_nvml.write(*map(own, [fake_gpu(0, "mig 1"), *parts]))
    split.start()

    until(lambda: own(fake_mig_uuid(3)) in devices(split))

    seen = devices(split)
    assert {own(fake_mig_uuid(number)) for number in (0, 1)}.isdisjoint(seen)
    assert (seen[own(fake_mig_uuid(2))]["jobs"], split.job(job)["state"]) == ([job], "running")
    with pytest.raises(RefusedError, match=r"there is no MIG instance 2g.10gb here"):
        split.submit("true", gpus=1, demand={"mig": "2g.10gb"})
    split.ask("cancel", select={"jobs": [job]})
    split.ended(job)
