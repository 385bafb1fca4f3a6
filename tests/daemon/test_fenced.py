"""The fence as people meet it: chosen by the configuration, told by show, status and doctor."""

import json
import os
import subprocess
import sys

import pytest
from fakenvml.fixture import fake_gpu, fake_uuid
from gpud_process import ROOT
from launchers.test_fence import OPEN, nodes  # noqa: F401 - a fixture
from launchers.workplace import within

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root serves other users, and makes device nodes")
TELL = f"import os; print(os.environ['CUDA_VISIBLE_DEVICES'])\n{OPEN}"


def system(a_gpud, fake_nvml, tmp_path, *options, **settings):
    """Start a gpud for all users on two GPUs, /dev/nvidia1 the first of them."""
    fake_nvml.write(fake_gpu(0, minor=1), fake_gpu(1, minor=0))
    socket = str(tmp_path / "gpud0" / "state" / "gpud.sock")
    options = ("--system", "--socket", socket, "--nvml-library", fake_nvml.library, *options)
    return a_gpud(*options, environment=fake_nvml.environment, **settings)


@pytest.fixture
def fenced(delegation, a_gpud, fake_nvml, tmp_path):
    if delegation is None:
        pytest.skip("no cgroup (version 2) can be made here, and the fence is on one")
    gpud = system(a_gpud, fake_nvml, tmp_path, before=within(delegation))
    unfenced = gpud.ask("status")["launcher"]["unfenced"]
    if unfenced is not None:
        pytest.skip(f"no fence: {unfenced}")
    return gpud


def of_gpu(index):
    """Return the demand for the GPU of an index."""
    return {"gpus": 1, "gpu_ids": [fake_uuid(index)]}


def doctor(gpud, name):
    """Return the result and the words of one of doctor's checks."""
    words = [sys.executable, "-m", "gpuctl", "--socket", gpud.socket, "doctor", "--json"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    return next((each["result"], each["message"]) for each in json.loads(done.stdout) if each["check"] == name)


def test_in_system_mode_a_job_opens_its_own_gpu_alone_and_cuda_counts_from_nought(fenced, nodes):  # noqa: F811 - it is what was imported
    jobs = [fenced.submit(sys.executable, "-c", TELL, *nodes.values(), demand=of_gpu(index)) for index in range(2)]
    jobs.append(fenced.submit(sys.executable, "-c", TELL, *nodes.values()))

    told = []
    for job in jobs:
        assert fenced.ended(job)["exit_code"] == 0
        told.append(fenced.output(job).split("\n")[:4])

    assert told == [["0", "EPERM", "ENXIO", "ENXIO"], ["0", "ENXIO", "EPERM", "ENXIO"], ["", "EPERM", "EPERM", "ENXIO"]]


def test_what_is_in_force_is_said(fenced):
    job = fenced.submit("sleep", "600", gpus=1)
    fenced.running(job)

    assert fenced.ask("show", job=job)["confined"]["fence"] == "devices"
    assert fenced.ask("show", job=job)["confined"]["limits"] is not None
    result, words = doctor(fenced, "fence")
    assert result == "ok"
    assert "devices: a job opens no GPU but its own; not what ssh, cron" in words
    fenced.ask("cancel", select={"jobs": [job]})
    fenced.ended(job)
    assert fenced.ask("show", job=job)["confined"] is None


def test_a_gpu_whose_node_the_driver_does_not_tell_is_said_to_be_without_a_fence(fenced, fake_nvml):
    fenced.stop()
    fake_nvml.write(fake_gpu(0, minor=1), fake_gpu(1))
    fenced.start()
    jobs = [fenced.submit("sleep", "600", demand=of_gpu(index)) for index in range(2)]
    for job in jobs:
        fenced.running(job)

    result, words = doctor(fenced, "fence")
    assert (result, words.startswith("not for jobs on GPU 1, ")) == ("warning", True)
    assert [fenced.ask("show", job=job)["confined"]["fence"] for job in jobs] == ["devices", None]
    fenced.ask("cancel", select={"jobs": jobs})


def test_where_no_fence_can_be_had_auto_says_so_and_devices_starts_nothing(a_gpud, fake_nvml, tmp_path):
    gpud = system(a_gpud, fake_nvml, tmp_path)
    unfenced = gpud.ask("status")["launcher"]["unfenced"]
    if unfenced is None:
        pytest.skip("here every launcher process may make cgroups and load programs")
    job = gpud.submit(sys.executable, "-c", TELL, demand=of_gpu(1))
    assert gpud.ended(job)["exit_code"] == 0
    assert gpud.output(job) == "1\n"
    assert doctor(gpud, "fence") == ("warning", f"none: {unfenced}; jobs may open each other's GPUs")

    gpud.stop()
    gpud.options = (*gpud.options, "--fence", "devices")
    gpud.start()
    job = gpud.submit("true", demand=of_gpu(1))

    assert gpud.when(job, lambda shown: shown["attempt"] > 1)["state"] == "queued"
    assert "the fence cannot be had" in gpud.ask("show", job=job)["attempts"][0]["reason"]
    assert doctor(gpud, "fence")[0] == "problem"
