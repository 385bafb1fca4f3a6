"""Bars, and histories as sparklines; in ASCII for terminals that have nothing else.

What is not known is neither an empty bar nor a zero: nothing is drawn.
"""

from collections import deque
from dataclasses import dataclass, field

_SPAN_S = 10.0  # of one bar of a sparkline: a dozen show two minutes
_KEPT = 120


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What gauges are drawn with: parts of a cell from nearly none to all of it, the rest of a bar, levels."""

    parts: str
    rest: str
    levels: str
    at_most: str
    about: str


BLOCKS = Glyphs(parts="▏▎▍▌▋▊▉█", rest="·", levels="▁▂▃▄▅▆▇█", at_most="≤", about="~")
ASCII = Glyphs(parts="#", rest=".", levels="_.-~=+*#", at_most="<", about="~")


def bar(share: float | None, size: int, glyphs: Glyphs) -> str:
    """Return a bar of `size` cells, `share` (0 to 1) of it full; blank where that is not known."""
    if share is None or size <= 0:
        return " " * max(0, size)
    steps = len(glyphs.parts)
    filled = round(min(1.0, max(0.0, share)) * size * steps)
    if share > 0:
        filled = max(1, filled)  # a little is not nothing
    full, part = divmod(filled, steps)
    drawn = glyphs.parts[-1] * full + (glyphs.parts[part - 1] if part else "")
    return drawn + glyphs.rest * (size - len(drawn))


@dataclass(slots=True)
class History:
    """A value over the last minutes: means of spans of ten seconds."""

    _spans: deque[tuple[int, float, int]] = field(default_factory=lambda: deque(maxlen=_KEPT))  # number, sum, count

    def add(self, value: float | None, now: float) -> None:
        """Add a reading; None is none."""
        if value is None:
            return
        number = int(now // _SPAN_S)
        if self._spans and self._spans[-1][0] == number:
            _, total, count = self._spans.pop()
            self._spans.append((number, total + value, count + 1))
        else:
            self._spans.append((number, value, 1))

    def spark(self, size: int, most: float, now: float, glyphs: Glyphs) -> str:
        """Return the last `size` spans up to now, each as high as its mean is against `most`; gaps are blank."""
        last = int(now // _SPAN_S)
        drawn = [" "] * size
        for number, total, count in reversed(self._spans):
            at = size - 1 - (last - number)
            if at < 0:
                break
            if at < size:
                share = min(1.0, max(0.0, total / count / most))
                drawn[at] = glyphs.levels[min(len(glyphs.levels) - 1, int(share * len(glyphs.levels)))]
        return "".join(drawn)
