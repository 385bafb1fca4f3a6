"""What a job is to run, and where, as it looks from here: what submit finds out before it sends anything.

Without `--`, a first word is looked at once: a script (its `#!` line says how to run it) is read and sent.
"""

import os
import re
import stat
from typing import Any

import click

from gpuctl import session
from gpuctl.errors import GpuctlError, UsageError

SCRIPT_MAX = 4 * 1024 * 1024
PIPED = "/dev/stdin"  # what a script is called that came through a pipe
_SHELL_WORDS = ("&&", "||", "|", ";", ">", "<", "$(", "`")

_READ_STDIN = frozenset({"sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish", "python", "python3", "ipython"})
_SHELLS = _READ_STDIN | {"sbatch"}
_INTERPRETER = re.compile(rb"#![ \t]*([^ \t\n]+)(?:[ \t]+([^- \t\n=][^ \t\n=]*)(?=\s))?")


def here() -> str:
    """Return the current directory under the name that the shell has for it: links and mounts keep theirs."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samestat(os.stat(named), os.stat(".")):
            return named
    except OSError:
        pass
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError("the current directory is gone", hint="cd to another, or use -C DIR") from error


def repository(directory: str) -> str | None:
    """Return the top directory of the repository that this one is in; None where there is none."""
    there = os.path.lexists
    while directory != "/":
        if there(f"{directory}/.git"):
            return directory
        directory = directory.rpartition("/")[0] or "/"
    return None


def mount_of(directory: str) -> str | None:
    """Return where the file system is mounted that a directory is in, or would be; None for the root's.

    In front of it stands the number of the mount namespace that it is seen in: others, as a container's, have others.
    """
    place = os.path.realpath(directory)
    try:
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        while place != "/" and os.stat(os.path.dirname(place)).st_dev == device:
            place = os.path.dirname(place)
        return None if place == "/" else f"{os.stat('/proc/self/ns/mnt').st_ino} {place}"
    except OSError:
        return None


def in_path(word: str, path: str | None = None, workdir: str = ".") -> bool:
    """Return whether a shell here would find a program of this name; or one there, with that PATH."""
    folders = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
    paths = (os.path.join(workdir, folder, word) for folder in folders)
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)


def expect_program(request: dict[str, Any]) -> None:
    """Say that a job's program, or its script's interpreter, is not there; another job may make it, too."""
    word, *rest = request["command"]
    name, equals, _ = word.partition("=")
    needed = _interpreter(request["script"]) if "script" in request else word
    if _is_there(needed, request):
        if needed == word and not rest and "terminal" not in request and os.path.basename(word) in _READ_STDIN:
            instead = f"gpuctl run --pty {word}; for a script that is piped in: gpuctl submit -"
            session.note_once(f"{word} alone reads what to do from its stdin, and has none in a job: {instead}")
        return
    if needed.endswith("\r"):
        session.note_once(f"{word} has Windows line ends, and cannot start with them: sed -i 's/\\r$//' {word}")
    elif needed != word:
        session.note_once(f"there is no program {needed} now, which {word} names in its first line: it cannot start")
    elif equals and name.isidentifier():
        session.note_once(f"there is no program {word}: no shell is in between; a variable of the job is -e {word}")
    else:
        session.note_once(f"there is no program {word} now; without it, the job cannot start")


def _is_there(word: str, request: dict[str, Any]) -> bool:
    workdir = request["workdir"]
    if "/" in word:
        return os.path.exists(os.path.join(workdir, word))
    return in_path(word, request["environment"].get("PATH", os.defpath), workdir)


def _interpreter(script: bytes) -> str:
    """Return the program that a script's first line names; of `#!/usr/bin/env python3` the one that env looks for."""
    named = _INTERPRETER.match(script[:256])
    if named is None:
        return "/"
    program, of_env = (os.fsdecode(word or b"") for word in named.groups())
    return of_env if of_env and program.endswith("/env") else program


def expect_script(command: list[str]) -> None:
    """Say that a script's own options are not read where a shell is told to run it: `submit bash train.sbatch`."""
    program, script = os.path.basename(command[0]), (*command, "")[1]
    if program in _SHELLS and os.path.isfile(script) and os.access(script, os.R_OK):
        with open(script, "rb") as file:
            found = re.search(rb"^#(SBATCH|GPUCTL)\s", file.read(65_536), re.MULTILINE)
        if found is not None:
            kind = f"#{found[1].decode()}"
            session.note_once(f"the {kind} lines of {script} are not read behind {program}: gpuctl submit {script}")


def expect_beside(script: str, content: bytes) -> None:
    """Say that a script looks for files beside itself: it runs as a copy, which is elsewhere.

    Of one for sbatch nothing is said: there, too, it is a copy.
    """
    program = os.path.basename(_interpreter(content))
    sought = "" if script == PIPED or b"\n#SBATCH" in content else _sought_beside(script, content, program)
    if sought:
        itself = script if "/" in script else f"./{script}"
        run = itself if os.access(script, os.X_OK) else f"{program} {script}"
        session.note_once(
            f"a copy of {script} is run, elsewhere: what it looks for beside itself ({sought}) is not there;"
            f" to run it as it is then: gpuctl {_called()} -- {run}"
        )


def _sought_beside(script: str, content: bytes, program: str) -> str:
    """Return how a script comes to files beside it: the modules that it imports from there, `$0`; "" for not at all."""
    if program.startswith("python"):
        beside = os.path.join(os.path.dirname(script), "")
        names = set(re.findall(rb"^[ \t]*(?:from|import)[ \t]+(\w+)", content, re.MULTILINE))
        searched = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        if os.path.realpath(beside or ".") in map(os.path.realpath, searched):
            names = set()  # found all the same
        found = [name for name in sorted(map(os.fsdecode, names)) if _is_module(beside + name)]
        return ", ".join(found) or ("__file__" if b"__file__" in content else "")
    by_name = rb"\$\{?BASH_SOURCE|\$\{0[%:#]|(?:dirname|realpath|readlink -\w+)[\s\"']{1,3}\$\{?0\b"
    found_by = re.search(by_name, content)
    return "" if found_by is None else "$BASH_SOURCE" if found_by[0].endswith(b"E") else "$0"


def _is_module(path: str) -> bool:
    """Return whether that is a module, or a package; wandb/ and datasets/ beside a script mostly hold data."""
    try:
        return os.path.isfile(f"{path}.py") or any(name.endswith(".py") for name in os.listdir(path))
    except OSError:
        return False


def script_of(command: list[str], *, literal: bool) -> bytes | None:
    """Return the content of the script that a command's first word is; None for a program. Raises UsageError."""
    if not command:
        instead = "" if os.isatty(0) else f"; for a script that is piped in: gpuctl {_called()} -"
        raise UsageError("nothing to run", hint=f"write: gpuctl {_called()} -- python train.py{instead}")
    word = command[0]
    if not word.strip():
        raise UsageError("the command's first word is empty", hint=f"write: gpuctl {_called()} -- python train.py")
    if word == "-" and os.isatty(0):
        raise UsageError("- is a script that is piped in, and nothing is", hint=f"gpuctl {_called()} FILE")
    piped = word == "-" or (not literal and _is_pipe(word))
    if os.path.isdir(word) and ("/" in word or not in_path(word)):
        raise UsageError(f"{word} is a directory, no program", hint=f"write: gpuctl {_called()} -- python train.py")
    if not piped and (literal or ("/" not in word and in_path(word)) or not os.path.isfile(word)):
        if not literal:
            _refuse_shell(command)
        return None
    try:
        with open(0 if word == "-" else word, "rb", closefd=word != "-") as file:
            content = file.read(SCRIPT_MAX + 1).removeprefix(b"\xef\xbb\xbf")  # some editors begin so, programs never
    except OSError as error:
        if isinstance(error, PermissionError) and os.access(word, os.X_OK):
            return None  # a program that may be run, not read
        hint = f"to run it as it is then: gpuctl {_called()} -- {word}"
        raise GpuctlError(f"cannot read the script {word}: {error.strerror}", hint=hint) from error
    if piped:
        word = command[0] = PIPED
    if not content.startswith(b"#!"):
        if not piped and os.access(word, os.X_OK) and (content.startswith(b"\x7fELF") or b"\0" in content):
            return None
        options = any(line.startswith((b"#SBATCH", b"#GPUCTL")) for line in content.splitlines())
        hint = "write #!/bin/bash as its first line" if options or piped else _with_program(command)
        raise UsageError(f"{word} is neither a program nor a script: it does not begin with #!", hint=hint)
    if len(content) > SCRIPT_MAX:
        raise UsageError(
            f"the script {word} is larger than {SCRIPT_MAX >> 20} MiB", hint=f"gpuctl {_called()} -- {word}"
        )
    expect_beside(word, content)
    return content


def _is_pipe(word: str) -> bool:
    """Return whether that is a pipe, as `<(...)` of a shell is, or /dev/stdin behind one."""
    try:
        return stat.S_ISFIFO(os.stat(word).st_mode)
    except OSError:
        return False


def _called() -> str:
    """Return the name of the command that was called, `submit` or `run`, for its hints."""
    context = click.get_current_context(silent=True)
    return (context.info_name if context is not None else None) or "submit"


def _with_program(command: list[str]) -> str:
    program = {".py": "python", ".sh": "bash", ".R": "Rscript", ".jl": "julia"}.get(os.path.splitext(command[0])[1])
    return f"write: gpuctl {_called()} -- {program or 'PROGRAM'} {' '.join(command)}"


def _refuse_shell(command: list[str]) -> None:
    """Raise UsageError for what only a shell could run: `submit 'a && b'`."""
    word = command[0]
    if len(command) == 1 and " " in word.strip() and not os.path.exists(word):
        shell = any(sign in word for sign in _SHELL_WORDS)
        hint = f"write: gpuctl {_called()} -- bash -c '{word}'" if shell else f"write it without quotes: -- {word}"
        raise UsageError(f"{word!r} is no program: the words are run as they are, without a shell", hint=hint)
