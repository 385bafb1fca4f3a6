"""The machines."""

import click

from gpuctl import session
from gpuctl.render.gpus import SIMULATED, node_rows
from gpuctl.session import Session, note


@click.command()
@session.options
@click.pass_obj
def nodes(session: Session) -> None:
    """List the nodes, and what of them is in use."""
    found = session.request("nodes")["nodes"]
    if session.json:
        session.print_json(found)
        return
    click.echo("\n".join(node_rows(found)))
    if any(node["simulated"] for node in found):
        note(SIMULATED)
