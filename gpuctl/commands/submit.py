"""Queue a job. The one command whose start-up time people and scripts feel: it imports next to nothing."""

from typing import TYPE_CHECKING, Any

import click

from gpuctl.client import Client
from gpuctl.errors import OutputError, RefusedError, UsageError
from gpuctl.session import Session, note, on_terminal
from gpuctl.submitting import options, places, submission

if TYPE_CHECKING:
    from gpuctl.submitting.directives import Script


def _one(_context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> str | None:
    """Return the file that is named. Raises UsageError for several: Click takes the last, and says nothing."""
    if len(files) > 1:
        hint = f"one after the other, or: cat {' '.join(files)} | gpuctl submit -f -"
        raise UsageError("several files of jobs", hint=hint)
    return files[0] if files else None


@click.command(cls=options.WordsCommand)
@options.options
@click.option(
    *("-f", "--file"),
    metavar="FILE",
    multiple=True,
    callback=_one,
    help="Many jobs, one a line, or in TOML; all are queued, or none.",
)
@click.option("--dry-run", is_flag=True, help="Check it, say what was understood, queue nothing.")
@click.pass_context
def submit(context: click.Context, /, dry_run: bool, file: str | None, **given: Any) -> None:
    """Queue a command, or a script, and print the job's id.

    The command runs without a shell, as you, in this directory, with this environment; its stdin is /dev/null. A first
    word that is a file with a #! line is a script, and - one that is piped in: a copy of it is run, so that you may
    edit it meanwhile. Behind -- the words are run as they are: a script then, too, as it is when the job starts.
    Options may stand in a script's first comments: #GPUCTL --gpus 2, and #SBATCH lines; those given here win.

    \b
      gpuctl submit -- python train.py --lr 0.1
      gpuctl submit -g 4 --gpu-memory 80G -t 12h ./job.sh
      gpuctl submit -f jobs.txt --group sweep
      gpuctl submit --array 0-99%8 -- bash -c 'python eval.py --seed $GPUD_ARRAY_INDEX'
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    session: Session = context.obj
    if file is not None:
        _submit_file(context, file, dry_run=dry_run)
        return
    if given["key"] is not None and given["group"] is None:
        raise UsageError("--key names a job in its group", hint="add --group NAME")
    fields, script = submission.asked(given, literal=context.meta["gpuctl.literal"])
    places.expect_program(fields)
    if dry_run:
        _show_understood(context, fields, script)
        return
    if on_terminal() or session.json:
        fields["next"] = True
    with session.connect() as client:
        reply = _queue(client, fields, script)
        job = reply["job"]
        try:
            if session.json:
                session.print_json(client.request("show", job=job)["job"])
            else:
                click.echo(job)
        except OutputError as error:
            raise OutputError(f"{error.why}; the job is queued: {job}") from error
    if "there" in reply:
        note(f"already there: {reply['there'].replace('_', ' ')}")
    elif "done" in reply:
        note(f"elements {reply['done']} have completed before: the others run")
    elif on_terminal():
        note(submission.next_words(job, reply))


def _submit_file(context: click.Context, file: str, *, dry_run: bool) -> None:
    """Queue the jobs of a file, and print their ids in its order. Raises UsageError, RefusedError."""
    from gpuctl.submitting import sweeps  # noqa: PLC0415 - one job has no time for it

    session: Session = context.obj
    if context.params["command"]:
        raise UsageError("the commands are in the file", hint="leave the command out, or --file")
    if context.params["key"] is not None:
        raise UsageError(
            "one key would be all jobs'", hint="say it in the file, job by job; without, it is the command"
        )
    jobs = sweeps.read(file, context)
    with session.connect() as client:
        reply = sweeps.send(client, jobs, dry_run=dry_run)
    if session.json:
        session.print_json(sweeps.understood(jobs, reply))
    elif dry_run:
        click.echo("\n".join(map(sweeps.line, jobs)))
    else:
        click.echo("\n".join(reply["jobs"]))
    if odd := sweeps.unexpanded(jobs):
        note(odd)
    if dry_run or reply["there"] or reply.get("done") or reply.get("held") or on_terminal():
        note(sweeps.said(reply, dry_run=dry_run))


def _queue(client: Client, fields: dict[str, Any], script: "Script | None") -> dict[str, Any]:
    """Queue a job, or ask whether it could be. Raises RefusedError, with what to type instead."""
    try:
        return client.request("submit", nonce=submission.new_nonce(), **fields)
    except RefusedError as error:
        if error.code == "never_fits" and script is not None:
            error.hint = "; ".join(filter(None, (error.hint, script.hint_for(error.message)))) or None
        raise


def _show_understood(context: click.Context, fields: dict[str, Any], script: "Script | None") -> None:
    """Say what was understood, and whether it would be queued. Raises RefusedError."""
    from gpuctl.submitting import understanding  # noqa: PLC0415 - only a dry run tells

    session: Session = context.obj
    given = context.params if script is None else script.given
    literal = context.meta["gpuctl.literal"]
    words = understanding.written(context.command, submission.with_preferences(given), literal=literal)
    refused = None
    with session.connect() as client:
        try:
            _queue(client, fields | {"dry_run": True}, script)
        except RefusedError as error:
            refused = error
    if session.json:
        session.print_json(understanding.document(words, fields, script, refused))
    else:
        click.echo(understanding.line(words))
    for word in understanding.beside(script):
        note(word)
    if refused is not None:
        raise refused
    note("a dry run: it would be queued")
