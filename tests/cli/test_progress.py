"""How far a job is: told by itself, or recognised in its log, and shown wherever jobs are."""

import os
import sys
import time
from pathlib import Path

import pytest

from gpuctl.following import progress

TELLS = f"{sys.executable} -m gpuctl progress 40/100 --message 'epoch 2'; echo told; read x < gate"


def running(gpuctl, *command: str, until: str) -> str:
    """Submit a CPU job, and wait until it has printed something."""
    if not (gpuctl.directory / "gate").exists():
        os.mkfifo(gpuctl.directory / "gate")
    job = gpuctl.ok("submit", "-g", "0", "--", *command)
    deadline = time.monotonic() + 60
    while until not in gpuctl("logs", job).stdout:
        assert time.monotonic() < deadline, gpuctl.json("show", job)
        assert gpuctl.json("show", job)["ended_at"] is None, gpuctl.ok("logs", job)
    return job


def test_a_job_that_tells_how_far_it_is_is_shown_so_until_it_ends(gpuctl):
    job = running(gpuctl, "bash", "-c", TELLS, until="told")
    shown = gpuctl.json("show", job)
    told = shown["progress"]
    assert (told["done"], told["total"], told["message"], told["told"]) == (40, 100, "epoch 2", True)
    assert told["remaining_s"] >= 0
    assert [row["progress"]["done"] for row in gpuctl.json("list", job)] == [40]
    assert "40%, about " in gpuctl.ok("list")
    assert "40%" in gpuctl.ok("status")
    assert "left: as it told" in gpuctl.ok("why", job)
    assert "(40/100); epoch 2" in gpuctl.ok("show", job)
    assert gpuctl.ok("list", "--format", "{progress}")
    (gpuctl.directory / "gate").write_text("\n")
    gpuctl("wait", job)
    assert gpuctl.json("show", job)["progress"] is None
    assert not Path(shown["progress_file"]).exists()


def test_a_bar_in_a_log_is_recognised_and_says_so_and_any_program_may_write_the_file(gpuctl):
    bar = r"printf '\r 10%%|#   | 10/100 [00:10<01:30, 1.0it/s]\r 45%%|###    | 45/100 [00:45<00:55, 1.0it/s]'"
    script = f'{bar}; echo shown >&2; read x < gate; echo "80% nearly" > $GPUD_PROGRESS_FILE; echo told; read x < gate'
    job = running(gpuctl, "bash", "-c", script, until="shown")
    seen = gpuctl.json("show", job)["progress"]
    assert seen == {"done": 45, "total": 100, "message": None, "remaining_s": 55, "told": False, "ends_first": False}
    assert "~45%, about 55s left" in gpuctl.ok("list")
    assert "read in its log" in gpuctl.ok("show", job)
    (gpuctl.directory / "gate").write_text("\n")
    deadline = time.monotonic() + 60
    while "told\n" not in gpuctl.ok("logs", job) + "\n":
        assert time.monotonic() < deadline
    told = gpuctl.json("show", job)["progress"]
    assert (told["done"], told["message"], told["told"]) == (80, "nearly", True)
    gpuctl.ok("cancel", job)


def test_outside_of_a_job_and_for_what_is_no_progress_it_says_what_to_do(gpuctl, tmp_path):
    outside = gpuctl("progress", "1/2")
    assert outside.returncode == 1
    assert "this is no job" in outside.stderr
    folder = tmp_path / "progress"
    folder.mkdir()
    inside = {"GPUD_PROGRESS_FILE": str(folder / "file")}
    wrong = gpuctl("progress", "soon", environ=inside)
    assert wrong.returncode == 2
    assert "40/100, 0.4 or 40%" in wrong.stderr
    gpuctl.ok("progress", "1/2", "-m", "two\nlines", environ=inside)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"file": "1/2 two lines\n"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("40/100", (40, 100, None)),
        ("0.4 loading\n", (0.4, 1, "loading")),
        ("40%", (40, 100, None)),
        ("1,000/10,000", (1000, 10000, None)),
        ("3/4 with\x1b[31m colours", (3, 4, "with [31m colours")),
        *((wrong, None) for wrong in ("", "soon", "5/4", "4/0", "-1/4", "nan", "inf/inf", "7", "1/", "/")),
    ],
)
def test_what_a_job_may_tell(text, told):
    found = progress.parse(text)
    assert (None if found is None else (found["done"], found["total"], found["message"])) == told


@pytest.mark.parametrize(
    ("tail", "seen"),
    [
        ("Epoch 3: 45%|####5     | 45/100 [00:10<00:12, 4.50it/s, loss=0.3]", (45, 100, "of epoch 3", None)),
        ("Epoch: [3][ 100/5005]  Time  0.2 ( 0.3)", (100, 5005, "of epoch 3", None)),
        ("100%|##########| 1.50k/1.50k [1:00:00<00:00, 2.2s/it]", (1500, 1500, None, 0)),
        ("  2%|2         | 2/100 [00:10<?, ?it/s]", (2, 100, None, None)),
        ("step 40/100 loss 0.2\nsaving\n", (40, 100, "step", None)),
        ("Step: 7 of 70", (7, 70, "step", None)),
        ("step 1,000/1,200,000", (1000, 1200000, "step", None)),
        ("Epoch [2/10], Step [150/600], Loss: 0.3", (1.25, 10, "epoch", None)),
        ("Epoch 2/10 (lr 0.1): 45%|###  | 45/100 [00:10<00:12, 4.5it/s]", (1.45, 10, "epoch", None)),
        ("Epoch 2/10\n45%|###  | 45/100 [00:10<00:12, 4.5it/s]", (1.45, 10, "epoch", None)),
        ("Epoch 2/10\n 50/100 [====>....] - ETA: 30s - loss: 0.3", (1.5, 10, "epoch", None)),
        ("== Epoch 1/10 ==", (0, 10, "epoch", None)),
        ("starting epoch 4/10, lr 0.1", (3, 10, "epoch", None)),
        ("epoch 4/10: loss 0.3", (4, 10, "epoch", None)),
        ("epoch 4/10: loss 0.3\n50%|#  | 1/2 [00:10<00:12, 4.5it/s]", (4.5, 10, "epoch", None)),
        (
            "Epochs: 20%|##  | 2/10 [00:20<01:20, 10s/it]\n\r 50%|#  | 1/2 [00:05<00:05, 5s/it]\x1b[A",
            (2.5, 10, "epoch", None),
        ),
        (
            "Epoch 3: 45%|## | 45/100 [00:45<00:55]\nValidation DataLoader 0: 50%|# | 1/2 [0:01<0:01]",
            (45, 100, "of epoch 3", None),
        ),
        ("Validation: accuracy 0.3 at step 3/9", (3, 9, "step", None)),
        ("[ 123/1000] Building CXX object", (123, 1000, None, None)),
        ("Epoch(train)  [3][ 200/1000]  lr: 1e-3", (200, 1000, "of epoch 3", None)),
        ("    3/100   2.5G   1.2  123  640: 100%|###| 8/8 [00:03<00:00, 2.5it/s]", (3, 100, "epoch", None)),
        ("\x1b[1m12/100\x1b[0m \x1b[32m━━\x1b[0m\x1b[37m━━━\x1b[0m 3s 20ms/step", (12, 100, None, None)),
        ("Training ━━━━━━━━━━━╸━━━━━━━  45% 0:00:12", (45, 100, None, None)),
        ("old: step 1/9\nnew: step 2/9\n", (2, 9, "step", None)),
        ("on 2026-01/02 of 3/4, version 1.2/3", None),
        ("step 9/4, [5/3], epoch 1/1", None),
        ("", None),
    ],
)
def test_what_is_recognised_at_the_end_of_a_log(tail, seen):
    found = progress.recognise(tail)
    assert (None if found is None else tuple(found[key] for key in ("done", "total", "message", "remaining_s"))) == seen


def test_who_says_nothing_for_long_is_not_about_to_end(tmp_path):
    (tmp_path / "progress").write_text("40%")
    began = time.time() - 100
    job = {"progress_file": str(tmp_path / "progress"), "uid": os.getuid(), "started_at": began, "output": None}
    job["time_limit_s"] = None
    os.utime(tmp_path / "progress", (began + 0.1, began + 0.1))
    progress.add([job], "/here")
    assert 149 < job["progress"]["remaining_s"] < 300


def test_who_will_not_be_done_by_its_time_limit_is_shown_so(tmp_path):
    (tmp_path / "progress").write_text("10%")
    job = {"progress_file": str(tmp_path / "progress"), "uid": os.getuid(), "started_at": time.time() - 600}
    for limit_s, late in ((3600, True), (4 * 3600, False), (None, False)):
        job["time_limit_s"] = limit_s
        progress.add([job], "/here")
        assert job["progress"]["ends_first"] == late
        assert progress.in_words(job["progress"]).endswith("left, and its time limit comes first") == late


def test_of_a_first_step_nobody_foretells_the_end(tmp_path):
    (tmp_path / "log").write_text("step 1/40\n")
    for ago_s, known in ((0.1, False), (20, True)):
        job = {"progress_file": "/none", "uid": os.getuid(), "output": str(tmp_path / "log"), "time_limit_s": None}
        job["started_at"] = (tmp_path / "log").stat().st_mtime - ago_s
        progress.add([job], "/here")
        assert (job["progress"]["remaining_s"] is not None) == known


def test_a_file_that_nobody_writes_holds_up_no_listing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    job = {"progress_file": pipe, "output": pipe, "uid": os.getuid(), "started_at": time.time()}
    progress.add([job], "/here")
    assert job["progress"] is None


def test_of_others_jobs_and_of_those_elsewhere_nothing_is_read(tmp_path):
    (tmp_path / "told").write_text("1/2")
    mine = {"progress_file": str(tmp_path / "told"), "output": None, "uid": os.getuid(), "started_at": time.time() - 9}
    mine["time_limit_s"] = None
    theirs = mine | {"uid": os.getuid() + 1}
    for jobs, socket in (([theirs], "/here"), ([mine], "ssh://there")):
        progress.add(jobs, socket)
        assert jobs[0]["progress"] is None
    progress.add([mine], "/here")
    assert mine["progress"]["done"] == 1
