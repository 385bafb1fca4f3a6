"""The record of one attempt: its lock, its identity and how it ended, in one file of 512 bytes.

`link(2)` is the lock: whoever links the file into place has claimed the attempt, for ever; everybody else finds it
there, whole. A lock that dies with its process would let a second start happen after a crash. From then on it is
overwritten in place by one writer at a time (the job's process before exec, then its shim, then whoever stands in for
a killed shim): that needs no space, so a full disk loses no exit status. The checksum tells a reader that it read
across a write. Nothing is synced: after a power loss the boot id decides, not the record.

`state` is `claimed` (it runs, or is about to), `ended` (its first process did; its status stands here), `done`
(nothing of it is left), or `tombstone` (it was kept from ever running). Claiming costs 60 us, overwriting 5.

Standard library only, for the launcher process imports it; and no more of it than needed, for a shim shares memory
until it runs something for the first time: `open` costs 100 KiB that are its own then, `json.loads` 240, `json.dumps`
320, where the scanner and the encoder inside these two cost 100 and 140, and a system call 10.
"""

import contextlib
import errno
import json
import json.encoder
import os
import time
import zlib
from collections.abc import Container
from typing import Any

SIZE = 512
CLAIMED, ENDED, DONE, TOMBSTONE = "claimed", "ended", "done", "tombstone"
LIMIT = "limit"  # of the file beside a record that says until when it may run
_SAME_S = 0.5  # a shim counts from a moment before its job claims the record
ANEW = 0  # in place of the start time of a process that had ended when its record was made anew
REFUSED, CHANGED = "refused", "changed"  # in notices only: the claim was lost; look at the record
TOMBSTONE_FILE = ".tombstone"
_NOTICE = "0_"  # the records of deliveries begin so, for whose outbox to look

# Whatever somebody put in a record's place is not waited for, and what it points to not written.
SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO)

Record = dict[str, Any]
Place = tuple[str, int | None, int | None]  # a TMPDIR, and the user and group whose it is; None: the launcher's own
_NUMBER = (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
    "state": (str,),
    "boot": (str,),
    "zygote": (list,),
    "shim": (list,),
    "pid": (int,),
    "start": (int,),
    "status": (int,),
    "fault": (list,),
    "tmp": (list,),
    "lost": (str,),
    "at": _NUMBER,
    "ended": _NUMBER,
    "offset": _NUMBER,
    "grace_s": _NUMBER,
    "limit_at": (*_NUMBER, type(None)),
}
_PARTS: dict[str, tuple[list[type], ...]] = {
    "zygote": ([int, int],),
    "shim": ([int, int],),
    "fault": ([str, bool, bool],),
    "tmp": ([str, int, int], [str, type(None), type(None)]),
}
_STARTED = {"boot", "zygote", "shim", "pid", "start", "at", "offset", "grace_s", "limit_at"}
_NEEDED: dict[object, set[str]] = {CLAIMED: _STARTED, ENDED: _STARTED, TOMBSTONE: {"boot"}}
_scan: Any = getattr(json.JSONDecoder(), "scan_once")  # noqa: B009 - typeshed knows neither this
# What JSONEncoder makes anew for each call: no check for cycles, no indent, the separators, NaN allowed.
_pieces: Any = getattr(json.encoder, "c_make_encoder")(  # noqa: B009 - nor this
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def limit_path(path: str) -> str:
    """Return where it stands until when an attempt may run, if that was changed after its start."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.limit"


def limit_of(path: str, at_start: float | None) -> float | None:
    """Return until when (seconds since boot) an attempt may run, told otherwise at its start or not; None: for ever."""
    found = read_sound(limit_path(path))
    return at_start if found is None else found["limit_at"]


def set_limit(path: str, limit_at: float | None, at_start: float | None) -> bool:
    """Keep until when an attempt may run, for its shim and whoever stands in for that; False where it knows already.

    In a file of its own: a record has one writer. Raises OSError.
    """
    place = limit_path(path)
    if read_sound(place) is None and (limit_at == at_start or abs((limit_at or 0.0) - (at_start or 0.0)) < _SAME_S):
        return False
    draft = f"{place}.{os.getpid()}"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write(file, encode({"state": LIMIT, "limit_at": limit_at}))
    finally:
        os.close(file)
    os.replace(draft, place)
    return True


def boot_id() -> str:
    """Return this boot's id, which no later boot has."""
    return _content("/proc/sys/kernel/random/boot_id").decode().strip()


def boot_time() -> float:
    """Return seconds since boot, suspended time included: the clock of every deadline."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since boot (proc_pid_stat(5), field 22); None when it is gone.

    A zombie is gone: nothing of it runs.
    """
    try:
        raw = _content(f"/proc/{pid}/stat")
    except OSError:  # ESRCH between open and read as well as ENOENT
        return None
    state = raw.rindex(b")") + 2
    return None if raw[state] in b"ZX" else int(raw[state:].split(None, 20)[19])


def _content(path: str) -> bytes:
    """Return a small file's content."""
    file = os.open(path, os.O_RDONLY | SAFELY)
    try:
        return os.read(file, 2 * SIZE)
    finally:
        os.close(file)


def encode(record: Record) -> bytes:
    """Return a record's 512 bytes. Of what it says beside the end, and of its reason, what does not fit is cut off."""
    body = to_json(record)
    excess = len(body) - (SIZE - 10)
    if excess > 0 and "docker" in record:  # its shim knows
        return encode({name: value for name, value in record.items() if name != "docker"})
    if excess > 0 and "fault" not in record:
        said = "containers" if record.get("containers") else "finding"
        return encode(record | {said: record[said][: max(0, len(record[said]) - excess)]})
    if excess > 0:
        reason, machine, not_found = record["fault"]
        # A character takes up to 12 bytes as JSON; cutting one for each byte over is always enough.
        return encode(record | {"fault": [reason[: max(0, len(reason) - excess)], machine, not_found]})
    return (b"%08x " % zlib.crc32(body) + body).ljust(SIZE - 1) + b"\n"


def decode(raw: bytes) -> Record | None:
    """Return what `encode` was given; None where the checksum does not fit, or it is no record all the same."""
    checksum, _, body = raw.rstrip().partition(b" ")
    try:
        record = from_json(body) if int(checksum, 16) == zlib.crc32(body) else None
    except (ValueError, StopIteration):
        return None
    return record if isinstance(record, dict) and _is_sound(record) else None


def _is_sound(record: Record) -> bool:
    """Tell whether everything is there that a record in this state must have, and each of its kind."""
    for key, value in record.items():  # a loop: what a generator takes would be each shim's own
        if type(value) not in _KINDS.get(key, (type(value),)):
            return False
        if key in _PARTS and [*map(type, value)] not in _PARTS[key]:
            return False
    return record.keys() >= _NEEDED.get(record.get("state"), set())


def to_json(record: Record) -> bytes:
    """Return plain values as JSON."""
    return "".join(_pieces(record, 0)).encode()


def from_json(raw: bytes) -> Record:
    """Return what `to_json` was given."""
    record: Record = _scan(raw.decode(), 0)[0]
    return record


def read(path: str) -> Record | None:
    """Return the record; None where there is none. Raises ValueError for a file that is no record."""
    for _ in range(1000):  # a reader may meet a write; it is over in microseconds
        try:
            record = decode(_content(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            break
        if record is not None:
            return record
    raise ValueError(f"{path} is damaged")


def read_sound(path: str) -> Record | None:
    """Return the record; None where there is none that can be read."""
    try:
        return read(path)
    except (OSError, ValueError):
        return None


def claim(path: str, encoded: bytes) -> int | None:
    """Make the record, whole or not at all, and return it open for writing; None when somebody else has it already."""
    directory, _, name = path.rpartition("/")
    draft = f"{directory}/.{name}.{os.getpid()}"
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, encoded)  # of 512 bytes, never a part: a block is there or is not
        os.link(draft, path)
    except FileExistsError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    finally:
        os.unlink(draft)
    return file


def write(file: int, encoded: bytes) -> None:
    """Overwrite a claimed record in place."""
    os.pwrite(file, encoded, 0)


def overwrite(path: str, record: Record) -> None:
    """Overwrite a claimed record in place, found by its path."""
    file = os.open(path, os.O_WRONLY | SAFELY)
    try:
        write(file, encode(record))
    finally:
        os.close(file)


def prepare(directory: str) -> None:
    """Make the directory fit for claims: the one tombstone is made ahead, so that a full disk stops no cancelling.

    Leftovers of a crash go, and after a reboot the tombstones that were kept. Raises OSError.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    stone = f"{directory}/{TOMBSTONE_FILE}"
    boot = boot_id()
    try:
        old = read(stone)
    except ValueError:
        old = None
    if old is not None and old["boot"] == boot:
        return
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if name.startswith(".") or _is_tombstone(path):
            try:
                os.unlink(path)
            except IsADirectoryError:  # a launcher process was killed while it rehearsed
                with contextlib.suppress(OSError):
                    os.rmdir(path)
    draft = f"{stone}.{os.getpid()}"
    with open(draft, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(encode({"state": TOMBSTONE, "boot": boot}))
    os.replace(draft, stone)


def ensure(directory: str) -> None:
    """Make the directory anew where somebody removed it, with all that was in it, while jobs are launched from here."""
    if not os.access(directory, os.F_OK):
        with contextlib.suppress(OSError):  # whoever cannot claim says why
            prepare(directory)


def clear(directory: str, kept: Container[str]) -> None:
    """Remove the records of attempts that are over, but those kept: a gpud was killed before it came to that."""
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        found = None if name.startswith((".", _NOTICE)) or name in kept else read_sound(path)
        if found is not None and found["state"] != TOMBSTONE and (found["state"] == DONE or found["boot"] != boot_id()):
            for each in (path, limit_path(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each)


def bury(path: str) -> bool:
    """Claim an attempt so that it can never run; False when it has been claimed already.

    The tombstone must stay as long as a process may come that wants to claim: until it was seen to be refused, or
    the machine's next boot.
    """
    try:
        os.link(f"{os.path.dirname(path)}/{TOMBSTONE_FILE}", path)
    except FileExistsError:
        return False
    return True


def _is_tombstone(path: str) -> bool:
    try:
        record = read(path)
    except ValueError:
        return False
    return record is not None and record["state"] == TOMBSTONE


_KILL_AT = os.environ.get("GPUD_KILL_AT")


def reached(key: str, point: str) -> None:
    """Die here if a crash test asked for it, rehearsals (no key) apart: the one hook that tests have in this code."""
    if point == _KILL_AT and key:
        os.kill(os.getpid(), 9)
