"""Lines of a screen: pieces of text, each with a style in words; cut to a width, and written as ANSI sequences.

Only the eight colours that every terminal lets people choose for themselves, and never one for the background: what
is legible on dark is so on light. Every text is cleaned here or by `cell`, so that no job's name moves the cursor.
"""

from collections.abc import Sequence
from functools import cache

from gpuctl.render.text import COLORS, aligned, cell_len, clean, cut

Line = list[tuple[str, str]]  # text, and words of `_SGR`

_COLORS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36"}
_SGR = {"bold": "1", "dim": "2", "underline": "4", "reverse": "7"}
RESET = "\x1b[0m"


def style_of(state: str) -> str:
    """Return the style of a job's or GPU's state."""
    color = COLORS.get(state, "")
    # Bright black is invisible with eight colours, blue on many dark screens.
    return {"bright_black": "dim", "blue": "cyan"}.get(color, color)


def cell(text: str, size: int, *, right: bool = False) -> str:
    """Return text, cleaned, in exactly `size` cells."""
    return aligned(cut(clean(text), size), size, right=right) if size > 0 else ""


def ansi(line: Line, width: int, *, color: bool) -> str:
    """Return a line for a terminal, at most `width` cells of it, each piece with its style; what was there goes.

    The rest of the row is erased only where there is one: at the right edge that would take the last cell.
    """
    written, left = "", width
    for text, style in line:
        shown = clean(text)
        cells = cell_len(shown)
        if cells > left:
            shown = cut(shown, left)
            cells = cell_len(shown)
        left -= cells
        codes = _codes(style, color)
        written += f"\x1b[{codes}m{shown}{RESET}" if codes else shown
        if left <= 0:
            return written
    return f"{written}\x1b[K"


def plain(line: Line, width: int) -> str:
    """Return a line without its styles."""
    return cut(clean("".join(text for text, _ in line)), width).rstrip()


def in_ascii(line: Line) -> Line:
    """Return a line for a terminal that has nothing else: what it lacks is a `?` for each cell, an ellipsis `~`."""
    return [(text if text.isascii() else "".join(map(_in_ascii, clean(text))), style) for text, style in line]


def _in_ascii(char: str) -> str:
    return char if char.isascii() else "~" if char == "…" else "?" * cell_len(char)


def length(line: Line) -> int:
    """Return how many cells a line takes."""
    return sum(cell_len(clean(text)) for text, _ in line)


def padded(line: Line, width: int) -> Line:
    """Return a line filled up to `width` cells, in the style of its end."""
    space = width - length(line)
    return [*line, (" " * space, line[-1][1] if line else "")] if space > 0 else line


def spread(left: Line, right: Line, width: int) -> Line:
    """Return a line with one part at either end; of the left one what there is room for."""
    space = width - length(left) - length(right)
    if space >= 1:
        return [*left, (" " * space, ""), *right]
    return left if length(left) <= width else [*within(left, width)]


def within(line: Line, width: int) -> Line:
    """Return a line cut to `width` cells."""
    kept: Line = []
    for text, style in line:
        if width <= 0:
            break
        shown = cut(clean(text), width)
        kept.append((shown, style))
        width -= cell_len(shown)
    return kept


def restyled(line: Line, style: str) -> Line:
    """Return a line with a style added to every piece."""
    return [(text, f"{own} {style}".strip()) for text, own in line]


def beside(columns: Sequence[Sequence[Line]], width: int, gap: int = 2) -> list[Line]:
    """Return columns of lines, each `width` cells wide, side by side."""
    lines: list[Line] = []
    for at in range(max(map(len, columns), default=0)):
        line: Line = []
        for column in columns:
            if at < len(column):
                line += [(" " * gap, "")] if line else []
                line += padded(within(column[at], width), width)
        lines.append(line)
    return lines


@cache
def _codes(style: str, color: bool) -> str:
    words = style.split()
    return ";".join(
        [_SGR[word] for word in words if word in _SGR] + [_COLORS[w] for w in words if color and w in _COLORS]
    )
