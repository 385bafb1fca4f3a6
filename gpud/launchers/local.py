"""Processes on this machine: started by the launcher process, found again by their records.

One question has one answer, whoever asks: `_settle` reads an attempt's record and tells what became of it. A notice
from a shim, the end of a shim, a `Look` after gpud's restart and a stop of what has not started yet all end there.

| record | its shim | its job | then |
|---|---|---|---|
| none | | | bury it: it never ran and never will (should that fail, look again) |
| tombstone | | | it never ran |
| done | | | tell its end |
| of another boot | | | lost: the node was rebooted |
| claimed, ended | lives | | it started; watch the shim |
| claimed, ended | killed | lives | watch the job; its launcher process will name a keeper as the new shim |
| claimed, ended | killed | gone | its launcher process, while that lives, will complete the record: look again soon |
| ended | killed | gone | nobody is left to complete it: its end stands there |
| claimed | killed | gone | lost, once nothing of its session is left |

An attempt that is known to have started and has no such record any more (none, a tombstone, a damaged one) is watched
by its known pids: its shim will write the record anew; else it is lost, once nothing of it is left.

A process is told apart from a later one of the same pid by its start time, read after a pidfd was opened.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable

from gpud.launchers import record, tree
from gpud.launchers.attempts import Attempt
from gpud.launchers.deadlines import SAVE_AND_STOP
from gpud.launchers.link import LauncherGoneError, Link
from gpud.launchers.orders import exit_of, order_of
from gpud.launchers.protocol import Confinement, LaunchOrder, Means, Performed
from gpud.launchers.record import Place, Record
from gpud.model.effects import Forget, Interrupt, Launch, Look, SendSignal, SetLimit, Stop
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import Exit, Fault, JobId, format_job
from gpud.model.observations import Exited, Observation, Started
from gpud.model.units import Timestamp

_GRACE_S = 30.0  # of an orphan whose own cannot be read any more
_RETRY_MOST_S = 1.0  # how soon to look again where nobody will wake us, at most
_NAP_S = 60.0


class LocalLauncher:
    """Starts jobs on this machine.

    `state_dir` is an absolute path; records lie in its `records/`. `clock` gives the daemon's steady time. `spawns`
    False: launch only through a launcher process that is there already (its own systemd unit). `fences_logins`: see
    `Link`.
    """

    def __init__(
        self,
        state_dir: str,
        *,
        clock: Callable[[], Timestamp],
        spawns: bool = True,
        fences_logins: bool | None = None,
    ) -> None:
        self._records = f"{state_dir}/records"
        self._clock = clock
        self._boot = record.boot_id()
        self._attempts: dict[str, Attempt] = {}
        self._post: Callable[[Observation], None] = lambda _: None
        self._link = Link(state_dir, spawns=spawns, told=self._told, lost=self._lost, fences_logins=fences_logins)

    @property
    def pid(self) -> int | None:
        """Return the launcher process's pid; None while there is none."""
        return self._link.pid

    @property
    def means(self) -> Means:
        """Return what can be done here; nothing, while there is no launcher process."""
        said = self._link.means
        controllers = said.get("cgroup")
        return Means(
            cgroup=None if controllers is None else tuple(controllers),
            unfenced=said.get("unfenced", "there is no launcher process"),
            logins=said.get("logins"),
        )

    def confinement(self, job: JobId, attempt: int) -> Confinement | None:
        """Return what surrounds an attempt; None for one that does not run."""
        known = self._attempts.get(f"{format_job(job)}.{attempt}")
        return None if known is None or known.over else known.confinement

    async def start(self, post: Callable[[Observation], None]) -> None:
        """Be ready to launch. Raises OSError where records cannot be kept or no process can be made."""
        self._post = post
        record.prepare(self._records)
        await self._link.open()

    def keep(self, attempts: Iterable[tuple[JobId, int]]) -> None:
        """Remove what is left of attempts that are over, but of these: after the start, and their looks."""
        record.clear(self._records, {f"{format_job(job)}.{attempt}" for job, attempt in attempts})

    def perform(self, effect: Performed, order: LaunchOrder | None = None) -> None:
        """Do what the effect says, without blocking; `order` comes with a `Launch` only."""
        key = f"{format_job(effect.job)}.{effect.attempt}"
        known = self._attempts.get(key)
        if isinstance(effect, Forget):
            self._forget(key, known, refused=known is not None and known.refused)
            return
        attempt = known or Attempt(effect.job, effect.attempt, key, f"{self._records}/{key}", self._boot)
        self._attempts[key] = attempt
        match effect:
            case Launch() if known is None:
                assert order is not None  # noqa: S101 - the protocol says so
                self._launch(attempt, effect, order)
            case Stop(grace_s=grace_s, saves=saves):
                self._stop(attempt, grace_s, saves=saves)
            case Interrupt() if attempt.attended:
                self._signal(attempt, signal.SIGINT)
            case SendSignal(number=number) if attempt.attended and attempt.hears:
                self._signal(attempt, signal.SIGRTMIN + number - 1)
            case SetLimit(time_limit_s=limit_s):
                attempt.limit, attempt.ours = (limit_s,), False
                if attempt.pidfd is not None:
                    self._settle(attempt)
            case Look(boot=boot):
                attempt.boot = boot
                attempt.process, attempt.shim = effect.process or attempt.process, effect.shim or attempt.shim
                attempt.started = attempt.over = attempt.ours = False
                self._settle(attempt)

    async def close(self) -> None:
        """Leave: jobs run on, and are found again by `Look`."""
        for attempt in self._attempts.values():
            self._unwatch(attempt)
        self._attempts.clear()
        self._link.close()

    def _launch(self, attempt: Attempt, effect: Launch, order: LaunchOrder) -> None:
        record.ensure(self._records)
        try:
            self._link.send(attempt.key, *order_of(attempt.key, attempt.path, effect, order))
        except LauncherGoneError:
            attempt.refused = True  # nobody was told, so nobody can claim it
            self._end(attempt, Exit(at=self._clock(), fault=Fault("the launcher process is not there", machine=True)))

    def _stop(self, attempt: Attempt, grace_s: float | None, *, saves: bool = False) -> None:
        if attempt.over:
            return
        attempt.stop = signal.SIGQUIT if grace_s == 0 else SAVE_AND_STOP if saves else signal.SIGTERM
        if attempt.attended:
            self._signal(attempt, attempt.stop)
        else:
            self._settle(attempt)
        if grace_s:  # the shim runs the job's own grace; another one is ours to run
            asyncio.get_running_loop().call_later(grace_s, self._stop, attempt, 0)

    def _forget(self, key: str, known: Attempt | None, *, refused: bool) -> None:
        """Remove the record; a tombstone only once nobody can come any more to claim what it keeps from running."""
        path = f"{self._records}/{key}"
        if known is not None:
            self._unwatch(known)
            del self._attempts[key]
        with contextlib.suppress(OSError, ValueError):
            if known is not None and known.ours and known.started:  # so it was claimed, and there is nothing else
                os.unlink(path)
                return
            found = record.read(path)
            if found is not None and (refused or found["state"] != record.TOMBSTONE):
                os.unlink(path)
            os.unlink(record.limit_path(path))

    def _told(self, key: str, notice: Record) -> None:
        """Take a notice from a shim, from the process that is to become the job, or from the launcher process."""
        attempt = self._attempts.get(key)
        state = notice["state"]
        if attempt is None:
            if state == record.REFUSED:  # the last one that could have claimed it
                self._forget(key, None, refused=True)
        elif state == record.REFUSED:
            attempt.refused = True
        elif attempt.over:
            pass
        elif state == record.DONE:
            self._done(attempt, notice)
        elif state != record.CLAIMED:
            self._settle(attempt)
        elif not attempt.started:
            self._try(attempt, notice)

    def _lost(self) -> None:
        """Resolve what was sent to a launcher process that died: it has started, or is kept from starting."""
        for attempt in list(self._attempts.values()):
            if not attempt.attended:
                self._settle(attempt)

    def _settle(self, attempt: Attempt) -> None:
        """Find out what became of an attempt, tell it, and watch for more."""
        self._unwatch(attempt)
        if attempt.over:
            return
        try:
            found = record.read(attempt.path)
            if found is None and attempt.boot == self._boot and attempt.process is None:
                record.bury(attempt.path)
                found = record.read(attempt.path)
        except OSError:  # not even a link can be made
            record.ensure(self._records)
            self._look_again(attempt)
            return
        except ValueError as error:
            if attempt.process is None and attempt.boot == self._boot:
                self._end(attempt, Exit(at=self._clock(), lost=str(error)))
                return
            found = None  # of another boot: power went before it was on disk
        known = attempt.boot == self._boot and attempt.process is not None
        if known and (found is None or found["state"] == record.TOMBSTONE):
            self._try(attempt, None)
        elif found is None:
            self._end(attempt, self._ended_before_boot())
        elif found["state"] == record.TOMBSTONE:
            self._end(attempt, Exit(at=self._clock(), fault=Fault("it never started", machine=True)))
        elif found["state"] == record.DONE:
            self._done(attempt, found)
        elif found["boot"] != self._boot:
            self._end(attempt, self._ended_before_boot(found["at"]), found.get("tmp"))
        else:
            self._try(attempt, found)

    def _try(self, attempt: Attempt, found: Record | None) -> None:
        try:
            if found is None:
                self._attend_unrecorded(attempt)
            else:
                self._attend(attempt, found)
        except (OSError, ValueError):  # no file to be had for watching; damaged while we looked
            self._look_again(attempt)

    def _attend_unrecorded(self, attempt: Attempt) -> None:
        """Watch what is known of an attempt whose record is of no use. Raises OSError."""
        assert attempt.process is not None  # noqa: S101 - it started
        assert attempt.shim is not None  # noqa: S101 - likewise
        process, shim = attempt.process, attempt.shim
        lives = record.start_time(process.pid) == process.start
        shim_lives = record.start_time(shim.pid) == shim.start
        rest = {*tree.session(process.pid, process.start, attempt.key)}
        rest |= {*tree.descendants(process.pid)} if lives else set()
        rest |= set() if self._link.pid is None else {*tree.marked(self._link.pid, attempt.key)}
        rest |= {pid for pid, start in attempt.told.items() if record.start_time(pid) == start}
        if lives and self._watch(attempt, *((shim.pid, shim.start) if shim_lives else (process.pid, process.start))):
            attempt.attended = shim_lives
            if shim_lives:
                self._signal(attempt, attempt.stop or signal.SIGCONT)
            elif attempt.stop is not None:
                self._stop_rest(attempt, rest, _GRACE_S)
        elif rest and not lives and not shim_lives:
            tree.send(signal.SIGKILL, rest)
            self._look_again(attempt)
        elif lives or rest or (shim_lives and attempt.retry_s < _RETRY_MOST_S):  # a shim is about to tell the end
            self._look_again(attempt)
        else:
            lost = "its record was damaged or removed, and its end was not seen"
            self._end(attempt, Exit(at=self._clock(), lost=lost), attempt.tmp)

    def _attend(self, attempt: Attempt, found: Record) -> None:
        """Watch what stands between this claimed attempt and its end: its shim, or what a killed shim left."""
        self._began(attempt, found)
        attempt.saves = "checkpoint" in found
        if self._watch(attempt, *found["shim"]):
            attempt.attended, attempt.hears = True, found.get("hears", False)
            if attempt.stop is not None or not attempt.ours:  # a job may have stopped its shim meanwhile
                self._signal(attempt, attempt.stop or signal.SIGCONT)
            if attempt.limit is not None and attempt.hears:
                self._limit(attempt, *attempt.limit, found)
            return
        lives = self._watch(attempt, found["pid"], found["start"])
        completed_later = record.start_time(found["zygote"][0]) == found["zygote"][1]
        if record.read(attempt.path) != found:  # it went on while we looked
            self._settle(attempt)
        elif lives and attempt.stop is not None and not completed_later:
            self._stop_orphan(attempt, found)
        elif lives and not completed_later:
            self._stop_in_time(attempt, found)
        elif not lives and not completed_later:
            self._sweep(attempt, found)
        elif not lives or attempt.stop is not None:
            self._look_again(attempt)

    def _limit(self, attempt: Attempt, limit_s: float | None, found: Record) -> None:
        """Have the shim end the attempt when it has run for so long, where it was told otherwise. Raises OSError."""
        limit_at = None if limit_s is None else round(found["at"] - found["offset"] + limit_s, 3)
        if record.set_limit(attempt.path, limit_at, found["limit_at"]) and attempt.attended:
            self._signal(attempt, signal.SIGHUP)
        attempt.limit = None

    def _began(self, attempt: Attempt, found: Record) -> None:
        """Tell that it started, once."""
        if not attempt.started:
            attempt.started = True
            attempt.confinement = Confinement(found.get("fence"), bool(found.get("within")))
            attempt.process = ProcessIdentity(found["pid"], found["start"])
            attempt.shim, attempt.tmp = ProcessIdentity(*found["shim"]), found.get("tmp")
            self._post(Started(attempt.job, attempt.attempt, Timestamp(found["at"]), attempt.process, attempt.shim))

    def _done(self, attempt: Attempt, found: Record) -> None:
        """Tell the end; before it the start, which may not have been heard of: it came and went without gpud."""
        left = attempt.tmp if found.get("start") == record.ANEW else None  # else it was seen to
        if "fault" not in found and found.keys() >= {"pid", "start", "at", "shim"}:
            self._began(attempt, found)
        self._end(attempt, exit_of({"at": self._clock()} | found), left)

    def _stop_in_time(self, attempt: Attempt, found: Record) -> None:
        """End a job at its time limit that has neither shim nor launcher process any more. Raises OSError."""
        if attempt.limit is not None:
            self._limit(attempt, *attempt.limit, found)
        limit_at = record.limit_of(attempt.path, found["limit_at"])
        if limit_at is None or attempt.overran:
            return
        left_s = limit_at - record.boot_time()
        if left_s > 0:  # the loop's clock stands still while the machine sleeps: not for long
            attempt.retry = asyncio.get_running_loop().call_later(min(left_s, _NAP_S), self._settle, attempt)
        else:
            attempt.overran = True
            self._stop_orphan(attempt, found)

    def _stop_orphan(self, attempt: Attempt, found: Record) -> None:
        """End a job that has neither shim nor launcher process any more."""
        rest = {*tree.session(found["pid"], found["start"], attempt.key), *tree.descendants(found["pid"])}
        self._stop_rest(attempt, rest, found["grace_s"])

    def _stop_rest(self, attempt: Attempt, rest: set[int], grace_s: float) -> None:
        attempt.told |= {pid: start for pid in rest if (start := record.start_time(pid)) is not None}
        if attempt.stop == signal.SIGQUIT:
            tree.send(signal.SIGKILL, rest)
        else:
            tree.send(signal.SIGTERM, rest)
            tree.send(signal.SIGCONT, rest)
            asyncio.get_running_loop().call_later(grace_s, self._stop, attempt, 0)
        attempt.stop = None

    def _sweep(self, attempt: Attempt, found: Record) -> None:
        """End what is left of a job that nobody attends; it is over when nothing is."""
        rest = tree.session(found["pid"], found["start"], attempt.key)
        if rest:
            tree.send(signal.SIGKILL, rest)
            self._look_again(attempt)
        else:
            ended = {"ended": self._clock(), "timed_out": attempt.overran}
            self._end(attempt, exit_of(ended | found), found.get("tmp"))

    def _ended_before_boot(self, since: float = 0.0) -> Exit:
        """Return the end of what began under an earlier boot: at the latest when this one did, whenever gpud came."""
        return Exit(at=Timestamp(max(since, self._clock() - record.boot_time())), lost="the node was rebooted")

    def _end(self, attempt: Attempt, how: Exit, left: Place | None = None) -> None:
        """Tell the end, and see to a TMPDIR that was `left`: whoever would have removed it was killed."""
        self._unwatch(attempt)
        attempt.over = True
        self._post(Exited(attempt.job, attempt.attempt, how))
        if left is not None:
            self._link.sweep(left)
        self._link.free(attempt.key)

    def _look_again(self, attempt: Attempt) -> None:
        if attempt.retry is not None:
            attempt.retry.cancel()
        attempt.retry = asyncio.get_running_loop().call_later(attempt.retry_s, self._settle, attempt)
        attempt.retry_s = min(attempt.retry_s * 2, _RETRY_MOST_S)

    def _watch(self, attempt: Attempt, pid: int, start: int) -> bool:
        """Settle the attempt again when this process ends. Return False when it has. Raises OSError."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        if record.start_time(pid) != start:
            os.close(pidfd)
            return False
        attempt.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._settle, attempt)
        return True

    def _unwatch(self, attempt: Attempt) -> None:
        attempt.attended = False
        if attempt.retry is not None:
            attempt.retry.cancel()
            attempt.retry = None
        if attempt.pidfd is not None:
            asyncio.get_running_loop().remove_reader(attempt.pidfd)
            os.close(attempt.pidfd)
            attempt.pidfd = None

    def _signal(self, attempt: Attempt, number: int) -> None:
        assert attempt.pidfd is not None  # noqa: S101 - callers looked
        if number == SAVE_AND_STOP and not attempt.saves:
            number = signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(attempt.pidfd, number)
            if number != signal.SIGCONT:
                signal.pidfd_send_signal(attempt.pidfd, signal.SIGCONT)  # its job may have stopped it
