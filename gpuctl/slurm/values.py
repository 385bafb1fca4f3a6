"""Words as sbatch reads them, from its manual page: times, sizes, GPUs, moments, jobs, signals.

Each raises ValueError, with what would have been understood.
"""

import re
import signal
from datetime import datetime, timedelta
from typing import NamedTuple

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_KIB = {"K": 1, "": 1024, "M": 1024, "G": 1024**2, "T": 1024**3}
_MIG = re.compile(r"(?:\d+c\.)?\d+g\.\d+gb(?:\+\w+)?", re.IGNORECASE)
_HOURS = {"midnight": 0, "elevenses": 11, "noon": 12, "fika": 15, "teatime": 16}
_AWAY = re.compile(r"now(?:\+(\d+)(second|minute|hour|day|week)?s?)?", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AP]M)?", re.IGNORECASE)
_DATES = ("%Y-%m-%d", "%m%d%y", "%m/%d/%y", "%m.%d.%y")
_SIGNAL = re.compile(r"(?:([RB]+):)?(\w+)(?:@(\d+))?")
_BEFORE_S = 60.0


class Resource(NamedTuple):
    """A part of `--gres` or `--gpus`: `gpu:a100:2`. `amount` is the word as it stands there."""

    name: str
    kind: str | None
    amount: str


class Signal(NamedTuple):
    """Which signal, how long before the time limit, and to whom: "script" or "steps"."""

    number: int
    before_s: float
    to: str


def count(text: str) -> int:
    """Return a number of things: `4`, `2k`, the least of `2-4`, and of `2,4`."""
    found = re.fullmatch(r"(\d+)(k?)(?:[-,].*)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a number")
    return int(found[1]) * (1024 if found[2] else 1)


def seconds(text: str) -> float | None:
    """Return a time limit; None for none. `30` are minutes, `30:00` too, `12:00:00` hours, `1-12` a day and a half."""
    if text.strip().lower() in ("unlimited", "infinite", "-1"):
        return None
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    words = [*([days] if dash else []), *parts]
    if len(parts) > 3 or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f"{text!r} is no time; write MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    numbers = [int(part) for part in parts]
    if dash:
        hour, minute, second = (*numbers, 0, 0)[:3]
    else:
        hour, minute, second = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return float(int(days or 0) * 86_400 + hour * 3_600 + minute * 60 + second) or None


def mib(text: str) -> int:
    """Return memory as MiB: `64000` and `64000M` are MiB, `64G` and `64GB` are GiB; 0 means all there is."""
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 64G or 64000M")
    kib = float(found[1]) * _KIB[found[2].upper()]
    return max(1, round(kib / 1024)) if kib else 0


def resources(text: str) -> list[Resource]:
    """Return what `--gres` names: `gpu:2`, `gpu:a100:2`, `gpu=2`, `tmpdisk:100`."""
    found = []
    for word in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = word.strip().removeprefix("gres/").removeprefix("gres:").replace("=", ":").split(":")
        if not name or name.lower() == "none":
            continue
        found.append(_resource(name, [part for part in rest if part], text))
    return found


def gpus(text: str) -> list[Resource]:
    """Return what `--gpus` and its like name: `2`, `a100:2`, `a100:1,v100:1`."""
    return [
        _resource("gpu", word.strip().replace("=", ":").split(":"), text) for word in text.split(",") if word.strip()
    ]


def _resource(name: str, words: list[str], text: str) -> Resource:
    numeric = [re.fullmatch(r"\d+[kKmMgGtT]?[bB]?", word) is not None for word in words]
    if not words:
        return Resource(name, None, "1")
    kind = None if numeric[0] else words[0]
    if kind is not None and not re.fullmatch(r"[\w.+-]+", kind):
        raise ValueError(f"{kind!r} is no type of {name}; write gpu:2 or gpu:a100:2")
    if len(words) == 1:
        return Resource(name, kind, words[0] if kind is None else "1")
    if len(words) == 2 and numeric[1]:
        return Resource(name, words[0], words[1])
    raise ValueError(f"{text!r} is not understood; write gpu:2 or gpu:a100:2")


def mig(kind: str) -> str | None:
    """Return the MIG profile that a type of GPU is: of `a100_1g.5gb` 1g.5gb; None where it is none."""
    found = _MIG.search(kind)
    return None if found is None else found[0].lower()


def moment(text: str, now: float) -> float:
    """Return when a job may begin: `now+2hours`, `16:00`, `tomorrow`, `2030-01-20T12:34`, as seconds since 1970."""
    word = text.strip()
    away = _AWAY.fullmatch(word)
    if away is not None:
        size = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}[(away[2] or "second").lower()]
        return now + int(away[1] or 0) * size
    today = datetime.fromtimestamp(now).astimezone()
    day, hour = today.replace(hour=0, minute=0, second=0, microsecond=0), None
    if word.lower() in ("today", "tomorrow"):
        return now if word.lower() == "today" else (day + timedelta(days=1)).timestamp()
    date, letter, clock = word.partition("T") if re.match(r"\d+[-/.]?\d*[-/.]?\d*T", word) else ("", "", word)
    if not letter and (dated := _date(word)) is not None:
        return dated.astimezone().timestamp()
    hour = _clock(clock)
    if hour is None or (date and _date(date) is None):
        raise ValueError(f"{text!r} is no time; write now+2hours, 16:00 or 2030-01-20T12:34:00")
    if date:
        day = (_date(date) or day).astimezone()
    at = day + hour
    return (at if date or at >= today else at + timedelta(days=1)).timestamp()


def _date(word: str) -> datetime | None:
    for form in _DATES:
        try:
            return datetime.strptime(word, form)  # noqa: DTZ007 - the caller takes it as local
        except ValueError:
            continue
    return None


def _clock(word: str) -> timedelta | None:
    if word.lower() in _HOURS:
        return timedelta(hours=_HOURS[word.lower()])
    found = _CLOCK.fullmatch(word)
    if found is None:
        return None
    hour = int(found[1])
    if found[4]:
        hour = hour % 12 + (12 if found[4].upper() == "PM" else 0)
    return timedelta(hours=hour, minutes=int(found[2]), seconds=int(found[3] or 0))


def dependencies(text: str) -> list[tuple[str, list[str]]]:
    """Return kinds of `--dependency` and their jobs: `afterok:1:2,afterany:3`; of `singleton` none."""
    found = []
    for word in re.split(r"[,?]", text):
        kind, *jobs = word.strip().split(":")
        ids = [job.partition("+")[0].removesuffix("_*") for job in jobs if job]
        if not all(re.fullmatch(r"\d+(_\d+)?", job) for job in ids):
            raise ValueError(f"{word!r} names no jobs; write afterok:12:13")
        found.append((kind.lower(), [_job(job) for job in ids]))
    return found


def _job(word: str) -> str:
    """Return a job as gpuctl calls it; an element's SLURM_JOB_ID is one number: see gpud.model.job."""
    number, index = divmod(int(word), 1 << 24) if word.isdigit() else (0, 0)
    return f"{number}_{index - 1}" if number and index else word


def notice(text: str) -> Signal:
    """Return what `--signal` says: `USR1@120`, `B:TERM@300`, `10`."""
    found = _SIGNAL.fullmatch(text.strip())
    name = "" if found is None else found[2].upper()
    if name.isdigit():
        number = int(name)
    else:
        known = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
        number = 0 if known is None else int(known)
    if found is None or not 0 < number < 65:
        raise ValueError(f"{text!r} is no signal; write USR1@120 or B:USR1@120")
    return Signal(number, float(found[3] or _BEFORE_S), "script" if "B" in (found[1] or "") else "steps")
