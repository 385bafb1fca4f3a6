"""What a job printed, read from its file by whoever asks."""

from typing import Any

import click

from gpuctl import session
from gpuctl.client import Client
from gpuctl.errors import GpuctlError, NotPermittedError, UsageError
from gpuctl.following.follower import Follower, shown
from gpuctl.following.logs import Log
from gpuctl.parse import COUNT, JOB, POSITIVE
from gpuctl.render.jobs import ENDS, written_end
from gpuctl.session import Session, note, on_terminal


@click.command()
@click.argument("job", required=False, type=JOB)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("-n", "--lines", type=COUNT, help="Only the last N lines.")
@click.option("--attempt", type=POSITIVE, help="Of an earlier attempt, not the last.")
@session.options
@click.pass_obj
def logs(session: Session, job: str | None, follow: bool, lines: int | None, attempt: int | None) -> None:
    """Print a job's output; without JOB, that of your job that started last.

    `-f` waits for a job that has not started. Where errors go to a file of their own, `-f` shows them on stderr.
    With --json: the file's name, and with -n its last lines.
    """
    if follow and (session.json or attempt is not None):
        other = "--json" if session.json else "--attempt"
        raise UsageError(f"-f follows a job to its end, which {other} cannot", hint="leave out one of the two")
    with session.connect() as client:
        if job is None:
            job = _last_started(client)
            if on_terminal():
                note(f"the output of job {job}")
        answer = client.request("show", job=job)
        _refuse_array(answer)
        if attempt is None and not follow:
            attempt = _between(answer)
        if attempt is not None:
            answer["job"] |= _of_attempt(answer, attempt)
        if session.json:
            said = {key: answer["job"][key] for key in ("id", "state", "attempt", "output", "error")}
            session.print_json(said if lines is None else said | {"lines": _last_lines(answer["job"], lines)})
        elif follow:
            say_if_waiting(answer["job"])
            ended = Follower(client, job, lines=lines, reader=1).follow()["job"]
            if ended["state"] != "completed":
                note(written_end(ended))
        else:
            _print(answer["job"], lines)


def say_if_waiting(job: dict[str, Any]) -> None:
    """Say why there is nothing to be seen yet of a job that is waited for."""
    if job["state"] in ("held", "queued"):
        note(f"job {job['id']} {_not_started(job)}: {job['reason'] or job['state']}")


def _not_started(job: dict[str, Any]) -> str:
    return "has not started" if job["attempt"] == 1 else "has not started again"


def _between(answer: dict[str, Any]) -> int | None:
    """Return the last attempt of a job that waits for another, and say so; None of one that runs, or never did."""
    job = answer["job"]
    before = [each["attempt"] for each in answer["attempts"] if each["started_at"] is not None]
    if job["started_at"] is not None or job["state"] in ENDS or not before:
        return None
    note(f"the output of attempt {before[-1]}; job {job['id']} {_not_started(job)}: {job['reason'] or job['state']}")
    return int(before[-1])


def _of_attempt(answer: dict[str, Any], attempt: int) -> dict[str, Any]:
    """Return what is different about a job in one of its attempts. Raises GpuctlError for one there was not."""
    known = {each["attempt"]: each for each in answer["attempts"]}
    if attempt not in known:
        there = ", ".join(map(str, known)) or "none yet"
        raise GpuctlError(f"job {answer['job']['id']} has no attempt {attempt}", hint=f"its attempts: {there}")
    return {key: known[attempt][key] for key in ("attempt", "started_at", "output")}


def _last_lines(job: dict[str, Any], lines: int) -> list[str]:
    if job["output"] is None:
        return []
    log = Log(job["output"], owner=job["uid"])
    log.start_at_last(lines)
    return log.lines()


def _print(job: dict[str, Any], lines: int | None) -> None:
    if job["started_at"] is None and job["state"] in ENDS:
        raise GpuctlError(f"job {job['id']} has no output: it never started; {written_end(job)}")
    if job["started_at"] is None:
        why = job["reason"] or job["state"]
        hint = f"wait for it with: gpuctl logs -f {job['id']}"
        raise GpuctlError(f"job {job['id']} has not started: {why}", hint=hint)
    if job["output"] is None:
        raise NotPermittedError(f"the output of job {job['id']} is not yours to see")
    log = Log(job["output"], owner=job["uid"])
    if lines is not None:
        log.start_at_last(lines)
    if not log.there:
        note(f"no output: there is no file {job['output']} (any more)")
    shown(log)
    if job.get("error"):
        note(f"its errors are in {job['error']}")


def _last_started(client: Client) -> str:
    jobs = client.request("list", mine=True, limit=1000)["jobs"]
    started = [job for job in jobs if job["started_at"] is not None]
    if not started:
        raise GpuctlError("none of your jobs has started in the last day", hint="gpuctl list --all --mine")
    return str(max(started, key=lambda job: job["started_at"])["id"])


def _refuse_array(answer: dict[str, Any]) -> None:
    job = answer["job"]
    if "array" in job and job["array_index"] is None:
        started = [element["id"] for element in answer.get("elements") or [] if element["started_at"] is not None]
        hint = f"name an element: gpuctl logs {started[-1]}" if started else "none of its elements has started"
        raise GpuctlError(f"job {job['id']} is an array; each element has its own output", hint=hint)
