"""gpud as a service: install or upgrade it, and take it away."""

import click

from gpuctl import session
from gpuctl.errors import GpuctlError
from gpuctl.session import Session, note
from gpuctl.setup import installing
from gpuctl.setup.installing import Step

_WHERE = (
    click.option("--system/--user", "system", default=None, help="For everybody on the machine, or for you alone."),
    click.option("--dry-run", is_flag=True, help="Only say what would be done."),
)


@click.command()
@_WHERE[0]
@_WHERE[1]
@session.options
@click.pass_context
def install(context: click.Context, system: bool | None, dry_run: bool) -> None:
    """Install gpud as a service of systemd, or upgrade it to this version; jobs run on.

    It gets an environment of its own (/opt/gpud, or ~/.local/share/gpud), made of what runs now: nothing is fetched.
    Code that somebody else could change is refused.
    """
    there = installing.place(system=_chosen(system))
    installing.check(there)
    if not dry_run:
        installing.check_may_change(there)
    steps = installing.install(there, context.find_root().command)
    _perform(context.ensure_object(Session), steps, dry_run=dry_run)
    if not dry_run and not there.system and not installing.lingers():
        note("it ends with your last session; to have it go on, and start with the machine: loginctl enable-linger")


@click.command()
@_WHERE[0]
@_WHERE[1]
@session.options
@click.pass_obj
def uninstall(session: Session, system: bool | None, dry_run: bool) -> None:
    """Take gpud's service away; jobs that run go on to their end, and the queue and the logs stay."""
    there = installing.place(system=_chosen(system))
    if not dry_run:
        installing.check_may_change(there)
    steps = installing.uninstall(there)
    if not steps:
        note("nothing is installed there")
    _perform(session, steps, dry_run=dry_run)


def _chosen(system: bool | None) -> bool:
    if system is None:
        raise click.UsageError("say for whom: --system (everybody on the machine) or --user (you alone)")
    return system


def _perform(session: Session, steps: list[Step], *, dry_run: bool) -> None:
    """Do one step after the other, saying each; what has been done stays done when one fails."""
    for step in steps:
        if not session.json:
            click.echo(step.says)
        if dry_run:
            continue
        try:
            step.do()
        except OSError as error:
            raise GpuctlError(f"cannot {step.says}: {error.strerror}") from error
    if session.json:
        session.print_json({"steps": [step.says for step in steps], "done": not dry_run})
