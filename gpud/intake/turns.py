"""One user's changes of jobs wait for each other, so that others wait for one of them at a time.

A change of a hundred thousand jobs takes ten seconds, in bites between which others are answered. Of two hundred such,
asked for at once before the first is counted, a bite of each would be in every batch, and nobody else would be
answered for minutes.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

MOST = 32  # that wait


class Turns:
    """Who changes jobs now, and who waits for that."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._there: Counter[Hashable] = Counter()

    def full(self, whose: Hashable) -> bool:
        """Return whether too many wait already: also who has hung up has asked for a change."""
        return self._there[whose] > MOST

    @asynccontextmanager
    async def of(self, whose: Hashable) -> AsyncIterator[None]:
        """Wait for the turn, and have it."""
        self._there[whose] += 1
        try:
            async with self._locks.setdefault(whose, asyncio.Lock()):
                yield
        finally:
            self._there[whose] -= 1
            if not self._there[whose]:
                del self._there[whose], self._locks[whose]
