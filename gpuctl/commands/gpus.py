"""The GPUs, as they are now."""

import click

from gpuctl import session
from gpuctl.render import gpus as render
from gpuctl.session import Session, note


@click.command()
@click.option("--topology", is_flag=True, help="Show how they reach each other: NVLink, PCIe switches, NUMA nodes.")
@session.options
@click.pass_obj
def gpus(session: Session, topology: bool) -> None:
    """List the GPUs: what they are, how busy, and who is on them. MIG instances stand below their GPU."""
    reply = session.request("gpus", fresh=True)
    found = reply["gpus"]
    if session.json:
        session.print_json(found)
        return
    if found:
        click.echo("\n".join(render.links(found) if topology else render.rows(found)))
        if any(gpu["simulated"] for gpu in found):
            note(render.SIMULATED)
    if reply["problem"] or not found:
        note(f"{'no GPUs: ' if not found else ''}{reply['problem'] or 'none was found'}")
