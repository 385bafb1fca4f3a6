"""Wait for jobs to end, told by gpud, and exit as they did."""

from typing import Any

import click

from gpuctl import session
from gpuctl.cli import JobStatusCommand
from gpuctl.client import Client
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following.waiting import exit_status, in_group, named, wait_for
from gpuctl.parse import jobs_argument
from gpuctl.render.jobs import written_end
from gpuctl.session import Session, note


@click.command(cls=JobStatusCommand)
@jobs_argument()
@click.option("--group", metavar="NAME", help="The jobs of this group.")
@session.options
@click.pass_obj
def wait(session: Session, jobs: tuple[str, ...], group: str | None) -> int:
    """Wait until these jobs have ended.

    Exits with the job's own status (128+N for signal N); of several, with the first that is not 0, in the order
    given; of a group also where one had not completed before; with 125 when it fails itself.
    """
    if not jobs and group is None:
        raise UsageError("no job named", hint="name jobs (12, 12_7, 3-9), or a group: --group NAME")
    answers: dict[str, dict[str, Any]] = {}

    def ended(answer: dict[str, Any]) -> None:
        answers[answer["job"]["id"]] = answer
        if not session.json:
            note(written_end(answer["job"]))

    with session.connect() as client:
        ids = [*named(client, jobs), *(in_group(client, group) if group is not None else ())]
        if not ids and group is None:
            raise GpuctlError(f"no such jobs: {' '.join(jobs)}", hint="gpuctl list --all")
        wait_for(client, ids, ended, whole=False)
        status = next(filter(None, (exit_status(answers[job]) for job in ids)), 0)
        if not status and group is not None:
            status = _status_of(client, group, said=not session.json and not ids)
    if session.json:
        session.print_json([answers[job]["job"] for job in ids])
    return status


def _status_of(client: Client, group: str, *, said: bool) -> int:
    """Return what a group that is done comes to, those included that ended before anybody waited; of a key the newest.

    Raises RefusedError where there is no such group.
    """
    groups = client.request("groups", name=group)["groups"]
    bad = sum(each["done"] - each["counts"].get("completed", 0) for each in groups)
    if said:
        note(f"group {group} has no unfinished jobs{f'; {bad} of it did not complete' if bad else ''}")
    failed = next((each["failed"] for each in groups if each["failed"] is not None), None)
    if not bad or failed is None:
        return int(bad > 0)
    return exit_status(client.request("show", job=failed))
