"""How far an array is: what the world and the array's own row say of its elements, together."""

from collections import Counter

from gpud.core.world import World
from gpud.model.job import JobId
from gpud.model.spec import ArrayState, Park


def elements_by_state(world: World, job: JobId, state: ArrayState) -> dict[str, int]:
    """Return how many elements of an array are in each state."""
    array = world.arrays.get(job)
    live = [_standing(world, each) for each in array.elements] if array is not None else []
    if array is not None and state.pending:
        live += [_standing(world, job)] * len(state.pending)
    return dict(Counter(live)) | {end.value: count for end, count in state.counts}


def _standing(world: World, job: JobId) -> str:
    """Return the state of a job that has not ended."""
    active = world.active.get(job)
    if active is not None:
        return type(active.state).__name__.lower()
    waiting = world.waiting(job)
    return "held" if waiting is not None and waiting.place.park in {Park.HELD, Park.NEVER} else "queued"
