"""The examples in docs/examples.md do what they say: their files are written, their commands typed, in their order."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = (ROOT / "docs" / "examples.md").read_text()
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {title: text for title, _, text in (part.partition("\n") for part in EXAMPLES.split("\n## ")[1:])}

TORCH = """
import os, pickle, time

class Anything:
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self
    def __call__(self, *words, **named): return self
    def state_dict(self): return {"weights": 1}
    def load_state_dict(self, state): assert state == {"weights": 1}
    def backward(self): os.environ["GPUD_ATTEMPT"] == "1" and time.sleep(0.01)

nn = optim = Anything()
randn = nn

def save(state, path):
    with open(path, "wb") as file: pickle.dump(state, file)

def load(path):
    with open(path, "rb") as file: return pickle.load(file)
"""
# What the examples call, as far as this machine does not have it; each says what it was told.
TELLS = '#!/bin/sh\necho "$(basename "$0") $* port=$PET_MASTER_PORT gpus=$CUDA_VISIBLE_DEVICES"\n'


@pytest.fixture
def desk(gpuctl, tmp_path):
    """Return a function that types a command in the directory of the examples, where all their files are."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, content in {
        "gpuctl": f'#!/bin/sh\nexec "{sys.executable}" -m gpuctl "$@"\n',
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "torchrun": TELLS,
    }.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    (programs / "torch.py").write_text(TORCH)
    for text in SECTIONS.values():
        for language, name, content in BLOCK.findall(text):
            if language != "console":
                (gpuctl.directory / name).write_text(content)
    for name in ("train.py", "eval.py", "serve.py"):
        (gpuctl.directory / name).write_text("import sys\nprint(sys.argv)\n")
    gpuctl.environ |= {
        "PATH": f"{programs}:{gpuctl.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{programs}",
        "GPUD_SOCKET": f"{gpuctl.state}/gpud.sock",
        "STEPS": "3",
        "HOME": str(tmp_path / "home"),
    }

    def typed(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            env=gpuctl.environ,
            cwd=gpuctl.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    return typed


def commands(title: str) -> list[str]:
    """Return what is typed in a section."""
    blocks = [content for language, _, content in BLOCK.findall(SECTIONS[title]) if language == "console"]
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_every_command_of_every_example_does_what_it_says(gpuctl, desk):
    printed = {}
    for title in SECTIONS:
        printed[title] = [desk(line) for line in commands(title)]
        assert printed[title], title
        if title == "An array":
            gpuctl.ok("cancel", printed[title][0])  # the rest of its hundred would only take time

    (ddp,) = printed["PyTorch on two GPUs"]
    gpuctl.ok("wait", ddp)
    told = re.fullmatch(r"torchrun --nproc-per-node 2 ddp.py port=(\d+) gpus=0,1", gpuctl.ok("logs", ddp))
    assert told is not None
    assert int(told[1]) > 1024
    assert len(printed["A sweep"][1].split()) == 7
    assert printed["A sweep"][4] == ""
    understood, slurm = printed["A script written for Slurm"]
    assert "--gpus 2 --cpus 4 --name resnet --time-limit 12h" in understood
    (resume,) = printed["Stopped, and gone on"]
    gpuctl.ok("wait", slurm, resume)
    assert (gpuctl.directory / f"resnet-{slurm}.out").read_text().strip() == "['train.py', '--devices', '2']"
    kernels = [*Path(gpuctl.environ["HOME"]).rglob("kernel.json")]
    assert [path.parent.name for path in kernels] == ["gpud"]


def test_a_training_that_is_stopped_goes_on_where_it_was(gpuctl, desk):
    gpuctl.environ["STEPS"] = "20000"  # the first attempt would take minutes, the second takes none
    (line,) = commands("Stopped, and gone on")
    job = desk(line)
    deadline = time.monotonic() + 60
    while "step 2/20000" not in gpuctl("logs", job).stdout:
        assert time.monotonic() < deadline
    seen = gpuctl.json("show", job)
    assert (seen["progress"]["total"], seen["progress"]["told"]) == (20_000, False)

    gpuctl.ok("requeue", job)
    assert gpuctl("wait", job).returncode == 0

    ended = gpuctl.json("show", job)
    first, second = (Path(attempt["output"]).read_text() for attempt in ended["attempts"])
    saved = re.search(r"saved at step (\d+)\n$", first)
    assert saved is not None, first
    assert second.startswith(f"goes on at step {saved[1]}\nstep {int(saved[1]) + 1}/20000\n")
    assert second.endswith("step 20000/20000\n")
