"""What one gpud says: asked for again only when it pushed word of a change, and only what is on the screen."""

from dataclasses import dataclass, field
from typing import Any

from gpuctl.client import Client
from gpuctl.dashboard.gauges import History
from gpuctl.dashboard.tail import Tail
from gpuctl.errors import RefusedError
from gpuctl.following import progress
from gpuctl.render.jobs import ACTIVE, ENDS

Map = dict[str, Any]

_ACTIVE_MOST = 1_000
_EXPECTED_S = 10.0
_WAITING = ("queued", "held")
_GAUGES = ("memory_used_mib", "utilization_percent", "temperature_c", "power_w")


@dataclass(frozen=True, slots=True)
class Query:
    """What there is room for: of which jobs at most how many rows, or everything about one."""

    waiting: bool
    ended: bool
    mine: bool
    user: str | None
    most: int
    job: str | None


@dataclass(slots=True)
class Seen:
    """What gpud said last. `away` says why that is old; `answer` is `show` of the job that is looked at.

    `histories` are by a GPU's UUID and the name of the value. `others` are from when the connection began.
    """

    status: Map = field(default_factory=dict)
    gpus: list[Map] = field(default_factory=list)
    active: list[Map] = field(default_factory=list)
    waiting: list[Map] = field(default_factory=list)
    ended: list[Map] = field(default_factory=list)
    more: int = 0
    answer: Map | None = None
    problem: str | None = None
    log: Tail = field(default_factory=Tail)
    histories: dict[tuple[str, str], History] = field(default_factory=dict)
    away: str | None = None

    def history(self, gpu: Map, key: str) -> History:
        """Return the last minutes of a value of a GPU."""
        return self.histories.setdefault((gpu["uuid"], key), History())


class Source:
    """Keeps `seen` as new as gpud is. `changed`: jobs did; `asked` is the query that was answered last."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen = Seen()
        self.asked: Query | None = None
        self.changed = self._read = True
        self._jobs_at = 0.0

    def begin(self) -> None:
        """Ask to be told of changes, on a connection that is new. Raises ConnectionLostError."""
        self.client.request("subscribe", readings=True)
        self.changed = self._read = True

    def take(self) -> bool:
        """Take in what was pushed; return whether anything was. Raises ConnectionLostError."""
        pushed = self.client.pushed(wait=False)
        self._read |= any("readings" in message for message in pushed)
        self.changed |= any("event" in message for message in pushed)
        return bool(pushed)

    def due(self, query: Query) -> bool:
        """Return whether there is anything to ask for."""
        return self.changed or self._read or query != self.asked

    def look(self, query: Query, now: float) -> None:
        """Ask for what has changed, of what is shown. Raises ConnectionLostError, RefusedError."""
        ask, seen = self.client.request, self.seen
        # When those who wait are expected to start moves on by itself.
        jobs = self.changed or query != self.asked or (bool(seen.waiting) and now >= self._jobs_at + _EXPECTED_S)
        changed, self.changed, self._read, self.asked = self.changed, False, False, query
        # What runs is asked for at readings, too: how far it is, is told by no event.
        if jobs or seen.active:
            seen.active = ask("list", state=sorted(ACTIVE), limit=_ACTIVE_MOST)["jobs"]
            progress.add(seen.active, self.client.path)
        if jobs:
            self._look_at_jobs(query, now)
        if changed:
            seen.status = ask("status")
        if query.job is not None:
            self._look_at_job(query.job)
        self._look_at_gpus(now)
        seen.away = None

    def _look_at_jobs(self, query: Query, now: float) -> None:
        self._jobs_at = now
        seen, narrowed = self.seen, {"mine": query.mine, "user": query.user, "limit": query.most}
        fields = {key: value for key, value in narrowed.items() if value}
        seen.waiting, seen.ended, seen.more = [], [], 0
        if query.waiting:
            reply = self.client.request("list", state=_WAITING, **fields)
            seen.waiting, seen.more = sorted(reply["jobs"], key=_place), reply["more"]
        if query.ended:
            reply = self.client.request("list", state=sorted(ENDS), all=True, **fields)
            seen.ended = sorted(reply["jobs"], key=lambda job: -(job["ended_at"] or 0))
            seen.more += reply["more"]

    def _look_at_job(self, job: str) -> None:
        self.seen.problem = None
        try:
            self.seen.answer = self.client.request("show", job=job)
            progress.add([self.seen.answer["job"]], self.client.path)
        except RefusedError as refused:  # it may have been pruned
            self.seen.answer, self.seen.problem = None, refused.message

    def _look_at_gpus(self, now: float) -> None:
        seen = self.seen
        seen.gpus = self.client.request("gpus")["gpus"]
        for gpu in seen.gpus:
            for key in _GAUGES:
                seen.history(gpu, key).add(gpu[key], now)


def _place(job: Map) -> tuple[bool, int]:
    place = job["queue_position"]
    return place is None, place or 0
