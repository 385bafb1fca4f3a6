"""The Python of README and docs/python.md, run as it stands there."""

import os
import re
import subprocess
import sys

import pytest
from gpud_process import ROOT

SAID = {
    "README.md": [["GPU 0", "completed 0", "[120, 720]"]],
    "docs/python.md": [
        ["[0.0, 0.1, 0.2, 0.4]", "ValueError('seed 3 diverges') True", "job N failed: exit code 3"],
        ["[1, 2]"],
    ],
}


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("page", SAID)
def test_the_programs_of_a_page_say_what_they_should(page, tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU 0\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    programs = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)

    said = [
        said_by(program.replace("range(100)", "range(3)")) for program in programs
    ]  # what a hundred do three do, too

    assert said == SAID[page]


def said_by(program):
    """Return the lines that a program prints, without numbers of jobs."""
    text = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return re.sub(r"job \d+", "job N", text).splitlines()
