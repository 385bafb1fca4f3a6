"""One gpud for all who only look at it, or change jobs of their own."""

import pytest
from gpud_process import Gpud


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Serve a gpud whose four GPUs are all taken, by jobs that run until the end; others can only wait."""
    gpud = Gpud(tmp_path_factory.mktemp("busy"), "--simulate", "4xRTX4090").start()
    for name in ("train-a", "train-b"):
        gpud.running(gpud.submit("sleep", "600", gpus=2, name=name))
    yield gpud
    assert gpud.close() == []
