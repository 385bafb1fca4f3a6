"""SLURM_* variables of a job whose script has `#SBATCH` lines; what the script itself asked for came with its submit.

SLURM_NTASKS, SLURM_PROCID and SLURM_LOCALID are not among them: programs take these for a sign that `srun` started
them together with others, and wait for those. `srun` sets them for what it starts.
"""

import os
import re
import sys
from collections.abc import Sequence

from gpud.model.array import IndexSet
from gpud.model.job import JobId, index_of, number_of
from gpud.model.spec import JobSpec

BIN = f"{os.path.dirname(os.path.abspath(__file__))}/bin"  # as text, for PATH
_LOGIN = re.compile(rb"#!.*\s-(?:\w*l|-login)")
_PROFILE = re.compile(rb"^\s*(?:source|\.)\s+/etc/profile\s", re.MULTILINE)
_PROGRAMS = ("srun", "scontrol", "sbatch", "scancel", "squeue", "sacct")


def variables(
    spec: JobSpec,
    job: JobId,
    *,
    attempt: int,
    begins_at: float,
    nodes: Sequence[str],
    indices: Sequence[int],
    cpus: int,
    memory_mib: int,
    visible: str,
    output: str,
    kept: str,
) -> dict[str, str]:
    """Return what is told of Slurm. `nodes` are the job's, `indices` its GPUs and `cpus` its CPUs on the first one.

    `visible` is how CUDA is told these GPUs: `srun` goes by it, whatever the script has said since. `kept` is the path
    of the script's copy, which steps of one job lock parts of; PATH is what goes before the submitter's.
    """
    number, count = str(number_of(job) if index_of(job) is None else int(job)), str(len(nodes))
    each = str(cpus or os.cpu_count() or 1)
    told = {
        "PATH": BIN,
        "GPUD_STEP_BIN": BIN,
        "GPUD_STEP_PYTHON": sys.executable,
        "GPUD_STEP_LOCKS": kept,
        "GPUD_STEP_OUTPUT": output,
        "GPUD_STEP_GPUS": visible,
        "SLURM_JOB_ID": number,
        "SLURM_JOBID": number,
        "SLURM_JOB_NAME": spec.name,
        "SLURM_JOB_USER": spec.terms.user,
        "SLURM_JOB_UID": str(spec.terms.uid),
        "SLURM_JOB_GID": str(spec.gid),
        "SLURM_JOB_NODELIST": ",".join(nodes),
        "SLURM_NODELIST": ",".join(nodes),
        "SLURM_JOB_NUM_NODES": count,
        "SLURM_NNODES": count,
        "SLURM_NODEID": "0",
        "SLURMD_NODENAME": nodes[0],
        "SLURM_CLUSTER_NAME": "gpud",
        "SLURM_CPUS_ON_NODE": each,
        "SLURM_JOB_CPUS_PER_NODE": each if len(nodes) == 1 else f"{each}(x{count})",
        "SLURM_JOB_START_TIME": str(int(begins_at)),
    }
    if spec.terms.time_limit_s is not None:
        told["SLURM_JOB_END_TIME"] = str(int(begins_at + spec.terms.time_limit_s))
    if indices:
        told |= {"SLURM_JOB_GPUS": ",".join(map(str, indices)), "SLURM_GPUS": str(len(indices) * len(nodes))}
        told["SLURM_GPUS_ON_NODE"] = str(len(indices))
    if memory_mib:
        told["SLURM_MEM_PER_NODE"] = str(memory_mib)
    if attempt > 1:
        told["SLURM_RESTART_COUNT"] = str(attempt - 1)
    if spec.checkpoint_signal is not None and spec.checkpoint_to == "steps":
        told["GPUD_STEP_SIGNAL"] = str(spec.checkpoint_signal)
    return told | _of_profile(spec.script or b"") | _of_array(job, spec.array)


def _of_profile(script: bytes) -> dict[str, str]:
    """Return how a shell that reads the machine's profile, which sets PATH anew, finds the programs all the same."""
    login = _LOGIN.match(script)
    if not login and not _PROFILE.search(script):
        return {}
    told = {"BASH_ENV": f"{os.path.dirname(BIN)}/login.sh"} if login else {}
    return told | {f"BASH_FUNC_{name}%%": f'() {{ {BIN}/{name} "$@"; }}' for name in _PROGRAMS}


def _of_array(job: JobId, array: IndexSet | None) -> dict[str, str]:
    index = index_of(job)
    if index is None:
        return {}
    told = {"SLURM_ARRAY_JOB_ID": str(number_of(job)), "SLURM_ARRAY_TASK_ID": str(index)}
    if array is not None:
        last = array.ranges[-1]
        told |= {
            "SLURM_ARRAY_TASK_COUNT": str(len(array)),
            "SLURM_ARRAY_TASK_MIN": str(array.first),
            "SLURM_ARRAY_TASK_MAX": str(last[-1]),
            "SLURM_ARRAY_TASK_STEP": str(last.step if len(array.ranges) == 1 else 1),
        }
    return told
