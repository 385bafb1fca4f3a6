"""A full disk: requests are refused in clear words, jobs go on, and what happened meanwhile is recorded afterwards."""

import os
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest
from cli.conftest import Gpuctl
from gpud_process import ROOT, lives, until

from gpuctl.errors import RefusedError

MOUNTS = 'mkdir -p "$0" && mount -t tmpfs -o size=20m,mode=700 none "$0" && echo mounted && exec sleep 1000000'


class SmallTmpfs:
    """A file system of 20 MB, in a mount namespace of its own that ends with the process which holds it."""

    def __init__(self, gpud):
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", MOUNTS, str(gpud.state)]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"mounted\n"
        self.state = Path(f"/proc/{self.holder.pid}/root{gpud.state}")
        self.ballast = self.state / "ballast"
        gpud.before = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", f"--wd={ROOT}"]

    def fill(self, *, reserve=True):
        """Fill it up; with what gpud has in `reserve` for itself."""
        for log in self.state.glob("*-wal") if reserve else ():
            os.truncate(log, log.stat().st_size)
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def clear(self):
        self.ballast.unlink()

    def close(self):
        self.holder.kill()
        self.holder.communicate()


class FileLimit:
    """No file of gpud's own may grow (EFBIG, as a quota says EDQUOT): for who may not mount."""

    def __init__(self, gpud):
        self.gpud = gpud

    def fill(self):
        subprocess.run(["prlimit", f"--pid={self.gpud.pid}", "--fsize=1:"], check=True)

    def clear(self):
        subprocess.run(["prlimit", f"--pid={self.gpud.pid}", "--fsize=unlimited:"], check=True)

    def close(self):
        pass


def of_a_disk(test):
    """Have a test run on a small disk alone: nothing can be reserved against a limit of files."""
    test = pytest.mark.parametrize("small", [SmallTmpfs], indirect=True)(test)
    return pytest.mark.skipif(os.getuid() != 0, reason="only root mounts one")(test)


@pytest.fixture(params=[SmallTmpfs, FileLimit] if os.getuid() == 0 else [FileLimit])
def small(request, a_gpud, tmp_path):
    """A gpud whose state is on a small disk, and that disk."""
    socket = f"{tmp_path}/gpud.sock"
    gpud = a_gpud("--simulate", "4xRTX4090", "--socket", socket, started=False)
    gpud.socket = socket
    with closing(request.param(gpud)) as disk:
        yield gpud.start(), disk
        gpud.close()


def refused(gpud, op, **fields):
    """Return what is said to a request that cannot be made durable."""
    with pytest.raises(RefusedError) as said:
        gpud.ask(op, **fields)
    assert said.value.code == "storage"
    return said.value


def a_job_that_waits(gpud, code, **fields):
    """Submit a job that ends with `code` when its FIFO is written to."""
    go = gpud.work / f"go{len(list(gpud.work.iterdir()))}"
    os.mkfifo(go)
    job = gpud.submit("sh", "-c", f"read line < {go}; exit {code}", output=f"{gpud.work}/%j.log", **fields)
    return gpud.running(job)["id"], go


def test_a_full_disk_costs_no_job_and_no_end(small):
    gpud, disk = small
    printed = [gpud.submit("true", hold=True) for _ in range(10)]
    ends, ends_now = a_job_that_waits(gpud, 4, gpus=1)
    lasts, goes_on = a_job_that_waits(gpud, 5, gpus=1)
    following = gpud.submit("sh", "-c", "exit 6", gpus=3, output=f"{gpud.work}/%j.log")
    ending, lasting = gpud.pids(ends)[0], gpud.pids(lasts)[0]

    disk.fill()

    said = refused(gpud, "submit", **gpud.request_of("true"))
    assert "cannot write to" in said.message
    assert said.hint == "make space on that disk; nothing was lost"
    assert gpud.ask("status")["storage"] == f"{said.message}; {said.hint}"
    doctor = Gpuctl(gpud)("doctor", "--socket", gpud.socket)
    assert doctor.returncode == 1
    assert f"problem  queue: {said.message}; {said.hint}" in doctor.stdout
    refused(gpud, "cancel", select={"jobs": [printed[0]]})
    ends_now.write_text("go\n")
    until(lambda: not lives(ending))
    refused(gpud, "submit", **gpud.request_of("true"))
    assert {row["id"] for row in gpud.ask("list")["jobs"]} == {*printed, ends, lasts, following}
    assert said.message in Gpuctl(gpud)("list", "--socket", gpud.socket).stderr
    assert gpud.ask("ping")["ok"]
    assert lives(lasting)

    disk.clear()

    assert gpud.ended(ends)["exit_code"] == 4
    assert gpud.ended(following)["exit_code"] == 6
    assert gpud.ask("cancel", select={"jobs": [printed[0]]})["changed"] == [printed[0]]
    assert gpud.job(lasts)["state"] == "running"
    assert gpud.ask("status")["storage"] is None
    goes_on.write_text("go\n")
    assert gpud.ended(lasts)["exit_code"] == 5
    later = gpud.submit("true", output=f"{gpud.work}/%j.log")
    assert gpud.ended(later)["exit_code"] == 0
    assert {row["id"] for row in gpud.ask("list", all=True)["jobs"]} == {*printed, ends, lasts, following, later}


@of_a_disk
def test_the_job_that_fills_the_disk_can_be_cancelled(small):
    gpud, disk = small
    job = a_job_that_waits(gpud, 0, gpus=1)[0]
    disk.fill(reserve=False)

    for _ in range(20):  # and so does much else
        gpud.ask("hold", select={"jobs": [gpud.submit("true", gpus=4)]})
    assert gpud.ask("cancel", select={"jobs": [job]})["changed"] == [job]

    assert gpud.ended(job)["state"] == "cancelled"
    assert gpud.ask("status")["storage"] is None


@of_a_disk
def test_a_restart_gives_nothing_of_the_reserve_to_who_fills_the_disk(small):
    gpud, disk = small
    job = a_job_that_waits(gpud, 0, gpus=1)[0]
    disk.fill(reserve=False)
    assert gpud.stop() == 0
    disk.fill(reserve=False)
    gpud.start()

    assert gpud.ask("cancel", select={"jobs": [job]})["changed"] == [job]

    assert gpud.ended(job)["state"] == "cancelled"
    assert gpud.ask("status")["storage"] is None


def test_an_end_on_a_full_disk_outlives_gpud(small):
    gpud, disk = small
    job, go = a_job_that_waits(gpud, 7)
    pid = gpud.pids(job)[0]
    disk.fill()
    go.write_text("go\n")
    until(lambda: not lives(pid))
    gpud.kill()
    gpud.start()
    assert gpud.job(job)["state"] in {"running", "failed"}  # the limit of files went with the gpud that had it
    if isinstance(disk, SmallTmpfs):
        assert gpud.job(job)["state"] == "running", "an end that is not durable was shown"
        disk.clear()
    assert gpud.ended(job)["exit_code"] == 7


def test_a_full_disk_costs_no_cpu(small):
    """What cannot be written is tried again now and then, not all the time."""
    gpud, disk = small
    go = a_job_that_waits(gpud, 0, gpus=4)[1]
    following = gpud.submit("true", gpus=4, output=f"{gpud.work}/%j.log")
    disk.fill()
    go.write_text("go\n")
    until(lambda: "cannot write to" in gpud.said() or isinstance(disk, FileLimit))
    before = cpu_s(gpud)
    again = gpud.ask("ping")["ok"] and os.times().elapsed
    until(lambda: os.times().elapsed > again + 1.5)
    assert cpu_s(gpud) - before < 0.5
    disk.clear()
    assert gpud.ended(following)["exit_code"] == 0
    if isinstance(disk, SmallTmpfs):  # the limit is on what gpud says, too
        until(lambda: "what is asked is kept again" in gpud.said())
        assert gpud.said().count("cannot write to") == 1


def cpu_s(gpud):
    """Return the CPU time that gpud has used."""
    fields = Path(f"/proc/{gpud.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
