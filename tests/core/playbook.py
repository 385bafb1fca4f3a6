"""A world in words: `a_cluster(...)`, `a_job(...)`, and what people and machines do to them.

Every cycle is checked against what must always hold (see `Play._check`), so a test need only say what it is about.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ledger import Ledger, picture, told
from tallies import counted, recounted

from gpud.core.claims import Reservation
from gpud.core.commands import (
    Asked,
    Cancel,
    Changed,
    Drain,
    Hold,
    Interrupt,
    Pause,
    Release,
    Reply,
    Requeue,
    SetPriority,
    Submit,
)
from gpud.core.condition import is_opaque, occupants
from gpud.core.cycle import Input, cycle
from gpud.core.outcome import Outcome
from gpud.core.policies.priority import Priority
from gpud.core.restore import restore
from gpud.core.rules import Rules
from gpud.core.waits import Wait
from gpud.core.why import why
from gpud.core.world import World
from gpud.model.array import parse_array
from gpud.model.effects import Launch, ReadGpus
from gpud.model.gpu import (
    Allocation,
    Gpu,
    GpuId,
    GpuProcess,
    Node,
    NodeName,
    ProcessIdentity,
    Reading,
    Unreadable,
    nominal_mib,
)
from gpud.model.health import Signs
from gpud.model.job import Demand, Exit, Fault, JobId, array_of, job_id
from gpud.model.observations import Exited, GpuSeen, NodeSeen, Started, XidSeen
from gpud.model.spec import Dependency, JobSpec, Terms
from gpud.model.units import Mib, Timestamp

NOON = 1_700_000_000.0
SIZES = {  # what the vendor's library says: name, MiB
    "H100": ("NVIDIA H100 80GB HBM3", 81_559),
    "A100": ("NVIDIA A100-SXM4-80GB", 81_920),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB", 40_960),
    "L40S": ("NVIDIA L40S", 46_068),
    "A10": ("NVIDIA A10", 23_028),
    "T4": ("Tesla T4", 15_360),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 24_564),
}


def a_gpu(index: int, kind: str = "H100", node: str = "n1", *, simulated: bool = True) -> Gpu:
    name, memory_mib = SIZES[kind]
    return Gpu(
        id=GpuId(f"{node}-{kind}-{index}"),
        index=index,
        name=name,
        memory_total_mib=Mib(memory_mib),
        simulated=simulated,
    )


def a_node(
    name: str = "n1",
    gpus: str = "4xH100",
    *,
    cpus: int = 64,
    memory: int = 512,
    simulated: bool = True,
    problem: str | None = None,
) -> Node:
    """`gpus` is like "4xH100,2xA10" or ""; `memory` is GiB."""
    kinds = [kind for part in gpus.split(",") if part for kind in [part.split("x", 1)[1]] * int(part.split("x", 1)[0])]
    there = tuple(a_gpu(index, kind, name, simulated=simulated) for index, kind in enumerate(kinds))
    return Node(name=NodeName(name), cpus=cpus, memory_mib=Mib(memory * 1024), gpus=there, problem=problem)


def a_job(
    gpus: int = 1,
    *,
    user: str = "ada",
    priority: int = 0,
    limit: float | None = None,
    estimate: float | None = None,
    retries: int = 0,
    grace: float = 30.0,
    array: str | None = None,
    after: tuple[Dependency, ...] | JobId = (),
    retry_on: tuple[str, ...] = (),
    hold: bool = False,
    begin: float | None = None,
    type: str | None = None,  # noqa: A002 - the option's name
    memory: int | None = None,
    cpus: int = 0,
    ram: int = 0,
    **demand: object,
) -> JobSpec:
    """`limit` and `grace` in seconds, `begin` in seconds after noon, `memory` (of a GPU) and `ram` in GiB."""
    indices, throttle = parse_array(array) if array is not None else (None, None)
    needs = Demand(
        gpus=gpus,
        gpu_type=type,
        gpu_memory_mib=None if memory is None else Mib(memory * 1024),
        cpus=cpus,
        memory_mib=Mib(ram * 1024),
        **demand,
    )
    return JobSpec(
        nonce="",
        terms=Terms(
            demand=needs,
            uid=sum(user.encode()),
            user=user,
            tenant="",
            grace_s=grace,
            retries=retries,
            time_limit_s=limit,
            estimate_s=estimate,
            retry_on=retry_on,
        ),
        name="job",
        command=("true",),
        workdir="/",
        environment=b"{}",
        gid=1,
        groups=(),
        priority=priority,
        hold=hold,
        begin_at=None if begin is None else Timestamp(NOON + begin),
        array=indices,
        throttle=throttle,
        after=after if isinstance(after, tuple) else (Dependency(after),),
    )


def a_process(*, kind: str = "compute", command: str = "python", memory: int = 500) -> GpuProcess:
    return GpuProcess(pid=4242, kind=kind, memory_mib=Mib(memory), user="eve", command=command)


@dataclass
class Hardware:
    """What a look at a real GPU would give."""

    used: int | None = 5
    processes: tuple[GpuProcess, ...] | None = ()
    lease: ProcessIdentity | None = None
    temperature: int | None = None
    broken: str | None = None
    lost: bool = False
    utilization: int | None = None
    slowed: tuple[str, ...] | None = None
    signs: Signs | None = None


@dataclass
class Play:
    """A world, its time, and everything that it ever decided."""

    world: World
    now: float = NOON
    ledger: Ledger = field(default_factory=Ledger)
    wanted: dict[GpuId, None] = field(default_factory=dict)  # looks asked for and not answered
    hardware: dict[GpuId, Hardware] = field(default_factory=dict)
    out: Outcome = field(default_factory=lambda: Outcome(Timestamp(NOON)))
    checked: bool = True

    # -- a cycle

    def cycle(self, *inputs: Input) -> Outcome:
        self.now += 0.001
        self.out = cycle(self.world, inputs, Timestamp(self.now))
        asked = [effect for effect in self.out.effects if isinstance(effect, ReadGpus)]
        self.wanted.update((gpu, None) for effect in asked for gpu in effect.gpus)
        if self.checked:
            self.ledger.write(self.out.changes)
            self._check()
        return self.out

    def later(self, seconds: float) -> Outcome:
        """Let time pass, and every cycle that was asked for run."""
        until = self.now + seconds
        while self.out.wake_at is not None and self.out.wake_at < until:
            self.now = max(self.now, self.out.wake_at)
            self.cycle()
        self.now = until
        return self.cycle()

    # -- what people do

    def submit(self, *specs: JobSpec) -> list[JobId]:
        ends = [self.ledger.ends_of(spec.after) for spec in specs]
        asked = [Submit(token, spec, ends=known) for token, (spec, known) in enumerate(zip(specs, ends, strict=True))]
        replies = self.cycle(*asked).replies
        return [reply.job for _, reply in replies if hasattr(reply, "job") and reply.job is not None]

    def dry_run(self, spec: JobSpec) -> str:
        return self.refused(spec, dry_run=True)

    def refused(self, spec: JobSpec, *, dry_run: bool = False) -> str:
        """Return the message and hint with which a submit is refused, or "accepted"."""
        ((_, reply),) = self.cycle(Submit(1, spec, dry_run)).replies
        hint = getattr(reply, "hint", None)
        return f"{getattr(reply, 'message', 'accepted')}{f'; {hint}' if hint else ''}"

    def _ask(self, command: Input) -> Reply:
        ((_, reply),) = self.cycle(command).replies
        return reply

    def _change(self, command: Input) -> dict[str, str]:
        """Return the notes: what was not done, and why."""
        reply = self._ask(command)
        assert isinstance(reply, Changed)
        return {str(job): note for job, note in reply.notes}

    def cancel(self, *jobs: JobId, force: bool = False) -> list[str]:
        return list(self._change(Cancel(1, jobs, force)).values())

    def hold(self, *jobs: JobId) -> list[str]:
        return list(self._change(Hold(1, jobs)).values())

    def release(self, *jobs: JobId) -> list[str]:
        return list(self._change(Release(1, jobs)).values())

    def requeue(self, *jobs: JobId, ended: Iterable[JobId] = ()) -> list[str]:
        finished = tuple(self.ledger.finished(job) for job in ended)
        return list(self._change(Requeue(1, jobs, finished)).values())

    def prioritise(self, priority: int, *jobs: JobId) -> list[str]:
        return list(self._change(SetPriority(1, jobs, priority)).values())

    def interrupt(self, *jobs: JobId) -> list[str]:
        return list(self._change(Interrupt(1, jobs)).values())

    def drain(self, *gpus: GpuId, nodes: tuple[str, ...] = (), reason: str | None = "sick") -> Reply:
        return self._ask(Drain(1, gpus, tuple(NodeName(name) for name in nodes), reason))

    def pause(self, reason: str | None = "") -> Reply:
        return self._ask(Pause(1, reason))

    def read(self) -> Outcome:
        return self.cycle(Asked(1))

    # -- what machines do

    def starts(self, *jobs: JobId) -> Outcome:
        """Say that these jobs run now."""
        return self.cycle(*(a_start(job, self.attempt(job), self.now) for job in jobs))

    def ends(self, *jobs: JobId, **how: object) -> Outcome:
        """End these jobs' attempts: `code=0`, `signal=9`, `fault=...`, `lost=...`, `timed_out=True`, `stuck=True`."""
        return self.cycle(*(an_end(job, self.attempt(job), self.now, **how) for job in jobs))

    def sees(self, node: Node) -> Outcome:
        """See a node's inventory anew."""
        for gpu in node.gpus:
            if not gpu.simulated:
                self.hardware.setdefault(gpu.id, Hardware())
        return self.cycle(NodeSeen(node))

    def look(self, *gpus: GpuId) -> Outcome:
        """Answer looks at these GPUs, or at all real ones."""
        self.now += 0.001
        seen = [self.seen(gpu) for gpu in gpus or self.hardware]
        for each in seen:
            self.wanted.pop(each.gpu, None)
        return self.cycle(*seen)

    def settle(self) -> None:
        """Answer every look that was asked for until none is."""
        while asked := self.asked():
            self.look(*asked)

    def asked(self) -> list[GpuId]:
        """Return the GPUs that are to be looked at."""
        return list(self.wanted)

    def xid(self, gpu: GpuId, number: int) -> Outcome:
        """Have a driver report an error of a GPU."""
        return self.cycle(XidSeen(self.world.gpus[gpu].node, gpu, number))

    def seen(self, gpu: GpuId) -> GpuSeen:
        node, real, at = self.world.gpus[gpu].node, self.hardware[gpu], Timestamp(self.now)
        if real.broken is not None:
            return GpuSeen(node, gpu, Unreadable(at, real.broken, lost=real.lost))
        used = None if real.used is None else Mib(real.used)
        reading = Reading(
            at=at,
            memory_used_mib=used,
            utilization_percent=real.utilization,
            processes=real.processes,
            lease=real.lease,
            temperature_c=real.temperature,
            slowed=real.slowed,
            signs=real.signs,
        )
        return GpuSeen(node, gpu, reading)

    def restarted(self, *, surveyed: bool = True) -> "Play":
        """Return the play with a world made anew from what the changes said, `surveyed`: and its nodes seen."""
        waiting, others = self.ledger.loaded()
        world = World(self.world.policy, self.world.rules, self.world.boot)
        looks = restore(
            world,
            nodes=self.ledger.nodes.values(),
            waiting=waiting,
            others=others,
            settings={key: value for key, value in self.ledger.settings.items() if value is not None},
            next_number=self.world.next_number,
            accounts=self.ledger.accounts.values(),
            runs=self.ledger.runs,
        )
        assert {(look.job, look.attempt) for look in looks} == {
            (job, active.place.attempt) for job, active in self.world.active.items()
        }
        again = replace(self, world=world, wanted={})
        if surveyed:
            again.cycle(*(NodeSeen(state.node) for state in self.world.nodes.values() if state.present))
        return again

    # -- what there is to see

    @property
    def running(self) -> list[JobId]:
        return sorted(self.world.active)

    @property
    def started(self) -> list[JobId]:
        """Return the jobs that the last cycle started, in order."""
        return [effect.job for effect in self.out.effects if isinstance(effect, Launch)]

    @property
    def reserved(self) -> Reservation | None:
        """Return what the first blocked job has reserved."""
        return next(iter(self.world.reservations.values()), None)

    def attempt(self, job: JobId) -> int:
        return self.world.active[job].place.attempt

    def gpus(self, job: JobId) -> list[GpuId]:
        return list(self.world.active[job].state.allocation.gpus)

    def node(self, job: JobId) -> str:
        return self.world.active[job].state.allocation.node

    def why(self, job: JobId) -> Wait | None:
        return why(self.world, job, Timestamp(self.now))

    def state(self, job: JobId) -> str:
        """Return a job's state in one or two words."""
        active = self.world.active.get(job)
        if active is not None:
            cause = getattr(active.state, "cause", None)
            return type(active.state).__name__.lower() + (f"({cause})" if cause else "")
        row = self.ledger.rows.get(job)
        waiting = self.world.waiting(job)
        if waiting is not None:
            return "queued" if waiting.place.park is None else waiting.place.park.value
        return "nothing" if row is None or row.end is None else str(row.end)

    # -- what must always hold

    def _check(self) -> None:
        world, out = self.world, self.out
        holders = recount(world)
        assert {gpu: state.holders for gpu, state in world.gpus.items() if state.holders} == {
            gpu: held for gpu, held in holders.items() if gpu in world.gpus
        }
        for node in world.nodes.values():
            held = [part for each in world.active.values() for part in each.state.allocation.parts]
            here = [part for part in held if part.node == node.node.name]
            assert node.cpus_used == sum(part.cpus for part in here)
            assert node.memory_used_mib == sum(part.memory_mib for part in here)
        self._check_starts()
        self._check_jobs()
        assert out.wake_at is None or out.wake_at > self.now, "the daemon would spin"
        assert picture(world) == told(self.ledger)
        assert counted(world) == recounted(world, self.ledger)

    def _check_starts(self) -> None:
        for effect in self.out.effects:
            if not isinstance(effect, Launch):
                continue
            parts, demand = effect.allocation.parts, self.world.active[effect.job].terms.demand
            assert len({part.node for part in parts}) == len(parts) == demand.nodes
            for part in parts:
                self._check_part(part, demand)

    def _check_part(self, part: Allocation, demand: Demand) -> None:
        node = self.world.nodes[part.node]
        assert len(part.shares) == demand.gpus // demand.nodes
        assert node.present
        assert node.drained is None
        assert not part.cpus or node.cpus_used <= node.node.cpus
        assert not part.memory_mib or node.memory_used_mib <= node.node.memory_mib
        for share in part.shares:
            state = self.world.gpus[share.gpu]
            assert state.present
            assert state.node == part.node
            assert state.drained is None
            assert (share.memory_mib is not None) == demand.shared
            assert state.declared_mib <= nominal_mib(state.gpu.memory_total_mib)
            assert not state.gpu.split
            if not state.gpu.simulated:
                assert isinstance(state.seen, Reading)
                assert not is_opaque(self.world, state.seen)
                if len(state.holders) == 1:
                    assert state.seen.lease is None
                    assert not occupants(self.world, state.seen)

    def _check_jobs(self) -> None:
        """No job is forgotten: it waits and has a reason, or is active, or has ended; and no array is."""
        for job, row in self.ledger.unfinished().items():
            active, waits = job in self.world.active, self.world.waiting(job) is not None
            if row.array is not None:
                assert waits == bool(row.array.pending)
                assert row.array.live == len(self.world.arrays[job].elements)
                assert row.array.live or row.array.pending
            else:
                assert active != waits, f"{job} is {'both' if active else 'nowhere'}"
            assert (self.why(job) is not None) == waits
        launched = {array_of(job) for job in self.started}
        for job, array in self.world.arrays.items():
            throttle = array.state.throttle if job in launched else None  # more may run since before it was lowered
            assert array.running == sum(1 for each in array.elements if each in self.world.active)
            assert throttle is None or array.running <= throttle
            assert job in self.ledger.unfinished()


def a_start(job: JobId, attempt: int, at: float) -> Started:
    return Started(job, attempt, Timestamp(at), ProcessIdentity(100, 1), ProcessIdentity(99, 1))


def an_end(
    job: JobId,
    attempt: int,
    at: float,
    *,
    code: int | None = None,
    signal: int | None = None,
    fault: Fault | None = None,
    lost: str | None = None,
    timed_out: bool = False,
    stuck: bool = False,
    finding: str | None = None,
    rss: int | None = None,
) -> Exited:
    if code is None and signal is None and fault is None and lost is None:
        code = 0
    return Exited(
        job,
        attempt,
        Exit(
            at=Timestamp(at),
            exit_code=code,
            signal=signal,
            fault=fault,
            lost=lost,
            timed_out=timed_out,
            stuck=stuck,
            finding=finding,
            max_rss_mib=None if rss is None else Mib(rss),
        ),
    )


def an_empty_world(*, aging: float = 1.0, rules: Rules | None = None) -> World:
    return World(Priority(aging), rules or Rules(), "boot-1")


def a_cluster(
    *nodes: Node, gpus: str = "4xH100", aging: float = 1.0, rules: Rules | None = None, **more: object
) -> Play:
    """Return a play whose nodes have been seen. Real GPUs are looked at too."""
    play = Play(an_empty_world(aging=aging, rules=rules))
    there = nodes or (a_node(gpus=gpus, **more),)
    play.hardware = {gpu.id: Hardware() for node in there for gpu in node.gpus if not gpu.simulated}
    play.cycle(*(NodeSeen(node) for node in there))
    play.settle()
    return play


def an_empty_cluster() -> Play:
    """Return a play in which no inventory has spoken yet."""
    return Play(an_empty_world())


def a_real_cluster(gpus: str = "2xH100", **more: object) -> Play:
    return a_cluster(gpus=gpus, simulated=False, **more)


def element(job: JobId, index: int) -> JobId:
    return job_id(job >> 24, index)


def recount(world: World) -> dict[GpuId, dict[JobId, Mib | None]]:
    """Return who holds each GPU, from the states alone. Raises AssertionError if one is given out twice."""
    holders: dict[GpuId, dict[JobId, Mib | None]] = {}
    for active in world.active.values():
        for share in active.state.allocation.all_shares:
            before = holders.setdefault(share.gpu, {})
            whole = share.memory_mib is None or None in before.values()
            assert not (before and whole), f"{share.gpu} is held by {before} and {active.job}"
            before[active.job] = share.memory_mib
    return holders
