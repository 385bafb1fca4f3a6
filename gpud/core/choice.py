"""Which policy is in force: the configuration's, until an operator chooses another, which is kept."""

from collections.abc import Mapping

from gpud.core.commands import ChoosePolicy, Done
from gpud.core.outcome import Outcome
from gpud.core.policies import POLICIES
from gpud.core.policies.fcfs import Fcfs
from gpud.core.policies.parameters import Choice
from gpud.core.rules import Rules
from gpud.core.world import World
from gpud.model.changes import SettingPut, Told

_SETTING = "policy"


def world_of(rules: Rules, boot: str) -> World:
    """Return an empty world under the policy that its rules name."""
    world = World(Fcfs(), rules, boot)
    apply(world, Choice())
    return world


def in_force(world: World) -> str:
    """Return the name of the policy that orders the queue now."""
    return world.choice.policy or world.rules.policy


def values(world: World, policy: str) -> dict[str, float]:
    """Return the values of a policy's parameters as they are, or would be, in force."""
    return POLICIES[policy].values({**world.rules.parameters, **world.choice.parameters})


def apply(world: World, choice: Choice) -> None:
    """Order the queue as was chosen."""
    world.choice = choice
    name = in_force(world)
    world.set_policy(POLICIES[name].make(values(world, name), world))


def choose(world: World, out: Outcome, asked: ChoosePolicy) -> Done:
    """Take what an operator chose into the world."""
    kept = {} if asked.reset else dict(world.choice.parameters)
    for name, value in asked.parameters:
        kept.pop(name, None)
        if value is not None:
            kept[name] = value
    choice = Choice(asked.policy or (None if asked.reset else world.choice.policy), kept)
    if choice == world.choice:
        return Done(changed=False)
    out.changes += world.usage.settle(out.now)  # it may halve at another pace from here on
    apply(world, choice)
    plain = {"policy": choice.policy, "parameters": kept}
    out.changes.append(SettingPut(_SETTING, None if choice == Choice() else plain))
    name = in_force(world)
    out.changes.append(Told(out.now, "policy", {"policy": name, "parameters": values(world, name)}))
    return Done(changed=True)


def restore(world: World, settings: Mapping[str, object]) -> None:
    """Order the queue as was chosen before the restart. What a later gpud knew and this one does not is left out."""
    kept = settings.get(_SETTING)
    if not isinstance(kept, dict):
        return
    known = {each.name for described in POLICIES.values() for each in described.parameters}
    parameters = {name: float(value) for name, value in kept.get("parameters", {}).items() if name in known}
    apply(world, Choice(kept["policy"] if kept.get("policy") in POLICIES else None, parameters))
