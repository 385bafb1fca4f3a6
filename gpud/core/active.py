"""A job that holds an allocation, as deciding sees it."""

from gpud.model.gpu import GpuProcess
from gpud.model.job import Active, JobId, Starting, Stopping, format_job
from gpud.model.spec import Place, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.model.value import value


@value()
class ActiveJob:
    """A job that holds an allocation, in the state it has now; `place` is where it stood in the queue.

    `milli` is what it holds of GPUs, in thousandths: fixed at its start (`books.held`), and all that it is charged by.
    """

    job: JobId
    terms: Terms
    place: Place
    state: Active
    milli: int

    @property
    def gpu_weight(self) -> float:
        """Return how many GPUs it holds."""
        return self.milli / 1000

    @property
    def since(self) -> Timestamp:
        """Return since when it holds what it holds, as far as is known."""
        state = self.state
        return state.started if isinstance(state, Stopping) and state.started is not None else state.since

    @property
    def runs(self) -> bool:
        """Return whether it is neither only starting nor being stopped."""
        return not isinstance(self.state, Starting | Stopping)

    def owns(self, process: GpuProcess) -> bool:
        """Return whether a process is one of this job's.

        It descends from the job's own; or it says so in its environment, as those in a container can, and is the job's
        user's or root's; or its user has claimed the GPU by hand.
        """
        if isinstance(self.state, Starting):
            return False
        mine = {self.state.process, self.state.shim}
        if any(ancestor in mine for ancestor in process.ancestors):
            return True
        if process.uid == self.terms.uid and self.terms.claim:
            return True
        return process.job == format_job(self.job) and process.uid in {self.terms.uid, 0}

    def attained_s(self, now: Timestamp) -> Seconds:
        """Return the GPU-seconds that its attempts have had until now."""
        return self.place.attained_s + self.gpu_weight * max(0.0, now - self.since)
