"""How a job is asked for: a page of the protocol, whose first, `messages`, says how anything is asked."""

from typing import Literal, NotRequired, TypedDict


class DemandParts(TypedDict):
    """What a job may need beside a number of GPUs; left out means none asked: see `DemandMap`."""

    nodes: NotRequired[int]
    share_mib: NotRequired[int]
    share_permille: NotRequired[int]
    mig: NotRequired[str]
    gpu_memory_mib: NotRequired[int]
    gpu_type: NotRequired[str]
    gpu_ids: NotRequired[list[str]]
    cpus: NotRequired[int]
    memory_mib: NotRequired[int]
    node_labels: NotRequired[dict[str, str]]
    excluded_nodes: NotRequired[list[str]]
    excluded_gpus: NotRequired[list[str]]
    pool: NotRequired[str]
    spread: NotRequired[bool]


class DemandMap(DemandParts):
    """What a job needs; left out means none asked.

    `gpus` are counted in total, over all `nodes`: whole ones, shares of `share_mib` of each one's memory or of
    `share_permille` thousandths of it, or MIG instances of the profile `mig`. `cpus` and `memory_mib` are each node's.
    GPUs are named as in `drain`; `excluded_...` are what it must not get.
    """

    gpus: int


class Wanted(TypedDict):
    """What one job is to be, of one or of many.

    `retry_on` names the failures that use up `retries`: `failure`, `oom`, `lost`, `exit:75`; none: any. `after` are
    jobs that must end first, as in a `Selection`, by how they must end: `success`, `any` or `failed`; `singleton`, of
    none, means all of one's own of the same name that have not ended. A `key` is the job's in its `group`: where one
    that waits, runs or has completed has it, that one is told instead; of an array that failed only what has not
    completed runs again.
    `checkpoint_before_s` is how long before the time limit the checkpoint signal comes; it goes to `all` processes of
    the job, to its first one (`script`), or to what `srun` started. A `claim` has an empty `command`, and
    ends when its user's processes did not use its GPUs for `idle_after_s`. `terminal` is rows and columns of the one
    that it gets, which nobody may leave alone for `unattended_s`. `notify` holds pairs of an event and a target, as on
    the command line; `sbatch`: it is told SLURM_* variables too. `mount` is where the file system of `workdir` was
    mounted, behind the number of the mount namespace: `4026531841 /data`.
    """

    demand: DemandMap
    command: list[str]
    workdir: str
    name: NotRequired[str]
    priority: NotRequired[int]
    time_limit_s: NotRequired[float]
    estimate_s: NotRequired[float]
    grace_s: NotRequired[float]
    preemptible: NotRequired[bool]
    retries: NotRequired[int]
    retry_on: NotRequired[list[str]]
    array: NotRequired[str]
    after: NotRequired[dict[str, list[str]]]
    begin_at: NotRequired[float]
    hold: NotRequired[bool]
    labels: NotRequired[dict[str, str]]
    output: NotRequired[str]
    error: NotRequired[str]
    tenant: NotRequired[str]
    group: NotRequired[str]
    key: NotRequired[str]
    checkpoint_signal: NotRequired[int]
    checkpoint_every_s: NotRequired[float]
    checkpoint_before_s: NotRequired[float]
    checkpoint_to: NotRequired[Literal["all", "script", "steps"]]
    claim: NotRequired[bool]
    idle_after_s: NotRequired[float]
    terminal: NotRequired[list[int]]
    unattended_s: NotRequired[float]
    notify: NotRequired[list[list[str]]]
    commit: NotRequired[str]
    dirty: NotRequired[bool]
    sbatch: NotRequired[bool]
    mount: NotRequired[str]


class Submit(Wanted):
    """Queue a job, or an array. Reply: `SubmitReply`.

    `nonce` makes the request safe to send again: a user's own, of 8 to 64 characters; `retry` is True when it may have
    arrived before.
    `script` is the content of a script, `command` then its path and arguments. `limits` are the submitter's soft and
    hard limits by name ("NOFILE": [1024, 4096]; -1: none). `next` asks for `position` and `reason` in the reply.
    """

    op: Literal["submit"]
    id: int
    nonce: str
    environment: dict[str, str]
    umask: int
    limits: dict[str, list[int]]
    script: NotRequired[bytes]
    retry: NotRequired[bool]
    dry_run: NotRequired[bool]
    next: NotRequired[bool]


class SubmitReply(TypedDict):
    """The durable id, None on a dry run. `position` counts from 1 (None: not in a line); `reason` says why it waits.

    `there`: nothing was queued, for this job has the key, and this is its state. `done`: elements of the array that
    have completed under its key before, and do not run again.
    """

    job: str | None
    there: NotRequired[str]
    done: NotRequired[str]
    position: NotRequired[int | None]
    reason: NotRequired[str | None]


class OneOfMany(Wanted):
    """One job of many. `variables` are its own beside those of all; `script` counts in the part's `scripts`, from 0.

    `where` it was written (`jobs.txt:3`): what is wrong with it says so.
    """

    variables: NotRequired[dict[str, str]]
    script: NotRequired[int]
    where: NotRequired[str]


class SubmitMany(TypedDict):
    """Queue many jobs in one commit, or none of them. Reply: `SubmitManyReply`.

    They may come in parts, counted from 0, each with `more` but for the last, all with one `nonce` of at most 50
    characters; a client that lost its connection sends all of them again, with `retry`. The rest is as in `Submit`.
    """

    op: Literal["submit_many"]
    id: int
    nonce: str
    jobs: list[OneOfMany]
    environment: dict[str, str]
    umask: int
    limits: dict[str, list[int]]
    scripts: NotRequired[list[bytes]]
    part: NotRequired[int]
    more: NotRequired[bool]
    retry: NotRequired[bool]
    dry_run: NotRequired[bool]


class SubmitManyReply(TypedDict):
    """The durable ids in the order of the jobs, None on a dry run; those that were `there` already, with their states.

    `done`, of arrays, is as in `SubmitReply`; `held` is how many were queued held, as a group's are that is. Of a part
    that is not the last: nothing yet.
    """

    jobs: list[str | None]
    there: dict[str, str]
    done: NotRequired[dict[str, str]]
    held: NotRequired[int]
