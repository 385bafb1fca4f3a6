"""What `{a,b,c}`, `{1..5}` and `{a..c}` stand for, as in bash; `{}` and `{name}` mean themselves."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence

from gpuctl.errors import UsageError

MOST = 100_000  # jobs, as gpud takes them
_GROUP = re.compile(r"\{([^{}]*)\}")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")
_FRACTIONS = re.compile(r"-?[\d.]+(?:e-?\d+)?(?:\.\.-?[\d.]+(?:e-?\d+)?){1,2}", re.ASCII)
_SPAN = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?", re.ASCII)


def expanded(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield every combination that `{a,b}` and `{1..5}` in these words make, the last word's changing fastest.

    Raises UsageError where these are more than can be submitted at once.
    """
    parts = [_parts(word) for word in words]
    check_count("the braces make", math.prod(len(each) for word in parts for each in word))
    variants = [["".join(each) for each in itertools.product(*word)] for word in parts]
    for combination in itertools.product(*variants):
        yield list(combination)


def check_count(what: str, count: int) -> None:
    """Raise UsageError where these are more jobs than can be submitted at once."""
    if count > MOST:
        raise UsageError(f"{what} {count:,} jobs, and {MOST:,} can be submitted at once", hint="or: --array")


def check_closed(words: Sequence[str]) -> None:
    """Raise UsageError for a brace that is not closed, or has others in it: hardly ever is either meant."""
    for word in words:
        bare = _GROUP.sub("", word)
        if "{" not in bare:
            continue
        if "}" in bare[bare.index("{") :]:
            if all(_values(found[1]) is None for found in _GROUP.finditer(word)):
                continue
            raise UsageError(
                f"{word}: braces inside of braces", hint="write each combination out; in quotes, they stay"
            )
        hint = "write {0.1,0.2}, without a space; in quotes, a brace means itself"
        raise UsageError(f"{word}: a brace that is not closed", hint=hint)


def _parts(word: str) -> list[list[str]]:
    """Return the parts of a word one after the other, each with what may stand there."""
    parts, at = [], 0
    for found in _GROUP.finditer(word):
        values = _values(found[1])
        if values is not None:
            parts += [[word[at : found.start()]], values]
            at = found.end()
    return [*parts, [word[at:]]]


def _values(inside: str) -> list[str] | None:
    """Return what stands in braces, one by one; None for braces that mean themselves, such as `{}` or `{name}`."""
    letters = _LETTERS.fullmatch(inside)
    if letters is not None:
        first, last = (ord(letter) for letter in letters.groups() if letter)
        step = 1 if first <= last else -1
        return [chr(letter) for letter in range(first, last + step, step)]
    span = _SPAN.fullmatch(inside)
    if span is None:
        if _FRACTIONS.fullmatch(inside):  # in bash it means itself, and nobody means that
            raise UsageError(f"{{{inside}}} is no range of whole numbers", hint="write each value: {0.1,0.2,0.3}")
        return inside.split(",") if "," in inside else None
    first, last, step = int(span[1]), int(span[2]), int(span[3] or 1)
    ends = span.group(1, 2)
    width = max(map(len, ends)) if any(each[0] == "0" and each != "0" for each in ends) else 0  # {01..10}, as in bash
    if not step or abs(last - first) // step >= 1_000_000:
        raise UsageError(f"{{{inside}}} is no range", hint="write {1..5}, or {0..100..10}")
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [str(number).zfill(width) for number in numbers]
