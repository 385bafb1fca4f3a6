"""What the budgets are measured with: a job that costs next to nothing, and a disk that is slow and counts."""

import struct
import subprocess
from functools import partial
from pathlib import Path

import pytest
from fakenvml.fixture import compiler


def built(folder, name, *flags):
    """Return one of the C sources beside this file, compiled."""
    source = Path(__file__).with_name(name)
    target = folder / source.stem
    subprocess.run([*compiler(), "-O1", "-Wall", *flags, "-o", str(target), str(source)], check=True)
    return target


@pytest.fixture
def a_gpud(a_gpud):
    """Start each gpud as a Python of its own: what a start takes, and what a process holds, is all its own."""
    return partial(a_gpud, warm=False)


@pytest.fixture(scope="session")
def mark(tmp_path_factory):
    """Build the job that says when it started and ended; linked as `true` is, so that it costs what that does."""
    return built(tmp_path_factory.mktemp("mark"), "mark.c")


@pytest.fixture(scope="session")
def slowsync(tmp_path_factory):
    """Build the library that stands between SQLite and the disk."""
    return built(tmp_path_factory.mktemp("slowsync"), "slowsync.c", "-shared", "-fPIC", "-ldl")


class Disk:
    """A disk of which every sync is counted, and takes so much longer: `environment` puts a process on it."""

    def __init__(self, library, counter, slower_us):
        self._counter = counter
        counter.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "SLOWSYNC_US": str(slower_us), "SLOWSYNC_COUNT": str(counter)}

    @property
    def syncs(self):
        """How often anything was synced so far."""
        return struct.unpack("q", self._counter.read_bytes())[0]


@pytest.fixture
def a_disk(tmp_path, slowsync):
    """Return a function that makes a disk, slower by so many microseconds."""
    return lambda slower_us=0: Disk(slowsync, tmp_path / "syncs", slower_us)
