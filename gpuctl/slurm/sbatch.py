"""A small `sbatch` for jobs that queue others: its options go into a copy of the script, as its last `#SBATCH` line.

sbatch [OPTIONS] SCRIPT [ARGS]      sbatch --wrap COMMAND      sbatch < SCRIPT
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from gpuctl.errors import UsageError
from gpuctl.slurm.lines import Option, directives, option_of

_OF_THE_CALL = frozenset({"parsable", "test-only", "wait"})  # not of the job
_BEGIN = "import sys; sys.path.append(sys.argv.pop(1)); from gpuctl.__main__ import main; main()"


def main(words: list[str]) -> int:
    """Queue a script through `gpuctl submit`; return the exit status."""
    rest, options = list(words), []
    if rest[:1] in (["--help"], ["-h"], ["--version"], ["-V"]):
        sys.stdout.write("sbatch of gpud: sbatch [OPTIONS] SCRIPT [ARGS]; sbatch --wrap COMMAND; sbatch < SCRIPT\n")
        return 0
    try:
        while rest and rest[0].startswith("-"):
            options.append(_known(option_of(0, rest)))
        name, text = _script(options, rest)
    except (UsageError, OSError) as error:
        sys.stderr.write(f"sbatch: error: {error}\n")
        return 1
    names = {each.name for each in options}
    options = [each for each in options if each.name not in _OF_THE_CALL]
    said = [f"--{each.name}" if each.value is None else f"--{each.name}={each.value}" for each in options]
    dry = ["--dry-run"] if "test-only" in names else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(_with(text, said), errors="surrogateescape")
        done = _gpuctl("submit", *dry, str(path), *rest[1:])
    if dry:
        sys.stderr.write(done.stdout)
    elif done.returncode == 0:
        sys.stdout.write(done.stdout if "parsable" in names else f"Submitted batch job {done.stdout}")
        sys.stdout.flush()
        if "wait" in names:
            return _gpuctl("wait", done.stdout.strip()).returncode
    return done.returncode


def _gpuctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", _BEGIN, str(Path(__file__).parents[2]), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def _known(option: Option | str) -> Option:
    """Return an option. Raises UsageError for an unknown one: it may have taken the script for its value."""
    if isinstance(option, str):
        raise UsageError(option.removesuffix("; left out"))
    return option


def _script(options: list[Option], rest: list[str]) -> tuple[str, str]:
    """Return the name and the text of what is to be run."""
    for option in options:
        if option.name == "wrap":
            return "wrap", f"#!/bin/sh\n#SBATCH\n{option.value}\n"
    if not rest:
        return "sbatch", sys.stdin.read()
    path = Path(rest[0])
    return path.name, path.read_text(errors="surrogateescape")


def _with(text: str, said: list[str]) -> str:
    """Return a script with a line of options behind those that it has."""
    lines = text.split("\n")
    last = max([each.line for each in directives(text)[0]], default=1)
    words = shlex.join(word for word in said if not word.startswith("--wrap"))
    return "\n".join([*lines[:last], f"#SBATCH {words}", *lines[last:]])
