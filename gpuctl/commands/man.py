"""The manual pages, made from the commands."""

import os

import click

from gpuctl import session
from gpuctl.errors import GpuctlError
from gpuctl.render import man as render
from gpuctl.session import Session, note
from gpud import __version__


@click.command()
@click.argument("directory", required=False, type=click.Path(file_okay=False), metavar="[DIR]")
@session.options
@click.pass_context
def man(context: click.Context, directory: str | None) -> None:
    """Write the manual pages, gpuctl.1 and one for each command, to a directory.

    Without DIR that is ~/.local/share/man/man1, where man looks if ~/.local/bin is on your PATH: man gpuctl-submit.
    """
    session: Session = context.obj
    root = context.find_root().command
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    directory = directory or os.path.join(data, "man", "man1")
    pages = render.pages(root, __version__) if isinstance(root, click.Group) else {}
    try:
        os.makedirs(directory, exist_ok=True)
        for name, text in pages.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise GpuctlError(
            f"cannot write to {directory}: {error.strerror}", hint="name another: gpuctl man DIR"
        ) from error
    if session.json:
        session.print_json({"directory": directory, "pages": sorted(pages)})
    else:
        note(f"wrote {len(pages)} pages to {directory}")
