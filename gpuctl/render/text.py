"""Tables and words for a terminal, as wide as that is; whole lines where nobody's terminal is the limit.

Plain strings, not a table library: that takes longer to import than gpud to answer, and boxes make columns that
`grep` and `awk` cannot read. What users chose (names, commands) may hold anything, so control characters are
written out: nobody's job name moves another's cursor.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width

import click

from gpud.model.units import format_duration, format_size

COLORS = {
    "running": "green",
    "completed": "green",
    "free": "green",
    "up": "green",
    "busy": "blue",
    "shared": "blue",
    "starting": "cyan",
    "stopping": "yellow",
    "releasing": "cyan",
    "held": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "foreign": "magenta",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "unhealthy": "red",
    "unknown": "red",
    "cancelled": "bright_black",
    "split": "bright_black",
}
NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading; `right` aligns numbers; of lines too long `spare` ones go, `elastic` shrink to `least`."""

    heading: str
    right: bool = False
    elastic: bool = False
    least: int = 8
    spare: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None = None, sparse: bool = True
) -> list[str]:
    """Return the lines of a table in `width` cells; columns without content are left out, where it is `sparse`.

    `width` None: the terminal's, or no limit where stdout is none.
    """
    width = terminal_width() if width is None else width
    cells = [[clean(cell) for cell in row] for row in rows]
    shown = [at for at in range(len(columns)) if not sparse or any(row[at] for row in cells)] or [0]
    sizes = {at: max([cell_len(columns[at].heading), *(cell_len(row[at]) for row in cells)]) for at in shown}
    least = {at: min(size, columns[at].least) if columns[at].elastic else size for at, size in sizes.items()}
    for at in [at for at in reversed(shown) if columns[at].spare]:
        if sum(least[at] for at in shown) + 2 * (len(shown) - 1) > width:
            shown.remove(at)
            del sizes[at]
    excess = sum(sizes.values()) + 2 * (len(shown) - 1) - width
    while excess > 0 and (elastic := [at for at in shown if sizes[at] > least[at]]):
        sizes[max(elastic, key=lambda at: sizes[at])] -= 1
        excess -= 1
    heading = [column.heading for column in columns]
    return [cut(_line(columns, row, shown, sizes), width) for row in (heading, *cells)]


def _line(columns: Sequence[Column], row: Sequence[str], shown: list[int], sizes: dict[int, int]) -> str:
    return "  ".join(aligned(cut(row[at], sizes[at]), sizes[at], right=columns[at].right) for at in shown).rstrip()


def aligned(text: str, size: int, *, right: bool = False) -> str:
    """Return text filled up to `size` cells."""
    space = " " * (size - cell_len(text))
    return space + text if right else text + space


def cut(text: str, size: int) -> str:
    """Return text in at most `size` cells, with an ellipsis where something is missing."""
    if cell_len(text) <= size:
        return text
    kept, used = "", 1
    for char in text:
        used += cell_len(char)
        if used > size:
            break
        kept += char
    return kept.rstrip() + "…"


def clean(text: str) -> str:
    """Return text with everything that would not print written out."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode()


def cell_len(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def colored(line: str, word: str) -> str:
    """Return a table's line with the first `word` in its state's colour."""
    color = COLORS.get(word)
    return line.replace(word, styled(word, color), 1) if color else line


def styled(text: str, color: str) -> str:
    """Return text in a colour, which Click takes out again where none is wanted: `session.color_wanted`."""
    return click.style(text, fg=color)


def terminal_width() -> int:
    """Return the terminal's width, at least 40, so that a table stays one; without a terminal, no limit."""
    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else NO_LIMIT


def terminal_height() -> int:
    """Return the terminal's height; without a terminal, no limit."""
    return shutil.get_terminal_size().lines if sys.stdout.isatty() else NO_LIMIT


def clock(at: float | None) -> str:
    """Return a moment as people here read it: `18:30:05` today, else with its day; "-" for None."""
    if at is None:
        return "-"
    local = time.localtime(round(at, 3))  # gpud's clock is microseconds off: 18:00 is not 17:59:59
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def in_words(at: float, now: float) -> str:
    """Return when that is: `in 5m`, `now`, `3h ago`."""
    if abs(at - now) < 1:
        return "now"
    return f"in {format_duration(at - now)}" if at > now else f"{format_duration(now - at)} ago"


def plural(count: int, word: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def energy(joules: float) -> str:
    """Return an amount of energy in the unit that makes it readable."""
    hours = joules / 3600
    return f"{hours:.0f} Wh" if hours < 1000 else f"{hours / 1000:.1f} kWh"


def size(mib: int | None) -> str:
    """Return MiB for people; "-" for what is unknown."""
    return "-" if mib is None else format_size(mib)
