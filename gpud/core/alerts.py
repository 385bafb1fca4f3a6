"""What administrators are to hear of: events of the kind `alert`, each with what it is about and how bad it is.

Whoever delivers them (the log, a command, a webhook) reads them from the events: `what`, `level`, `message`, and the
`gpu`, `node` or `uid` that it is about; the event's own job, if it is about one.
"""

from gpud.core.outcome import Outcome
from gpud.model.changes import Told
from gpud.model.job import JobId

ALERT = "alert"
GPU_LOST, GPU_DRAINED, FOREIGN_USE, JOB_IDLE = "gpu_lost", "gpu_drained", "foreign_use", "job_idle"
DISK_NEARLY_FULL, RESTARTED = "disk_nearly_full", "gpud_restarted"
LEVELS = {
    GPU_LOST: "error",
    GPU_DRAINED: "warning",
    FOREIGN_USE: "warning",
    JOB_IDLE: "info",
    DISK_NEARLY_FULL: "error",
    RESTARTED: "warning",
}


def alert(out: Outcome, what: str, message: str, *, job: JobId | None = None, **about: object) -> None:
    """Tell administrators of something."""
    detail = {"what": what, "level": LEVELS[what], "message": message, **about}
    out.changes.append(Told(out.now, ALERT, detail, job))
