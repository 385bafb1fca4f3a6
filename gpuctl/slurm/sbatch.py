"""A small `sbatch` for jobs that queue others: its options go into a copy of the script, behind its own.

sbatch [OPTIONS] SCRIPT [ARGS]      sbatch --wrap COMMAND      sbatch < SCRIPT
"""

import itertools
import os
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
        sys.stderr.write(f"sbatch: error: {str(error).removeprefix('line 0: ')}\n")
        return 1
    names = {each.name for each in options}
    options = [each for each in options if each.name not in _OF_THE_CALL]
    said = [f"--{each.name}" if each.value is None else f"--{each.name}={each.value}" for each in options]
    dry = ["--dry-run"] if "test-only" in names else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(_with(text, said), errors="surrogateescape")
        done = _gpuctl("submit", *dry, str(path), *rest[1:], called=os.path.abspath(rest[0] if rest else name))
    if dry:
        sys.stderr.write(done.stdout)
    elif done.returncode == 0:
        sys.stdout.write(done.stdout if "parsable" in names else f"Submitted batch job {done.stdout}")
        sys.stdout.flush()
        if "wait" in names:
            return _gpuctl("wait", done.stdout.strip()).returncode
    return done.returncode


def _gpuctl(*words: str, called: str = "") -> subprocess.CompletedProcess[str]:
    """Run gpuctl; `called` is where the script is that it is given a copy of."""
    command = [sys.executable, "-I", "-c", _BEGIN, str(Path(__file__).parents[2]), *words]
    environ = os.environ | {"GPUD_STEP_SCRIPT": called}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environ)


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
    """Return a script with options behind its own, on the same line: what is said of a line is then true of both.

    Those of a job's first part are meant, where it has several.
    """
    lines = text.split("\n")
    words = [word for word in said if not word.startswith("--wrap")]
    own = itertools.takewhile(lambda each: each.words[:1] not in (["hetjob"], ["packjob"]), directives(text)[0])
    last = max((each for each in own if each.kind == "SBATCH"), default=None)
    if last is None:
        return "\n".join([lines[0], f"#SBATCH {shlex.join(words)}", *lines[1:]])
    lines[last.line - 1] = f"#SBATCH {shlex.join([*last.words, *words])}"
    return "\n".join(lines)
