"""What can go wrong for a caller of gpud, and the exit status that says so.

0 done; 1 refused or failed; 2 usage; 3 no such job, GPU, node, tenant or reservation; 4 not permitted; 69 gpud does
not answer (EX_UNAVAILABLE of sysexits.h). `run` and `wait` keep those for the job and exit with 125 for their own
failures.
"""

from typing import Any

FAILED = 1
USAGE = 2
NOT_FOUND = 3
NOT_PERMITTED = 4
UNAVAILABLE = 69
OWN_FAILURE = 125

_STATUS_OF_CODE = {
    "usage": USAGE,
    "no_such_job": NOT_FOUND,
    "no_such_gpu": NOT_FOUND,
    "no_such_node": NOT_FOUND,
    "no_such_tenant": NOT_FOUND,
    "no_such_reservation": NOT_FOUND,
    "no_such_group": NOT_FOUND,
    "not_permitted": NOT_PERMITTED,
}


class GpuctlError(Exception):
    """Something that a person must know of: what it is, what to do about it, and the exit status."""

    exit_status = FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")  # a traceback shows it


class UsageError(GpuctlError):
    """The command line says something that cannot be meant."""

    exit_status = USAGE


class NotPermittedError(GpuctlError):
    """This user may not: the socket, the process or the output is another's."""

    exit_status = NOT_PERMITTED


class OutputError(GpuctlError):
    """What was to be printed could not be."""

    def __init__(self, why: str) -> None:
        super().__init__(f"cannot write to standard output: {why}")
        self.why = why


class ReaderLeftError(OutputError):
    """Whoever read what is printed has seen enough: that ends a command quietly, as SIGPIPE would have."""

    exit_status = 128 + 13


class UnreachableError(GpuctlError):
    """Nobody answers on the socket."""

    exit_status = UNAVAILABLE


class JobError(GpuctlError):
    """A job did not do what somebody waited for. `job` is its id, `log` the file of its output, if it has one."""

    def __init__(self, message: str, *, job: str, log: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.job = job
        self.log = log


class RefusedError(GpuctlError):
    """gpud said no, and did nothing. `code` is stable: see `gpud.wire.messages.Error`.

    `retry_after_s`: the same may be done in so many seconds; None where that is not known.
    """

    def __init__(self, code: str, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after_s = retry_after_s
        self.exit_status = _STATUS_OF_CODE.get(code, FAILED)


def refusal(error: dict[str, Any]) -> RefusedError:
    """Return gpud's `error` map as what is raised for it."""
    code, message, hint = str(error.get("code")), str(error.get("message")), error.get("hint")
    if message.startswith("unknown request "):
        hint = hint or "gpud is older than this gpuctl: gpuctl daemon restart, or ask who administers it to upgrade"
    return RefusedError(code, message, hint=hint, retry_after_s=error.get("retry_after_s"))
