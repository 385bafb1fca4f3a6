"""Who else was on a job's GPUs when their memory ran out."""

from gpud.core.active import ActiveJob
from gpud.core.lifecycle import out_of_memory
from gpud.core.world import World
from gpud.model.job import Exit, format_job


def guest(world: World, active: ActiveJob, ended: Exit) -> str | None:
    """Return who was there that should not have been, if that may be why."""
    found = world.care.guests.get(active.job)
    return found[1] if found is not None and _ran_out(ended) else None


def others(world: World, active: ActiveJob, ended: Exit) -> str:
    """Return which other jobs have parts of them, to stand behind the reason; nothing where that does not matter."""
    if not _ran_out(ended):
        return ""
    found = []
    for share in active.state.allocation.all_shares:
        state = world.gpus.get(share.gpu)
        if state is not None and state.holders:
            jobs = [f"job {format_job(job)} of {world.active[job].terms.user}" for job in state.holders]
            found.append(f"; {', '.join(jobs)} shared GPU {state.gpu.index} of {state.node}")
    return "".join(found)


def _ran_out(ended: Exit) -> bool:
    return (ended.finding or "").startswith("cuda") and out_of_memory(ended)
