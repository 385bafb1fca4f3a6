"""How many GPUs there were, and since when: what jobs could have used, whatever is there today.

Kept from one start to the next; while no gpud runs, what it saw last counts.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gpud.core.outcome import Outcome
from gpud.core.world import World
from gpud.model.changes import SettingPut
from gpud.model.units import Seconds, Timestamp

Census = Sequence[tuple[Timestamp, int]]

_SETTING = "census"
_MOST = 1_000  # changes that are known


def present(world: World) -> int:
    """Return how many GPUs there are, instances counted one each."""
    return sum(state.present and not state.gpu.split for state in world.gpus.values())


def take(world: World, out: Outcome) -> None:
    """Take note of how many there are, after nodes were seen."""
    gpus = present(world)
    before = [(at, count) for at, count in world.census if at < out.now]
    if not before or before[-1][1] != gpus:
        before.append((out.now, gpus))
    if before != world.census:
        world.census = [before[0], *before[1:][1 - _MOST :]]
        out.changes.append(SettingPut(_SETTING, [list(each) for each in world.census]))


def there_s(census: Census, since: Timestamp, until: Timestamp) -> Seconds:
    """Return the GPU-seconds that there were, as far as is known: nothing could be used before there was a gpud."""
    known = [*census, (until, 0)]
    return sum(max(0.0, min(until, to) - max(since, at)) * count for (at, count), (to, _) in pairwise(known))


def restore(world: World, settings: Mapping[str, Any]) -> None:
    """Take in what the store kept."""
    world.census = [(Timestamp(at), count) for at, count in settings.get(_SETTING) or ()]
