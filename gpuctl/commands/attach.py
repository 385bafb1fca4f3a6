"""Come back to a job: to its terminal, or to its output."""

import click

from gpuctl import session
from gpuctl.cli import JobStatusCommand
from gpuctl.commands.logs import say_if_waiting
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following.follower import Follower
from gpuctl.following.waiting import exit_status
from gpuctl.parse import JOB
from gpuctl.render.jobs import written_end
from gpuctl.session import Session, note, on_terminal


@click.command(cls=JobStatusCommand)
@click.argument("job", type=JOB)
@session.options
@click.pass_obj
def attach(session: Session, job: str) -> int:
    r"""Come back to a job that was started with run, and exit as it exits.

    To its terminal, where it has one (`run --pty`): several may sit there, and its size is that of who came last.
    Ctrl-\ d leaves it again, Ctrl-\ twice types one. Of another job to its output, from the beginning; Ctrl-C leaves
    it, and the job runs on.
    """
    if session.json:
        raise UsageError("attach shows a job to a person", hint="gpuctl show --json, gpuctl logs -f")
    with session.connect() as client:
        shown = client.request("show", job=job)["job"]
        if "array" in shown:
            raise GpuctlError(f"job {job} is an array", hint=f"name an element: gpuctl attach {job}_0")
        if shown["terminal"] is not None:
            from gpuctl.following import attaching  # noqa: PLC0415 - only for terminals

            attaching.check_terminal("attach", f"to see its output: gpuctl logs -f {job}")
            answer = attaching.attend(client, job)
            if answer is None:
                note(f"left job {job}; back to it: gpuctl attach {job}")
                return 0
        else:
            say_if_waiting(shown)
            try:
                answer = Follower(client, job).follow()
            except KeyboardInterrupt:
                note(f"left job {job}, which runs on: gpuctl attach {job}, gpuctl cancel {job}")
                return 0
    ended = answer["job"]
    if ended["state"] != "completed" and (on_terminal() or not ended["exit_code"]):
        note(written_end(ended))
    return exit_status(answer)
