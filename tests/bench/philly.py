"""A trace in the shape of Microsoft's Philly (Jeon et al., ATC'19): 82,000 jobs that keep 640 GPUs busy.

Most ask for one GPU and run for minutes, a few for 8 or 16 and for days: log-normal with a heavy tail. Users are few
and unequal, they submit by day and in bursts, and run the same programs again.
"""

import random

JOBS, GPUS, LOAD = 82_000, 640, 0.95
_DAY_S = 86_400.0
_SIZES = (1, 2, 4, 8, 16)
_WEIGHTS = (78, 6, 6, 8.5, 1.5)


def philly(path, *, jobs=JOBS, gpus=GPUS, load=LOAD, seed=2017):
    """Write such a trace and return its path."""
    rng = random.Random(seed)  # noqa: S311 - an example, not a secret
    users = [f"user{number}" for number in range(300)]
    activity = [1 / (1 + rank) ** 0.9 for rank in range(len(users))]
    sizes = rng.choices(_SIZES, _WEIGHTS, k=jobs)
    # Larger jobs run longer; no one for more than 60 days.
    durations = [min(60 * _DAY_S, rng.lognormvariate(6.4 + 0.2 * size.bit_length(), 2.3)) for size in sizes]
    horizon_s = sum(size * lasts for size, lasts in zip(sizes, durations, strict=True)) / (gpus * load)
    moments = sorted(_moment(rng, horizon_s) for _ in range(jobs))
    rows, burst = [], (0, "", "")
    for number, (at, size, lasts) in enumerate(zip(moments, sizes, durations, strict=True)):
        left, user, name = burst
        if not left:
            user = rng.choices(users, activity)[0]
            left, name = int(rng.paretovariate(1.2)), f"train-{rng.randrange(8)}"
        burst = left - 1, user, name
        rows.append(f"{number},{at:.0f},{lasts:.3f},{size},,,{user},vc{hash_of(user) % 14},{name},")
    header = "job_id,submit_s,duration_s,gpus,gpu_mem_gb,cpus,user,tenant,name,gpu_type"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def hash_of(user):
    """Return a number that is the same in every process."""
    return int(user.removeprefix("user")) * 2_654_435_761 >> 8


def _moment(rng, horizon_s):
    """Return a moment, three times as likely by day as by night."""
    while True:
        at = rng.random() * horizon_s
        if 0.3 < at % _DAY_S / _DAY_S < 0.8 or rng.random() < 1 / 3:
            return at
