"""One trace under one policy: the policies that there are to choose from, and the world that they decide over.

The daemon's own, by their names, and yardsticks: oracles (see `oracles`); `easy-oracle`, first come, first served with
backfill that knows when every job will end; `fifo`, in which nobody passes anybody; `tiresias`, as it was published.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from gpud.core.policies import POLICIES, Policy
from gpud.core.policies.fcfs import Fcfs
from gpud.core.rules import Rules
from gpud.core.world import World
from gpud.model.gpu import Node
from gpud.model.tenant import Tenant
from gpud.model.units import Seconds
from gpud.simulator.engine import Engine, Physics, Run, runs_of
from gpud.simulator.oracles import Remaining, Smallest
from gpud.simulator.tiresias import Tiresias
from gpud.simulator.trace import TraceError, TraceJob

_OracleMaker = Callable[[Sequence[Run], World, "Ground"], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The rules of a replay: what being preempted costs, and how often yardsticks preempt (0: at every event)."""

    physics: Physics = Physics()
    every_s: Seconds = 60.0
    joined: bool = False  # all GPUs on one node: what runs is packed anew at every event


GROUNDS = {
    "physical": Ground(),
    # SIGCOMM'22: iteration times x 1.015; at each event jobs are packed anew, which costs all that run some 10 s.
    "muri": Ground(physics=Physics(work=1.015, lost_s=10.0, anew=True), every_s=0.0, joined=True),
}

ORACLES: dict[str, _OracleMaker] = {
    "srtf": lambda runs, world, ground: Remaining(runs, world, by_gpus=False, every_s=ground.every_s),
    "srsf": lambda runs, world, ground: Remaining(runs, world, by_gpus=True, every_s=ground.every_s),
    "sjf-oracle": lambda runs, _, __: Smallest(runs, by_gpus=True),
    "easy-oracle": lambda _, __, ___: Fcfs(),
}
YARDSTICKS: dict[str, Callable[[Ground], Policy]] = {
    "fifo": lambda _: Fcfs(),
    "tiresias": lambda ground: Tiresias(ground.every_s),
}

# Yardsticks know no bound on waiting, and give no moment to who was just started. What preempts needs no reservation
# either. `easy-oracle` and `sjf-oracle` do not preempt: they keep EASY's, for the first in their order that does not
# fit, without which small jobs would keep a large one waiting however early in that order it stands.
_YARDSTICK = Rules(starvation_s=0.0, preempt_after_s=0.0, reservations=0)
_RULES = {
    "easy-oracle": Rules(starvation_s=0.0),
    "sjf-oracle": Rules(starvation_s=0.0),
    "fifo": Rules(starvation_s=0.0, reservations=0, backfill=False),
}


def known() -> list[str]:
    """Return the names of all policies."""
    return [*POLICIES, *YARDSTICKS, *ORACLES]


def check_policy(policy: str) -> None:
    """Raise TraceError for a policy that there is not."""
    if policy not in known():
        close = get_close_matches(policy, known(), n=2)
        raise TraceError(f"there is no policy {policy!r}", f"there is: {', '.join(close or known())}")


def engine_for(
    policy: str,
    jobs: Sequence[TraceJob],
    nodes: Sequence[Node],
    ground: Ground,
    *,
    said: Mapping[str, float],
    tenants: Sequence[Tenant] = (),
    series: bool = False,
) -> Engine:
    """Return a replay that can be run, of jobs that have lengths; `said` is for gpud's own policies.

    Raises TraceError for a policy that there is not.
    """
    check_policy(policy)
    rules = Rules().changed(said) if policy in POLICIES else _RULES.get(policy, _YARDSTICK)
    world = World(Fcfs(), rules, "simulated")
    world.tenants = {tenant.name: tenant for tenant in tenants}
    if policy not in POLICIES:  # yardsticks know all, or ask for nothing: they learn nothing
        world.predictor, world.bursts = world.predictor.twin(), world.bursts.twin()
    if policy in ORACLES:
        jobs = [_told(job, at) for at, job in enumerate(jobs, 1)]
    runs = runs_of(jobs, ground.physics)
    if policy in ORACLES:
        world.set_policy(ORACLES[policy](runs, world, ground))
    elif policy in YARDSTICKS:
        world.set_policy(YARDSTICKS[policy](ground))
    else:
        chosen = POLICIES[policy]
        world.set_policy(chosen.make(chosen.values(said), world))
    return Engine(world, nodes, runs, ground.physics, series=series)


def _told(job: TraceJob, number: int) -> TraceJob:
    """Return a job as an oracle gets it: it says how long it runs, and its priority is its number."""
    assert job.duration_s is not None  # noqa: S101 - the caller looked
    return TraceJob(job.submit_s, job.duration_s, replace(job.terms, estimate_s=job.duration_s), number)
