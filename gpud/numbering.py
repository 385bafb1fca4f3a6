"""Numbers that were given once are not given again, also where the database that knew them was moved away.

Jobs that it knew may run on, and their records and logs bear their numbers: another job of the same number would be
taken for them.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

# In a directory of theirs users make files of any name: none may leave too few numbers.
_NUMBER = re.compile(r"(\d{1,10})(?:_\d+)?\.\d+(?:\.log)?")


def newest_number(state_dir: str, *directories: str) -> int:
    """Return the highest number of a job that left something in these directories of a state directory; 0 for none."""
    names = _names(state_dir, directories)
    return max((int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))), default=0)


def _names(state_dir: str, directories: Iterable[str]) -> Iterator[str]:
    """Yield the names of what is there; in system mode each user's logs have a directory of their own."""
    for directory in directories:
        with suppress(OSError), os.scandir(f"{state_dir}/{directory}") as entries:
            for entry in entries:
                yield entry.name
                if entry.name.isdecimal() and entry.is_dir(follow_symlinks=False):
                    with suppress(OSError):
                        yield from (path.name for path in Path(entry.path).iterdir())
