"""Many jobs from one file: what `submit -f` reads, and how it is sent so that all are queued, or none.

jobs.txt has a job a line, as one would type it behind `gpuctl submit`; jobs.toml has [defaults] and [[job]] with the
same options by name. `{a,b}`, `{1..5}` and `{a..c}` outside quotes make a job of each, of several every combination.
"""

import hashlib
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.core import ParameterSource

from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.submitting import places, submission
from gpuctl.submitting.braces import MOST, check_closed, expanded
from gpud.wire.codec import pack

Request = dict[str, Any]

_PART = 1_000  # jobs of one message: gpud answers others in between
_PARTS_MOST = 30  # gpud takes 32 together
_PART_BYTES = 8 << 20
_TRIES = 4
_FILE_MOST = 256 << 20  # a million long lines
_KEY_MOST = 1_000
_QUOTED = str.maketrans("{},.", "\ue000\ue001\ue002\ue003")
_PLAIN = str.maketrans("\ue000\ue001\ue002\ue003", "{},.")
_SHELL = re.compile(r"&&|\|\|?|;|&|\d?>>?|<|\d>&\d|\$\{?\w+.*")
_TOML = re.compile(r"^\s*\[\[\s*job\s*\]\]", re.MULTILINE)  # however the file is called, and from a pipe
_MANY = ("label", "env", "after", "node_label", "retry_on", "notify")


def read(path: str, context: click.Context) -> list[Request]:
    """Return the requests of a file's jobs, in order, each with `where` it stands. Raises UsageError for the first bad.

    What was given beside the file, in `context`, holds for every job that does not say otherwise.
    """
    jobs = _Jobs(context)
    made: list[Request] = []
    for where, words in _lines(path):
        if len(made) == MOST:
            raise UsageError(f"{where}: more than {MOST:,} jobs cannot be submitted at once", hint="or: --array")
        try:
            made.append(jobs.request(words) | {"where": where})
        except (click.UsageError, GpuctlError) as error:
            message = error.format_message() if isinstance(error, click.UsageError) else error.message
            raise UsageError(f"{where}: {message}", hint=getattr(error, "hint", None)) from error
    if not made:
        hint = "write one a line: -g 1 -- python train.py --lr {0.1,0.01}"
        raise UsageError(f"{_called(path)} holds no jobs", hint=hint)
    return made


def send(client: Client, jobs: Sequence[Request], *, dry_run: bool) -> dict[str, Any]:
    """Have all of these queued in one commit; return gpud's reply. Raises RefusedError when it takes none."""
    parts = list(_parts(jobs))
    nonce, retry = submission.new_nonce(), False
    for left in reversed(range(_TRIES)):
        try:
            for number, part in enumerate(parts):
                more = number < len(parts) - 1
                reply = client.request(
                    "submit_many", nonce=nonce, part=number, more=more, retry=retry, dry_run=dry_run, **part
                )
        except ConnectionLostError:
            if not left:
                raise
            client.come_back()
            retry = True
        else:
            return reply
    raise AssertionError(parts)


class _Jobs:
    """Makes requests of words. Options that many lines have in common are understood once."""

    def __init__(self, context: click.Context) -> None:
        self.context = context
        self.known: dict[tuple[str, ...], tuple[dict[str, Any], bool, Request]] = {}
        self.lengths: set[int] = set()  # of those
        self.expected: set[tuple[tuple[str, ...], str]] = set()  # options, and a program that was looked for with them
        self.keys: Counter[str] = Counter()

    def request(self, words: list[str]) -> Request:
        """Return the request that these words behind `gpuctl submit` make. Raises UsageError."""
        options, command = self._split(words)
        given, literal, base = self.known[options]
        if not command:
            raise UsageError("nothing to run", hint="write the command behind the options: -g 1 -- python train.py")
        content = places.script_of(command, literal=literal)
        if content is None:
            request = {**base, "command": command}
            if (options, command[0]) not in self.expected:
                self.expected.add((options, command[0]))
                places.expect_program(request)
        else:
            request = submission.asked(given | {"command": command}, literal=literal)[0]
        if self.context.params["dry_run"]:
            from gpuctl.submitting import understanding  # noqa: PLC0415 - only a dry run tells

            request["typed"] = understanding.written(self.context.command, given | {"command": command, "file": None})
        if "group" in request and "key" not in request:
            key = key_of([*given["env"], *command])
            self.keys[key] += 1  # the same line twice is two jobs, also when the file is submitted again
            request["key"] = key if self.keys[key] == 1 else f"{key} #{self.keys[key]}"
        return request

    def _split(self, words: list[str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the options in front, and the command."""
        for length in self.lengths:
            options = tuple(words[:length])
            rest = words[length : length + 1]
            if options in self.known and rest and (options[-1:] == ("--",) or not rest[0].startswith("-")):
                return options, words[length:]
        line = self.context.command.make_context("submit", list(words), parent=self.context.parent)
        for name in ("file", "dry_run"):
            if line.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is for all of the file", hint="leave it out of the line")
        command = list(line.params["command"])
        options = tuple(words[: len(words) - len(command)])
        given, literal = self._given(line), bool(line.meta["gpuctl.literal"])
        base = submission.asked(given | {"command": ["true"]}, literal=True)[0]
        if "name" in base and given["name"] is None:
            del base["name"]
        self.known[options] = (given, literal, base)
        self.lengths.add(len(options))
        return options, command

    def _given(self, line: click.Context) -> dict[str, Any]:
        """Return what holds for a line: what it says itself, else what was given beside the file."""
        outer = self.context
        said = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        given = dict(line.params)
        for name, value in outer.params.items():
            if name in _MANY:
                given[name] = (*value, *given[name])
            elif outer.get_parameter_source(name) in said and line.get_parameter_source(name) not in said:
                given[name] = value
        return given


def key_of(command: Sequence[str]) -> str:
    """Return what tells a job from the others of its group where nobody says: its command, and variables of its own."""
    key = "".join(char if char.isprintable() else "?" for char in shlex.join(command))
    if len(key) <= _KEY_MOST - 10 and key == shlex.join(command):
        return key
    return f"{key[: _KEY_MOST - 70]}... {hashlib.sha256(repr(command).encode()).hexdigest()}"


def _lines(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every job of a file, with where it stands."""
    called = _called(path)
    try:
        if path == "-":
            text = sys.stdin.read(_FILE_MOST + 1)
        else:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(_FILE_MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {called}: {error.strerror}") from error
    if len(text) > _FILE_MOST:
        raise UsageError(f"{called} has more than {_FILE_MOST >> 20} MiB", hint="submit it in parts")
    text = text.removeprefix("\ufeff")  # which editors of Windows put there
    if "\0" in text:
        raise UsageError(f"{called} is no text in UTF-8", hint="save it as UTF-8")
    if path.endswith(".toml") or _TOML.search(text):
        from gpuctl.submitting import sweeps_toml  # noqa: PLC0415 - most files are lines

        yield from sweeps_toml.jobs(text, called)
        return
    for number, line in _joined(text):
        where = f"{called}:{number}"
        try:
            words = words_of(line)
        except ValueError as error:
            raise UsageError(f"{where}: {str(error).lower()}", hint="quotes come in pairs") from error
        try:
            check_closed(words)
            for each in expanded(words) if words else ():
                yield where, [word.translate(_PLAIN) for word in each]
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from error


def words_of(line: str) -> list[str]:
    """Return a line's words as a shell has them, quoted braces put aside. Raises ValueError for an open quote."""
    kept, quote, at = [], "", 0
    while at < len(line):
        char = line[at]
        if char == "\\" and quote != "'":
            kept.append(char + line[at + 1 : at + 2].translate(_QUOTED))
            at += 2
            continue
        if not quote and char == "#" and (at == 0 or line[at - 1].isspace()):
            break
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        kept.append(char.translate(_QUOTED) if quote else char)
        at += 1
    return shlex.split("".join(kept))


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, those that end in a backslash together with the next."""
    before, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        whole = before + line
        if line.endswith("\\") and not line.endswith("\\\\"):
            before, began = whole[:-1], began or number
            continue
        yield began or number, whole
        before, began = "", 0
    if before:
        yield began, before


def _called(path: str) -> str:
    return "stdin" if path == "-" else path


def _parts(jobs: Sequence[Request]) -> Iterator[Request]:
    """Yield messages with as many jobs as have room, what they have in common said once in each."""
    part: Request = {}
    size, scripts, most = 0, dict[bytes, int](), max(_PART, -(-len(jobs) // _PARTS_MOST))
    for job in jobs:
        own = dict(job)
        environment, umask, limits = own.pop("environment"), own.pop("umask"), own.pop("limits")
        own.pop("typed", None)
        fits = part and size < _PART_BYTES and len(part["jobs"]) < most
        if not fits or not environment.keys() >= part["environment"].keys():
            if part:
                yield part
            part = {"environment": environment, "umask": umask, "limits": limits, "jobs": [], "scripts": []}
            size, scripts = 0, {}
        if "script" in own:
            content = own["script"]
            if content not in scripts:
                scripts[content] = len(part["scripts"])
                part["scripts"].append(content)
                size += len(content)
            own["script"] = scripts[content]
        variables = {name: value for name, value in environment.items() if part["environment"].get(name) != value}
        if variables:
            own["variables"] = variables
        part["jobs"].append(own)
        size += len(pack(own))
    if part:
        yield part


def understood(jobs: Sequence[Request], reply: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what became of each job, for programs; `there`: the state of one that was there already.

    Of one that was not queued `request` is what was understood, less what a shell gives every job.
    """
    there = reply["there"]
    hidden = ("environment", "limits", "umask", "script", "where", "typed")
    return [
        {
            "id": job,
            "where": request["where"],
            "command": request["command"],
            "group": request.get("group"),
            "key": request.get("key"),
            "there": there.get(job),
            **({} if job else {"request": {key: value for key, value in request.items() if key not in hidden}}),
        }
        for request, job in zip(jobs, reply["jobs"], strict=True)
    ]


def line(job: Request) -> str:
    """Return a job of a dry run as one could type it."""
    return shlex.join(job["typed"])


def unexpanded(jobs: Sequence[Request]) -> str | None:
    """Return what to tell of the first command that looks as if a shell were to read it; of a shell's own, nothing."""
    for job in jobs:
        odd = next((word for word in job["command"] if _SHELL.fullmatch(word)), None)
        if odd is not None and "-c" not in job["command"]:
            words = f"{job['where']}: {odd} goes to the command as it is: there is no shell in between"
            return f"{words}; to have one, write: bash -c '...'"
    return None


def said(reply: dict[str, Any], *, dry_run: bool) -> str:
    """Return in words how many were queued, and which were there already."""
    found, there = reply["jobs"], reply["there"]
    states = [there[job] for job in found if job in there]
    new = len(found) - len(states)
    held = reply.get("held", 0)
    queued = ", ".join([f"{new - held} queued"] * (new > held or not held) + [f"{held} held"] * bool(held))
    words = [f"a dry run: {new} would be queued" if dry_run else queued]
    if states:
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        listed = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items())
        words.append(f"already there: {listed}")
    words += [f"of array {job} elements {done} have completed before" for job, done in reply.get("done", {}).items()]
    return "; ".join(words)
