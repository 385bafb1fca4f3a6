"""Sets of array indices that cost what their ranges cost: `0-99999` is one range, not 100,000 numbers.

The written form is the command line's: `0-9`, `0-9:2`, `1,3,5`, and `%8` for at most eight at once.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, lcm
from operator import itemgetter

_start = itemgetter(0)
INDEX_MAX = (1 << 24) - 2  # an index and the array's number share one 63-bit key: see model.job
_INTERLEAVED_MOST = 10_000  # indices of ranges that interleave: these alone cost what their indices cost


@dataclass(frozen=True, slots=True)
class IndexSet:
    """An ordered set of indices, as ranges in ascending order whose spans are disjoint."""

    ranges: tuple[range, ...] = ()

    def __len__(self) -> int:
        return sum(len(part) for part in self.ranges)

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self.ranges, index, key=_start) - 1
        return at >= 0 and index in self.ranges[at]

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

    def __sub__(self, other: "IndexSet") -> "IndexSet":
        """Return the indices that are not in the other set; costs ranges, and indices only where steps differ."""
        return IndexSet(tuple(left for part, theirs in self._meeting(other) for left in _less(part, theirs)))

    def __and__(self, other: "IndexSet") -> "IndexSet":
        """Return the indices that are in both sets; costs what their ranges cost."""
        parts = (_common(part, each) for part, theirs in self._meeting(other) for each in theirs)
        return IndexSet(tuple(filter(None, parts)))

    def __or__(self, other: "IndexSet") -> "IndexSet":
        """Return the indices of either set."""
        more = other - self
        if not (self and more):
            return self or more
        if self.ranges[-1][-1] < more.ranges[0][0] or more.ranges[-1][-1] < self.ranges[0][0]:
            return IndexSet(tuple(sorted((*self.ranges, *more.ranges), key=_start)))
        return index_set((*self, *more))

    def _meeting(self, other: "IndexSet") -> Iterator[tuple[range, tuple[range, ...]]]:
        """Yield each range with those of the other set that reach between its ends."""
        after = 0
        for part in self.ranges:
            while after < len(other.ranges) and other.ranges[after][-1] < part[0]:
                after += 1
            inside = after
            while inside < len(other.ranges) and other.ranges[inside][0] <= part[-1]:
                inside += 1
            yield part, other.ranges[after:inside]


def index_set(indices: Iterable[int]) -> IndexSet:
    """Return the set of these indices, runs of equal steps joined."""
    ordered = sorted(set(indices))
    parts: list[range] = []
    at = 0
    while at < len(ordered):
        end = at
        step = ordered[at + 1] - ordered[at] if at + 1 < len(ordered) else 1
        while end + 1 < len(ordered) and ordered[end + 1] - ordered[end] == step:
            end += 1
        if step > 1 and end - at < 2:
            end, step = at, 1
        parts.append(range(ordered[at], ordered[end] + 1, step))
        at = end + 1
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
    """Return the indices of `0-9:2,15`. Raises ValueError, quoting `whole`, for what is not understood.

    Ranges may interleave in a `whole` alone: sets that are written, or chosen from, have none that do.
    """
    text = spec if whole is None else whole
    parts = sorted((_part(word, text) for word in spec.split(",")), key=_start)
    if any(after.start <= before[-1] for before, after in pairwise(parts)):
        if whole is None:
            raise ValueError(f"{text!r} names ranges that overlap")
        return _merged(parts, text)
    return IndexSet(tuple(parts))


def _common(one: range, other: range) -> range:
    """Return the indices that are in both ranges: steps meet once in their least common multiple, or never."""
    apart, stride = other.start - one.start, gcd(one.step, other.step)
    step = lcm(one.step, other.step)
    if apart % stride:
        return range(0)
    turns = apart // stride * pow(one.step // stride, -1, other.step // stride)
    first = one.start + turns * one.step  # somewhere, maybe before or behind both
    low, high = max(one.start, other.start), min(one[-1], other[-1])
    common = range(low + (first - low) % step, high + 1, step)
    return common if len(common) > 1 else range(common.start, common.start + len(common))


def _less(part: range, others: tuple[range, ...]) -> list[range]:
    """Return what is left of a range without others that lie, at least in part, within its span."""
    if any(other.step != 1 for other in others) or (part.step != 1 and others):
        gone = IndexSet(others)
        return list(index_set(index for index in part if index not in gone).ranges)
    left: list[range] = []
    start = part.start
    for other in others:
        left.append(range(start, min(other.start, part.stop)))
        start = max(start, other.stop)
    left.append(range(start, part.stop) if part.step == 1 else part)
    return [piece for piece in left if piece]


def _merged(parts: list[range], text: str) -> IndexSet:
    """Return ranges that interleave, such as 0-8:2,1-9:2, as one set."""
    count = sum(len(part) for part in parts)
    if count > _INTERLEAVED_MOST:
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
    numeric = digits.isascii() and digits.isdigit()
    if numeric and len(digits) > 9:
        raise ValueError(f"{text!r}: indices go up to {INDEX_MAX}")
    if not numeric:
        raise ValueError(f"{text!r} is not an array; write 0-9, 0-9:2, 1,3,5 or 0-99%8")
    return int(digits)


def _written(part: range) -> str:
    if len(part) == 1:
        return str(part[0])
    suffix = f":{part.step}" if part.step != 1 else ""
    return f"{part[0]}-{part[-1]}{suffix}"
