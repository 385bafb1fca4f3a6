"""Who holds a GPU, told from real processes: living, dead, in between, and those that nobody can see."""

import os
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpud.inventory.processes import Held, describe, identity_of
from gpud.inventory.users import UserNames
from gpud.model.gpu import ProcessIdentity

NOWHERE = 4_194_304  # one more than any pid that Linux gives out: as good as a pid of another namespace


def held(pid, memory_mib=100, *, compute=True):
    return Held(pid, memory_mib, compute)


@pytest.fixture
def users():
    """Know the machine's users."""
    names = UserNames()
    yield names
    names.close()


@pytest.fixture
def run(tmp_path):
    """Return a function that starts a Python program under a name of its own and waits for its first line."""
    started = []

    def start(program, name="python", **options):
        link = tmp_path / name
        if not link.is_symlink():
            link.symlink_to(sys.executable)
        process = subprocess.Popen([link, "-Sc", program], stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_pid_that_was_never_in_proc_holds_its_gpu_for_as_long_as_it_is_listed(users):
    known = frozenset()
    for _ in range(3):
        (process,), known = describe([held(NOWHERE)], known, users)
        assert (process.pid, process.user, process.command, process.ancestors) == (NOWHERE, None, None, ())


def test_a_pid_that_has_died_holds_nothing_though_the_driver_lists_it_still(run, users):
    process, _ = run("import signal; print(flush=True); signal.pause()")
    (living,), known = describe([held(process.pid)], frozenset(), users)
    assert living.pid == process.pid

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert describe([held(process.pid)], known, users) == ((), known)  # a zombie
    process.wait()
    for _ in range(3):
        found, known = describe([held(process.pid)], known, users)
        assert found == ()

    _, known = describe([], known, users)
    assert known == frozenset()  # its number may come again


def test_a_dead_leader_whose_threads_run_on_still_holds_its_gpu(run, users):
    program = "import ctypes, os, threading; print(flush=True)\n"
    program += "threading.Thread(target=lambda: os.read(0, 1)).start()\n"
    program += "ctypes.CDLL(None).pthread_exit(None)"
    process, _ = run(program, stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat")
    with process.stdin:
        while ") Z " not in stat.read_text():
            assert process.poll() is None

        (found,), _ = describe([held(process.pid)], frozenset(), users)
        assert found.pid == process.pid


def test_a_name_made_to_mislead_is_read_right(run, users):
    process, _ = run("import signal; print(flush=True); signal.pause()", name="a) Z 1 (b")

    (found,), _ = describe([held(process.pid)], frozenset(), users)

    assert found.ancestors[0] == identity_of(process.pid)
    assert found.ancestors[1] == identity_of(os.getpid())
    assert found.command.startswith(str(process.args[0]))


def test_the_chain_of_parents_goes_up_to_the_first_process(users):
    (found,), _ = describe([held(os.getpid())], frozenset(), users)

    assert found.ancestors[0] == ProcessIdentity(os.getpid(), identity_of(os.getpid()).start)
    assert found.ancestors[1].pid == os.getppid()
    assert len(set(found.ancestors)) == len(found.ancestors)
    last = found.ancestors[-1].pid
    assert last == 1 or identity_of(last).start > 0


def test_the_mps_server_is_told_from_its_clients(run, users):
    server, _ = run("import signal; print(flush=True); signal.pause()", name="nvidia-cuda-mps-server")

    processes, _ = describe([held(server.pid), held(os.getpid())], frozenset(), users)

    assert [process.kind for process in processes] == ["mps", "compute"]


def test_what_only_draws_is_graphics(users):
    (found,), _ = describe([held(os.getpid(), None, compute=False)], frozenset(), users)

    assert (found.kind, found.memory_mib) == ("graphics", None)


def test_the_owner_is_the_user_who_runs_it_and_not_the_owner_of_its_proc_files(run, users):
    closed = "import ctypes, signal; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print(flush=True); signal.pause()"
    process, _ = run(closed)  # PR_SET_DUMPABLE 0: its /proc files belong to root

    (found,), _ = describe([held(process.pid)], frozenset(), users)

    assert found.user == pwd.getpwuid(os.getuid()).pw_name


def test_processes_that_come_and_go_under_our_eyes_do_no_harm(users):
    with subprocess.Popen(["sh", "-c", "while :; do (:; :) & done 2>/dev/null"], start_new_session=True) as churn:
        try:
            known = frozenset()
            for _ in range(20):
                pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
                processes, known = describe([held(pid) for pid in pids], known, users)
                assert os.getpid() in {process.pid for process in processes}
        finally:
            os.killpg(churn.pid, 9)


def test_a_name_service_that_hangs_holds_up_no_look_and_is_believed_when_it_answers():
    goes_on = threading.Event()
    names = UserNames(lambda uid: f"user{uid}" if goes_on.wait() else "", patience_s=0.05)

    began = time.monotonic()
    assert [names.of(7), names.of(8), names.of(7)] == ["7", "8", "7"]
    assert time.monotonic() - began < 5

    goes_on.set()
    while names.of(9) != "user9":
        assert time.monotonic() < began + 20
    assert [names.of(7), names.of(8)] == ["user7", "user8"]
    names.close()
