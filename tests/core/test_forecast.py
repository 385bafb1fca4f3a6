"""Expected starts: what the scheduler then does, where all is known, and nothing where it is not."""

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import NOON, a_job, a_node, a_start, an_end

from gpud.core.choice import world_of
from gpud.core.commands import Submit
from gpud.core.cycle import cycle
from gpud.core.forecast import Forecast
from gpud.core.outcome import Outcome
from gpud.core.policies import POLICIES
from gpud.core.rules import Rules
from gpud.core.world import World
from gpud.model.effects import Launch, Stop
from gpud.model.job import JobId, Stopping, array_of
from gpud.model.observations import NodeSeen
from gpud.model.spec import JobSpec
from gpud.model.tenant import Limits
from gpud.model.units import Timestamp

HOUR = 3600.0


@dataclass
class Lab:
    """A world in which every job takes exactly as long as was said, and what is stopped takes its whole grace."""

    world: World
    now: float = NOON
    ends: list[tuple[float, int, JobId, int]] = field(default_factory=list)
    starts: dict[JobId, float] = field(default_factory=dict)
    out: Outcome = field(default_factory=lambda: Outcome(Timestamp(NOON)))

    def submit(self, *specs: JobSpec) -> list[JobId]:
        self._cycle(*(Submit(token, spec) for token, spec in enumerate(specs)))
        return [reply.job for _, reply in self.replies if getattr(reply, "job", None) is not None]

    def until(self, at: float) -> None:
        while True:
            nexts = [each for each in (self.out.wake_at, self.ends[0][0] if self.ends else None) if each is not None]
            if not nexts or min(nexts) > at:
                break
            self.now = min(nexts)
            over = []
            while self.ends and self.ends[0][0] <= self.now:
                _, _, job, attempt = heappop(self.ends)
                active = self.world.active.get(job)
                if active is not None and active.place.attempt == attempt:
                    stopped = isinstance(active.state, Stopping)
                    over.append(an_end(job, attempt, self.now, **({"signal": 15} if stopped else {"code": 0})))
            self._cycle(*over)
            if not (self.world.active or self.world.parked) and not self.ends:
                break
        self.now = max(self.now, at)

    def _cycle(self, *inputs: object) -> None:
        self.out = cycle(self.world, inputs, Timestamp(self.now))
        self.replies = self.out.replies
        launched = []
        for effect in self.out.effects:
            active = self.world.active.get(getattr(effect, "job", None))
            if isinstance(effect, Stop):
                heappush(self.ends, (active.state.kill_at, len(self.starts), effect.job, effect.attempt))
            elif isinstance(effect, Launch):
                for job in (effect.job, array_of(effect.job)):
                    self.starts.setdefault(job, self.now)
                lasts_s = self.world.expects_s[effect.job]
                heappush(self.ends, (self.now + lasts_s, len(self.starts), effect.job, effect.attempt))
                launched.append(a_start(effect.job, effect.attempt, self.now))
        if launched:
            replies = self.replies
            self._cycle(*launched)
            self.replies = replies

    @property
    def waiting(self) -> list[JobId]:
        """Return who waits and has never started: jobs, arrays with all their elements before them."""
        standing = [job for job, _ in self.world.queue._entries.items()]
        return [job for job in (*standing, *self.world.parked) if job not in self.starts]


def a_lab(*nodes, **rules):
    lab = Lab(world_of(Rules(**rules), "boot-1"))
    lab._cycle(*(NodeSeen(node) for node in nodes or (a_node(gpus="2xH100"),)))
    return lab


def forecast(lab, most=1000):
    found = Forecast(lab.world, Timestamp(lab.now), most)
    for _ in found.work():
        pass
    assert found.over
    return found


nodes = st.lists(st.sampled_from(["4xH100", "2xH100,2xT4", "2xT4"]), min_size=1, max_size=3)
specs = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([1, 1, 2, 4, 0]),
        "user": st.sampled_from(["ada", "bob", "eve"]),
        "estimate": st.sampled_from([20.0, 300.0, 4_000.0, 20_000.0, 90_000.0]),
    },
    optional={
        "priority": st.integers(-3, 3),
        "type": st.sampled_from(["H100", "T4"]),
        "cpus": st.integers(1, 30),
        "array": st.sampled_from(["0-3", "0-5%2"]),
        "begin": st.sampled_from([30.0, 5_000.0]),
        "after": st.just("the one before"),
        "preemptible": st.booleans(),
    },
)


def a_spec(said, before):
    said = dict(said)
    preemptible = said.pop("preemptible", None)
    after = said.pop("after", None) and before
    spec = a_job(said.pop("gpus"), **said, **({"after": before[-1]} if after else {}))
    return spec if preemptible is None else replace(spec, terms=replace(spec.terms, preemptible=preemptible))


@settings(deadline=None)
@given(
    nodes,
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 10.0, 500.0]), specs), min_size=2, max_size=20),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([{}, {"limits": Limits(gpus_per_user=3)}, {"reservations": 3}, {"backfill": False}]),
)
def test_with_exact_estimates_and_nobody_new_it_is_what_the_scheduler_then_does(gpus, arrivals, policy, rules):
    lab = a_lab(*(a_node(f"n{at}", each) for at, each in enumerate(gpus)), policy=policy, **rules)
    known = []
    for later, said in arrivals:
        lab.until(lab.now + later)
        known += lab.submit(a_spec(said, known))
    waiting = lab.waiting

    expected = forecast(lab)
    lab.until(NOON + 80 * 86_400.0)

    told = {job: expected.expected(job).at for job in waiting}
    assert told == {job: lab.starts.get(job) for job in waiting}
