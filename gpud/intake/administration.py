"""What operators ask for, made from a checked message into a command for the loop."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from gpud.core.admit import no_such_type
from gpud.core.choice import in_force
from gpud.core.commands import ChoosePolicy, Command, DeleteReservation, DeleteTenant, Drain, Pause, PutTenant, Reserve
from gpud.core.fleet import GpuState
from gpud.core.policies import POLICIES
from gpud.core.policies.parameters import Parameter
from gpud.core.windows import named_by
from gpud.core.world import World
from gpud.intake.submission import PRIORITY_MOST, check_text
from gpud.model.gpu import GpuId, NodeName
from gpud.model.tenant import Tenant
from gpud.model.units import Timestamp, format_duration
from gpud.model.window import Window
from gpud.people.names import Names, NameServiceError
from gpud.wire.check import Wrong, nearest
from gpud.wire.codec import Message

Make = Callable[[int], Command]

_REASON_MOST = 1_000
_MANY = 1_000_000
_LONGEST_S = 10 * 366 * 86_400.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_BOUNDS: dict[str, tuple[str, float, float]] = {
    "guaranteed_gpus": ("the number of guaranteed GPUs", 0, _MANY),
    "max_gpus": ("the most GPUs", 0, _MANY),
    "max_running": ("the most running jobs", 0, _MANY),
    "max_queued": ("the most queued jobs", 0, _MANY),
    "gpu_hours": ("the GPU-hours", 0, 1e9),
    "window_s": ("the window", 60.0, _LONGEST_S),
    "share": ("the share", 0.001, 1e6),
    "boost": ("the boost", -PRIORITY_MOST, PRIORITY_MOST),
}
_EMPTY = {each.name: each.default for each in fields(Tenant)}


async def look_up(world: World, names: Names, message: Message) -> None:
    """Raise Wrong for users and groups that this machine does not know."""
    try:
        for name in message.get("users", ()):
            if await names.uid(name) is None:
                raise Wrong(f"there is no user {name!r} on this machine")
        for name in message.get("groups", ()):
            if await names.gid(name) is None:
                raise Wrong(f"there is no group {name!r} on this machine")
        for name in message.get("whose", ()):
            if name not in world.tenants and await names.uid(name) is None:
                raise Wrong(f"there is no tenant and no user {name!r}", "see gpuctl tenant list", "no_such_tenant")
    except NameServiceError as error:
        raise Wrong(f"{error}, so it is not known who that is", "try again in a minute", "busy") from None


def command_of(world: World, message: Message, *, by: str, now: Timestamp, wall: float) -> Make:
    """Return the command, still without its token. Raises Wrong. `wall` is what the wall clock says `now`."""
    match message["op"]:
        case "drain" | "undrain":
            return _drain(world, message, by)
        case "pause" | "resume":
            reason = (_reason(message) or world.paused or "") if message["op"] == "pause" else None
            return lambda token: Pause(token, reason, by)
        case "tenant_create" | "tenant_set":
            return _tenant(world, message, by)
        case "tenant_delete":
            return lambda token: DeleteTenant(token, message["name"], by)
        case "reserve":
            return _reserve(world, message, by, now, wall)
        case "reservation_delete":
            return lambda token: DeleteReservation(token, message["reservation"], by)
        case "policy_set":
            return _policy(world, message)
        case op:
            raise ValueError(op)


def gpu_named(world: World, word: str) -> GpuState:
    """Return the GPU that people mean by `INDEX`, `NODE:INDEX` or a UUID prefix. Raises Wrong."""
    node, _, index = word.rpartition(":")
    if not node and index.isascii() and index.isdigit() and len(index) < 6 and len(world.nodes) > 1:
        raise Wrong(f"GPU {word}: of which node?", f"write NODE:{word}; see gpuctl nodes")
    matching = [] if NodeName(word) in world.nodes else named_by(world.gpus.values(), word)
    if len(matching) == 1:
        return matching[0]
    what = "more than one GPU is" if matching else "there is no GPU"
    raise Wrong(f"{what} named {word!r}", "see what there is: gpuctl gpus", "usage" if matching else "no_such_gpu")


def gpus_named(world: World, word: str) -> list[GpuId]:
    """Return the GPU that people mean, and the MIG instances on it. Raises Wrong."""
    meant = gpu_named(world, word).gpu.id
    return [meant, *(state.gpu.id for state in world.gpus.values() if state.gpu.parent == meant)]


def resolve_names(world: World, demand: dict[str, Any]) -> None:
    """Put identities for the GPUs that a demand names. Raises Wrong, also for a node that there is not."""
    for key in ("gpu_ids", "excluded_gpus"):
        if demand.get(key):
            demand[key] = list(dict.fromkeys(gpu for word in demand[key] for gpu in gpus_named(world, word)))
    for name in demand.get("excluded_nodes", ()):
        if NodeName(name) not in world.nodes:
            raise Wrong(f"there is no node {name!r}", "see what there is: gpuctl nodes", "no_such_node")


def _drain(world: World, message: Message, by: str) -> Make:
    gpus: list[GpuId] = []
    nodes: list[NodeName] = []
    for target in message["targets"]:
        if NodeName(target) in world.nodes:
            nodes.append(NodeName(target))
        else:
            gpus += gpus_named(world, target)
    if not gpus and not nodes:
        raise Wrong("no GPU is named", "name GPUs (0, NODE:0, a UUID prefix) or nodes")
    reason = _reason(message) if message["op"] == "drain" else None
    if reason == "":  # what is drained already keeps the reason that it was given
        gpus = [gpu for gpu in gpus if world.gpus[gpu].drained is None]
        nodes = [node for node in nodes if world.nodes[node].drained is None]
    return lambda token: Drain(token, tuple(gpus), tuple(nodes), reason, by)


def _tenant(world: World, message: Message, by: str) -> Make:
    name = message["name"]
    if not _NAME.fullmatch(name):
        raise Wrong(f"{name!r} cannot be a tenant's name", "letters, digits, _ . and -; 64 at most")
    values: dict[str, Any] = {key: _EMPTY[key] for key in message.get("clear", ())}
    for key, (what, low, high) in _BOUNDS.items():
        if key in message:
            if not low <= message[key] <= high:
                written = format_duration if key.endswith("_s") else "{:g}".format
                raise Wrong(f"{what} must be from {written(low)} to {written(high)}, not {written(message[key])}")
            values[key] = message[key]
    for kind in message.get("gpu_types", ()):
        check_text("the GPU type", kind, 200)
        if world.gpus and (words := no_such_type(kind, [state.gpu for state in world.gpus.values()])):
            raise Wrong(*words)
    for key in ("users", "groups", "gpu_types"):
        if key in message:
            values[key] = tuple(message[key])
    if "borrow" in message:
        values["borrow"] = message["borrow"]
    if "gpus" in message:
        values["gpus"] = _targets(world, message["gpus"])
    remove = tuple((key, tuple(message.get(f"remove_{key}", ()))) for key in ("users", "groups"))
    create = message["op"] == "tenant_create"
    return lambda token: PutTenant(token, name, create, tuple(values.items()), remove, by)


def _policy(world: World, message: Message) -> Make:
    name = message.get("policy")
    if name is not None and name not in POLICIES:
        raise Wrong(f"there is no policy {name!r}", nearest(name, POLICIES) or f"there is: {', '.join(POLICIES)}")
    reset = message.get("reset", False)
    chosen = name or (world.rules.policy if reset else in_force(world))
    known = {each.name: each for each in POLICIES[chosen].parameters}
    for key in message.get("parameters", {}):
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise Wrong(f"the policy {chosen} has no parameter {key!r}", there)
    said = message.get("parameters", {}).items()
    parameters = tuple((key, _parameter(known[key], text)) for key, text in said)
    return lambda token: ChoosePolicy(token, name, parameters, reset)


def _parameter(known: Parameter, text: str) -> float | None:
    """Return the value that people mean; None for the configuration's. Raises Wrong."""
    if text == "default":
        return None
    value = known.read(text)
    if value is None:
        raise Wrong(f"{known.name} cannot be {text!r}", known.wanted)
    return value


def _reserve(world: World, message: Message, by: str, now: Timestamp, wall: float) -> Make:
    gpus = _targets(world, message["targets"])
    # To the second: the two clocks differ by less, and what was asked for as 18:00 is told as 18:00.
    at: float = round(now + (message["at"] - wall)) if message.get("at", wall) > wall else now
    until = round(now + (message["until"] - wall))
    if until <= max(at, now):
        raise Wrong(
            "a reservation must end after it begins, and after now", "write 18:30, 2026-05-01T18:30, or 2h (from now)"
        )
    if until - at > _LONGEST_S:
        raise Wrong("a reservation lasts ten years at most", "to take GPUs out for good: gpuctl drain")
    whose = message.get("whose", ())
    window = Window(
        number=0,
        at=Timestamp(at),
        until=Timestamp(until),
        gpus=gpus,
        users=tuple(name for name in whose if name not in world.tenants),
        tenants=tuple(name for name in whose if name in world.tenants),
        reason=_reason(message),
        by=by,
    )
    return lambda token: Reserve(token, window)


def _targets(world: World, words: list[str]) -> tuple[GpuId, ...]:
    """Return the GPUs that are meant, whole nodes' and `all` among them. Raises Wrong."""
    found: dict[GpuId, None] = {}
    for word in words:
        if word == "all":
            found |= dict.fromkeys(world.gpus)
        elif NodeName(word) in world.nodes:
            found |= dict.fromkeys(state.gpu.id for state in world.nodes[NodeName(word)].gpus)
        else:
            found |= dict.fromkeys(gpus_named(world, word))
    if not found:
        raise Wrong("no GPU is named", "name GPUs (0, NODE:0, a UUID prefix), nodes, or all", "no_such_gpu")
    return tuple(found)


def _reason(message: Message) -> str:
    """Return why somebody pauses, drains or reserves, "" where they did not say."""
    reason: str = message.get("reason", "")
    if reason:
        check_text("the reason", reason, _REASON_MOST)
    return reason
