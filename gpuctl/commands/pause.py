"""Hold the whole queue, and let it go."""

import click

from gpuctl import session
from gpuctl.render.plain import reply
from gpuctl.session import Session, note


@click.command()
@click.option("--reason", metavar="TEXT", help="Why, for those who wait.")
@session.options
@click.pass_obj
def pause(session: Session, reason: str | None) -> None:
    """Start no more jobs until `gpuctl resume`; jobs that run go on."""
    answer = reply(session.request("pause", **({} if reason is None else {"reason": reason})))
    if session.json:
        session.print_json(answer)
    else:
        note("paused: nothing starts until gpuctl resume" if answer["changed"] else "it is paused already")


@click.command()
@session.options
@click.pass_obj
def resume(session: Session) -> None:
    """Start jobs again."""
    answer = reply(session.request("resume"))
    if session.json:
        session.print_json(answer)
    else:
        note("jobs start again" if answer["changed"] else "it was not paused")
