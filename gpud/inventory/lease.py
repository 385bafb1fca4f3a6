r"""Which process, of any gpud on this machine, holds a GPU for its job.

For a job's life its shim listens on the abstract socket `\0gpud/GPU-<uuid>`; the kernel frees the name when the shim
is gone, however it went. A connection to it tells the listener's pid (SO_PEERCRED), and nobody has to accept it. The
name is anybody's to take: who takes it and does not listen, or listens to nobody, is looked for in /proc.
"""

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from gpud.inventory.processes import Held, describe, identity_of
from gpud.inventory.users import UserNames
from gpud.model.gpu import GpuId, GpuProcess, ProcessIdentity

UNKNOWN = ProcessIdentity(0, 0)


class Lease:
    """One GPU's lease, looked at again and again.

    The connection is kept while the holder lives: it is never accepted, so each new one would take another place in
    the listener's backlog for good. Not thread-safe; it is used by one look at a time.
    """

    def __init__(self, gpu: GpuId) -> None:
        self._address = f"\0gpud/{gpu}"
        self._connection: socket.socket | None = None
        self._holder: ProcessIdentity | None = None
        self._silent: tuple[int, ProcessIdentity] | None = None  # a socket that does not answer, and whose it is

    def holder(self) -> ProcessIdentity | None:
        """Return who holds the GPU: None for nobody, `UNKNOWN` for a process that the kernel does not name to us."""
        if self._connection is not None and not _hung_up(self._connection):
            return self._holder
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._address)
        except (BlockingIOError, ConnectionError) as error:  # its backlog is full; or nobody listens
            connection.close()
            inode = self._bound()
            if inode is None:
                return UNKNOWN if isinstance(error, BlockingIOError) else None
            if self._silent is None or self._silent[0] != inode or identity_of(self._silent[1].pid) != self._silent[1]:
                self._silent = inode, _owner(inode)
            return self._silent[1]
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._connection, self._holder = connection, identity_of(pid) if pid else UNKNOWN
        return self._holder

    def with_holder(self, there: tuple[GpuProcess, ...], users: UserNames) -> tuple[GpuProcess, ...]:
        """Return who is on the GPU, and which other user's process keeps it without being there, or anything below it.

        It is named and counted like any stranger: the name of a lease is anybody's to take.
        """
        holder = self.holder()
        if holder is None or not holder.pid or any(holder in each.ancestors for each in there):
            return there
        found, _ = describe([Held(holder.pid, None, compute=True)], frozenset(), users)
        return there + tuple(each for each in found if each.uid not in {None, 0, os.getuid()})

    def _bound(self) -> int | None:
        """Return the inode of the socket that has the name; None where none has."""
        name = self._address.replace("\0", "@", 1).encode()
        with suppress(OSError), open("/proc/net/unix", "rb") as sockets:  # noqa: PTH123 - no path to speak of
            for line in sockets:
                words = line.split()
                if words[-1] == name and words[-2] != b"0":  # 0: of a connection that was not accepted
                    return int(words[-2])
        return None

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _hung_up(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _owner(inode: int) -> ProcessIdentity:
    """Return a process that has a socket open; `UNKNOWN` where none can be seen."""
    link = Path(f"socket:[{inode}]")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # gone, or not ours to see
                if link in [file.readlink() for file in (process / "fd").iterdir()]:
                    return identity_of(int(process.name))
    return UNKNOWN
