"""What a cycle wants done in the world, after its changes are durable. Each may be performed twice."""

from gpud.model.gpu import Allocation, GpuId, NodeName, ProcessIdentity
from gpud.model.job import JobId, Running, Starting, Stopping
from gpud.model.units import Seconds
from gpud.model.value import value


@value()
class Launch:
    """Start this attempt. Answered by `Started` and `Exited`, or by `Exited` alone."""

    job: JobId
    attempt: int
    allocation: Allocation


@value()
class Stop:
    """End this attempt: TERM to every process and KILL after `grace_s`; at once where that is 0.

    One that has not claimed its record yet is kept from ever running. With `saves` a job that has a checkpoint signal
    gets that first, and TERM when little is left of the grace.
    """

    job: JobId
    attempt: int
    grace_s: Seconds | None  # None: the job's own
    saves: bool = False


@value()
class Interrupt:
    """Send INT to every process of this attempt, once, as a terminal's Ctrl-C would."""

    job: JobId
    attempt: int


@value()
class SendSignal:
    """Send this signal to every process of this attempt, once."""

    job: JobId
    attempt: int
    number: int


@value()
class SetLimit:
    """This attempt may run for so long in all, from its start on; None: for ever."""

    job: JobId
    attempt: int
    time_limit_s: Seconds | None


@value()
class Look:
    """Find out what became of an attempt that an earlier gpud was starting, or had started, under boot id `boot`.

    `process` and `shim` are those of an attempt that is known to have started: it is lost only when they are gone,
    whatever became of its record.
    """

    job: JobId
    attempt: int
    boot: str
    process: ProcessIdentity | None = None
    shim: ProcessIdentity | None = None


def look_at(job: JobId, attempt: int, state: Starting | Running | Stopping) -> Look:
    """Return the look at an active attempt, with all that is known of it."""
    if isinstance(state, Starting):
        return Look(job, attempt, state.boot)
    return Look(job, attempt, state.boot, state.process, state.shim)


@value()
class Forget:
    """The attempt's end is durable: its record may go."""

    job: JobId
    attempt: int


@value()
class ReadGpus:
    """Look at these GPUs now; answered by a `GpuSeen` each."""

    node: NodeName
    gpus: tuple[GpuId, ...]


Effect = Launch | Stop | Interrupt | SendSignal | SetLimit | Look | Forget | ReadGpus
