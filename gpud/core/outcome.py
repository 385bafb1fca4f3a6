"""What a cycle decided: changes to make durable, then effects to perform, then replies to give."""

from dataclasses import dataclass, field

from gpud.core.commands import Reply
from gpud.core.world import World
from gpud.model.changes import ArrayPut, Change
from gpud.model.effects import Effect, ReadGpus
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import End, JobId
from gpud.model.spec import ArrayState
from gpud.model.units import Timestamp

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
    _arrays: dict[JobId, None] = field(default_factory=dict)
    _looks: dict[NodeName, dict[GpuId, None]] = field(default_factory=dict)

    def touch(self, array: JobId) -> None:
        """Remember that an array's row changed; one change a cycle tells of it, however many elements moved."""
        self._arrays[array] = None

    def look(self, node: NodeName, gpu: GpuId) -> None:
        """Ask for a look at a GPU; one effect a cycle asks for all of a node's."""
        self._looks.setdefault(node, {})[gpu] = None

    def close(self, world: World) -> None:
        """Turn what was remembered into changes and effects. An array of which nothing is left is over."""
        for job in self._arrays:
            array = world.arrays[job]
            over = not array.state.pending and not array.state.live
            self.changes.append(ArrayPut(job, self.now, array.state, aggregate(array.state) if over else None))
            if over:
                del world.arrays[job]
                world.unwait(job)
        self.effects += [ReadGpus(node, tuple(gpus)) for node, gpus in self._looks.items()]


def aggregate(array: ArrayState) -> End:
    """Return how an array ended as a whole: the worst of its elements' ends."""
    counts = dict(array.counts)
    return next((end for end in _WORST_FIRST if counts.get(end)), End.CANCELLED)
