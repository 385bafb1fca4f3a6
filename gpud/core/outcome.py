"""What a cycle decided: changes to make durable, then effects to perform, then replies to give."""

from dataclasses import dataclass, field

from gpud.core.commands import Reply
from gpud.core.world import World
from gpud.model.changes import ArrayPut, Change, SettingPut
from gpud.model.effects import Effect, ReadGpus
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import End, JobId
from gpud.model.spec import ArrayState
from gpud.model.units import Seconds, Timestamp

_WORST_FIRST = (End.FAILED, End.TIMED_OUT, End.LOST, End.CANCELLED, End.COMPLETED)


@dataclass(slots=True)
class Outcome:
    """Grows during a cycle. `wake_at` is when the next must run even if nothing happens."""

    now: Timestamp
    changes: list[Change] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    replies: list[tuple[int, Reply]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    wake_at: Timestamp | None = None
    touched: dict[JobId, str | None] = field(default_factory=dict)
    _looks: dict[NodeName, dict[GpuId, None]] = field(default_factory=dict)

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
        """Turn what was remembered into changes and effects. An array of which nothing is left is over."""
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
        if world.groups.changed:
            self.changes.append(SettingPut("groups", world.groups.plain(self.now)))
            world.groups.changed = False
        self.effects += [ReadGpus(node, tuple(gpus)) for node, gpus in self._looks.items()]


def aggregate(array: ArrayState) -> End:
    """Return how an array ended as a whole: the worst of its elements' ends."""
    counts = dict(array.counts)
    return next((end for end in _WORST_FIRST if counts.get(end)), End.CANCELLED)
