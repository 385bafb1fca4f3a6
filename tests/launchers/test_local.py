"""Real processes under the local launcher: started once, told truly, stopped whole."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gpud_process import until
from launchers.workplace import OFFSET, TREE, Workplace, clock, died, gone, kill

from gpud.launchers import record, tree
from gpud.launchers.output import finding
from gpud.model.effects import Look, SetLimit
from gpud.model.gpu import GpuId, ProcessIdentity
from gpud.model.job import Exit, Fault, JobId, job_id
from gpud.model.observations import Exited, Started
from gpud.model.units import Timestamp

ROOT = Path(__file__).parent.parent.parent


def test_an_exit_code_is_told_with_times_and_use(workplace):
    before = clock()
    job = workplace.shell(1, "echo out; echo err >&2; exit 3")
    exit_ = workplace.ended(job)
    started = workplace.started(job)

    assert (exit_.exit_code, exit_.signal, exit_.fault, exit_.lost) == (3, None, None, None)
    assert before <= started.at <= exit_.at <= clock()
    assert exit_.cpu_s < 5
    assert exit_.max_rss_mib >= 1
    assert (exit_.leftovers, exit_.timed_out, exit_.stuck, exit_.finding) == (0, False, False, None)
    assert workplace.output(job) == "out\nerr\n"
    assert workplace.log(job).stat().st_mode & 0o777 == 0o600


def test_a_signal_is_told_apart_from_an_exit_code(workplace):
    exit_ = workplace.ended(workplace.shell(1, "kill -SEGV $$"))
    assert (exit_.exit_code, exit_.signal) == (None, signal.SIGSEGV)


def test_starting_twice_runs_once(workplace):
    job = workplace.shell(1, "echo ran")
    workplace.shell(1, "echo ran")
    workplace.ended(job)
    workplace.shell(1, "echo ran")
    last = workplace.launch(2, "true")
    workplace.ended(last)

    assert workplace.output(job) == "ran\n"
    assert len(workplace.observed(Started, job)) == len(workplace.observed(Exited, job)) == 1
    _, _, read = Path(f"/proc/{workplace.launcher.pid}/io").read_text().partition("syscr: ")
    assert int(read.split()[0]) < 3_000  # each of its rehearsals found the record that it looked for


def test_a_shim_attends_one_attempt_after_the_other_and_mixes_none_up(workplace):
    shims = set()
    for number in range(1, 81):
        job = workplace.shell(number, f"exit {number % 7}")
        assert workplace.ended(job).exit_code == number % 7
        shims.add(workplace.started(job).shim)
        workplace.forget(job)
    assert 1 < len(shims) < 20
    assert [left.name for left in (workplace.state / "records").iterdir()] == [record.TOMBSTONE_FILE]


def test_a_job_finds_clean_ground(workplace):
    """No files but three, no signals ignored or blocked, a session of its own, standard input at its end."""
    job = workplace.shell(
        1,
        "ls -l /proc/self/fd | grep -c -- '->'; grep -E 'Sig(Blk|Ign)' /proc/self/status | grep -o '.......$'; "
        "test $(cut -d' ' -f6 /proc/self/stat) = $$ && echo session; cat; umask; ulimit -Sn; ulimit -Hn; pwd",
        umask=0o027,
        limits={"NOFILE": (512, 600), "CORE": (0, 0)},
    )
    workplace.ended(job)
    lines = workplace.output(job).splitlines()
    assert lines == [
        "4",  # 0, 1, 2, and the directory that ls lists
        "0000000",  # signals blocked, 1 to 28: what lies above is libc's own
        "0000000",
        "session",
        "0027",
        "512",
        "600",
        str(workplace.state),
    ]


def test_a_limit_that_may_not_be_raised_is_set_as_far_as_it_goes(workplace):
    job = workplace.shell(1, "ulimit -Sn", limits={"NOFILE": (-1, -1), "NOSUCH": (1, 1)})
    assert workplace.ended(job).exit_code == 0
    assert int(workplace.output(job)) >= 256


def test_an_environment_larger_than_any_message_arrives_whole(workplace):
    big = {f"V{number}": "x" * 100_000 for number in range(8)} | {"PATH": os.environ["PATH"], "ODD": "a\udcffb"}
    job = workplace.shell(1, 'printf %s "$V0$V7" | wc -c; printf %s "$ODD"', environment=big)
    workplace.ended(job)
    assert workplace.log(job).read_bytes() == b"200000\na\xffb"


def test_250_orders_at_once_are_all_carried_out(workplace):
    jobs = [workplace.launch(number, "true") for number in range(1, 251)]
    assert {workplace.ended(job).exit_code for job in jobs} == {0}


@pytest.mark.parametrize(
    ("command", "spec", "fault"),
    [
        (["nosuch"], {}, Fault("no such command: nosuch", machine=False, not_found=True)),
        (["./nosuch"], {}, Fault("no such command: ./nosuch", machine=False, not_found=True)),
        ([""], {}, Fault("no such command: ''", machine=False, not_found=True)),
        (["/etc/passwd"], {}, Fault("/etc/passwd: permission denied (is it executable?)", machine=False)),
        (["true"], {"workdir": "/no/where"}, Fault("no such directory: /no/where", machine=False, not_found=True)),
        (
            ["true", "x" * 200_000],
            {},
            Fault("argument list too long (arguments and environment together)", machine=False),
        ),
        (["true"], {"output": "/"}, Fault("cannot open the log /: Is a directory", machine=False)),
        (
            ["true"],
            {"output": "/no/where/x"},
            Fault("cannot open the log /no/where/x: No such file or directory", machine=False),
        ),
        *(
            (["true"], spec, Fault(f"cannot open the log {path}: it is a file of gpud's, not of a job", machine=False))
            for path in ("/dev/stdout", "/proc/self/fd/3", "/proc/thread-self/fd/5")
            for spec in ({"output": path}, {"error": path})
        ),
        (
            ["x.sh"],
            {"script": b"#!/no/such/python\n"},
            Fault("bad interpreter in the script's #! line: '/no/such/python'", machine=False, not_found=True),
        ),
        (
            ["x.sh"],
            {"script": b"#!/bin/sh\r\necho\r\n"},
            Fault("the script has Windows line ends; try: dos2unix", machine=False, not_found=True),
        ),
    ],
    ids=lambda value: value.reason[:20] if isinstance(value, Fault) else "",
)
def test_a_job_that_cannot_start_says_why(workplace, command, spec, fault):
    exit_ = workplace.ended(workplace.launch(1, *command, **spec))
    assert exit_.fault == fault
    assert (exit_.exit_code, exit_.signal, exit_.lost) == (None, None, None)


def test_an_environment_that_cannot_be_read_is_gpuds_fault_and_never_the_jobs_exit_code(workplace):
    workplace.spec = replace(workplace.spec, environment=b"[broken")
    exit_ = workplace.ended(workplace.launch(1, "true"))
    assert exit_.fault.reason.startswith("gpud failed to start it")
    assert exit_.exit_code is None


def test_programs_are_found_through_the_jobs_path_and_relative_to_its_directory(workplace):
    (workplace.state / "bin").mkdir()
    tool = workplace.state / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    through_path = workplace.launch(1, "tool", environment={"PATH": "/nowhere:bin"})
    by_name = workplace.launch(2, "bin/tool")
    workplace.ended(through_path)
    workplace.ended(by_name)
    assert workplace.output(through_path) == workplace.output(by_name) == "found\n"


def test_a_file_that_is_no_program_is_named(workplace):
    (workplace.state / "data").write_text("no #! line\n")
    (workplace.state / "data").chmod(0o755)
    exit_ = workplace.ended(workplace.launch(1, "./data"))
    assert exit_.fault == Fault("./data is not a program: it has no #! line, or is for another machine", machine=False)


def test_a_script_runs_from_its_kept_copy_which_goes_with_it(workplace):
    script = b'#!/usr/bin/env -S sh -e\necho "$0 $1 $GPUD_SCRIPT"; false; echo not reached\n'
    job = workplace.launch(1, "train.sh", "arg", script=script)
    assert workplace.ended(job).exit_code == 1
    copy = workplace.state / "scripts" / "1.1"
    assert workplace.output(job) == f"{copy} arg \n"
    assert not copy.exists()


def test_output_and_error_go_where_the_patterns_say_and_append(workplace):
    for number in (1, 1):
        job = workplace.shell(number, "echo out; echo err >&2", output="%x.out", error="%j.err")
        workplace.ended(job)
    (workplace.state / "train.out").write_text("before\n")
    job = workplace.shell(2, "echo out; echo err >&2", output="%x.out", error="%j.err")
    workplace.ended(job)
    assert (workplace.state / "train.out").read_text() == "before\nout\n"
    assert (workplace.state / "2.err").read_text() == "err\n"


def test_a_fifo_that_nobody_reads_does_not_hang_the_start(workplace):
    os.mkfifo(workplace.state / "pipe")
    exit_ = workplace.ended(workplace.shell(1, "echo hello", output="pipe"))
    assert "No such device or address" in exit_.fault.reason
    assert not exit_.fault.machine

    reader = os.open(workplace.state / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert workplace.ended(workplace.shell(2, "echo hello", output="pipe")).exit_code == 0
    assert os.read(reader, 100) == b"hello\n"
    os.close(reader)


@pytest.mark.parametrize(
    ("words", "stream"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", ""),
        ("RuntimeError: CUDA error: out of memory", ">&2"),
        ("cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 1,024 bytes", ">&2"),
        ("ResourceExhaustedError: OOM when allocating tensor with shape[8,8]; then much more: $(seq 2000)", ""),
        ("NCCL WARN Cuda failure 2 'out of memory'", ""),
    ],
)
def test_a_log_that_ends_in_cuda_out_of_memory_is_a_finding(workplace, words, stream):
    exit_ = workplace.ended(workplace.shell(1, f'seq 9999; echo "{words}" {stream}; exit 1'))
    assert exit_.finding == "cuda out of memory"


def test_the_exception_that_a_log_ends_on_is_told_by_its_name_alone(workplace):
    raising = "import json; json.loads('secret')"
    assert workplace.ended(workplace.shell(1, f'{sys.executable} -c "{raising}"')).finding == "JSONDecodeError"
    assert workplace.ended(workplace.shell(2, "echo 'ValueError: tried again'; echo over; exit 1")).finding is None
    assert workplace.ended(workplace.shell(3, "echo 'Error: no such option'; exit 2")).finding is None


TRACE = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    train()\n'
ASSERTED = f"{TRACE}RuntimeError: CUDA error: device-side assert triggered\nCUDA kernel errors might\nFor debugging\n\n"
RANKS = "".join(f"[rank0]: {line}\n" for line in f"{TRACE}ValueError: negative".splitlines())
BOX = f"{TRACE}torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n{'=' * 60}\ntrain.py FAILED\n"
BOX += (
    f"{'-' * 60}\nFailures:\n  <NO_OTHER_FAILURES>\n{'-' * 60}\nRoot Cause (first observed failure):\n[0]:\n  rank: 0\n"
)
BOX += f"[1]:\n  rank: 1\n{'=' * 60}\n"


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        (ASSERTED, "RuntimeError"),
        (f"{TRACE}RuntimeError: Error(s) in loading state_dict:\n" + "\tsize mismatch\n" * 20, "RuntimeError"),
        (f"{RANKS}{BOX}", "ValueError"),
        (BOX, "ChildFailedError"),
        (f"{TRACE}RuntimeError: Caught ValueError in worker 0.\nOriginal {TRACE}ValueError: negative\n", "ValueError"),
        (f"{TRACE}ValueError: caught\n" + "epoch\n" * 20, None),
        (f"{TRACE}KeyboardInterrupt\n", None),
        ("", None),
    ],
)
def test_an_exception_of_several_lines_and_that_of_torchrun_s_ranks_are_told_by_name(tmp_path, tail, name):
    log = tmp_path / "log"
    log.write_text(f"epoch 1\n{tail}")
    assert finding(str(log)) == name


def test_what_a_job_that_succeeded_wrote_of_memory_is_no_finding(workplace):
    exit_ = workplace.ended(workplace.shell(1, "echo 'CUDA out of memory: trying with a smaller batch'"))
    assert (exit_.exit_code, exit_.finding) == (0, None)


def test_what_the_children_of_a_job_used_counts_as_the_jobs(workplace):
    burn = "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'"
    assert workplace.ended(workplace.shell(1, f"{burn}; {burn}")).cpu_s >= 0.6
    assert workplace.ended(workplace.shell(2, "true")).cpu_s < 0.3


def test_stopping_asks_every_process_and_lets_them_use_their_grace(workplace):
    job = workplace.shell(1, "sh -c 'trap \"echo saved; exit 0\" TERM; echo ready; sleep 1000 & wait' & wait")
    workplace.printed(job, "ready")
    workplace.stop(job)
    exit_ = workplace.ended(job)

    assert exit_.signal == signal.SIGTERM  # the outer shell's
    assert workplace.output(job) == "ready\nsaved\n"
    assert gone(lambda: _session(workplace, job))


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_what_a_handler_starts_to_save_is_let_be():
    """Copying a checkpoint away, say: it would be cut short."""
    saves = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(["bash", "-c", saves], stdout=subprocess.PIPE, start_new_session=True, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        listed = []

        def members() -> list[int]:
            if listed:  # whoever looks again sees what the handler started
                until(
                    lambda: any(
                        b"0.5" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in tree.descendants(job.pid)
                    )
                )
            listed.append([job.pid, *tree.descendants(job.pid)])
            return listed[-1]

        began = time.monotonic()
        tree.end_gently(members)
        assert job.communicate()[0] == "saved\n"
        assert time.monotonic() - began >= 0.5


def test_who_is_in_a_group_of_others_is_told_alone():
    """As a process may be that was taken up without a session of its own."""
    both = [subprocess.Popen(["sleep", "1000"], process_group=0)]
    both.append(subprocess.Popen(["sleep", "1000"], process_group=both[0].pid))
    tree.end_gently(lambda: [both[1].pid])
    assert both[1].wait() == -signal.SIGTERM
    assert both[0].poll() is None
    tree.end_gently(lambda: [both[0].pid])
    assert both[0].wait() == -signal.SIGTERM


def test_after_the_grace_everything_is_killed_wherever_it_went(workplace):
    job = workplace.launch(1, "python3", "-c", TREE, str(workplace.state), "1000", grace_s=0.3)
    workplace.printed(job, "ready")
    assert len(workplace.mine()) > 4
    workplace.stop(job)
    exit_ = workplace.ended(job)

    assert exit_.signal == signal.SIGKILL
    assert not [pid for pid in workplace.mine() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_what_a_job_leaves_behind_is_killed_and_counted(workplace):
    job = workplace.launch(1, "python3", "-c", TREE, str(workplace.state), "0")
    exit_ = workplace.ended(job)

    assert (exit_.exit_code, exit_.leftovers) == (0, 3)
    assert not [pid for pid in workplace.mine() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("grace_s", [0, 0.2])
def test_a_stop_may_shorten_the_jobs_own_grace(workplace, grace_s):
    job = workplace.shell(1, "trap '' TERM; echo ready; sleep 1000 & wait; wait; sleep 1000", grace_s=1000)
    workplace.printed(job, "ready")
    workplace.stop(job, grace_s)
    assert workplace.ended(job).signal == signal.SIGKILL


def test_a_stopped_process_is_ended_too(workplace):
    job = workplace.shell(1, "kill -STOP $$", grace_s=1000)
    pid = workplace.started(job).process.pid
    workplace.until(lambda: b") T" in Path(f"/proc/{pid}/stat").read_bytes())
    workplace.stop(job)
    assert workplace.ended(job).signal == signal.SIGTERM


def test_stopping_twice_and_what_has_ended_does_no_harm(workplace):
    job = workplace.shell(1, "trap 'echo term' TERM; echo ready; sleep 0.3 & wait; wait; sleep 0.3")
    workplace.printed(job, "ready")
    workplace.stop(job)
    workplace.stop(job)
    workplace.ended(job)
    workplace.stop(job)
    workplace.interrupt(job)
    assert workplace.output(job).count("term") == 1
    assert len(workplace.observed(Exited, job)) == 1


def test_a_late_stop_does_not_hit_the_next_job_of_the_same_shim(workplace):
    first = workplace.shell(1, "sleep 0.05")
    shim = workplace.started(first).shim
    workplace.until(lambda: (workplace.record(first) or {}).get("state") == record.DONE)
    kill(shim.pid, signal.SIGTERM)  # sent by who has not heard yet that the job ended
    workplace.ended(first)
    for number in range(2, 10):
        job = workplace.shell(number, "exit 0")
        assert workplace.ended(job).exit_code == 0


def test_an_interrupt_reaches_every_process_as_a_terminals_would(workplace):
    code = "import signal, sys\nprint('ready', flush=True)\ntry: signal.pause()\nexcept KeyboardInterrupt: sys.exit(5)"
    job = workplace.launch(2, "bash", "-c", "trap 'echo outer' INT; python3 -c \"$0\"; echo inner $?", code)
    workplace.printed(job, "ready")
    workplace.interrupt(job)
    assert workplace.ended(job).exit_code == 0
    assert workplace.output(job) == "ready\nouter\ninner 5\n"


def test_the_time_limit_is_the_shims_own_and_needs_no_gpud(workplace):
    job = workplace.shell(1, "trap 'echo asked; exit 7' TERM; echo ready; sleep 1000 & wait", time_limit_s=0.5)
    workplace.printed(job, "ready")
    shim = workplace.started(job).shim
    workplace.close()
    workplace.until(lambda: workplace.record(job)["state"] == record.DONE)
    assert died(shim.pid)
    workplace.open()
    workplace.look(job)
    exit_ = workplace.ended(job)
    assert (exit_.exit_code, exit_.timed_out) == (7, True)
    assert workplace.output(job) == "ready\nasked\n"


def test_jobs_run_on_without_gpud_and_their_ends_are_found(workplace):
    os.mkfifo(workplace.state / "go")
    jobs = [workplace.shell(number, f"echo ready; read line < go; exit {number}") for number in (1, 2, 3)]
    for job in jobs:
        workplace.printed(job, "ready")
    before = [workplace.started(job) for job in jobs]
    workplace.reopen()
    for job in jobs:
        workplace.look(job)
        workplace.look(job)
    assert [workplace.started(job) for job in jobs] == before
    with (workplace.state / "go").open("w") as go:
        go.write("on\n" * 3)
        go.flush()
        assert [workplace.ended(job).exit_code for job in jobs] == [1, 2, 3]


def test_what_an_earlier_gpud_started_can_be_stopped(workplace):
    job = workplace.shell(1, "echo ready; sleep 1000")
    workplace.printed(job, "ready")
    workplace.reopen()
    workplace.stop(job)
    assert workplace.ended(job).signal == signal.SIGTERM


def test_an_attempt_that_never_started_is_the_machines_fault_and_never_will(workplace):
    workplace.look(job_id(77))
    fault = workplace.ended(job_id(77)).fault
    assert fault.machine
    workplace.reopen()
    workplace.launch(77, "sh", "-c", "echo ran")
    workplace.until(lambda: workplace.launcher._attempts["77.1"].refused)
    assert not workplace.log(job_id(77)).exists()


def test_a_reboot_loses_what_was_running_and_keeps_what_had_ended(workplace):
    running = workplace.shell(1, "echo ready; sleep 1000")
    done = workplace.shell(2, "exit 4")
    workplace.printed(running, "ready")
    workplace.ended(done)
    workplace.reopen()
    about = workplace.record(running)
    record.overwrite(f"{workplace.state}/records/1.1", about | {"boot": "earlier"})
    (workplace.state / "records" / "4.1").write_bytes(b"")  # power went before it was on disk
    for job in (running, done, job_id(3), job_id(4)):  # nothing is left that tells of the third
        workplace.look(job, boot="earlier")
    lost = Exit(at=Timestamp(about["at"]), lost="the node was rebooted")  # not while it was off, or without a gpud
    assert workplace.ended(running) == lost
    for job in (job_id(3), job_id(4)):
        assert workplace.ended(job).lost == "the node was rebooted"
        assert abs(workplace.ended(job).at - OFFSET) < 1
    assert workplace.ended(done).exit_code == 4


def test_a_gpu_is_leased_while_its_job_lives_and_free_at_once_after(workplace, tmp_path_factory):
    gpu = f"GPU-test-{os.getpid()}"
    job = workplace.shell(1, "echo ready; sleep 1000", leases=(gpu,))
    workplace.printed(job, "ready")
    other = Workplace(tmp_path_factory.mktemp("other"))
    try:
        other.open()
        held = other.ended(other.shell(1, "true", leases=(gpu,))).fault
        assert held == Fault(f"{gpu} is held by another gpud (pid {workplace.started(job).shim.pid})", machine=True)
        workplace.stop(job, 0)
        workplace.ended(job)
        assert other.ended(other.shell(2, "true", leases=(gpu,))).exit_code == 0
    finally:
        other.clear()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        assert probe.connect_ex(f"\0gpud/{gpu}") != 0


def test_jobs_of_one_gpud_that_share_a_gpu_share_its_lease_and_another_gpud_gets_neither(workplace, tmp_path_factory):
    gpu = GpuId(f"GPU-test-{os.getpid()}")
    jobs = [workplace.shell(number, "echo ready; sleep 1000", shared=(gpu,)) for number in (1, 2)]
    for job in jobs:
        workplace.printed(job, "ready")
    other = Workplace(tmp_path_factory.mktemp("other"))
    try:
        other.open()
        for number, wanted in ((1, {"shared": (gpu,)}), (2, {"leases": (gpu,)})):
            fault = other.ended(other.shell(number, "true", **wanted)).fault
            assert fault is not None
            assert fault.machine
            assert fault.reason.startswith(f"{gpu} is held by another gpud")
    finally:
        other.clear()
    workplace.stop(jobs[0], 0)
    workplace.ended(jobs[0])
    third = workplace.shell(3, "echo ready; sleep 1000", shared=(gpu,))
    workplace.printed(third, "ready")


@pytest.mark.parametrize("killed", ["shim", "shim and keeper"])
def test_a_lease_outlives_a_killed_shim_as_long_as_its_job_lives(workplace, killed):
    gpu = f"GPU-test-{os.getpid()}"

    def held() -> bool:
        return f"@gpud/{gpu}\n" in Path("/proc/net/unix").read_text()

    def next_shim(*others: int) -> int:
        return workplace.until(lambda: (pid := workplace.record(job)["shim"][0]) not in others and pid)

    job = workplace.shell(1, "echo ready; sleep 1000", leases=(gpu,))
    workplace.printed(job, "ready")
    shim = workplace.started(job).shim.pid
    kill(shim)
    assert held()  # no gap
    keeper = next_shim(shim)
    if killed == "shim and keeper":
        kill(keeper)
        assert held()
        keeper = next_shim(shim, keeper)
    workplace.until(lambda: b"gpud-keeper" in Path(f"/proc/{keeper}/comm").read_bytes())
    workplace.stop(job)
    assert workplace.ended(job).signal == signal.SIGTERM
    workplace.until(lambda: not held())


def test_a_job_becomes_its_user_before_anything_of_the_users_is_touched(workplace):
    """As root; anybody else is told that it cannot be done."""
    workplace.state.chmod(0o755)
    home = workplace.state / "home"
    home.mkdir()
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
    for parent in workplace.state.parents:
        if os.getuid() == 0 and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    job = workplace.shell(1, "id -u; id -g; id -G", uid=65534, output=str(home / "log"), workdir=str(home))
    exit_ = workplace.ended(job)
    if os.getuid() == 0:
        assert exit_.exit_code == 0
        assert (home / "log").read_text() == "65534\n65534\n65534\n"
        assert (home / "log").stat().st_uid == 65534
        assert workplace.ended(workplace.launch(2, "true", uid=65534, output="/root/x")).fault.reason == (
            "cannot open the log /root/x: Permission denied"
        )
    else:
        assert exit_.fault.reason.startswith("cannot become user 65534")
        assert exit_.fault.machine


def test_a_killed_job_is_a_signal_and_a_killed_shim_is_not_noticed_by_its_job(workplace):
    job = workplace.shell(1, "echo ready; sleep 1000")
    workplace.printed(job, "ready")
    kill(workplace.started(job).process.pid)
    assert workplace.ended(job).signal == signal.SIGKILL

    orphan = workplace.shell(2, "echo ready; sleep 0.5; exit 6")
    workplace.printed(orphan, "ready")
    kill(workplace.started(orphan).shim.pid)
    assert workplace.ended(orphan).exit_code == 6


@pytest.mark.parametrize("restart", [False, True])
def test_the_orphan_of_a_killed_shim_can_be_stopped_and_leaves_nothing(workplace, restart):
    job = workplace.launch(1, "python3", "-c", TREE, str(workplace.state), "1000", grace_s=0.3)
    workplace.printed(job, "ready")
    kill(workplace.started(job).shim.pid)
    if restart:
        workplace.reopen()
        workplace.look(job)
    workplace.stop(job)
    assert workplace.ended(job).signal == signal.SIGKILL
    assert not [pid for pid in workplace.mine() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_orphan_of_a_killed_shim_keeps_its_time_limit(workplace):
    job = workplace.shell(1, "echo ready; sleep 1000", time_limit_s=1.0)
    workplace.printed(job, "ready")
    kill(workplace.started(job).shim.pid)
    exit_ = workplace.ended(job)
    assert (exit_.signal, exit_.timed_out) == (signal.SIGTERM, True)


def test_a_job_that_has_neither_shim_nor_launcher_process_is_ended_at_its_time_limit(workplace):
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    job = workplace.shell(1, script, time_limit_s=900, grace_s=0.1)
    workplace.printed(job, "ready")
    for pid in (workplace.launcher.pid, workplace.started(job).shim.pid):
        kill(pid)
        assert died(pid)
    workplace.perform(SetLimit(job, 1, 1.0))
    assert workplace.ended(job).timed_out


def test_a_killed_launcher_process_is_replaced_and_its_jobs_run_on(workplace):
    job = workplace.shell(1, "echo ready; sleep 0.6; exit 6")
    workplace.printed(job, "ready")
    old = workplace.launcher.pid
    kill(old)
    workplace.until(lambda: workplace.launcher.pid not in {None, old})
    workplace.zygotes.append(workplace.launcher.pid)
    assert workplace.ended(workplace.launch(2, "true")).exit_code == 0
    assert workplace.ended(job).exit_code == 6


def test_orders_that_died_with_the_launcher_process_are_told_as_the_machines_fault(workplace):
    old = workplace.launcher.pid
    kill(old, signal.SIGSTOP)
    job = workplace.shell(1, "echo ran")
    kill(old)
    assert workplace.ended(job).fault.machine
    assert not workplace.log(job).exists()
    workplace.until(lambda: workplace.launcher.pid not in {None, old})
    workplace.zygotes.append(workplace.launcher.pid)


def test_with_shim_and_launcher_process_killed_an_orphan_is_lost_only_when_nothing_of_it_is_left(workplace):
    job = workplace.shell(1, "echo ready; sleep 1000 & sleep 1000")
    workplace.printed(job, "ready")
    started = workplace.started(job)
    old = workplace.launcher.pid
    kill(old, signal.SIGSTOP)
    kill(started.shim.pid)
    kill(old)
    workplace.until(lambda: workplace.launcher.pid not in {None, old})
    workplace.zygotes.append(workplace.launcher.pid)
    assert workplace.observed(Exited, job) == []
    assert _session(workplace, job)

    workplace.stop(job)
    assert workplace.ended(job).lost == "its shim and its launcher process were killed"
    assert _session(workplace, job) == []


def _session(workplace: Workplace, job: JobId) -> list[int]:
    leader = workplace.started(job).process.pid
    return [pid for pid, (_, session) in tree.parents().items() if session == leader]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else's, in a session of its own."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("state", [record.CLAIMED, record.ENDED])
def test_a_process_that_got_the_pid_of_a_dead_job_is_left_alone(workplace, stranger, state):
    before = record.start_time(stranger.pid) - 1  # when the job of that pid began; nothing of it is left
    path = f"{workplace.state}/records/1.1"
    own = {"pid": stranger.pid, "start": before, "at": clock(), "offset": OFFSET, "grace_s": 1.0, "limit_at": None}
    others = {"boot": record.boot_id(), "zygote": [stranger.pid, before], "shim": [stranger.pid, before]}
    os.close(record.claim(path, record.encode({"state": state, **own, **others})))
    job = job_id(1)

    workplace.stop(job)

    assert workplace.ended(job).lost == "its shim and its launcher process were killed"
    assert stranger.poll() is None


def test_without_a_record_too_a_process_that_got_the_pid_of_a_dead_job_is_left_alone(workplace, stranger):
    job, before = job_id(1), ProcessIdentity(stranger.pid, record.start_time(stranger.pid) - 1)

    workplace.perform(Look(job, 1, record.boot_id(), before, before))

    assert workplace.ended(job).lost == "its record was damaged or removed, and its end was not seen"
    assert stranger.poll() is None


def test_the_launcher_process_kills_nothing_of_a_job_whose_shim_has_just_died(tmp_path):
    """Its job is a child already, its end not taken yet: what is known then of an earlier orphan is not enough."""
    script = """
import os, signal, sys, time
from gpud.launchers import record, tree
from gpud.launchers.output import finding
from gpud.launchers.orphans import Orphans

tree.adopt_orphans()
told = []
orphans = Orphans(sys.argv[1], None, told.append)
ended = {"state": "ended", "boot": "b", "zygote": [1, 1], "shim": [1, 1], "pid": 1 << 30, "start": 1, "status": 0}
ended |= {"at": 1.0, "ended": 1.0, "offset": 0.0, "grace_s": 1.0, "limit_at": None}
os.close(record.claim(f"{sys.argv[1]}/1.1", record.encode(ended)))
orphans.adopt("1.1")
shim = os.fork()
if shim == 0:
    if os.fork() == 0:
        os.setsid()
    signal.pause()
while not tree.descendants(shim):
    pass
job = tree.descendants(shim)[0]
os.kill(shim, signal.SIGKILL)
os.waitid(os.P_PID, shim, os.WEXITED | os.WNOWAIT)
orphans.tend([shim])
assert tree.descendants(os.getpid()) == [job], "it was killed"
os.waitpid(shim, 0)
orphans.ends["2.1"] = None  # which `adopt` does
own = {"pid": job, "start": record.start_time(job), "boot": record.boot_id()}
os.close(record.claim(f"{sys.argv[1]}/2.1", record.encode(ended | {"state": "claimed", **own})))
orphans.tend([])
assert tree.descendants(os.getpid()) == [job], "it was killed"
assert record.read(f"{sys.argv[1]}/1.1")["state"] == "done"
os.kill(job, signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_start_that_nobody_heard_of_is_told_with_the_end(workplace):
    job = workplace.shell(1, "exit 9")
    workplace.close()
    path = f"{workplace.state}/records/1.1"
    workplace.until(lambda: (found := record.read(path)) is not None and found["state"] == record.DONE)
    assert workplace.seen == []
    workplace.open()

    workplace.look(job)

    assert workplace.ended(job).exit_code == 9
    began = record.read(path)
    assert (workplace.started(job).at, workplace.started(job).process.pid) == (began["at"], began["pid"])
    assert [type(each) for each in workplace.seen] == [Started, Exited]


def test_a_stop_before_the_start_keeps_it_from_ever_running(workplace):
    zygote = workplace.launcher.pid
    kill(zygote, signal.SIGSTOP)
    job = workplace.shell(1, "echo ran")
    workplace.stop(job)
    assert workplace.ended(job).fault.machine
    workplace.forget(job)
    assert workplace.record(job) is not None  # the order is still on its way
    kill(zygote, signal.SIGCONT)
    workplace.until(lambda: workplace.record(job) is None)
    assert not workplace.log(job).exists()
    assert workplace.seen == [o for o in workplace.seen if isinstance(o, Exited)]


def test_the_launcher_process_ends_with_its_last_job_after_gpud_has_gone(workplace):
    job = workplace.shell(1, "echo ready; read line < pipe")
    os.mkfifo(workplace.state / "pipe")
    workplace.printed(job, "ready")
    zygote = workplace.launcher.pid
    workplace.close()
    assert record.start_time(zygote) is not None
    with (workplace.state / "pipe").open("w") as pipe:
        pipe.write("go on\n")
    assert died(zygote)
    assert stat.S_ISFIFO((workplace.state / "pipe").stat().st_mode)


def test_times_in_records_are_the_daemons_clock(workplace):
    job = workplace.launch(1, "true")
    workplace.ended(job)
    assert abs(workplace.record(job)["at"] - record.boot_time() - OFFSET) < 60


def _spoil(workplace: Workplace, how: str) -> None:
    path = workplace.state / "records" / "1.1"
    if how == "removed":
        path.unlink()
    elif how == "all removed":
        shutil.rmtree(path.parent)
    else:
        path.write_bytes(b"damaged".ljust(record.SIZE))


@pytest.mark.parametrize("how", ["removed", "damaged", "all removed"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_started_job_whose_record_is_spoilt_runs_on_and_its_end_is_told(workplace, how, restart):
    os.mkfifo(workplace.state / "go")
    job = workplace.shell(1, "echo ready; read line < go; exit 5")
    workplace.printed(job, "ready")
    started = workplace.started(job)
    _spoil(workplace, how)
    if restart:
        workplace.reopen()
    workplace.perform(Look(job, 1, record.boot_id(), started.process, started.shim))
    assert workplace.observed(Exited, job) == []
    with (workplace.state / "go").open("w") as go:
        go.write("on\n")
    assert workplace.ended(job).exit_code == 5
    assert workplace.ended(workplace.launch(2, "true")).exit_code == 0


@pytest.mark.parametrize("what", ["link", "directory", "fifo"])
def test_what_is_put_in_a_records_place_is_neither_waited_for_nor_written(workplace, what):
    job = workplace.shell(1, "echo ready; read line < go; exit 5", workdir=str(workplace.state))
    os.mkfifo(workplace.state / "go")
    workplace.printed(job, "ready")
    workplace.started(job)
    path, another = workplace.state / "records" / "1.1", workplace.state / "another"
    another.write_text("kept")
    path.unlink()
    make = {"link": lambda: path.symlink_to(another), "directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}
    make[what]()
    with pytest.raises(ValueError, match="damaged"):
        record.read(str(path))
    (workplace.state / "go").write_text("on\n")
    assert workplace.ended(job).exit_code == (None if what == "fifo" else 5)
    assert another.read_text() == "kept"


@pytest.mark.parametrize("how", ["removed", "damaged"])
@pytest.mark.parametrize("restart", [False, True])
def test_with_record_and_shim_gone_a_started_job_is_lost_only_when_nothing_of_it_is_left(workplace, how, restart):
    job = workplace.shell(1, "echo ready; setsid sleep 1000 & sleep 1000")
    workplace.printed(job, "ready")
    started = workplace.started(job)
    zygote = workplace.launcher.pid
    _spoil(workplace, how)
    kill(started.shim.pid)
    assert died(started.shim.pid)
    if restart:
        workplace.reopen()
    workplace.perform(Look(job, 1, record.boot_id(), started.process, started.shim))
    assert workplace.observed(Exited, job) == []
    assert record.start_time(started.process.pid) == started.process.start
    workplace.stop(job, 0)
    assert workplace.ended(job).lost == "its record was damaged or removed, and its end was not seen"
    assert not [pid for pid in workplace.mine() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert restart or workplace.launcher.pid == zygote
    assert workplace.ended(workplace.launch(2, "true")).exit_code == 0


def test_a_job_that_stops_its_shim_ends_all_the_same(workplace):
    job = workplace.shell(1, "kill -STOP $PPID; exit 4")
    assert workplace.ended(job).exit_code == 4


def test_a_stopped_shim_takes_a_stop_even_when_its_launcher_process_is_stopped_too(workplace):
    job = workplace.shell(1, "echo ready; sleep 1000")
    workplace.printed(job, "ready")
    shim, zygote = workplace.started(job).shim.pid, workplace.launcher.pid
    kill(zygote, signal.SIGSTOP)
    workplace.until(lambda: b") T" in Path(f"/proc/{zygote}/stat").read_bytes())
    kill(shim, signal.SIGSTOP)
    workplace.until(lambda: b") T" in Path(f"/proc/{shim}/stat").read_bytes())
    workplace.stop(job)
    assert workplace.ended(job).signal == signal.SIGTERM
    kill(zygote, signal.SIGCONT)
