"""A job is asked to save what it has: every so often, before its time limit, and before it is stopped for others."""

import signal
import subprocess
import sys

import pytest
from launchers.workplace import Workplace, kill

from gpud.launchers import record, tree
from gpud.launchers.checkpoints import Checkpoints
from gpud.model.effects import Stop

USR1 = int(signal.SIGUSR1)
# Saves when it is asked to, and goes on; leaves where it was told to.
TRAINER = """
import os, signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    if "leave" in sys.argv: sys.exit(75)
def end(number, frame):
    print("ends", flush=True); sys.exit(0)
signal.signal(signal.SIGUSR1, save); signal.signal(signal.SIGTERM, end)
if "worker" in sys.argv and os.fork() == 0: time.sleep(1000)
print("ready", flush=True)
while True: time.sleep(1000)
"""


def train(workplace: Workplace, number: int, *how: str, shell: str = "exec", **order):
    """Run a trainer in a shell that knows nothing of signals."""
    script = f'{shell} python3 -u -c "$0" "$@"; exit $?'
    job = workplace.launch(number, "sh", "-c", script, TRAINER, *how, checkpoint_signal=USR1, **order)
    workplace.printed(job, "ready")
    return job


def preempt(workplace: Workplace, job) -> None:
    workplace.started(job)
    workplace.perform(Stop(job, 1, None, saves=True))


def test_who_catches_the_signal_gets_it_again_and_again_and_its_shell_and_workers_do_not(workplace):
    job = train(workplace, 1, "worker", shell="", checkpoint_every_s=0.05)
    assert workplace.printed(job, "saved\nsaved\nsaved").count("ready") == 1
    workers = [pid for pid in tree.descendants(workplace.started(job).process.pid) if pid in workplace.mine()]
    assert len(workers) == 2  # the trainer below its shell, and its worker, which inherited the handler
    workplace.stop(job)
    workplace.ended(job)


def test_a_job_that_makes_way_saves_first_and_is_asked_to_end_before_it_is_killed(workplace):
    job = train(workplace, 1, grace_s=1.0)
    preempt(workplace, job)
    assert workplace.ended(job).exit_code == 0
    assert workplace.output(job) == "ready\nsaved\nends\n"


def test_a_job_that_leaves_when_it_has_saved_is_not_waited_for(workplace):
    job = train(workplace, 1, "leave", grace_s=1000.0)
    preempt(workplace, job)
    assert workplace.ended(job).exit_code == 75
    assert workplace.output(job) == "ready\nsaved\n"


def test_who_cancels_wants_nothing_saved_and_waits_for_no_save(workplace):
    saving, cancelled = (train(workplace, number, grace_s=1000.0) for number in (1, 2))
    preempt(workplace, saving)
    workplace.printed(saving, "saved")
    for job in (saving, cancelled):
        workplace.stop(job)
    assert [workplace.ended(job).exit_code for job in (saving, cancelled)] == [0, 0]
    assert workplace.output(saving) == "ready\nsaved\nends\n"
    assert workplace.output(cancelled) == "ready\nends\n"


def test_nobody_waits_for_a_job_that_does_not_catch_the_signal(workplace):
    job = workplace.shell(
        1,
        "trap 'echo ends; exit 0' TERM; echo ready; while :; do sleep 0.01; done",
        checkpoint_signal=USR1,
        grace_s=1000.0,
    )
    workplace.printed(job, "ready")
    preempt(workplace, job)
    assert workplace.ended(job).exit_code == 0
    assert workplace.output(job).endswith("ends\n")


@pytest.mark.parametrize("before_s", [None, 0.5])
def test_the_time_limit_too_lets_a_job_save_first(workplace, before_s):
    job = train(workplace, 1, time_limit_s=1.5, grace_s=1.0, checkpoint_before_s=before_s)
    assert workplace.ended(job).timed_out
    assert workplace.output(job) == "ready\nsaved\nends\n"


def test_what_is_asked_of_a_process_that_is_not_the_program_yet_is_asked_again():
    program = f"""
import signal
signal.signal({USR1}, lambda *_: print("saved", flush=True))
for name in ("gpud-shim", "trainer"):
    open("/proc/self/comm", "w").write(name)
    print(name, flush=True)
    input()
"""
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        saves = Checkpoints([USR1, None, 1e6, "all"], job.pid)
        stop_at = record.boot_time() + 0.5  # asked before its limit as soon as it is due, which is always
        for name in ("gpud-shim", "trainer"):
            assert job.stdout.readline() == f"{name}\n"
            saves.ask_if_due(stop_at, lambda: [job.pid])
            assert (saves.due_at(stop_at) is None) is (name == "trainer")
            saves.before_s = 1e6
            if name == "trainer":
                assert job.stdout.readline() == "saved\n"
            job.stdin.write("\n")
            job.stdin.flush()
        assert job.stdout.read() == ""


def test_a_job_that_has_saved_before_its_limit_and_left_has_not_timed_out(workplace):
    job = train(workplace, 1, "leave", time_limit_s=1000.0, checkpoint_before_s=999.9)
    end = workplace.ended(job)
    assert (end.exit_code, end.timed_out) == (75, False)


@pytest.mark.parametrize(("to", "saved"), [("script", False), ("steps", False), ("all", True)])
def test_the_signal_goes_to_whom_the_submitter_says(workplace, to, saved):
    job = train(workplace, 1, shell="", grace_s=1.0, checkpoint_to=to)
    preempt(workplace, job)
    workplace.ended(job)
    assert ("saved" in workplace.output(job)) is saved


def test_the_keeper_of_a_killed_shims_job_has_it_save_as_well(workplace):
    job = train(workplace, 1, grace_s=1.0)
    shim = workplace.started(job).shim
    kill(shim.pid)
    workplace.until(lambda: workplace.record(job)["shim"][0] != shim.pid, "the keeper")
    preempt(workplace, job)
    workplace.ended(job)
    assert workplace.output(job) == "ready\nsaved\nends\n"
