"""Jobs with a terminal, used as people use them: at real pseudo terminals, with real keys."""

import re
import signal
import socket
import termios
import threading

import pytest
from cli.conftest import Gpuctl
from cli.typing_at import Person
from gpud_process import Gpud, lives, until

from gpuctl.client import Client
from gpuctl.errors import GpuctlError
from gpuctl.following import attaching, follower
from gpud.launchers.attached import _QUESTIONS, PIECE, STUCK_S, Attached


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve one gpud for all of these tests; each ends what it starts."""
    gpud = Gpud(tmp_path_factory.mktemp("terminals"), "--simulate", "2xRTX4090").start()
    yield gpud
    assert gpud.close() == []


@pytest.fixture
def gpuctl(served):
    """Serve a gpuctl for it."""
    return Gpuctl(served)


@pytest.fixture
def person(gpuctl):
    """Return a function that sits somebody at a terminal in which gpuctl runs."""
    there = []

    def sits_at(*words):
        there.append(Person(gpuctl, *words))
        return there[-1]

    yield sits_at
    for each in there:
        each.leaves()


def job_of(person):
    """Return the id that `run` says."""
    said = person.reads("gpuctl attach ")
    return re.findall(r"job (\d+)", said)[-1]


SHELL = ("run", "-g", "0", "--pty", "--", "bash", "--norc", "-i")


def test_a_shell_in_a_job_is_as_one_outside(person):
    at = person(*SHELL)
    at.reads("$ ")
    at.types("stty size\r")
    at.reads("30 100\r\n")
    at.resizes(20, 80)
    at.types("until [ \"$(stty size)\" = '20 80' ]; do sleep 0.05; done; echo as\\ small\r")
    at.reads("as small\r\n")
    at.types("sh -c 'trap \"echo go\\ on\" CONT; echo as\\ leep; while :; do read line; done'\r")
    at.reads("as leep\r\n")
    at.types("\x1a")
    at.reads("Stopped")
    at.reads("$ ")
    at.types("fg\r")
    at.reads("go on\r\n")
    at.types("\x03")
    at.reads("^C")
    at.reads("$ ")
    at.types("echo interrupted $?; exit 7\r")
    at.reads("interrupted 130")
    assert at.status() == 7


def test_the_terminal_is_left_as_it_was(person):
    at = person(*SHELL)
    before = at.modes
    at.reads("$ ")
    at.types("\x1cd")
    at.reads("left job")
    restored = termios.tcgetattr(at.keyboard)
    assert at.status() == 0
    assert restored[:4] == before[:4]


def test_who_leaves_comes_back_and_others_may_look_on(gpuctl, person):
    first = person(*SHELL)
    job = job_of(first)
    first.reads("$ ")
    first.types("printf 'as\\033[6nked\\n'; echo o$((40+2))o\r")
    first.reads("as\x1b[6nked")
    first.reads("o42o")
    first.types("\x1cd")
    assert first.status() == 0
    assert gpuctl.json("show", job)["state"] == "running"

    second, third = person("attach", job), person("attach", job)
    for each in (second, third):
        assert "\rasked\r\n" in each.reads("o42o")  # what was on the screen, and is not to be answered again
    second.types("echo b$((40+3))b\r")
    for each in (second, third):
        each.reads("b43b")
    third.types("exit 3\r")
    assert (second.status(), third.status()) == (3, 3)
    assert gpuctl.json("show", job)["exit_code"] == 3
    assert "as\x1b[6nked" in gpuctl.ok("logs", job)
    for words in ("logs", "attach"):
        person(words, job).reads("asked")


def test_what_is_typed_before_it_has_started_is_not_lost(person):
    at = person("run", "-g", "0", "--pty", "--", "cat")
    at.types("typed ahead\r")
    at.reads("typed ahead")
    at.reads("typed ahead")  # here, and there
    at.types("\x04")
    assert at.status() == 0


def test_a_long_paste_comes_through(person):
    at = person("run", "-g", "0", "--pty", "--", "cat")
    at.reads("gpuctl attach ")
    lines = [f"line {number} {'x' * 60}\r" for number in range(2000)]
    typing = threading.Thread(target=at.types, args=("".join(lines),))
    typing.start()
    at.reads("line 1999 ")
    at.reads("line 1999 ")  # what was typed, and what was printed
    typing.join()
    at.types("\x04")
    assert at.status() == 0


def test_a_job_whose_terminal_went_ends_after_a_while(gpuctl, person, served):
    at = person(*SHELL[:3], "--unattended", "1s", *SHELL[3:])
    job = job_of(at)
    at.reads("$ ")
    at.leaves()

    ended = served.ended(job)
    assert (ended["state"], ended["signal"]) == ("failed", signal.SIGHUP)
    assert "nobody attended this terminal for 1 seconds" in gpuctl.ok("logs", job)
    assert "  end        nobody attended this terminal for 1 seconds, and it was hung up" in gpuctl.ok("show", job)


def test_a_terminal_lives_through_the_death_of_gpud(person, served):
    at = person(*SHELL)
    at.reads("$ ")
    served.kill()
    at.types("echo still $((1+1))\r")
    at.reads("still 2")
    served.start()
    at.types("exit 4\r")

    assert at.status() == 4


def test_cancelling_a_shell_hangs_it_up(gpuctl, person, served):
    at = person(*SHELL)
    job = job_of(at)
    at.reads("$ ")
    gpuctl.ok("cancel", job)

    ended = served.ended(job)
    assert (ended["state"], ended["signal"]) == ("cancelled", signal.SIGHUP)  # not KILL, 30 s later
    assert at.status() == 128 + signal.SIGHUP


def test_ctrl_c_while_it_waits_cancels_it(gpuctl, person):
    holds = gpuctl.ok("submit", "-g", "2", "--", "sleep", "600")
    at = person("run", "--pty", "--", "bash")
    job = job_of(at)
    at.types("\x03")
    assert at.status() == 130
    assert gpuctl.json("show", job)["state"] == "cancelled"

    refused = gpuctl("run", "--immediate=0.1", "--", "true")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "cannot start within" in refused.stderr
    assert "waits for a GPU" in refused.stderr
    gpuctl.ok("cancel", holds)


@pytest.mark.parametrize("words", [("run", "--pty", "--", "bash"), ("run", "--unattended", "1h", "--", "true")])
def test_what_needs_a_terminal_says_so(gpuctl, words):
    done = gpuctl(*words)

    assert done.returncode == 125
    assert "hint" in done.stderr


def test_a_job_without_a_terminal_is_followed(gpuctl, person, served):
    job = gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", "echo it goes on; exec sleep 600")
    at = person("attach", job)
    at.reads("it goes on")
    at.types("\x03")
    at.reads("runs on")
    assert at.status() == 0

    assert gpuctl.json("show", job)["state"] == "running"
    with gpuctl.start("attach", job) as other:
        assert other.stdout.readline() == "it goes on\n"
        gpuctl.ok("signal", job, "TERM")
        assert other.wait(30) == 143
    assert served.job(job)["state"] == "failed"


def test_run_that_is_hung_up_says_how_to_come_back(gpuctl):
    for leaves in (lambda run: run.send_signal(signal.SIGHUP), lambda run: run.stdout.close()):  # `... | head`
        with gpuctl.start("run", "-g", "0", "--", "sh", "-c", "while echo here; do sleep 0.1; done") as run:
            assert run.stdout.readline() == "here\n"
            leaves(run)
            said = run.stderr.read()
        job = re.findall(r"gpuctl attach (\d+)", said)[0]
        assert gpuctl.json("show", job)["state"] == "running"
        gpuctl.ok("cancel", job)


def test_a_command_runs_inside_a_running_job(gpuctl, served):
    job = gpuctl.ok("submit", "-g", "1", "-C", "/usr", "-e", "WHOSE=mine", "--", "sleep", "600")
    served.running(job)
    said = "pwd; echo $WHOSE $GPUD_JOB_ID; echo no >&2; exit 5"
    done = gpuctl("exec", job, "--", "sh", "-c", said)
    assert (done.returncode, done.stdout, done.stderr) == (5, f"/usr\nmine {job}\n", "no\n")
    assert gpuctl.ok("exec", job, "cat", stdin="piped in") == "piped in"
    assert gpuctl("exec", job, "--", "sh", "-c", "kill -9 $$").returncode == 137
    more = gpuctl("exec", job, "--", "od", "-v", "-An", "-tx1", stdin="x" * 2_000_000)  # says more than it is told
    assert (more.returncode, more.stdout.count(" 78")) == (0, 2_000_000)
    nobody = gpuctl("exec", "999", "--", "true")
    assert (nobody.returncode, nobody.stderr.splitlines()[0]) == (125, "gpuctl: there is no job 999")
    assert f"gpuctl exec --pty {job} -- " in gpuctl("exec", job, "--pty", "sh").stderr
    missing = gpuctl("exec", job, "--", "no-such-program")
    assert (missing.returncode, "no such command" in missing.stderr) == (127, True)


def test_a_command_that_nobody_keeps_is_not_waited_for_for_ever(served, tmp_path):
    with Client(str(served.socket)) as client, pytest.raises(GpuctlError, match="nobody has come to listen"):
        attaching.connect(str(tmp_path / "nobody"), client, 0.1)


def test_a_command_in_a_job_may_have_a_terminal_and_ends_with_the_job(gpuctl, person, served):
    job = gpuctl.ok("submit", "-g", "0", "--", "sleep", "600")
    served.running(job)
    at = person("exec", job, "--", "sh", "-c", "stty size; echo of $GPUD_JOB_ID $$.; exec cat")
    at.reads("30 100")
    at.reads(f"of {job} ")
    shell = int(at.reads("."))
    gpuctl.ok("cancel", job)

    assert at.status() != 0
    until(lambda: not lives(shell))
    assert gpuctl("exec", job, "--", "true").returncode == 125


def test_both_sides_know_the_same_questions_to_a_terminal():
    assert follower._QUESTIONS == _QUESTIONS


def test_a_command_waits_for_who_reads_it_and_a_terminal_only_for_a_while():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        for leaves in (True, False):
            each = Attached(ours, leaves=leaves)
            for _ in range(100):
                each.say(b"o" * PIECE)
            assert each.flush()
            each.took_at -= STUCK_S
            assert (each.flush(), each.behind > 0) == (not leaves, True)


def test_who_leaves_a_command_ends_it(gpuctl, served):
    job = gpuctl.ok("submit", "-g", "0", "--", "sleep", "600")
    served.running(job)
    with gpuctl.start("exec", job, "--", "sh", "-c", "echo $$; exec sleep 600") as run:
        pid = int(run.stdout.readline())
        run.terminate()
        run.wait(30)
    until(lambda: not lives(pid))
    gpuctl.ok("cancel", job)
