"""Submit a job, show what it prints, exit as it exits; the job does not depend on this program living."""

from typing import Any

import click

from gpuctl import submission
from gpuctl.cli import JobStatusCommand
from gpuctl.errors import UsageError
from gpuctl.follower import Follower, Interrupts, sizes
from gpuctl.interruption import INTERRUPTED
from gpuctl.render.jobs import written_end
from gpuctl.session import Session, note, on_terminal
from gpuctl.waiting import exit_status


class RunCommand(submission.WordsCommand, JobStatusCommand):
    """Words as submit takes them, and the job's exit status."""


@click.command(cls=RunCommand)
@submission.options
@click.pass_context
def run(context: click.Context, /, **given: Any) -> int:
    """Queue a command as `submit` does, show its output, and exit as it exits.

    Ctrl-C cancels a job that waits and interrupts one that runs; a second one cancels it. The job lives on when the
    terminal goes: see it again with `gpuctl logs -f`. Exits with 128+N for signal N, with 127 or 126 when the command
    could not be started, with 125 when gpuctl itself fails. With --json its output goes to stderr, and stdout holds the
    job, when it has ended, as a JSON document.
    """
    session: Session = context.obj
    fields = submission.fields(given, literal=context.meta["gpuctl.literal"])
    if "array" in fields:
        raise UsageError("run shows one job, not an array", hint="gpuctl submit --array ..., then gpuctl wait ID")
    shown_on = 2 if session.json else 1
    before = sizes(filter(None, (fields.get("output"), fields.get("error"))))
    with session.connect() as client, Interrupts(client) as interrupts:  # a job may have been queued from here on
        reply = client.request("submit", nonce=submission.new_nonce(), next=True, **fields)
        if on_terminal():
            note(submission.next_words(reply["job"], reply))
        answer = Follower(client, reply["job"], skip=before, interrupts=interrupts, descriptor=shown_on).follow()
    job = answer["job"]
    if session.json:
        session.print_json(job)
    elif job["state"] != "completed" and (on_terminal() or not job["exit_code"]):
        note(written_end(job))
    if interrupts.count and job["state"] == "cancelled" and job["started_at"] is None:
        return INTERRUPTED
    return exit_status(answer)
