"""How far one's running jobs are: told by themselves in a file of theirs, else recognised at the end of their logs.

gpud opens no path that a user chose, so gpuctl reads both, as the user whose they are. What was recognised says so.
A file on a server that does not answer holds up nobody: what was not read in time is not shown.
"""

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

Job = dict[str, Any]
Progress = dict[str, Any]

_MOST = 100  # jobs whose files are read for one listing
_PATIENCE_S = 0.3  # for all of them
_TAIL, _TOLD = 4096, 1024  # bytes
_LINES = 24
_EARLY, _EARLY_S = 0.1, 10.0  # what is said at its very beginning, often of a step that begins, foretells no end
_BAR = re.compile(r"(\d+)%\|[^|]*\| *([\d.]+)([kMG]?)/([\d.]+)([kMG]?) \[[\d:?]+<([\d:?]+)")  # as tqdm draws it
_WORDED = re.compile(r"\b(epoch|step|iteration|iter|batch|round)s?\b[ :=#\[(]*(\d+) ?(?:/|of) ?(\d+)\b", re.IGNORECASE)
_BRACKETED = re.compile(r"[\[(] *(\d+) ?/ ?(\d+) *[\])]")
_STEPS = re.compile(r"^ *(\d+)/(\d+) [\[━]")  # as Keras draws them
_EPOCH = re.compile(r"\bepoch\b(?:\(\w+\))?[ :=#\[(]*(\d+)", re.IGNORECASE)  # MMEngine: Epoch(train) [3][200/1000]
_DRAWN = re.compile(r"━ +(\d+)% ")  # as Rich draws it
_ULTRALYTICS = re.compile(r"^ *(\d+/\d+) +[\d.]+G ")  # an epoch and the GPU's memory, before tqdm's bar of the epoch
_BAR_OF_EPOCHS = re.compile(r"\bepochs?\b[^\d|]*\d+%\|[^|]*\| *(\d+/\d+) \[.*", re.IGNORECASE)  # around bars of batches
_ASIDE = re.compile(r"\s*(?:Sanity Checking|Validati(?:on|ng))\b.*%\|")  # Lightning: short, and within an epoch
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BEGINS = re.compile(r"\b(?:start|begin)", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_RULES = " \t:.,;=*#|-_─━)]"  # what a heading is adorned with
_MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def add(jobs: Sequence[Job], socket: str) -> None:
    """Give each job of the gpud at an address a `progress`: `done total message told remaining_s ends_first`, or None.

    It is known of one's own jobs that run on this machine; `told` is False where it was recognised in the log, and
    `ends_first` True where its time limit comes before what remains is done.
    """
    found: dict[int, Progress | None] = {}
    own = [job for job in jobs if job.get("progress_file") and job["uid"] == os.getuid() and job["started_at"]]
    if own and "://" not in socket:
        # In a thread: a dead file server holds up who reads, and whoever waits for them.
        reader = threading.Thread(target=_read_all, args=(own[-_MOST:], found), daemon=True)
        reader.start()
        reader.join(_PATIENCE_S)
    for job in jobs:
        job["progress"] = found.get(id(job))


def _read_all(jobs: Sequence[Job], found: dict[int, Progress | None]) -> None:
    for job in jobs:
        told = _of(job)
        if told is not None:
            left_s = limit_left_s(job, time.time())
            told["ends_first"] = None not in (left_s, told["remaining_s"]) and told["remaining_s"] > left_s
        found[id(job)] = told


def limit_left_s(job: Job, now: float) -> float | None:
    """Return how long a job that runs has until its time limit, None where it has none."""
    return None if job["time_limit_s"] is None else max(0.0, job["started_at"] + job["time_limit_s"] - now)


def _of(job: Job) -> Progress | None:
    now = time.time()
    raw, changed_at = _end_of(job["progress_file"], _TOLD)
    told = parse(raw) if raw else None
    if told is not None:
        return told | {"told": True, "remaining_s": _remaining(told, changed_at - job["started_at"], now - changed_at)}
    raw, changed_at = _end_of(job["output"], _TAIL) if job.get("output") else ("", now)
    seen = recognise(raw) if changed_at >= job["started_at"] else None
    if seen is not None and seen["remaining_s"] is None and not within_epoch(seen):
        seen["remaining_s"] = _remaining(seen, changed_at - job["started_at"], now - changed_at)
    return None if seen is None else seen | {"told": False}


def parse(text: str) -> Progress | None:
    """Return what a job told: `40/100`, `0.4` or `40%`, and perhaps a message behind it; None where it is neither."""
    word, _, message = text.strip().partition(" ")
    first, slash, second = _THOUSANDS.sub("", word).partition("/")
    done, total = _number(first.removesuffix("%")), _number(second) if slash else None
    if done is None or (slash and not total):
        return None
    if not slash:
        total = 100.0 if first.endswith("%") else 1.0
    if total is None or not done <= total:
        return None
    message = "".join(char if char.isprintable() else " " for char in message.splitlines()[0]) if message else ""
    return {"done": done, "total": total, "message": message.strip()[:200] or None}


def recognise(tail: str) -> Progress | None:
    """Return how far a log's last lines say that a job is: its epochs before anything else, which is within one.

    A line that only names an epoch stands at its beginning, one that says more (its loss) at its end.
    """
    said = (line for line in re.split(r"[\r\n]+", _THOUSANDS.sub("", _ANSI.sub("", tail))) if line.strip())
    lines = [
        _BAR_OF_EPOCHS.sub(r"epoch \1 done", _ULTRALYTICS.sub(r"epoch \1 ", line))
        for line in said
        if not _ASIDE.match(line)
    ][-_LINES:]
    for at in reversed(range(len(lines))):
        for found in _WORDED.finditer(lines[at]):
            if found[1].lower() == "epoch" and (seen := _counted(found[2], found[3], "epoch")) is not None:
                rest = lines[at][found.end() :]
                within = _newest([rest])
                begun = within is not None or not rest.strip(_RULES) or _BEGINS.search(lines[at]) is not None
                within = within or _newest(lines[at + 1 :])
                part = 0.0 if within is None else within["done"] / within["total"]
                done = round(max(0.0, seen["done"] - begun) + part, 2)
                return seen | {"done": min(done, seen["total"])}
    return _newest(lines)


def _newest(lines: Sequence[str]) -> Progress | None:
    """Return what the last of these lines says that says anything, epochs apart."""
    for line in reversed(lines):
        for pattern, understood in _PATTERNS:
            for match in pattern.finditer(line):
                if (seen := understood(match)) is not None:
                    epoch = _EPOCH.search(line, 0, match.start())  # of how many, nobody says
                    return seen if epoch is None else seen | {"message": f"of epoch {epoch[1]}", "remaining_s": None}
    return None


def in_words(told: Progress) -> str:
    """Return how far a job is, in a few words; `~` before what gpuctl recognised in its log."""
    percent = f"{'' if told['told'] else '~'}{100 * told['done'] / told['total']:.0f}%"
    return f"{percent} {told['message']}" if within_epoch(told) else percent + left_in_words(told)


def left_in_words(told: Progress) -> str:
    """Return how long a job takes still, to stand behind how far it is."""
    left_s = told["remaining_s"]
    if left_s is None:
        return ""
    from gpud.model.units import format_duration  # noqa: PLC0415 - for who draws

    late = ", and its time limit comes first" if told["ends_first"] else ""
    return f", about {format_duration(left_s)} left{late}"


def within_epoch(seen: Progress) -> bool:
    """Return whether it is known how far an epoch is, and not of how many."""
    return not seen.get("told") and (seen["message"] or "").startswith("of epoch ")


def _counted(done: str, total: str, message: str | None) -> Progress | None:
    part, whole = float(done), float(total)
    if not 0 <= part <= whole or whole < 2:  # of one thing nobody counts how far it is
        return None
    return {"done": part, "total": whole, "message": message, "remaining_s": None}


def _of_bar(found: re.Match[str]) -> Progress | None:
    done, total = float(found[2]) * _MULTIPLES[found[3]], float(found[4]) * _MULTIPLES[found[5]]
    if not 0 <= done <= total or not total:
        return None
    left = found[6].split(":")
    known = all(part.isdigit() for part in left)
    left_s = sum(int(part) * 60**place for place, part in enumerate(reversed(left))) if known else None
    return {"done": done, "total": total, "message": None, "remaining_s": None if left_s is None else float(left_s)}


_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Progress | None]], ...] = (
    (_BAR, _of_bar),
    (_WORDED, lambda found: _counted(found[2], found[3], found[1].lower())),
    (_BRACKETED, lambda found: _counted(found[1], found[2], None)),
    (_STEPS, lambda found: _counted(found[1], found[2], None)),
    (_DRAWN, lambda found: _counted(found[1], "100", None)),
)


def _remaining(told: Progress, took_s: float, ago_s: float) -> float | None:
    """Return how long it takes still, if it goes on as it went until it said so; None where it is too early."""
    part: float = told["done"] / told["total"]
    if part <= 0 or took_s <= 0 or (part < _EARLY and took_s < _EARLY_S):
        return None
    left_s = took_s * (1 - part) / part - ago_s
    return left_s if left_s > 0 else (took_s + ago_s) * (1 - part) / part  # it has grown slower


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _end_of(path: str, size: int) -> tuple[str, float]:
    """Return the last bytes of a plain file, and when it changed; nothing where it is none, or may not be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return "", 0.0
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            return "", 0.0
        return os.pread(file, size, max(0, about.st_size - size)).decode(errors="replace"), about.st_mtime
    except OSError:
        return "", 0.0
    finally:
        os.close(file)
