"""From a decided start to a launcher's order: paths, what the environment gains, and who the job becomes."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from gpud.core.fleet import GpuState
from gpud.core.world import World
from gpud.launchers import terminal
from gpud.launchers.environment import additions
from gpud.launchers.logs import log_path
from gpud.launchers.protocol import Fence, Launcher, LaunchOrder, Means
from gpud.model.effects import Launch
from gpud.model.gpu import Gpu, ProcessIdentity
from gpud.model.job import JobId, format_job
from gpud.model.spec import JobSpec, Terms
from gpud.model.units import Seconds
from gpud.settings.config import Config
from gpud.slurm.variables import variables
from gpud.wire.address import machine_id
from gpud.wire.codec import Message

_DELIVERY = str(Path(__file__).parent / "notices" / "delivery.py")
_PYTHON = (sys.executable, "-I", "-S")
_CLAIM = (*_PYTHON, "-c", "import signal; signal.pause()")


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run in a running job. `size` is its terminal's, None for none, and `term` what $TERM is there."""

    words: tuple[str, ...]
    size: tuple[int, int] | None = None
    term: str | None = None


def log_dir(config: Config, uid: int) -> str:
    """Return the directory of a user's default logs: in system mode each user's own."""
    return _own(config, "logs", uid)


def progress_file(log_dir: str, key: str) -> str:
    """Return the file in which an attempt tells how far it is: below its user's logs, and as theirs."""
    return f"{log_dir}/progress/{key}"


def terminal_path(log_dir: str, key: str) -> str:
    """Return the socket of an attempt's terminal, or a command's beside it: below its user's logs, and as theirs."""
    return f"{log_dir}/terminals/{key}"


def default_log(log_dir: str, job: JobId, attempt: int) -> str:
    """Return where the output of an attempt goes that named no file."""
    return f"{log_dir}/{format_job(job)}.{attempt}.log"


def _own(config: Config, what: str, uid: int) -> str:
    """Return a directory of this user's own."""
    return f"{config.state_dir}/{what}/{uid}" if config.system else f"{config.state_dir}/{what}"


@cache
def _mark(state_dir: str) -> str:
    """Return what tells this gpud from every other, on its containers: a docker may serve several."""
    return sha256(f"{machine_id()}:{state_dir}".encode(errors="surrogateescape")).hexdigest()[:12]


def kind_of_fence(config: Config, means: Means) -> str | None:
    """Return the fence that jobs get now; None for none."""
    if config.fence == "auto":
        return "devices" if config.system and config.simulate is None and means.unfenced is None else None
    return None if config.fence == "off" else config.fence


def _fence(config: Config, means: Means, gpus: Sequence[Gpu]) -> Fence | None:
    """Return the fence of a job that has these GPUs. It has none by default where their device nodes are not known."""
    kind = kind_of_fence(config, means)
    known = all(gpu.devices or gpu.simulated for gpu in gpus)
    if kind is None or (not known and config.fence == "auto"):
        return None
    return Fence(kind, tuple(dict.fromkeys(each for gpu in gpus for each in gpu.devices)) if known else None)


def _numbering(config: Config, fence: Fence | None, gpus: Sequence[Gpu], around: Iterable[GpuState]) -> str:
    """Return how CUDA is told a job's GPUs: by `index`, or by `uuid` where only names are certain.

    With a GPU gone the driver counts the rest anew; what CUDA counts where one is split differs by its version, and so
    may what it counts where Landlock keeps it from some.
    """
    split = any(each.gpu.split or not each.present for each in around)
    return "uuid" if split or (fence is not None and fence.kind == "landlock" and gpus) else config.cuda_visible_devices


def _indices(fence: Fence | None, gpus: Sequence[Gpu]) -> list[int]:
    """Return the numbers by which CUDA knows a job's GPUs: it counts, in their order, those that it can open."""
    order = sorted(gpu.index for gpu in gpus)
    return [order.index(gpu.index) if fence is not None else gpu.index for gpu in gpus]


def order_for(config: Config, world: World, effect: Launch, spec: JobSpec, offset: float, means: Means) -> LaunchOrder:
    """Return the order for an attempt that was just allocated."""
    allocation = effect.allocation
    states = [world.gpus[gpu] for gpu in allocation.gpus]
    around = [state for state in world.gpus.values() if state.node == allocation.node]
    gpus = [state.gpu for state in states]
    fence = _fence(config, means, gpus)
    uid = spec.terms.uid
    scripts = _own(config, "scripts", uid)
    if config.system:
        for what in ("logs", "scripts", "checkpoints"):
            _own_directory(_own(config, what, uid), uid, spec.gid)
    log = default_log(log_dir(config, uid), effect.job, effect.attempt)
    socket = terminal_path(log_dir(config, uid), f"{format_job(effect.job)}.{effect.attempt}")
    env = additions(
        job=format_job(effect.job),
        attempt=effect.attempt,
        node=allocation.node,
        nodes=[part.node for part in allocation.parts],
        uuids=allocation.gpus,
        indices=_indices(fence, gpus),
        by=_numbering(config, fence, gpus, around),
        share_mib=next((share.memory_mib for share in allocation.shares), None),
        script=spec.command[0] if spec.script is not None else None,
        progress_file=progress_file(log_dir(config, uid), f"{format_job(effect.job)}.{effect.attempt}"),
        checkpoint_dir=f"{_own(config, 'checkpoints', uid)}/{format_job(effect.job)}",
        of=_mark(config.state_dir),
    )
    if spec.sbatch:
        env |= _of_slurm(world, effect, spec, states, env["CUDA_VISIBLE_DEVICES"], scripts, log)
    return LaunchOrder(
        spec=replace(spec, command=_CLAIM) if spec.terms.claim else spec,
        log=log,
        offset=offset,
        env=env,
        # Simulated nodes have more CPUs than the machine that they are on.
        cpus=spec.terms.demand.cpus if config.simulate is None else 0,
        numa=tuple(sorted({state.gpu.numa for state in states if state.gpu.numa is not None})),
        keeper=() if spec.terminal is None else _keeper(socket, spec.terminal, spec.unattended_s),
        leases=tuple(state.gpu.id for state in states if not state.gpu.simulated),
        script_dir=scripts,
        fence=fence,
        log_max=None if config.log_max is None else config.log_max << 20,
        private=True,
        uid=uid if config.system else None,
        gid=spec.gid if config.system else None,
        groups=spec.groups if config.system else (),
    )


def _keeper(socket: str, size: tuple[int, int] | None, unattended_s: Seconds | None, **more: object) -> tuple[str, ...]:
    """Return the words of the program that keeps a terminal for an attempt, or pipes: see `launchers.terminal`."""
    settings = {"socket": socket, "size": size, "unattended_s": unattended_s, "term": None, "beside": None, **more}
    return (*_PYTHON, terminal.__file__, json.dumps(settings))


def order_beside(
    order: LaunchOrder, job: str, process: ProcessIdentity, command: Command, socket: str, user: Terms
) -> LaunchOrder:
    """Return the order to run a command beside the attempt of this key, which `order` would start and `process` is.

    It has the job's user, directory, limits, fence and cgroup; its keeper gives it the job's environment.
    """
    keeper = _keeper(socket, command.size, 0.0, term=command.term, beside=[process.pid, process.start])
    spec = replace(order.spec, terms=user, command=command.words, output=os.devnull)
    return _beside(replace(order, spec=spec, keeper=keeper), job)


def order_saying(order: LaunchOrder, job: JobId, attempt: int, text: str, user: Terms) -> LaunchOrder:
    """Return the order to write a line into the output of a running attempt, which `order` would start, as its user."""
    spec, output = order.spec, order.spec.output
    if output is not None:
        output = log_path(output, job=job, name=spec.name, workdir=spec.workdir).replace("%", "%%")
    spec = replace(spec, terms=user, command=("/bin/sh", "-c", 'printf "\\n%s\\n" "$1"', "sh", text), output=output)
    return _beside(replace(order, spec=spec, keeper=()), f"{format_job(job)}.{attempt}")


def _beside(order: LaunchOrder, job: str) -> LaunchOrder:
    """Return an order that takes nothing of its own, for what runs beside the attempt of this key."""
    spec = replace(order.spec, script=None, error=None, checkpoint_signal=None)
    return replace(order, spec=spec, leases=(), cpus=0, numa=(), private=False, beside=job)


def launcher_map(config: Config, launcher: Launcher, world: World) -> dict[str, object]:
    """Return what `status` says of the launcher process, and of what it does with jobs that start now."""
    means = launcher.means
    gpus = [state.gpu for state in world.gpus.values() if state.present]
    unknown = sorted(gpu.index for gpu in gpus if not (gpu.devices or gpu.simulated or gpu.split))
    return {
        "pid": launcher.pid,
        "cgroup": None if means.cgroup is None else list(means.cgroup),
        "fence": kind_of_fence(config, means),
        "fence_set": config.fence,
        "unfenced": means.unfenced,
        "nodes_unknown": unknown,
        "login_fence": config.system and config.login_fence,
        "logins": means.logins,
    }


def confined_map(launcher: Launcher, job: JobId, attempt: int) -> Message | None:
    """Return what surrounds a running attempt, as `show` says it; None where that is not known."""
    found = launcher.confinement(job, attempt)
    if found is None:
        return None
    return {"fence": found.fence, "limits": list(launcher.means.cgroup or ()) if found.cgroup else None}


def notice_log(config: Config, uid: int | None, number: int) -> str:
    """Return where a delivery prints what went wrong: beside the logs of whose notice it is."""
    return f"{log_dir(config, os.getuid() if uid is None else uid)}/notice-{number}.log"


def notice_order(config: Config, spec: JobSpec, offset: float, number: int, said: str, means: Means) -> LaunchOrder:
    """Return the order to deliver a notice, as its user, by a program of gpud's own: see `notices.delivery`.

    It may run a command of the user's, so it is fenced off from every GPU, where jobs are from others'.
    """
    uid = spec.terms.uid
    if config.system:
        _own_directory(log_dir(config, uid), uid, spec.gid)
    return LaunchOrder(
        spec=replace(spec, command=(sys.executable, "-I", _DELIVERY), environment=spec.environment or b"{}"),
        log=notice_log(config, uid, number),
        offset=offset,
        env={"GPUD_NOTICE": said, "CUDA_VISIBLE_DEVICES": ""},
        fence=_fence(config, means, ()),
        uid=uid if config.system else None,
        gid=spec.gid if config.system else None,
        groups=spec.groups if config.system else (),
    )


def _of_slurm(
    world: World, effect: Launch, spec: JobSpec, states: list[GpuState], visible: str, scripts: str, log: str
) -> dict[str, str]:
    """Return what a script with #SBATCH lines is told beside; a copy of it is kept in `scripts`."""
    output = log
    if spec.output is not None:
        output = log_path(spec.output, job=effect.job, name=spec.name, workdir=spec.workdir)
    return variables(
        spec,
        effect.job,
        attempt=effect.attempt,
        begins_at=world.active[effect.job].state.since,
        nodes=[part.node for part in effect.allocation.parts],
        indices=[state.gpu.index for state in states],
        cpus=spec.terms.demand.cpus,
        memory_mib=spec.terms.demand.memory_mib,
        visible=visible,
        output=output,
        kept=f"{scripts}/{format_job(effect.job)}.{effect.attempt}",
    )


def _own_directory(path: str, uid: int, gid: int) -> None:
    """Make a user's directory inside one of root's that others may pass through."""
    place = Path(path)
    if place.exists() and place.stat().st_uid == uid:  # else a gpud was killed before it gave it away
        return
    place.parent.mkdir(mode=0o711, exist_ok=True)
    place.parent.chmod(0o711)
    place.mkdir(mode=0o700, exist_ok=True)
    os.chown(place, uid, gid, follow_symlinks=False)
