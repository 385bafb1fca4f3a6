"""Words of the command line that mean quantities, moments, jobs and GPUs.

Checked here so that a typing mistake costs nothing: no daemon is started or asked for it.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any

import click

from gpuctl.errors import UsageError
from gpud.model.units import parse_duration, parse_size

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # generic since Click 8.5 only

COUNT_MAX = 1_000_000  # no machine has more of anything that is counted here
PRIORITY_MAX = 1_000_000
_COMMA = re.compile(r",(?![^\[]*\])")
_WHEN = ("success", "any", "failed")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
RETRIES_MAX = 1_000  # gpud takes no more
_GPUS_MOST = 1_024  # in one range
_JUST_NOW_S = 60.0  # ago: who writes such a time for a program takes a moment
_ENV_FILE_MOST = 4 << 20  # twice what execve(2) takes


class Parsed(_Type):
    """A word that a function understands, or refuses by ValueError with what it would have understood."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a word."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_count(text: str) -> int:
    """Return a number of things: 0 or more. Raises ValueError."""
    return _number(text, 0, COUNT_MAX, "more than any machine has")


def parse_gpus(text: str) -> int | float:
    """Return a number of GPUs, or a part of one (a float below 1). Raises ValueError."""
    whole, _, part = text.partition(".")
    if not (text.strip(".") and _digits(whole or "0") and _digits(part or "0")):
        raise ValueError(f"{text!r} is no number of GPUs; write 2, or 0.5 for a part of one")
    if not part.strip("0"):
        return parse_count(whole or "0")
    if whole.strip("0"):
        raise ValueError(f"{text} GPUs: of more than one only whole ones can be had; write 0.5, or 2")
    return max(0.001, min(0.999, round(float(text), 3)))


def parse_positive(text: str) -> int:
    """Return a number of things, 1 or more. Raises ValueError."""
    return _number(text, 1, COUNT_MAX, "more than any machine has")


def parse_retries(text: str) -> int:
    """Return how often a job may be started again. Raises ValueError."""
    return _number(text, 0, RETRIES_MAX, f"too often: at most {RETRIES_MAX}")


def parse_priority(text: str) -> int:
    """Return a priority. Raises ValueError."""
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12 and int(digits) <= PRIORITY_MAX):
        raise ValueError(f"{text!r} is not a whole number between -{PRIORITY_MAX} and {PRIORITY_MAX}")
    return int(text)


class BareSeconds(float):
    """A duration that was said as a number alone: of sbatch that would be minutes."""


class HoursAndMinutes(float):
    """A duration that was said as `30:00`: of sbatch that would be minutes and seconds."""


def parse_limit(text: str) -> float:
    """Return a time limit in seconds. Raises ValueError."""
    seconds = parse_duration(text)
    if text.count(":") == 1:
        return HoursAndMinutes(seconds)
    return BareSeconds(seconds) if text.strip().isdigit() else seconds


def parse_grace(text: str) -> float:
    """Return a duration that may be 0. Raises ValueError."""
    return 0.0 if text.strip() in ("0", "0s") else parse_duration(text)


def parse_job(text: str) -> str:
    """Return one job's id, `12` or `12_7`. Raises ValueError."""
    number, underscore, index = text.partition("_")
    if not (_digits(number) and (_digits(index) if underscore else True)):
        raise ValueError(f"{text!r} is no job id; write 12, or 12_7 for an array's element")
    return text


def is_one(text: str) -> bool:
    """Return whether a word names one job, array or element."""
    try:
        parse_job(text)
    except ValueError:
        return False
    return True


def parse_jobs(text: str) -> str:
    """Return jobs as gpud reads them: `12`, `12_7`, `12_3-9`, `12_[3-9]` or `3-9`; several apart by commas.

    Raises ValueError.
    """
    apart = apart_of(text)
    return text if len(apart) > 1 and all(map(_parse_jobs, apart)) else _parse_jobs(text)


def apart_of(text: str) -> list[str]:
    """Return the words of `1,2,12_[3,4]`, one by one."""
    return _COMMA.split(text)


def _parse_jobs(text: str) -> str:
    number, underscore, inner = text.partition("_")
    bracketed = inner[:1] == "[" and inner[-1:] == "]"
    spans = (inner[1:-1] if bracketed else inner) if underscore else number
    parts = [span.partition(":") for span in spans.split(",")]
    ranges = [span.split("-") for span, _, _ in parts]
    good = all(len(ends) <= 2 and all(_digits(end) for end in ends) for ends in ranges)
    good &= all(not colon or (_digits(step) and int(step) > 0) for _, colon, step in parts)
    if not good or (underscore and not _digits(number)) or ("," in text and not bracketed):
        raise ValueError(f"{text!r} is no job id; write 12, 12_7, 12_[3-9], or 3-9 for a range")
    return text


def parse_after(text: str) -> tuple[str, list[str]]:
    """Return how jobs must end, and which: `12,14`, `any:12`, `failed:12_3`; `singleton` names none.

    Raises ValueError.
    """
    if text == "singleton":
        return text, []
    when, colon, jobs = text.partition(":")
    if not colon or when not in _WHEN:
        when, jobs = "success", text
    words = [word.strip() for word in apart_of(jobs)]
    other = next((word for word in words if word.partition(":")[0] in _WHEN), None)
    if other is not None:
        raise ValueError(f"{other!r} ends another way; say it by itself: --after {other}")
    return when, [parse_jobs(word) for word in words]


def after_of(given: tuple[tuple[str, list[str]], ...]) -> dict[str, list[str]] | None:
    """Return the jobs to come after by how they must end, None for no jobs."""
    after: dict[str, list[str]] = {}
    for when, jobs in given:
        after.setdefault(when, []).extend(jobs)
    return after or None


def gpus_meant(words: Iterable[str]) -> list[str]:
    """Return one word for each GPU, or whatever else is named: `0,2` is two, `0-2` and `NODE:0-2` are three.

    Raises UsageError for a range that runs backwards, and for one of more GPUs than there are anywhere.
    """
    return [each for word in words for part in word.split(",") if part.strip() for each in _spread(part.strip())]


def _spread(word: str) -> Iterator[str]:
    node, colon, indices = word.rpartition(":")
    first, dash, last = indices.partition("-")
    if not dash or not all(each.isascii() and each.isdigit() and len(each) < 6 for each in (first, last)):
        yield word
        return
    if not 0 <= int(last) - int(first) < _GPUS_MOST:
        raise UsageError(f"{word!r} is no range of GPUs", hint=f"write 0-3 or NODE:0-3; {_GPUS_MOST} GPUs at most")
    yield from (f"{node}{colon}{index}" for index in range(int(first), int(last) + 1))


def parse_kinds(text: str) -> list[str]:
    """Return kinds of failures: `oom,exit:75`. Raises ValueError."""
    words = [word.strip() for word in text.replace("|", ",").split(",")]
    for word in words:
        if word not in ("failure", "oom", "lost") and not (word[:5] == "exit:" and _digits(word[5:])):
            raise ValueError(f"{word!r} is no kind of failure; write failure, oom, lost or exit:75")
    return words


def parse_checkpoint(text: str) -> tuple[int, float | None]:
    """Return a signal's number, and how long before the time limit it is sent: `USR1`, `USR1@5m`. Raises ValueError."""
    import signal  # noqa: PLC0415 - most jobs have none

    name, at, before = text.partition("@")
    number = getattr(signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}"), "value", None)
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 3 else number
    if number is None or not 0 < number < 32 or number in (signal.SIGKILL, signal.SIGSTOP):
        raise ValueError(f"{text!r} is no signal that a job can catch; write USR1, or USR1@5m")
    return number, parse_duration(before) if at else None


def checked_checkpoint(text: str) -> str:
    """Return the words of a checkpoint signal as they are. Raises ValueError."""
    parse_checkpoint(text)
    return text


def parse_time(text: str, *, past: bool = False, now: float | None = None) -> float:
    """Return a moment as seconds since 1970: `18:30`, `tomorrow 9:00`, `2026-05-01T18:30`, or `2h` from now.

    What has no zone is local; an hour alone is the next one, or, of the `past`, the last one. Raises ValueError.
    """
    now = time.time() if now is None else now
    if text == "now":
        return now
    try:
        away = parse_duration(text.removeprefix("now").removeprefix("-" if past else "+"))
    except ValueError as error:
        if "longer" in str(error):  # a duration, and no other time that could be meant
            raise
        away = None
    if away is not None and not _is_clock(text):
        return now - away if past else now + away
    from datetime import datetime, timedelta  # noqa: PLC0415 - most calls name no moment

    day, _, clock = text.partition(" ")
    days, clock = (_DAYS[day], clock or "00:00") if day in _DAYS else (None, text)
    try:
        if _is_clock(clock):
            hour, minute, second = ([int(part) for part in clock.split(":")] + [0])[:3]
            today = datetime.fromtimestamp(now)  # noqa: DTZ006 - the day that is meant may have another offset
            moment = today.replace(hour=hour, minute=minute, second=second, microsecond=0)
            if days is not None:
                moment += timedelta(days=days)
            elif past and moment.timestamp() > now:
                moment -= timedelta(days=1)
            elif not past and moment.timestamp() < now:
                moment += timedelta(days=1)
        else:
            moment = datetime.fromisoformat(text)
        return moment.timestamp()
    except (ValueError, OverflowError) as error:
        example = "2h (ago)" if past else "2h (from now)"
        raise ValueError(f"{text!r} is no time; write 18:30, 2026-05-01T18:30 or {example}") from error


def parse_begin(text: str) -> float:
    """Return a moment that is not past. Raises ValueError."""
    moment = parse_time(text)
    if moment < time.time() - _JUST_NOW_S:
        raise ValueError(f"{text!r} is past; name a time to come, or leave it out")
    return moment


def parse_since(text: str) -> float:
    """Return a moment that has been. Raises ValueError."""
    moment = parse_time(text, past=True)
    if moment > time.time():
        raise ValueError(f"{text!r} is still to come; name a time that has been")
    return moment


def parse_end(text: str, begin: float | None) -> float:
    """Return when something ends that begins then: an hour alone is the next one after that. Raises ValueError."""
    return parse_time(text, now=begin if _is_clock(text) else None)


def parse_label(text: str) -> tuple[str, str]:
    """Return the key and value of `K=V`. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is no label; write KEY=VALUE")
    return key, value


def parse_rule(text: str) -> list[tuple[str, str]]:
    """Return the events and the target of `[EVENT,...=]TARGET`. Raises ValueError."""
    from gpud.wire.notices import parse_rule as parse  # noqa: PLC0415 - submit has no time for what few ask for

    return parse(text)


def variables(words: tuple[str, ...], file: str | None) -> dict[str, str]:
    """Return what `--env-file` and then `-e` set: `K=V`, or `K` as it is here. Raises UsageError."""
    given: dict[str, str] = {}
    for where, word in _read_variables(file) if file is not None else ():
        key, value = _variable(word, f"{where}: ", "KEY=VALUE")
        given[key] = value
    return given | dict(_variable(word, "", "-e KEY=VALUE") for word in words)


def _variable(word: str, where: str, form: str) -> tuple[str, str]:
    """Return a variable's name and value, `where` and in which `form` it was written. Raises UsageError."""
    key, equals, value = word.partition("=")
    if not key or any(char.isspace() for char in key):
        form = f"{form}, or {form.removesuffix('=VALUE')} for its value here"
        raise UsageError(f"{where}{word!r} names no variable", hint=f"write {form}")
    if "\0" in word:
        raise UsageError(f"{where}the variable {key} holds a zero byte")
    if equals:
        return key, value
    here = os.environ.get(key)
    if here is None:
        file = form.startswith("-e") and ("." in key or "/" in key)  # which sbatch writes so
        hint = f"for errors in a file write --error {key}" if file else f"write {form.replace('KEY', key)}"
        raise UsageError(f"{where}the variable {key} is not set here", hint=hint)
    return key, here


def _read_variables(path: str) -> list[tuple[str, str]]:
    """Return the assignments of an env file, each with where it stands.

    One a line, `export` allowed, quotes around a value taken off.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_ENV_FILE_MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > _ENV_FILE_MOST:
        most = f"{_ENV_FILE_MOST >> 20} MiB, more than fits into an environment"
        raise UsageError(f"{path} has more than {most}", hint="name a file of lines KEY=VALUE: --env-file .env")
    words = []
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").strip().partition("=")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        words.append((f"{path}, line {number}", f"{key.rstrip()}{equals}{value}"))
    return words


def _number(text: str, least: int, most: int, too_many: str) -> int:
    digits = text.isascii() and text.isdigit()
    if not digits or (len(text) <= 12 and int(text) < least):
        raise ValueError(f"{text!r} is not a whole number of {least} or more")
    if len(text) > 12 or int(text) > most:
        raise ValueError(f"{text} is {too_many}")
    return int(text)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _is_clock(text: str) -> bool:
    parts = text.split(":")
    return len(parts) in (2, 3) and all(part.isascii() and part.isdigit() and len(part) <= 2 for part in parts)


COUNT = Parsed("N", parse_count)
GPUS = Parsed("N", parse_gpus)
AFTER = Parsed("JOBS", parse_after)
KINDS = Parsed("KINDS", parse_kinds)
RETRIES = Parsed("N", parse_retries)
POSITIVE = Parsed("N", parse_positive)
PRIORITY = Parsed("INT", parse_priority)
SIZE = Parsed("SIZE", parse_size)
DURATION = Parsed("DUR", parse_duration)
LIMIT = Parsed("DUR", parse_limit)
GRACE = Parsed("DUR", parse_grace)
OR_FOREVER = Parsed("DUR|forever", lambda text: inf if text.lower() == "forever" else parse_duration(text))
CHECKPOINT = Parsed("SIGNAL[@DUR]", checked_checkpoint)
TIME = Parsed("TIME", parse_time)
BEGIN = Parsed("TIME", parse_begin)
SINCE = Parsed("TIME", parse_since)
JOB = Parsed("JOB", parse_job)
JOBS = Parsed("JOB", parse_jobs)


def _apart(_context: click.Context, _argument: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for word in words for each in apart_of(word))


def jobs_argument(*, required: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the argument that names jobs, as many as one likes."""
    return click.argument("jobs", nargs=-1, type=JOBS, required=required, callback=_apart)


RULE = Parsed("[EVENT,...=]TARGET", parse_rule)
LABEL = Parsed("K=V", parse_label)
