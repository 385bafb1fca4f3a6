"""The pictures of the documentation show what `gpuctl watch` draws."""

import pytest
from pictures import FOLDER, frames, picture, words
from screens import in_utc


@pytest.mark.parametrize("name", ["watch", "job"])
def test_a_picture_is_what_is_drawn_today(name, monkeypatch):
    in_utc(monkeypatch)
    kept = (FOLDER / f"{name}.svg").read_text()
    drawn = words(picture(name, frames()[name]))
    assert drawn == words(kept), "stale: python tests/dashboard/pictures.py"
    assert sum(map(len, drawn)) > 500
    assert "@font-face" not in kept
