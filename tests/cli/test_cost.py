"""What a start of gpuctl costs: `submit` is called from loops, and by people who wait for their prompt."""

import shutil
import subprocess
import sys

import pytest

HEAVY = (
    *("rich", "asyncio", "dataclasses", "json", "pathlib", "subprocess", "importlib.metadata", "platformdirs"),
    *("psutil", "pynvml", "logging", "tempfile", "concurrent", "argparse", "sqlite3", "gpud.wire.messages"),
)
OF_CLICK = ("uuid", "datetime")  # it imports these itself; submit adds no use of them
LOADED = "import sys; from gpuctl.cli import cli; cli.main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"


def loaded_by(gpuctl, *words: str) -> set[str]:
    """Return the modules that a call of gpuctl has imported at its end, beside those of every Python here."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        env=gpuctl.environ,
        cwd=gpuctl.directory,
        check=True,
        capture_output=True,
        text=True,
    )
    bare = [sys.executable, "-c", "import sys; print(*sys.modules)"]  # with what an editable install adds to each start
    return set(done.stdout.splitlines()[-1].split()) - set(subprocess.check_output(bare, text=True).split())


def test_submit_imports_next_to_nothing(gpuctl):
    loaded = loaded_by(gpuctl, "submit", "--hold", "-g", "1", "--", "true")
    assert "gpuctl.commands.submit" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"]])
def test_help_imports_no_command_but_its_own(gpuctl, words):
    loaded = loaded_by(gpuctl, *words)
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("gpuctl.commands.")} <= {"gpuctl.commands.submit"}


@pytest.mark.parametrize("command", ["list", "show", "cancel", "wait", "logs", "run"])
def test_only_what_draws_imports_rich(gpuctl, command):
    assert "rich" not in loaded_by(gpuctl, command, "--help")


def instructions(gpuctl, *words: str) -> int:
    """Return how many instructions a Python program executes; the same at every run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, *words]
    environ = gpuctl.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environ, cwd=gpuctl.directory, check=True, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if "Collected" in line]
    return int(line.rpartition(":")[2])


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_submit_costs_at_most_six_and_a_half_empty_pythons(gpuctl, tmp_path, budgets):
    assert shutil.which("valgrind"), "needs valgrind"
    environ = {key: value for key, value in gpuctl.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    gpuctl.environ = environ | {"PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    subprocess.run([sys.executable, "-m", "gpuctl", "submit", "--hold", "--", "true"], env=gpuctl.environ, check=True)
    empty = instructions(gpuctl, "-c", "pass")
    submit = instructions(gpuctl, "-m", "gpuctl", "submit", "--hold", "--", "true")
    budgets.holds(
        "gpuctl submit, instructions",
        f"{submit / 1e6:.1f} M",
        f"python -c pass {empty / 1e6:.1f} M",
        submit / empty,
        most=6.5,
    )
