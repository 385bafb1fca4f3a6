"""Where gpud's socket and state are, for both sides of the socket; nothing is asked of a running daemon.

A machine has at most one gpud of its own, at `SYSTEM_SOCKET`; every user may have one in a directory of state that
is this machine's alone, for a home may be shared by many. SQLite's log needs a local file system, so the state of a
user whose home is on the network lives in /var/tmp, in a directory that is checked to be theirs.

gpuctl imports this at every start: no pathlib, no platformdirs (17 ms), no dataclasses, and no TOML unless a
configuration speaks of these places.
"""

import os
import socket
from contextlib import suppress

SYSTEM_SOCKET = "/run/gpud/gpud.sock"
SYSTEM_STATE = "/var/lib/gpud"
SYSTEM_CONFIG = "/etc/gpud/config.toml"
SSH = "ssh://"  # how the address of a gpud begins that is on another machine; gpuctl reaches it there
ADDRESS_MAX = 107  # bytes of sun_path in unix(7), less the closing zero

_SYSTEM_UNITS = tuple(
    f"{folder}/systemd/system/gpud.{kind}"
    for folder in ("etc", "run", "usr/local/lib", "usr/lib", "lib")
    for kind in ("service", "socket")
)
# File systems that several machines may see at once: SQLite's write-ahead log and flock cannot be trusted there.
_NETWORK = frozenset(
    {
        "nfs",
        "nfs3",
        "nfs4",
        "cifs",
        "smb",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "auristorfs",
        "coda",
        "9p",
        "ceph",
        "lustre",
    }
    | {"gpfs", "beegfs", "panfs", "pvfs2", "orangefs", "ocfs2", "gfs", "gfs2", "glusterfs", "acfs", "wekafs", "quobyte"}
)
# Of the FUSE file systems only these are known to be a machine's own.
_LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.encfs", "fuse.gocryptfs"})


class AddressError(Exception):
    """A place that cannot be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def socket_path(explicit: str | None = None, *, system: str = SYSTEM_SOCKET) -> str:
    """Return the path of the socket to speak to.

    The first of: `explicit`, $GPUD_SOCKET, `socket` in the user's configuration, the system's socket where there is
    one, the user's own in `state_dir()`. A place that somebody named for their state comes before the system's too.
    Raises AddressError when the directory in /var/tmp that would hold it is another's.
    """
    chosen = explicit or os.environ.get("GPUD_SOCKET") or _configured("socket")
    if chosen:
        return _absolute(chosen)
    named = _named_state()
    if named is None and os.path.exists(system):
        return system
    return os.path.join(named or state_dir(), "gpud.sock")


def state_dir(explicit: str | None = None) -> str:
    """Return the directory of a user's own gpud; it may not exist yet.

    The first of: `explicit`, $GPUD_STATE_DIR, `state_dir` in the user's configuration, `gpud/<machine-id>` in the
    user's state directory, or in /var/tmp/gpud-UID where that is on the network. Raises AddressError when the latter
    is another's.
    """
    named = _absolute(explicit) if explicit else _named_state()
    if named:
        return named
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.expanduser("~/.local/state")
    own = os.path.join(home, "gpud")
    if not os.path.isabs(own) or network_type(own):
        own = private_dir()
    return os.path.join(own, machine_id())


def private_dir(folder: str = "/var/tmp") -> str:  # noqa: S108 - checked below to be nobody else's
    """Return `folder`/gpud-UID, made if it is not there.

    Raises AddressError when it is not the user's own, or open to others: what is sent to a socket in it are secrets.
    """
    path = f"{folder}/gpud-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
    except OSError as error:
        raise AddressError(f"{path}: {error.strerror}", "set GPUD_STATE_DIR to a local directory") from error
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise AddressError(
            f"{path} is not a directory of yours alone",
            "somebody else may have made it; have it removed, or set GPUD_STATE_DIR to a local directory",
        )
    return path


def machine_id() -> str:
    """Return what tells this machine from others that share a home: its machine-id, or else its name."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        word = _read(path).decode("ascii", "replace").strip()
        if len(word) == 32 and word.isalnum():
            return word
    return socket.gethostname() or "localhost"


def network_type(path: str, mountinfo: bytes | None = None) -> str | None:
    """Return the type of the network file system that a path is, or would be, on; None for a local one.

    `mountinfo` is a table of mounts as in proc(5), None for this process's.
    """
    path = os.path.realpath(path)
    if mountinfo is None:
        if os.major(_device(path)):  # a disk; everything else has a number of the kernel's own invention
            return None
        mountinfo = _read("/proc/self/mountinfo")
    kind = _mounted(path, mountinfo)
    shared = kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)
    return kind if shared else None


def _device(path: str) -> int:
    """Return the device that a path is, or would be, on; 0 where a server that has a bad day does not tell."""
    while True:
        try:
            return os.stat(path).st_dev
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
        except OSError:
            return 0


def reachable(path: str) -> str:
    """Return the address to connect to for a socket's path: a long one has a short one, written beside it."""
    if len(os.fsencode(path)) <= ADDRESS_MAX:
        return path
    return os.fsdecode(_read(address_file(path))) or path


def address_file(path: str) -> str:
    """Return the file that holds the short address of a socket whose path is too long to bind."""
    return f"{path}.address"


def stopped_file(path: str) -> str:
    """Return the file that is beside a socket once its gpud was told to stop, until one is started there again."""
    return f"{path}.stopped"


def has_system_gpud(root: str = "/") -> bool:
    """Return whether the machine has a gpud of its own, even if it does not run now: nobody starts another then."""
    return has_system_units(root) or os.path.exists(os.path.join(root, SYSTEM_CONFIG.lstrip("/")))


def has_system_units(root: str = "/") -> bool:
    """Return whether it is installed as a service; else it is one that an administrator starts, or was removed."""
    return any(os.path.exists(os.path.join(root, path.lstrip("/"))) for path in _SYSTEM_UNITS)


def user_config() -> str:
    """Return the path of the user's configuration: $GPUD_CONFIG, or config.toml in ~/.config/gpud."""
    named = os.environ.get("GPUD_CONFIG")
    if named:
        return _absolute(named)
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.config"), "gpud", "config.toml")


def _named_state() -> str | None:
    named = os.environ.get("GPUD_STATE_DIR") or _configured("state_dir")
    return _absolute(named) if named else None


def _configured(key: str) -> str | None:
    """Return a place named in the user's configuration; gpud itself complains about a wrong one."""
    text = _read(user_config())
    if key.encode() not in text:
        return None
    import tomllib  # noqa: PLC0415 - costs what the rest of this module does, and is hardly ever needed

    try:
        value = tomllib.loads(text.decode()).get(key)
    except ValueError:
        return None
    return value if isinstance(value, str) and value.startswith(("/", "~")) else None


def _mounted(path: str, mountinfo: bytes) -> str:
    """Return the file system type of the mount that holds a path, by a table as in proc(5); the last one wins."""
    best, kind = "", ""
    for line in os.fsdecode(mountinfo).splitlines():
        fields, _, tail = line.partition(" - ")
        point = _unescaped(fields.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split(" ")[0]
    return kind


def _unescaped(point: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _read(path: str) -> bytes:
    """Return a small file's content, nothing when it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
