"""The shim: a job's parent, which outlives gpud, stops the job, and writes down how it ended.

It sleeps in one system call, sigtimedwait(2), and wakes for the signals that `deadlines` names, and for its own
deadlines: when the job is to save what it has, the time limit, the end of the grace.
The record is overwritten before the job's process is reaped, because what is reaped is forgotten. Then whatever the
job left behind is killed: a process that daemonised comes to the shim as a child. What cannot die (D state: a dead
file server, a broken driver) is given up after `GIVE_UP_S`, and the record says `stuck`.

For a job whose shim was killed a keeper does the same: see `orphans`.
"""

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterable

from gpud.launchers import cgroup, containers, environment, faults, fence, output, places, record, tree
from gpud.launchers.checkpoints import Checkpoints
from gpud.launchers.deadlines import SIGNALS, Deadlines
from gpud.launchers.job import Limits, Order, as_user, become, pass_on, tell
from gpud.launchers.leases import Leases

_ORDERS = 64  # then the process goes, and with it whatever piled up in it
_HANGS_S = 10  # how long a look at what a job left on its file servers may take


# An order to do nothing: what `orders.order_of` gives, for rehearsals.
NOTHING: Order = {
    "key": "",
    "offset": 0.0,
    "command": ["false"],  # so that its log is searched, too
    "keeper": [],
    "workdir": "/",
    "mount": None,
    "output": os.devnull,
    "error": None,
    "makes_log_dir": False,
    "makes": [None, None],
    "added": {},
    "blobs_at": 0,
    "environment_bytes": 2,
    "script_bytes": None,
    "umask": 0o077,
    "limits": {},
    "time_limit_s": None,
    "grace_s": 0.0,
    "memory_mib": 0,
    "cpus": 0,
    "numa": [],
    "leases": [],
    "cgroup": None,
    "joins": None,
    "fence": None,
    "log_max": 1 << 40,
    "checkpoint": None,
    "private": True,
    "beside": None,
    "shared": [],
    "uid": None,
    "gid": None,
    "groups": [],
}


class Shim:
    """One attempt, from the order to the end."""

    def __init__(
        self,
        order: Order,
        blobs: int,
        conversation: socket.socket,
        lineage: record.Record,
        leases: Leases,
        bounds: output.Bounds,
        last: Callable[[], None],
    ) -> None:
        self.order = order
        self.blobs = blobs
        self.leases = leases
        self.last = last
        self.conversation = conversation
        limit_s = order["time_limit_s"]
        self.lineage = lineage | {
            "limit_at": None if limit_s is None else round(record.boot_time() + limit_s, 3),
            "grace_s": order["grace_s"],
            "offset": order["offset"],
            "hears": True,
        }
        if order["checkpoint"] is not None:
            self.lineage["checkpoint"] = order["checkpoint"]
        self.record: record.Record | None = None
        self.file: int | None = None  # of the record, once the job's first process has ended
        self.bounds = bounds
        bounds.begin(order["log_max"])
        self.rss_kib = 0
        self.cpu_s = 0.0

    def run(self) -> bool:
        """Run the attempt. Return whether this process may attend another: nothing of this one is left in it."""
        record.reached(self.order["key"], "shim before fork")
        try:
            if self.order["leases"]:
                self.leases.hold(self.order["leases"], self.order["shared"], os.path.dirname(self.order["record"]))
            if self.order["private"] and (port := self.leases.hold_port()) is not None:
                self.order["added"][environment.PORT] = str(port)
            if self.order["cgroup"] is not None:
                cgroup.make(self.order["cgroup"], self.order["memory_mib"])
                if self.order["cpus"]:
                    self._pin(self.order["cgroup"])
            fenced = self.order["fence"] is not None and self.order["fence"][0] == fence.DEVICES
            if fenced and self.order["joins"] is None:
                fence.confine(self.order["cgroup"], self.order["fence"][1])
            pid = os.fork()
        except faults.CannotStartError as error:
            self._refuse(error)
            return True
        except OSError as error:
            self._refuse(faults.cannot("make a process", error, machine=True))
            return True
        if pid == 0:
            become(self.order, self.blobs, self.conversation, self.lineage, self.bounds)
        record.reached(self.order["key"], "shim after fork")
        os.close(self.blobs)
        own = os.getpid()
        deadlines = Deadlines(
            lambda: tree.descendants(own),
            self.lineage["limit_at"],
            self.lineage["grace_s"],
            group=self.order["cgroup"],
            look=lambda: record.limit_of(self.order["record"], self.lineage["limit_at"]),
            saves=None if self.order["checkpoint"] is None else Checkpoints(self.order["checkpoint"], pid),
        )
        while self._reap(pid, deadlines) and not deadlines.given_up():
            if self.record is not None and deadlines.kill_at is None:
                deadlines.stop(0.0)
            deadlines.nap_s = self.bounds.tend()
            deadlines.wait()
        if self.record is None and deadlines.given_up():
            self.record = (self._own(pid) or self.lineage) | {"lost": "its process cannot be killed"}
            self.record |= {"ended": self._now()}
        if self.record is None:  # it did not get the claim, and has said so, if gpud listened
            tell(self.conversation, self.order["key"], {"state": record.CHANGED})
            self._release()
            return True
        self._stop_containers(self.record)
        tmp = self.record.get("tmp", [None])[0]
        if tmp is not None and self.order["uid"] is None and places.removed(tmp):
            tmp = None
        again = self.order["uid"] is None and not deadlines.given_up() and tmp is None
        if not again:
            self.last()
        self._finish(deadlines, tmp)
        return again

    def _stop_containers(self, own: record.Record) -> None:
        """Stop what of the job runs elsewhere, while its GPUs are still its own."""
        docker = own.pop("docker", None)
        if docker is not None and own["ended"] - own["at"] >= containers.SHORT_S:
            words = self.order["added"].get(environment.DOCKER, "")
            said = containers.stop(docker, words, lambda: as_user(self.order, ours=True))
            if said is not None:
                own["containers"] = said

    def _pin(self, group: str) -> None:
        """Give it the CPUs that it asked for, for itself, those next to its GPUs first; any, where too few are left."""
        cpus = self.leases.hold_cpus(cgroup.choices(group, self.order["numa"]), self.order["cpus"])
        if cpus:
            cgroup.pin(group, cpus)
        else:
            cgroup.weigh(group, self.order["cpus"])

    def _reap(self, pid: int, deadlines: Deadlines) -> bool:
        """Take every end that is there, the job's into the record first. Return False when no child is left."""
        while True:
            try:
                end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if end is None:
                return True
            if end.si_pid == pid:
                record.reached(self.order["key"], "shim before record")
                status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
                self._ended(pid, status, by_system=deadlines.by_system)
                record.reached(self.order["key"], "shim after record")
                deadlines.killed.clear()  # what is killed from here on are leftovers
            used = os.wait4(end.si_pid, 0)[2]  # with what its own children used
            self.rss_kib = max(self.rss_kib, used.ru_maxrss)
            self.cpu_s += used.ru_utime + used.ru_stime

    def _ended(self, pid: int, status: int, *, by_system: bool) -> None:
        own = self._own(pid) or self._anew(pid, status)
        if own is None:
            return
        if own["state"] == record.CLAIMED:
            own |= {"state": record.ENDED, "status": status}
            if by_system and status != 0:
                own["lost"] = "stopped by the system: a shutdown, or the end of a session"
        self.record = own | {"ended": self._now()}
        self._write(self.record)

    def _finish(self, deadlines: Deadlines, tmp: str | None) -> None:
        """Complete the record, as the job's user from here on: the log is a path that the user chose."""
        assert self.record is not None  # noqa: S101 - of an attempt that ended
        self.record.pop("checkpoint", None)  # there is more to say
        self.record |= {
            "state": record.ENDED,
            "cpu_s": round(self.cpu_s, 3),
            "rss_mib": self.rss_kib >> 10,
            "leftovers": len(deadlines.killed),
            "timed_out": deadlines.timed_out,
            "stuck": deadlines.given_up(),
        }
        self._release()
        if self.file is not None:
            record.write(self.file, record.encode(self.record))  # so the launcher process completes what kills us here
        self.record.pop("tmp", None)
        left = False
        signal.alarm(_HANGS_S)  # a file server that does not answer is waited for until a signal kills
        try:
            as_user(self.order, ours=True)
            left = tmp is not None and not places.removed(tmp)
            places.clear(self.order["added"])
            if self.record.get("status") != 0 and "finding" not in self.record:
                self.record["finding"] = output.finding(self.order["error"] or self.order["output"])
            if self.order["script_bytes"] is not None:
                os.unlink(self.order["script_path"])
        except OSError:
            pass
        signal.alarm(0)
        if self.bounds.cut and self.record.get("finding") is None:
            self.record["finding"] = f"it wrote more than {self.order['log_max'] >> 20} MiB: the log's head was dropped"
        encoded = record.encode(self.record | {"state": record.DONE})
        if self.file is not None:  # else it vanished: gpud is told, if it is there
            record.write(self.file, encoded)
            os.close(self.file)
        record.reached(self.order["key"], "shim done")
        pass_on(self.conversation, self.order["key"], encoded)
        if left and tmp is not None:
            places.become_sweeper(tmp)

    def _own(self, pid: int) -> record.Record | None:
        writes = True
        try:
            try:
                file = os.open(self.order["record"], os.O_RDWR | record.SAFELY)
            except OSError:  # a disk that may only be read: gpud is told
                file, writes = os.open(self.order["record"], os.O_RDONLY | record.SAFELY), False
            found = record.decode(os.pread(file, record.SIZE, 0))  # who might be writing it has ended
        except OSError:
            return None
        mine = found is not None and found.get("pid") == pid
        if mine and writes:
            self.file = file
        else:
            os.close(file)
        return found if mine else None

    def _anew(self, pid: int, status: int) -> record.Record | None:
        """Return what to write in the place of a record that was damaged or removed while its job ran.

        None where it may never have been the job's own: a process that did not get the claim exits so, or was killed.
        """
        damaged = False
        try:
            found = record.read(self.order["record"])
        except ValueError:
            found, damaged = None, True
        if found is not None or status == faults.NOT_STARTED or (status < 0 and not damaged):
            return None
        # Nothing watches a process that has ended, so it needs no start time.
        return self.lineage | {"state": record.CLAIMED, "pid": pid, "start": record.ANEW, "at": self._now()}

    def _write(self, about: record.Record) -> None:
        encoded = record.encode(about)
        if self.file is None:
            with contextlib.suppress(OSError):  # no space, or what stands there is no file
                try:
                    self.file = os.open(self.order["record"], os.O_WRONLY | record.SAFELY)
                except FileNotFoundError:
                    self.file = record.claim(self.order["record"], encoded)
        if self.file is not None:
            record.write(self.file, encoded)

    def _refuse(self, error: faults.CannotStartError) -> None:
        """Record, where that is possible, that the attempt cannot start on this machine now."""
        refusal = self.lineage | {"state": record.DONE, "fault": error.fault, "ended": self._now()}
        with contextlib.suppress(OSError):  # gpud is told; should it not hear, the missing record says as much
            file = record.claim(self.order["record"], record.encode(refusal))
            if file is None:
                refusal = {"state": record.REFUSED}
            else:
                os.close(file)
        self._release()
        os.close(self.blobs)
        tell(self.conversation, self.order["key"], refusal)

    def _release(self) -> None:
        group = self.order["cgroup"]
        if group is not None:
            peak_mib, killed = cgroup.peak_mib(group), cgroup.remove(group)
            if self.record is not None and peak_mib is not None:
                self.record["peak_mib"] = peak_mib
            if self.record is not None and killed:
                most = self.order["memory_mib"]
                self.record["finding"] = f"out of memory: it used more than the {most} MiB asked for"
        if self.order["joins"] is not None:
            cgroup.leave(self.order["joins"])
        self.bounds.end()
        self.leases.release()

    def _now(self) -> float:
        return record.boot_time() + float(self.order["offset"])


def attend(
    channel: socket.socket,
    talk: socket.socket,
    lineage: record.Record,
    leases: Leases,
    *,
    limits: Limits,
    own_limits: Limits,
    cgroups: str | None,
) -> None:
    """Be a shim: attend the attempts that the launcher process orders, one after the other, until it ends.

    A shim that has attended one is warm: half of what a start costs is memory touched for the first time. One that
    will attend no more closes its channel before it tells of the end: an order that is sent after it fails, and goes
    to another shim, where one that just arrived would be lost. `talk` is a socket to put the conversation with gpud
    in the place of, `limits` are those of a job whose submitter says nothing, `own_limits` those of this process, and
    `cgroups` is the directory below which each may have its own.
    """
    os.setsid()
    tree.adopt_orphans()
    tree.rename(b"gpud-shim")
    lineage |= {"shim": [os.getpid(), record.start_time(os.getpid())]}
    bounds = output.Bounds()
    for left in reversed(range(_ORDERS)):
        message, files = receive(channel)
        if not message:
            return
        if not left:
            channel.close()
        while signal.sigtimedwait(SIGNALS, 0) is not None:
            pass  # meant for an attempt that is over
        order = take(message, files, talk, limits, own_limits, cgroups)
        if not Shim(order, files[0], talk, lineage, leases, bounds, channel.close).run():
            return


def take(
    message: bytes, files: list[int], talk: socket.socket, limits: Limits, own_limits: Limits, cgroups: str | None
) -> Order:
    """Return the order that came as this message with these files, of which the first stays open.

    Of the limits those are left in it that the job would not have anyway.
    """
    blobs, conversation = files
    os.dup2(conversation, talk.fileno(), inheritable=False)
    os.close(conversation)
    key, _, length = message.decode().rpartition(" ")
    order = record.from_json(os.pread(blobs, int(length), 0)) | {"key": key, "blobs_at": int(length)}
    wanted = limits | order["limits"]
    order["limits"] = {name: limit for name, limit in wanted.items() if own_limits.get(name) != limit}
    beside = order["beside"]
    order["cgroup"] = None if cgroups is None or beside is not None else f"{cgroups}/job-{key}"
    order["joins"] = None if cgroups is None or beside is None else f"{cgroups}/job-{beside}"
    return order


def close_others(kept: Iterable[int]) -> None:
    """Close every file but 0, 1, 2 and these: the ends of others' channels would keep those open."""
    last = 2
    for file in sorted(kept):
        os.closerange(last + 1, file)
        last = file
    os.closerange(last + 1, 1 << 20)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and the files that came with it; an empty one for the end of the channel."""
    try:
        message, control, _, _ = channel.recvmsg(4096, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:  # a peer killed with unread messages resets, which ends the channel too
        return b"", []
    files: list[int] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files += struct.unpack(f"{len(data) // 4}i", data)
    return message, files
