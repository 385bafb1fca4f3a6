"""The machine that a simulated gpud runs on: processes and their records, GPUs and who is on them, a disk.

It outlives every gpud and knows the truth, so it is where promises are broken if they are: a GPU with two jobs on it,
an attempt that is started twice. A launcher here keeps the contract of `gpud.launchers.local` and its table.
"""

from collections import Counter
from dataclasses import dataclass, field

from virtual import BEGIN

from gpud.launchers.protocol import Means
from gpud.model.effects import Forget, Interrupt, Launch, Look, SetLimit, Stop
from gpud.model.gpu import Allocation, Gpu, GpuId, GpuProcess, Node, NodeName, ProcessIdentity, Reading, Unreadable
from gpud.model.health import Signs
from gpud.model.job import Exit, Fault, format_job
from gpud.model.observations import Exited, GpuSeen, NodeSeen, Started, XidSeen
from gpud.model.units import Mib, Timestamp
from gpud.store.files import StoreError, StoreFullError

NODE = NodeName("n1")
MEMORY_MIB = 81_559
IDLE_MIB = 5
NEVER = Fault("it never started", machine=True)


class BrokenPromiseError(AssertionError):
    """What must never happen did."""


@dataclass
class Record:
    """What is known of an attempt for good, and the process that it speaks of while that lives."""

    state: str  # claimed, done, tombstone
    boot: str
    at: float = 0.0
    pid: int = 0
    allocation: Allocation | None = None
    grace_s: float = 0.0
    stubborn: bool = False
    exit: Exit | None = None
    limit: int = 0  # of the timers that may end it the one that counts


@dataclass
class Board:
    """One GPU, as it is."""

    gpu: Gpu
    there: bool = True
    strangers: dict = field(default_factory=dict)
    residue_mib: int = 0
    broken: str | None = None
    fallen: bool = False
    hangs: bool = False
    lease: ProcessIdentity | None = None
    remapping: bool = False


class Machine:
    """Everything that is there without gpud. `tell` writes the story."""

    def __init__(self, time, rng, tell, gpus):
        self.time, self.rng, self.tell = time, rng, tell
        self.boards = {GpuId(f"GPU-{at}"): Board(a_gpu(at)) for at in range(gpus)}
        self.boots = 1
        self.records = {}
        self.orders = {}  # what a launcher process was told and has not come to
        self.executed = Counter()
        self.ends = {}  # how attempts ended that gpud can know of
        self.launcher = None
        self.inventory = None
        self.pids = 1000
        self.calm = False
        self.full_until = -1.0

    @property
    def boot(self):
        return f"boot-{self.boots}"

    def chance(self, odds):
        """Tell whether something bad happens now; in the end nothing does."""
        return not self.calm and self.rng.random() < odds

    def alive(self):
        return {key: each for key, each in self.records.items() if each.state == "claimed" and each.boot == self.boot}

    # -- jobs

    def order(self, key, order):
        self.orders[key] = order
        self.time.after(self.rng.choice((0.002, 0.01, 0.5)), self._claim, key)

    def _claim(self, key):
        """The process that is to become the job links its record: from here on it runs, once."""
        wanted = self.orders.pop(key, None)
        if wanted is None or key in self.records:
            return
        effect, order = wanted
        self.executed[key] += 1
        if self.executed[key] > 1:
            raise BrokenPromiseError(f"{named(key)} is started twice")
        self._crowded(key, effect.allocation)
        self.pids += 2
        terms = order.spec.terms
        seconds = self.rng.choice((0.01, 0.2, 1.0, 3.0, 10.0))
        record = self.records[key] = Record(
            "claimed",
            self.boot,
            at=self.time.now,
            pid=self.pids,
            allocation=effect.allocation,
            grace_s=terms.grace_s,
            stubborn=self.chance(0.2),
        )
        self.tell(f"{named(key)} runs on {effect.allocation.all_gpus}")
        code = self.rng.choice((0, 0, 0, 1, 3)) if not self.calm else 0
        self.time.after(seconds, self.end, key, self.boot, {"exit_code": code})
        if terms.time_limit_s is not None:
            self.time.after(terms.time_limit_s, self._limited, key, self.boot, 0)
        if self.launcher is not None:
            self.launcher.heard(key, self._started(key, record))

    def _crowded(self, key, allocation):
        mine = {share.gpu: share.memory_mib for share in allocation.all_shares}
        for other, record in self.alive().items():
            for share in record.allocation.all_shares:
                if share.gpu in mine and (share.memory_mib is None or mine[share.gpu] is None):
                    raise BrokenPromiseError(f"{share.gpu} has {named(other)} on it, and now {named(key)}")

    def _started(self, key, record):
        process, shim = ProcessIdentity(record.pid, 1), ProcessIdentity(record.pid - 1, 1)
        return Started(*key, Timestamp(BEGIN + record.at), process, shim)

    def end(self, key, boot, how):
        record = self.records.get(key)
        if record is None or record.state != "claimed" or record.boot != boot or self.boot != boot:
            return
        record.state = "done"
        finding = {"finding": "cuda: out of memory"} if how.get("exit_code") == 3 else {}
        record.exit = Exit(at=Timestamp(BEGIN + self.time.now), **how, **finding)
        self.ends[key] = how.get("exit_code"), how.get("signal")
        self.tell(f"{named(key)} ends: {how}")
        for gpu in record.allocation.all_gpus:  # its memory is given back when the driver comes to it
            board = self.boards[gpu]
            board.residue_mib += 4_000
            self.time.after(self.rng.choice((0.0, 0.05, 0.7, 3.0)), self._settle, board)
        if self.launcher is not None:
            self.launcher.heard(key, Exited(*key, record.exit))

    def _settle(self, board):
        board.residue_mib = max(0, board.residue_mib - 4_000)

    def _limited(self, key, boot, limit):
        record = self.records.get(key)
        if record is not None and record.limit == limit:
            self.end(key, boot, {"signal": 15, "timed_out": True})

    def limit(self, key, seconds):
        record = self.records[key]
        record.limit += 1
        if seconds is not None:
            left = max(0.0, record.at + seconds - self.time.now)
            self.time.after(left, self._limited, key, self.boot, record.limit)

    def stop(self, key, grace_s):
        record = self.records[key]
        grace_s = record.grace_s if grace_s is None else grace_s
        if record.stubborn or grace_s == 0:
            self.time.after(grace_s, self.end, key, record.boot, {"signal": 9})
        else:
            self.time.after(min(grace_s, self.rng.choice((0.01, 1.0))), self.end, key, record.boot, {"signal": 15})

    def reboot(self):
        """Everything that runs is gone, and so may be what was written a moment ago without a sync."""
        self.tell("the machine reboots")
        self.boots += 1
        self.orders.clear()
        for key in [key for key in self.records if self.chance(0.3)]:
            del self.records[key]
            self.ends.pop(key, None)
        for board in self.boards.values():
            board.strangers.clear()
            board.residue_mib, board.broken, board.fallen, board.hangs, board.lease = 0, None, False, False, None

    # -- GPUs

    def node(self):
        gpus = tuple(board.gpu for board in self.boards.values() if board.there)
        return Node(name=NODE, cpus=8, memory_mib=Mib(65_536), gpus=gpus, driver="570.1")

    def reading(self, gpu):
        board, at = self.boards[gpu], Timestamp(BEGIN + self.time.now)
        if not board.there or board.broken is not None:
            return Unreadable(at, board.broken or "GPU is lost", lost=board.fallen or not board.there)
        ours = [
            GpuProcess(
                pid=record.pid,
                kind="compute",
                memory_mib=Mib(3_000),
                user="u",
                command="true",
                ancestors=(ProcessIdentity(record.pid, 1), ProcessIdentity(record.pid - 1, 1)),
                uid=1000,
            )
            for record in self.alive().values()
            if gpu in record.allocation.all_gpus
        ]
        used = IDLE_MIB + board.residue_mib + 3_000 * (len(ours) + len(board.strangers))
        return Reading(
            at=at,
            memory_used_mib=Mib(used),
            utilization_percent=0,
            processes=(*ours, *board.strangers.values()),
            lease=board.lease,
            signs=Signs(remap_pending=board.remapping),
        )

    def heal(self):
        """Put everything right."""
        self.calm = True
        self.full_until = -1.0
        for board in self.boards.values():
            board.strangers.clear()
            board.there, board.broken, board.fallen, board.hangs = True, None, False, False
            board.lease, board.remapping = None, False

    # -- the disk

    def disk(self):
        """Raise StoreError while nothing can be written."""
        if self.time.now < self.full_until:
            raise StoreFullError("cannot write to gpud.db: database or disk is full", "make space")
        if self.chance(0.02):
            raise StoreError("cannot read or write gpud.db: disk I/O error", "does the disk work?")


class SimLauncher:
    """What one gpud sees of the machine's processes. Dies with it."""

    pid = 1
    means = Means()

    def __init__(self, machine, point):
        self.machine, self.point = machine, point
        self.known, self.over = set(), set()
        self.began, self.ran = set(), set()  # what gpud was told of: starts, and those that were told before any end
        self.ended = set()
        self.post = None
        machine.launcher = self

    def confinement(self, job, attempt):
        del job, attempt

    async def start(self, post):
        self.post = post

    def keep(self, attempts):
        kept = set(attempts)
        for key, record in list(self.machine.records.items()):
            over = record.state == "done" or (record.state == "claimed" and record.boot != self.machine.boot)
            if over and key not in kept:
                del self.machine.records[key]

    async def close(self):
        self.die()

    def die(self):
        self.post = None
        if self.machine.launcher is self:
            self.machine.launcher = None

    def perform(self, effect, order=None):
        self.point(type(effect).__name__)
        key, machine = (effect.job, effect.attempt), self.machine
        if isinstance(effect, Forget):
            record = machine.records.get(key)
            self.known.discard(key)
            if record is not None and not (record.state == "tombstone" and key in machine.orders):
                del machine.records[key]
            return
        again, record = key in self.known, machine.records.get(key)
        self.known.add(key)
        lives = record is not None and record.state == "claimed" and record.boot == machine.boot
        match effect:
            case Launch() if not again:
                self._launch(key, effect, order)
            case Stop(grace_s=grace_s) if key not in self.over:
                if lives:
                    machine.stop(key, grace_s)
                else:
                    self._settle(key, machine.boot, started=False)
            case Interrupt() if lives and machine.chance(0.5):
                machine.end(key, machine.boot, {"signal": 2})
            case SetLimit(time_limit_s=seconds) if lives:
                machine.limit(key, seconds)
            case Look(boot=boot, process=process):
                self.over.discard(key)
                self._settle(key, boot, started=process is not None)

    def _launch(self, key, effect, order):
        machine = self.machine
        if machine.chance(0.03):
            fault = machine.rng.choice(
                (Fault("no such program", machine=False, not_found=True), Fault("no space left", machine=True))
            )
            self._over(key, Exit(at=machine_now(machine), fault=fault))
        elif machine.chance(0.03):  # its launcher process was killed with the order in its hands
            machine.time.after(0.01, self._lost, key)
        else:
            machine.order(key, (effect, order))

    def _lost(self, key):
        if self.post is not None:
            self._settle(key, self.machine.boot, started=False)

    def _settle(self, key, boot, *, started):
        """Find out what became of an attempt: the table of `gpud.launchers.local`."""
        machine = self.machine
        record = machine.records.get(key)
        if record is None and boot == machine.boot and not started:
            record = machine.records[key] = Record("tombstone", machine.boot)
        if record is None:
            lost = "the node was rebooted" if boot != machine.boot else "its record was removed"
            self._over(key, Exit(at=machine_now(machine), lost=lost))
        elif record.state == "tombstone":
            self._over(key, Exit(at=machine_now(machine), fault=NEVER))
        elif record.state == "done":
            self.heard(key, machine._started(key, record))
            self._over(key, record.exit)
        elif record.boot != machine.boot:
            self._over(key, Exit(at=machine_now(machine), lost="the node was rebooted"))
        else:
            self.heard(key, machine._started(key, record))

    def _over(self, key, how):
        self.heard(key, Exited(*key, how))

    def heard(self, key, seen):
        """Tell what was seen: soon or late, and now and then twice."""
        if key not in self.known or key in self.over:
            return
        if isinstance(seen, Exited):
            self.over.add(key)
        machine = self.machine
        delays = [machine.rng.choice((0.0, 0.0, 0.001, 0.2))]
        if machine.chance(0.25):
            delays.append(machine.rng.choice((0.0, 1.0, 5.0)))
        for delay in delays:
            machine.time.after(delay, self._post, seen)

    def _post(self, seen):
        if self.post is None:
            return
        key = seen.job, seen.attempt
        if isinstance(seen, Started):
            self.began.add(key)
        elif key not in self.ended:  # a start that is told behind an end comes too late, however often that end is told
            self.ended.add(key)
            self.ran |= self.began & {key}
        self.post(seen)


class SimInventory:
    """What one gpud sees of the machine's GPUs."""

    def __init__(self, machine, point):
        self.machine, self.point = machine, point
        self.post = None
        machine.inventory = self

    def start(self, post):
        self.post = post
        self.survey()

    def survey(self):
        """See the node anew, and each of its GPUs."""
        self.machine.time.after(0.01, self._tell, NodeSeen(self.machine.node()))

    def read(self, gpus):
        self.point("ReadGpus")
        for gpu in gpus:
            self.machine.time.after(self.machine.rng.choice((0.001, 0.01, 0.1)), self._look, gpu)

    def _look(self, gpu):
        machine = self.machine
        if machine.boards[gpu].hangs:
            seen = Unreadable(Timestamp(BEGIN + machine.time.now), "not answering")
            machine.time.after(5.0, self._tell, GpuSeen(NODE, gpu, seen))
            return
        seen = GpuSeen(NODE, gpu, machine.reading(gpu))
        machine.time.after(machine.rng.choice((0.0, 0.005)), self._tell, seen)
        if machine.chance(0.05):  # late, and twice
            machine.time.after(machine.rng.choice((0.1, 2.0)), self._tell, seen)

    def xid(self, gpu, number):
        self._tell(XidSeen(NODE, gpu, number))

    def watch(self, every_s):
        del every_s

    def follow(self, jobs):
        del jobs

    def close(self):
        self.die()

    def die(self):
        self.post = None
        if self.machine.inventory is self:
            self.machine.inventory = None

    def _tell(self, seen):
        if self.post is not None:
            self.post(seen)


def machine_now(machine):
    return Timestamp(BEGIN + machine.time.now)


def a_gpu(at):
    memory = Mib(MEMORY_MIB)
    return Gpu(id=GpuId(f"GPU-{at}"), index=at, name="NVIDIA H100 80GB HBM3", memory_total_mib=memory)


def a_stranger(pid):
    """A process that gpud did not start."""
    return GpuProcess(pid=pid, kind="compute", memory_mib=Mib(3_000), user="eve", command="python", uid=666)


def named(key):
    return f"{format_job(key[0])}.{key[1]}"
