"""Who is at the other end of a socket, and what they may: the kernel's word, as of when they connected (unix(7))."""

import ctypes
import errno
import os
import resource
import socket
import struct

from gpud.wire.check import Wrong

_LIMITS = {name.removeprefix("RLIMIT_") for name in dir(resource) if name.startswith("RLIMIT_")} - {"OFILE"}
_SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)  # include/uapi/asm-generic/socket.h


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        found = _many_groups(sock.fileno())
    return struct.unpack(f"={len(found) // 4}I", found)


def _many_groups(fd: int) -> bytes:
    """Return SO_PEERGROUPS of more groups than fit into 1,024 bytes, which is all that Python's getsockopt takes."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_uint32(65536 * 4)  # NGROUPS_MAX
    found = ctypes.create_string_buffer(size.value)
    if libc.getsockopt(fd, socket.SOL_SOCKET, _SO_PEERGROUPS, found, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found.raw[: size.value]


def granted(pid: int, uid: int, limits: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return limits no higher than the client may have itself, a process of this user's. Raises Wrong.

    The launcher, being root, would grant any, and its own where none is said: what is not said is as the client's. Read
    from /proc/PID/limits (proc(5)), whose lines stand in the order of the limits' numbers; prlimit(2) would need a
    capability that root lacks in a container. The pid may be another process's by now: it must be the user's own.
    """
    place = None
    try:
        place = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        own = int(_read_at(place, "status").partition("\nUid:\t")[2].split()[1]) == uid
        lines = _read_at(place, "limits").splitlines()[1:]
    except OSError:
        own, lines = False, []
    finally:
        if place is not None:
            os.close(place)
    if not own:
        raise Wrong("the process that submits must stay, as the user that it connected as, until it is answered")
    found = {}
    for name in sorted(_LIMITS | limits.keys()):
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None or number >= len(lines):
            raise Wrong(f"unknown limit {name!r}")
        soft, most = (-1 if word == "unlimited" else int(word) for word in lines[number][26:67].split())
        pair = limits.get(name, [soft, most])
        found[name] = pair if most < 0 else [value if 0 <= value <= most else most for value in pair]
    return found


def _read_at(place: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=place)) as file:
        return file.read()
