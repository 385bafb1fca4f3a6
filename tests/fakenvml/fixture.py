"""Fixtures that give a test its own NVIDIA driver: a real libnvidia-ml.so.1, steered by a file.

    def test_...(fake_nvml):
        fake_nvml.write(fake_gpu(0, used_mib=4_000, processes=["process 123 4000 compute"]))
        subprocess.Popen([sys.executable, "-m", "gpud", "--nvml-library", fake_nvml.library, ...],
                         env=os.environ | fake_nvml.environment)
        fake_nvml.write(fake_gpu(0, "lost"))     # while it runs

What a line may say stands at the top of fakenvml.c. A GPU line by itself is an idle RTX 4090.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fakenvml.c")


def fake_uuid(index: int) -> str:
    """Return the UUID that `fake_gpu` gives the GPU of this index."""
    return f"GPU-fa4e{index:04x}-0000-0000-0000-000000000000"


def fake_gpu(index: int, *lines: str, processes: tuple[str, ...] | list[str] = (), **values: object) -> str:
    """Return the lines of one GPU; `values` are lines of a word and a value: used_mib=4_000."""
    told = [f"gpu {fake_uuid(index)}", *(f"{key} {value}" for key, value in values.items()), *processes, *lines]
    return "\n".join(told) + "\n"


def fake_mig_uuid(index: int) -> str:
    """Return the UUID that `fake_instance` gives an instance."""
    return f"MIG-fa4e{index:04x}-0000-0000-0000-000000000000"


def fake_instance(index: int, profile: str, *lines: str, **values: object) -> str:
    """Return the lines of a MIG instance, to follow those of its GPU; it has 95 % of the memory in its profile."""
    mib = int(profile.rpartition(".")[2].removesuffix("gb")) * 973
    told = [f"instance {fake_mig_uuid(index)} {profile} {mib}", *(f"{key} {value}" for key, value in values.items())]
    return "\n".join([*told, *lines]) + "\n"


@dataclass
class FakeNvml:
    """A library, and the file that it answers from."""

    library: str
    config: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {"FAKENVML_CONFIG": str(self.config)}

    def write(self, *parts: str) -> None:
        """Let the library answer from these lines from now on."""
        new = self.config.with_suffix(".new")
        new.write_text("\n".join(parts) + "\n")
        new.replace(self.config)

    def unload(self) -> None:
        """Let there be no driver from now on: every nvmlInit says that it is not loaded."""
        self.config.unlink(missing_ok=True)


def compiler() -> list[str]:
    """Return the command of a C compiler: the machine's, else the one in the test extra."""
    own = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return [own] if own else [sys.executable, "-m", "ziglang", "cc"]


def build(folder: Path, *flags: str) -> Path:
    """Return the library, built with these flags, once per folder: the first worker builds, the others wait."""
    library = folder / f"libnvidia-ml{''.join(flags)}.so.1"
    with (folder / "fakenvml.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            made = library.with_suffix(".making")
            options = ["-shared", "-fPIC", "-O1", "-pthread", "-Wall", "-Wno-unused-parameter"]
            command = [*compiler(), *options, "-Wl,-soname,libnvidia-ml.so.1", *flags, "-o", str(made), str(SOURCE)]
            subprocess.run(command, check=True)
            made.replace(library)
    return library


@pytest.fixture(scope="session")
def fake_nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the library as of a new and of an old driver, once for all xdist workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return {"new": build(folder), "old": build(folder, "-DOLD_DRIVER")}


@pytest.fixture
def fake_nvml(tmp_path: Path, fake_nvml_libraries: dict[str, Path]) -> FakeNvml:
    """Give the test a library of its own, of a new driver, with two idle GPUs."""
    fake = FakeNvml(str(fake_nvml_libraries["new"]), tmp_path / "nvml.conf")
    fake.write(fake_gpu(0), fake_gpu(1))
    return fake


@pytest.fixture
def old_nvml(fake_nvml: FakeNvml, fake_nvml_libraries: dict[str, Path]) -> FakeNvml:
    """Give the test the library of a driver before R455: process lists of v1, no v2 memory, no MIG, no links."""
    fake_nvml.library = str(fake_nvml_libraries["old"])
    return fake_nvml


@pytest.fixture
def own():
    """Return a function that makes UUIDs of the fake's this test's own: leases are the whole machine's."""
    series = secrets.token_hex(4)
    return lambda text: text.replace("-fa4e", f"-{series}-")
