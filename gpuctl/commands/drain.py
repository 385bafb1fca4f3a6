"""Take GPUs and nodes out of use without touching what runs on them, and give them back."""

from typing import Any

import click

from gpuctl import session
from gpuctl.parse import gpus_meant
from gpuctl.render.plain import reply
from gpuctl.session import Session, note


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="GPU|NODE...")
@click.option("--reason", metavar="TEXT", help="Why, for those who wonder.")
@session.options
@click.pass_obj
def drain(session: Session, targets: tuple[str, ...], reason: str | None) -> None:
    """Give these GPUs, or whole nodes, no new jobs; what runs there goes on.

    A GPU is an index, NODE:INDEX, or the beginning of its UUID; 0-3 and NODE:0-3 are ranges.
    """
    _change(session, "drain", "draining", targets, **({} if reason is None else {"reason": reason}))


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="GPU|NODE...")
@session.options
@click.pass_obj
def undrain(session: Session, targets: tuple[str, ...]) -> None:
    """Give these GPUs, or whole nodes, jobs again."""
    _change(session, "undrain", "in use again:", targets)


def _change(session: Session, op: str, done: str, targets: tuple[str, ...], **more: Any) -> None:
    answer = reply(session.request(op, targets=gpus_meant(targets), **more))
    if session.json:
        session.print_json(answer)
        return
    if answer["changed"]:
        note(f"{done} {' '.join(answer['changed'])}")
    for text in answer["notes"].values():
        note(text)
    if not answer["changed"] and not answer["notes"]:
        note("it was so already")
