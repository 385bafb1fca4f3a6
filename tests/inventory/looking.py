"""An inventory on the test's own NVIDIA driver, and what it tells."""

import queue
import subprocess
import sys
import time

import pytest
from fakenvml.fixture import fake_uuid

from gpud.inventory.nvidia import NvidiaInventory
from gpud.inventory.protocol import Inventory
from gpud.model.gpu import NodeName
from gpud.model.observations import GpuSeen, NodeSeen
from gpud.model.units import Timestamp

DEADLINE_S = 20.0
ZERO = fake_uuid(0)


class Looking:
    """A started inventory and what it posts."""

    def __init__(self, fake, **options):
        self.seen = queue.SimpleQueue()
        settings = {"rescan_s": 0.05, "deadline_s": 5.0, "library": fake.library, "node": NodeName("here")} | options
        self.inventory: Inventory = NvidiaInventory(clock=lambda: Timestamp(time.monotonic()), **settings)
        self.inventory.start(self.seen.put)

    def next(self):
        return self.seen.get(timeout=DEADLINE_S)

    def node(self, wanted=lambda _: True):
        """Return the next node that is as wanted."""
        while True:
            seen = self.next()
            if isinstance(seen, NodeSeen) and wanted(seen.node):
                return seen.node

    def reading(self, gpu=ZERO, wanted=lambda _: True):
        """Return the next reading of a GPU that is as wanted."""
        while True:
            seen = self.next()
            if isinstance(seen, GpuSeen) and seen.gpu == gpu and wanted(seen.reading):
                return seen.reading

    def look(self, gpu=ZERO):
        """Look now, and return what is seen from now on."""
        asked = time.monotonic()
        self.inventory.read([gpu])
        return self.reading(gpu, lambda reading: reading.at >= asked)

    def settled(self):
        """Wait until everything was looked at once."""
        unread = {gpu.id for gpu in self.node(lambda node: node.gpus).gpus}
        while unread:
            unread -= {self.next().gpu}
        return self


@pytest.fixture
def looking(fake_nvml, monkeypatch):
    """Return a function that starts an inventory on the test's library, all closed afterwards."""
    started = []

    def start(**options):
        monkeypatch.delitem(sys.modules, "pynvml", raising=False)  # it holds one library for a process's whole life
        monkeypatch.setenv("FAKENVML_CONFIG", str(fake_nvml.config))
        started.append(Looking(fake_nvml, **options))
        return started[-1]

    yield start
    for one in started:
        one.inventory.close()
    fake_nvml.write()  # lets a call go that hangs


@pytest.fixture
def sleeper():
    """Start a process that waits to be killed."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()
