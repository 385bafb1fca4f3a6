"""What gpud last said of a job, for the Python interfaces."""

from typing import TYPE_CHECKING, Any, cast

from gpuctl.errors import GpuctlError, JobError
from gpuctl.following.waiting import exit_status
from gpuctl.render.jobs import ENDS, written_end

if TYPE_CHECKING:
    from gpud.wire.messages import Job as Row, Results


class Told:
    """A job, by its `id`, and what gpud last said of it: `row` holds all keys of a job in `gpuctl list --json`.

    Nothing here asks gpud; `refresh` and `wait` do.
    """

    def __init__(self, job: str, row: dict[str, Any] | None = None) -> None:
        self.id = job
        self._row = row
        self._shown: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.state}>" if self._row is not None else f"<job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def row(self) -> "Row":
        """Return the job as `gpud.wire.messages.Job`; times are seconds since 1970."""
        if self._row is None:
            raise GpuctlError(f"nothing was asked about job {self.id} yet", hint="ask for it: job.refresh()")
        return cast("Row", self._row)

    @property
    def state(self) -> str:
        """Return `held`, `queued`, `starting`, `running`, `stopping`, or how it ended."""
        return self.row["state"]

    @property
    def name(self) -> str:
        """Return its name."""
        return self.row["name"]

    @property
    def reason(self) -> str | None:
        """Return why it waits, or how it ended."""
        return self.row["reason"]

    @property
    def ended(self) -> bool:
        """Return whether it has ended."""
        return self.state in ENDS

    @property
    def exit_status(self) -> int | None:
        """Return what `gpuctl wait` would exit with; None while it has not ended."""
        if not self.ended:
            return None
        return exit_status(self._shown or {"job": self._row})

    @property
    def happened(self) -> str | None:
        """Return what ended it, in a sentence."""
        return cast("str | None", self.shown["happened"])

    @property
    def results(self) -> "Results | None":
        """Return what its last attempt used, of what was asked for."""
        return cast("Results | None", self.shown["results"])

    @property
    def shown(self) -> dict[str, Any]:
        """Return what `show` said of it, as `gpud.wire.messages.ShowReply`."""
        if self._shown is None:
            raise GpuctlError("this is not known of a listed job", hint="ask for all of it: job.refresh()")
        return self._shown

    def tell(self, answer: dict[str, Any]) -> None:
        """Take what `show` says."""
        self._shown, self._row = answer, answer["job"]

    def check(self) -> None:
        """Raise JobError unless it completed."""
        if self.state != "completed":
            raise failure(cast("dict[str, Any]", self.row))


def failure(row: dict[str, Any]) -> JobError:
    """Return what is raised for a job that did not complete."""
    hint = f"its output: {row['output']}" if row["output"] and row["started_at"] is not None else None
    return JobError(written_end(row), job=row["id"], log=row["output"], hint=hint)
