"""GPUs, CPUs, ports held against every gpud of this machine: an abstract socket for each, which one process can bind.

Jobs of one gpud that share a GPU share its lease as well: the first of them holds it. Once that one has ended nobody
does until the next starts, and what keeps others off meanwhile is that the rest of the jobs are seen on the GPU.

The kernel lets go of a name when no file of its socket is open any more. A shim may be killed while its job runs, so
its leases lie in flight, too, in a pair of sockets of which the launcher process has both ends: there they outlive the
shim, without a moment in which another could bind them, and a shim that lives takes them back by itself.
"""

import contextlib
import errno
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence

from gpud.launchers import faults

_FILES = 253  # as many as one message can hold (SCM_MAX_FD)
_PORTS_FROM = 20_000  # below are those of services
_PORTS_LEAST = 1_000
_PORTS_TRIED = 500
# Plain numbers, and the type to which `socket.socket` adds Python: else each shim has 20 pages more of its own.
_UNIX, _INET, _INET6, _STREAM = map(int, (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM))
_DATAGRAMS = int(socket.SOCK_DGRAM)
_AT_ONCE = int(socket.MSG_DONTWAIT)


class Leases:
    """The leases of one shim's attempt. Made by the launcher process, inherited by the shim."""

    def __init__(self) -> None:
        self._held: list[socket.SocketType] = []
        self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._messages = 0  # in flight
        self._ports = _choices()

    @property
    def files(self) -> Sequence[int]:
        """Return the files that the shim inherits."""
        return [end.fileno() for end in self._ends]

    def hold(self, gpus: Sequence[str], shared: Sequence[str] = (), records: str = "") -> None:
        """Lease the GPUs. Raises CannotStartError; `release` is due then too.

        Of those that are `shared` another job of the same gpud, which has the same `records`, may have the lease.
        """
        for gpu in gpus:
            address = f"\0gpud/{gpu}"
            lease = socket.SocketType(_UNIX, _STREAM)
            self._held.append(lease)
            try:
                lease.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise faults.cannot(f"hold {gpu}", error, machine=True) from error
                if gpu in shared and _soon(_is_there, _mark(gpu, records)):
                    self._held.pop().close()
                    continue
                holder = holder_of(gpu)
                who = "its process cannot be seen" if holder is None else f"pid {holder}"
                raise faults.CannotStartError(f"{gpu} is held by another gpud ({who})", machine=True) from None
            lease.listen(128)  # nobody accepts: each gpud that asks who holds it takes a place
            if gpu in shared:
                mark = socket.SocketType(_UNIX, _DATAGRAMS)
                self._held.insert(-1, mark)  # it goes before the lease goes
                _soon(_is_bound, _mark(gpu, records), mark)
        try:
            self._entrust(self._held)
        except OSError as error:
            raise faults.cannot("hold GPUs", error, machine=True) from error

    def hold_cpus(self, choices: Iterable[int], count: int) -> list[int]:
        """Lease so many CPUs, the first of these that nobody has, and return them; none if there are not so many."""
        held: dict[int, socket.SocketType] = {}
        with contextlib.suppress(OSError):
            for cpu in choices:
                if len(held) == count:
                    break
                lease = socket.SocketType(_UNIX, _STREAM)
                try:
                    lease.bind(f"\0gpud/CPU-{cpu}")
                    held[cpu] = lease
                except OSError:
                    lease.close()
            if len(held) == count:
                self._entrust([*held.values()])
                self._held += held.values()
                return [*held]
        drop(held.values())
        return []

    def hold_port(self) -> int | None:
        """Lease a port that nobody listens on now, and that the kernel gives nobody who asks for any; None for none."""
        first = int.from_bytes(os.urandom(2), "big")
        for at in range(_PORTS_TRIED):
            port = self._ports[(first + at) % len(self._ports)]
            lease = socket.SocketType(_UNIX, _STREAM)
            try:
                lease.bind(f"\0gpud/port-{port}")
                if _is_free(port):
                    self._entrust([lease])
                    self._held.append(lease)
                    return port
            except OSError:
                pass
            lease.close()
        return None

    def take(self) -> list[socket.socket]:
        """Return what a killed shim held, from where it lies in flight."""
        taken: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                _, control, _, _ = self._ends[1].recvmsg(1, socket.CMSG_SPACE(4 * _FILES), socket.MSG_DONTWAIT)
                for _, _, data in control:
                    taken += (socket.socket(fileno=file) for file in struct.unpack(f"{len(data) // 4}i", data))
        return taken

    def _entrust(self, leases: Sequence[socket.SocketType]) -> None:
        """Let these lie in flight, too. Raises OSError."""
        for at in range(0, len(leases), _FILES):
            files = [lease.fileno() for lease in leases[at : at + _FILES]]
            rights = struct.pack(f"{len(files)}i", *files)
            self._ends[0].sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _AT_ONCE)
            self._messages += 1

    def release(self) -> None:
        """Let others have the GPUs."""
        try:
            while self._messages:
                self._messages -= 1
                self._ends[1].recv(1, _AT_ONCE)  # without a place for them the files go with the message
        except OSError:  # they were taken
            self._messages = 0
        drop(self._held)
        self._held.clear()

    def close(self) -> None:
        """Drop everything."""
        drop(self._ends)


def drop(leases: Iterable[socket.SocketType]) -> None:
    """Close them all."""
    for lease in leases:
        lease.close()


def _choices() -> Sequence[int]:
    """Return the ports that jobs may have: those that the kernel gives nobody by itself, where that leaves enough."""
    low, high = _given_by_the_kernel()
    choices = range(_PORTS_FROM, low) if low - _PORTS_FROM >= _PORTS_LEAST else range(high + 1, 1 << 16)
    return choices if len(choices) >= _PORTS_LEAST else range(_PORTS_FROM, 1 << 16)


def _given_by_the_kernel() -> tuple[int, int]:
    """Return the first and the last of the ports from which the kernel takes those of who connects (ip(7))."""
    try:
        file = os.open("/proc/sys/net/ipv4/ip_local_port_range", os.O_RDONLY | os.O_CLOEXEC)
        try:
            low, high = map(int, os.read(file, 64).split())
        finally:
            os.close(file)
    except (OSError, ValueError):
        return 32768, 60999
    return low, high


def _is_free(port: int) -> bool:
    """Tell whether somebody could listen there now, on every address."""
    try:
        probe = socket.SocketType(_INET6, _STREAM)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address = "::"
    except OSError:  # this machine has no IPv6
        probe = socket.SocketType(_INET, _STREAM)
        address = "0.0.0.0"  # noqa: S104 - nobody ever listens on it
    try:
        probe.bind((address, port))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def holder_of(gpu: str) -> int | None:
    """Return the pid of who holds a GPU; None where nobody does, or nobody who can be seen."""
    address = f"\0gpud/{gpu}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.setblocking(False)
        other.connect(address)
        pid: int = struct.unpack("3i", other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid
    return None


def _mark(gpu: str, records: str) -> str:
    """Return the name by which jobs of the gpud with these records know that one of them holds a GPU."""
    return f"\0gpud/{gpu} {zlib.crc32(os.fsencode(records)):08x}"


def _soon(condition: Callable[..., bool], *of: object) -> bool:
    """Tell whether something is so, or in a moment: a lease and its mark come, and go, one after the other."""
    for nap_s in (0.0, 0.01, 0.1):
        time.sleep(nap_s)
        if condition(*of):
            return True
    return False


def _is_bound(name: str, mark: socket.SocketType) -> bool:
    """Give a socket this name; tell whether it could be had."""
    try:
        mark.bind(name)
    except OSError:
        return False
    return True


def _is_there(name: str) -> bool:
    """Tell whether a socket for datagrams has this name: who looks so takes no place of a backlog."""
    with socket.socket(_UNIX, _DATAGRAMS) as other:
        return other.connect_ex(name) == 0
