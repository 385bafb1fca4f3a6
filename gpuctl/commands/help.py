"""Help on a command, or on what several commands have in common."""

import click

from gpuctl import session
from gpuctl.cli import nearest
from gpuctl.errors import UsageError
from gpuctl.session import Session
from gpuctl.topics import ALSO, TOPICS


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND|TOPIC]...")
@session.display
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """Explain a command, or a topic: states, reasons, durations, sizes, ids, variables, exit ...

    \b
      gpuctl help submit
      gpuctl help reasons
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    session: Session = context.obj
    root = context.find_root()
    topic = _topic(root, words[0]) if len(words) == 1 else None
    if topic is not None:
        about, text = TOPICS[topic]
        if session.json:
            session.print_json({"topic": topic, "about": about, "text": text.strip()})
        else:
            session.show([f"{about[0].upper()}{about[1:]}", "", *text.strip().splitlines()])
        return
    if words:
        session.show(_of_command(context, words).splitlines())
    else:
        listed = [f"  {name:<11} {about}" for name, (about, _) in TOPICS.items()]
        session.show([*root.get_help().splitlines(), "", "Topics (gpuctl help TOPIC):", *listed])


def _topic(root: click.Context, word: str) -> str | None:
    """Return the topic that a word means; a command's name means the command, where there is no such topic."""
    return word if word in TOPICS else None if _found(root, word) is not None else ALSO.get(word)


def _found(context: click.Context, word: str) -> click.Command | None:
    command = context.command
    return command.get_command(context, word) if isinstance(command, click.Group) else None


def _of_command(context: click.Context, words: tuple[str, ...]) -> str:
    """Return the help of a command, also of one within another. Raises UsageError for what there is not."""
    at = context.find_root()
    for word in words:
        aliases: dict[str, tuple[str, ...]] = getattr(at.command, "aliases", {})
        name = aliases.get(word, (word,))[0]
        found = _found(at, name)
        if found is None:
            known = at.command.list_commands(at) if isinstance(at.command, click.Group) else []
            hint = nearest(word, [*known, *TOPICS, *aliases]) or "gpuctl help lists commands and topics"
            raise UsageError(f"there is no command and no topic {' '.join(words)!r}", hint=hint)
        at = click.Context(found, info_name=name, parent=at, **found.context_settings)
    return at.get_help()
