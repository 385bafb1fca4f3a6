"""A machine as gpud tells of it, at one moment: eight GPUs of which one is foreign and one ill, and a queue."""

import time

from gpuctl.dashboard.board import Board
from gpuctl.dashboard.frame import frame
from gpuctl.dashboard.gauges import ASCII, BLOCKS
from gpuctl.dashboard.gpus import Canvas
from gpuctl.dashboard.paint import ansi, in_ascii, plain
from gpuctl.dashboard.source import Seen
from gpuctl.dashboard.tail import Tail

NOW = 1_600_000_000.0  # 2020-09-13 12:26:40 UTC
HOUR = 3_600.0
ME = 1000


def a_job(number, state, user="ada", **more):
    """Return a job as a listing has it."""
    job = {
        "id": str(number),
        "uid": {"ada": ME, "bob": 1001}.get(user, 1002),
        "name": "train",
        "user": user,
        "tenant": user,
        "group": None,
        "key": None,
        "labels": {},
        "state": state,
        "reason": None,
        "priority": 0,
        "command": ["python", "train.py"],
        "workdir": "/home/ada/net",
        "gpus": 1,
        "gpu_memory_mib": None,
        "gpu_type": None,
        "share": False,
        "array_index": None,
        "attempt": 1,
        "retries": 0,
        "time_limit_s": None,
        "estimate_s": None,
        "submitted_at": NOW - 5 * HOUR,
        "started_at": None,
        "ended_at": None,
        "updated_at": NOW - HOUR,
        "expected_start_at": None,
        "exit_code": None,
        "signal": None,
        "allocation": [],
        "output": None,
        "queue_position": None,
    }
    return job | more


def running(number, gpus, **more):
    """Return a job that runs on these GPUs."""
    on = [{"node": "dgx", "gpu_uuids": [], "gpu_indices": list(gpus)}]
    more = {"started_at": NOW - 2 * HOUR, "gpus": len(gpus), **more}
    return a_job(number, "running", allocation=on, output=f"/home/ada/logs/{number}.1.log", **more)


def a_gpu(index, **more):
    """Return a GPU as gpud tells of it."""
    gpu = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA H100 80GB HBM3",
        "node": "dgx",
        "memory_total_mib": 81_559,
        "memory_used_mib": 60_000 + 2_000 * index,
        "memory_declared_mib": None,
        "utilization_percent": 90 + index,
        "temperature_c": 60 + 4 * index,
        "power_w": 500 + 20 * index,
        "health": "healthy",
        "health_reason": None,
        "state": "busy",
        "simulated": False,
        "parent": None,
        "mig": None,
        "jobs": [],
        "processes": [],
    }
    return gpu | more


def a_stranger(**more):
    """Return a process that gpud did not start."""
    process = {"pid": 4242, "user": "eve", "command": "/usr/bin/python3 mine.py", "memory_mib": 20_480}
    return process | {"kind": "compute", "job": None, "since": NOW - HOUR} | more


def a_machine():
    """Return what was seen of a busy evening."""
    idle = {"memory_used_mib": 4, "utilization_percent": 0, "temperature_c": 31, "power_w": 68, "state": "free"}
    unread = dict.fromkeys(("memory_used_mib", "utilization_percent", "temperature_c", "power_w"))
    ill = {"state": "unhealthy", "health_reason": "XID 79: it has fallen off the bus; reboot"}
    gpus = [
        *(a_gpu(index, jobs=["12"]) for index in range(4)),
        a_gpu(4, jobs=["13_7"]),
        a_gpu(5, state="foreign", health_reason="used by eve python3 (pid 4242)", processes=[a_stranger()]),
        a_gpu(6, **unread | ill),
        a_gpu(7, **idle),
    ]
    told = {"done": 40, "total": 100, "message": "val loss 0.31", "told": True, "remaining_s": 3 * HOUR}
    told["ends_first"] = False
    read = {"done": 7, "total": 20, "message": None, "told": False, "remaining_s": None, "ends_first": False}
    active = [
        running(12, range(4), name="pretrain-llama", time_limit_s=6 * HOUR, progress=told),
        running(
            "13_7", [4], user="bob", name="sweep", array_index=7, progress=read, command=None, time_limit_s=2.5 * HOUR
        ),
    ]
    waiting = [
        a_job(50, "held", name="数据集\x1b[2J\u202egnp", reason="held by its owner"),
        a_job(14, "queued", gpus=8, reason="waits for 8 GPUs: 1 free on dgx, of 7 that would do", priority=5),
        a_job(
            "13",
            "queued",
            user="bob",
            name="sweep",
            array="0-99%4",
            array_pending="8-99",
            command=None,
            reason="4 of its elements run, and no more may at once",
            expected_start_at=NOW + 1.5 * HOUR,
        ),
        *(
            a_job(
                15 + n,
                "queued",
                user="carol",
                name=f"eval-{n}",
                command=None,
                reason="would delay job 14",
                expected_start_at=NOW + 12 * HOUR,
                submitted_at=NOW - 600,
            )
            for n in range(30)
        ),
    ]
    ended = [
        a_job(
            11,
            "failed",
            reason="CUDA out of memory; eve's python3 was on the GPU, too",
            exit_code=1,
            started_at=NOW - 3 * HOUR,
            ended_at=NOW - 2 * HOUR,
        ),
        a_job(10, "completed", name="finetune", exit_code=0, started_at=NOW - 30 * HOUR, ended_at=NOW - 26 * HOUR),
    ]
    for place, job in enumerate(waiting[1:], 1):
        job["queue_position"] = place
    counts = {"running": 2, "queued": 32, "held": 1, "failed": 1, "completed": 1}
    status = {"jobs": counts, "paused": None, "simulated": None, "problem": None, "storage": None}
    seen = Seen(status=status, gpus=gpus, active=active, waiting=waiting, ended=ended)
    for gpu in gpus:
        for ago in range(0, 300, 2):
            for key in ("memory_used_mib", "utilization_percent", "temperature_c", "power_w"):
                value = gpu[key]
                wave = None if value is None else value * (1 - (ago + 13 * gpu["index"]) % 90 / 150)
                seen.history(gpu, key).add(wave, NOW - 300 + ago)
    return seen


def a_shown(job, **more):
    """Return what `show` says of a job."""
    facts = {"attempts": [], "events": [], "environment": None, "dependents": ["14"], "lost_gpu_s": 0.0}
    return {"job": job, **facts, **more}


def looked_at(board, number):
    """Have a board look at one job, with a log that says much."""
    rows = [*board.seen.active, *board.seen.waiting, *board.seen.ended]
    board.job = str(number)
    board.seen.answer = a_shown(next(job for job in rows if job["id"] == str(number)))
    board.seen.log = Tail(lines=tuple(f"step {n}: loss {1 / (n + 1):.3f}" for n in range(100)), mark=(1,))
    return board


def a_board(**choices):
    """Return a board that looks at the machine."""
    return Board(a_machine(), ME, **choices)


def drawn(board, columns, lines):
    """Return the lines of a frame, without colours."""
    return [plain(line, columns) for line in frame(board, Canvas(columns, NOW, BLOCKS), lines)]


def drawn_in_ascii(board, columns, lines):
    """Return them for a terminal that has nothing but ASCII."""
    return [plain(in_ascii(line), columns) for line in frame(board, Canvas(columns, NOW, ASCII), lines)]


def colored(board, columns, lines, *, color=True):
    """Return a frame as it is sent to a terminal."""
    return [ansi(line, columns, color=color) for line in frame(board, Canvas(columns, NOW, BLOCKS), lines)]


def in_utc(monkeypatch):
    """Have the clock of the screen show UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
