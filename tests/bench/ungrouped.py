"""gpud as it would be if every input had a commit of its own; run as `python ungrouped.py python -m gpud ...`."""

import sys
from collections import deque

from gpud.__main__ import main
from gpud.inbox import Inbox


class OneByOne(Inbox):
    """Hands over one item at a time."""

    def __init__(self):
        """Keep what came together with something else."""
        super().__init__()
        self._kept = deque()

    async def drain(self, until):
        """Return the first item; the others come next."""
        self._kept += await super().drain(0.0 if self._kept else until)
        return [self._kept.popleft()] if self._kept else []


if __name__ == "__main__":
    sys.modules["gpud.daemon"].Inbox = OneByOne
    main(sys.argv[4:])
