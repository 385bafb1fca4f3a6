"""What one user may have of the daemon at once, so that others notice nothing of whoever asks for too much.

Requests are counted by a token bucket for each user: so many a second in the long run, so many more in a burst. What
is large, also an answer, or takes long to take in, counts for several. Root has no bounds: somebody must be able to
look.
"""

import resource
from dataclasses import dataclass
from math import inf

from gpud.model.spec import JobSpec
from gpud.settings.config import Config
from gpud.wire.codec import FRAME_MAX

PAUSE_LEAST_S = 0.1  # for so long at least nothing is read of a connection whose user asked for too much
PIECE = 64 * 1024  # bytes, either way, that count as much as one request
SECOND = 200 * PIECE  # of the loop: small things by the hundred thousand make few bytes and much work
_OTHER_FILES = 512
_OWING_MOST_S = 10.0  # nobody waits for longer than this for what they were answered
_DAY_S = 86_400.0
_ROW, _REFERENCE = 256, 16  # bytes of a job without a word in it, and of a job that it waits for
_FULL_MOST = 1_000  # buckets that are full are forgotten beyond so many


@dataclass(frozen=True, slots=True)
class Allowance:
    """The bounds of one user; None: none. `frame` is the largest request, in bytes, also of root's."""

    connections: int | None = None
    subscriptions: int | None = None
    per_second: int | None = None
    at_once: int = 1_000
    frame: int = FRAME_MAX

    @staticmethod
    def of(config: Config) -> "Allowance":
        """Return what a configuration says."""
        return Allowance(
            connections=config.connections_per_user,
            subscriptions=config.subscriptions_per_user,
            per_second=config.requests_per_second or None,
            at_once=max(1, config.requests_at_once),
            frame=min(FRAME_MAX, max(1, config.request_mib) << 20),
        )


def allows(most: int | None, uid: int, count: int) -> bool:
    """Return whether a user may have so many of something; no number, or 0, allows any."""
    return not most or uid == 0 or count <= most


def room_for(connections: int) -> int:
    """Raise the limit on open files so that this many connections fit beside others; return how many do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft < wanted:  # never -1, unlimited: Linux has a limit for every process's files
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(soft - _OTHER_FILES, soft // 2))


class Buckets:
    """How many requests each user may still send. `now` is seconds of any clock that only goes on."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self._left: dict[int, tuple[float, float]] = {}  # of a uid: requests left, and when that was counted

    def take(self, uid: int, now: float) -> float:
        """Count one request; return in how many seconds it may be sent again, 0.0 where it may now."""
        rate = self.allowance.per_second
        if rate is None or uid == 0:
            return 0.0
        left = self._now_left(uid, now, rate)
        if left < 1.0:
            return (1.0 - left) / rate
        self._left[uid] = left - 1.0, now
        return 0.0

    def moved(self, uid: int, size: int, now: float) -> None:
        """Count what came, or was answered, of so many bytes."""
        rate, count = self.allowance.per_second, size // PIECE
        if count and rate is not None and uid != 0:
            left = self._now_left(uid, now, rate)
            self._left[uid] = max(left - count, -_OWING_MOST_S * rate), now

    def _now_left(self, uid: int, now: float, rate: int) -> float:
        most = float(self.allowance.at_once)
        if len(self._left) > _FULL_MOST:
            self._left = {
                each: (left, at) for each, (left, at) in self._left.items() if left + (now - at) * rate < most
            }
        left, at = self._left.get(uid, (inf, now))
        return min(most, left + (now - at) * rate)


class Submitted:
    """How much each user had kept of late: what jobs are submitted with fills the disk that everybody's jobs are on."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[float, float]] = {}  # of a uid: bytes, and when that was counted
        self._newest: dict[int, bytes] = {}  # environments: the same again is not kept again

    def take(self, uid: int, spec: JobSpec, most: int | None, now: float) -> float:
        """Count a job; return in how many seconds it may be submitted if `most` bytes may in a day, 0.0 for now."""
        new = self._newest.get(uid) is not spec.environment
        wait_s = self.count(uid, _size(spec) + (len(spec.environment) if new else 0), most, now)
        if not wait_s and most is not None:
            self._newest[uid] = spec.environment
        return wait_s

    def count(self, uid: int, size: int, most: int | None, now: float) -> float:
        """Count so many bytes; return as `take` does."""
        if most is None or uid == 0:
            return 0.0
        rate = max(1, most) / _DAY_S
        before, at = self._of.get(uid, (0.0, now))
        so_far = max(0.0, before - (now - at) * rate)
        if so_far >= most:
            return (so_far - most) / rate + 1.0
        self._of[uid] = so_far + size, now
        return 0.0


def _size(spec: JobSpec) -> int:
    """Return what a job alone fills, in bytes: its environment is mostly the one of the job before."""
    texts = (spec.name, spec.workdir, spec.output or "", spec.error or "", *spec.command, *spec.labels.values())
    told = sum(len(target) for _, target in spec.notify)
    return _ROW + len(spec.script or b"") + sum(map(len, texts)) + told + _REFERENCE * len(spec.after)
