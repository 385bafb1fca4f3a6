"""What a cycle changed, as values for the store: one transaction makes them durable, in their order.

Each change that people can see is an event too; the store numbers events as it writes them.
"""

from gpud.model.gpu import GpuId, Node
from gpud.model.job import Active, End, Exit, JobId, StopCause
from gpud.model.spec import ArrayState, JobSpec, Place, Rewrite, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.model.use import GpuUse
from gpud.model.value import value


@value()
class Added:
    """A submitted job, or array, enters the queue. Event: `submitted`."""

    job: JobId
    at: Timestamp
    spec: JobSpec
    place: Place
    array: ArrayState | None = None


@value()
class Unfolded:
    """An element leaves its array's row and gets its own, with everything the array was submitted with. No event."""

    job: JobId
    at: Timestamp
    place: Place


@value()
class ArrayPut:
    """An array's row as it is now; `end` once nothing of it is left to run. Event only with an end.

    `reason` says why what was left of it ended, where the counts do not.
    """

    job: JobId
    at: Timestamp
    array: ArrayState
    end: End | None = None
    reason: str | None = None


@value()
class Queued:
    """A job waits (again): submitted before, retried, requeued, held, released, reprioritised.

    Event: `word` ("held", "released", "requeued", "retried", "priority", ...). `reason` says why, for people.
    """

    job: JobId
    at: Timestamp
    place: Place
    word: str
    reason: str | None = None


@value()
class Moved:
    """A job is starting, running or stopping now, on its attempt. Event: `starting`, `running` or `stopping`.

    `by` is who had it stop, by name, where that was somebody.
    """

    job: JobId
    at: Timestamp
    attempt: int
    state: Active
    by: str | None = None


@value()
class AttemptEnded:
    """An attempt is over, whatever becomes of the job; `gpu_s` are GPU-seconds held. No event of its own.

    `cause` is why it was being stopped, if it was; `uses` is what was seen of its GPUs.
    """

    job: JobId
    attempt: int
    exit: Exit
    cause: StopCause | None
    uid: int
    tenant: str
    gpu_s: Seconds
    uses: tuple[GpuUse, ...] = ()


@value()
class Ended:
    """A job is over for good. Event: the end's word. `exit` is None for one that never started.

    `by` is who cancelled one that waited, by name.
    """

    job: JobId
    at: Timestamp
    end: End
    exit: Exit | None
    reason: str | None = None
    by: str | None = None


@value()
class Reprioritised:
    """An active job's priority, for when it queues again. Event: `priority`."""

    job: JobId
    at: Timestamp
    priority: int


@value()
class TermsPut:
    """A job's terms are others from its next attempt on: more memory, a node left out. No event: `Queued` says why."""

    job: JobId
    at: Timestamp
    terms: Terms


@value()
class Rewritten:
    """A job's spec is another from its next attempt on: see `Rewrite`. No event: `Told` or `Queued` says it."""

    job: JobId
    at: Timestamp
    rewrite: Rewrite


@value()
class InventoryPut:
    """A node and its GPUs as last seen. No event."""

    at: Timestamp
    node: Node


@value()
class UsePut:
    """What a user, or (None) a tenant as a whole, has used, decayed to `at`: see core.usage. No event."""

    tenant: str
    user: str | None
    used_s: Seconds
    lifted_s: Seconds
    at: Timestamp


@value()
class StrangerSeen:
    """More GPU-seconds that a user's processes had of a GPU without a job. No event."""

    at: Timestamp
    gpu: GpuId
    user: str
    tenant: str
    gpu_s: Seconds


@value()
class SettingPut:
    """One of the scheduler's own settings (pause, drains); `value` is plain (JSON), None removes it. No event."""

    key: str
    value: object


@value()
class Told:
    """An event that is not a job's state: a GPU drained, the queue paused. `detail` is plain (JSON)."""

    at: Timestamp
    kind: str
    detail: dict[str, object]
    job: JobId | None = None


Change = (
    Added
    | Unfolded
    | ArrayPut
    | Queued
    | Moved
    | AttemptEnded
    | Ended
    | Reprioritised
    | TermsPut
    | Rewritten
    | InventoryPut
    | UsePut
    | StrangerSeen
    | SettingPut
    | Told
)
