"""What gpud costs those who run jobs: between one and the next, many short ones, and memory beside each."""

import os
import shutil
import statistics
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from budgets import p99
from gpud_process import lives, marked, name_of, parent_of, until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


class Marks:
    """The file to which jobs append when they started and ended."""

    def __init__(self, path):
        self.path = path

    def spans(self):
        """Return (start, end) of every job that is over, in seconds, in the order of their starts."""
        lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        return sorted(tuple(int(word) / 1e9 for word in line.split()) for line in lines)

    def wait(self, count):
        """Return the spans once that many jobs are over; until then lines are counted only: to read them takes CPU."""
        until(lambda: self.path.exists() and self.path.read_bytes().count(b"\n") == count, within_s=120)
        return self.spans()

    def gaps_ms(self, count):
        """Return the milliseconds from each end to the next start."""
        spans = self.wait(count)
        return [1000 * (after[0] - before[1]) for before, after in pairwise(spans)]


def task_spooler(folder):
    """Return task-spooler's command and its environment; None where the machine does not have it."""
    command = shutil.which("tsp")
    socket = {"TS_SOCKET": str(folder / "tsp.socket"), "TMPDIR": str(folder)}
    return command and (command, {**os.environ, **socket})


def gaps_of_task_spooler(tsp, mark, marks, jobs):
    command, environment = tsp
    for _ in range(jobs):
        subprocess.run([command, "-n", mark, marks.path, "20"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return marks.gaps_ms(jobs)


def gaps_of_spawning(mark, marks, jobs):
    """Return the gaps that a loop of posix_spawn and wait leaves: the floor for everybody."""
    for _ in range(jobs):
        os.waitpid(os.posix_spawn(mark, [mark, marks.path, "20"], {}), 0)
    return marks.gaps_ms(jobs)


def gaps_of_gpud(gpud, mark, marks, jobs):
    for _ in range(jobs):
        gpud.submit(mark, marks.path, "20", gpus=1)
    return marks.gaps_ms(jobs)


def test_the_next_job_starts_soon_after_the_one_before_ended(a_gpud, mark, tmp_path, budgets):
    gpud = a_gpud("--simulate", "1xRTX4090")
    tsp = task_spooler(tmp_path)
    ours, theirs, bare = [], [], []
    for turn in range(8):
        ours.append(gaps_of_gpud(gpud, mark, Marks(tmp_path / f"gpud.{turn}"), 25))
        bare.append(gaps_of_spawning(mark, Marks(tmp_path / f"spawn.{turn}"), 25))
        if tsp:
            theirs.append(gaps_of_task_spooler(tsp, mark, Marks(tmp_path / f"tsp.{turn}"), 25))
    if tsp:
        subprocess.run([tsp[0], "-K"], env=tsp[1], check=True)

    def best(rounds):
        return min(statistics.median(gaps) for gaps in rounds)

    slowest = p99(gap for gaps in ours for gap in gaps)
    figure = f"median {best(ours):.2f} ms, p99 {slowest:.1f} ms"
    floor = f"posix_spawn {best(bare):.2f} ms"
    if tsp:
        floor = f"task-spooler {best(theirs):.2f} ms, {floor}"
        budgets.holds("end -> next start, against task-spooler", figure, floor, best(ours) / best(theirs), most=6)
    else:  # task-spooler takes three times what a bare spawn does
        budgets.holds("end -> next start, against posix_spawn", figure, floor, best(ours) / best(bare), most=18)
    budgets.holds("end -> next start, p99", figure, floor, slowest, most=50, unit=" ms")


def rate(began, spans):
    return len(spans) / (spans[-1][1] - began)


def test_a_thousand_short_jobs_do_not_take_for_ever(a_gpud, mark, tmp_path, budgets):
    gpud = a_gpud("--simulate", "4xRTX4090")
    ours, theirs = [], []
    for turn in range(6):
        marks = Marks(tmp_path / f"gpud.{turn}")
        began = time.monotonic()
        gpud.submit(mark, marks.path, gpus=1, array="0-999")
        ours.append(rate(began, marks.wait(1_000)))
        gpud.idle()
        marks = Marks(tmp_path / f"xargs.{turn}")
        began = time.monotonic()
        words = "\n".join([str(marks.path)] * 3_000)  # for long enough to meet the same noise
        subprocess.run(["xargs", "-P4", "-n1", mark], input=words, text=True, check=True)
        theirs.append(rate(began, marks.wait(3_000)))
    budgets.holds(
        "1,000 x true as one array on 4 slots, against xargs -P4",
        f"{max(ours):,.0f}/s",
        f"xargs {max(theirs):,.0f}/s",
        max(ours) / max(theirs),
        least=0.2,
    )


def private_kib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_a_shim_takes_little_memory(a_gpud, budgets):
    gpud = a_gpud("--simulate", "8xRTX4090")
    for _ in range(8):  # shims that attended some own more, and go in the next calm moment
        gpud.submit("true", gpus=1, array="0-31")
    gpud.idle()
    warm = {pid for pid in marked(gpud.folder) if name_of(pid) == "gpud-shim"}
    until(lambda: not all(map(lives, warm)))
    jobs = [gpud.submit("sleep", "600", gpus=1) for _ in range(8)]
    shims = [parent_of(gpud.running(job) and gpud.pids(job)[0]) for job in jobs]
    sizes = [private_kib(shim) / 1024 for shim in shims]
    launcher = gpud.pids(jobs[0])[2]
    budgets.holds(
        "private memory of a shim",
        f"{min(sizes):.2f} to {max(sizes):.2f} MB, of {len(set(shims))}",
        f"the launcher process {private_kib(launcher) / 1024:.1f} MB",
        max(sizes),
        most=1,
        unit=" MB",
    )
    assert len(set(shims)) == 8
