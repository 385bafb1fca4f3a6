"""Waiting for jobs, for `run` and `wait`: told by gpud, through its restarts, with nothing polled."""

import select
import time
from collections.abc import Callable, Iterable
from typing import Any

from gpuctl.client import Client, ConnectionLostError
from gpuctl.errors import NOT_FOUND, RefusedError
from gpuctl.render.jobs import ENDS
from gpuctl.session import note

Job = dict[str, Any]
_ROWS_MOST = 10_000  # that gpud lists at once
_FEW = 20  # jobs that are looked at one by one: what is asked counts
_LISTED = 5_000  # together, beyond that


def exit_status(answer: dict[str, Any]) -> int:
    """Return what to exit with for an ended job, or array, as `show` gives it: the status of its last attempt.

    128+N for signal N; 127 or 126 for a job that could not be started, as a shell would; 1 for one that did not
    complete and has no status of its own. An array: its first element's that is not 0.
    """
    job = answer["job"]
    if job["state"] == "completed":
        return 0
    for element in sorted(answer.get("elements") or [], key=lambda element: element["array_index"]):
        status = _own_status(element)
        if status:
            return status
    return _own_status(job) or 1


def _own_status(job: Job) -> int:
    if job["signal"] is not None:
        return 128 + int(job["signal"])
    if job["exit_code"] is not None:
        return int(job["exit_code"]) or int(job["state"] != "completed")
    if job["state"] == "failed" and "array" not in job:
        reason = job["reason"] or ""
        return 127 if reason.startswith("no such") or reason.endswith("is missing") else 126
    return int(job["state"] in ENDS and job["state"] != "completed")


class Stuck:
    """Says of a job that is waited for that it is held although its owner did not ask for that: once for each reason.

    That a group is held is a reason that all of its jobs have.
    """

    def __init__(self) -> None:
        self._said: set[tuple[str | None, str]] = set()

    def tell(self, job: Job) -> None:
        """Say why this job does not start by itself."""
        reason = job["reason"] or ""
        said = job["id"] if job.get("after") else None, reason
        if job["state"] == "held" and reason not in ("", "held by its owner") and said not in self._said:
            self._said.add(said)
            note(f"job {job['id']} is held: {reason} (gpuctl why {job['id']})")


def subscribe(client: Client, jobs: Iterable[str]) -> None:
    """Ask for the events of jobs; what happened before is to be looked at after this, so that nothing is missed."""
    client.request("subscribe", jobs=list(dict.fromkeys(job.partition("_")[0] for job in jobs)))


def await_back(client: Client, lost: ConnectionLostError, deadline: float | None = None) -> None:
    """Wait for a gpud that went away; jobs run on meanwhile.

    Raises UnreachableError when one's own cannot start, TimeoutError at the deadline.
    """

    def pause() -> None:
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("gpud has not come back in time") from lost
        time.sleep(0.1)

    note(away(client, lost))
    client.come_back(pause)


def away(client: Client, lost: ConnectionLostError) -> str:
    """Return what a gpud that went away is waited for."""
    if client.was_stopped:
        return f"{lost.message}; it was stopped: waiting for gpuctl daemon start (jobs run on)"
    return f"{lost.message}; waiting for it to come back (jobs run on)"


def wait_for(
    client: Client,
    jobs: Iterable[str],
    ended: Callable[[dict[str, Any]], None],
    *,
    within_s: float | None = None,
    whole: bool = True,
) -> None:
    """Return when every one of these jobs has ended; call `ended` with what `show` says of each, as they end.

    Not `whole`: of jobs that end together it may have the row alone. Raises TimeoutError where they have not ended in
    the time given.
    """
    end = deadline(within_s)
    left = dict.fromkeys(jobs)
    stuck = Stuck()

    def look(among: list[str]) -> None:
        rows = _rows(client, among) if len(among) > _FEW else {}
        for job in among:
            row = rows.get(job)
            if row is not None and "array" not in row and not (whole and row["state"] in ENDS):
                answer = {"job": row}
            else:
                answer = client.request("show", job=job, soon=True)
            if answer["job"]["state"] in ENDS:
                del left[job]
                ended(answer)
            else:
                stuck.tell(answer["job"])

    while left:
        try:
            subscribe(client, left)
            look(list(left))
            while left:
                look(perhaps_ended(pushed(client, end), left))
        except ConnectionLostError as lost:
            await_back(client, lost, end)


def _rows(client: Client, jobs: list[str]) -> dict[str, Job]:
    """Return what a listing says of jobs, as far as it has room for them."""
    spans = [jobs[at : at + _LISTED] for at in range(0, len(jobs), _LISTED)]
    replies = [client.request("list", jobs=span, all=True, limit=_ROWS_MOST) for span in spans]
    return {row["id"]: row for reply in replies for row in reply["jobs"]}


def deadline(within_s: float | None) -> float | None:
    """Return the moment of the monotonic clock at which so long a wait is over."""
    return None if within_s is None else time.monotonic() + within_s


def pushed(client: Client, deadline: float | None) -> list[dict[str, Any]]:
    """Return what gpud pushes next. Raises TimeoutError at the deadline."""
    if deadline is not None and not client.has_pushed():
        poll = select.poll()
        poll.register(client, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("the jobs have not ended in time")
    return client.pushed(wait=True)


def perhaps_ended(pushed: list[dict[str, Any]], among: Iterable[str]) -> list[str]:
    """Return the jobs that an end or a hold was told of, or a change of the array that they have not left yet."""
    events = [message["event"] for message in pushed if "event" in message]
    told = {event["job"] for event in events if event["kind"] in ENDS or event["kind"] == "held"}
    arrays = {event["job"] for event in events}
    return [job for job in among if job in told or ("_" in job and job.partition("_")[0] in arrays)]


def named(client: Client, words: Iterable[str]) -> list[str]:
    """Return the ids that words name, gaps in ranges left out. Raises RefusedError for one that does not exist."""
    ids: list[str] = []
    for word in words:
        number, _, inner = word.partition("_")
        if "-" in number:
            ids += _within(client, word)
        elif inner.isdigit() or not inner:
            client.request("show", job=word, soon=True)
            ids.append(word)
        else:
            indices = _indices_of(client, number)
            ids += [f"{number}_{index}" for span in _spans(inner) for index in indices if index in span]
    return list(dict.fromkeys(ids))


def in_group(client: Client, group: str) -> list[str]:
    """Return the unfinished jobs, and whole arrays, of a group."""
    states = ["held", "queued", "starting", "running", "stopping"]
    reply = client.request("list", group=group, state=states, limit=_ROWS_MOST)
    return [str(number) for number in sorted({int(row["id"].partition("_")[0]) for row in reply["jobs"]})]


def _within(client: Client, span: str) -> list[str]:
    """Return the jobs of a range, in order; where one listing has no room for all, the range is halved."""
    reply = client.request("list", jobs=[span], limit=_ROWS_MOST)
    first, last = map(int, span.split("-"))
    if not reply["more"] or first == last:
        return [str(number) for number in sorted({int(row["id"].partition("_")[0]) for row in reply["jobs"]})]
    middle = (first + last) // 2
    return [*_within(client, f"{first}-{middle}"), *_within(client, f"{middle + 1}-{last}")]


def _indices_of(client: Client, array: str) -> list[int]:
    """Return the indices of an array, in order; none of what is no array, or not there."""
    try:
        spec = client.request("show", job=array, soon=True)["job"].get("array", "")
    except RefusedError as error:
        if error.exit_status == NOT_FOUND:
            return []
        raise
    return [index for span in _spans(spec) for index in span]


def _spans(inner: str) -> list[range]:
    """Return the ranges that indices are written as: `3-9:2,12`, or with brackets around."""
    spans = []
    for part in filter(None, inner.strip("[]").split(",")):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        spans.append(range(int(first), int(last or first) + 1, int(step or 1)))
    return spans
