"""Whatever people and machines do, in whatever order: the promises hold after every cycle (see `Play._check`)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, example, given, note, settings, strategies as st
from ledger import picture
from playbook import Hardware, Play, a_cluster, a_job, a_node, a_process, a_start, an_end, element

from gpud.core.commands import Requeue
from gpud.core.cycle import Input, cycle
from gpud.model.array import IndexSet
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import Fault, JobId, index_of
from gpud.model.observations import NodeSeen
from gpud.model.spec import Dependency, When
from gpud.model.units import Mib, Timestamp

Step = tuple[Any, ...]

jobs = st.fixed_dictionaries(
    {"gpus": st.sampled_from([1, 0, 1, 2, 4])},
    optional={
        "user": st.just("bob"),
        "priority": st.sampled_from([5, -5]),
        "limit": st.sampled_from([10.0, 1000.0]),
        "retries": st.just(2),
        "array": st.sampled_from(["0-2", "0-9%2", "3,5,9%1"]),
        "type": st.sampled_from(["H100", "A10"]),
        "share_mib": st.sampled_from([Mib(8_192), Mib(20_000)]),
        "cpus": st.sampled_from([3, 8]),
        "ram": st.just(16),
        "hold": st.sampled_from([False, False, True]),
        "begin": st.sampled_from([None, None, 50.0]),
        "after": st.tuples(st.integers(0, 999), st.sampled_from([None, None, 0, 3]), st.sampled_from(When)),
        "retry_on": st.sampled_from([("oom",), ("exit:3", "lost")]),
    },
)
ends = st.sampled_from(
    [
        {"code": 0},
        {"code": 3},
        {"signal": 9},
        {"lost": "rebooted"},
        {"signal": 9, "finding": "out of memory", "rss": 20_000},
        {"timed_out": True},
        {"timed_out": True, "code": 3},
        {"fault": Fault("no such program", machine=False)},
        {"fault": Fault("no space", machine=True)},
        {"code": 0, "stuck": True},
    ]
)
which = st.integers(0, 999)
steps = st.one_of(
    st.tuples(st.sampled_from(["ask", "pause", "resume", "resume", "restart", "lose node", "find node"])),
    st.tuples(st.just("submit"), st.lists(jobs, min_size=1, max_size=3)),
    st.tuples(st.just("start"), which),
    st.tuples(st.just("end"), which, ends),
    st.tuples(st.just("end"), which, ends),
    st.tuples(st.just("late"), which, st.integers(1, 3), ends),
    st.tuples(
        st.sampled_from(["cancel", "hold", "release", "requeue", "interrupt", "kill", "raise", "sink"]),
        which,
        st.sampled_from([None, None, 0, 3, 5]),
    ),
    st.tuples(st.just("again"), which),
    st.tuples(st.sampled_from(["drain", "undrain", "look", "foreign", "clear", "break", "lease"]), which),
    st.tuples(st.just("later"), st.sampled_from([0.2, 1.0, 3.0, 40.0, 400.0])),
)


@dataclass
class Run:
    """A play, and the record of its inputs."""

    play: Play
    ever: list[JobId] = field(default_factory=list)

    def do(self, step: Step) -> None:
        verb, *rest = step
        act: Callable[..., None] = getattr(self, "_" + verb.replace(" ", "_"))
        act(*rest)

    def _submit(self, specs: list[dict[str, Any]]) -> None:
        self.ever += self.play.submit(*(a_job(**spec | {"after": self._after(spec.get("after"))}) for spec in specs))

    def _after(self, asked: tuple[int, int | None, When] | None) -> tuple[Dependency, ...]:
        job = None if asked is None else self._target(*asked[:2])
        return () if asked is None or job is None else (Dependency(job, asked[2]),)

    def _active(self, which: int) -> JobId | None:
        running = self.play.running
        return running[which % len(running)] if running else None

    def _start(self, which: int) -> None:
        job = self._active(which)
        if job is not None:
            self.play.starts(job)

    def _end(self, which: int, how: dict[str, Any]) -> None:
        job = self._active(which)
        if job is None:
            return
        seen = an_end(job, self.play.attempt(job), self.play.now, **how)
        self.play.cycle(seen)
        self._does_nothing(seen)

    def _late(self, which: int, back: int, how: dict[str, Any]) -> None:
        """Observations of earlier attempts, of jobs that ended or never were, change nothing."""
        job = self._any(which)
        row = None if job is None else self.play.ledger.rows.get(job)
        if job is None or row is None:
            return
        attempt = row.launched - back + (0 if row.active else 1)
        self._does_nothing(a_start(job, attempt, self.play.now))
        self._does_nothing(an_end(job, attempt, self.play.now, **how))

    def _does_nothing(self, seen: Input) -> None:
        before = picture(self.play.world)
        changes = self.play.cycle(seen).changes
        assert not [change for change in changes if getattr(change, "job", None) == seen.job]
        assert picture(self.play.world)["arrays"] == before["arrays"]

    def _any(self, which: int) -> JobId | None:
        known = sorted(self.play.ledger.rows)
        return known[which % len(known)] if known else None

    def _target(self, which: int, index: int | None) -> JobId | None:
        job = self._any(which)
        if job is None or index is None or index_of(job) is not None or job not in self.play.world.arrays:
            return job
        return element(job, index)

    def _cancel(self, which: int, index: int | None) -> None:
        self._change(self.play.cancel, which, index)

    def _kill(self, which: int, index: int | None) -> None:
        self._change(lambda job: self.play.cancel(job, force=True), which, index)

    def _hold(self, which: int, index: int | None) -> None:
        self._change(self.play.hold, which, index)

    def _release(self, which: int, index: int | None) -> None:
        self._change(self.play.release, which, index)

    def _requeue(self, which: int, index: int | None) -> None:
        self._change(self.play.requeue, which, index)

    def _interrupt(self, which: int, index: int | None) -> None:
        self._change(self.play.interrupt, which, index)

    def _raise(self, which: int, index: int | None) -> None:
        self._change(lambda job: self.play.prioritise(3, job), which, index)

    def _sink(self, which: int, index: int | None) -> None:
        self._change(lambda job: self.play.prioritise(-3, job), which, index)

    def _change(self, act: Callable[[JobId], object], which: int, index: int | None) -> None:
        job = self._target(which, index)
        if job is not None:
            act(job)

    def _again(self, which: int) -> None:
        """Requeue what has ended: jobs, elements, arrays, and elements that were dropped."""
        rows = self.play.ledger.rows
        over = [job for job, row in rows.items() if row.end is not None]
        for array, row in rows.items():
            dropped = row.array.dropped if row.array else IndexSet()
            over += [element(array, index) for index in dropped]
        if over:
            job = sorted(over)[which % len(over)]
            finished = self.play.ledger.finished(job)
            self.play.cycle(Requeue(1, (), (finished,)))
            if self.play.state(job) != "nothing":
                self.play.cycle(Requeue(1, (), (finished,)))  # asked for twice, it is done once

    def _gpu(self, which: int) -> Any:
        gpus = sorted(self.play.world.gpus)
        return gpus[which % len(gpus)]

    def _drain(self, which: int) -> None:
        self.play.drain(self._gpu(which))

    def _undrain(self, which: int) -> None:
        self.play.drain(self._gpu(which), reason=None)

    def _look(self, which: int) -> None:
        del which
        self.play.look()

    def _foreign(self, which: int) -> None:
        self._happens(which, Hardware(used=9000, processes=(a_process(),)))

    def _clear(self, which: int) -> None:
        self._happens(which, Hardware())

    def _break(self, which: int) -> None:
        self._happens(which, Hardware(broken="not answering", lost=which % 2 == 0))

    def _lease(self, which: int) -> None:
        self._happens(which, Hardware(lease=ProcessIdentity(77, 1)))

    def _happens(self, which: int, now: Hardware) -> None:
        gpu = self._gpu(which)
        if gpu in self.play.hardware:
            self.play.hardware[gpu] = now
            self.play.look(gpu)

    def _pause(self) -> None:
        self.play.pause("maintenance")

    def _resume(self) -> None:
        self.play.pause(None)

    def _ask(self) -> None:
        assert not self.play.read().changes

    def _lose_node(self) -> None:
        self.play.cycle(NodeSeen(a_node("n2", "", cpus=16)))

    def _find_node(self) -> None:
        self.play.cycle(NodeSeen(a_node("n2", "2xA10", cpus=16)))

    def _later(self, seconds: float) -> None:
        """Let time pass; the daemon answers what was asked for, and is not asked all the time."""
        until, wakes = self.play.now + seconds, 0
        while self.play.out.wake_at is not None and self.play.out.wake_at < until:
            self.play.now = max(self.play.now, self.play.out.wake_at)
            self.play.cycle()
            self.play.settle()
            wakes += 1
        self.play.now = until
        self.play.cycle()
        assert wakes <= 20 + 4 * seconds, "it polls"

    def _restart(self) -> None:
        before = picture(self.play.world)
        self.play = self.play.restarted()
        after = picture(self.play.world)
        # What the new one may do at once is start jobs; nothing is missing.
        assert not set(before["jobs"]) - set(after["jobs"])


def a_small_fleet(*, simulated: bool = False) -> Play:
    """Two nodes; the GPUs of the first are real, and others use them too."""
    return a_cluster(
        a_node("n1", "4xH100", cpus=12, memory=64, simulated=simulated),
        a_node("n2", "2xA10", cpus=16, memory=64),
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=20, max_size=60))
def test_no_gpu_is_given_twice_and_no_job_is_forgotten(story):
    run = Run(a_small_fleet())
    for step in story:
        note(f"{run.play.now:.3f} {step}")
        run.do(step)
        run.play.settle()
    run.play.pause(None)
    finish(run)


def finish(run: Run) -> None:
    """Put everything right, and let everything run: whatever was submitted ends, once."""
    play = run.play
    play.cycle(NodeSeen(a_node("n2", "2xA10", cpus=16, memory=64)))
    play.drain(*play.world.gpus, reason=None)
    play.hardware = {gpu: Hardware() for gpu in play.hardware}
    for _ in range(500):
        play.look()
        play.release(*play.world.parked)
        if play.running:
            play.ends(*play.running)
        elif not play.ledger.unfinished():
            break
        else:
            run.do(("later", 400.0))
    assert not play.ledger.unfinished()
    assert not play.world.arrays
    assert not len(play.world.queue)
    for job in run.ever:
        assert play.state(job) != "nothing"


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, min_size=10, max_size=40))
def test_the_same_inputs_give_the_same_outcomes(story):
    run = Run(a_small_fleet())
    for step in story:
        run.do(step)
    world, inputs = run.play.world, [a_start(job, 1, run.play.now) for job in run.play.running]
    other = deepcopy(world)
    # The queue knows its entries by identity, which a copy keeps; a world from the same changes has its own.
    now = Timestamp(run.play.now + 1)
    assert cycle(world, inputs, now) == cycle(other, inputs, now)


EQUALS_OF_TWO_LINES = [
    *[("ask",)] * 3,
    ("submit", [{"gpus": 1}, {"gpus": 1, "priority": 5, "retries": 2, "retry_on": ("oom",), "array": "3,5,9%1"}]),
    ("end", 0, {"code": 0}),
    ("release", 1, 5),
    ("end", 0, {"signal": 9, "finding": "out of memory", "rss": 20_000}),
    ("pause",),
    ("end", 0, {"code": 0}),
    ("later", 3.0),
]


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, min_size=10, max_size=40))
@example(EQUALS_OF_TWO_LINES)
def test_a_restart_starts_what_the_old_one_would_have_started(story):
    run = Run(a_small_fleet(simulated=True))
    for step in story:
        if step[0] != "restart":
            run.do(step)
    run.play.pause("upgrade")
    again = replace(run.play, ledger=deepcopy(run.play.ledger)).restarted()
    # How long running jobs will take is guessed anew, from what has ended since they started: the one difference.
    again.world.expects_s = dict(run.play.world.expects_s)
    run.play.pause(None)
    again.pause(None)
    assert again.running == run.play.running
