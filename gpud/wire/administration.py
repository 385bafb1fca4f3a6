"""What operators ask: the second page of the protocol, whose first, `messages`, says how anything is asked.

In a user's own gpud its user is the operator; in system mode root is.
"""

from typing import Literal, NotRequired, TypedDict


class Drain(TypedDict):
    """Give out these GPUs, or whole nodes, no more (drain), or again (undrain). Reply: `ChangeReply`.

    A target: `INDEX` (one node), `NODE:INDEX`, a UUID prefix, or a node's name. Error `no_such_gpu`.
    """

    op: Literal["drain", "undrain"]
    id: int
    targets: list[str]
    reason: NotRequired[str]


class Pause(TypedDict):
    """Start no more jobs (pause), or start them again (resume). Reply: `changed`: bool."""

    op: Literal["pause", "resume"]
    id: int
    reason: NotRequired[str]


ADMINISTRATION: dict[str, type] = {
    "drain": Drain,
    "undrain": Drain,
    "pause": Pause,
    "resume": Pause,
}
