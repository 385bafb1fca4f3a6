"""Screens as they are meant to be; GOLDEN=write draws them anew, to be looked at before they are committed."""

import os
import time
from pathlib import Path

import pytest
from screens import a_board, drawn, drawn_in_ascii, in_utc, looked_at

from gpuctl.render.text import cell_len

GOLDEN = Path(__file__).parent / "golden"
SIZES = [(80, 24), (120, 40), (300, 60)]
SCREENS = {
    "all": a_board,
    "job": lambda: looked_at(a_board(), 12),
    "ended": lambda: a_board(tab="finished", gpus="hidden"),
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    in_utc(monkeypatch)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", SCREENS)
@pytest.mark.parametrize(("columns", "lines"), SIZES, ids=str)
def test_the_screen_is_as_it_was_meant_to_be(name, columns, lines):
    path = GOLDEN / f"{name}-{columns}x{lines}.txt"
    shown = "\n".join(drawn(SCREENS[name](), columns, lines)) + "\n"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(shown)
    assert shown == path.read_text()


@pytest.mark.parametrize("name", SCREENS)
def test_every_size_is_filled_and_never_overflows(name):
    for columns in (1, 7, 39, 56, 79, 100, 160, 500):
        for lines in (1, 2, 3, 7, 13, 24, 80):
            board = SCREENS[name]()
            for view in ("auto", "only", "hidden"):
                board.gpus = view
                shown = drawn(board, columns, lines)
                assert len(shown) == lines
                assert max(map(cell_len, shown)) <= columns


def test_a_terminal_without_utf_8_gets_ascii_in_the_same_cells():
    shown = drawn_in_ascii(a_board(), 200, 50)
    assert all(map(str.isascii, shown))
    assert [len(line) for line in shown] == [cell_len(line) for line in drawn(a_board(), 200, 50)]
