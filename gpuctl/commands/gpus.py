"""The GPUs, as they are now."""

import pwd

import click

from gpuctl import session
from gpuctl.render import fields, gpus as render, shaping
from gpuctl.render.shaping import Shape
from gpuctl.session import Session, note
from gpud.model.units import format_duration


@click.command()
@click.option("--topology", is_flag=True, help="Show how they reach each other: NVLink, PCIe switches, NUMA nodes.")
@click.option("--health", is_flag=True, help="Show how well they are: what is wrong, since when, what would clear it.")
@shaping.options(fields.GPUS)
@session.display
@click.pass_obj
def gpus(
    session: Session,
    topology: bool,
    health: bool,
    shape: Shape,
) -> None:
    """List the GPUs: what they are, how busy, and who is on them. MIG instances stand below their GPU."""
    reply = session.request("gpus", fresh=True)
    found = shape.sorted(reply["gpus"])
    if session.json:
        session.print_json(found)
        return
    if found:
        table = render.links if topology else render.health if health else render.rows
        session.show(shape.lines(fields.GPUS, found, table))
        if any(gpu["simulated"] for gpu in found) and shape.format is None:
            note(render.SIMULATED)
    if health:
        for uid, used_s in sorted(reply.get("foreign_gpu_s", {}).items()):
            note(f"without jobs {_name(int(uid))} has used {format_duration(used_s)} of GPU time")
    if reply["problem"] or not found:
        note(f"{'no GPUs: ' if not found else ''}{reply['problem'] or 'none was found'}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
