"""Between values and plain data: what a shim is told, and what its record says."""

from gpud.launchers.logs import jobs_directory, log_path
from gpud.launchers.protocol import LaunchOrder
from gpud.launchers.record import Record, to_json
from gpud.model.effects import Launch
from gpud.model.job import Exit, Fault
from gpud.model.spec import JobSpec
from gpud.model.units import Mib, Timestamp


def order_of(key: str, path: str, effect: Launch, order: LaunchOrder) -> tuple[bytes, bytes]:
    """Return an order as the shim reads it: a JSON header, and behind it environment and script as they came.

    `path` is the record's.
    """
    spec = order.spec

    def path_of(pattern: str | None) -> str | None:
        if pattern is None:
            return None
        return log_path(pattern, job=effect.job, name=spec.name, workdir=spec.workdir)

    script = spec.script or b""
    header = {
        "record": path,
        "offset": order.offset,
        "command": spec.command,
        "keeper": order.keeper,
        "workdir": spec.workdir,
        "mount": spec.mount,
        "output": path_of(spec.output) or order.log,
        "error": path_of(spec.error),
        "makes_log_dir": spec.output is None,
        "makes": [path_of(jobs_directory(pattern)) for pattern in (spec.output, spec.error)],
        "added": order.env,
        "environment_bytes": len(spec.environment),
        "script_bytes": None if spec.script is None else len(script),
        "script_path": f"{order.script_dir}/{key}",
        "umask": spec.umask,
        "limits": spec.limits,
        "time_limit_s": spec.terms.time_limit_s,
        "grace_s": spec.terms.grace_s,
        "memory_mib": effect.allocation.memory_mib,
        "cpus": order.cpus,
        "numa": order.numa,
        "leases": order.leases,
        "fence": None if order.fence is None else [order.fence.kind, order.fence.devices],
        "log_max": order.log_max,
        "checkpoint": _checkpoint(spec),
        "private": order.private,
        "beside": order.beside,
        "shared": [share.gpu for share in effect.allocation.shares if share.memory_mib is not None],
        "uid": order.uid,
        "gid": order.gid,
        "groups": order.groups,
    }
    return to_json(header), spec.environment + script


def _checkpoint(spec: JobSpec) -> list[object] | None:
    """Return how a job is asked to save what it has, as `Checkpoints` takes it."""
    if spec.checkpoint_signal is None:
        return None
    return [spec.checkpoint_signal, spec.checkpoint_every_s, spec.checkpoint_before_s, spec.checkpoint_to]


def exit_of(found: Record) -> Exit:
    """Return the end that a record tells of; `lost` where it tells none."""
    status = found.get("status")
    fault = found.get("fault")
    lost = found.get("lost")
    if status is None and fault is None and lost is None:
        lost = "its shim and its launcher process were killed"
    return Exit(
        at=Timestamp(found["ended"] if "ended" in found else found["at"]),
        exit_code=status if status is not None and status >= 0 and fault is None else None,
        signal=-status if status is not None and status < 0 and fault is None else None,
        fault=None if fault is None else Fault(fault[0], machine=fault[1], not_found=fault[2]),
        lost=lost,
        timed_out=found.get("timed_out", False),
        cpu_s=found.get("cpu_s"),
        max_rss_mib=None if "rss_mib" not in found else Mib(found["rss_mib"]),
        peak_mib=None if "peak_mib" not in found else Mib(found["peak_mib"]),
        leftovers=found.get("leftovers", 0),
        finding=found.get("finding"),
        containers=found.get("containers"),
        stuck=found.get("stuck", False),
    )
