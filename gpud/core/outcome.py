"""What a cycle decided: changes to make durable, then effects to perform, then replies to give."""

from dataclasses import dataclass

from gpud.core.commands import Reply
from gpud.core.world import World
from gpud.model.changes import ArrayPut, Change, SettingPut
from gpud.model.effects import Effect, ReadGpus
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import End, JobId
from gpud.model.spec import ArrayState
from gpud.model.units import Seconds, Timestamp

_WORST_FIRST = (End.FAILED, End.TIMED_OUT, End.LOST, End.CANCELLED, End.COMPLETED)


@dataclass(slots=True, init=False)
class Outcome:
    """Grows during a cycle. `wake_at` is when the next must run even if nothing happens.

    `told` are those who are to be told what happens next to the job that they submitted; `surveyed`: a node was seen.
    """

    now: Timestamp
    changes: list[Change]
    effects: list[Effect]
    replies: list[tuple[int, Reply]]
    asked: list[int]
    told: list[tuple[int, JobId]]
    surveyed: bool
    wake_at: Timestamp | None
    touched: dict[JobId, str | None]
    _looks: dict[NodeName, dict[GpuId, None]]

    def __init__(self, now: Timestamp) -> None:  # in a third of the time that fields with factories take
        self.now, self.wake_at, self.surveyed = now, None, False
        self.changes, self.effects, self.replies, self.asked, self.told = [], [], [], [], []
        self.touched, self._looks = {}, {}

    def touch(self, array: JobId, reason: str | None = None) -> None:
        """Remember that an array's row changed; one change a cycle tells of it, however many elements moved.

        `reason` says why what was left of it ended, where there is one.
        """
        self.touched[array] = reason or self.touched.get(array)

    def look(self, node: NodeName, gpu: GpuId) -> None:
        """Ask for a look at a GPU; one effect a cycle asks for all of a node's."""
        self._looks.setdefault(node, {})[gpu] = None

    def later(self, seconds: Seconds) -> Timestamp:
        """Return a moment so long after this cycle's."""
        return Timestamp(self.now + seconds)

    def count(self, world: World) -> None:
        """Bring the books up to date on arrays that changed."""
        if not self.touched:
            return
        for job in self.touched.keys() & world.arrays.keys():
            array = world.arrays[job]
            world.books.pend(job, array.terms, len(array.state.pending))

    def close(self, world: World) -> None:
        """Turn what was remembered into changes and effects."""
        if world.books.changed or self.touched:
            self._close_books(world)
        if world.groups.changed:
            self.changes.append(SettingPut("groups", world.groups.plain(self.now)))
            world.groups.changed = False
        if self._looks:
            self.effects += [ReadGpus(node, tuple(gpus)) for node, gpus in self._looks.items()]

    def _close_books(self, world: World) -> None:
        """Tell what was used, and of arrays. One of which nothing is left is over."""
        self.count(world)
        if world.books.changed:
            self.changes.append(SettingPut("gpu_hours", world.books.spent() or None))
            world.books.changed = False
        for job, reason in self.touched.items():
            array = world.arrays[job]
            over = not array.state.pending and not array.state.live
            end = aggregate(array.state) if over else None
            self.changes.append(ArrayPut(job, self.now, array.state, end, reason if over else None))
            if over:
                del world.arrays[job]
                world.recent.over(job, array.state)
                world.unwait(job)
                world.groups.leave(job, aggregate(array.state))


def aggregate(array: ArrayState) -> End:
    """Return how an array ended as a whole: the worst of its elements' ends."""
    counts = dict(array.counts)
    return next((end for end in _WORST_FIRST if counts.get(end)), End.CANCELLED)
