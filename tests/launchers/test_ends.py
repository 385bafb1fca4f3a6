"""How a shim takes what seldom happens: the machine goes down, or its disk may only be read."""

import errno
import os
import shutil
import signal
import subprocess

import pytest

from gpud.launchers import deadlines, record, shim
from gpud.launchers.checkpoints import Checkpoints
from gpud.launchers.deadlines import Deadlines
from gpud.launchers.orders import exit_of

STARTED = {"state": record.CLAIMED, "boot": "b", "zygote": [1, 1], "shim": [2, 1], "pid": 3, "start": 1, "at": 1.0}
STARTED |= {"offset": 0.0, "grace_s": 0.0, "limit_at": None}


def a_shim(path):
    made = shim.Shim.__new__(shim.Shim)
    made.order = {"record": str(path), "offset": 0.0}
    made.lineage, made.record, made.file = {}, None, None
    path.write_bytes(record.encode(STARTED))
    return made


@pytest.mark.parametrize(("sender", "by_system"), [("systemd", True), ("gpud-shutdown", True), ("gpud", False)])
def test_an_end_that_the_system_asked_for_is_told_as_such(monkeypatch, tmp_path, sender, by_system):
    """A job of a machine that is shut down has not failed, and saves what it has."""
    shutil.copy(shutil.which("sleep"), tmp_path / sender)
    words = "trap 'echo saves; exit' USR1; trap 'echo ends; exit' TERM; echo; while :; do sleep 0.05; done"
    with (
        subprocess.Popen([tmp_path / sender, "60"]) as who,
        subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE, text=True) as job,
    ):
        job.stdout.readline()
        monkeypatch.setattr(deadlines, "_next_signal", lambda _: (signal.SIGTERM, who.pid))
        saves = Checkpoints([signal.SIGUSR1, None, None, "all"], job.pid)
        asked = Deadlines(lambda: [job.pid], None, 10.0, saves=saves)
        asked.wait()
        who.kill()
        assert (asked.by_system, job.stdout.read().strip()) == (by_system, "saves" if by_system else "ends")

    made = a_shim(tmp_path / "3.1")
    made._ended(3, -15, by_system=asked.by_system)
    os.close(made.file)
    told = exit_of(record.read(str(tmp_path / "3.1")))
    assert (told.signal, told.lost is not None) == (15, by_system)


def test_an_end_is_told_where_the_disk_may_only_be_read(monkeypatch, tmp_path):
    """Else the job would be running for ever, and could not be cancelled."""
    made = a_shim(tmp_path / "3.1")
    opened = os.open

    def read_only(path, flags, *mode, **how):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *mode, **how)

    monkeypatch.setattr(os, "open", read_only)
    made._ended(3, 5, by_system=False)
    assert made.file is None
    assert exit_of(made.record).exit_code == 5
