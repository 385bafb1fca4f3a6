"""The daemon's memory: what runs, what waits, and what there is to run on. It changes only inside a cycle.

Who holds a GPU is read off the states of active jobs; `holder`, `cpus_used` and `memory_used_mib` are an index over
them that `enter` and `leave` keep, and `tests/core` compares with a recount after every step. Finished jobs are not
here: they live in the store.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from gpud.core.policies import Policy
from gpud.core.queue import Queue
from gpud.core.waits import Wait
from gpud.model.gpu import Gpu, GpuId, Node, NodeName, Reading, Unreadable
from gpud.model.job import Active, Demand, JobId, array_of, index_of
from gpud.model.spec import ArrayState, Park, Place, Terms
from gpud.model.units import Mib, Seconds, Timestamp


@dataclass(slots=True)
class GpuState:
    """A GPU and all that decides whether it may be given out.

    `baseline_mib` is the least memory seen in use with nobody on it; `released_at` is set from a job's end until a
    reading shows it gone; `asked_at` is when a look was last asked for.
    """

    gpu: Gpu
    node: NodeName
    present: bool = False
    seen: Reading | Unreadable | None = None
    baseline_mib: Mib | None = None
    released_at: Timestamp | None = None
    asked_at: Timestamp | None = None
    drained: str | None = None
    holder: JobId | None = None


@dataclass(slots=True)
class NodeState:
    """A node, its GPUs by index, and what of its CPUs and memory is taken."""

    node: Node
    gpus: list[GpuState] = field(default_factory=list)
    present: bool = False
    drained: str | None = None
    cpus_used: int = 0
    memory_used_mib: int = 0


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that holds an allocation."""

    job: JobId
    terms: Terms
    place: Place
    state: Active


@dataclass(frozen=True, slots=True)
class Parked:
    """A waiting job that stands in no line."""

    terms: Terms
    place: Place


@dataclass(slots=True)
class Array:
    """An array that is not over. `waiting` are elements with rows of their own that its throttle may keep back."""

    terms: Terms
    place: Place
    state: ArrayState
    running: int = 0
    waiting: dict[JobId, Terms] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Return whether as many elements run as may."""
        return self.state.throttle is not None and self.running >= self.state.throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What the first blocked job will get: named devices at `at`, its earliest start. Nothing later may delay it."""

    job: JobId
    at: Timestamp
    node: NodeName
    gpus: frozenset[GpuId]
    cpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that deciding depends on. `assumed_runtime_s`: for a job of which nothing is known."""

    assumed_runtime_s: Seconds = 86_400.0
    foreign_ignore: tuple[str, ...] = ()


class World:
    """Everything that a cycle looks at."""

    def __init__(self, policy: Policy, rules: Rules, boot: str) -> None:
        self.policy = policy
        self.rules = rules
        self.queue = Queue(policy.rank)
        self.nodes: dict[NodeName, NodeState] = {}
        self.gpus: dict[GpuId, GpuState] = {}
        self.active: dict[JobId, ActiveJob] = {}
        self.parked: dict[JobId, Parked] = {}
        self.arrays: dict[JobId, Array] = {}
        self.places: dict[JobId, Place] = {}  # of waiting jobs that are not plain: no first attempt, or a priority
        self.blocked: dict[Demand, Wait | None] = {}  # None: by capacity, explained when somebody asks
        self.reservation: Reservation | None = None
        self.paused: str | None = None
        self.next_number = 1
        self.boot = boot
        self._queued_us = 0
        self._alarms: list[tuple[Timestamp, JobId]] = []

    def moment_us(self, now: Timestamp) -> int:
        """Return now in microseconds, and never the same twice: among equals the first to come is first."""
        self._queued_us = max(self._queued_us + 1, round(now * 1_000_000))
        return self._queued_us

    # -- who holds what

    def enter(self, active: ActiveJob) -> None:
        """Record that a job is active, in the state it has now."""
        before = self.active.get(active.job)
        self.active[active.job] = active
        if before is None:
            self._hold(active, active.job, 1)
            if index_of(active.job) is not None:
                self.arrays[array_of(active.job)].running += 1

    def leave(self, job: JobId) -> ActiveJob:
        """Record that a job is active no more, and return it as it was."""
        active = self.active.pop(job)
        self._hold(active, None, -1)
        if index_of(job) is not None:
            self.arrays[array_of(job)].running -= 1
        return active

    def _hold(self, active: ActiveJob, holder: JobId | None, sign: int) -> None:
        allocation = active.state.allocation
        for gpu in allocation.gpus:
            self.gpus[gpu].holder = holder
        node = self.nodes[allocation.node]
        node.cpus_used += sign * allocation.cpus
        node.memory_used_mib += sign * allocation.memory_mib

    # -- who waits

    def wait(self, job: JobId, terms: Terms, place: Place) -> None:
        """Put a job where it belongs: parked, kept back by its array's throttle, or in its line."""
        self.unwait(job)
        if place.park is not None:
            self.parked[job] = Parked(terms, place)
            if place.not_before is not None and place.park != Park.HELD:
                self.alarm(place.not_before, job)
            return
        if place != Place(queued_us=place.queued_us) or index_of(job) is not None:
            self.places[job] = place
        array = self.arrays.get(array_of(job))
        if array is not None and index_of(job) is not None:
            array.waiting[job] = terms
        if array is None or not array.full:
            self.queue.add(job, terms, self.policy.order(place))

    def unwait(self, job: JobId) -> None:
        """Take a job out of wherever it waits."""
        self.parked.pop(job, None)
        self.queue.remove(job)
        self.places.pop(job, None)
        array = self.arrays.get(array_of(job))
        if array is not None:
            array.waiting.pop(job, None)

    def waiting(self, job: JobId) -> Parked | None:
        """Return the terms and place of a waiting job or array, None if it does not wait."""
        parked = self.parked.get(job)
        if parked is not None:
            return parked
        array = self.arrays.get(array_of(job))
        if array is not None:
            if job in array.waiting:
                return Parked(array.waiting[job], self.places[job])
            return Parked(array.terms, array.place) if array_of(job) == job and array.state.pending else None
        if job not in self.queue:
            return None
        place = self.places.get(job) or Place(queued_us=self.queue.order(job))
        return Parked(self.queue.terms(job), place)

    def throttle(self, number: JobId) -> None:
        """Put an array's waiting elements, and its own entry, into their lines or take them out, as its limit says."""
        array = self.arrays[number]
        members = {**array.waiting, **({number: array.terms} if array.state.pending and not array.place.park else {})}
        for job, terms in members.items():
            if array.full:
                self.queue.remove(job)
            elif job not in self.queue:
                place = array.place if job == number else self.places[job]
                self.queue.add(job, terms, self.policy.order(place))

    def alarm(self, at: Timestamp, job: JobId) -> None:
        """See to it that a cycle runs at that moment."""
        heappush(self._alarms, (at, job))

    def due(self, now: Timestamp) -> Iterator[JobId]:
        """Yield the jobs whose moment has come; whoever takes one looks whether it still means anything."""
        while self._alarms and self._alarms[0][0] <= now:
            yield heappop(self._alarms)[1]

    @property
    def wake_at(self) -> Timestamp | None:
        """Return when the next cycle must run even if nothing happens."""
        return self._alarms[0][0] if self._alarms else None

    # -- what there is

    def see_node(self, node: Node) -> None:
        """Take in a node's inventory, whole. GPUs of it that are no longer there stay known, as not present.

        Simulated GPUs that are gone are forgotten: they were never hardware that may come back.
        """
        state = self.nodes.get(node.name)
        if state is None:
            state = self.nodes[node.name] = NodeState(node)
        state.node, state.present = node, True
        there = {gpu.id for gpu in node.gpus}
        for known in list(state.gpus):
            if known.gpu.id not in there:
                known.present = False
                if known.gpu.simulated and known.holder is None:
                    state.gpus.remove(known)
                    del self.gpus[known.gpu.id]
        for gpu in node.gpus:
            self.know(gpu, state, present=True)
        state.gpus.sort(key=lambda each: (not each.present, each.gpu.index))

    def remember(self, node: Node) -> None:
        """Take in what the store says was ever seen, before the inventory speaks: known, and not present."""
        state = self.nodes.setdefault(node.name, NodeState(node))
        for gpu in node.gpus:
            self.know(gpu, state, present=False)

    def know(self, gpu: Gpu, node: NodeState, *, present: bool) -> None:
        """Take in one GPU, seen now or (from the store) ever."""
        state = self.gpus.get(gpu.id)
        if state is None:
            state = self.gpus[gpu.id] = GpuState(gpu, node.node.name)
            node.gpus.append(state)
        state.gpu, state.present = gpu, present

    def any_gpu(self) -> bool:
        """Return whether any GPU was ever seen."""
        return bool(self.gpus)

    def problem(self) -> str | None:
        """Return why no GPUs can be seen, if there is a reason."""
        return next((state.node.problem for state in self.nodes.values() if state.node.problem), None)


def recount(world: World) -> dict[GpuId, JobId]:
    """Return who holds each GPU, from the states alone. Raises AssertionError if one is held twice."""
    holders: dict[GpuId, JobId] = {}
    for active in world.active.values():
        for gpu in active.state.allocation.gpus:
            assert gpu not in holders, f"{gpu} is held by {holders[gpu]} and {active.job}"  # noqa: S101 - ours, not the user's
            holders[gpu] = active.job
    return holders
