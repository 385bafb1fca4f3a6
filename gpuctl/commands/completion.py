"""Completion for bash, zsh and fish: static files, made from the commands; Python runs on TAB for jobs' ids alone.

Commands and options are words that a shell can know by itself; asking Python for them would cost 60 ms a TAB.
`completions/` holds what `gpuctl completion SHELL` prints; a test fails when that is stale.
"""

from typing import TYPE_CHECKING, Any

import click

from gpuctl.client import Client
from gpuctl.errors import GpuctlError
from gpuctl.render import completion as render
from gpuctl.session import Session

_WRITERS = {"bash": render.bash, "zsh": render.zsh, "fish": render.fish}
_UNFINISHED = ("held", "queued", "starting", "running", "stopping")


class _Shells(click.Choice[str] if TYPE_CHECKING else click.Choice):  # type: ignore[misc]  # generic since Click 8.2
    """The shells; what their files ask for on TAB is understood too, and offered to nobody."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the shell, or what is asked for. Raises BadParameter."""
        return value if value in render.ASKED else super().convert(value, param, ctx)


@click.command()
@click.argument("shell", type=_Shells(list(_WRITERS)), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion of a shell, to be kept where the shell looks for it.

    \b
      gpuctl completion bash > ~/.local/share/bash-completion/completions/gpuctl
      gpuctl completion zsh > ~/.zfunc/_gpuctl      (a directory in $fpath)
      gpuctl completion fish > ~/.config/fish/completions/gpuctl.fish
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    root = context.find_root()
    session = root.ensure_object(Session)
    if shell in render.ASKED:
        _answer(session, shell)
        return
    script = _WRITERS[shell](render.tree(root.command))
    if session.json:
        session.print_json({"shell": shell, "script": script})
    else:
        click.echo(script, nl=False)


def _answer(session: Session, asked: str) -> None:
    """Print words, each with a tab and what it is. A shell asks on TAB: nothing is started for it."""
    try:
        with session.connect(start=False) as client:
            words = _gpus(client) if asked == "gpus" else _jobs(client, live=asked == "live")
    except GpuctlError:
        return
    for word, what in words:
        click.echo(f"{word}\t{what}")


def _jobs(client: Client, *, live: bool) -> list[tuple[str, str]]:
    jobs = client.request("list", limit=200, **({"state": _UNFINISHED} if live else {}))["jobs"]
    return [(job["id"], f"{job['state']} {job['name']}") for job in jobs]


def _gpus(client: Client) -> list[tuple[str, str]]:
    gpus = [gpu for gpu in client.request("gpus", fresh=False)["gpus"] if gpu["index"] is not None]
    nodes = client.request("nodes")["nodes"]
    alone = len(nodes) == 1
    words = [(str(gpu["index"]) if alone else f"{gpu['node']}:{gpu['index']}", gpu) for gpu in gpus]
    return [(word, f"{gpu['state']} {gpu['name']}") for word, gpu in words] + [
        (node["name"], f"{node['state']}, {node['gpus']} GPUs") for node in nodes
    ]
