"""What operators ask for, made from a checked message into a command for the loop."""

from collections.abc import Callable

from gpud.check import Wrong
from gpud.core.commands import Command, Drain, Pause
from gpud.core.fleet import GpuState
from gpud.core.world import World
from gpud.model.gpu import GpuId, NodeName
from gpud.submission import check_text
from gpud.wire.codec import Message

Make = Callable[[int], Command]

_REASON_MOST = 1_000


def command_of(world: World, message: Message, *, operator: bool) -> Make:
    """Return the command, still without its token. Raises Wrong for one who is no operator, and for what is wrong."""
    if not operator:
        raise Wrong("only root may do this", None, "not_permitted")
    match message["op"]:
        case "drain" | "undrain":
            return _drain(world, message)
        case "pause" | "resume":
            reason = _reason(message) if message["op"] == "pause" else None
            return lambda token: Pause(token, reason)
        case op:
            raise ValueError(op)


def gpu_named(world: World, word: str) -> GpuState:
    """Return the GPU that people mean by `INDEX`, `NODE:INDEX` or a UUID prefix. Raises Wrong."""
    node, _, index = word.rpartition(":")
    if index.isascii() and index.isdigit() and len(index) < 6:
        if not node and len(world.nodes) > 1:
            raise Wrong(f"GPU {word}: of which node?", f"write NODE:{word}; see gpuctl nodes")
        for state in world.gpus.values():
            if state.gpu.index == int(index) and node in {"", state.node}:
                return state
    matching = [state for state in world.gpus.values() if word and state.gpu.id.lower().startswith(word.lower())]
    if len(matching) == 1:
        return matching[0]
    what = "more than one GPU is" if matching else "there is no GPU"
    raise Wrong(f"{what} named {word!r}", "see what there is: gpuctl gpus", "usage" if matching else "no_such_gpu")


def _drain(world: World, message: Message) -> Make:
    gpus: list[GpuId] = []
    nodes: list[NodeName] = []
    for target in message["targets"]:
        if NodeName(target) in world.nodes:
            nodes.append(NodeName(target))
        else:
            gpus.append(gpu_named(world, target).gpu.id)
    if not gpus and not nodes:
        raise Wrong("no GPU is named", "name GPUs (0, NODE:0, a UUID prefix) or nodes")
    reason = _reason(message) if message["op"] == "drain" else None
    return lambda token: Drain(token, tuple(gpus), tuple(nodes), reason)


def _reason(message: Message) -> str:
    """Return why somebody pauses or drains, "" where they did not say."""
    reason: str = message.get("reason", "")
    if reason:
        check_text("the reason", reason, _REASON_MOST)
    return reason
