"""How the queue stands, and how the last hour, day and week went."""

import click

from gpuctl import session
from gpuctl.render import stats as render
from gpuctl.render.plain import reply
from gpuctl.session import Session


@click.command()
@session.display
@click.pass_obj
def stats(session: Session) -> None:
    """Show how long the queue is and was, how busy the GPUs were, and what deciding costs.

    Waits are from submission, or the --begin time where that is later, to the first start: time held counts, and time
    behind other jobs (--after). Turnarounds are from submission to the end. What half of the jobs took at most, nine in
    ten, and 99 in a hundred. Of very many jobs a sample is looked at, and said so. STARTS, and `ended` of --json, count
    attempts: a job that was tried again counts more than once.
    """
    found = reply(session.request("stats"))
    if session.json:
        session.print_json(found)
    else:
        session.show(render.lines(found))
