"""Attempts that no database knows any more, as where an older copy of it was put in its place: who they are.

What a record does not say of one that runs stands in /proc: whose it is, what it runs and where, and which GPUs it was
told to have. A process may change what is told of its own variables, so a GPU counts only where no other attempt holds
its lease; which leases a shim has only the kernel says.
"""

import os
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpud.launchers import record
from gpud.launchers.leases import holder_of
from gpud.launchers.record import Record
from gpud.model.gpu import GpuId, NodeName, Share
from gpud.model.job import JobId, job_id
from gpud.model.units import Mib, Seconds, Timestamp

_KEY = re.compile(r"(\d{1,11})(?:_(\d{1,8}))?\.(\d{1,9})")
_MEMORY = re.compile(r"[1-9][0-9]{0,8}")
_MOST = 1 << 23  # bytes of what a process says of itself: more than the kernel lets anybody start with


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What is known of an attempt that runs by its first process. `output` None: where gpud puts it, or nowhere."""

    uid: int
    gid: int
    command: tuple[str, ...]
    workdir: str
    output: str | None
    node: NodeName | None
    shares: tuple[Share, ...]
    grace_s: Seconds
    time_limit_s: Seconds | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """An attempt that has left a record: it runs, or has ended where nobody heard of it (`process` None)."""

    job: JobId
    attempt: int
    boot: str
    since: Timestamp
    process: Process | None


def survivors(records: str, known: Container[tuple[JobId, int]], gpus: Iterable[GpuId]) -> Iterator[Survivor]:
    """Yield the attempts with a record that are not `known`, but those that never ran. `gpus` are those ever seen."""
    with suppress(OSError):
        for name in sorted(os.listdir(records)):
            key = _KEY.fullmatch(name)
            if key is None or not int(key[1]):  # a notice's, a command's
                continue
            job, attempt = job_id(int(key[1]), None if key[2] is None else int(key[2])), int(key[3])
            found = None if (job, attempt) in known else record.read_sound(f"{records}/{name}")
            if found is None or found["state"] == record.TOMBSTONE or found.get("fault", [None, False])[1]:
                continue
            since = Timestamp(found["at"] if "at" in found else found.get("ended", 0.0))
            process = _process(f"{records}/{name}", found, gpus)
            boot = found.get("boot", "")
            yield Survivor(job=job, attempt=attempt, boot=boot, since=since, process=process)


def _process(path: str, found: Record, gpus: Iterable[GpuId]) -> Process | None:
    if found["state"] != record.CLAIMED or found["boot"] != record.boot_id():
        return None
    pid = found["pid"]
    if record.start_time(pid) != found["start"]:
        return None
    told = dict(word.split("=", 1) for word in _words(pid, "environ") if "=" in word)
    limit_at = record.limit_of(path, found["limit_at"])
    began = found["at"] - found["offset"]
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:  # it has just ended
        return None
    uid, gid = (int(status[what].split()[0]) for what in ("Uid", "Gid"))
    if "tmp" in found:  # whose it was at its start, before sudo
        _, uid, gid = found["tmp"] if found["tmp"][1] is not None else (None, os.getuid(), os.getgid())
    output = _link(pid, "fd/1")
    return Process(
        uid=uid,
        gid=gid,
        command=tuple(_words(pid, "cmdline")) or (status["Name"].strip(),),
        workdir=_link(pid, "cwd") or "/",
        output=output if output is not None and not output.endswith(" (deleted)") else None,
        node=NodeName(told["GPUD_NODE"]) if told.get("GPUD_NODE") else None,
        shares=_shares(found["shim"][0], told, gpus),
        grace_s=found["grace_s"],
        time_limit_s=None if limit_at is None else float(max(1, round(limit_at - began))),
    )


def _shares(shim: int, told: dict[str, str], gpus: Iterable[GpuId]) -> tuple[Share, ...]:
    """Return what it has of GPUs: those whose lease its shim has, and those that it says and nobody else has whole."""
    memory = _MEMORY.match(told.get("GPUD_GPU_MEMORY_MIB", ""))
    memory_mib = Mib(int(memory[0])) if memory is not None else None
    says = [GpuId(gpu) for gpu in told.get("GPUD_GPU_UUIDS", "").split(",") if gpu]
    others = (None, shim) if memory_mib is None else None
    has = [gpu for gpu in says if others is None or holder_of(gpu) in others]
    has += [gpu for gpu in gpus if gpu not in has and holder_of(gpu) == shim]
    return tuple(Share(gpu=gpu, memory_mib=memory_mib) for gpu in dict.fromkeys(has))


def _link(pid: int, what: str) -> str | None:
    """Return the path that one of a process's files is; None for what has none, and where it may not be seen."""
    with suppress(OSError):
        path = os.readlink(f"/proc/{pid}/{what}")
        return path if path.startswith("/") else None
    return None


def _words(pid: int, what: str) -> list[str]:
    """Return what stands in one of a process's files, which ends each with a zero byte."""
    with suppress(OSError), open(f"/proc/{pid}/{what}", "rb") as file:
        raw = file.read(_MOST)
        return [os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0")] if raw else []
    return []
