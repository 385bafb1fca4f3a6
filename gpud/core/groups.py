"""Groups, as users name them: whose keys are taken, and which are held because their jobs fail one after the other.

A key tells a job from all others of its user's group. It is taken while that job waits or runs, and for good once it
has completed; a failed, cancelled or lost one gives it free. What has ended is in the store, where whoever submits has
looked before; `ended` knows what has ended since then.

A group is held after so many failures in a row within `WITHIN_S`, of jobs that did not run for longer than that: a
sweep with a typing mistake is over in a minute, while one whose third job diverges at night goes on. It is held until
none of its jobs is any more.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpud.model.job import End, JobId, array_of, format_job
from gpud.model.units import Seconds, Timestamp, plural

Group = tuple[int, str]  # whose, and its name
Key = tuple[int, str, str]  # whose, its group, and what it is there

WITHIN_S: Seconds = 600.0
_REMEMBERED = 10_000  # keys that ended; who submits has looked no longer ago than that


@dataclass(slots=True)
class Streak:
    """Failures in a row, the newest last; `reason` while the group is held for them."""

    failed_at: list[Timestamp] = field(default_factory=list)
    reason: str | None = None


class Groups:
    """The groups of jobs that have not ended. `changed`: `plain()` is to be made durable; `due`: groups to hold."""

    def __init__(self) -> None:
        self.changed = False
        self.due: dict[Group, None] = {}
        self._of: dict[JobId, Group] = {}
        self._members: dict[Group, dict[JobId, None]] = {}
        self._keys: dict[JobId, Key] = {}
        self._taken: dict[Key, JobId] = {}
        self._ended: dict[Key, tuple[JobId, End]] = {}
        self._streaks: dict[Group, Streak] = {}

    def join(self, job: JobId, uid: int, group: str | None, key: str | None) -> None:
        """Take in a job, or an array, that is not over (any more)."""
        if group is None:
            return
        named = self._of[job] = (uid, group)
        self._members.setdefault(named, {})[job] = None
        if key is not None:
            of = self._keys[job] = (uid, group, key)
            self._taken[of] = job
            self._ended.pop(of, None)

    def leave(self, job: JobId, end: End) -> None:
        """Let go of a job, or an array, that is over."""
        key = self._drop(job)
        if key is not None:
            if len(self._ended) >= _REMEMBERED:
                del self._ended[next(iter(self._ended))]
            self._ended[key] = (job, end)

    def move(self, job: JobId, uid: int, group: str | None, key: str | None) -> None:
        """Have a job, or an array, in another group, or under another key: see `named`."""
        name, word = self.named(job, group, key)
        self._drop(job)
        self.join(job, uid, name, word)

    def named(self, job: JobId, group: str | None, key: str | None) -> tuple[str | None, str | None]:
        """Return a job's group and key when these are said of it: None is as it is, "" none."""
        of, had = self._of.get(job), self._keys.get(job)
        name = (of and of[1]) if group is None else group or None
        word = (had and had[2]) if key is None else key or None
        return name, None if name is None else word

    def _drop(self, job: JobId) -> Key | None:
        """Have a job in no group; return the key that it had."""
        group = self._of.pop(job, None)
        if group is None:
            return None
        members = self._members[group]
        del members[job]
        if not members:
            del self._members[group]
            self.let_go(group)
        key = self._keys.pop(job, None)
        if key is not None:
            del self._taken[key]
        return key

    def taken(self, key: Key) -> JobId | None:
        """Return the job that waits or runs under a key."""
        return self._taken.get(key)

    def ended(self, key: Key) -> tuple[JobId, End] | None:
        """Return the job under a key that ended last, and how, as far as it was seen to end."""
        return self._ended.get(key)

    def of(self, job: JobId) -> Group | None:
        """Return the group of a job that has not ended; an element is in its array's."""
        return self._of.get(array_of(job)) if self._of else None

    def members(self, group: Group) -> Iterable[JobId]:
        """Return the jobs and arrays of a group that have not ended."""
        return tuple(self._members.get(group, ()))

    # -- failures in a row

    def count(self, job: JobId, end: End, at: Timestamp, ran_s: Seconds, most: int) -> None:
        """Count how a job, or an element, ended; the group is due to be held from the last of `most` failures on."""
        group = self.of(job)
        if group is None:
            return
        streak = self._streaks.get(group)
        if end is End.COMPLETED and streak is not None and streak.failed_at:
            streak.failed_at.clear()
            self.changed = True
        if end is not End.FAILED or ran_s > WITHIN_S or not most:
            return
        if streak is None:
            streak = self._streaks[group] = Streak()
        streak.failed_at = [*(before for before in streak.failed_at if before >= at - WITHIN_S), at][-most:]
        self.changed = True
        if len(streak.failed_at) >= most:
            self.due[group] = None
            failures = plural(len(streak.failed_at), "failure")
            streak.reason = (
                f"group {group[1]} had {failures} in a row (gpuctl logs {format_job(job)});"
                f" go on with gpuctl release --group {group[1]}"
            )

    def held_for(self, group: Group) -> None:
        """Begin to count failures anew: the last ones had something held."""
        self._streaks[group].failed_at.clear()

    def reason(self, group: Group | None) -> str | None:
        """Return why a group is held, None while it is not."""
        streak = None if group is None else self._streaks.get(group)
        return None if streak is None else streak.reason

    def held(self) -> Iterator[tuple[Group, str]]:
        """Yield the groups that are held, and why."""
        for group, streak in self._streaks.items():
            if streak.reason is not None:
                yield group, streak.reason

    def let_go(self, group: Group) -> None:
        """Hold a group no more; failures for which nothing was held count on, for its next jobs."""
        streak = self._streaks.get(group)
        if streak is not None and streak.reason is not None:
            streak.reason = None
            self.due.pop(group, None)
            self.changed = True

    # -- across restarts

    def plain(self, now: Timestamp) -> list[Any] | None:
        """Return what there is to know of failures as plain data, None for nothing; what is too long ago is dropped."""
        for group, streak in list(self._streaks.items()):
            if streak.reason is None and all(at < now - WITHIN_S for at in streak.failed_at):
                del self._streaks[group]
        return [[*group, streak.failed_at, streak.reason] for group, streak in self._streaks.items()] or None

    def restore(self, jobs: Iterable[tuple[JobId, int, str, str | None]], settings: Mapping[str, Any]) -> None:
        """Take in jobs that have not ended (with whose they are, group and key), and what `plain` gave."""
        for job, uid, group, key in jobs:
            self.join(job, uid, group, key)
        for uid, name, failed_at, reason in settings.get("groups") or ():
            self._streaks[(uid, name)] = Streak(list(failed_at), reason)
