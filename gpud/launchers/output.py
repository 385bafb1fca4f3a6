"""What a job writes to plain files: kept within bounds while it runs, searched when it failed.

A file that grows beyond its bound loses its head: the blocks are given back, and a hole is left in their place
(fallocate(2), FALLOC_FL_PUNCH_HOLE), so that neither the job nor who follows the log notices. The shim does it by the
files that the job's process opened as the job's user, and sent: no path is opened again, and nothing is done that the
user could not do. What was in a file before the job is never touched. Files on other machines' disks are left alone: a
server that does not answer would hold up the shim.

A look costs 10 us. How soon the next is due follows from how far away the bound is and how fast a disk is.
"""

import ctypes
import math
import os
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Any

from gpud.launchers import record

_TAIL = 16384  # bytes: of eight ranks that failed together each says so, and torchrun of each of them
_OUT_OF_MEMORY = (
    b"CUDA out of memory",  # PyTorch's allocator
    b"CUDA error: out of memory",  # what else calls CUDA there, and llama.cpp
    b"CUDA_ERROR_OUT_OF_MEMORY",
    b"cudaErrorMemoryAllocation",
    b"cudaMalloc failed: out of memory",
    b"RESOURCE_EXHAUSTED: Out of memory",  # XLA: JAX
    b"OOM when allocating tensor",  # TensorFlow
    b"cupy.cuda.memory.OutOfMemoryError",
    b"'out of memory'",  # NCCL: Cuda failure 2 'out of memory'
    b"CUBLAS_STATUS_ALLOC_FAILED",
    b"CUDNN_STATUS_ALLOC_FAILED",
)
_OF_OTHERS = {"ChildFailedError", "CalledProcessError"}  # torchrun's, and accelerate's: another process failed
_SAYS_LINES = 6  # beside those that are indented: CUDA's errors have four
_UNATTENDED = b"\ngpud: nobody attended this terminal for "

_fallocate: Any = ctypes.CDLL(None).fallocate
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # linux/falloc.h
_FASTEST = 1 << 30  # bytes that a job writes in a second, at most
_NAP_S = 1.0  # for jobs that write faster than that, or have a small bound
_AT_ONCE = int(socket.MSG_DONTWAIT)  # sums of enums take 20 pages of a shim's own
_TAKEN = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_BLOCK = 4096
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "9p", "afs", "autofs", "fuse"})


class Bounds:
    """The files of a shim's attempt that may hold `most` bytes each. Made by the shim, inherited by each job's process.

    Made once for all attempts: a pair of sockets costs more than all that goes through it.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.files: dict[int, int] = {}  # each with where what is still there of the job's output begins
        self.cut = False
        self._full_at = math.inf  # the first moment (seconds since boot) at which any of them may be too long
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def begin(self, most: int | None) -> None:
        """Be those of the next attempt; None: it may write what it likes."""
        self.most = most
        self.cut = False
        self._full_at = math.inf
        if most is not None:
            self._full_at = record.boot_time() + most / _FASTEST
            if self._ends is None:
                self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def entrust(self, files: Sequence[int]) -> None:
        """Let the shim look after those of these files that are plain, and of this machine. For the job's process."""
        if self._ends is None or self.most is None:
            return
        kept: dict[int, int] = {}
        for file in files:
            about = os.fstat(file)
            if _is_local(about):
                kept[file] = about.st_size
        if kept:
            rights = struct.pack(f"{len(kept)}i", *kept)
            begins = struct.pack(f"{len(kept)}q", *kept.values())
            try:
                self._ends[0].sendmsg([begins], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _AT_ONCE)
            except OSError:
                pass  # too many files are on their way: it writes without a bound

    def tend(self) -> float | None:
        """Cut what is too long. Return after how many seconds to come again; None for never."""
        if self._ends is None or self.most is None:
            return None
        now = record.boot_time()
        if now >= self._full_at:
            if not self.files:
                self._take(self._ends[1])
            held = [self._tend(file) for file in self.files]
            self._full_at = now + (self.most - max(held, default=0)) / _FASTEST
        return max(_NAP_S, self._full_at - now)

    def end(self) -> None:
        """Cut for the last time: nobody sends any of this attempt's from here on."""
        if not self.files and self._ends is not None and self.most is not None:
            if record.boot_time() >= self._full_at:
                self._take(self._ends[1])
            else:
                _drop(self._ends[1])
        for file in self.files:
            self._tend(file)
            os.close(file)
        self.files.clear()

    def close(self) -> None:
        """Take no more."""
        if self._ends is not None:
            for each in self._ends:
                each.close()
            self._ends = None

    def _take(self, end: socket.socket) -> None:
        try:
            begins, control, _, _ = end.recvmsg(16, socket.CMSG_SPACE(8), _TAKEN)
        except OSError:
            return  # not opened yet, or nothing to look after
        for _, _, data in control:
            files = struct.unpack(f"{len(data) // 4}i", data)
            self.files |= zip(files, struct.unpack(f"{len(files)}q", begins), strict=True)

    def _tend(self, file: int) -> int:
        """Cut off the head of what the job wrote to a file, where that is too long; return how much there is."""
        assert self.most is not None  # noqa: S101 - else nothing was sent
        try:
            size = os.fstat(file).st_size
        except OSError:
            return 0
        begin = self.files[file] = min(self.files[file], size)  # somebody truncates it
        if size - begin <= self.most:
            return size - begin
        end = (size - self.most // 16 * 15) // _BLOCK * _BLOCK  # a sixteenth, so as not to come for each line
        if _fallocate(file, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(begin), ctypes.c_long(end - begin)) == 0:
            self.cut = True
        self.files[file] = end  # also where its file system has no holes: nothing can be done there
        return size - end


def finding(path: str) -> str | None:
    """Return what the end of a log tells of why its job failed; None where it says nothing, or is no plain file."""
    log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        about = os.fstat(log)
        if not stat.S_ISREG(about.st_mode):
            return None
        tail = os.pread(log, _TAIL, max(0, about.st_size - _TAIL))
    finally:
        os.close(log)
    if any(words in tail for words in _OUT_OF_MEMORY):
        return "cuda out of memory"
    _, unattended, for_how_long = tail.partition(_UNATTENDED)
    said = unattended.removeprefix(b"\ngpud: ") + for_how_long.partition(b"\r\n")[0]
    return said.decode(errors="replace") or _raised(tail)


def _raised(tail: bytes) -> str | None:
    """Return the exception that a log ends on, by its name alone: what it says is its user's affair.

    What it says may have lines of its own. Of what only tells that another process failed, the first of those is told.
    """
    found, beyond, in_trace = list[str | None](), 0, False
    lines = [_of_any_rank(line.rstrip()) for line in tail.rstrip().split(b"\n")]
    for line in lines:
        if line[:1].strip() and line.endswith(b"Traceback (most recent call last):"):
            in_trace = True
        elif line[:1].strip():  # neither empty nor indented, as a stack's lines are
            beyond += 1
            if in_trace:
                found, beyond, in_trace = [*found, _exception(line)], 0, False
    last = found[-1] if found else None
    if last in _OF_OTHERS:
        return next((name for name in found if name is not None and name not in _OF_OTHERS), last)
    return _exception(lines[-1]) or (last if beyond <= _SAYS_LINES else None)


def _of_any_rank(line: bytes) -> bytes:
    """Return a line of a traceback without the `[rank3]: ` that PyTorch puts before each where there are several."""
    return line.partition(b"]: ")[2] if line.startswith(b"[rank") else line


def _exception(line: bytes) -> str | None:
    """Return the name of the exception that a line begins with."""
    name = line.partition(b":")[0].rpartition(b".")[2]
    is_one = name.endswith((b"Error", b"Exception")) and name.isalnum() and name != b"Error"
    return name[:80].decode(errors="replace") if is_one else None


def _drop(end: socket.socket) -> None:
    """Let go of what a job's process sent: without a place for them the files go with the message."""
    try:
        end.recv(1, _AT_ONCE)
    except OSError:
        pass  # it has sent nothing


def _is_local(about: os.stat_result) -> bool:
    """Tell whether this is a plain file on a disk of this machine's."""
    if not stat.S_ISREG(about.st_mode):
        return False
    if os.major(about.st_dev):  # a disk's own number; what has none (btrfs, tmpfs, networks) has a number of its mount
        return True
    number = f"{os.major(about.st_dev)}:{os.minor(about.st_dev)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            if line.split(" ", 3)[2] == number:
                return line.partition(" - ")[2].split(" ", 1)[0].partition(".")[0] not in _REMOTE
    return True  # btrfs gives its volumes numbers that no mount shows
