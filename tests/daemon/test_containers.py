"""Containers end with the job that they were run by: those that it left are stopped, and nobody else's."""

import json
import os
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from gpud_process import until

from gpuctl.render.jobs import whole

RUNS = 'sleep 0.1; echo "$GPUD_DOCKER_ARGS" > args.new; mv args.new args; read line < go'  # no container runs sooner
OTHER_GPUD = {"gpud.of": "another"}


class Docker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A stand-in for docker's API, of which it has two calls: what runs with these labels, and stop this."""

    daemon_threads = True

    def __init__(self, path):
        self.path = str(path)
        super().__init__(self.path, Call)
        self.running = {}  # labels by name
        self.stopped = []
        self.askers = set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.stopping = threading.Event()
        self.fails = set()
        self.filters = True
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def run(self, name, words, **others):
        """Have a container run that was made with these words, but for some labels."""
        labels = [word.removeprefix("--label=").split("=") for word in words.split() if word.startswith("--label=")]
        self.running[name] = dict(labels) | others


class Call(BaseHTTPRequestHandler):
    """One request."""

    def setup(self):
        """Note who asks."""
        super().setup()
        raw = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.server.askers.add(struct.unpack("3i", raw)[1])

    def address_string(self):
        """Be silent of who it is: not an address."""
        return "unix"

    def log_message(self, *_):
        """Print nothing."""

    def answer(self, status, body=b""):
        """Answer, as docker does."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        """Tell what runs."""
        asked = urlsplit(self.path)
        assert asked.path == "/containers/json"
        (filters,) = parse_qs(asked.query)["filters"]
        wanted = {tuple(label.split("=")) for label in json.loads(filters)["label"]}
        assert {name for name, _ in wanted} == {"gpud.job", "gpud.attempt", "gpud.of"}
        found = [
            {"Id": f"id-{name}", "Names": [f"/{name}"], "Labels": labels}
            for name, labels in self.server.running.items()
            if not self.server.filters or wanted <= {*labels.items()}
        ]
        self.answer(200, json.dumps(found).encode() + b"\n")

    def do_POST(self):
        """Stop a container."""
        asked = urlsplit(self.path)
        name = asked.path.removeprefix("/containers/id-").removesuffix("/stop")
        assert asked.query == "t=10"
        self.server.stopping.set()
        self.server.may_answer.wait(30)
        if name in self.server.fails:
            self.answer(500, b'{"message":"no such driver"}')
            return
        del self.server.running[name]
        self.server.stopped.append(name)
        self.answer(204)


@pytest.fixture
def docker():
    """Start a stand-in; its path is short, as an address has to be."""
    folder = Path(tempfile.mkdtemp(prefix="gpud-d"))
    folder.chmod(0o755)
    with Docker(folder / "docker.sock") as server:
        yield server
        server.may_answer.set()
        server.shutdown()
    shutil.rmtree(folder)


def a_job(gpud, docker, script=RUNS, **fields):
    """Submit a job that reaches docker, and waits; return its id and what it is told to give docker."""
    if not (gpud.work / "go").exists():
        os.mkfifo(gpud.work / "go")
    job = gpud.submit("sh", "-c", script, env={"DOCKER_HOST": f"unix://{docker.path}"}, **fields)
    return job, words_of(gpud)


def words_of(gpud):
    """Return what the job that runs is told to give docker; it tells so once."""
    args = gpud.work / "args"
    until(args.exists)
    words = args.read_text()
    args.unlink()
    return words


def end(gpud):
    """Let the job end."""
    (gpud.work / "go").write_text("\n")


def told(gpud, job):
    """Return what its events tell of containers."""
    return [each["detail"] for each in gpud.ask("show", job=job)["events"] if each["kind"] == "containers"]


def test_what_a_job_left_in_docker_is_stopped_before_it_has_ended_and_nobody_elses(gpud, docker):
    docker.filters = False  # as a proxy that drops them
    job, words = a_job(gpud, docker)
    docker.run("trainer", words)
    docker.run("of-another-gpud", words, **OTHER_GPUD)
    docker.run("of-the-next-attempt", words, **{"gpud.attempt": "2"})
    docker.running["postgres"] = None
    docker.may_answer.clear()
    end(gpud)
    assert docker.stopping.wait(30)

    assert gpud.restart().job(job)["state"] == "running"  # its GPUs are in use
    docker.may_answer.set()

    assert gpud.ended(job)["state"] == "completed"
    assert docker.stopped == ["trainer"]
    assert [*docker.running] == ["of-another-gpud", "of-the-next-attempt", "postgres"]
    assert told(gpud, job) == [{"reason": "stopped 1 container: trainer", "attempt": 1}]
    assert "  containers stopped 1 container: trainer" in whole(gpud.ask("show", job=job))


def test_each_attempt_has_its_own_stopped_and_what_cannot_be_is_told(gpud, docker):
    docker.fails.add("stubborn")
    job, words = a_job(gpud, docker)
    docker.run("first", words)
    gpud.ask("requeue", select={"jobs": [job]})
    words = words_of(gpud)
    assert docker.stopped == ["first"]
    docker.run("second", words)
    docker.run("stubborn", words)
    gpud.ask("cancel", select={"jobs": [job]})

    assert gpud.ended(job)["state"] == "cancelled"
    assert docker.stopped == ["first", "second"]
    said = "could not stop 1 container: stubborn (docker answered 500); stopped 1 container: second"
    assert [each["reason"] for each in told(gpud, job)] == ["stopped 1 container: first", said]


def test_a_job_without_containers_ends_as_ever_and_where_nobody_looked_for_them_that_is_told(gpud, docker):
    job, _ = a_job(gpud, docker)
    end(gpud)
    assert gpud.ended(job)["state"] == "completed"
    assert docker.askers == {os.getuid()}
    docker.askers.clear()
    short = gpud.ended(gpud.submit("true", env={"DOCKER_HOST": f"unix://{docker.path}"}))
    assert bool(docker.askers) == (short["ended_at"] - short["started_at"] >= 0.1)
    orphan, _ = a_job(gpud, docker)
    os.kill(gpud.pids(orphan)[1], 9)
    end(gpud)
    assert gpud.ended(orphan)["state"] == "completed"
    assert [each["reason"] for each in told(gpud, orphan)] == [
        "its containers were not looked for: its shim was killed"
    ]
    silent, _ = a_job(gpud, docker)
    docker.shutdown()
    docker.socket.close()
    end(gpud)
    assert gpud.ended(silent)["state"] == "completed"
    assert told(gpud, job) == told(gpud, silent) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become others")
def test_docker_is_asked_as_the_jobs_user_and_only_one_that_this_user_may_ask(workplace, docker):
    user = 60_001
    for path in (workplace.state, *workplace.state.parents[:3]):
        path.chmod(0o755)
    (workplace.state / "logs").mkdir()
    os.chown(workplace.state / "logs", user, user)
    variables = {"PATH": "/bin:/usr/bin", "DOCKER_HOST": f"unix://{docker.path}"}

    def asked_by(number):
        job = workplace.shell(
            number, "sleep 0.2", environment=variables, private=True, uid=user, workdir="/", umask=0o22
        )
        assert workplace.ended(job).containers is None
        return docker.askers

    Path(docker.path).chmod(0o600)
    assert asked_by(1) == set()
    Path(docker.path).chmod(0o666)
    assert asked_by(2) == {user}
