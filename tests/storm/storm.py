"""A storm over a whole gpud, from a seed: the real daemon, its store and its decisions; clocks, processes, GPUs, disk
and clients are simulated (see `virtual`, `outside`, `people`), and everything that can go wrong does.

gpud is killed between any two of its acts (commit, effect, answer), commits fail or take seconds, what is seen comes
late and twice, clocks are set, the machine sleeps and reboots, GPUs fall ill and strangers sit on them, people change
their minds. After every cycle all of `playbook` is checked: no GPU twice, none that is not known to be free, nothing
started twice, nobody forgotten or without a reason, no end kept without the start that came before it, what is kept as
what would be counted anew, and the store's story as the world's. Then the storm calms, and everything that was
submitted must come to its end.

A seed's story is told by: python tests/storm/replay.py SEED [HAPPENINGS]
"""

import logging
import random
import sqlite3
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

from ledger import Ledger, picture, told
from outside import BrokenPromiseError, Machine, SimInventory, SimLauncher, a_stranger
from people import Crowd
from playbook import Play
from virtual import KilledError, Time, VirtualClock, VirtualLoop, run

import gpud.daemon
import gpud.views.forecasting
from gpud.core.cycle import cycle
from gpud.daemon import Daemon
from gpud.model.changes import AttemptEnded
from gpud.model.effects import Launch
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import format_job
from gpud.notify import Notifier
from gpud.parts import Parts
from gpud.people.names import Account, _account
from gpud.settings.config import Config
from gpud.store.files import StoreError, _migrate, _text, rollback
from gpud.store.jobs import Store
from gpud.store.reader import Reader
from gpud.store.schema import MIGRATIONS

HAPPENINGS = 12  # many short stories find more than few long ones
CALM_S = 50_000.0  # long enough for every retry
XIDS = (13, 31, 48, 63, 74, 79, 92, 94, 119)


@cache
def an_empty_database():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _migrate(connection, MIGRATIONS, 0)
    return connection.serialize()


class SimStore(Store):
    """The real store, on a disk that fails, and that gpud may not live to see answer."""

    def __init__(self, storm, connection):
        super().__init__("gpud.db", connection)
        self.storm = storm

    def commit(self, changes, launches=()):
        self.storm.point("before the commit")
        try:
            self.storm.machine.disk()
            committed = super().commit(changes, launches)
        except Exception:
            self.storm.due = False  # that cycle never was
            raise
        self.storm.committed(changes)
        self.storm.point("after the commit")
        return committed

    def close(self):
        """Leave the database to the next gpud."""


class SimReadThread:
    """Questions, answered at moments of their own."""

    def __init__(self, storm, connection):
        self.storm = storm
        self._reader = Reader.__new__(Reader)
        self._reader._path, self._reader._db, self._reader._terms = "gpud.db", connection, {}

    async def run(self, question):
        return await self.storm.loop.run_in_executor(self, self._answer, question)

    def _answer(self, question):
        if self.storm.machine.chance(0.01):
            raise StoreError("cannot read gpud.db: disk I/O error", "does the disk work?")
        return question(self._reader)

    def close(self):
        pass


class Deciding:
    """The cycle, looked at."""

    told = None

    def __init__(self, storm):
        self.storm = storm

    def timed(self, world, inputs, now):
        outcome = cycle(world, inputs, now)
        self.storm.decided(world, outcome, now)
        return outcome


class Complaints(logging.Handler):
    """What gpud logs with a traceback is a fault of its own."""

    def __init__(self, storm):
        super().__init__(logging.WARNING)
        self.storm = storm

    def emit(self, record):
        if record.exc_info and record.exc_info[1] is not None:
            self.storm.broken = self.storm.broken or record.exc_info[1]
        self.storm.tell(f"gpud says: {record.getMessage()}")


class Storm:
    """One seed's world, and its story: pairs of seconds and words."""

    def __init__(self, seed, happenings=HAPPENINGS):
        self.rng = rng = random.Random(seed)  # noqa: S311 - a seed tells it all again
        self.time = Time()
        self.story = []
        self.broken = None
        self.left = happenings
        self.calm = self.over = False
        self.calm_at = 0.0
        self.daemon = None
        self.countdown = None
        self.count = 0
        self.machine = Machine(self.time, rng, self.tell, gpus=rng.choice((1, 2, 4)))
        self.clock = VirtualClock(self.time)
        self.crowd = Crowd(rng, self.tell, self.point, self.clock.wall)
        self.play = Play(None)
        self.play.ledger = Ledger()
        self.due = False  # a cycle whose changes are not durable yet is to be looked at
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.text_factory = _text
        self.connection.deserialize(an_empty_database())

    def tell(self, words):
        self.story.append((self.time.now, words))

    # -- gpud's lives

    def run(self):
        with calm_surroundings(self):
            self.time.after(1.0, self._happen)
            while not self.over:
                self._live()
            self._look_back()

    def _live(self):
        self.loop = VirtualLoop(self.time, self._disk_s, self._starved)
        self.loop.set_exception_handler(self._complain)
        try:
            run(self.loop, self._serve())
            self.tell("gpud ends")
        except KilledError:
            self.tell("gpud is gone")
        except StoreError as error:
            self.tell(f"gpud cannot begin: {error}")
        finally:
            self.loop.set_exception_handler(lambda *_: None)
            self._bury()
        if self.broken is not None:
            raise self.broken
        if not self.over:  # somebody starts it anew
            with suppress(KilledError):  # there is nobody to be killed
                self.time.pass_until(self.time.now + self.rng.choice((0.1, 2.0, 60.0)))

    async def _serve(self):
        store = SimStore(self, self.connection)
        loaded = store.load()
        launcher, inventory = SimLauncher(self.machine, self.point), SimInventory(self.machine, self.point)
        parts = Parts(
            config=Config(socket="/nowhere/gpud.sock", state_dir="/nowhere"),
            store=store,
            check=lambda: None,
            reader=SimReadThread(self, self.connection),
            inventory=inventory,
            launcher=launcher,
            clock=self.clock,
            boot=self.machine.boot,
            notifier=Notifier({}),
        )
        daemon = Daemon(parts, loaded)
        daemon._cycles = Deciding(self)
        for uid in (1000, 1001):
            daemon._gpud.names._known[_account, uid] = Account(f"user{uid}"), float("inf")
        same(picture(daemon.world), told(self.play.ledger), "the world that was loaded is another")
        await daemon.begin()
        self.daemon = daemon
        self.tell(f"gpud is up, under {self.machine.boot}")
        self.crowd.connect(daemon.on_request)
        await daemon.run()
        await daemon.finish()
        await daemon.close()

    def _bury(self):
        self.daemon, self.countdown, self.due = None, None, False
        self.crowd.hang_up()
        for part in (self.machine.launcher, self.machine.inventory):
            if part is not None:
                part.die()
        rollback(self.connection)

    def point(self, what):
        """Here gpud may be killed: between any two things that it does."""
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown <= 0:
                self.tell(f"kill -9 at: {what}")
                raise KilledError

    def _disk_s(self):
        if self.calm:
            return 0.001
        return self.rng.choice((0.0002, 0.0002, 0.001, 0.02, 3.0 if self.rng.random() < 0.1 else 0.001))

    def _complain(self, _, context):
        self.broken = self.broken or context.get("exception") or BrokenPromiseError(context["message"])

    def _starved(self):
        raise BrokenPromiseError("gpud sleeps for ever")

    # -- what gpud decides

    def decided(self, world, outcome, now):
        self.play.world, self.play.out, self.play.now = world, outcome, now
        self.count += 1
        self.due = True
        if not outcome.changes and self.count % 8 == 0:  # nothing is other than it was: most often that is so
            self._look()
        for effect in outcome.effects:
            if isinstance(effect, Launch):
                self.crowd.at_launch(format_job(effect.job), effect.attempt, effect.allocation.all_gpus)

    def committed(self, changes):
        self.play.ledger.write(changes)
        for each in changes:
            if isinstance(each, AttemptEnded) and (each.job, each.attempt) in self.machine.launcher.ran:
                self._began(each.job, each.attempt)
        if self.due:
            self._look()

    def _began(self, *key):
        """See that the start of an attempt that ended is kept, too, where gpud was told of it before the end."""
        query = "SELECT started_at FROM attempt WHERE (job, attempt) = (?, ?)"
        if self.connection.execute(query, key).fetchone() in {None, (None,)}:
            self.broken = self.broken or BrokenPromiseError(f"{format_job(key[0])}.{key[1]} ended, and never began")

    def _look(self):
        self.due = False
        try:
            self.play._check()
        except AssertionError as error:
            self.broken = self.broken or error
            raise

    # -- what happens outside

    def _happen(self):
        """Something happens, and later something else."""
        if self.broken is not None:
            raise KilledError
        if self.left <= 0:
            self.calm_at = self.time.now
            self._calm_down()
            return
        self.left -= 1
        gap = self.rng.choice((0.0, 0.0005, 0.003, 0.05, 0.5, 3.0))
        self.time.after(gap, self._happen)
        if self.rng.random() < 0.72:
            if self.daemon is not None:
                self._people_act()
        else:
            self._world_acts()

    def _people_act(self):
        rng, crowd = self.rng, self.crowd
        gpu = str(rng.randrange(len(self.machine.boards)))
        deed = rng.randrange(16)
        if deed < 7:
            crowd.submit(len(self.machine.boards))
        elif deed < 11:
            op = rng.choice(("cancel", "cancel", "hold", "release", "requeue", "requeue", "interrupt"))
            crowd.change(op, **({"force": True} if op == "cancel" and rng.random() < 0.3 else {}))
        elif deed == 11:
            crowd.change("priority", priority=rng.choice((-3, 7)))
        elif deed == 12:
            other = {"after": {rng.choice(("any", "success")): [crowd.some_job()]}} if crowd.jobs else {"after": {}}
            changes = ({"time_limit_s": 2.0}, {"demand": {"gpus": 1}}, {"unlimited": True}, {"retries": 1}, other)
            change = rng.choice((*changes, {"after": {}}, {"throttle": rng.randrange(3)}, {"group": "moved"}))
            crowd.change("update", **change)
        elif deed == 13:
            crowd.ask_about(rng.choice(("drain", "undrain")), gpu, targets=[gpu])
        elif deed == 14:
            crowd.ask_about(rng.choice(("pause", "resume", "resume")), "")
        else:
            self._somebody_administers()

    def _somebody_administers(self):
        rng, person = self.rng, self.crowd.person()
        op = rng.choice(("list", "status", "gpus", "why", "tenant_create", "tenant_set", "tenant_delete"))
        fields = {"name": "lab"} if op.startswith("tenant") else {}
        if op in {"tenant_create", "tenant_set"}:
            fields |= rng.choice(({"max_running": 1}, {"max_gpus": 1}, {"guaranteed_gpus": 1}, {"borrow": False}))
        self.tell(f"{op} {fields}")
        person.ask(op, **fields)

    def _world_acts(self):
        if self.rng.random() < 0.5:
            self._something_happens_to_gpud()
        else:
            self._something_happens_to_a_gpu()

    def _something_happens_to_gpud(self):
        rng, machine = self.rng, self.machine
        deed = rng.choice(
            ("kill", "kill", "kill", "stop", "reboot", "disk full", "clock set", "suspended", "shim killed")
        )
        self.tell(deed)
        match deed:
            case "kill":
                self.countdown = rng.randrange(1, 12)
            case "stop" if self.daemon is not None:
                self.daemon.stop()
            case "reboot":
                machine.reboot()
                raise KilledError
            case "disk full":
                machine.full_until = self.time.now + rng.choice((0.01, 1.0, 20.0))
            case "clock set":
                self.time.stepped += rng.choice((-3_600.0, 3_600.0, 0.5))
            case "suspended":
                self.time.now += 500.0
                self.time.slept += 500.0
            case "shim killed" if machine.alive():
                key = rng.choice(sorted(machine.alive()))
                machine.end(key, machine.boot, {"lost": "its shim and its launcher process were killed"})

    def _something_happens_to_a_gpu(self):
        rng, machine = self.rng, self.machine
        board = rng.choice(list(machine.boards.values()))
        gpu = board.gpu.id
        deed = rng.choice(
            ("stranger", "stranger", "leave", "break", "hang", "mend", "xid", "vanish", "return", "remap")
        )
        self.tell(f"{gpu}: {deed}")
        match deed:
            case "stranger":
                machine.pids += 1
                board.strangers[machine.pids] = a_stranger(machine.pids)
                board.lease = ProcessIdentity(77, 1) if rng.random() < 0.2 else None
            case "leave":
                board.strangers.clear()
            case "break":
                board.broken, board.fallen = "GPU is lost", rng.random() < 0.5
            case "hang":
                board.hangs = True
            case "mend":
                board.broken, board.fallen, board.hangs, board.lease = None, False, False, None
            case "remap":
                board.remapping = True
            case "vanish" | "return":
                board.there = deed == "return"
                self._survey()
            case "xid" if machine.inventory is not None:
                machine.inventory.xid(gpu, rng.choice(XIDS))

    def _survey(self):
        if self.machine.inventory is not None:
            self.machine.inventory.survey()

    # -- the end

    def _calm_down(self):
        """Put everything right, again and again, until everything that was submitted has ended."""
        if self.broken is not None:
            raise KilledError
        if not self.calm:
            self.tell("the storm calms")
            self.calm = True
            self.machine.heal()
        if self.time.now > self.calm_at + CALM_S:
            self.broken = BrokenPromiseError(f"never ends: {self._unfinished()}")
            raise KilledError
        idle = not self.machine.alive() and not self.machine.orders and not self.machine.full_until > self.time.now
        if idle and not self.play.ledger.unfinished() and self._all_answered():
            self.over = True
            self.daemon.stop()
            return
        self.time.after(10.0, self._calm_down)
        if self.daemon is not None:
            self._survey()
            self.crowd.ask_about("resume", "")
            for gpu in self.machine.boards:
                self.crowd.ask_about("undrain", gpu.removeprefix("GPU-"), targets=[gpu])
            limits = ["max_running", "max_gpus", "guaranteed_gpus"]
            self.crowd.person().ask("tenant_set", name="lab", clear=limits, borrow=True)
            self.crowd.person().ask("release", select={"state": ["held"]})
            self.crowd.promised["hold"].clear()

    def _all_answered(self):
        return self.daemon is not None and not self.crowd.unanswered

    def _unfinished(self):
        rows = self.play.ledger.unfinished()
        return [
            f"{format_job(job)} ({row.place.park or row.active or self.play.why(job)})" for job, row in rows.items()
        ]

    def _look_back(self):
        """When all is over: whatever was promised was kept, and nothing is left of anything."""
        rows = self.connection.execute("SELECT id, nonce, state, ended_at FROM job").fetchall()
        states = {format_job(job): (state, ended_at) for job, _, state, ended_at in rows}
        for nonce, job in self.crowd.jobs.items():
            assert job in states, f"{nonce} was promised as job {job}, which is not there"
            assert states[job][1] is not None, f"job {job} has not ended: {states[job]}"
        for job in self.crowd.promised["cancel"] & states.keys() - self.crowd.arrays:
            assert states[job][0] == "cancelled", f"job {job} was cancelled, and is {states[job][0]}"
        told_of = {
            (job, attempt): how
            for job, attempt, *how in self.connection.execute("SELECT job, attempt, exit_code, signal FROM attempt")
        }
        for key, how in self.machine.ends.items():
            assert told_of[key] == [*how], f"{key} ended with {how}, not {told_of[key]}"
        known = {nonce for _, nonce, _, _ in rows if nonce}
        assert known <= self.crowd.submits.keys()
        assert not self.play.world.active
        left = [key for key, record in self.machine.records.items() if record.state != "tombstone"]
        assert not left, f"records are left of {left}"
        same(picture(self.play.world), told(self.play.ledger), "at the end")


def same(found, wanted, what):
    if found != wanted:
        raise BrokenPromiseError(f"{what}: {found} for {wanted}")


@contextmanager
def calm_surroundings(storm):
    """Take from gpud what would tell two runs of a seed apart, and have it say what it has to."""
    still = SimpleNamespace(thread_time=lambda: 0.0, monotonic=lambda: storm.loop.time())  # noqa: PLW0108 - each gpud has a loop of its own
    idle = SimpleNamespace(collect=lambda: None, freeze=lambda: None)
    logger, complaints = logging.getLogger("gpud"), Complaints(storm)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(complaints)
    logger.propagate = False
    with ExitStack() as stack:
        stack.enter_context(patch.object(gpud.views.forecasting, "time", still))
        stack.enter_context(patch.object(gpud.daemon, "gc", idle))
        try:
            yield
        finally:
            logger.removeHandler(complaints)
            logger.setLevel(level)
            logger.propagate = propagate


def weather(seed, happenings=HAPPENINGS):
    """Run a seed. Raises AssertionError, with its story."""
    storm = Storm(seed, happenings)
    try:
        storm.run()
    except Exception as error:
        told = "\n".join(f"{at:12.6f}  {words}" for at, words in storm.story)
        command = f"python tests/storm/replay.py {seed} {happenings}"
        raise AssertionError(f"{told}\nseed {seed}: {error!r}\nreplay it: {command}") from error
    finally:
        storm.connection.close()
    return storm
