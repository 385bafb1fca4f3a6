"""Keeps the database small: what nothing needs any more goes once a day, in bites that hold up no commit.

Environments of jobs that cannot need them go after a month; jobs that ended, with their attempts and events, after
`keep_days`. What was used is counted by the day and stays, and logs are their users' to remove.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from gpud.model.units import Timestamp
from gpud.store import pruning
from gpud.store.files import StoreError
from gpud.store.jobs import Store

log = logging.getLogger(__name__)

_FIRST_S = 60.0
_DAY_S = 86_400.0
_KEEP_ENVIRONMENTS_S = 30 * _DAY_S
_BETWEEN_S = 0.1


class Pruning:
    """The daily work; `keep_days` says for how long jobs are kept, 0 for ever. Used on the event loop's thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], Timestamp],
        store: Store,
        writer: Executor,
        keep_days: Callable[[], int],
        first_s: float = _FIRST_S,
    ) -> None:
        self._clock = clock
        self._store = store
        self._writer = writer
        self._keep_days = keep_days
        self._first_s = first_s
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Prune soon, and every day from then on."""
        self._task = asyncio.create_task(self._daily())

    def end(self) -> None:
        """Leave the database alone."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _daily(self) -> None:
        await asyncio.sleep(self._first_s)
        while True:
            try:
                await self._prune()
            except StoreError as error:
                log.warning("nothing is pruned today: %s", error)
            await asyncio.sleep(_DAY_S)

    async def _prune(self) -> None:
        loop, now = asyncio.get_running_loop(), self._clock()
        unneeded = Timestamp(now - _KEEP_ENVIRONMENTS_S)
        await loop.run_in_executor(self._writer, self._store.prune, pruning.environments, unneeded)
        days = self._keep_days()
        if not days:
            return
        before, gone = Timestamp(now - days * _DAY_S), 0
        for bite in (pruning.jobs, pruning.events):
            while removed := await loop.run_in_executor(self._writer, self._store.prune, bite, before):
                gone += removed
                await asyncio.sleep(_BETWEEN_S)
        if gone:
            log.info("%d jobs and events from more than %d days ago are gone", gone, days)
