"""A copy of the queue and its history, to keep elsewhere."""

import os
import shutil
from contextlib import suppress

import click

from gpuctl import session
from gpuctl.errors import GpuctlError
from gpuctl.session import Session, note
from gpud.model.units import format_size


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@session.options
@click.pass_obj
def backup(session: Session, file: str) -> None:
    """Write a copy of the queue and its history, while gpud runs on; FILE is replaced if it is there.

    It holds no environments, so no tokens: jobs that wait are held in it, to be submitted anew. To go on from it: stop
    gpud, put it in the place of gpud.db in the state directory (gpuctl daemon status), and start gpud.
    """
    with session.connect(start=False) as client:
        made = client.request("backup")
    path = str(made["path"])
    try:
        if os.path.realpath(os.path.dirname(os.path.abspath(file))) == os.path.realpath(f"{path}/../.."):
            raise GpuctlError(f"{file} would lie among gpud's own files", hint="name another directory")
        if os.path.lexists(file) and (os.path.islink(file) or not os.path.isfile(file)):  # as /dev/stdout
            raise GpuctlError(f"{file} is there, and no file to replace", hint="name a new one")
        _keep(path, os.path.abspath(file))
    except OSError as error:
        raise GpuctlError(f"cannot write {error.filename or file}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            os.unlink(path)
    if session.json:
        session.print_json({"file": os.path.abspath(file), "bytes": made["bytes"]})
    else:
        note(f"{file}: {format_size(max(1, made['bytes'] >> 20))}")


def _keep(path: str, target: str) -> None:
    """Copy a file for its owner's eyes alone, whole or not at all."""
    new = f"{target}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(made, "wb") as copy, open(path, "rb") as source:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(new, target)
    finally:
        with suppress(OSError):
            os.unlink(new)
