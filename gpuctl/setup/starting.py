"""Start the user's own gpud and wait until it answers.

It runs detached, in a session of its own, with its output in `gpud.log` in the state directory, and says that it is
ready the way services do (sd_notify, READY=1). Of two that are started at once one takes the state directory; the
other ends, and whoever started it waits for the winner's socket. Where the winner goes without having answered, as
one does that was just being stopped, another is started.

What a job starts ends with it, and so would a gpud: inside a job of the gpud that is to be started, the launcher
process, which stands above all its jobs, is asked to start it as it was started before.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from gpuctl.client import Client
from gpuctl.errors import GpuctlError, NotPermittedError, UnreachableError
from gpud.wire import address

_READY_WITHIN_S = 30.0
_STOPPED_WITHIN_S = 30.0
_HINT = "  hint: "  # how gpud begins what one can do about it
_LAUNCHER = b"gpud-launcher"  # as it calls itself; its last argument is STATE/records, and its children's, too
_LAUNCHER_S = (_LAUNCHER, b"gpud-shim", b"gpud-keeper")
_PLACES = ("GPUD_STATE_DIR", "GPUD_SOCKET", "GPUD_CONFIG")
# What says nothing against another try: the state directory was in use, or somebody killed the one that started.
_MAY_WORK_NOW = frozenset({os.EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM})


def is_own(path: str) -> bool:
    """Return whether a socket's path is the user's own gpud's, which gpuctl may start: never the machine's."""
    if os.path.dirname(path) != address.state_dir():
        return False
    return bool(os.environ.get("GPUD_STATE_DIR")) or not address.has_system_gpud()


def log_path(state_dir: str) -> str:
    """Return where a gpud that gpuctl started writes what it has to say."""
    return os.path.join(state_dir, "gpud.log")


def _refuse_for_caller(state: str) -> None:
    """Raise GpuctlError where root, by sudo, would begin a queue in the caller's home, and lock them out there."""
    caller, place = os.environ.get("SUDO_UID", "0"), state
    if os.getuid() != 0 or caller == "0" or os.environ.get("GPUD_STATE_DIR"):
        return
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if str(os.lstat(place).st_uid) == caller:
        hint = "leave sudo out; for a queue of root's own: sudo -H; for everybody: gpuctl daemon install --system"
        raise GpuctlError(f"by sudo, this would begin a queue of root's in user {caller}'s {place}", hint=hint)


def start_daemon(
    path: str,
    options: Sequence[str] = (),
    *,
    state: str | None = None,
    environ: Mapping[str, str] = os.environ,
    on_the_way: bool = False,
) -> int | None:
    """Start a gpud that will answer on `path`, with its log in `state` (default: the user's own), and wait for it.

    `on_the_way`: another command needs it, and what that is bound to (`taskset`, `nice`) is not meant for all later
    jobs. Return its pid, or None when another was faster. Raises UnreachableError, with its last words, when it ends.
    """
    state = state or address.state_dir()
    launcher = launcher_above(state)
    if launcher is not None:
        return _started_by(launcher, path, state)
    _refuse_for_caller(state)
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    name = f"gpuctl-{os.getpid()}-{os.urandom(8).hex()}"
    ready.bind(f"\0{name}")
    log = log_path(state)
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        output = open(log, "ab", buffering=0)  # noqa: SIM115 - closed below, whatever happens
    except OSError as error:
        raise GpuctlError(
            f"cannot start gpud: its state directory {state} is not writable: {error.strerror}",
            hint="set GPUD_STATE_DIR to a directory of yours on a local disk",
        ) from error
    deadline = time.monotonic() + _READY_WITHIN_S
    with output, ready:
        while True:
            said_before = output.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                [sys.executable, "-m", "gpud", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",  # it must not keep a file system from being unmounted
                env={**environ, **_absolute(environ), "NOTIFY_SOCKET": f"@{name}"},
                start_new_session=True,
            )
            if on_the_way:
                _unbind(process.pid)
            if _ready(process, ready, log):
                return process.pid
            if _another_answers(path, os.path.join(state, "lock"), deadline):
                return None
            if process.returncode not in _MAY_WORK_NOW or time.monotonic() >= deadline:
                raise _could_not_start(process, log, said_before)


def _unbind(pid: int) -> None:
    """Take from a gpud what `taskset` and `nice` gave it, as far as that is allowed."""
    with suppress(OSError):
        os.sched_setaffinity(pid, range(os.sysconf("SC_NPROCESSORS_CONF")))
    with suppress(OSError):  # only root may go first again
        os.setpriority(os.PRIO_PROCESS, pid, 0)


def niceness(pid: int) -> int:
    """Return how far behind others a process goes; 0 for one that has gone."""
    try:
        return os.getpriority(os.PRIO_PROCESS, pid)
    except OSError:
        return 0


def check(options: Sequence[str] = (), *, environ: Mapping[str, str] = os.environ, directory: str = "/") -> list[str]:
    """Return what a gpud would note that started with these options, in this environment, from this directory.

    Raises GpuctlError with what its configuration or its database lacks, where it could not start.
    """
    checked = subprocess.run(
        [sys.executable, "-m", "gpud", *options, "--check"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**environ, **_absolute(environ)},
        cwd=directory,
        check=False,
    )
    if checked.returncode:
        why, hints = _complaint(checked.stderr, checked.returncode)
        raise GpuctlError(why, hint="; ".join(hints) or None)
    said = checked.stderr.decode(errors="replace").splitlines()
    return [line.removeprefix("gpud: ") for line in said if line.startswith("gpud: ")]


def launcher_above(state: str) -> int | None:
    """Return the pid of the launcher process whose job this is a part of, if it is one of the gpud with this state.

    Raises UnreachableError where that is so and the launcher process has gone.
    """
    pid, inside = os.getppid(), False
    while pid > 1:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                records = os.fsdecode(file.read().rstrip(b"\0").rpartition(b"\0")[2])
            with open(f"/proc/{pid}/stat", "rb") as file:
                name, _, fields = file.read().partition(b"(")[2].rpartition(b")")
            if name in _LAUNCHER_S and os.path.samefile(os.path.dirname(records), state):
                inside = True
                if name == _LAUNCHER:
                    return pid
        except OSError:  # it ended, or is hidden
            break
        pid = int(fields.split()[1])
    if inside:
        raise UnreachableError(
            "gpud does not run, and one that a job starts would end with it", hint="outside of it: gpuctl daemon start"
        )
    return None


def _started_by(launcher: int, path: str, state: str) -> int:
    """Have gpud started by its launcher process; return its pid. Raises UnreachableError."""
    deadline = time.monotonic() + _READY_WITHIN_S
    os.kill(launcher, signal.SIGUSR1)
    while time.monotonic() < deadline:
        try:
            with Client(path) as client:
                return int(client.request("status")["pid"])
        except UnreachableError:
            time.sleep(0.05)
    raise UnreachableError(f"gpud is not ready after {_READY_WITHIN_S:.0f} s", hint=f"look into {log_path(state)}")


def _absolute(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the places that are named in an environment, as they are called from everywhere."""
    named = {key: environ[key] for key in _PLACES if environ.get(key)}
    return {key: os.path.abspath(os.path.expanduser(path)) for key, path in named.items()}


def _ready(process: subprocess.Popen[bytes], ready: socket.socket, log: str) -> bool:
    """Return True once gpud says that it is ready, False when it ended instead. Raises UnreachableError."""
    ended = os.pidfd_open(process.pid)
    deadline = time.monotonic() + _READY_WITHIN_S
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(ready, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            found = [fd for fd, _ in poll.poll(left_s * 1000)]
            if ready.fileno() in found:
                if b"READY=1" in ready.recv(4096).split(b"\n"):
                    process.returncode = 0  # it lives on; this object is not to wait for it
                    return True
            elif ended in found:
                process.wait()
                return False
    finally:
        os.close(ended)
    raise UnreachableError(
        f"gpud (pid {process.pid}) was started and is not ready after {_READY_WITHIN_S:.0f} s",
        hint=f"look into {log}",
    )


def _another_answers(path: str, lock: str, deadline: float) -> bool:
    """Return True when somebody else's gpud answers, False when there is none, or none that does until the deadline.

    Raises UnreachableError at once where the one that has the state directory listens on another socket.
    """
    while True:
        held = _is_locked(lock)  # looked at first: who let go may answer by now
        if _answers(path):
            return True
        elsewhere = _socket_of(lock) if held else None
        if elsewhere not in (None, path) and _answers(elsewhere):
            hint = f"to speak to it: gpuctl --socket {elsewhere}; to have another: set GPUD_STATE_DIR as well"
            raise UnreachableError(f"your gpud runs already, on another socket: {elsewhere}", hint=hint)
        if not held or time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def _answers(path: str | None) -> bool:
    try:
        Client(path).close()
    except UnreachableError:
        return False
    return True


def _socket_of(lock: str) -> str | None:
    """Return where the gpud that holds a lock listens: it wrote that into the lock."""
    try:
        with open(lock, errors="surrogateescape") as file:
            return file.read().splitlines()[1]
    except (OSError, IndexError):
        return None


def _could_not_start(process: subprocess.Popen[bytes], log: str, said_before: int) -> UnreachableError:
    """Return the error that tells what a gpud said before it ended."""
    with open(log, "rb") as file:
        file.seek(said_before)
        why, hints = _complaint(file.read(), process.returncode)
    return UnreachableError(f"gpud could not start: {why}", hint="; ".join([*hints, f"all it said is in {log}"]))


def _complaint(output: bytes, status: int) -> tuple[str, list[str]]:
    """Return why a gpud ended, in its own words, and its hints."""
    said = output[-4096:].decode(errors="replace").strip().splitlines()
    words = [line for line in said if line.startswith("gpud: ")] or said[-1:] or [f"it ended with status {status}"]
    return words[0].removeprefix("gpud: "), [line.removeprefix(_HINT) for line in said if line.startswith(_HINT)]


def _is_locked(path: str) -> bool:
    """Return whether somebody holds a lock on a file, by proc_locks(5): to try it could take it from who wants it."""
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            return any(line.split()[5].endswith(f":{inode}") for line in file if len(line.split()) > 5)
    except OSError:
        return False


def process_of(client: Client, status: Mapping[str, Any]) -> int:
    """Return the pid of the gpud that answers. Raises GpuctlError where that is another process's here."""
    pid, parent = int(status["pid"]), 0
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        parent = int(file.read().rpartition(b")")[2].split()[1])
    if client.listener() not in (pid, parent):  # a service's socket is that of systemd, which started it
        raise GpuctlError("this gpud runs in a container, or elsewhere", hint="only from there can it be told to")
    return pid


def stop_daemon(pid: int) -> None:
    """End a gpud and wait until it is gone; jobs run on. Raises GpuctlError where that may not be, or does not work."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not gone(process, _STOPPED_WITHIN_S):
            raise GpuctlError(f"gpud (pid {pid}) does not stop", hint="see: gpuctl daemon logs")
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise NotPermittedError(f"gpud (pid {pid}) is another user's") from error
    finally:
        os.close(process)


def gone(process: int, within_s: float) -> bool:
    """Return whether the process of a pidfd has ended, waiting for it."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
