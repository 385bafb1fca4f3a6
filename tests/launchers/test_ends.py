"""How a shim takes what seldom happens: the machine goes down, or its disk may only be read."""

import errno
import os
import signal

import pytest

from gpud.launchers import deadlines, record, shim
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


@pytest.mark.parametrize(("sender", "booted", "by_system"), [(1, True, True), (1, False, False), (7, True, False)])
def test_an_end_that_the_system_asked_for_is_told_as_such(monkeypatch, tmp_path, sender, booted, by_system):
    """A job of a machine that is shut down has not failed."""
    monkeypatch.setattr(deadlines, "_next_signal", lambda _: (signal.SIGTERM, sender))
    monkeypatch.setattr(deadlines, "_SYSTEMD", str(tmp_path if booted else tmp_path / "none"))
    asked = Deadlines(list, None, 0.0)
    asked.wait()
    assert asked.by_system is by_system

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
