"""A GPU is never given twice, and what is not known to be free is given to nobody: on a real driver library."""

import os
import secrets
import subprocess
import time
import zlib
from contextlib import contextmanager

import pytest
from fakenvml.fixture import fake_gpu
from gpud_process import lives, until

SERIES = secrets.token_hex(2)  # leases are the whole machine's: tests that run at the same time have GPUs of their own


@pytest.fixture
def a_gpu(request):
    """Return a function that describes a GPU of this test's own, as `fake_gpu` does."""
    own = f"GPU-{zlib.crc32((SERIES + request.node.name).encode()):08x}"
    return lambda index, *lines, **values: fake_gpu(index, *lines, **values).replace(
        f"GPU-fa4e{index:04x}", f"{own}-{index:04x}"
    )


@pytest.fixture
def on_nvml(a_gpud, fake_nvml, a_gpu):
    """Return a function that starts a gpud on the fake driver, with two GPUs."""
    fake_nvml.write(a_gpu(0), a_gpu(1))

    def start(*options, **settings):
        return a_gpud("--nvml-library", fake_nvml.library, *options, environment=fake_nvml.environment, **settings)

    return start


@contextmanager
def a_process(*command):
    """Run a process that gpud did not start."""
    process = subprocess.Popen(command or ["sleep", "1000"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def gpu_of(gpud, index=0):
    """Return a GPU as `gpus` tells it, freshly read."""
    return gpud.ask("gpus")["gpus"][index]


def comes_to(gpud, state, index=0):
    """Return the GPU once it is in this state."""
    return until(lambda: (gpu := gpu_of(gpud, index))["state"] == state and gpu)


def reason_of(gpud, job):
    """Return why a job waits."""
    (told,) = gpud.ask("why", job=job)["jobs"]
    return told["reason"]


def waits_for(gpud, job, words, within_s=15):
    """Return the reason of a waiting job once it holds these words; sooner than a release is given up."""
    return until(lambda: words in (said := reason_of(gpud, job) or "") and said, within_s)


HOLDS = (
    "for gpu in $(echo $GPUD_GPU_UUIDS | tr , ' '); do mkdir $HELD/$gpu || echo $gpu >> $HELD/twice; done; sleep 0.1; "
)
FREES = "for gpu in $(echo $GPUD_GPU_UUIDS | tr , ' '); do rmdir $HELD/$gpu; done"


def test_two_gpuds_never_give_one_gpu_out_twice(on_nvml, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    both = [on_nvml(), on_nvml()]
    for _ in range(8):
        for gpud in both:
            gpud.submit("sh", "-c", HOLDS + FREES, gpus=1, env={"HELD": str(held)})

    rows = [row for gpud in both for row in gpud.idle(90)]

    assert [row["exit_code"] for row in rows] == [0] * 16, rows
    assert not (held / "twice").exists(), (held / "twice").read_text()


def test_a_gpu_that_another_gpud_holds_says_so_and_is_given_out_when_it_is_free(on_nvml):
    first, second = on_nvml(), on_nvml()
    go = first.work / "go"
    os.mkfifo(go)
    holder = first.submit("sh", "-c", "read line < go", gpus=2)
    first.running(holder)
    shim = first.pids(holder)[1]

    waiting = second.submit("true", gpus=1)

    waits_for(second, waiting, "2 occupied by processes that gpud did not start")
    seen = comes_to(second, "foreign")
    assert f"another gpud (pid {shim})" in seen["health_reason"]
    go.write_text("go\n")
    assert second.ended(waiting)["exit_code"] == 0


def test_a_foreign_process_keeps_jobs_away_and_is_shown(on_nvml, fake_nvml, a_gpu):
    with a_process() as foreign:
        fake_nvml.write(a_gpu(0, used_mib=3000, processes=[f"live {foreign.pid} 2900 compute"]), a_gpu(1))
        gpud = on_nvml()

        elsewhere = gpud.submit("sh", "-c", "echo $GPUD_GPU_UUIDS", gpus=1)
        assert gpud.ended(elsewhere)["exit_code"] == 0
        assert gpud.output(elsewhere) == gpu_of(gpud, 1)["uuid"] + "\n"
        waiting = gpud.submit("true", gpus=2)

        waits_for(gpud, waiting, "1 occupied by processes that gpud did not start")
        shown = comes_to(gpud, "foreign")
        assert (shown["processes"][0]["pid"], shown["processes"][0]["memory_mib"]) == (foreign.pid, 2900)
        assert f"sleep (pid {foreign.pid})" in shown["health_reason"]
        details = gpud.ask("why", job=waiting)["jobs"][0]["details"]
        assert any("GPU 0 is foreign" in line and str(foreign.pid) in line for line in details), details
        assert lives(foreign.pid)

        used_s = until(lambda: gpud.ask("gpus")["foreign_gpu_s"].get(str(os.getuid())))
        gpud.stop()
        foreign.kill()
        foreign.wait()
        fake_nvml.write(a_gpu(0), a_gpu(1))
        gpud.start()
        assert gpud.ended(waiting)["exit_code"] == 0
        assert gpud.ask("gpus")["foreign_gpu_s"][str(os.getuid())] >= used_s


def test_before_the_first_survey_no_gpu_is_told_to_be_lost(on_nvml, fake_nvml, a_gpu):
    gpud = on_nvml()
    go = gpud.work / "go"
    os.mkfifo(go)
    job = gpud.submit("sh", "-c", "read line < go; exit 3", gpus=1, retries=0)
    gpud.running(job)
    gpud.kill()
    loads = ("delay nvmlInitWithFlags 2000", "delay nvmlInit_v2 2000")
    fake_nvml.write(*loads, a_gpu(0), a_gpu(1))
    gpud.start()

    told = [(gpu["state"], gpu["health_reason"], gpu["jobs"]) for gpu in gpud.ask("gpus", fresh=False)["gpus"]]
    waiting = gpud.submit("true", gpus=1)
    go.write_text("go\n")

    assert sorted(told) == [("busy", None, [job]), ("unknown", "not read yet", [])]
    assert (gpud.ended(job)["exit_code"], gpud.job(job)["reason"]) == (3, "exit code 3")
    assert gpud.ended(waiting)["exit_code"] == 0


def test_a_gpu_that_vanished_from_the_list_has_no_number_and_its_job_fails_for_that(on_nvml, fake_nvml, a_gpu):
    gpud = on_nvml()
    go = gpud.work / "go"
    os.mkfifo(go)
    job = gpud.submit("sh", "-c", "echo $GPUD_GPU_UUIDS; read line < go", gpus=1)
    gpud.running(job)
    gone = gpud.job(job)["allocation"][0]["gpu_uuids"]
    index = gpud.job(job)["allocation"][0]["gpu_indices"][0]
    gpud.kill()
    fake_nvml.write(a_gpu(1 - index))
    gpud.start()

    def told():
        return {gpu["uuid"]: (gpu["index"], gpu["state"]) for gpu in gpud.ask("gpus")["gpus"]}

    there = until(lambda: [uuid for uuid, (_, state) in told().items() if state == "free"])
    assert told() == {gone[0]: (None, "lost"), there[0]: (0, "free")}
    ended = gpud.ended(job)
    assert (ended["state"], "was lost" in ended["reason"]) == ("failed", True)


def test_a_process_that_only_draws_keeps_nobody_away(on_nvml, fake_nvml, a_gpu):
    with a_process() as desktop:
        fake_nvml.write(a_gpu(0, used_mib=400, processes=[f"live {desktop.pid} 380 graphics"]), a_gpu(1))
        gpud = on_nvml()
        assert gpud.ended(gpud.submit("true", gpus=2))["exit_code"] == 0


def test_a_process_that_settings_ignore_keeps_nobody_away(on_nvml, fake_nvml, a_gpu):
    with a_process() as known:
        fake_nvml.write(a_gpu(0, used_mib=400, processes=[f"live {known.pid} 380 compute"]), a_gpu(1))
        gpud = on_nvml("--foreign-ignore", "sleep")
        assert gpud.ended(gpud.submit("true", gpus=2))["exit_code"] == 0


def test_a_jobs_own_processes_are_not_foreign_and_a_gpu_is_releasing_until_they_are_gone(on_nvml, fake_nvml, a_gpu):
    pids = fake_nvml.config.parent / "pids"
    pids.mkdir()
    fake_nvml.write(a_gpu(0, used_mib=4, pids=pids))
    gpud = on_nvml()
    first = gpud.submit("sh", "-c", f"echo 9000 compute > {pids}/$$; sleep 0.1; read line < go", gpus=1)
    os.mkfifo(gpud.work / "go")
    gpud.running(first)
    until(lambda: gpu_of(gpud)["processes"])
    shown = gpu_of(gpud)
    assert (shown["state"], shown["jobs"], shown["processes"][0]["job"]) == ("busy", [first], first)

    second = gpud.submit("true", gpus=1)
    fake_nvml.write(a_gpu(0, used_mib=9000, pids=pids))  # the driver has not let go of its memory yet
    (gpud.work / "go").write_text("go\n")
    gpud.ended(first)

    waits_for(gpud, second, "1 being released")
    assert gpu_of(gpud)["state"] == "releasing"
    fake_nvml.write(a_gpu(0, used_mib=4))
    assert gpud.ended(second)["exit_code"] == 0


def test_a_lost_gpu_gets_no_job_and_jobs_on_others_go_on(on_nvml, fake_nvml, a_gpu):
    gpud = on_nvml()
    os.mkfifo(gpud.work / "go")
    running = gpud.submit("sh", "-c", "read line < go", gpus=1, demand={"gpu_ids": ["1"]})
    gpud.running(running)

    fake_nvml.write(a_gpu(0, "lost"), a_gpu(1))
    comes_to(gpud, "lost")

    waiting = gpud.submit("true", gpus=2)
    waits_for(gpud, waiting, "1 lost")
    assert gpud.job(running)["state"] == "running"
    fake_nvml.write(a_gpu(0), a_gpu(1))
    (gpud.work / "go").write_text("go\n")
    assert gpud.ended(running)["exit_code"] == 0
    assert gpud.ended(waiting)["exit_code"] == 0


def test_a_driver_that_hangs_holds_up_nothing_else(on_nvml, fake_nvml, a_gpu):
    gpud = on_nvml()
    assert gpud.ended(gpud.submit("true", gpus=2))["exit_code"] == 0
    fake_nvml.write(a_gpu(0, "delay * 3600000"), a_gpu(1))
    began = time.monotonic()

    beside = [gpud.submit("true", gpus=0) for _ in range(3)]
    assert [gpud.ended(job)["exit_code"] for job in beside] == [0, 0, 0]
    assert gpud.ended(gpud.submit("true", gpus=1, demand={"gpu_ids": ["1"]}))["exit_code"] == 0
    assert time.monotonic() - began < 4, "something waited for the driver's deadline of 5 s"
    assert "not answering" in comes_to(gpud, "unknown")["health_reason"]
    waiting = gpud.submit("true", gpus=1, demand={"gpu_ids": ["0"]})
    waits_for(gpud, waiting, "1 not readable")
    gpud.restart()
    assert gpud.job(waiting)["state"] == "queued"
    fake_nvml.write(a_gpu(0), a_gpu(1))
    assert gpud.ended(waiting)["exit_code"] == 0


def without_a_driver(gpud):
    """Find a gpud without a driver in order; return a GPU job that waits for one."""
    waiting = gpud.submit("true", gpus=1)
    assert gpud.ended(gpud.submit("true", gpus=0))["exit_code"] == 0
    assert reason_of(gpud, waiting).startswith("no GPU was found: no NVIDIA driver")
    answer = gpud.ask("gpus")
    assert answer["gpus"] == []
    assert answer["problem"].startswith("no NVIDIA driver")
    return waiting


def test_without_a_driver_cpu_jobs_run_and_gpu_jobs_wait_for_one(on_nvml, fake_nvml, a_gpu):
    fake_nvml.unload()
    gpud = on_nvml()
    waiting = without_a_driver(gpud)
    gpud.stop()
    fake_nvml.write(a_gpu(0))
    gpud.start()
    assert gpud.ended(waiting)["exit_code"] == 0


@pytest.mark.fault
def test_a_driver_that_appears_is_taken_up(on_nvml, fake_nvml, a_gpu):
    fake_nvml.unload()
    gpud = on_nvml()
    waiting = without_a_driver(gpud)
    fake_nvml.write(a_gpu(0))
    assert gpud.ended(waiting, 60)["exit_code"] == 0  # it looks every 30 s
