"""Tell how far the job is that this runs in."""

import os

import click

from gpuctl.errors import GpuctlError, UsageError
from gpuctl.following import progress as told


@click.command()
@click.argument("done")
@click.option("-m", "--message", metavar="TEXT", help="What it does now.")
def progress(done: str, message: str | None) -> None:
    """Tell, inside a job, how far it is: 40/100, 0.4 or 40%.

    list, show and watch then say so, and how long it takes still. It asks no gpud: a program may as well write the
    same words, and a message behind them, to the file that $GPUD_PROGRESS_FILE names.
    """
    path = os.environ.get("GPUD_PROGRESS_FILE")
    if not path:
        hint = "it is for a job's own commands: gpuctl submit -- bash -c 'gpuctl progress 1/2; ...'"
        raise GpuctlError("this is no job: $GPUD_PROGRESS_FILE is not set", hint=hint)
    if " " in done or told.parse(done) is None:
        raise UsageError(f"{done!r} does not say how far it is", hint="write 40/100, 0.4 or 40%")
    line = " ".join([done, *(message or "").split()])
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"{line}\n")
        os.replace(draft, path)  # nobody reads the half of it
    except OSError as error:
        raise GpuctlError(f"cannot write {path}: {error.strerror}") from error
