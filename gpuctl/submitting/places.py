"""Where a job is to run, as it looks from here: what submit finds out about a directory before it sends anything."""

import os
import re
from typing import Any

from gpuctl import session
from gpuctl.errors import UsageError

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "python", "python3", "sbatch"})
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
    word = request["command"][0]
    name, equals, _ = word.partition("=")
    needed = _interpreter(request["script"]) if "script" in request else word
    if _is_there(needed, request):
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
