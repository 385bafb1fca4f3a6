"""Draws the pictures of the documentation, as `gpuctl watch` draws its screen; kept in docs/pictures.

python tests/dashboard/pictures.py
"""

import html
import io
import os
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from rich.console import Console  # noqa: E402 - the two lines above are for who runs this
from rich.text import Text  # noqa: E402 - as above
from screens import a_board, colored, looked_at  # noqa: E402 - as above

FOLDER = ROOT / "docs" / "pictures"
COLUMNS, LINES = 110, 32
_FETCHED = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # pictures that fetch fonts would tell who looks at them


def frames() -> dict[str, list[str]]:
    """Return what is drawn, by the picture's name: lines as they are sent to a terminal."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    everything = a_board()
    everything.seen.waiting = [job for job in everything.seen.waiting if job["name"].isascii()]
    one = looked_at(a_board(), 12)
    return {"watch": colored(everything, COLUMNS, LINES), "job": colored(one, COLUMNS, 20)}


def picture(name: str, lines: list[str]) -> str:
    """Return a frame as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard")
    for line in lines:
        console.print(Text.from_ansi(line.replace("\x1b[K", "")), no_wrap=True, overflow="crop", crop=True)
    drawn = console.export_svg(title="gpuctl watch", unique_id=f"gpuctl-{name}")
    return "\n".join(line.rstrip() for line in _FETCHED.sub("", drawn).splitlines()) + "\n"


def words(svg: str) -> list[str]:
    """Return the lines of text of a picture, whatever a version of Rich drew around them."""
    pieces = re.findall(r'<text class="[^"]*-r\d+"[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg)
    rows: dict[float, dict[float, str]] = {}
    for x, y, text in pieces:
        rows.setdefault(float(y), {})[float(x)] = html.unescape(text).replace("\xa0", " ")
    lines = ("".join(text for _, text in sorted(row.items())) for _, row in sorted(rows.items()))
    return [" ".join(line.split()) for line in lines]


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each, shown in frames().items():
        (FOLDER / f"{each}.svg").write_text(picture(each, shown))
