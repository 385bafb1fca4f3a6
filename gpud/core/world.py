"""The daemon's memory: what runs, what waits, and what there is to run on. It changes only inside a cycle.

Who holds a GPU is read off the states of active jobs; `holders`, `cpus_used` and `memory_used_mib` are an index over
them that `enter` and `leave` keep, and `tests/core` compares with a recount after every step. Finished jobs are not
here: they live in the store.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from gpud.core.active import ActiveJob
from gpud.core.alarms import Alarms
from gpud.core.books import Books, Patience
from gpud.core.bursts import Bursts
from gpud.core.care import Care
from gpud.core.claims import Claim, Reservation
from gpud.core.dependencies import Dependencies
from gpud.core.fleet import GpuState, NodeState
from gpud.core.fragmentation import PLACEMENTS
from gpud.core.groups import Groups
from gpud.core.policies import Policy
from gpud.core.policies.parameters import Choice
from gpud.core.prediction import Predictor
from gpud.core.queue import Line, Queue, Rail
from gpud.core.recent import Recent
from gpud.core.rivals import Suiting
from gpud.core.room import Hold
from gpud.core.rules import Rules
from gpud.core.samples import Samples
from gpud.core.space import Spaces
from gpud.core.usage import Usage
from gpud.core.waits import NoCapacity, Wait
from gpud.model.gpu import Allocation, Gpu, GpuId, Node, NodeName
from gpud.model.job import Demand, JobId, array_of, index_of
from gpud.model.spec import ArrayState, Park, Place, Terms
from gpud.model.tenant import Tenant
from gpud.model.units import Seconds, Timestamp
from gpud.model.value import value
from gpud.model.window import Window


@value()
class Parked:
    """A waiting job that stands in no line."""

    terms: Terms
    place: Place


@dataclass(slots=True)
class Array:
    """An array that is not over.

    `elements` have rows of their own and have not ended. Those that wait stand `lined` up in the queue or are `kept`
    back by the throttle: a heap of (order, job) in which only those count that still wait.
    """

    terms: Terms
    place: Place
    state: ArrayState
    running: int = 0
    elements: dict[JobId, None] = field(default_factory=dict)
    lined: dict[JobId, None] = field(default_factory=dict)
    kept: list[tuple[int, JobId]] = field(default_factory=list)

    @property
    def room(self) -> float:
        """Return how many more elements may run."""
        return inf if self.state.throttle is None else max(0, self.state.throttle - self.running)


class World:
    """Everything that a cycle looks at."""

    def __init__(self, policy: Policy, rules: Rules, boot: str) -> None:
        self.policy, self.rules = policy, rules
        self.predictor = Predictor(rules.assumed_runtime_s)
        self.usage = Usage()
        self.bursts = Bursts()
        self.queue = Queue(policy.rank, lambda terms: self.predictor.passing_s(terms))  # noqa: PLW0108 - a twin gets another
        self.nodes: dict[NodeName, NodeState] = {}
        self.gpus: dict[GpuId, GpuState] = {}
        self.drained: dict[GpuId, str] = {}  # of every GPU that was drained, known or not
        self.active: dict[JobId, ActiveJob] = {}
        self.parked: dict[JobId, Parked] = {}
        self.arrays: dict[JobId, Array] = {}
        self.places: dict[JobId, Place] = {}  # of waiting jobs that are not plain: no first attempt, or a priority
        self.own_terms: dict[JobId, Terms] = {}  # of waiting elements that are not as their array's: see core.retries
        self.after, self.groups, self.recent = Dependencies(), Groups(), Recent()
        self.real: dict[NodeName, None] = {}  # nodes that ever had a GPU that is not simulated, and needs looks
        self.suiting = Suiting()
        self.judged: dict[Demand, tuple[str, str | None]] = {}  # why a demand never fits: see core.admit
        self.dirty: set[NodeName] = set()  # nodes whose room may have changed since it was last counted
        self.vacated: list[Allocation] = []  # given back since then of nodes on paper, where nothing else decides
        self.settling: dict[NodeName, Timestamp] = {}  # when the next GPU of a node is released whatever is seen
        self.spaces = Spaces(PLACEMENTS[rules.placement]())
        self.blocked: dict[Demand, Wait] = {}  # why, as of the last round; see `why` for the rest
        self.slept_for: list[tuple[JobId, Allocation]] = []  # what was reserved when it was asked last who sleeps on
        # The explanations since the last cycle, by the claims on what is never for a job.
        self.lacking: dict[tuple[Demand, tuple[Claim, ...]], NoCapacity] = {}
        self.aside: list[Line] = []  # lines that the last cycle set aside
        self.shut: dict[str, dict[Line, None]] = {}  # lines over a quota, by the tenant and by the user whose it may be
        self.eased: set[str] = set()  # tenants and users who have less than before
        self.reservations: dict[JobId, Reservation] = {}
        self.patience, self.rail = Patience(), Rail()
        self.sooner: set[NodeName] = set()  # where something may be free earlier than reservations were made for
        self.early = False  # an end came well before it was expected, or another order: all may reserve something else
        self.preemptible: dict[JobId, None] = {}  # active jobs that give way to a higher priority
        self.expects_s: dict[JobId, Seconds] = {}  # how long active jobs were expected to run when they started
        self.rethink_at: Timestamp | None = None  # when time alone may let something start
        self.paused: str | None = None
        self.choice = Choice()
        self.books = Books()
        self.samples, self.care = Samples(), Care()
        self.tenants: dict[str, Tenant] = {}
        self.windows: dict[int, Window] = {}
        self.census: list[tuple[Timestamp, int]] = []  # since when there are how many GPUs, as long as is known
        self.standing: tuple[Claim, ...] | None = None  # None: to be made anew, see `windows`
        # What those withhold of each node: see `backfill`.
        self.withheld: tuple[tuple[Claim, ...], dict[Claim, dict[NodeName, Hold]]] | None = None
        self.next_number, self.last_window = 1, 0  # of the next job; of the newest window, also one that is over
        self.boot = boot
        self.queued_us = 0  # the last moment at which a job queued
        self.alarms = Alarms()

    def moment_us(self, now: Timestamp) -> int:
        """Return now in microseconds, even, and never the same twice: among equals the first to come is first."""
        self.queued_us = max(self.queued_us + 2, round(now * 500_000) * 2)  # between two: see `jobs`
        return self.queued_us

    def set_policy(self, policy: Policy) -> None:
        """Order everybody by another policy; nobody loses their place.

        Cost: all that wait stand in line anew, about two seconds for a million.
        """
        self.policy = policy
        self.aside.clear()
        self.shut.clear()
        self.rail.longest, self.early = None, True  # it names lines
        for active in self.active.values():
            policy.started(active, active.since)
        self.queue.reorder(policy.rank, self._order, self.bursts.of if policy.by_burst else None)
        for array in self.arrays.values():
            kept = {job for _, job in array.kept if job in self.places and job not in array.lined}
            array.kept = sorted((policy.order(self.places[job]), job) for job in kept)

    def _order(self, job: JobId, queued_us: int) -> int:
        """Return the order of one that stands in line; where its place is nothing special it is since when."""
        place = self.arrays[job].place if job in self.arrays else self.places.get(job)
        return queued_us if place is None else self.policy.order(place)

    # -- who holds what

    def enter(self, active: ActiveJob) -> None:
        """Record that a job is active now."""
        job, terms = active.job, active.terms
        self.active[job] = active
        self.books.enter(active)
        burst = self.bursts.of(job, terms)
        if burst:
            self.predictor.begin(job, terms, burst, active.since)
        self.expects_s[job] = self.predictor.seconds(terms, burst)
        if self.rules.preemptible if terms.preemptible is None else terms.preemptible:
            self.preemptible[job] = None
        self._hold(active)
        if index_of(job) is not None:
            self.arrays[array_of(job)].running += 1

    def change(self, active: ActiveJob) -> None:
        """Record that an active job is in another state now, or that its user says something else of it."""
        self.books.change(self.active[active.job], active)
        self.active[active.job] = active
        for part in active.state.allocation.parts:
            if part.node in self.nodes:
                self.nodes[part.node].changed()

    def leave(self, job: JobId) -> ActiveJob:
        """Record that a job is active no more, and return it as it was."""
        active = self.active.pop(job)
        self.books.leave(active)
        del self.expects_s[job]
        self.predictor.end(job)
        self.preemptible.pop(job, None)
        self.alarms.silence(job)
        if self.shut:
            self.eased |= {active.terms.tenant, active.terms.user}
        self._let_go(active)
        if index_of(job) is not None:
            self.arrays[array_of(job)].running -= 1
        return active

    def _hold(self, active: ActiveJob) -> None:
        """Count an allocation. Parts of it that were never seen since the start count once they are: see `know`."""
        job, gpus = active.job, self.gpus
        for part in active.state.allocation.parts:
            for share in part.shares:
                if (state := gpus.get(share.gpu)) is not None:
                    state.holders[job] = share.memory_mib
            if (node := self.nodes.get(part.node)) is not None:
                node.hold(job, part)  # its room was counted as it gave it: see `spaces`

    def _let_go(self, active: ActiveJob) -> None:
        """Count an allocation as over."""
        job, gpus = active.job, self.gpus
        for part in active.state.allocation.parts:
            for share in part.shares:
                if (state := gpus.get(share.gpu)) is not None:
                    state.holders.pop(job, None)
            if (node := self.nodes.get(part.node)) is not None:
                node.let_go(job, part)
                if part.node in self.real:
                    self.dirty.add(part.node)
                else:
                    self.vacated.append(part)

    def ends_sooner(self, active: ActiveJob) -> None:
        """Remember where something may be free earlier than reservations were made for."""
        self.sooner.update(part.node for part in active.state.allocation.parts)

    # -- how long jobs take

    def lasting_s(self, terms: Terms) -> Seconds:
        """Return how long a job of these terms may run, as far as its user says; what others did binds nobody."""
        if terms.time_limit_s is not None:
            return terms.time_limit_s
        return self.rules.assumed_runtime_s if terms.estimate_s is None else terms.estimate_s

    # -- who waits

    def wait(self, job: JobId, terms: Terms, place: Place) -> None:
        """Put a job where it belongs: parked, kept back by its array's throttle, or in its line."""
        if job in self.queue or job in self.places or job in self.parked:  # most come from nowhere
            self.unwait(job)
        self.bursts.came(job, terms, place.queued_us)
        if job not in self.arrays:  # what is pending of those is counted as it changes: see `Outcome`
            self.books.queue(terms, 1)
        if place.park is not None:
            self.parked[job] = Parked(terms, place)
            if place.not_before is not None and place.park in {Park.BEGIN, Park.RETRY}:
                self.alarms.set(place.not_before, job)
            return
        array = self.arrays.get(array_of(job)) if self.arrays else None
        if array is not None and index_of(job) is not None:
            self.places[job] = place
            if terms is not array.terms and terms != array.terms:
                self.own_terms[job] = terms
            if array.room:
                self._line_up(array, job)
            else:
                heappush(array.kept, (self.policy.order(place), job))
            return
        if not place.plain:
            self.places[job] = place
        if array is None or array.room:
            self.queue.add(job, terms, self.policy.order(place))

    def unwait(self, job: JobId) -> None:
        """Take a job out of wherever it waits."""
        terms: Terms | None = None
        parked = self.parked.pop(job, None)
        if parked is not None:
            terms = parked.terms
            self.alarms.silence(job)
        else:
            line = self.queue.line(job)
            if index_of(job) is not None:
                array = self.arrays[array_of(job)]
                array.lined.pop(job, None)
                terms = array.terms if job in self.places else None
            elif line is not None:
                terms = line.terms
            if line is not None:
                self.queue.remove(job)
            self.places.pop(job, None)
            self.own_terms.pop(job, None)
        if terms is not None and job not in self.arrays:
            self.books.queue(terms, -1)

    def waiting(self, job: JobId) -> Parked | None:
        """Return the terms and place of a waiting job, element or array, None if it does not wait."""
        parked = self.parked.get(job)
        if parked is not None:
            return parked
        place = self.places.get(job)
        array = self.arrays.get(array_of(job)) if self.arrays else None
        if array is not None:
            index, pending = index_of(job), array.state.pending
            if index is not None and place is not None:
                return Parked(self.own_terms.get(job, array.terms), place)
            return Parked(array.terms, array.place) if (pending if index is None else index in pending) else None
        line = self.queue.line(job)
        if line is None:
            return None
        return Parked(line.terms, place or Place(queued_us=self.queue.order(job)))

    def queued_since_us(self, job: JobId) -> int:
        """Return since when a job that stands in a line queues, in microseconds."""
        place = self.places.get(job)
        if place is None and job in self.arrays:
            place = self.arrays[job].place
        return self.queue.order(job) if place is None else place.queued_us

    def throttle(self, number: JobId) -> None:
        """Let as many of an array's waiting elements stand in line as may run, or none; costs what its limit is."""
        array = self.arrays[number]
        if not array.room:
            self.queue.remove(number)
            for job in array.lined:
                self.queue.remove(job)
                heappush(array.kept, (self.policy.order(self.places[job]), job))
            array.lined.clear()
            return
        while array.kept and len(array.lined) < array.room:
            order, job = heappop(array.kept)
            if job in self.places and job not in array.lined and self.policy.order(self.places[job]) == order:
                self._line_up(array, job)
        if array.state.pending and array.place.park is None and number not in self.queue:
            self.queue.add(number, array.terms, self.policy.order(array.place))

    def _line_up(self, array: Array, job: JobId) -> None:
        array.lined[job] = None
        terms = self.own_terms.get(job, array.terms)
        self.queue.add(job, terms, self.policy.order(self.places[job]))

    # -- what there is

    def see_node(self, node: Node) -> None:
        """Take in a node's inventory, whole. GPUs of it that are no longer there stay known, as not present.

        Simulated GPUs that are gone are forgotten: they were never hardware that may come back. So are MIG instances
        whose GPU is there without them: somebody has split it anew.
        """
        self.standing = None
        self.judged.clear()
        self.suiting.forget()
        self.books.parts.clear()
        state = self._know_node(node)
        state.node, state.present = node, True
        self.dirty.add(node.name)
        there = {gpu.id for gpu in node.gpus}
        for known in list(state.gpus):
            if known.gpu.id not in there:
                known.present = False
                if (known.gpu.simulated or known.gpu.parent in there) and not known.holders:
                    state.remove(known)
                    del self.gpus[known.gpu.id]
        for gpu in node.gpus:
            self.know(gpu, state, present=True)
        state.gpus.sort(key=lambda each: (not each.present, each.gpu.index))

    def remember(self, node: Node) -> None:
        """Take in what the store says was ever seen, before the inventory speaks: known, and not present."""
        self.standing = None
        self.judged.clear()
        self.suiting.forget()
        self.books.parts.clear()
        state = self._know_node(node)
        for gpu in node.gpus:
            self.know(gpu, state, present=False)

    def _know_node(self, node: Node) -> NodeState:
        state = self.nodes.get(node.name)
        if state is None:
            state = self.nodes[node.name] = NodeState(node)
            parts = [(job, part) for job, each in self.active.items() for part in each.state.allocation.parts]
            state.held = {job: part for job, part in parts if part.node == node.name}
            state.cpus_used = sum(part.cpus for part in state.held.values())
            state.memory_used_mib = sum(part.memory_mib for part in state.held.values())
        return state

    def know(self, gpu: Gpu, node: NodeState, *, present: bool) -> None:
        """Take in one GPU, seen now or (from the store) ever. It may be known from another node: a host's old name."""
        state = self.gpus.get(gpu.id)
        if state is None:
            state = self.gpus[gpu.id] = GpuState(gpu, node.node.name, drained=self.drained.get(gpu.id))
            state.holders = {
                job: share.memory_mib
                for job, each in self.active.items()
                for share in each.state.allocation.all_shares
                if share.gpu == gpu.id
            }
            node.add(state)
        elif state.node != node.node.name:
            self.nodes[state.node].remove(state)
            self.dirty.add(state.node)
            node.add(state)
            state.node = node.node.name
        state.be(gpu)
        state.present = present
        if not gpu.simulated:
            self.real[node.node.name] = None

    def any_gpu(self) -> bool:
        """Return whether any GPU was ever seen."""
        return bool(self.gpus)

    def problem(self) -> str | None:
        """Return why no GPUs can be seen, if there is a reason."""
        return next((state.node.problem for state in self.nodes.values() if state.node.problem), None)
