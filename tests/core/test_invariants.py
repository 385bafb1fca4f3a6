"""What holds whatever the policy: clusters, jobs, ends and failures at random, looked at after every cycle.

`playbook` and `ledger` add theirs: no GPU is given twice, nobody is forgotten, what the store is told fits together.
"""

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from playbook import Play, a_cluster, a_job, a_node, a_start, an_end

from gpud.core.books import held_of
from gpud.core.fragmentation import PLACEMENTS
from gpud.core.policies import POLICIES
from gpud.core.rules import Rules
from gpud.core.space import Spaces
from gpud.core.survey import refresh, room_of
from gpud.core.waits import Barred, Full, NoCapacity, YieldsTo
from gpud.model.effects import Launch, Stop
from gpud.model.gpu import nominal_mib
from gpud.model.job import JobId, Stopping
from gpud.model.spec import JobSpec
from gpud.model.units import Timestamp

HORIZON_S = 4_000_000.0

nodes = st.lists(st.sampled_from(["4xH100", "2xH100,2xT4", "1xT4", "4xT4", ""]), min_size=1, max_size=4).filter(any)
specs = st.fixed_dictionaries(
    {"gpus": st.integers(0, 4), "user": st.sampled_from(["ada", "bob", "eve"])},
    optional={
        "limit": st.sampled_from([30.0, 300.0, 3_000.0]),
        "estimate": st.sampled_from([20.0, 2_000.0]),
        "priority": st.integers(-3, 3),
        "nodes": st.just(2),
        "share_permille": st.sampled_from([250, 400, 500]),
        "share_mib": st.sampled_from([5_000, 8_192]),
        "type": st.sampled_from(["H100", "T4", "H100|T4"]),
        "preemptible": st.booleans(),
        "cpus": st.integers(1, 16),
        "retries": st.just(1),
        "array": st.sampled_from(["0-3", "0-5%2"]),
    },
)
arrivals = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 5.0, 100.0]), specs, st.floats(1.0, 5_000.0), st.sampled_from([0, 0, 0, 1])),
    min_size=1,
    max_size=25,
)
rules = st.builds(
    Rules,
    reservations=st.integers(0, 3),
    starvation_s=st.sampled_from([0.0, 200.0, 86_400.0]),
    placement=st.sampled_from(sorted(PLACEMENTS)),
    preempt_after_s=st.sampled_from([0.0, 60.0]),
)


def a_spec(gpus: int, **said: object) -> JobSpec:
    """Return what could be submitted: a fraction is of one GPU, a gang has as many on each node."""
    if "share_permille" in said:
        gpus = 1
        said.pop("nodes", None)
        said.pop("share_mib", None)
    if "share_mib" in said:
        gpus = max(1, gpus)
    if said.get("nodes") is not None:
        gpus = max(2, gpus // 2 * 2)
    preemptible = said.pop("preemptible", None)
    spec = a_job(gpus, **said)
    return spec if preemptible is None else with_terms(spec, preemptible=preemptible)


def with_terms(spec: JobSpec, **changed: object) -> JobSpec:
    return replace(spec, terms=replace(spec.terms, **changed))


STOPPED = -15  # in place of an exit code


@dataclass
class Fleet:
    """A play in which every job takes as long as it takes, a stopped one ends a second later, and time passes."""

    play: Play
    lasts: dict[JobId, tuple[float, int]] = field(default_factory=dict)  # seconds and exit code, by number
    ends: list[tuple[float, JobId, int, int]] = field(default_factory=list)
    began: dict[tuple[JobId, int], float] = field(default_factory=dict)
    preempted: int = 0

    def submit(self, spec: JobSpec, seconds: float, code: int) -> None:
        for job in self.play.submit(spec):
            self.lasts[JobId(job >> 24)] = seconds, code
        self._follow()

    def until(self, at: float) -> None:
        """Let everything happen that happens until then."""
        while True:
            wake = self.play.out.wake_at
            ends = self.ends[0][0] if self.ends else at
            step = min(ends, at if wake is None else wake)
            if step >= at:
                break
            self.play.now = max(self.play.now, step)
            self._happen()
        self.play.now = max(self.play.now, at)
        self._happen()

    def _happen(self) -> None:
        told = []
        while self.ends and self.ends[0][0] <= self.play.now:
            _, job, attempt, code = heappop(self.ends)
            active = self.play.world.active.get(job)
            if active is not None and active.place.attempt == attempt:
                stopped = code == STOPPED
                told.append(
                    an_end(job, attempt, self.play.now, code=None if stopped else code, signal=15 if stopped else None)
                )
        self.play.cycle(*{each.job: each for each in told}.values())
        self._follow()

    def _follow(self) -> None:
        """Do what the last cycle wants done: what is launched runs, which is told, and may have more done."""
        launched = [effect for effect in self.play.out.effects if isinstance(effect, Launch)]
        for effect in self.play.out.effects:
            if isinstance(effect, Stop):
                self.preempted += 1
                heappush(self.ends, (self.play.now + 1.0, effect.job, effect.attempt, STOPPED))
        check(self.play)
        for effect in launched:
            seconds, code = self.lasts[JobId(effect.job >> 24)]
            self.began[effect.job, effect.attempt] = self.play.now
            heappush(self.ends, (self.play.now + seconds, effect.job, effect.attempt, code))
        if launched:
            self.play.cycle(*(a_start(effect.job, effect.attempt, self.play.now) for effect in launched))
            self._follow()


def check(play: Play) -> None:
    world, now = play.world, Timestamp(play.now)
    for active in world.active.values():
        demand, parts = active.terms.demand, active.state.allocation.parts
        assert len({part.node for part in parts}) == demand.nodes, "a gang is all or nothing"
        assert all(len(part.shares) == demand.gpus // demand.nodes for part in parts)
    for state in world.gpus.values():
        assert state.declared_mib <= nominal_mib(state.gpu.memory_total_mib), "no GPU is shared out twice"
        shares = [(job, share) for job in state.holders for share in world.active[job].state.allocation.all_shares]
        held = sum(held_of(world.active[job].terms.demand, each) for job, each in shares if each.gpu == state.gpu.id)
        assert held <= 1000, "nor counted for more"
    refresh(world, now)
    for name, node in world.nodes.items():
        assert world.spaces.rooms[name].same(room_of(world, node, now)), "what is kept is what would be counted anew"
    work_is_conserved(play)


def work_is_conserved(play: Play) -> None:
    """Check that whoever fits, and is kept back by nothing that is reserved, does not wait."""
    world = play.world
    if world.paused is not None:
        return
    fresh = Spaces(PLACEMENTS["best-fit"]())
    for name in world.spaces.rooms:
        fresh.put(room_of(world, world.nodes[name], Timestamp(play.now)))
    for line in world.queue.lines():
        reason = line.aside or world.blocked.get(line.terms.demand)
        if reason is None and line.group.asleep:
            assert world.reservations
            continue
        if reason is None or isinstance(reason, Full | NoCapacity):
            assert fresh.best(line.terms.demand) is None, f"{line.terms.demand} waits and fits"
        else:
            assert isinstance(reason, YieldsTo | Barred), reason
            assert not isinstance(reason, YieldsTo) or world.reservations


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=40, deadline=None)
@given(there=nodes, stream=arrivals, rules=rules)
def test_what_must_always_hold_holds_and_every_job_comes_to_its_end(policy, there, stream, rules):
    play = a_cluster(*(a_node(f"n{at}", gpus, cpus=16) for at, gpus in enumerate(there)), rules=rules)
    chosen = POLICIES[policy]
    play.world.set_policy(chosen.make(chosen.values({}), play.world))
    fleet = Fleet(play)
    for gap, said, seconds, code in stream:
        fleet.until(play.now + gap)
        fleet.submit(a_spec(**said), seconds, code)
    fleet.until(play.now + HORIZON_S)
    assert fleet.preempted <= 50 * len(fleet.lasts) + 50, "giving way comes to an end"
    assert not play.world.active, "nobody is stopped and started for ever"
    assert not len(play.world.queue), "nobody waits for ever"
    assert all(not isinstance(each.state, Stopping) for each in play.world.active.values())
    attempts = {}
    for job, attempt in sorted(fleet.began):
        attempts.setdefault(job, []).append(attempt)
    assert all(after == before + 1 for each in attempts.values() for before, after in pairwise(each))
