"""The launcher process: small, preloaded, it forks one shim per job and reaps what killed shims leave.

Run as a file, `python -I -S -X utf8 zygote.py (--fd N | --listen PATH) RECORDS`. It imports everything before its
first fork, since the files may be upgraded under it, and looks up no names. Spare shims are forked while nothing is
asked, so that a start pays for one fork, not two. While many jobs start, a shim attends one after the other, which is
cheaper; those go in the next calm moment, for a fresh one owns a third less memory, and its job may last for days.

It is no part of gpud's life. When gpud goes it takes no more work and stays until it has no children; with `--listen`
(its own systemd unit) it serves one gpud after the other and never ends. It is a child subreaper: a job whose shim was
killed becomes its child, so that it can write the true end into the record; meanwhile a `keeper` stops the job when
asked to, and at its time limit. Asked by a job's gpuctl, it starts gpud again: see `comeback`.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

if __name__ == "__main__":  # isolated, so nothing but the standard library is on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from gpud.launchers import cgroup, comeback, faults, fence, places, record, shim, tree
from gpud.launchers.deadlines import SIGNALS
from gpud.launchers.job import Limits, own_limits, rehearse, set_mask, tell
from gpud.launchers.leases import Leases
from gpud.launchers.orphans import Orphans
from gpud.launchers.output import Bounds

SPARES = 4
_CALM_MS = 1000
REHEARSALS = 10  # Python specialises what has run eight times
FENCE_LOGINS, LEAVE_LOGINS = b" fence logins", b" leave logins"  # no attempt's key has a space
SWEEP = b" sweep "
_LOGINS = {FENCE_LOGINS: True, LEAVE_LOGINS: False}
_AT_ONCE = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)  # to add enums each time would take a hundred times as long


class Zygote:
    """What the launcher process knows: its children, by what they are."""

    def __init__(self, records: str, conversation: socket.socket | None, listener: socket.socket | None) -> None:
        self.records = records
        self.conversation = conversation
        self.listener = listener
        self.fresh: list[int] = []  # shims that had no attempt yet
        self.used: list[int] = []  # those that have none now, the last that had one at the end
        self.busy: dict[str, int] = {}
        self.talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channels: dict[int, socket.socket] = {}
        self.leases: dict[int, Leases] = {}  # of every shim
        self.identity = [os.getpid(), record.start_time(os.getpid())]
        self.cgroup = cgroup.divide()
        self.means: record.Record = {
            "zygote": self.identity,
            "cgroup": None if self.cgroup is None else cgroup.controllers(self.cgroup),
            "unfenced": fence.lacking(self.cgroup),
        }
        self.orphans = Orphans(records, self.cgroup, self._tell_changed)
        self.limits: Limits = {"NOFILE": [*resource.getrlimit(resource.RLIMIT_NOFILE)]}
        self.lineage = {"zygote": self.identity, "boot": record.boot_id()}
        self.wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_end)
        for number in (signal.SIGCHLD, comeback.ASKS):
            signal.signal(number, lambda *_: None)
        self.call: comeback.Call | None = None  # of the gpud that it serves, or served
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        if listener is not None:
            self.poll.register(listener, select.POLLIN)
        if conversation is not None:
            self._greet(conversation)

    def serve(self) -> None:
        """Serve until gpud has gone, no child is left, and no record is to be completed."""
        while True:
            has_children = self._reap()
            self.orphans.tend(self.leases)
            if not has_children and self.conversation is None and self.listener is None and not self.orphans.ends:
                return
            idle = len(self.fresh) + len(self.used)
            wants_spares = self.conversation is not None and idle < SPARES // 2  # enough while more are made
            quiet_ms = 250 if self.orphans.pressing else _CALM_MS if self.used else None
            events = self.poll.poll(0 if wants_spares else quiet_ms)
            if not events and wants_spares:
                with contextlib.suppress(OSError):  # no process to be had: the next order says so
                    self._fork()
            elif not events:
                while self.used:
                    self.channels.pop(self.used.pop()).close()
            for file, _ in events:
                self._attend(file)

    def rehearse(self) -> None:
        """Attend an attempt that does nothing, a few times, so that what shims run has run before the first is forked.

        What Python then remembers (specialised code, looked-up methods) is shared; else each shim, and each process
        that is to become a job, would make it anew. What does not work now will be told when a job asks for it.
        """
        places.clear_rehearsed()
        path = f"{self.records}/.rehearsal.{os.getpid()}"
        log, saves, progress = (f"{path}.{what}" for what in ("log", "saves", "progress"))
        environment = record.to_json({"HOME": "/", "PATH": os.defpath, "XDG_RUNTIME_DIR": "/"})
        order = shim.NOTHING | {"record": path, "output": log, "environment_bytes": len(environment)}
        order["added"] = {places.CHECKPOINTS: saves, places.PROGRESS: progress}
        if self.means["unfenced"] is None:
            order["fence"] = [fence.DEVICES, []]
        header = record.to_json(order)
        lineage = self.lineage | {"shim": self.identity}
        leases, bounds = Leases(), Bounds()
        own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Not TERM, which is for this process: rehearsed shims take what is blocked, and it would not end.
        set_mask(signal.SIG_BLOCK, SIGNALS - {signal.SIGTERM})
        for _ in range(REHEARSALS):
            blobs = os.memfd_create("gpud-rehearsal")
            os.write(blobs, header + environment)
            send(own, b" %d" % len(header), blobs, self.talk.fileno())
            os.close(blobs)
            message, files = shim.receive(its)
            told = shim.take(message, files, self.talk, self.limits, {}, None)
            if self.cgroup is not None:
                told["cgroup"] = f"{self.cgroup}/rehearsal"
            with contextlib.suppress(OSError):
                rehearse(told, files[0], self.talk, lineage, bounds)
                os.unlink(path)
            with contextlib.suppress(OSError):
                shim.Shim(told, files[0], self.talk, lineage, leases, bounds, lambda: None).run()
                os.unlink(path)
        for each in (own, its, leases, bounds):
            each.close()
        with contextlib.suppress(OSError):
            os.unlink(log)
        set_mask(signal.SIG_UNBLOCK, SIGNALS)

    def _attend(self, file: int) -> None:
        if file == self.wake:
            with contextlib.suppress(BlockingIOError):
                if comeback.ASKS in os.read(self.wake, 4096) and self.call is not None:
                    comeback.start(self.call, f"{os.path.dirname(self.records)}/gpud.log", self.limits["NOFILE"])
        elif self.listener is not None and file == self.listener.fileno():
            self._accept(self.listener)
        elif self.conversation is not None and file == self.conversation.fileno():
            message, files = shim.receive(self.conversation)
            if files:
                self._launch(self.conversation, message, files[0])
                os.close(files[0])
            elif message in _LOGINS:
                where = cgroup.mounted()
                problem = "there are no cgroups (version 2) here" if where is None else None
                self.means["logins"] = problem if where is None else fence.fence_logins(where, on=_LOGINS[message])
                tell(self.conversation, "", self.means)
            elif message.startswith(SWEEP):
                self.orphans.sweep(*record.from_json(message[len(SWEEP) :])["tmp"])
            elif message:
                self._free(message.decode())
            else:
                self._part(self.conversation)

    def _greet(self, conversation: socket.socket) -> None:
        self.call = comeback.call_of(_peer(conversation)[0]) or self.call
        self.poll.register(conversation, select.POLLIN)
        tell(conversation, "", self.means)

    def _part(self, conversation: socket.socket) -> None:
        """Forget gpud: it ended, or was killed. Shims read the end of their channels and go when their attempt has."""
        self.poll.unregister(conversation)
        conversation.close()
        self.conversation = None
        for channel in self.channels.values():
            channel.close()
        self.channels.clear()
        self.fresh.clear()
        self.used.clear()

    def _accept(self, listener: socket.socket) -> None:
        """Serve the gpud that connects, instead of the one before it: a second one is refused by gpud's own lock."""
        fresh, _ = listener.accept()
        if _peer(fresh)[1] != os.getuid():
            fresh.close()
            return
        if self.conversation is not None:
            self._part(self.conversation)
        self.conversation = fresh
        self._greet(fresh)

    def _launch(self, conversation: socket.socket, message: bytes, blobs: int) -> None:
        """Hand an order to an idle shim, or to a new one."""
        key = message.decode().rpartition(" ")[0]
        record.reached(key, "zygote before fork")
        try:
            while key not in self.busy:
                if not self.fresh and not self.used:
                    self._fork()
                pid = (self.fresh or self.used).pop()
                with contextlib.suppress(ConnectionError):  # this one has ended
                    send(self.channels[pid], message, blobs, conversation.fileno())
                    self.busy[key] = pid
        except OSError as error:
            fault = faults.cannot("make a process", error, machine=True).fault
            tell(conversation, key, {"state": record.DONE, "fault": fault})
        record.reached(key, "zygote after fork")

    def _free(self, key: str) -> None:
        """Let a shim have another attempt. gpud says when, for only it knows that it will not signal the shim again."""
        self.orphans.release(key)
        pid = self.busy.pop(key, None)
        if pid in self.channels:
            if len(self.used) < 2 * SPARES:
                self.used.append(pid)
            else:
                self.channels.pop(pid).close()

    def _fork(self) -> None:
        """Make spare shims, one right after the other: what this process changes from then on they share, as it was."""
        made = [(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), Leases()) for _ in range(SPARES)]
        pids: list[int] = []
        limits = own_limits()
        # Here, for a shim would pay for it with 100 KiB of its own; no signal is lost, they stay pending.
        set_mask(signal.SIG_BLOCK, SIGNALS)
        try:
            for _, its, leases in made:
                pid = os.fork()
                if pid == 0:
                    self._become_shim(its, leases, limits)
                pids.append(pid)
        except OSError:
            if not pids:
                raise
        finally:
            set_mask(signal.SIG_UNBLOCK, SIGNALS)
            for _, its, _ in made:
                its.close()
            for own, _, leases in made[len(pids) :]:
                own.close()
                leases.close()
        for pid, (own, _, leases) in zip(pids, made, strict=False):
            self.channels[pid] = own
            self.leases[pid] = leases
            self.fresh.append(pid)

    def _become_shim(self, its: socket.socket, leases: Leases, limits: Limits) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # its number will be another file's
            shim.close_others([its.fileno(), self.talk.fileno(), *leases.files])
            shim.attend(
                its, self.talk, self.lineage, leases, limits=self.limits, own_limits=limits, cgroups=self.cgroup
            )
            code = 0
        except BaseException:  # noqa: BLE001 - ours: the launcher's log is where it is looked for
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _reap(self) -> bool:
        """Take every end that is there. Return False when there is no child."""
        self._wake_stopped()
        while True:
            try:
                end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if end is None:
                return True
            pid = end.si_pid
            key = next((key for key, shim in self.busy.items() if shim == pid), None)
            if key is None and pid not in self.channels:
                self.orphans.reap(pid, end.si_code, end.si_status)
            os.waitpid(pid, 0)
            if pid in self.channels:
                self.channels.pop(pid).close()
            for idle in (self.fresh, self.used):
                if pid in idle:
                    idle.remove(pid)
            if key is not None:
                del self.busy[key]
                if end.si_code != os.CLD_EXITED or end.si_status != 0:
                    self.orphans.adopt(key, self.leases[pid].take())
            if pid in self.leases:
                self.leases.pop(pid).close()

    def _wake_stopped(self) -> None:
        """Let shims and keepers that somebody stopped, such as their own job, go on: a stopped one ends nothing."""
        with contextlib.suppress(ChildProcessError):
            while (stopped := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG)) is not None:
                if stopped.si_pid in self.leases or stopped.si_pid in self.orphans.keepers:
                    tree.send(signal.SIGCONT, [stopped.si_pid])

    def _tell_changed(self, key: str) -> None:
        if self.conversation is not None:
            tell(self.conversation, key, {"state": record.CHANGED})


def send(channel: socket.socket, message: bytes, *files: int) -> None:
    """Send a message with open files."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))
    channel.sendmsg([message], [rights], _AT_ONCE)


def _peer(connection: socket.socket) -> tuple[int, ...]:
    """Return the pid, uid and gid of who made the other end."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def main() -> NoReturn:
    """Become the launcher process."""
    how, where, records = sys.argv[1:4]
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:  # what is ignored here would be ignored in every job
            signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)
    tree.adopt_orphans()
    tree.rename(b"gpud-launcher")
    conversation = listener = None
    if how == "--fd":
        conversation = socket.socket(fileno=int(where))
    else:
        listener = _listen(where)
    os.chdir("/")  # so as to keep no file system from being unmounted
    zygote = Zygote(records, conversation, listener)
    zygote.rehearse()
    _raise_files_limit()  # a channel for each shim
    gc.collect()
    gc.freeze()  # shims share this memory until they touch it, and a collection would touch it all
    gc.disable()
    zygote.serve()
    sys.exit(0)


def _raise_files_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(path: str) -> socket.socket:
    directory, name = os.path.split(path)
    os.chdir(directory)  # the path may be longer than an address can be
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(name)
    os.chmod(name, 0o600)
    listener.listen(1)
    notify = os.environ.get("NOTIFY_SOCKET")
    if notify is not None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", notify.replace("@", "\0", 1) if notify.startswith("@") else notify)
    return listener


if __name__ == "__main__":
    main()
