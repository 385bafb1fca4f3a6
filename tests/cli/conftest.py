"""A gpuctl that is run as a person runs it: a process, with a terminal's environment, in some directory."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import warm

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

    def __call__(
        self, *words: str, environ: dict[str, str] | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run gpuctl to its end, with this piped in."""
        with ExitStack() as stack:
            piped, out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
            piped.write(stdin or "")
            piped.seek(0)
            files = piped if stdin is not None else stack.enter_context(Path(os.devnull).open()), out, err
            process = self._begin(words, self.environ | (environ or {}), files)
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()
                process.wait()
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(words, process.returncode, out.read(), err.read())

    def _begin(self, words: Sequence[str], environ: dict[str, str], files: Sequence[IO[str]]) -> Any:
        if warm.can_start(environ):
            return warm.start("gpuctl", words, env=environ, cwd=self.directory, files=files)
        command = [sys.executable, "-m", "gpuctl", *words]
        stdin, stdout, stderr = files
        return subprocess.Popen(command, env=environ, cwd=self.directory, stdin=stdin, stdout=stdout, stderr=stderr)

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
