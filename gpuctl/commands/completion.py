"""Completion for bash, zsh and fish: static files, made from the commands; Python runs on TAB for jobs' ids alone.

Commands and options are words that a shell can know by itself; asking Python for them would cost 60 ms a TAB.
`completions/` holds what `gpuctl completion SHELL` prints; a test fails when that is stale.
"""

import click

from gpuctl.errors import GpuctlError
from gpuctl.render import completion as render
from gpuctl.session import Session

_WRITERS = {"bash": render.bash, "zsh": render.zsh, "fish": render.fish}


@click.command()
@click.argument("shell", type=click.Choice([*_WRITERS, "ids"]), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion of a shell, to be kept where the shell looks for it.

    \b
      gpuctl completion bash > ~/.local/share/bash-completion/completions/gpuctl
      gpuctl completion zsh > ~/.zfunc/_gpuctl      (a directory in $fpath)
      gpuctl completion fish > ~/.config/fish/completions/gpuctl.fish
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    root = context.find_root()
    if shell == "ids":
        _print_ids(root.ensure_object(Session))
        return
    script = _WRITERS[shell](render.tree(root.command))
    session = root.ensure_object(Session)
    if session.json:
        session.print_json({"shell": shell, "script": script})
    else:
        click.echo(script, nl=False)


def _print_ids(session: Session) -> None:
    """Print the ids of jobs, each with a tab and what it is. A shell asks on TAB: nothing is started for it."""
    try:
        with session.connect(start=False) as client:
            jobs = client.request("list", limit=200)["jobs"]
    except GpuctlError:
        return
    for job in jobs:
        click.echo(f"{job['id']}\t{job['state']} {job['name']}")
