"""GPUs as people name them on a command line: lists, and ranges of indices."""

from collections.abc import Iterable, Iterator

from gpuctl.errors import UsageError

_MOST = 1_024  # GPUs in one range


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
    if not 0 <= int(last) - int(first) < _MOST:
        raise UsageError(f"{word!r} is no range of GPUs", hint=f"write 0-3 or NODE:0-3; {_MOST} GPUs at most")
    yield from (f"{node}{colon}{index}" for index in range(int(first), int(last) + 1))
