"""A real gpud for a test: started, spoken to, killed, and gone afterwards with everything that it launched.

    def test_...(gpud):                    # on two simulated GPUs; or `a_gpud` to choose, or to have several
        job = gpud.submit("sh", "-c", "exit 3")
        assert gpud.ended(job)["exit_code"] == 3

Everything that a gpud of a test starts carries its folder in the environment; at the end nothing that carries it may
be left once its jobs are cancelled and it was told to go.
"""

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

from gpuctl.client import Client
from gpuctl.errors import GpuctlError, UnreachableError

ROOT = Path(__file__).parent.parent
WITHIN_S = 30.0  # far more than anything takes; a test that waits so long has failed
ENDS = {"completed", "failed", "cancelled", "timed_out", "lost"}
MARK = "TEST_OF_GPUD"


def until(condition, within_s=WITHIN_S):
    """Return what `condition` returns once that is true: for states of the world that nothing tells of."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.01)
    return found


def lives(pid):
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in b"ZX"
    except OSError:
        return False


def name_of(pid):
    """Return the name that a process bears; the launcher's processes give themselves theirs."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def parent_of(pid):
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def marked(folder):
    """Return every living process that a gpud of this folder started, itself included."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(entry.path, "environ").read_bytes().split(b"\0") and lives(entry.name):
                    found.append(int(entry.name))
    return found


class Gpud:
    """One state directory, and the gpud that serves it now, if one does."""

    def __init__(self, folder, *options, environment=None, before=(), warm=True):
        """Name the folder of everything; `before` is a command that gpud is run by, `environment` what it adds.

        With `warm=False` it is started as a Python of its own, with a command line and an environment to look at.
        """
        self.folder = folder
        self.options = options
        self.before = before
        self.warm = warm
        self.state = folder / "state"
        self.socket = str(self.state / "gpud.sock")
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GPUD_", "XDG_"))}
        self.own = {MARK: str(folder)}
        self.environment = {**kept, "HOME": str(folder), **self.own, **(environment or {})}
        self.handed = ()  # descriptors that it gets, for `before` to make use of
        self.process = None
        self.log = folder / "gpud.log"
        self._client = None

    @property
    def pid(self):
        """The pid of the gpud that serves now."""
        return self.process.pid

    def start(self, *, ready=True):
        """Start it; return once it says that it is ready, or ended."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self.log.open("ab") as log:
            name = f"gpud-test-{secrets.token_hex(8)}"
            notified.bind(f"\0{name}")
            self.process = self._process({**self.environment, "NOTIFY_SOCKET": f"@{name}"}, log)
            if ready:
                self._await_ready(notified)
        return self

    def _process(self, environment, log):
        words = ["--state-dir", str(self.state), *self.options]
        if self.warm and not self.before and not self.handed and warm.can_start(environment):
            with Path(os.devnull).open("rb") as nothing:
                return warm.start("gpud", words, env=environment, cwd=ROOT, files=(nothing, log, log))
        return subprocess.Popen(
            [*self.before, sys.executable, "-m", "gpud", *words],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=self.handed,
        )

    def _await_ready(self, notified):
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                told = select.select([notified, pidfd], [], [], WITHIN_S)[0]
                assert told, f"not ready after {WITHIN_S} s:\n{self.said()}"
                if notified in told:
                    if b"READY=1" in notified.recv(4096):
                        return
                elif pidfd in told:
                    raise AssertionError(f"gpud ended with {self.process.wait()}:\n{self.said()}")
        finally:
            os.close(pidfd)

    def said(self):
        """Return all that it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self):
        """kill -9."""
        self._hang_up()
        self.process.kill()
        self.process.wait(WITHIN_S)

    def stop(self):
        """End it as a service manager would; return its exit status."""
        self._hang_up()
        self.process.terminate()
        return self.process.wait(WITHIN_S)

    def _hang_up(self):
        if self._client is not None:
            self._client.close()
            self._client = None

    def restart(self):
        """End it, and start it anew."""
        self.stop()
        return self.start()

    def connect(self):
        """Return a connection of its own."""
        return Client(self.socket)

    def ask(self, op, **fields):
        """Return the reply to a request. Raises RefusedError."""
        if self._client is None:
            self._client = self.connect()
        return self._client.request(op, **fields)

    def request_of(self, *command, **fields):
        """Return the fields of a submit that runs this command."""
        inherited = ("PATH", "LANG")
        environment = {key: os.environ[key] for key in inherited if key in os.environ} | self.own
        request = {
            "nonce": secrets.token_hex(12),
            "demand": {"gpus": fields.pop("gpus", 0), **fields.pop("demand", {})},
            "command": [str(word) for word in command],
            "workdir": str(self.work),
            "environment": environment | fields.pop("env", {}),
            "umask": 0o022,
            "limits": {},
        }
        return request | fields

    def submit(self, *command, **fields):
        """Submit a CPU job (`gpus=N` for others) and return its id."""
        return self.ask("submit", **self.request_of(*command, **fields))["job"]

    def job(self, job):
        """Return a job as `show` tells it."""
        return self.ask("show", job=job)["job"]

    def when(self, job, condition, within_s=WITHIN_S):
        """Return the job once `condition` holds of it; looks again at each of its events."""
        deadline = time.monotonic() + within_s
        with self.connect() as client:
            client.request("subscribe", jobs=[job])
            while not condition(shown := client.request("show", job=job)["job"]):
                left = deadline - time.monotonic()
                if not client.has_pushed() and not (left > 0 and select.select([client], [], [], left)[0]):
                    raise AssertionError(f"never so: {shown}\n{self.said()[-3000:]}")
                try:
                    client.pushed(wait=False)
                except UnreachableError as error:
                    raise AssertionError(f"{error}\n{self.said()[-3000:]}") from error
        return shown

    def ended(self, job, within_s=WITHIN_S):
        """Return the job once it has ended."""
        return self.when(job, lambda shown: shown["state"] in ENDS, within_s)

    def running(self, job, within_s=WITHIN_S):
        """Return the job once it runs."""
        shown = self.when(job, lambda shown: shown["state"] == "running" or shown["state"] in ENDS, within_s)
        assert shown["state"] == "running", shown
        return shown

    def idle(self, within_s=WITHIN_S):
        """Wait until every job has ended; return all of them."""
        with self.connect() as client:
            client.request("subscribe")
            deadline = time.monotonic() + within_s
            while left := client.request("list", state=["held", "queued", "starting", "running", "stopping"])["jobs"]:
                rest = deadline - time.monotonic()
                if not client.has_pushed() and not (rest > 0 and select.select([client], [], [], rest)[0]):
                    raise AssertionError(f"still there: {left}\n{self.said()[-3000:]}")
                client.pushed(wait=False)
            return client.request("list", all=True, limit=10_000)["jobs"]

    def pids(self, job):
        """Return the pids of a running job's first process, of its shim, and of its launcher process."""
        pid = self.ask("show", job=job)["attempts"][-1]["pid"]
        shim = parent_of(pid)
        return pid, shim, parent_of(shim)

    def output(self, job):
        """Return what a job wrote to its log."""
        return Path(self.job(job)["output"]).read_text()

    def close(self):
        """Cancel what runs, end it, and return what is left of it although nothing should be."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(GpuctlError):
                states = ["held", "queued", "starting", "running", "stopping"]
                self.ask("pause")
                self.ask("cancel", select={"state": states}, force=True)
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        left = _lasting(self.folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def _lasting(folder):
    """Return the processes of a folder that do not end by themselves."""
    deadline = time.monotonic() + 5.0
    while (left := marked(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.fixture
def a_gpud(tmp_path):
    """Return a function that starts a gpud with these options, `--simulate 2xRTX4090` without any."""
    made = []

    def start(*options, started=True, **settings):
        gpud = Gpud(tmp_path / f"gpud{len(made)}", *(options or ("--simulate", "2xRTX4090")), **settings)
        made.append(gpud)
        return gpud.start() if started else gpud

    yield start
    left = {gpud: gpud.close() for gpud in made}
    words = {pid: _words(pid) for pids in left.values() for pid in pids}
    assert not words, f"left behind: {words}"


@pytest.fixture
def gpud(a_gpud):
    """Start a gpud on two simulated GPUs."""
    return a_gpud()


def _words(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "gone since"
