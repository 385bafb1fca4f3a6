"""A gpud that is stopped, that cannot start, that died: what people are told, and who starts it again."""

import os
import pty
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from gpud_process import until

from gpuctl import UnreachableError
from gpuctl.client import Client

DEADLINE_S = 30
SIMULATED = {"GPUD_SIMULATE": "1xT4"}
SCRIPT = "echo ready; while [ ! -e over ]; do sleep 0.05; done; exit 4"


def garbage(path):
    path.write_bytes(b"garbage" * 1000)


def newer(path):
    with sqlite3.connect(path) as database:
        database.executescript(f"PRAGMA application_id = {0x67707564}; PRAGMA user_version = 1000; CREATE TABLE x (y)")


@pytest.mark.parametrize(
    ("variables", "database", "said"),
    [
        ({"GPUD_POLICY": "fifoo"}, None, "unknown policy 'fifoo'"),
        ({"GPUD_AGING_PER_HOUR": "fast"}, None, "GPUD_AGING_PER_HOUR"),
        ({"GPUD_SIMULATE": "4xRTX409"}, None, "RTX4090"),
        ({}, garbage, "gpud.db is damaged"),
        ({}, newer, "written by a newer gpud"),
    ],
)
def test_doctor_says_what_keeps_gpud_from_starting(alone, variables, database, said):
    if database is not None:
        alone.state.mkdir(parents=True)
        database(alone.state / "gpud.db")
    done = alone("doctor", environ=variables)
    assert done.returncode == 1
    assert said in done.stdout


def test_doctor_finds_a_wrong_key_of_the_configuration(alone):
    config = alone.directory / "config.toml"
    config.write_text("polcy = 'fcfs'\n")
    done = alone("doctor", environ={"GPUD_CONFIG": str(config)})
    assert done.returncode == 1
    assert "unknown key 'polcy'" in done.stdout
    assert "did you mean 'policy'" in done.stdout


def test_a_wrong_configuration_is_told_at_a_reload_and_stops_no_gpud_at_a_restart(alone):
    config = alone.directory / "config.toml"
    config.write_text("aging_per_hour = 2\n")
    environ = SIMULATED | {"GPUD_CONFIG": str(config)}
    alone.ok("daemon", "start", environ=environ)
    pid = alone.json("daemon", "status")["pid"]
    config.write_text("aging_per_hour = 'fast'\n")
    for command in ("reload", "restart"):
        done = alone("daemon", command, environ=environ)
        assert (done.returncode, "aging_per_hour" in done.stderr) == (1, True), done.stderr
    assert alone.json("daemon", "status")["pid"] == pid


def test_who_looks_for_gpud_on_another_socket_is_told_at_once_where_it_is(alone):
    other = str(alone.directory / "other.sock")
    alone.ok("daemon", "start", "--socket", other, environ=SIMULATED)
    begun = time.monotonic()
    done = alone("list")
    assert (done.returncode, other in done.stderr) == (69, True), done.stderr
    assert time.monotonic() - begun < 15
    done = alone("daemon", "restart", environ={"GPUD_SOCKET": other})  # what could not be started is not stopped
    assert (done.returncode, "not yours to start" in done.stderr) == (1, True), done.stderr
    assert alone.json("--socket", other, "daemon", "stop")["stopped"] is True


def test_a_gpud_whose_pid_is_another_processs_here_is_sent_no_signal(alone):
    """As of one in a container; here of one behind somebody who passes its words on."""
    alone.ok("daemon", "start", environ=SIMULATED)
    before = alone.json("daemon", "status")["pid"]
    front = str(alone.directory / "front.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(front)
        listening.listen()
        threading.Thread(target=pass_on, args=(listening, str(alone.state / "gpud.sock")), daemon=True).start()
        for command in (("daemon", "stop"), ("daemon", "reload"), ("config", "set", "starvation", "12h")):
            done = alone("--socket", front, *command)
            assert (done.returncode, "runs in a container, or elsewhere" in done.stderr) == (1, True), done.stderr
        listening.shutdown(socket.SHUT_RDWR)
    assert alone.json("daemon", "status")["pid"] == before


def pass_on(listening, path):
    while True:
        try:
            asking, _ = listening.accept()
        except OSError:  # it was shut down
            return
        with asking, socket.socket(socket.AF_UNIX) as asked:
            asked.connect(path)
            while ready := select.select([asking, asked], [], [])[0]:
                said = ready[0].recv(65536)
                if not said:
                    break
                (asked if ready[0] is asking else asking).sendall(said)


def test_a_gpud_that_was_stopped_is_not_started_by_who_only_waits(alone):
    with alone.start("run", "-g", "0", "--", "sh", "-c", SCRIPT, environ=SIMULATED) as run:
        assert run.stdout.readline() == "ready\n"
        alone.ok("daemon", "stop")
        assert any("it was stopped" in line for line in run.stderr)
        (alone.directory / "over").touch()
        with pytest.raises(AssertionError, match="never true"):  # longer than a gpud that died would be waited for
            until(lambda: _answers(alone), within_s=6)
        alone.ok("daemon", "start", environ=SIMULATED)
        run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 4


def _answers(alone):
    try:
        with Client(str(alone.state / "gpud.sock")) as client:
            return client.request("status")["ok"]  # one that was killed may be listening yet
    except UnreachableError:
        return False


def test_watch_starts_a_gpud_again_that_was_killed_and_ends_with_q_while_it_waits(alone):
    alone.ok("daemon", "start", environ=SIMULATED)
    watch = Screen(alone, "watch")
    watch.until(b"T4")
    killed = alone.json("daemon", "status")["pid"]
    os.kill(killed, signal.SIGKILL)
    watch.until(b"waiting for it")
    until(lambda: _answers(alone))
    assert alone.json("daemon", "status")["pid"] != killed
    watch.until(b"T4")
    alone.ok("daemon", "stop")
    watch.until(b"it was stopped")
    os.write(watch.terminal, b"q")
    assert watch.end() == 0


class Screen:
    """A gpuctl on a terminal of its own, and what it drew there."""

    def __init__(self, gpuctl, *words):
        """Run it; `end` waits for its end."""
        self.terminal, its = pty.openpty()
        environ = gpuctl.environ | SIMULATED | {"TERM": "xterm"}
        command = [sys.executable, "-m", "gpuctl", *words]
        self.process = subprocess.Popen(
            command, env=environ, cwd=gpuctl.directory, stdin=its, stdout=its, stderr=its, start_new_session=True
        )
        os.close(its)

    def until(self, wanted):
        """Read until it drew this."""
        drawn, deadline = b"", time.monotonic() + DEADLINE_S
        while wanted not in drawn:
            ready = select.select([self.terminal], [], [], deadline - time.monotonic())[0]
            assert ready, drawn[-2000:]
            drawn += os.read(self.terminal, 65536)

    def end(self):
        """Return its exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:  # nobody has the terminal any more
                    break
            assert time.monotonic() < deadline
        os.close(self.terminal)
        return self.process.wait(DEADLINE_S)


def test_what_the_daemon_was_told_is_one_json_document(alone):
    started = alone.json("daemon", "start", "--simulate", "1xT4")
    pid = alone.json("daemon", "status")["pid"]
    assert started == {"pid": pid, "socket": str(alone.state / "gpud.sock"), "started": True}
    assert alone.json("daemon", "start")["started"] is False
    assert alone.json("daemon", "reload") == {"pid": pid, "reloaded": True}
    restarted = alone.json("daemon", "restart")
    assert restarted["stopped"] == pid != restarted["pid"]
    assert any("listens on" in line for line in alone.json("daemon", "logs")["lines"])
    assert alone.json("daemon", "stop") == {"pid": restarted["pid"], "stopped": True}
    assert alone.json("daemon", "stop") == {"pid": None, "stopped": False}
    assert "complete" in alone.json("completion", "bash")["script"]
