"""From fork to exec: the process that becomes the job.

The order of steps is the promise. It claims the record first and as whom the launcher runs, so that it alone may go
on; everything after that happens as the job's user, so that no path a user chose is ever opened with more rights
than theirs; the submitter's limits come last, so that they limit the job and not its start.
"""

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gpud.launchers import cgroup, containers, environment, faults, fence, places, record
from gpud.launchers.output import Bounds

# Without the set of enums that `signal` makes of the mask before, which nobody here wants: 20 pages and 60 us.
set_mask: Any = getattr(sys.modules["_signal"], "pthread_sigmask")  # noqa: B009 - typeshed does not know it

_PRIVATE = 0o066
_SOONER = 100  # of 1,000: a tenth of the machine's memory (proc_pid_oom_score_adj(5))
Limits = dict[str, Sequence[int]]
Order = dict[str, Any]
"""What the shim is told, plain: see `local.order_of`."""


def become(order: Order, blobs: int, conversation: socket.socket, lineage: record.Record, bounds: Bounds) -> NoReturn:
    """Claim the attempt and turn into the job; never returns.

    `blobs` is the file that holds environment and script, `lineage` what the record shall say of shim and launcher,
    and `bounds` gets the logs, as they were opened.
    """
    file = None
    try:
        os.setsid()
        group = order["cgroup"] or order["joins"]
        within = group is not None and cgroup.enter(group)
        claimed = _about(order, lineage, within=within)
        encoded = record.encode(claimed)
        record.reached(order["key"], "job before claim")
        file = _claim(order, encoded, conversation)
        record.reached(order["key"], "job after claim")
        try:
            if order["uid"] is not None:  # a user's own gpud leaves its jobs what their shell has
                _dies_before_gpud()
            _fence(order, within=within)
            _exec(order, blobs, conversation, file, claimed, bounds)
        except faults.CannotStartError as error:
            _write_fault(file, claimed, error.fault)
    except BaseException as error:  # noqa: BLE001 - ours, and never to be told as the job's own exit
        sys.excepthook(type(error), error, error.__traceback__)
        if file is not None:
            _write_fault(file, claimed, (f"gpud failed to start it: {error!r}", False, False))
    finally:
        os._exit(faults.NOT_STARTED)


def rehearse(order: Order, blobs: int, conversation: socket.socket, lineage: record.Record, bounds: Bounds) -> None:
    """Do what a job's process does, up to an exec that fails, in a process that goes on. Raises OSError.

    Streams and signals are put back; umask, directory and limits are the order's from then on.
    """
    mask = set_mask(signal.SIG_BLOCK, ())
    open_before = set(os.listdir("/proc/self/fd"))
    streams = [os.dup(file) for file in range(3)]
    claimed = _about(order, lineage, within=False)
    try:
        file = record.claim(order["record"], record.encode(claimed))
        if file is not None:
            _exec(order | {"keeper": ["/"]}, blobs, conversation, file, claimed, bounds)
    except faults.CannotStartError:
        if "tmp" in claimed:
            places.removed(claimed["tmp"][0])
    finally:
        for file, stream in enumerate(streams):
            os.dup2(stream, file)
        for opened in set(os.listdir("/proc/self/fd")) - open_before:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(opened))
        bounds.end()
        set_mask(signal.SIG_SETMASK, mask)


def own_limits() -> Limits:
    """Return the limits of this process, as an order says its job's."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name.removeprefix("RLIMIT_"): [*resource.getrlimit(getattr(resource, name))] for name in names}


def tell(conversation: socket.socket, key: str, notice: record.Record) -> None:
    """Send gpud a notice, if it is there. It is a hint: the truth is the record."""
    pass_on(conversation, key, record.encode(notice))


def pass_on(conversation: socket.socket, key: str, encoded: bytes) -> None:
    """Tell gpud what was encoded already, as a record mostly.

    Waits only for a gpud that lives, does not read (it was stopped), and has hundreds of notices to read already.
    """
    try:
        conversation.send(key.encode() + b"\n" + encoded, socket.MSG_NOSIGNAL)
    except OSError:
        pass


def as_user(order: Order, *, ours: bool = False) -> None:
    """Become the job's user for good, where the launcher may; groups first, for a user may not set them.

    With `ours` it is only to do something in that user's name, outside the job's fence and cgroup. It keeps the
    launcher's real group, so that the user may not trace it, nor what program it turns into: ptrace(2), execve(2).
    """
    if order["uid"] is not None:
        gid = order["gid"]
        os.setgroups(order["groups"])
        os.setresgid(os.getgid() if ours else gid, gid, gid)
        os.setuid(order["uid"])


def _dies_before_gpud() -> None:
    """Have a machine without memory end the job sooner than gpud and its launcher; while this may still be set."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        inherited = int(file.read())
        file.seek(0)
        file.write(str(max(inherited, _SOONER)))


def _write_fault(file: int, claimed: record.Record, fault: tuple[str, bool, bool]) -> None:
    record.write(file, record.encode(claimed | {"state": record.ENDED, "fault": fault}))


def _about(order: Order, lineage: record.Record, *, within: bool) -> record.Record:
    """Return what the record says of this process when it claims it."""
    own = os.getpid()
    claimed = lineage | {
        "state": record.CLAIMED,
        "pid": own,
        "start": record.start_time(own),
        "at": record.boot_time() + order["offset"],
    }
    if within:
        claimed["within"] = True
    if order["fence"] is not None:
        claimed["fence"] = order["fence"][0]
    return claimed


def _claim(order: Order, claimed: bytes, conversation: socket.socket) -> int:
    """Return the claimed record's file. Ends the process where somebody else, or nobody, can have it."""
    key = order["key"]
    try:
        file = record.claim(order["record"], claimed)
    except OSError as error:
        fault = faults.cannot("write the attempt's record", error, machine=True).fault
        tell(conversation, key, {"state": record.DONE, "fault": fault})
        os._exit(faults.NOT_STARTED)
    if file is None:
        tell(conversation, key, {"state": record.REFUSED})
        os._exit(faults.NOT_STARTED)
    return file


def _fence(order: Order, *, within: bool) -> None:
    """See to the fence, while this process may have more rights than its user."""
    if order["joins"] is not None and not within:
        raise faults.CannotStartError("the job that it should join has ended")
    match order["fence"]:
        case [fence.DEVICES, _] if not within:
            raise faults.CannotStartError("the fence cannot be had: its cgroup cannot be entered", machine=True)
        case [fence.LANDLOCK, devices]:
            fence.landlock(devices)


def _exec(
    order: Order, blobs: int, conversation: socket.socket, file: int, claimed: record.Record, bounds: Bounds
) -> NoReturn:
    try:
        as_user(order)
    except OSError as error:
        raise faults.cannot(f"become user {order['uid']}", error, machine=True) from error
    if not order["environment_bytes"]:
        raise faults.CannotStartError("its environment is not in the backup that gpud went on from; submit it again")
    faults.check_mounted(order["workdir"], order["mount"])
    _open_streams(order, blobs, file)
    bounds.entrust([1] if order["error"] is None else [1, 2])
    try:
        os.chdir(order["workdir"])
    except OSError as error:
        raise faults.no_entry(order["workdir"], error) from error
    submitted = record.from_json(os.pread(blobs, order["environment_bytes"], order["blobs_at"]))
    kept = environment.runtime_dir(submitted)
    added = order["added"]
    if order["private"]:
        places.make(added)
        tmp = places.make_tmp(order["key"], submitted)
        if tmp is not None:
            of_slurm = ("SLURM_TMPDIR",) if "SLURM_JOB_ID" in added else ()  # many clusters' name of it
            added = added | dict.fromkeys(("TMPDIR", *of_slurm), tmp)
            claimed["tmp"] = [tmp, order["uid"], order["gid"]]
    variables = environment.compose(submitted, added, runtime_dir_exists=kept is not None and os.path.isdir(kept))
    docker = containers.socket_of(variables) if order["private"] else None
    if docker is not None:
        claimed["docker"] = docker
    encoded = record.encode(claimed)
    if "tmp" in claimed or docker is not None:
        record.write(file, encoded)
    argv = list(order["command"])
    if order["script_bytes"] is None:
        program = _find(argv[0], variables.get("PATH", os.defpath))
    else:
        program, argv = _keep_script(order, blobs)
    if order["keeper"]:
        program, argv = order["keeper"][0], [*order["keeper"], program, *argv]
    pass_on(conversation, order["key"], encoded)
    record.reached(order["key"], "job before exec")
    os.umask(order["umask"])
    _limit(order["limits"])
    set_mask(signal.SIG_SETMASK, ())
    try:
        os.execve(program, argv, variables)  # noqa: S606 - without a shell: that is the promise
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):  # a NUL byte, an "=" in a name
            raise faults.CannotStartError(f"cannot pass the command or its environment on: {error}") from error
        raise faults.no_exec(program, error) from error


def _open_streams(order: Order, *gpuds: int) -> None:
    """Open what the job reads and writes; `gpuds` are files that are not for it, nor are the streams until then."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    own = order["makes_log_dir"]  # gpud's log is its user's alone; a file that they named is made as by their shell
    makes, makes_too = order.get("makes") or (None, None)  # a gpud of before says nothing of it
    output = _open_log(order["output"], _PRIVATE if own else order["umask"], "/" if own else makes)
    error = output if order["error"] is None else _open_log(order["error"], order["umask"], makes_too)
    for log, path in ((output, None if own else order["output"]), (error, order["error"])):
        if path is not None and _is_one_of(log, (1, 2, *gpuds)):
            raise faults.CannotStartError(f"cannot open the log {path}: it is a file of gpud's, not of a job")
    os.dup2(output, 1)
    os.dup2(error, 2)


def _is_one_of(log: int, files: Sequence[int]) -> bool:
    """Tell whether a log is a plain file that one of these is as well."""
    about = os.fstat(log)
    return stat.S_ISREG(about.st_mode) and any(os.path.samestat(about, os.fstat(file)) for file in files)


def _open_log(path: str, umask: int, makes: str | None = None) -> int:
    """Open a log. `makes` is the first of its directories that is made where it is missing."""
    # O_NONBLOCK: a FIFO that nobody reads would hang the start for ever; it is taken off for the job's own writes.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
    before = os.umask(umask)
    try:
        log = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENOENT and makes is not None and os.path.isdir(os.path.dirname(makes)):
            with contextlib.suppress(OSError):  # opening the log says it better
                os.makedirs(os.path.dirname(path), mode=0o700 if makes == "/" else 0o777, exist_ok=True)
            return _open_log(path, umask)
        raise faults.no_log(path, error) from error
    finally:
        os.umask(before)
    os.set_blocking(log, True)
    return log


def _find(name: str, path: str) -> str:
    """Return the program that a shell in the working directory would run for `name`."""
    if "/" in name:
        return name
    candidates = [f"{directory or '.'}/{name}" for directory in path.split(":")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    found = next(filter(os.path.isfile, candidates), None)
    if found is not None:
        raise faults.CannotStartError(f"{found}: permission denied (is it executable?)")
    raise faults.CannotStartError(f"no such command: {name or repr(name)}", not_found=True)


def _keep_script(order: Order, blobs: int) -> tuple[str, list[str]]:
    """Write the script's kept copy; return its interpreter and the arguments, as the kernel reads a `#!` line.

    The interpreter is run with the copy's path, not the copy itself, so that a noexec mount does not matter.
    """
    path, size = order["script_path"], order["script_bytes"]
    content = os.pread(blobs, size, order["blobs_at"] + order["environment_bytes"])
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o700)
        with open(copy, "wb") as file:
            file.write(content)
    except OSError as error:
        raise faults.cannot(f"keep a copy of the script as {path}", error) from error
    line = content[2:].partition(b"\n")[0] if content.startswith(b"#!") else b""
    interpreter, *argument = [os.fsdecode(word) for word in line.strip(b" \t").split(None, 1)] or [""]
    if line.endswith(b"\r"):
        raise faults.CannotStartError("the script has Windows line ends; try: dos2unix", not_found=True)
    if not os.path.exists(interpreter):
        raise faults.CannotStartError(f"bad interpreter in the script's #! line: {interpreter!r}", not_found=True)
    return interpreter, [interpreter, *argument, path, *order["command"][1:]]


def _limit(limits: Limits) -> None:
    """Set the submitter's limits: the hard ones where that is allowed, the soft ones as far as it is."""
    for name, (soft, hard) in limits.items():
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is None:
            continue  # a limit that this machine does not know
        try:
            resource.setrlimit(which, (soft, hard))
        except (OSError, ValueError):
            most = resource.getrlimit(which)[1]
            fits = most == resource.RLIM_INFINITY or resource.RLIM_INFINITY != soft <= most
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(which, (soft if fits else most, most))
