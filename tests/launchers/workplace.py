"""A launcher at work, for tests: real processes in a directory of the test's own, waited for with deadlines."""

import asyncio
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpud.launchers import record, tree
from gpud.launchers.environment import additions
from gpud.launchers.local import LocalLauncher
from gpud.launchers.protocol import Fence, LaunchOrder
from gpud.model.effects import Forget, Interrupt, Launch, Look, Stop
from gpud.model.gpu import Allocation, GpuId, NodeName, Share
from gpud.model.job import Demand, Exit, JobId, format_job, job_id
from gpud.model.observations import Exited, Observation, Started
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Mib, Timestamp

DEADLINE_S = 20.0
OFFSET = 1_000_000.0
# A job whose processes do all they can to stay: one left the session, one daemonised with another environment.
TREE = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["sleep", "1000"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "1000"], {"MARK": sys.argv[1]})
    os._exit(0)
os.wait()
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""


def clock() -> Timestamp:
    return Timestamp(record.boot_time() + OFFSET)


class Workplace:
    """One state directory, and the launcher that works in it now."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.loop = asyncio.new_event_loop()
        self.seen: list[Observation] = []
        self.zygotes: list[int] = []
        self.launcher: LocalLauncher | None = None
        self.spec = JobSpec(
            nonce="n",
            terms=Terms(demand=Demand(), uid=os.getuid(), user="me", tenant="t"),
            name="train",
            command=("true",),
            workdir=str(state),
            environment=json.dumps({"PATH": os.environ["PATH"], "HOME": str(state)}).encode(),
            gid=os.getgid(),
            groups=(),
        )

    def open(self, **how: Any) -> "Workplace":
        self.launcher = LocalLauncher(str(self.state), clock=clock, **how)
        self.loop.run_until_complete(self.launcher.start(self.seen.append))
        self.zygotes.append(self.launcher.pid)
        return self

    def close(self) -> None:
        """gpud goes, as it does on SIGTERM."""
        if self.launcher is not None:
            self.loop.run_until_complete(self.launcher.close())
            self.launcher = None

    def reopen(self) -> None:
        """gpud goes and comes back, knowing nothing but its store."""
        self.close()
        self.seen.clear()
        self.open()

    def order(
        self,
        job: JobId,
        *,
        attempt: int = 1,
        leases: tuple[str, ...] = (),
        uid: int | None = None,
        fence: Fence | None = None,
        log_max: int | None = None,
        beside: str | None = None,
        private: bool = False,
        **spec: Any,
    ) -> LaunchOrder:
        limit, grace = spec.pop("time_limit_s", None), spec.pop("grace_s", 30.0)
        variables = spec.pop("environment", None)
        if variables is not None:
            spec["environment"] = json.dumps(variables).encode()
        terms = replace(self.spec.terms, demand=Demand(), time_limit_s=limit, grace_s=grace)
        return LaunchOrder(
            spec=replace(self.spec, terms=terms, **spec),
            log=str(self.log(job, attempt)),
            offset=OFFSET,
            env=additions(
                job=format_job(job),
                attempt=attempt,
                node="here",
                uuids=leases,
                indices=range(len(leases)),
                progress_file=f"{self.state}/progress/{format_job(job)}.{attempt}" if private else None,
                checkpoint_dir=f"{self.state}/checkpoints/{format_job(job)}" if private else None,
            ),
            leases=leases,
            script_dir=str(self.state / "scripts"),
            fence=fence,
            log_max=log_max,
            beside=beside,
            private=private,
            uid=uid,
            gid=uid,
        )

    def perform(self, effect: Any, order: LaunchOrder | None = None) -> None:
        async def on_the_loop() -> None:
            self.launcher.perform(effect, order)

        self.loop.run_until_complete(on_the_loop())

    def launch(
        self, number: int, *command: str, attempt: int = 1, shared: tuple[GpuId, ...] = (), **order: Any
    ) -> JobId:
        job = job_id(number)
        if shared:
            order["leases"] = shared
        made = self.order(job, attempt=attempt, command=command, **order)
        shares = tuple(Share(gpu=gpu, memory_mib=Mib(1024)) for gpu in shared)
        self.perform(Launch(job, attempt, Allocation(node=NodeName("here"), shares=shares)), made)
        return job

    def shell(self, number: int, script: str, **order: Any) -> JobId:
        return self.launch(number, "sh", "-c", script, **order)

    def look(self, job: JobId, attempt: int = 1, boot: str | None = None) -> None:
        self.perform(Look(job, attempt, boot or record.boot_id()))

    def stop(self, job: JobId, grace_s: float | None = None) -> None:
        self.perform(Stop(job, 1, grace_s))

    def interrupt(self, job: JobId) -> None:
        self.perform(Interrupt(job, 1))

    def forget(self, job: JobId, attempt: int = 1) -> None:
        self.perform(Forget(job, attempt))

    def until(self, there: Callable[[], Any], what: str = "it") -> Any:
        """Let the loop run until there is something, and return that."""

        async def wait() -> Any:
            deadline = time.monotonic() + DEADLINE_S
            while not (found := there()):
                assert time.monotonic() < deadline, f"{what} did not come; seen: {self.seen}"
                await asyncio.sleep(0.002)
            return found

        return self.loop.run_until_complete(wait())

    def observed(self, kind: type, job: JobId, attempt: int = 1) -> list[Any]:
        return [o for o in self.seen if isinstance(o, kind) and (o.job, o.attempt) == (job, attempt)]

    def started(self, job: JobId, attempt: int = 1) -> Started:
        return self.until(lambda: self.observed(Started, job, attempt), "the start")[0]

    def ended(self, job: JobId, attempt: int = 1) -> Exit:
        return self.until(lambda: self.observed(Exited, job, attempt), "the end")[0].exit

    def log(self, job: JobId, attempt: int = 1) -> Path:
        return self.state / "logs" / f"{format_job(job)}.{attempt}.log"

    def output(self, job: JobId) -> str:
        return self.log(job).read_text()

    def record(self, job: JobId, attempt: int = 1) -> record.Record | None:
        return record.read(f"{self.state}/records/{format_job(job)}.{attempt}")

    def printed(self, job: JobId, text: str) -> str:
        """Wait until a job has printed a text; return all of its output."""
        there = self.log(job)
        self.until(lambda: there.exists() and text in there.read_text(), repr(text))
        return there.read_text()

    def mine(self) -> list[int]:
        """Return the living processes that began in this workplace: its name is in their environment or arguments."""
        mark = os.fsencode(str(self.state))
        found = []
        for pid in tree.parents():
            with contextlib.suppress(OSError):
                if any(mark in Path(f"/proc/{pid}/{part}").read_bytes() for part in ("environ", "cmdline")):
                    found.append(pid)
        return [pid for pid in found if pid != os.getpid()]

    def clear(self) -> None:
        """End everything: gpud first, then every process, then see that the launcher processes ended too."""
        self.close()
        for pid in self.mine():
            kill(pid)
        for pid in self.zygotes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.loop.close()
        assert gone(self.mine)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def died(pid: int) -> bool:
    """Wait until a process is gone, as its pidfd tells; a zombie is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], DEADLINE_S)[0])
    finally:
        os.close(pidfd)


def gone(processes: Callable[[], list[int]]) -> bool:
    """Wait until there are no such processes, nor any that they forked meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        left = processes()
        if not left:
            return True
        if not all(died(pid) for pid in left):
            return False
    return False


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    try:
        yield made.open()
    finally:
        made.clear()


def delegate(name: str) -> Path | None:
    """Make a cgroup of the test's own, marked as systemd marks one; None where the machine does not let us."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            made = Path(mount.split()[4]) / name
            with contextlib.suppress(OSError):
                made.mkdir()
                os.setxattr(made, "trusted.delegate", b"1")
                return made
    return None


def undelegate(group: Path) -> None:
    """Remove a cgroup once the last of its processes is gone: a moment after it was reaped."""

    def processes() -> list[int]:
        return [int(pid) for procs in group.glob("**/cgroup.procs") for pid in procs.read_text().split()]

    assert gone(processes)
    for leaf in group.iterdir():
        if leaf.is_dir():
            leaf.rmdir()
    group.rmdir()


@pytest.fixture
def delegation() -> Iterator[Path | None]:
    """Give a cgroup for processes to be started in; None where the machine does not let us."""
    group = delegate(f"gpud-test-{os.getpid()}")
    yield group
    if group is not None:
        undelegate(group)


def within(group: Path) -> tuple[str, ...]:
    """Return words before a command that start it in a cgroup."""
    return "sh", "-c", f'echo 0 > {group}/cgroup.procs && exec "$@"', "sh"


@pytest.fixture
def delegated(tmp_path: Path) -> Iterator[tuple[Workplace, Path | None]]:
    """Give a workplace, and the cgroup that its launcher process may divide, if there is one."""
    group = delegate(f"gpud-test-{os.getpid()}")
    place = Workplace(tmp_path)
    home = None
    try:
        if group is not None:
            home = group.parent / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].split("\n")[0]
            (group / "cgroup.procs").write_text("0")
        place.open()
        if group is not None:
            (home / "cgroup.procs").write_text("0")
        yield place, group
    finally:
        place.clear()
        if group is not None:
            undelegate(group)
