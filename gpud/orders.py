"""From a decided start to a launcher's order: paths, what the environment gains, and who the job becomes."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from gpud.config import Config
from gpud.core.fleet import GpuState
from gpud.core.world import World
from gpud.launchers.environment import additions
from gpud.launchers.logs import log_path
from gpud.launchers.protocol import LaunchOrder
from gpud.model.effects import Launch
from gpud.model.job import format_job
from gpud.model.spec import JobSpec
from gpud.slurm.variables import variables
from gpud.views import default_log

_DELIVERY = str(Path(__file__).with_name("delivery.py"))


def log_dir(config: Config, uid: int) -> str:
    """Return the directory of a user's default logs: in system mode each user's own."""
    return f"{config.state_dir}/logs/{uid}" if config.system else f"{config.state_dir}/logs"


def order_for(config: Config, world: World, effect: Launch, spec: JobSpec, offset: float) -> LaunchOrder:
    """Return the order for an attempt that was just allocated."""
    allocation = effect.allocation
    states = [world.gpus[gpu] for gpu in allocation.gpus]
    around = [state for state in world.gpus.values() if state.node == allocation.node]
    uid = spec.terms.uid
    scripts = f"{config.state_dir}/scripts"
    if config.system:
        scripts = f"{scripts}/{uid}"
        for directory in (log_dir(config, uid), scripts):
            _own_directory(directory, uid, spec.gid)
    log = default_log(log_dir(config, uid), effect.job, effect.attempt)
    return LaunchOrder(
        spec=spec,
        log=log,
        offset=offset,
        env=additions(
            job=format_job(effect.job),
            attempt=effect.attempt,
            node=allocation.node,
            nodes=[part.node for part in allocation.parts],
            uuids=allocation.gpus,
            indices=[state.gpu.index for state in states],
            # With a GPU gone the driver counts the rest anew, and what CUDA counts where one is split differs by its
            # version: only names are certain then.
            by="uuid" if any(each.gpu.split or not each.present for each in around) else config.cuda_visible_devices,
            share_mib=next((share.memory_mib for share in allocation.shares), None),
            script=spec.command[0] if spec.script is not None else None,
        )
        | (_of_slurm(effect, spec, states, scripts, log) if spec.sbatch else {}),
        # Simulated nodes have more CPUs than the machine that they are on.
        cpus=spec.terms.demand.cpus if config.simulate is None else 0,
        numa=tuple(sorted({state.gpu.numa for state in states if state.gpu.numa is not None})),
        leases=tuple(state.gpu.id for state in states if not state.gpu.simulated),
        script_dir=scripts,
        uid=uid if config.system else None,
        gid=spec.gid if config.system else None,
        groups=spec.groups if config.system else (),
    )


def notice_log(config: Config, uid: int | None, number: int) -> str:
    """Return where a delivery prints what went wrong: beside the logs of whose notice it is."""
    return f"{log_dir(config, os.getuid() if uid is None else uid)}/notice-{number}.log"


def notice_order(config: Config, spec: JobSpec, offset: float, number: int, said: str) -> LaunchOrder:
    """Return the order to deliver a notice, as its user, by a program of gpud's own: see `delivery`."""
    uid = spec.terms.uid
    if config.system:
        _own_directory(log_dir(config, uid), uid, spec.gid)
    return LaunchOrder(
        spec=replace(spec, command=(sys.executable, "-I", _DELIVERY)),
        log=notice_log(config, uid, number),
        offset=offset,
        env={"GPUD_NOTICE": said, "CUDA_VISIBLE_DEVICES": ""},
        uid=uid if config.system else None,
        gid=spec.gid if config.system else None,
        groups=spec.groups if config.system else (),
    )


def _of_slurm(effect: Launch, spec: JobSpec, states: list[GpuState], scripts: str, log: str) -> dict[str, str]:
    """Return what a script with #SBATCH lines is told beside; a copy of it is kept in `scripts`."""
    output = log
    if spec.output is not None:
        output = log_path(spec.output, job=effect.job, name=spec.name, workdir=spec.workdir)
    return variables(
        spec,
        effect.job,
        attempt=effect.attempt,
        nodes=[part.node for part in effect.allocation.parts],
        indices=[state.gpu.index for state in states],
        cpus=spec.terms.demand.cpus,
        memory_mib=spec.terms.demand.memory_mib,
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
    os.chown(place, uid, gid)
