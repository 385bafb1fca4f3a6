"""The wire, fuzzed by following the code: see `fuzz_wire`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_whatever_the_bytes_they_come_to_messages_or_to_an_error_that_is_told(tmp_path):
    pytest.importorskip("atheris", reason="pip install atheris")
    script = Path(__file__).with_name("fuzz_wire.py")
    words = [sys.executable, script, "-atheris_runs=500000", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1_100, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
