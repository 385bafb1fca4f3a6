"""Why one job waits, in words, with what only its demand and the fleet tell: what it lacks, and what can never be.

A job is refused at the door where it can never fit; one that was queued before any GPU was seen learns it here.
"""

from collections.abc import Sequence

from gpud.core.admit import Refused, never_fits
from gpud.core.backfill import OVERRUN_S
from gpud.core.claims import ClaimKind
from gpud.core.forecast import Forecast
from gpud.core.quota import impossible
from gpud.core.waits import Barred, Held, NoCapacity, OverQuota, RetriesAt, Wait, YieldsTo
from gpud.core.world import World
from gpud.model.job import Demand, JobId, format_job
from gpud.model.units import Timestamp, format_size
from gpud.views.forecasting import is_late, is_unknown
from gpud.views.words import Words, words


def in_a_sentence(
    world: World, job: JobId, wait: Wait, now: Timestamp, last: str | None = None, *, forecast: Forecast | None = None
) -> str:
    """Return the reason of a job that waits; `last` is why it does not run any more."""
    return in_words(world, job, wait, now, last, never=never_starts(world, job, wait, now), forecast=forecast)[1]


def in_words(
    world: World,
    job: JobId,
    wait: Wait,
    now: Timestamp,
    last: str | None = None,
    *,
    never: Refused | None,
    forecast: Forecast | None = None,
) -> Words:
    """Return (code, sentence, hint) for the reason of a job that waits; `last` is why it does not run any more.

    `never` is what `never_starts` says of it.
    """
    written, waiting = format_job(job), world.waiting(job)
    if isinstance(wait, Held) and wait.reason is None and last:
        return "held", last, None
    if isinstance(wait, RetriesAt):
        code, sentence, hint = words(wait, now, written)
        return code, f"{sentence}: {last}" if last else sentence, hint
    if never is not None:
        hint = f"it cannot start here: gpuctl cancel {written}"
        return never.code, never.message, f"{never.hint}; {hint}" if never.hint else hint
    if isinstance(wait, NoCapacity) and wait.beside_gpus and waiting is not None:
        return "no_capacity", _short(world, waiting.terms.demand, wait), "see what each node has: gpuctl nodes"
    if isinstance(wait, Barred) and wait.claim.kind is ClaimKind.POOL and waiting is not None:
        code, sentence, hint = words(wait, now, written)
        asks = len(wait.claim.gpus) >= waiting.terms.demand.gpus  # of one that is too small nobody can
        return code, sentence, hint if asks else "see for whom each GPU is: gpuctl gpus"
    if isinstance(wait, YieldsTo):
        kept = world.reservations.get(wait.job)  # those that are being stopped for it may end any moment
        late = is_late(forecast, wait.job)
        soon = (late and wait.at <= now + OVERRUN_S) or (kept is not None and kept.taken)
        stops = kept is not None and bool(kept.yielding)
        return words(wait, now, written, soon=soon, guess=late or is_unknown(forecast, wait.job), stops=stops)
    return words(wait, now, written)


def never_starts(world: World, job: JobId, wait: Wait, now: Timestamp, *, deep: bool = False) -> Refused | None:
    """Return why a job that waits cannot start, as the fleet and its rules are by now; None where it can.

    `deep`: also where only a look at every GPU tells, for one job that somebody asks about.
    """
    waiting = world.waiting(job)
    if waiting is None:
        return None
    match wait:
        case NoCapacity():
            deep = deep or wait.suitable < waiting.terms.demand.gpus  # a pool, or a tenant, has them by now
        case Barred() | OverQuota(never=False) if deep:
            pass
        case _:
            return None
    return never_fits(world, waiting.terms.demand) or (impossible(world, waiting.terms, now) if deep else None)


def _short(world: World, demand: Demand, wait: NoCapacity) -> str:
    """Return how much of CPUs, or memory, is free where most is: on its node, where that has the GPUs."""
    up = [node for node in world.nodes.values() if node.present and node.drained is None]
    nodes = [node for node in up if node.node.name == wait.node and demand.gpus] or up
    if wait.short == "memory":
        room = [(node.node.memory_mib - node.memory_used_mib, node.node.memory_mib) for node in nodes]
        free, most = _most([each for each in room if each[0] < demand.memory_mib] or room)
        wanted = format_size(demand.memory_mib)
        return f"waits for {wanted} of memory: {format_size(free)} of {format_size(most)} are free"
    count = demand.cpus_counted
    wanted = "a CPU" if count == 1 else f"{count} CPUs"
    cpus = [(node.node.cpus - node.cpus_used, node.node.cpus) for node in nodes]
    free, most = _most([each for each in cpus if each[0] < count] or cpus)  # where there are enough other things lack
    return f"waits for {wanted}: {free} of {most} are free"


def _most(room: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how much is free, and of how much, where most is."""
    free, most = max(room, default=(0, 0))
    return max(0, free), most
