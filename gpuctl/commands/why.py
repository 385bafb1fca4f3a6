"""Why jobs wait, in the words of the code that decided."""

import time
from typing import Any

import click

from gpuctl import session
from gpuctl.following import progress
from gpuctl.parse import JOB
from gpuctl.render.jobs import ACTIVE, ENDS, how_far
from gpuctl.render.text import clean, in_words
from gpuctl.session import Session, note
from gpuctl.submitting.submission import ordinal


@click.command()
@click.argument("job", required=False, type=JOB)
@session.display
@click.pass_obj
def why(session: Session, job: str | None) -> None:
    """Say why a job waits and when it will start; without JOB, of every job that waits."""
    with session.connect() as client:
        jobs = client.request("why", **({"limit": 20} if job is None else {"job": job}))["jobs"]
        for each in jobs:
            if each["state"] in ACTIVE:
                row = client.request("show", job=each["id"])["job"]
                progress.add([row], client.path)
                each["progress"] = row["progress"]
    if session.json:
        session.print_json(jobs)
    elif not jobs:
        note("no job waits")
    else:
        session.show([line for each in jobs for line in _lines(each)])


def _lines(job: dict[str, Any]) -> list[str]:
    if job["state"] in ENDS:
        reason = f"has ended; {job['reason']}" if job.get("reason") else "has ended"
    elif job["state"] in ACTIVE:
        reason = "; ".join(filter(None, ("it does not wait", job.get("reason"))))
    else:
        reason = job.get("reason") or "nothing keeps it"
    lines = [clean(f"job {job['id']} ({job['state'].replace('_', ' ')}): {reason}")]
    if job.get("position") is not None:
        lines.append(f"  {ordinal(job['position'])} in line")
    if job.get("expected_start_at") is not None:
        lines.append(f"  expected to start {in_words(job['expected_start_at'], time.time())}")
    elif job.get("expected_start_unknown"):
        lines.append(f"  nobody can tell when it starts: {clean(job['expected_start_unknown'])}")
    lines += [f"  {clean(line)}" for line in job.get("details") or []]
    if told := how_far(job):
        lines.append(f"  {clean(told)}: {'as it told' if job['progress']['told'] else 'read in its log'}")
    if job.get("hint"):
        lines.append(f"  hint: {clean(job['hint'])}")
    return lines
