"""Who is at the other end of a socket: the kernel's word, as of when they connected (unix(7))."""

import ctypes
import errno
import os
import socket
import struct

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
