"""Boxes for the tests of this folder, and what the README's commands need in them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from box import Box, lacking

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session", autouse=True)
def possible():
    """The one skip of this project: not every machine lets a test boot a systemd."""
    if lacking() is not None:
        pytest.skip(lacking())


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """What pip would fetch to install gpud; a box has no network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *wanted], check=True)
    folder.chmod(0o755)  # pip fetches for users, too
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def boot(tmp_path_factory, wheels):
    """Boots boxes with users alice and bob; they end with the module."""
    booted = []

    def one():
        folder = tmp_path_factory.mktemp("box")
        box = Box(folder, ROOT, wheels)
        booted.append((box, folder))
        box.run("for name in alice bob; do useradd -m -s /bin/bash $name; done; usermod -a -G video alice")
        return box

    yield one
    for box, folder in booted:
        box.close()
        shutil.rmtree(folder)
