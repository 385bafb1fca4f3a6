"""Everything about one job."""

from collections.abc import Sequence
from typing import Any

import click

from gpuctl import session
from gpuctl.client import Client
from gpuctl.errors import GpuctlError
from gpuctl.following import progress
from gpuctl.following.logs import Log, LogError
from gpuctl.parse import is_one, jobs_argument
from gpuctl.render import results
from gpuctl.render.jobs import whole
from gpuctl.render.plain import reply
from gpuctl.render.text import clean
from gpuctl.session import Session

_LINES = 20
_MOST = 10_000  # rows that gpud lists at once
_TAIL = 1 << 16  # bytes; of a line that is longer its end


@click.command()
@jobs_argument(required=True)
@click.option("--csv", is_flag=True, help="What they used, as comma-separated values, a line each.")
@session.display
@click.pass_obj
def show(session: Session, jobs: tuple[str, ...], *, csv: bool) -> None:
    """Show everything about jobs, arrays or arrays' elements.

    Of an ended job first who or what ended it, and last the end of what it printed. With --json an object, of several
    jobs an array of them.
    """
    with session.connect() as client:
        if csv and not session.json:
            session.show(results.csv_lines(_listed(client, jobs, results=True)))
            return
        answers = [reply(client.request("show", job=job)) for job in _meant(client, jobs)]
        for answer in answers:
            progress.add([answer["job"], *answer.get("elements", ())], client.path)
            answer["stopped"] = "://" not in client.path and _is_stopped(answer)
    if session.json:
        documents = [{**answer.pop("job"), **answer} for answer in answers]
        session.print_json(documents[0] if len(jobs) == 1 and is_one(jobs[0]) else documents)
        return
    pages = [[*whole(answer), *_last_lines(answer["job"])] for answer in answers]
    session.show([line for page in pages for line in ("", *page)][1:])


def _is_stopped(answer: dict[str, Any]) -> bool:
    """Return whether a job that runs on this machine stands still, as after the signal STOP."""
    pid = answer["attempts"][-1]["pid"] if answer["job"]["state"] == "running" and answer["attempts"] else None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return False


def _listed(client: Client, jobs: Sequence[str], **more: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.request("list", jobs=list(jobs), limit=_MOST, **more)["jobs"]
    return found


def _meant(client: Client, jobs: Sequence[str]) -> list[str]:
    """Return the jobs that these words name, one by one: of a range, arrays as a whole. Raises RefusedError."""
    meant: dict[str, None] = {}
    for word in jobs:
        elements = "_" in word
        found = [word] if is_one(word) else [job["id"] for job in _listed(client, [word])]
        meant |= dict.fromkeys(job if elements else job.partition("_")[0] for job in found if "[" not in job)
    if not meant:
        raise GpuctlError("no such jobs", hint="see what there is: gpuctl list --all")
    return list(meant)


def _last_lines(job: dict[str, Any]) -> list[str]:
    """Return the end of what an ended job printed, as far as whoever asks may read it."""
    if job["ended_at"] is None or job["started_at"] is None or not job["output"] or "array" in job:
        return []
    log, tail = Log(job["output"], owner=job["uid"]), b""
    try:
        log.start_at_last(_LINES)
        for piece in log.read():
            tail = (tail + piece)[-_TAIL:]
    except LogError:
        return []
    finally:
        log.close()
    lines = [clean(line.rpartition("\r")[2]) for line in tail.decode(errors="replace").split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return ["  the end of its output", *(f"    {line}" for line in lines[-_LINES:])] if lines else []
