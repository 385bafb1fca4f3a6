"""Quantities as people write them and as gpud keeps them: MiB, seconds, moments.

Imported by gpuctl at every start, so it costs nothing: no dataclasses, no datetime, no regular
expressions. Memory is whole MiB everywhere (a float loses a byte sooner or later), durations are
seconds, a moment is seconds since 1970 on the daemon's steady clock.
"""

from typing import NewType

Mib = NewType("Mib", int)
Timestamp = NewType("Timestamp", float)
Seconds = float

_SIZES = {
    "": 1,
    "M": 1,
    "MB": 1,
    "MIB": 1,
    "G": 1024,
    "GB": 1024,
    "GIB": 1024,
    "T": 1024**2,
    "TB": 1024**2,
    "TIB": 1024**2,
}
_DURATIONS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_LONGEST_S = 10 * 365 * 86_400
_LARGEST_MIB = 1024**3


def parse_size(text: str) -> Mib:
    """Return `8G`, `1.5G`, `512M` or `512` (MiB) as MiB; G is GiB, as in every GPU's data sheet.

    Raises ValueError, with what would have been understood, for anything else.
    """
    stripped = text.strip()
    number = stripped.rstrip("GMTIBgmtib")
    unit = stripped[len(number) :].upper()
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in _SIZES or not 0 < value < float("inf") or "_" in number:
        raise ValueError(f"{text!r} is not a size; write 8G (GiB) or 512M (MiB)")
    mib = value * _SIZES[unit]
    if mib > _LARGEST_MIB:
        raise ValueError(f"{text!r} is larger than any machine's memory")
    return Mib(max(1, round(mib)))


def parse_duration(text: str) -> Seconds:
    """Return `90` (seconds), `10m`, `2h`, `1d12h` or `HH:MM:SS` as seconds, more than 0, at most ten years.

    Raises ValueError, with what would have been understood, for anything else.
    """
    seconds = _clock_duration(text) if ":" in text else _unit_duration(text.strip())
    if seconds is None or not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is not a duration; write 90 (seconds), 10m, 2h, 1d12h or HH:MM:SS")
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def _clock_duration(text: str) -> Seconds | None:
    parts = text.strip().split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    hours, minutes, seconds = ([int(part) for part in parts] + [0])[:3]
    if minutes > 59 or seconds > 59:
        return None
    return float(hours * 3_600 + minutes * 60 + seconds)


def _unit_duration(text: str) -> Seconds | None:
    total, number, last = 0.0, "", float("inf")
    for char in text:
        if char.isascii() and (char.isdigit() or char == "."):
            number += char
            continue
        size = _DURATIONS.get(char.lower())
        if size is None or size >= last or not number or number.count(".") > 1 or number == ".":
            return None
        total, number, last = total + float(number) * size, "", size
    if number:  # bare seconds, alone: in 1h30 nobody knows of what
        if last != float("inf") or number.count(".") > 1 or number == ".":
            return None
        total = float(number)
    return total


def format_size(mib: int) -> str:
    """Return MiB as people read it: `80G`, `1.5G`, `512M`."""
    if mib < 1024:
        return f"{mib}M"
    return f"{mib / 1024:.1f}".removesuffix(".0") + "G"


def format_duration(seconds: float) -> str:
    """Return seconds as people read them, two units at most: `45s`, `1m30s`, `2h5m`, `3d4h`."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left}s"
    words = []
    for unit, size in _DURATIONS.items():
        if left >= size:
            words.append(f"{left // size}{unit}")
            left %= size
        elif words:
            break
    return "".join(words[:2])


def plural(count: float, word: str) -> str:
    """Return `1 job`, `2 jobs`, `0.5 GPUs`."""
    return f"{count:.10g} {word}" if count == 1 else f"{count:.10g} {word}s"
