"""A gpuctl that is run as a person runs it: a process, with a terminal's environment, in some directory."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30


class Gpuctl:
    """Runs gpuctl in a directory, for the gpud whose state is in another."""

    def __init__(self, gpud: Any) -> None:
        self.state: Path = gpud.state
        self.directory: Path = gpud.work
        own = {"GPUD_STATE_DIR": str(self.state), "GPUD_CONFIG": "/dev/null", "PYTHONPATH": str(ROOT)}
        self.environ: dict[str, str] = gpud.environment | own

    @contextmanager
    def start(
        self, *words: str, environ: dict[str, str] | None = None, stdin: Any = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Run gpuctl beside the test; it is gone afterwards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuctl", *words],
            env=self.environ | (environ or {}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def __call__(self, *words: str, stdin: str | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run gpuctl to its end, with this piped in."""
        with tempfile.TemporaryFile("w+") as piped:
            piped.write(stdin or "")
            piped.seek(0)
            with self.start(*words, stdin=None if stdin is None else piped, **settings) as process:
                out, err = process.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ok(self, *words: str, **settings: Any) -> str:
        """Run gpuctl, which must do as asked; return what it printed."""
        done = self(*words, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def json(self, *words: str) -> Any:
        """Return the JSON document that gpuctl prints."""
        return json.loads(self.ok("--json", *words))

    def ended(self, *words: str) -> dict[str, Any]:
        """Submit a CPU job, wait for its end, and return it."""
        job = self.ok("submit", "-g", "0", *words)
        self("wait", job)
        return self.json("show", job)


@pytest.fixture
def gpuctl(gpud: Any) -> Gpuctl:
    """Serve a gpuctl whose gpud runs, with two simulated GPUs."""
    return Gpuctl(gpud)


@pytest.fixture
def alone(a_gpud: Any) -> Iterator[Gpuctl]:
    """Serve a gpuctl with no gpud running; one that it starts is stopped at the end."""
    runner = Gpuctl(a_gpud(started=False))
    yield runner
    if (runner.state / "gpud.sock").exists():
        runner("cancel", "--mine", "--force")
        runner.ok("daemon", "stop")
