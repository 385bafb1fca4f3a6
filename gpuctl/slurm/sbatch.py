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
    said = [f"--{each.name}" if each.value is None else f"--{each.name}={each.value}" for each in options]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(_with(text, said), errors="surrogateescape")
        command = [sys.executable, "-I", "-c", _BEGIN, str(Path(__file__).parents[2]), "submit", str(path), *rest[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        parsable = any(each.name == "parsable" for each in options)
        sys.stdout.write(done.stdout if parsable else f"Submitted batch job {done.stdout}")
    return done.returncode


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
    lines = text.splitlines(keepends=True)
    last = max([each.line for each in directives(text)[0]], default=1)
    words = [f"#SBATCH {shlex.join(word for word in said if not word.startswith('--wrap'))}\n"]
    return "".join([*lines[:last], *words, *lines[last:]])
