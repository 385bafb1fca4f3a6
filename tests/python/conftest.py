"""A gpud that the tests of the Python interfaces share, found as a program finds its own: by the environment."""

import os

import pytest
from gpud_process import Gpud


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Serve one gpud with two simulated GPUs to all tests of a worker."""
    gpud = Gpud(tmp_path_factory.mktemp("shared") / "gpud", "--simulate", "2xRTX4090").start()
    yield gpud
    assert gpud.close() == []


@pytest.fixture
def ours(shared, monkeypatch):
    """Make the shared gpud this process's own, in a directory of its own."""
    environment = {**shared.own, "GPUD_STATE_DIR": str(shared.state), "GPUD_CONFIG": "/dev/null"}
    for name in [name for name in os.environ if name.startswith("GPUD_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(shared.work)
    yield shared
    assert list((shared.state / "calls").iterdir() if (shared.state / "calls").exists() else ()) == []
