"""gpud as systemd starts it: jobs belong to a launcher of its own unit, and never to gpud's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpud_process import until

# systemd says so by this variable, systemd.exec(5).
SERVICE = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
LAUNCHER = "import sys; from gpud.__main__ import launcher; launcher(sys.argv[1:])"


@pytest.fixture
def service(a_gpud):
    return a_gpud("--simulate", "2xA10", before=SERVICE, started=False)


@pytest.fixture
def launch(service):
    """Starts the launcher of the service, as gpud-launcher.service does."""
    made = []

    def start():
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, "--state-dir", str(service.state)], env=os.environ | service.own
            )
        )
        until((service.state / "launcher.sock").exists)
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


def test_a_service_starts_no_launcher_that_would_end_with_it(service):
    service.start(ready=False)

    assert service.process.wait(20) == 1
    assert "no launcher process listens" in service.said()
    assert "gpud-launcher" in service.said()


@pytest.mark.parametrize("folder", ["state", "a" * 60 + "/" + "b" * 60])
def test_jobs_are_its_launchers_and_outlive_that_too(service, launch, folder):
    service.state = service.folder / folder
    service.environment["GPUD_SOCKET"] = service.socket
    first = launch()
    service.start()
    os.mkfifo(service.work / "gate")
    job = service.submit("sh", "-c", "read status < gate; exit $status")
    service.running(job)
    parent = service.pids(job)[2]

    first.kill()
    first.wait()
    (service.state / "launcher.sock").unlink()
    second = launch()
    next_one = service.submit("sleep", "1000")
    service.running(next_one)
    (service.work / "gate").write_text("7\n")

    assert parent == first.pid
    assert service.pids(next_one)[2] == second.pid
    ended = service.ended(job)
    assert (ended["exit_code"], ended["attempt"]) == (7, 1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_runs_with_closed_streams_and_writes_no_messages_into_its_database(a_gpud, closed):
    gpud = a_gpud(before=("sh", "-c", f'exec "$@" {closed}', "sh"))
    assert gpud.ended(gpud.submit("sh", "-c", "ls -l /proc/self/fd; exit 3", gpus=1))["exit_code"] == 3
    files = [str(Path(f"/proc/{gpud.pid}/fd/{number}").readlink()) for number in range(3)]
    assert not [file for file in files if "gpud.db" in file or "socket" in file]
