"""Everything about one job."""

from typing import Any

import click

from gpuctl import progress, session
from gpuctl.following import Log, LogError
from gpuctl.parse import JOB
from gpuctl.render import results
from gpuctl.render.jobs import whole
from gpuctl.render.plain import reply
from gpuctl.render.text import clean
from gpuctl.session import Session

_LINES = 20
_TAIL = 1 << 16  # bytes; of a line that is longer its end


@click.command()
@click.argument("job", type=JOB)
@click.option("--csv", is_flag=True, help="What it used, as comma-separated values.")
@session.display
@click.pass_obj
def show(session: Session, job: str, *, csv: bool) -> None:
    """Show everything about a job, an array or an array's element.

    Of an ended job first who or what ended it, and last the end of what it printed.
    """
    with session.connect() as client:
        answer = reply(client.request("show", job=job))
        progress.add([answer["job"], *answer.get("elements", ())], client.path)
    if session.json:
        session.print_json({**answer.pop("job"), **answer})
    elif csv:
        session.show(results.csv_lines(answer["job"], answer.get("results")))
    else:
        session.show([*whole(answer), *_last_lines(answer["job"])])


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
