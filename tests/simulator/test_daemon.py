"""The simulator is gpud: one trace through both, and the same jobs start at the same moments on the same GPUs."""

import asyncio
import getpass
import os
from heapq import heappop, heappush

import pytest
from replaying import a_mix, written

from gpud.clock import Clock
from gpud.daemon import Daemon
from gpud.inventory.simulated import SimulatedInventory
from gpud.model.effects import Launch, Stop
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import Exit, number_of
from gpud.model.observations import Exited, Started
from gpud.model.units import Timestamp
from gpud.notify import Notifier
from gpud.parts import Parts
from gpud.reading import ReadThread
from gpud.server.connections import Server
from gpud.settings.config import Config
from gpud.simulator.cluster import read_cluster
from gpud.simulator.engine import Engine
from gpud.simulator.replay import GROUNDS, engine_for
from gpud.simulator.trace import read_trace
from gpud.store.jobs import Store
from gpud.wire.codec import Frames, pack

CLUSTER = "2x4xV100"
BEGIN = 1_700_000_000.0
NOBODY = ProcessIdentity(0, 0)
# Physics.lost_s of the replay, as the launcher here has it.
LOST_S = 60.0


class VirtualClock(Clock):
    """A clock that stands still until it is set."""

    def __init__(self):
        super().__init__(0.0)
        self.now = BEGIN

    def __call__(self):
        return Timestamp(self.now)


class BlindInventory(SimulatedInventory):
    """Simulated GPUs without temperatures, after which gpud would choose between equals."""

    def read(self, gpus):
        pass


class VirtualLauncher:
    """Jobs that run in the clock's time; `started` tells of each when it started, and where."""

    pid = 1
    means = {}  # noqa: RUF012 - nobody adds to it

    def __init__(self, clock, durations):
        self.clock = clock
        self.left = dict(enumerate(durations, 1))
        self.running = {}
        self.ends = []
        self.started = []
        self.performed = 0

    async def start(self, post):
        self.post = post

    def keep(self, attempts):
        pass

    def perform(self, effect, order=None):  # noqa: ARG002 - a launcher's shape
        now = self.clock()
        if isinstance(effect, Launch):
            number = number_of(effect.job)
            self.performed += 1
            self.started.append((now - BEGIN, number, effect.allocation))
            self.running[effect.job] = effect.attempt, now
            heappush(self.ends, (now + self.left[number], effect.job, effect.attempt))
            self.post(Started(effect.job, effect.attempt, now, NOBODY, NOBODY))
        elif isinstance(effect, Stop) and self.running.get(effect.job, (0,))[0] == effect.attempt:
            self.performed += 1
            _, since = self.running.pop(effect.job)
            self.left[number_of(effect.job)] += LOST_S - (now - since)
            self.post(Exited(effect.job, effect.attempt, Exit(at=now, signal=15)))

    def next_end(self):
        while self.ends and self.running.get(self.ends[0][1], (0,))[0] != self.ends[0][2]:
            heappop(self.ends)
        return self.ends[0][0] if self.ends else float("inf")

    def end_due(self):
        while self.next_end() <= self.clock():
            _, job, attempt = heappop(self.ends)
            del self.running[job]
            self.post(Exited(job, attempt, Exit(at=self.clock(), exit_code=0)))

    async def close(self):
        pass


class Talk:
    """A client of a real socket."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.frames, self.heard, self.asked = Frames(), [], 0

    async def hear(self):
        while not self.heard:
            read = await self.reader.read(1 << 16)
            assert read, "the daemon has ended"
            self.heard += self.frames.feed(read)
        return self.heard.pop(0)

    async def ask(self, op, **fields):
        self.asked += 1
        self.writer.write(pack({"op": op, "id": self.asked, **fields}))
        answer = await self.hear()
        assert "error" not in answer, answer
        return answer


def a_submit(number, gpus):
    whole = {"gpus": gpus} if gpus >= 1 else {"gpus": 1, "share_permille": round(1000 * gpus)}
    return {
        "nonce": f"nonce-{number:04}",
        "demand": {**whole, "nodes": max(1, gpus // 4)} if gpus >= 1 else whole,
        "command": ["true"],
        "name": f"train-{number % 3}",
        "workdir": "/",
        "environment": {},
        "umask": 0o022,
        "limits": {},
    }


async def played(rows, policy, folder):
    """Return what a real gpud starts: its store, its server and its loop, with a clock and jobs that are not."""
    clock = VirtualClock()
    config = Config(socket=f"{folder}/gpud.sock", state_dir=str(folder), simulate=CLUSTER, policy=policy)
    store = Store.open(f"{folder}/gpud.db")
    launcher = VirtualLauncher(clock, [lasts for _, lasts, _, _ in rows])
    parts = Parts(
        config=config,
        store=store,
        check=lambda: None,
        reader=ReadThread(f"{folder}/gpud.db"),
        inventory=BlindInventory(clock=clock, spec=CLUSTER),
        launcher=launcher,
        clock=clock,
        boot="virtual",
        notifier=Notifier(),
    )
    daemon = Daemon(parts, store.load())
    server = Server(
        config.socket,
        on_request=daemon.on_request,
        on_gone=daemon.on_gone,
        still_here=daemon.still_here,
        welcome=lambda: {"version": "0", "pid": os.getpid(), "simulated": True, "system": False},
        mode=0o600,
    )
    await daemon.begin()
    await server.start()
    loop = asyncio.create_task(daemon.run())
    talk = Talk(*await asyncio.open_unix_connection(config.socket))
    talk.writer.write(pack({"protocol": [0, 1], "version": "0"}))
    await talk.hear()
    loop.add_done_callback(lambda _: talk.reader.feed_eof())

    async def settled():
        """Have the daemon decide about all that there is by now."""
        before = None
        while before != launcher.performed:
            before = launcher.performed
            await talk.ask("nodes")
            await talk.ask("nodes")

    await settled()
    coming = list(enumerate(rows, 1))[::-1]
    while coming or daemon.world.active or len(daemon.world.queue):
        submit_at = BEGIN + coming[-1][1][0] if coming else float("inf")
        wake_at = daemon._wake_at if daemon._wake_at is not None else float("inf")
        clock.now = max(clock.now, min(submit_at, launcher.next_end(), wake_at))
        launcher.end_due()
        if submit_at <= clock.now:
            number, row = coming.pop()
            await talk.ask("submit", **a_submit(number, row[2]))
        await settled()
    daemon.stop()
    await loop
    talk.writer.close()
    await server.close()
    await daemon.close()
    return launcher.started


class Recorder(Engine):
    """A replay that keeps what it launched."""

    def _launch(self, effect, now):
        self.__dict__.setdefault("started", []).append((now - BEGIN, number_of(effect.job), effect.allocation))
        super()._launch(effect, now)


def simulated(rows, policy, folder):
    lines = [
        (BEGIN + at, lasts, gpus, user, f"train-{number % 3}") for number, (at, lasts, gpus, user) in enumerate(rows, 1)
    ]
    nodes = read_cluster(CLUSTER)
    trace = read_trace(written(folder / "t.csv", *lines, columns="submit_s,duration_s,gpus,user,name"), per_node=4)
    engine = engine_for(policy, trace.jobs, nodes, GROUNDS["physical"], said={})
    engine.__class__ = Recorder
    engine.run()
    return engine.started


@pytest.mark.parametrize("policy", ["fcfs", "sjf", "las"])
def test_a_real_gpud_starts_the_same_jobs_at_the_same_moments_on_the_same_gpus(tmp_path, policy):
    sizes = (1, 1, 1, 2, 4, 8, 0.5)
    # So long that there is always a queue, and something to preempt.
    rows = [(at, 6 * lasts, gpus, getpass.getuser()) for at, lasts, gpus, _ in a_mix(30, seed=3, gpus=sizes)]

    assert simulated(rows, policy, tmp_path) == asyncio.run(played(rows, policy, tmp_path))
