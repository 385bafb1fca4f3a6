"""Completion for bash, zsh and fish: static files, made from the commands; Python runs on TAB for names alone.

Commands and options are words that a shell can know by itself; asking Python for them would cost 60 ms a TAB.
`completions/` holds what `gpuctl completion SHELL` prints; a test fails when that is stale.
"""

import os
import signal
from typing import TYPE_CHECKING, Any

import click

from gpuctl import session
from gpuctl.client import Client
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.render import completion as render, verbs
from gpuctl.session import Session, legible, note
from gpud.model.units import plural

WRITERS = {"bash": render.bash, "zsh": render.zsh, "fish": render.fish}
_UNFINISHED = ("held", "queued", "starting", "running", "stopping")
_WITHIN_S = 2  # whoever presses TAB waits no longer for a gpud that is busy


class _Shells(click.Choice[str] if TYPE_CHECKING else click.Choice):  # type: ignore[misc]  # generic since Click 8.2
    """The shells; what their files ask for on TAB is understood too, and offered to nobody."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the shell, or what is asked for. Raises BadParameter."""
        return value if value in verbs.ASKED else super().convert(value, param, ctx)


@click.command()
@click.argument("what", type=_Shells([*WRITERS, "install"]), metavar="install|bash|zsh|fish")
@click.argument("shell", type=click.Choice(list(WRITERS)), required=False, metavar="[SHELL]")
@click.option("--uninstall", is_flag=True, help="With install: take it away again.")
@session.options
@click.pass_context
def completion(context: click.Context, what: str, shell: str | None, *, uninstall: bool) -> None:
    """Install the completions of your shell, or print them.

    `install` finds out which shell that is, writes the file where it looks for it, and says what it did. Once
    installed, TAB knows commands, options, jobs, groups, GPUs, nodes, tenants and users.

    \b
      gpuctl completion install
      gpuctl completion zsh > ~/.zfunc/_gpuctl      (a directory in $fpath)
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    root = context.find_root()
    session = root.ensure_object(Session)
    if what in verbs.ASKED:
        _answer(session, what)
        return
    if what != "install" and (shell is not None or uninstall):
        raise UsageError(f"this prints the completion of {what}", hint=f"gpuctl completion install {what}")
    if what == "install":
        _install(session, root.command, shell, uninstall=uninstall)
        return
    script = WRITERS[what](verbs.tree(root.command))
    if session.json:
        session.print_json({"shell": what, "script": script})
    else:
        click.echo(script, nl=False)


def _install(session: Session, command: click.Command, shell: str | None, *, uninstall: bool) -> None:
    from gpuctl.setup import shells  # noqa: PLC0415 - TAB has no time for it

    shell = shell or shells.here()
    done = shells.uninstall(shell) if uninstall else shells.install(shell, WRITERS[shell](verbs.tree(command)))
    if session.json:
        session.print_json({"shell": shell, "done": done})
        return
    for each in done or ["nothing to do: it is as it should be" if not uninstall else "nothing is installed"]:
        note(each)
    if done and not uninstall:
        note(f"open a new {shell}, and try: gpuctl s<TAB>")


def _answer(session: Session, asked: str) -> None:
    """Print words, each with a tab and what it is. A shell asks on TAB: nothing is started for it."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(_WITHIN_S)
    try:
        with session.connect(start=False) as client:
            words = _WORDS[asked](client)
    except GpuctlError:
        return
    for word, what in words:
        if word.isprintable():  # else nobody could type it
            click.echo(f"{word}\t{legible(what)}")


Words = list[tuple[str, str]]


def _jobs(client: Client, **narrowed: Any) -> Words:
    jobs = client.request("list", limit=200, **narrowed)["jobs"]
    return [(job["id"], f"{job['state']} {job['name']}") for job in jobs]


def _claims(client: Client) -> Words:
    jobs = client.request("list", limit=1000, state=_UNFINISHED)["jobs"]
    return [(job["id"], f"{job['state']} {job['name']}") for job in jobs if job["claim"] and job["uid"] == os.getuid()]


def _gpus(client: Client) -> Words:
    gpus = [gpu for gpu in client.request("gpus", fresh=False)["gpus"] if gpu["index"] is not None]
    nodes = _nodes(client)
    alone = len(nodes) == 1
    words = [(str(gpu["index"]) if alone else f"{gpu['node']}:{gpu['index']}", gpu) for gpu in gpus]
    return [(word, f"{gpu['state']} {gpu['name']}") for word, gpu in words] + nodes


def _nodes(client: Client) -> Words:
    return [
        (node["name"], f"{node['state']}, {plural(node['gpus'], 'GPU')}") for node in client.request("nodes")["nodes"]
    ]


def _types(client: Client) -> Words:
    """Return the types there are as patterns without spaces, which no shell takes apart."""
    counts: dict[str, int] = {}
    for gpu in client.request("gpus", fresh=False)["gpus"]:
        word = gpu["name"].removeprefix("NVIDIA ").removeprefix("GeForce ").replace(" ", "*")
        counts[word] = counts.get(word, 0) + 1
    return [(word, f"{count} of them") for word, count in counts.items()]


def _groups(client: Client) -> Words:
    groups = client.request("groups")["groups"]
    return [(group["name"], f"{group['done']}/{group['total']} done") for group in groups]


def _tenants(client: Client) -> Words:
    return [(tenant["name"], "tenant") for tenant in client.request("tenants")["tenants"]]


def _users(client: Client) -> Words:
    jobs = client.request("list", limit=1000)["jobs"]
    return [(user, "has jobs") for user in sorted({job["user"] for job in jobs})]


def _policies(client: Client) -> Words:
    return [(policy["name"], policy["says"]) for policy in client.request("policies")["policies"]]


def _settings(client: Client) -> Words:
    settings = client.request("config")["settings"]
    return [("set", "change one"), ("unset", "as it comes"), *((each["key"], each["help"]) for each in settings)]


_WORDS = {
    "ids": _jobs,
    "live": lambda client: _jobs(client, state=_UNFINISHED),
    "running": lambda client: _jobs(client, state=("running",)),
    "waiting": lambda client: _jobs(client, state=("held", "queued")),
    "claims": _claims,
    "gpus": _gpus,
    "nodes": _nodes,
    "types": _types,
    "groups": _groups,
    "tenants": _tenants,
    "users": _users,
    "policies": _policies,
    "settings": _settings,
}
