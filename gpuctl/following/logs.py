"""A log, read by whoever may read it: gpud is not asked, and never opens a path that a user chose.

What is new is waited for by inotify(7); on a network file system, whose other machines inotify does not see, the
size is looked at four times a second.
"""

import contextlib
import ctypes
import errno
import os
import select
import stat
from collections.abc import Iterable, Iterator

from gpuctl.errors import GpuctlError, ReaderLeftError
from gpuctl.session import note
from gpud.wire import address

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100  # inotify(7), linux/inotify.h
_IN_CLOEXEC, _IN_NONBLOCK = 0x80000, 0x800
_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.25
_NO_GROUP = 65534  # of users without a name


class LogError(GpuctlError):
    """A log may not be read."""


class Log:
    """A file that grows, and may not be there yet; or that must not be read (a FIFO, a device).

    `skip` is how many bytes of it are older than what is to be read, `owner` the uid whose job it is: root reads what
    that user could.
    """

    def __init__(self, path: str, skip: int = 0, *, owner: int | None = None) -> None:
        self.path = path
        self._skip = skip
        self._owner = owner
        self._file: int | None = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def there(self) -> bool:
        """Return whether the file is there, and one that may be read."""
        return self._opened() is not None

    def start_at_last(self, lines: int) -> None:
        """Skip all but the last lines."""
        file = self._opened()
        if file is not None:
            os.lseek(file, _offset_of_last(file, lines), os.SEEK_SET)

    def read(self) -> Iterator[bytes]:
        """Yield what was written since the last call, in pieces; nothing while there is no file.

        Of a file that was truncated that is what it holds now. Raises LogError where the file may not be read.
        """
        file = self._opened()
        if file is not None and os.fstat(file).st_size < os.lseek(file, 0, os.SEEK_CUR):
            note(f"{self.path} was truncated")
            os.lseek(file, 0, os.SEEK_SET)
        while file is not None and (data := self._piece(file)):
            yield data

    def lines(self) -> list[str]:
        """Return what was written since the last call, line by line."""
        return b"".join(self.read()).decode(errors="backslashreplace").splitlines()

    def _piece(self, file: int) -> bytes:
        try:
            self._skip_hole(file)
            return os.read(file, _CHUNK)
        except OSError as error:
            raise self._unreadable(error) from error

    def _skip_hole(self, file: int) -> None:
        """Go on behind what was cut out of the file: gpud does so with a log that grows too long."""
        at = os.lseek(file, 0, os.SEEK_CUR)
        try:
            data = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # there is none from here on, or the file system does not tell
            os.lseek(file, at, os.SEEK_SET)
            return
        if data - at >> 20:
            note(f"{self.path}: {(data - at) >> 20} MiB are missing here; of a long log gpud keeps the end (log_max)")

    def _unreadable(self, error: OSError) -> LogError:
        return LogError(f"cannot read {self.path}: {error.strerror}")

    def _opened(self) -> int | None:
        if self._file is None:
            try:
                with being(self._owner):
                    file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._unreadable(error) from error
            if not stat.S_ISREG(os.fstat(file).st_mode):  # to read a FIFO would take it from its reader
                os.close(file)
                return None
            os.lseek(file, min(self._skip, os.fstat(file).st_size), os.SEEK_SET)
            self._file = file
        return self._file


class Changes:
    """Wakes up when one of some files grew, or came to be, or when a descriptor of `also` is readable.

    What was written before this was made, or before `wait` returned, is to be read then. `reader`: a descriptor
    whose reader is waited with, while there is nothing to write to them.
    """

    def __init__(self, paths: Iterable[str], also: Iterable[int] = (), reader: int | None = None) -> None:
        self._poll = select.poll()
        self._also = frozenset(also)
        for descriptor in self._also:
            self._poll.register(descriptor, select.POLLIN)
        self._reader = reader
        if reader is not None:
            self._poll.register(reader, 0)  # which tells of an end all the same: poll(2)
        self._unwatched = set(paths)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify: int = self._libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if self._inotify >= 0:
            self._poll.register(self._inotify, select.POLLIN)
        self._sure = self._watch()

    def wait(self, within_s: float | None = None) -> frozenset[int]:
        """Wait for the next change, for ever or so long; return those of `also` that are readable.

        Raises ReaderLeftError.
        """
        least = [each for each in (within_s, None if self._sure else _LOOK_EVERY_S) if each is not None]
        ready = {fd for fd, _ in self._poll.poll(min(least) * 1000 if least else None)}
        if self._reader in ready:
            raise ReaderLeftError(os.strerror(errno.EPIPE))
        if self._inotify in ready:
            os.read(self._inotify, _CHUNK)
        self._sure = self._watch()
        return self._also & ready

    def close(self) -> None:
        """Give the watches back."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def _watch(self) -> bool:
        """Watch what is not watched yet; return whether every change will be told."""
        sure = True
        for path in list(self._unwatched):
            folder = os.path.dirname(path)
            if address.network_type(folder):
                sure = False
                continue
            waits = self._told_of(folder, _IN_CREATE | _IN_MOVED_TO)  # first, or a file made meanwhile goes unseen
            if self._told_of(path, _IN_MODIFY):
                self._unwatched.discard(path)
            else:
                sure = sure and waits
        return sure

    def _told_of(self, path: str, mask: int) -> bool:
        if self._inotify < 0:
            return False
        watch: int = self._libc.inotify_add_watch(self._inotify, os.fsencode(path), ctypes.c_uint32(mask))
        return watch >= 0


@contextlib.contextmanager
def being(owner: int | None) -> Iterator[None]:
    """Be that user meanwhile, where we are root: a path that somebody chose leads root no further than them."""
    if os.geteuid() or not owner:
        yield
        return
    import pwd  # noqa: PLC0415 - for root alone

    before = os.getegid(), os.getgroups()
    try:
        known = pwd.getpwuid(owner)
        group, groups = known.pw_gid, os.getgrouplist(known.pw_name, known.pw_gid)
    except KeyError:
        group, groups = _NO_GROUP, []
    try:
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(owner)
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[0])
        os.setgroups(before[1])


def _offset_of_last(file: int, lines: int) -> int:
    """Return where the last lines of a file begin, reading from its end."""
    end = os.lseek(file, 0, os.SEEK_END)
    if lines <= 0:
        return end
    at, found = end, 0
    while at > 0:
        size = min(_CHUNK, at)
        at -= size
        data = os.pread(file, size, at)
        cut = len(data) - 1 if at + size == end else len(data)  # the last line's own end ends no other
        while (cut := data.rfind(b"\n", 0, cut)) >= 0:
            found += 1
            if found == lines:
                return at + cut + 1
    return 0
