"""A gpud for who has none: started by the first gpuctl, once, and only where it is one's own to start."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
from gpud_process import until

from gpuctl import NotPermittedError, UnreachableError
from gpuctl.client import Client
from gpuctl.errors import GpuctlError
from gpuctl.following.waiting import exit_status, wait_for
from gpuctl.setup.starting import start_daemon
from gpud.wire.codec import Frames, pack

DEADLINE_S = 30


def test_the_first_command_starts_gpud_and_says_so(alone):
    done = alone("submit", "--", "true", environ={"GPUD_SIMULATE": "1xT4"})
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "started your own gpud" in done.stderr
    again = alone("submit", "--", "true")
    assert (again.returncode, again.stdout, again.stderr) == (0, "2\n", "")


def test_what_the_first_command_is_bound_to_binds_no_job(alone):
    one_cpu = str(min(os.sched_getaffinity(0)))
    bound = ["taskset", "-c", one_cpu, "nice", "-n", "5", sys.executable, "-m", "gpuctl", "submit", "--hold", "true"]
    environ = alone.environ | {"GPUD_SIMULATE": "1xT4"}
    done = subprocess.run(bound, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    looks = "import os; print(os.getpriority(os.PRIO_PROCESS, 0), *sorted(os.sched_getaffinity(0)))"
    nice, *cpus = map(int, alone.ok("run", "-g", "0", "--", sys.executable, "-c", looks).split())
    assert set(cpus) >= os.sched_getaffinity(0)
    assert nice == 0 or f"niceness, {nice}" in done.stderr  # only root takes it back
    pid = alone.json("daemon", "status")["pid"]
    told = alone.ok("daemon", "status")
    assert f"pid       {pid}, up " in told
    assert "None" not in told
    assert Path(f"/proc/{pid}/comm").read_text() == "gpud\n"  # and `pkill python` does not mean it


def test_two_at_once_start_one(alone):
    words, environ = ("submit", "--hold", "--", "true"), {"GPUD_SIMULATE": "1xT4"}
    with alone.start(*words, environ=environ) as one, alone.start(*words, environ=environ) as other:
        out = sorted(process.communicate(timeout=30)[0] for process in (one, other))
    assert (one.returncode, other.returncode) == (0, 0)
    assert out == ["1\n", "2\n"]


def test_when_the_gpud_that_had_the_directory_goes_without_an_answer_another_is_started(alone):
    alone.state.mkdir(parents=True)
    log = alone.state / "gpud.log"
    log.touch()
    with (alone.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as one does that is just being stopped
        with alone.start("submit", "--hold", "--", "true", environ={"GPUD_SIMULATE": "1xT4"}) as submit:
            until(lambda: "another gpud uses" in log.read_text())
            fcntl.flock(lock, fcntl.LOCK_UN)
            out, err = submit.communicate(timeout=DEADLINE_S)
    assert (submit.returncode, out) == (0, "1\n"), err
    assert len(alone.json("list")) == 1


def test_a_gpud_that_is_killed_while_it_starts_is_started_again(alone):
    with alone.start("submit", "--hold", "--", "true", environ={"GPUD_SIMULATE": "1xT4"}) as submit:
        [started] = until(psutil.Process(submit.pid).children)
        started.kill()
        out, err = submit.communicate(timeout=DEADLINE_S)
    assert (submit.returncode, out) == (0, "1\n"), err


def test_one_that_finds_the_directory_in_use_says_so_by_its_exit_status(alone):
    alone.state.mkdir(parents=True)
    with (alone.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [sys.executable, "-m", "gpud", "--simulate", "1xT4"]
        done = subprocess.run(words, env=alone.environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == os.EX_TEMPFAIL
    assert "another gpud uses" in done.stderr


def test_it_is_nobody_s_child_and_holds_no_terminal(alone):
    alone.ok("daemon", "start", "--simulate", "1xT4")
    pid = alone.json("daemon", "status")["pid"]
    assert os.getsid(pid) == pid
    assert {Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in (1, 2)} == {alone.state / "gpud.log"}
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


@contextmanager
def a_job_that_submits(alone):
    """Run a job that finds no gpud, and needs one; yield the job, the gpud that came, and the file to let it go on."""
    alone.ok("daemon", "start", "--simulate", "2xT4")
    gpud = alone.json("daemon", "status")
    submits = f"{sys.executable} -m gpuctl submit -g 1 -n inner -- sleep 1000"
    os.mkfifo(alone.directory / "go")
    job = alone.ok("submit", "-g", "0", "--", "sh", "-c", f"read go < go; {submits}; read go < go")
    until(lambda: alone.json("show", job)["state"] == "running")
    os.kill(gpud["pid"], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(gpud["pid"]))
    (alone.directory / "go").write_text("on\n")
    with Client(str(alone.state / "gpud.sock"), start=lambda: bool(until(lambda: answers(alone)))) as client:
        until(lambda: inner(client) == ["running"])
        yield job, client


def inner(client):
    return [row["state"] for row in client.request("list", name="inner")["jobs"]]


def answers(alone):
    with suppress(UnreachableError):
        return Client(str(alone.state / "gpud.sock"))
    return None


@pytest.mark.parametrize("end", ["its own", "cancelled"])
def test_a_gpud_that_a_job_needed_is_no_part_of_that_job(alone, end):
    with a_job_that_submits(alone) as (job, client):
        status = client.request("status")
        again, launcher = status["pid"], status["launcher"]["pid"]
        assert os.getsid(again) == again
        assert status["simulated"] == "2xT4"  # as it was started before
        if end == "its own":
            (alone.directory / "go").write_text("on\n")
        else:
            client.request("cancel", select={"jobs": [job]}, force=True)
        wait_for(client, [job], lambda _: None)

        status = client.request("status")
        assert (status["pid"], status["launcher"]["pid"]) == (again, launcher)
        assert inner(client) == ["running"]


def test_where_a_jobs_launcher_has_gone_it_starts_no_gpud_that_would_end_with_it(alone):
    alone.ok("daemon", "start", "--simulate", "2xT4")
    os.mkfifo(alone.directory / "go")
    submits = f"{sys.executable} -m gpuctl submit -- true"
    job = alone.ok("submit", "-g", "0", "--", "sh", "-c", f"read go < go; {submits}; echo $? > told")
    status = until(lambda: alone.json("show", job)["state"] == "running") and alone.json("daemon", "status")
    for pid in (status["pid"], status["launcher"]["pid"]):
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not psutil.pid_exists(pid))
    (alone.directory / "go").write_text("on\n")

    until(lambda: (alone.directory / "told").exists() and (alone.directory / "told").read_text())

    assert (alone.directory / "told").read_text() == "69\n"
    assert answers(alone) is None
    alone.ok("daemon", "start", "--simulate", "2xT4")
    assert "one that a job starts would end with it" in alone.ok("logs", job)


def test_it_is_stopped_and_restarted_with_the_options_it_had(alone):
    alone.ok("daemon", "start", "--simulate", "3xT4")
    first = alone.json("daemon", "status")
    job = alone.ok("submit", "-g", "1", "--", "sleep", "60")
    alone.ok("daemon", "restart")
    second = alone.json("daemon", "status")
    assert second["pid"] != first["pid"]
    assert second["simulated"] == "3xT4"
    assert alone.json("show", job)["state"] == "running"
    assert "runs already" in alone("daemon", "start").stderr
    alone.ok("daemon", "reload")
    assert "listens on" in alone.ok("daemon", "logs")
    alone.ok("cancel", job, "--force")
    alone("wait", job)
    alone.ok("daemon", "stop")
    assert alone("daemon", "status").returncode == 69
    assert "does not run" in alone("daemon", "stop").stderr


def test_one_that_cannot_start_says_why(alone):
    done = alone("list", environ={"GPUD_SIMULATE": "4xRTX409"})
    assert done.returncode == 69
    assert "RTX4090" in done.stderr
    wrong = alone("list", environ={"GPUD_POLICY": "fifoo"})
    assert "unknown policy 'fifoo'" in wrong.stderr
    assert "hint: there is: " in wrong.stderr
    assert "Traceback" not in done.stderr


def test_a_socket_that_was_named_is_nobody_s_to_start(alone):
    for words in (["--socket", "/nowhere/gpud.sock"], ["--socket", "relative.sock"]):
        done = alone(*words, "list")
        assert done.returncode == 69
        assert "does not answer" in done.stderr
    assert not (alone.state / "gpud.sock").exists()


def test_looking_for_it_starts_nothing(alone):
    assert alone("daemon", "status").returncode == 69
    assert alone("completion", "ids").stdout == ""
    assert alone("doctor").returncode == 0
    assert not alone.state.exists()


def test_a_state_directory_that_cannot_be_made_is_told(alone):
    done = alone("list", environ={"GPUD_STATE_DIR": "/proc/gpud"})
    assert done.returncode == 1
    assert "state directory /proc/gpud is not writable" in done.stderr
    assert "GPUD_STATE_DIR" in done.stderr
    assert alone("doctor", environ={"GPUD_STATE_DIR": "/proc/gpud"}).returncode == 1


def test_a_state_directory_may_be_named_from_where_one_stands(alone):
    environ = {"GPUD_STATE_DIR": os.path.relpath(alone.state, alone.directory), "GPUD_SIMULATE": "1xT4"}
    done = alone("submit", "--hold", "--", "true", environ=environ)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert [job["id"] for job in alone.json("list")] == ["1"]


def test_a_socket_path_that_is_too_long_is_told(alone):
    done = alone("--socket", f"/tmp/{'long/' * 30}gpud.sock", "list")
    assert done.returncode == 69
    assert "too long" in done.stderr


def test_a_state_directory_with_a_long_name_works(alone):
    environ = {"GPUD_STATE_DIR": f"{alone.state}/{'long/' * 20}", "GPUD_SIMULATE": "1xT4"}
    done = alone("submit", "--", "true", environ=environ)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert alone("daemon", "stop", environ=environ).returncode == 0


def test_no_permission_on_the_socket_is_told_apart(gpud):
    path = Path(gpud.socket)
    path.chmod(0)
    child = os.fork()
    if not child:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            Client(str(path))
        except NotPermittedError as error:
            os._exit(error.exit_status if "no permission" in error.message and error.hint else 1)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[list[dict]]:
    """Run a peer that hears one frame for each answer that it gives, a connection for each list of answers."""
    heard: list[dict] = []
    with socket.socket(socket.AF_UNIX) as listening:
        path.parent.mkdir(parents=True, exist_ok=True)
        listening.bind(str(path))
        listening.listen()
        pid = os.fork()
        if not pid:
            try:
                _answer(listening, answers)
            finally:
                os._exit(0)
        yield heard
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _answer(listening: socket.socket, answers: tuple[bytes, ...]) -> None:
    for answer in answers:
        connection, _ = listening.accept()
        frames = Frames()
        heard: list[dict] = []
        while len(heard) < 2 and (data := connection.recv(65536)):
            heard += frames.feed(data)
        connection.sendall(answer)
        connection.close()


WELCOME = pack({"protocol": 1, "version": "9", "pid": 1, "simulated": False, "system": False})


def test_a_gpud_of_another_protocol_says_what_to_upgrade(alone):
    error = {"code": "protocol", "message": "gpud speaks protocol 3 to 5"}
    with answering(alone.state / "gpud.sock", pack({"id": None, "ok": False, "error": error})):
        done = alone("list")
    (alone.state / "gpud.sock").unlink()
    assert done.returncode == 1
    assert "gpud speaks protocol 3 to 5" in done.stderr
    assert "upgrade" in done.stderr


def test_what_is_no_gpud_is_told(alone):
    with answering(alone.state / "gpud.sock", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        done = alone("list")
    (alone.state / "gpud.sock").unlink()
    assert done.returncode == 1
    assert "is no gpud" in done.stderr


def test_an_answer_that_was_lost_is_asked_for_again(alone):
    reply = WELCOME + pack({"id": 2, "ok": True, "job": "17"})
    with answering(alone.state / "gpud.sock", WELCOME, reply):
        done = alone("--socket", str(alone.state / "gpud.sock"), "submit", "--", "true")
    (alone.state / "gpud.sock").unlink()
    assert (done.returncode, done.stdout) == (0, "17\n")


def test_a_gpud_that_is_killed_again_and_again_is_asked_and_started_again(alone):
    path = alone.state / "gpud.sock"
    alone.state.mkdir(parents=True)
    with answering(path, WELCOME, WELCOME, WELCOME + pack({"id": 3, "ok": True, "job": "17"})):
        done = alone("--socket", str(path), "submit", "--", "true")
    path.unlink()
    assert (done.returncode, done.stdout) == (0, "17\n")

    starts = []

    def start():
        starts.append(len(starts))
        if len(starts) == 3:  # the first two were killed before they could be spoken to
            alone.ok("daemon", "start", "--simulate", "1xT4")
        return True

    with Client(str(path), start=start) as client:
        assert client.request("ping")["ok"]
    assert starts == [0, 1, 2]


def test_who_waits_and_who_follows_go_on_through_a_restart_and_a_kill(gpuctl, gpud):
    script = "echo ready; while [ ! -e over ]; do sleep 0.05; done; echo done; exit 4"
    job = gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", script)
    ends = []
    with gpuctl.start("logs", "-f", job) as logs, Client(gpud.socket) as client:
        waits = Thread(target=wait_for, args=(client, [job], ends.append))
        waits.start()
        assert logs.stdout.readline() == "ready\n"
        gpud.restart()
        assert "went away" in logs.stderr.readline()
        gpud.kill()
        gpud.start()
        (gpuctl.directory / "over").touch()
        assert logs.communicate(timeout=30)[0] == "done\n"
        waits.join(30)
    assert [exit_status(answer) for answer in ends] == [4]
    assert logs.returncode == 0


def test_who_follows_one_s_own_starts_it_again_when_it_was_killed(alone):
    simulated = {"GPUD_SIMULATE": "1xT4"}
    script = "echo ready; while [ ! -e over ]; do sleep 0.05; done; exit 4"
    with alone.start("run", "-g", "0", "--", "sh", "-c", script, environ=simulated) as run:
        assert run.stdout.readline() == "ready\n"
        killed = alone.json("daemon", "status")["pid"]
        with alone.start("wait", "1", environ=simulated) as wait:
            os.kill(killed, signal.SIGKILL)
            assert any("went away" in line for line in run.stderr)
            (alone.directory / "over").touch()
            run.communicate(timeout=DEADLINE_S)
            wait.communicate(timeout=DEADLINE_S)
    assert (run.returncode, wait.returncode) == (4, 4)
    assert alone.json("daemon", "status")["pid"] != killed


def test_doctor_says_that_there_is_no_driver_and_what_runs_without(alone):
    findings = {finding["check"]: finding for finding in alone.json("doctor")}
    assert findings["python"]["result"] == "ok"
    assert findings["state"]["result"] == "ok"
    assert findings["gpud"]["message"].startswith("does not run")


def test_the_demo_ends_as_expected_and_leaves_nothing(alone, tmp_path):
    done = alone("demo", environ={"TMPDIR": str(tmp_path), "GPUD_POLICY": "nonsense"})
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stderr
    assert "as expected" in done.stderr
    assert not list(tmp_path.glob("gpud-demo-*"))


def test_a_demo_that_is_ended_leaves_nothing(alone, tmp_path):
    with alone.start("demo", environ={"TMPDIR": str(tmp_path)}) as demo:
        while "prepare" not in demo.stderr.readline():
            assert demo.poll() is None
        demo.terminate()
        demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert not list(tmp_path.glob("gpud-demo-*"))


def test_by_sudo_no_queue_of_roots_is_begun_in_the_callers_home(tmp_path, monkeypatch):
    if os.getuid() == 0:
        os.chown(tmp_path, 4321, 4321)
    caller = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(caller))
    monkeypatch.delenv("GPUD_STATE_DIR", raising=False)
    with pytest.raises(GpuctlError, match=f"a queue of root's in user {caller}'s {tmp_path}") as refused:
        start_daemon(f"{tmp_path}/socket", state=f"{tmp_path}/.local/state/gpud")
    assert "leave sudo out" in refused.value.hint
    assert not (tmp_path / ".local").exists()
