"""How things are now, and who may see what of it."""

from typing import Any

from gpud.instance import Instance
from gpud.orders import log_dir
from gpud.people.roles import SEES_ALL
from gpud.server.connections import Peer
from gpud.store.rows import JobRow
from gpud.views.jobs import Scene, Viewer, row_map


def scene_of(gpud: Instance) -> Scene:
    """Return how things are now."""
    config = gpud.parts.config
    return Scene(world=gpud.world, now=gpud.clock(), log_dir=lambda uid: log_dir(config, uid))


def viewer_of(gpud: Instance, peer: Peer) -> Viewer:
    """Return what this client may see."""
    return Viewer(uid=peer.uid, private=gpud.roles.of(peer) >= SEES_ALL)


def as_its_owner(gpud: Instance, row: JobRow) -> dict[str, Any]:
    """Return a job as its owner sees it in a listing: a long command has no room in what a notice's process is told."""
    return {**row_map(scene_of(gpud), row, Viewer(uid=row.terms.uid, private=True), None)}
