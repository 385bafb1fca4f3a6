"""An event loop, and clocks, in which no time passes but what the simulation says; and nothing runs beside it.

What the loop would sleep through is skipped; what it would hand to a thread is done at a moment of its own, one after
the other for each thread, and is answered at another one: between the two the daemon may be killed.
"""

import asyncio
from asyncio import base_events
from heapq import heappop, heappush
from itertools import count

from gpud.clock import Clock
from gpud.model.units import Timestamp

BEGIN = 1_700_000_000.0
TICK_S = 1e-5  # everything takes a moment


class KilledError(SystemExit):
    """kill -9: nothing catches it, no promise is kept beyond it."""


class Time:
    """The machine's clocks, and what will happen outside gpud, and when."""

    def __init__(self):
        self.now = 0.0  # CLOCK_BOOTTIME
        self.slept = 0.0  # what CLOCK_MONOTONIC lacks to it
        self.stepped = 0.0  # how far somebody has set the clock on the wall
        self._coming = []
        self._order = count()

    def after(self, seconds, act, *args):
        """Have something happen outside."""
        heappush(self._coming, (self.now + seconds, next(self._order), act, args))

    @property
    def next_at(self):
        """When the next thing happens outside; None for never."""
        return self._coming[0][0] if self._coming else None

    def pass_until(self, at):
        """Let time pass until then, or until something happens outside, which happens. Return False when nothing will.

        `at` None: nobody wakes up by themselves.
        """
        ahead = self.next_at
        if at is None and ahead is None:
            return False
        if ahead is None or (at is not None and at < ahead):
            self.now = max(self.now + TICK_S, at)
            return True
        self.now = max(self.now + TICK_S, ahead)
        while self._coming and self._coming[0][0] <= self.now:
            _, _, act, args = heappop(self._coming)
            act(*args)
        return True


class VirtualClock(Clock):
    """gpud's clock, on the machine's time."""

    def __init__(self, time):
        super().__init__(BEGIN)
        self._time = time

    def __call__(self):
        return Timestamp(self._time.now + self.offset)

    def wall(self):
        return self._time.now + self.offset + self._time.stepped


class VirtualLoop(base_events.BaseEventLoop):
    """An event loop without files, threads or time of its own. `delay_s` says how long work for a thread takes."""

    def __init__(self, time, delay_s, starved):
        super().__init__()
        self._clock_resolution = 1e-9
        self._selector = self
        self._virtual = time
        self._delay_s = delay_s
        self._starved = starved
        self._free_at = {}

    def time(self):
        return self._virtual.now - self._virtual.slept

    def select(self, timeout):
        """Pass the time that the loop would sleep."""
        if timeout is None or timeout > 0:
            until = None if timeout is None else self._virtual.now + timeout
            if not self._virtual.pass_until(until):
                self._starved()
        return ()

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def __del__(self):  # one that was killed is never closed
        pass

    def run_in_executor(self, executor, func, *args):
        """Do work for a thread: it takes effect at one moment, and is answered at a later one."""
        future = self.create_future()
        begins = max(self.time(), self._free_at.get(executor, 0.0))
        takes = self._delay_s()
        self._free_at[executor] = begins + takes
        self.call_at(begins + takes * 0.5, self._work, future, begins + takes, func, args)
        return future

    def _work(self, future, ends, func, args):
        try:
            result, error = func(*args), None
        except Exception as raised:  # noqa: BLE001 - whoever waits for it gets it
            result, error = None, raised
        self.call_at(ends, _settle, future, result, error)


def _settle(future, result, error):
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def run(loop, work):
    """Run until the work is done. Raises what it raises, KilledError among it."""
    asyncio.events.set_event_loop(None)
    return loop.run_until_complete(work)
