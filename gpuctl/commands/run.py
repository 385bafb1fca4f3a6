"""Submit a job, show what it prints, exit as it exits; the job does not depend on this program living."""

import fcntl
import os
import stat
import termios
from array import array
from typing import Any

import click

from gpuctl import options, submission
from gpuctl.cli import JobStatusCommand
from gpuctl.errors import UsageError
from gpuctl.follower import Follower, Interrupts, sizes
from gpuctl.interruption import INTERRUPTED
from gpuctl.render.jobs import written_end
from gpuctl.session import Session, note, on_terminal
from gpuctl.waiting import exit_status


class RunCommand(options.WordsCommand, JobStatusCommand):
    """Words as submit takes them, and the job's exit status."""


@click.command(cls=RunCommand)
@options.options
@click.pass_context
def run(context: click.Context, /, **given: Any) -> int:
    """Queue a command as `submit` does, show its output, and exit as it exits. Its stdin is /dev/null.

    Ctrl-C cancels a job that waits and interrupts one that runs; a second one cancels it. The job lives on when the
    terminal goes: see it again with `gpuctl logs -f`. Exits with 128+N for signal N, with 127 or 126 when the command
    could not be started, with 125 when gpuctl itself fails. With --json its output goes to stderr, and stdout holds the
    job, when it has ended, as a JSON document.
    """
    session: Session = context.obj
    fields = submission.fields(given, literal=context.meta["gpuctl.literal"])
    if "array" in fields:
        raise UsageError("run shows one job, not an array", hint="gpuctl submit --array ..., then gpuctl wait ID")
    if _is_piped():
        note("what is piped in is not passed on: a job's stdin is /dev/null")
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


def _is_piped() -> bool:
    """Return whether something waits on stdin that somebody could take to reach the job."""
    kind = os.fstat(0).st_mode
    if stat.S_ISREG(kind):
        return os.fstat(0).st_size > os.lseek(0, 0, os.SEEK_CUR)
    if not stat.S_ISFIFO(kind):
        return False
    waiting = array("i", [0])
    fcntl.ioctl(0, termios.FIONREAD, waiting)
    return waiting[0] > 0
