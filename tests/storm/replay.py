"""Tells the story of one storm: python tests/storm/replay.py SEED [HAPPENINGS]."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "core"), str(HERE)]

from storm import weather  # noqa: E402 - found by now

if __name__ == "__main__":
    for at, words in weather(*map(int, sys.argv[1:])).story:
        sys.stdout.write(f"{at:12.6f}  {words}\n")
