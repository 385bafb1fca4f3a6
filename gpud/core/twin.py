"""A copy of the world to think ahead in: what happens there happens nowhere else.

It holds what deciding needs, and of a long queue the beginning: the first jobs in the policy's order, and whatever is
parked until a time or another job's end. Real GPUs are taken for simulated ones, which need no looks; those that
nobody could be given now (foreign, lost, unhealthy) are drained there. Nobody's held job is in it: it needs somebody
to release it.

What is taken of the world at once is references to what never changes (`Snapshot`, some microseconds a job); the copy
is built from them afterwards, in pieces, so that the loop may go on between them.

Cost: about 10 us a job.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heapreplace

from gpud.core import patience
from gpud.core.active import ActiveJob
from gpud.core.claims import Reservation
from gpud.core.condition import Condition, condition
from gpud.core.policies.fcfs import Fcfs
from gpud.core.queue import Line, Longest, job_of
from gpud.core.space import Spaces
from gpud.core.world import Array, Parked, World
from gpud.model.gpu import Gpu, Node, Reading, Unreadable
from gpud.model.job import JobId, array_of
from gpud.model.spec import Park
from gpud.model.units import Seconds, Timestamp

_USABLE = {Condition.FREE, Condition.BUSY, Condition.SHARED, Condition.SPLIT, Condition.RELEASING}
_GROWTH = 4  # entries of a line are asked for in pieces, each so many times as long as all before
_PIECE = 32  # jobs that are copied between two breaths
_TIMED = {Park.BEGIN, Park.RETRY, Park.AFTER}

_Waited = tuple[int, JobId, JobId]


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU as it is now: `closed` says why nobody could be given it."""

    gpu: Gpu
    present: bool
    drained: str | None
    closed: str | None
    seen: Reading | Unreadable | None  # the coolest of equal GPUs is given


@dataclass(slots=True)
class Snapshot:
    """What is taken of a world at one moment; `whole`: of the queue, everybody."""

    now: Timestamp
    nodes: list[tuple[Node, bool, str | None, list[_Device]]] = field(default_factory=list)
    active: list[tuple[ActiveJob, Seconds]] = field(default_factory=list)
    arrays: dict[JobId, Array] = field(default_factory=dict)
    waiting: list[tuple[JobId, Parked]] = field(default_factory=list)
    kept: list[tuple[JobId, Parked]] = field(default_factory=list)
    whole: bool = True
    reservations: dict[JobId, Reservation] = field(default_factory=dict)
    quotas: dict[str, JobId] = field(default_factory=dict)  # for whom they are kept
    longest: Longest | None = None
    heads: list[_Waited] = field(default_factory=list)  # who waited longest, with the heads of their lines
    gangs: list[_Waited] = field(default_factory=list)
    world: World | None = None

    @property
    def jobs(self) -> set[JobId]:
        """Return who waits, arrays as a whole among them."""
        return {job for job, _ in self.waiting} | {job for job, _ in self.kept} | self.arrays.keys()


def snapshot(world: World, now: Timestamp, most: int) -> Snapshot:
    """Take what there is of a world, and of its queue the first `most` jobs."""
    taken = Snapshot(now, reservations=dict(world.reservations), quotas=dict(world.patience.kept))
    for state in world.nodes.values():
        devices = []
        for gpu in state.gpus:
            now_is = condition(world, gpu, now)
            closed = None if now_is in _USABLE else now_is.value
            devices.append(_Device(replace(gpu.gpu, simulated=True), gpu.present, gpu.drained, closed, gpu.seen))
        node = replace(state.node, gpus=tuple(device.gpu for device in devices))
        taken.nodes.append((node, state.present, state.drained, devices))
    taken.active = [(active, world.expects_s[job]) for job, active in world.active.items()]
    entries, taken.whole = _first(world, most)
    parked = [(job, each) for job, each in world.parked.items() if each.place.park in _TIMED]
    wanted = {array_of(job) for job in (*entries, *(job for job, _ in parked), *world.active)}
    for key in wanted & world.arrays.keys():
        array = world.arrays[key]
        taken.arrays[key] = Array(array.terms, array.place, array.state, elements=dict(array.elements))
        taken.kept += [(job, found) for _, job in array.kept if (found := world.waiting(job)) is not None]
    for job in entries:
        found = world.waiting(job)
        assert found is not None, job  # noqa: S101 - it stands in a line
        taken.waiting.append((job, found))
    taken.waiting += parked[:most]
    longest = taken.longest = world.rail.longest
    if longest is not None:
        taken.heads, taken.gangs = _of_heads(longest.heads), _of_heads(longest.gangs)
    taken.world = _bare(world, [job for job, _ in parked], now)
    return taken


def fill(taken: Snapshot) -> Iterator[None]:
    """Build the copy, `taken.world`, breathing now and then."""
    world = taken.world
    assert world is not None  # noqa: S101 - made with it
    for node, present, drained, devices in taken.nodes:
        world.remember(node)
        state = world.nodes[node.name]
        state.present, state.drained = present, drained
        for device in devices:
            gpu = world.gpus[device.gpu.id]
            gpu.present = device.present
            gpu.see(device.seen)
            gpu.drained = device.closed if device.drained is None else device.drained
        world.dirty.add(node.name)
        yield
    world.arrays.update(taken.arrays)
    for at, (active, expects_s) in enumerate(taken.active):
        world.enter(active)
        world.expects_s[active.job] = expects_s
        if not at % _PIECE:
            yield
    for at, (job, each) in enumerate((*taken.kept, *taken.waiting)):
        world.wait(job, each.terms, each.place)
        if not at % _PIECE:
            yield
    for job, array in taken.arrays.items():
        world.throttle(job)
        world.books.pend(job, array.terms, len(array.state.pending))
    world.reservations = taken.reservations
    world.patience.kept.update(taken.quotas)
    patience.keep(world, taken.now)
    if taken.longest is not None:
        heads, gangs = _of_lines(world, taken.heads), _of_lines(world, taken.gangs)
        heapify(heads)
        world.rail.longest = replace(taken.longest, heads=heads, gangs=gangs)


def _of_heads(waited: Iterable[tuple[int, JobId, Line]]) -> list[_Waited]:
    return [(since_us, job, job_of(line.head)) for since_us, job, line in waited if line.head is not None]


def _of_lines(world: World, waited: Iterable[_Waited]) -> list[tuple[int, JobId, Line]]:
    """Return who waited longest with the lines that they have here; who has none is beyond what was copied."""
    found = [(since_us, job, world.queue.line(head)) for since_us, job, head in waited]
    return [(since_us, job, line) for since_us, job, line in found if line is not None]


def _bare(world: World, parked: Iterable[JobId], now: Timestamp) -> World:
    """Return a world without nodes and jobs that orders and places as this one does."""
    twin = World(Fcfs(), replace(world.rules, sample_every_s=0.0), world.boot)
    twin.predictor, twin.usage, twin.choice = world.predictor.twin(), world.usage.twin(), world.choice
    twin.bursts = world.bursts.twin()
    twin.tenants, twin.windows = world.tenants, dict(world.windows)
    twin.spaces = Spaces(world.spaces.placement.twin())
    twin.set_policy(world.policy.twin(twin))
    twin.books.restore(world.tenants.values(), world.books.spent())
    twin.after = world.after.twin(parked)
    twin.rail, twin.census = replace(world.rail, longest=None), world.census
    twin.next_number, twin.queued_us = world.next_number, world.queued_us
    # Where a look may be awaited, which nothing tells of here, it is decided anew at once; else when time says so.
    twin.rethink_at = now if world.real else world.rethink_at
    return twin


def _first(world: World, most: int) -> tuple[list[JobId], bool]:
    """Return the first jobs of the queue in the policy's order, and whether that is all."""
    heads = [(line.rank, line.head, line) for line in world.queue.lines() if line.head is not None]
    heapify(heads)
    rest: dict[Line, Iterator[int]] = {}
    found: list[JobId] = []
    while heads and len(found) < most:
        rank, entry, line = heads[0]
        found.append(job_of(entry))
        following = next(rest.setdefault(line, _behind(world, line)), None)
        if following is None:
            heappop(heads)
        else:
            heapreplace(heads, (rank, following, line))
    return found, not heads


def _behind(world: World, line: Line) -> Iterator[int]:
    """Yield who stands behind the first of a line, in order; asked for in ever larger pieces."""
    have = 1
    while have < line.count:
        entries = world.queue.following(line, _GROWTH * have)
        yield from entries[have:]
        have = len(entries)
