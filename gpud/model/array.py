"""Sets of array indices that cost what their ranges cost: `0-99999` is one range, not 100,000 numbers.

The written form is the command line's: `0-9`, `0-9:2`, `1,3,5`, and `%8` for at most eight at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

INDEX_MAX = (1 << 24) - 2  # an index and the array's number share one 63-bit key: see model.job


@dataclass(frozen=True, slots=True)
class IndexSet:
    """An ordered set of indices, as disjoint ranges in ascending order."""

    ranges: tuple[range, ...] = ()

    def __len__(self) -> int:
        return sum(len(part) for part in self.ranges)

    def __contains__(self, index: int) -> bool:
        return any(index in part for part in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for part in self.ranges:
            yield from part

    def __str__(self) -> str:
        return ",".join(_written(part) for part in self.ranges)

    @property
    def first(self) -> int:
        """Return the smallest index. Raises IndexError on an empty set."""
        return self.ranges[0][0]

    def without_first(self) -> "IndexSet":
        """Return the set less its smallest index."""
        head, *rest = self.ranges
        return IndexSet((head[1:], *rest) if len(head) > 1 else tuple(rest))

    def without(self, index: int) -> "IndexSet":
        """Return the set less one index."""
        parts: list[range] = []
        for part in self.ranges:
            if index in part:
                at = part.index(index)
                parts += [piece for piece in (part[:at], part[at + 1 :]) if piece]
            else:
                parts.append(part)
        return IndexSet(tuple(parts))


def index_set(indices: Iterable[int]) -> IndexSet:
    """Return the set of these indices, runs of neighbours joined."""
    parts: list[range] = []
    for index in sorted(set(indices)):
        if parts and parts[-1].step == 1 and parts[-1].stop == index:
            parts[-1] = range(parts[-1].start, index + 1)
        else:
            parts.append(range(index, index + 1))
    return IndexSet(tuple(parts))


def parse_array(text: str) -> tuple[IndexSet, int | None]:
    """Return the indices and the throttle (None: no limit) of `0-9:2,15%8`.

    Raises ValueError for what is not understood, for an index over `INDEX_MAX` and for one named twice.
    """
    spec, percent, limit = text.strip().partition("%")
    throttle = _number(limit, text) if percent else None
    if throttle == 0:
        raise ValueError(f"{text!r}: %0 would let no element run")
    return parse_indices(spec, text), throttle


def parse_indices(spec: str, whole: str | None = None) -> IndexSet:
    """Return the indices of `0-9:2,15`. Raises ValueError, quoting `whole`, for what is not understood."""
    text = spec if whole is None else whole
    parts = sorted((_part(word, text) for word in spec.split(",")), key=lambda part: part.start)
    for before, after in pairwise(parts):
        if after.start <= before[-1]:
            return _merged(parts, text)
    return IndexSet(tuple(parts))


def _merged(parts: list[range], text: str) -> IndexSet:
    """Return ranges that interleave, such as 0-8:2,1-9:2, as one set."""
    count = sum(len(part) for part in parts)
    if count > 1_000_000:
        raise ValueError(f"{text!r} names ranges that overlap")
    merged = index_set(index for part in parts for index in part)
    if len(merged) != count:
        raise ValueError(f"{text!r} names an index twice")
    return merged


def _part(word: str, text: str) -> range:
    span, _, step = word.partition(":")
    low, dash, high = span.partition("-")
    start = _number(low, text)
    stop = _number(high, text) if dash else start
    stride = _number(step, text) if ":" in word else 1
    if stop < start or stride == 0 or (":" in word and not dash):
        raise ValueError(f"{text!r} is not an array; write 0-9, 0-9:2, 1,3,5 or 0-99%8")
    if stop > INDEX_MAX:
        raise ValueError(f"{text!r}: indices go up to {INDEX_MAX}")
    part = range(start, stop + 1, stride)
    return range(part[0], part[-1] + 1, stride if len(part) > 1 else 1)


def _number(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise ValueError(f"{text!r} is not an array; write 0-9, 0-9:2, 1,3,5 or 0-99%8")
    return int(digits)


def _written(part: range) -> str:
    if len(part) == 1:
        return str(part[0])
    suffix = f":{part.step}" if part.step != 1 else ""
    return f"{part[0]}-{part[-1]}{suffix}"
