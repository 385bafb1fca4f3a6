"""A command inside a running job: to look at it from there."""

import os
from typing import Any

import click

from gpuctl import session
from gpuctl.cli import JobStatusCommand
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following import attaching
from gpuctl.following.waiting import subscribe
from gpuctl.parse import JOB
from gpuctl.session import Session, note

_BEGINS_WITHIN_S = 30.0  # on the most loaded machine; what has not then never will


class ExecCommand(JobStatusCommand):
    """A command whose options end at the job; `--` may stand behind that."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; leave the words of the command alone."""
        ctx.allow_interspersed_args = False
        return super().parse_args(ctx, args)


@click.command("exec", cls=ExecCommand)
@click.option("-t/-T", "--pty/--no-pty", "pty", default=None, help="On a terminal (default: where this is one).")
@click.argument("job", type=JOB)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]...")
@session.options
@click.pass_obj
def exec_(session: Session, job: str, command: tuple[str, ...], *, pty: bool | None) -> int:
    """Run a command inside a running job of yours, and exit as it exits.

    \b
      gpuctl exec 12 -- nvidia-smi
      gpuctl exec 12 -- py-spy dump --pid 4242
      gpuctl exec 12 -- bash

    It has the job's environment, directory, GPUs, fence and limits, and ends with the job at the latest, or when you
    leave: then it is hung up. Without a terminal what is piped in is passed on.
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    words = list(command[1:] if command[:1] == ("--",) else command)
    if not words:
        raise UsageError("nothing to run", hint=f"write: gpuctl exec {job} -- nvidia-smi")
    if words[0].startswith("-"):
        raise UsageError(f"{words[0]} stands behind the job", hint=f"write: gpuctl exec {words[0]} {job} -- nvidia-smi")
    if session.json:
        raise UsageError("exec shows what the command prints", hint="leave --json out")
    if pty is None:
        pty = os.isatty(0) and os.isatty(1)
    asked: dict[str, Any] = {"job": job, "command": words}
    if pty:
        attaching.check_terminal()
        asked |= {"terminal": [*attaching.size_of(0)], "term": os.environ.get("TERM", "dumb")}
    with session.connect() as client:
        subscribe(client, [job])
        reply = client.request("exec", **asked)
        if reply["fault"] is not None:
            note(f"it could not start: {reply['fault']}")
            return 127 if reply["not_found"] else 126
        connection = attaching.connect(reply["terminal"], client, _BEGINS_WITHIN_S)
        while connection is None and client.request("show", job=job)["job"]["state"] == "running":
            client.pushed(wait=False)
            connection = attaching.connect(reply["terminal"], client, _BEGINS_WITHIN_S)
    if connection is None:
        raise GpuctlError(f"job {job} has ended", hint=f"gpuctl show {job}")
    with attaching.Attachment(connection, raw=pty) as attachment:
        attachment.talk()
    if attachment.code is None:
        if attachment.detached:
            return 0
        raise GpuctlError(f"the command ended with job {job}", hint=f"gpuctl show {job}")
    return attachment.code if attachment.code >= 0 else 128 - attachment.code
