"""Who used the GPUs, how well, and what it cost."""

import time

import click

from gpuctl import session
from gpuctl.errors import UsageError
from gpuctl.parse import SINCE
from gpuctl.render import usage as render
from gpuctl.render.plain import reply
from gpuctl.session import Session

_MONTH_S = 30 * 86_400.0


@click.command()
@click.option(
    "--by",
    type=click.Choice(["user", "tenant", "gpu", "group"]),
    default="user",
    show_default=True,
    help="Whose use a line is.",
)
@click.option("--since", type=SINCE, help="From when on: 7d (ago), 2026-05-01; 30d without a word.")
@click.option("--csv", is_flag=True, help="Comma-separated values, in seconds and joules.")
@session.display
@click.pass_obj
def usage(session: Session, by: str, since: float | None, *, csv: bool) -> None:
    """Show GPU-hours, waits and utilisation by user, tenant, GPU or group.

    Counted by the hour, from readings while jobs ran; IDLE is what was held while the GPU showed 0 %. Jobs that run
    count until now, in their group once they have ended. ATTEMPTS are those that ended: a job that was tried again has
    several. WAIT is the mean from submission, or a later --begin, to the first start, time held or behind others
    (--after) included. The configuration's gpu_hour_price adds what it cost.
    """
    if csv and session.json:
        raise UsageError("--csv and --json are two forms of the same", hint="leave out one of the two")
    found = reply(session.request("usage", by=by, since=time.time() - _MONTH_S if since is None else since))
    if session.json:
        session.print_json(found)
    else:
        session.show(render.csv_lines(found) if csv else render.lines(found))
