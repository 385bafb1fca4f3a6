"""Jobs for the store's tests, in words."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

from gpud.model.changes import Added, AttemptEnded, Ended, Moved
from gpud.model.gpu import Allocation, GpuId, NodeName, ProcessIdentity, Share
from gpud.model.job import Demand, End, Exit, Running, Starting, job_id
from gpud.model.spec import ArrayState, JobSpec, Place, Terms
from gpud.model.units import Mib, Timestamp

T0 = Timestamp(1_700_000_000.0)
TERMS = Terms(
    demand=Demand(gpus=2, gpu_type="h100"),
    uid=1000,
    user="ann",
    tenant="lab",
    time_limit_s=3600.0,
    name_group="train-#",
)
ON_TWO = Allocation(node=NodeName("here"), shares=(Share(gpu=GpuId("GPU-1")), Share(gpu=GpuId("GPU-2"))), cpus=4)
SHARED = Allocation(node=NodeName("here"), shares=(Share(gpu=GpuId("GPU-1"), memory_mib=Mib(4096)),))
PROCESS, SHIM = ProcessIdentity(101, 5), ProcessIdentity(100, 4)
ENVIRONMENT = json.dumps({"HF_TOKEN": "secret-token", "HOME": "/home/ann"}).encode()


def a_spec(number=1, **changed):
    said = {
        "nonce": f"nonce-{number}",
        "terms": TERMS,
        "name": f"train-{number}",
        "command": ("python", "train.py", "--seed", str(number)),
        "workdir": "/home/ann/project",
        "environment": ENVIRONMENT,
        "gid": 1000,
        "groups": (1000, 27),
        "umask": 0o027,
        "limits": {"NOFILE": (1024, -1)},
    }
    return JobSpec(**{**said, **changed})


def added(number, at=T0, place=None, **changed):
    spec = a_spec(number, **changed)
    array = None if spec.array is None else ArrayState(pending=spec.array, throttle=spec.throttle)
    return Added(job_id(number), at, spec, place or Place(priority=spec.priority, queued_us=number), array)


def starting(job, attempt=1, at=T0, allocation=ON_TWO):
    return Moved(job, at, attempt, Starting(at, allocation, "boot-1"))


def running(job, attempt=1, at=T0, allocation=ON_TWO):
    return Moved(job, at, attempt, Running(at, allocation, "boot-1", PROCESS, SHIM))


def over(job, end=End.COMPLETED, at=T0, attempt=1, code=0):
    ended = Exit(at=at, exit_code=code, cpu_s=2.0)
    return [AttemptEnded(job, attempt, ended, None, 1000, "lab", 20.0), Ended(job, at, end, ended)]


def a_whole_life(number, at=T0, end=End.COMPLETED, **changed):
    job = job_id(number)
    return [added(number, at, **changed), starting(job, at=at), running(job, at=at), *over(job, end, at)]


def rows(path, select, *values):
    """Return what another program would see in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(select, values).fetchall()


def for_user(terms, user):
    return replace(terms, user=user, tenant=user)
