"""kill -9 of gpud, the launcher process, the shim and the job, between all of their steps.

Whatever dies, and whenever: the job started at most once, its end was told, it is the true one, and nothing is left.
"""

import os
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from launchers.journalist import POINTS as GPUD
from launchers.workplace import DEADLINE_S, Workplace, gone, kill

from gpud.launchers import record
from gpud.model.job import Exit, Fault

FAMILY = (
    "none",
    "zygote before fork",
    "zygote after fork",
    "shim before fork",
    "shim after fork",
    "shim before record",
    "shim after record",
    "shim done",
    "job before claim",
    "job after claim",
    "job before exec",
)
PLANS = ("never", "launched", "started")
MATRIX = list(product(PLANS, GPUD, FAMILY))
HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(state: Path, plan: str, gpud: str, family: str) -> int:
    return subprocess.run(
        [sys.executable, HERE / "journalist.py", state, plan, gpud],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)]), "GPUD_KILL_AT": family},
        timeout=DEADLINE_S,
        check=False,
    ).returncode


def crash(state: Path, plan: str, gpud: str, family: str) -> None:
    scenario = f"stop when {plan}, gpud killed when {gpud}, family at {family}"
    waits = "exit 3" if plan == "never" else "exec sleep 1000"
    (state / "job").write_text(f"echo $$ >> '{state}/starts'; {waits}")
    place = Workplace(state)
    try:
        died = run(state, plan, gpud, family) != 0
        if died:
            assert run(state, plan, "none", "none") == 0, scenario
        starts = (state / "starts").read_text().split() if (state / "starts").exists() else []
        ends = [line for line in (state / "journal").read_text().splitlines() if line.startswith("ended ")]
        assert len(starts) <= 1, scenario
        assert len(ends) == 1, scenario
        told = eval(ends[0].removeprefix("ended "), {"Exit": Exit, "Fault": Fault})  # noqa: S307 - its own repr
        assert true_end(told, started=bool(starts), stopped=plan != "never"), f"{scenario}: {told}"
        left = record.read(f"{state}/records/1.1")
        assert left is None or left["state"] == record.TOMBSTONE, scenario
        assert gone(place.mine), scenario
    finally:
        for pid in place.mine():
            kill(pid)
        place.loop.close()


def true_end(told: Exit, *, started: bool, stopped: bool) -> bool:
    """A job that ran ended as it was written or as it was stopped; one that did not was the machine's fault.

    Signal 9 without a start: it was killed between claim and exec. Never lost: one of them was always there to see.
    """
    if started and not stopped:
        return told.exit_code == 3
    if started:
        return told.signal in {15, 9}
    return told.signal in {15, 9} or (told.fault is not None and told.fault.machine)


@pytest.mark.fault
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("gpud", GPUD)
def test_no_crash_starts_a_job_twice_or_loses_its_end(tmp_path, plan, gpud):
    for number, family in enumerate(FAMILY):
        state = tmp_path / str(number)
        state.mkdir()
        crash(state, plan, gpud, family)


@pytest.mark.parametrize("number", range(4))
def test_a_crash_now_and_then_does_no_harm(tmp_path, number):
    """Another sample of the matrix each time; an assertion names the scenario."""
    for scenario in random.SystemRandom().sample(MATRIX[number::4], 2):
        state = tmp_path / " ".join(scenario)
        state.mkdir()
        crash(state, *scenario)
