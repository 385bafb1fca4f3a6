"""Everything that the loop has to decide about, in the order it came, handed over in batches.

Requests, exits and readings are posted one by one, some of them from other threads; the loop takes all that is there
at once, so that a burst costs one decision and one commit. What nobody waits for may come a moment later with the rest.
"""

import asyncio
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")

# The event loop's clock stands still while the machine sleeps, deadlines do not: nobody sleeps through one for longer.
_NAP_S = 60.0


class Inbox(Generic[Item]):
    """A queue with one reader, the loop. Make it on the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: list[Item] = []
        self._due = False  # whether any of them is to be handed over now
        self._soon: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    def post(self, item: Item) -> None:
        """Add an item; on the event loop's thread."""
        self._items.append(item)
        self.wake()

    def post_soon(self, item: Item, within_s: float) -> None:
        """Add an item that starts no batch of its own before this time is over, but comes with any that is made."""
        self._items.append(item)
        if self._soon is None:
            self._soon = self._loop.call_later(within_s, self.wake)

    def post_threadsafe(self, item: Item) -> None:
        """Add an item, from any thread. Once the loop is closed it is dropped: nobody is left to decide about it."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.post, item)

    async def drain(self, until: float | None) -> list[Item]:
        """Return everything that is there as soon as something is, or the loop's time is `until` (None: never).

        The batch may be empty: at the deadline, and now and then before a far one. Others on the loop have had a
        turn when it returns, even where it need not wait: an inbox that never runs dry starves no socket.
        """
        if self._due:
            await asyncio.sleep(0)
        else:
            self._waiter = self._loop.create_future()
            timer = None
            if until is not None:
                timer = self._loop.call_at(min(until, self._loop.time() + _NAP_S), self.wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        batch, self._items = self._items, []
        self._due = False
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        return batch

    def wake(self) -> None:
        """Have `drain` return, with whatever is there."""
        self._due = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
