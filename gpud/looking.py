"""Looks at GPUs for people: a fresh one where somebody asks, regular ones while somebody watches, none otherwise."""

import asyncio
from contextlib import suppress

from gpud.instance import Instance
from gpud.model.gpu import GpuId
from gpud.subscriptions import Subscriptions

_FIRST_S = 5.0  # how long one who asks waits for the inventory to speak at all
_FRESH_S = 1.5  # how long one who asks waits for GPUs that do not answer
_WATCH_S = 2.0
_TELL_S = 0.1  # the readings of one round are told of together


async def first_look(seen: asyncio.Event) -> None:
    """Wait, a moment at most, until the inventory has said what there is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_S):
            await seen.wait()
    seen.set()


class Looking:
    """What the daemon asks of its inventory on behalf of people."""

    def __init__(self, gpud: Instance, subscriptions: Subscriptions) -> None:
        self._gpud = gpud
        self._inventory = gpud.parts.inventory
        self._subscriptions = subscriptions
        self._waiting: list[tuple[set[GpuId], asyncio.Future[None]]] = []
        self._watching = False
        self._telling: asyncio.TimerHandle | None = None

    async def at_all(self) -> None:
        """Have every GPU looked at, and wait a moment for the answers; who does not answer is as last seen."""
        await first_look(self._gpud.seen)
        left = {state.gpu.id for state in self._gpud.world.gpus.values() if state.present}
        if not left:
            return
        future = asyncio.get_running_loop().create_future()
        waiter = (set(left), future)
        self._waiting.append(waiter)
        self._inventory.read(left)
        try:
            async with asyncio.timeout(_FRESH_S):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.remove(waiter)

    def seen(self, gpus: set[GpuId]) -> None:
        """Wake those who wait for these GPUs, and tell those who watch."""
        for left, future in self._waiting:
            left.difference_update(gpus)
            if not left and not future.done():
                future.set_result(None)
        if self._subscriptions.readings_wanted and self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_TELL_S, self._tell)

    def follow_watchers(self) -> None:
        """Look regularly while anybody watches, and only then."""
        wanted = self._subscriptions.readings_wanted
        if wanted != self._watching:
            self._watching = wanted
            self._inventory.watch(_WATCH_S if wanted else None)

    def _tell(self) -> None:
        self._telling = None
        self._subscriptions.publish_readings()
