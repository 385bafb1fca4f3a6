"""Set GPUs aside for a time: for a tenant, for a user, or for nobody (maintenance)."""

from typing import Any

import click

from gpuctl import session
from gpuctl.parse import POSITIVE, TIME, gpus_meant, parse_end
from gpuctl.render import tenants as render
from gpuctl.render.plain import reply
from gpuctl.render.text import clock
from gpuctl.session import Session, note


class _Reserve(click.Group):
    """`gpuctl reserve GPU...` is short for `gpuctl reserve create GPU...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the word that may be left out."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Reserve, subcommand_metavar="GPU... | list | delete ID")
def reserve() -> None:
    """Set GPUs aside for a time: for a user or a tenant, or for nobody (maintenance).

    \b
      gpuctl reserve 0-3 --from 18:00 --to 23:00 --for ada
      gpuctl reserve all --from 2026-05-01T06:00 --to 2026-05-01T08:00 --reason "new cooling"
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone


def _end(ctx: click.Context, param: click.Parameter, text: str) -> float:
    try:
        return parse_end(text, ctx.params.get("begin"))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@reserve.command()
@click.argument("targets", nargs=-1, required=True, metavar="GPU|NODE|all...")
@click.option(
    "--from", "begin", type=TIME, is_eager=True, help="When it begins (now): 18:30, 2026-05-01T18:30, 2h (from now)."
)
@click.option("--to", "end", metavar="TIME", required=True, callback=_end, help="When it ends; 6:00 is the next after.")
@click.option("--for", "whose", multiple=True, metavar="USER|TENANT", help="Whose jobs may run there; may be repeated.")
@click.option("--reason", metavar="TEXT", help="Why, for those who wait.")
@session.options
@click.pass_obj
def create(session: Session, /, targets: tuple[str, ...], begin: float | None, end: float, **more: Any) -> None:
    """Set GPUs aside, for others or for nobody.

    No job of anybody else that could run into that time starts on them; what runs there is not stopped.
    """
    begin, end = None if begin is None else int(begin), int(end)  # whole ones gpud keeps; and now is not to come
    fields = {"at": begin, "whose": list(more["whose"]), "reason": more["reason"]}
    said = {key: each for key, each in fields.items() if each}
    answer = session.request("reserve", targets=gpus_meant(targets), until=end, **said)
    if session.json:
        session.print_json(reply(answer))
    else:
        number, when = answer["reservation"], f"{'now' if begin is None else clock(begin)} to {clock(end)}"
        note(f"reservation {number}, {when}; to take it back: gpuctl reserve delete {number}")


@reserve.command("list")
@session.options
@click.pass_obj
def list_(session: Session) -> None:
    """List the reservations that are not over."""
    found = session.request("reservations")["reservations"]
    if session.json:
        session.print_json(found)
    elif found:
        click.echo("\n".join(render.reservations(found)))
    else:
        note("nothing is reserved")


@reserve.command()
@click.argument("reservation", type=POSITIVE, metavar="ID")
@session.options
@click.pass_obj
def delete(session: Session, reservation: int) -> None:
    """Give the GPUs of a reservation back."""
    session.request("reservation_delete", reservation=reservation)
    if session.json:
        session.print_json({"changed": True})
    else:
        note(f"reservation {reservation} is gone")
