"""The machines."""

import click

from gpuctl import session
from gpuctl.render import fields, shaping
from gpuctl.render.gpus import SIMULATED, node_rows
from gpuctl.render.shaping import Shape
from gpuctl.session import Session, note


@click.command()
@shaping.options(fields.NODES)
@session.display
@click.pass_obj
def nodes(session: Session, shape: Shape) -> None:
    """List the nodes, and what of them is in use."""
    found = shape.sorted(session.request("nodes")["nodes"])
    if session.json:
        session.print_json(found)
        return
    session.show(shape.lines(fields.NODES, found, node_rows))
    if any(node["simulated"] for node in found) and shape.format is None:
        note(SIMULATED)
