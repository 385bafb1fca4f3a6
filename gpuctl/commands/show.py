"""Everything about one job."""

import click

from gpuctl import session
from gpuctl.parse import JOB
from gpuctl.render.jobs import whole
from gpuctl.render.plain import reply
from gpuctl.session import Session


@click.command()
@click.argument("job", type=JOB)
@session.options
@click.pass_obj
def show(session: Session, job: str) -> None:
    """Show everything about a job, an array or an array's element."""
    answer = reply(session.request("show", job=job))
    if session.json:
        session.print_json({**answer.pop("job"), **answer})
    else:
        click.echo("\n".join(whole(answer)))
