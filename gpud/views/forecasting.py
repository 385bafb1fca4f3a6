"""When everybody is expected to start: worked out when somebody asks, and told again until something happens.

The forecast is made on the loop, a millisecond at a time with as long a rest between: a thread would hold the
interpreter for five. All together it gets `_DUTY` of the loop's time at most, and one forecast `_MOST_S` of work; who
has not started in it by then, starts nobody knows when. Nobody who asks waits for it longer than he said: he gets the
one before.
"""

import asyncio
import logging
import time

from gpud.core.forecast import Forecast, lasts_until
from gpud.core.groups import Group
from gpud.core.waits import After, Held, NoGpus, OverQuota, Paused, Unmet, Wait
from gpud.core.world import World
from gpud.instance import Instance
from gpud.model.job import JobId, format_job
from gpud.model.spec import When
from gpud.model.units import Seconds, Timestamp

log = logging.getLogger(__name__)

_PIECE_S = 0.001
_MOST_S = 1.0
_DUTY = 0.05
_OLD_S = 30.0  # what no change tells of (a GPU that is foreign now) is known after this

Outlook = tuple[Timestamp | None, str | None]


class Forecaster:
    """Keeps the newest forecast."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud
        self._newest: Forecast | None = None
        self._as_of = 0
        self._rests_until = 0.0
        self._task: asyncio.Task[None] | None = None

    async def newest(self, patience_s: Seconds) -> Forecast | None:
        """Return what is expected now, or was a moment ago if finding out takes longer than that."""
        if not self._stands() and self._task is None:
            self._task = asyncio.create_task(self._make())
        rests_s = self._rests_until - time.monotonic()
        if self._task is not None and rests_s < patience_s:  # else it has not begun by then
            await asyncio.wait([self._task], timeout=patience_s)
        return self._newest

    def _stands(self) -> bool:
        now, known = self._gpud.clock(), self._newest
        if known is None or self._as_of != self._gpud.last_event or now > known.now + _OLD_S:
            return False
        return known.first_at is None or now <= known.first_at

    async def _make(self) -> None:
        try:
            await asyncio.sleep(self._rests_until - time.monotonic())
            await self._work()
        except Exception:  # ours: it goes into the log, and nobody is told of a start
            log.exception("it was not found out when jobs start")
        finally:
            self._task = None

    async def _work(self) -> None:
        as_of, spent_s = self._gpud.last_event, 0.0
        began = time.thread_time()
        made = Forecast(self._gpud.world, self._gpud.clock())
        for _ in made.work():
            piece_s = time.thread_time() - began
            if piece_s >= _PIECE_S:
                spent_s += piece_s
                if spent_s > _MOST_S:
                    made.give_up()
                    break
                await asyncio.sleep(piece_s)
                began = time.thread_time()
        spent_s += time.thread_time() - began
        self._newest, self._as_of = made, as_of
        self._rests_until = time.monotonic() + spent_s / _DUTY


def group_end(world: World, forecast: Forecast | None, group: Group) -> Timestamp | None:
    """Return when the last of a group is expected to be over; None where nobody can tell."""
    ends = [None if forecast is None else forecast.ended(job) for job in world.groups.members(group)]
    known = [at for at in ends if at is not None]
    return max(known) if known and len(known) == len(ends) else None


def next_end(world: World, now: Timestamp) -> Timestamp | None:
    """Return when the first of what runs is expected to end; None where nobody can tell, or that starts nobody."""
    ends = (lasts_until(world, active, now) for active in world.active.values())
    return min((at for at, known in ends if known), default=None) if world.paused is None else None


def is_late(forecast: Forecast | None, job: JobId) -> bool:
    """Return whether a job waits for one that runs longer than expected: any moment that is told of it is a guess."""
    found = None if forecast is None else forecast.expected(job)
    return found is not None and found.late is not None


def is_unknown(forecast: Forecast | None, job: JobId) -> bool:
    """Return whether a job waits for one of which nobody knows how long it runs: what is reserved is for a guess."""
    found = None if forecast is None else forecast.expected(job)
    return found is not None and found.behind is not None


def outlook(forecast: Forecast | None, job: JobId, wait: Wait | None, now: Timestamp) -> Outlook:
    """Return when a job that waits is expected to start, or why nobody can tell; nothing of one that does not wait."""
    match wait:
        case None:
            return None, None
        case Held() | Unmet():
            return None, "it is held"
        case Paused():
            return None, "all starts are paused"
        case NoGpus():
            return None, "there is no GPU to be seen"
        case OverQuota(never=True):
            return None, "it asks for more than its quota ever allows"
    found = None if forecast is None else forecast.expected(job)
    if found is None:
        return None, "it is being worked out: ask again"
    if found.late is not None:
        return None, f"it comes behind job {format_job(found.late)}, which runs longer than expected"
    if found.at is not None:
        return Timestamp(max(found.at, now)), None
    if found.behind is not None:
        behind = format_job(found.behind)
        return None, f"it comes behind job {behind}, and nobody knows how long that runs: it has no time limit"
    if found.beyond:
        return None, "too many jobs come before it"
    match wait:
        case After(first=first):
            knows = "whether that fails" if first.when is When.FAILED else "when that ends"
            return None, f"it comes after job {format_job(first.job)}, and nobody knows {knows}"
        case OverQuota(until=None):
            return None, "nobody knows when there is quota for it"
        case _:
            return None, "nothing that is expected to end makes room for it"
