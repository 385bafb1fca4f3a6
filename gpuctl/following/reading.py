"""A job's output line by line, from the file that it writes; followed to the job's end where that is wanted."""

from collections.abc import Generator, Iterator

from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import GpuctlError, NotPermittedError
from gpuctl.following.logs import Changes, Log
from gpuctl.following.waiting import await_back, subscribe
from gpuctl.render.jobs import ENDS


def lines(client: Client, job: str, *, follow: bool, stop: int | None = None) -> Generator[str]:
    """Yield the lines of a job's output, without their ends; `client` is closed afterwards.

    Following waits for a job to start, and ends with it; or once the descriptor `stop` is readable. Raises GpuctlError
    where the output may not be read.
    """
    rest = b""
    with client:
        for data in _followed(client, job, stop) if follow else _now(client, job):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="backslashreplace")
    if rest:
        yield rest.decode(errors="backslashreplace")


def _now(client: Client, job: str) -> Iterator[bytes]:
    log = _log(client.request("show", job=job, soon=True))
    if log is None:
        return
    try:
        yield from log.read()
    finally:
        log.close()


def _followed(client: Client, job: str, stop: int | None) -> Iterator[bytes]:
    log: Log | None = None
    try:
        while True:
            try:
                subscribe(client, [job])
                while True:
                    answer = client.request("show", job=job, soon=True)
                    log = log or _log(answer)
                    if log is not None:
                        yield from log.read()
                    if answer["job"]["state"] in ENDS:
                        return
                    changes = Changes([log.path] if log else [], [client.fileno(), *([] if stop is None else [stop])])
                    try:
                        yield from _until_told(client, log, changes, stop)
                    finally:
                        changes.close()
            except _StoppedError:
                return
            except ConnectionLostError as lost:
                await_back(client, lost)
    finally:
        if log is not None:
            log.close()


class _StoppedError(Exception):
    """Nobody reads any more."""


def _until_told(client: Client, log: Log | None, changes: Changes, stop: int | None) -> Iterator[bytes]:
    """Yield what is written until gpud tells of a change."""
    while True:
        if log is not None:
            yield from log.read()
        ready = frozenset() if client.has_pushed() else changes.wait()
        if stop in ready:
            raise _StoppedError
        if client.pushed(wait=False):
            return


def _log(answer: dict[str, object]) -> Log | None:
    """Return the log of a job; None while it has none. Raises GpuctlError for what has none of its own."""
    job = answer["job"]
    assert isinstance(job, dict)  # noqa: S101 - what the protocol says, for mypy
    if "array" in job and job["array_index"] is None:
        raise GpuctlError(f"job {job['id']} is an array; each element has its own output", hint="job.elements()")
    if job["output"] is None and job["started_at"] is not None:
        raise NotPermittedError(f"the output of job {job['id']} is not yours to see")
    return None if job["output"] is None else Log(job["output"], owner=job["uid"])
