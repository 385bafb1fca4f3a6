"""Numbers that were given once are not given again, also where the database that knew them was moved away.

Jobs that it knew may run on, and their records and logs bear their numbers: another job of the same number would be
taken for them.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NUMBER = re.compile(r"(\d{1,15})(?:_\d+)?\.\d+(?:\.log)?")


def newest_number(state_dir: str) -> int:
    """Return the highest number of a job that left a record or a log in a state directory; 0 for none."""
    return max((int(found[1]) for name in _names(state_dir) if (found := _NUMBER.fullmatch(name))), default=0)


def _names(state_dir: str) -> Iterator[str]:
    """Yield the names of records and logs; in system mode each user's logs have a directory of their own."""
    for directory in ("records", "logs"):
        with suppress(OSError), os.scandir(f"{state_dir}/{directory}") as entries:
            for entry in entries:
                yield entry.name
                if entry.name.isdecimal() and entry.is_dir(follow_symlinks=False):
                    with suppress(OSError):
                        yield from (path.name for path in Path(entry.path).iterdir())
