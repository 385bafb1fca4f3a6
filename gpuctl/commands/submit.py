"""Queue a job. The one command whose start-up time people and scripts feel: it imports next to nothing."""

from typing import Any

import click

from gpuctl import options, submission
from gpuctl.errors import OutputError
from gpuctl.session import Session, note, on_terminal


@click.command(cls=options.WordsCommand)
@options.options
@click.option("--dry-run", is_flag=True, help="Check it, queue nothing.")
@click.pass_context
def submit(context: click.Context, /, dry_run: bool, **given: Any) -> None:
    """Queue a command, or a script, and print the job's id.

    The command runs without a shell, as you, in this directory, with this environment; its stdin is /dev/null. A first
    word that is a file with a #! line is a script: a copy of it is kept, so that you may edit it meanwhile. Behind --
    the words are run as they are: a script then, too, as it is when the job starts.

    \b
      gpuctl submit -- python train.py --lr 0.1
      gpuctl submit -g 4 --gpu-memory 80G -t 12h ./job.sh
      gpuctl submit --array 0-99%8 -- bash -c 'python eval.py --seed $GPUD_ARRAY_INDEX'
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    session: Session = context.obj
    fields = submission.fields(given, literal=context.meta["gpuctl.literal"])
    if dry_run:
        fields["dry_run"] = True
    if on_terminal() or session.json:
        fields["next"] = True
    with session.connect() as client:
        reply = client.request("submit", nonce=submission.new_nonce(), **fields)
        job = reply["job"]
        try:
            if session.json:
                known = {"id": job, "queue_position": reply.get("position"), "reason": reply.get("reason")}
                session.print_json(known if job is None else client.request("show", job=job)["job"])
            elif job is not None:
                click.echo(job)
        except OutputError as error:
            if job is None:
                raise
            raise OutputError(f"{error.why}; the job is queued: {job}") from error
    if job is None:
        note("a dry run: it would be queued")
    elif on_terminal():
        note(submission.next_words(job, reply))
