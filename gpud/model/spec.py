"""What a submit says, whole: kept in the store, of which deciding needs only the terms."""

import re
from dataclasses import field
from enum import StrEnum

from gpud.model.array import IndexSet
from gpud.model.job import Active, Demand, End, JobId
from gpud.model.units import Seconds, Timestamp
from gpud.model.value import Key, value

_DIGITS = re.compile(r"\d+")


@value(kw_only=True)
class Terms(Key):
    """What deciding needs to know of a job and what it shares with many: jobs with equal terms stand in one line.

    `grace_s` is how long the job may take to end after TERM; `retries` how often a failure is tried again, of the
    kinds that `retry_on` names (none named: every kind). `time_limit_s` None: may run for ever. `estimate_s` is how
    long its user expects it to run. `name_group` is its name with the numbers folded: runs of one program are alike.
    `preemptible` None: as the configuration says. A `claim` runs nothing: its user's own processes use its GPUs, until
    they did not for `idle_after_s` (None: for however long).
    """

    demand: Demand
    uid: int
    user: str
    tenant: str
    grace_s: Seconds = 30.0
    retries: int = 0
    time_limit_s: Seconds | None = None
    estimate_s: Seconds | None = None
    name_group: str = ""
    preemptible: bool | None = None
    retry_on: tuple[str, ...] = ()
    claim: bool = False
    idle_after_s: Seconds | None = None


def name_group(name: str) -> str:
    """Return a name with its numbers folded: runs of one program are alike."""
    return _DIGITS.sub("#", name)


class When(StrEnum):
    """How another job must end before one that comes after it may start."""

    SUCCESS = "success"
    ANY = "any"
    FAILED = "failed"


@value()
class Dependency:
    """A job, element or whole array that must end first, and how."""

    job: JobId
    when: When = When.SUCCESS


@value(kw_only=True)
class JobSpec:
    """Everything a job was submitted with.

    `environment` is a JSON object of the submitter's variables (bytes that are no UTF-8 as lone surrogates).
    `script` is the kept copy of a script, run through its `#!` line; `command` is then [its path, arguments...].
    `limits` maps names as in the resource module ("NOFILE") to (soft, hard), -1 for unlimited; only soft is set where
    hard may not be. `output` and `error` are patterns (`%j %A %a %x`); None for gpud's own log and for one file.
    `key` tells it from all others of its `group`. It gets `checkpoint_signal` before it is stopped for others or for
    its time limit (`checkpoint_before_s` before that), and every `checkpoint_every_s`; `checkpoint_to` says who of it:
    "all", the "script" (its first process), or the "steps" (processes that call themselves gpud-srun).
    `terminal` is the size (rows, columns) of the one that it gets; it ends when nobody attends that for `unattended_s`
    (None: for however long). `notify` holds whom to tell of what: (word of an event, target). `commit` and `dirty` are
    its directory's as git has it, None where that is not known. `sbatch`: a script with #SBATCH lines, which is told
    SLURM_* too. `mount` is where the file system of its directory was mounted when it was submitted, if not at the
    root, behind the number of the mount namespace.
    """

    nonce: str
    terms: Terms
    name: str
    command: tuple[str, ...]
    workdir: str
    environment: bytes
    gid: int
    groups: tuple[int, ...]
    umask: int = 0o022
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    script: bytes | None = None
    output: str | None = None
    error: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    hold: bool = False
    begin_at: Timestamp | None = None
    after: tuple[Dependency, ...] = ()
    array: IndexSet | None = None
    throttle: int | None = None
    group: str | None = None
    key: str | None = None
    checkpoint_signal: int | None = None
    checkpoint_every_s: Seconds | None = None
    checkpoint_before_s: Seconds | None = None
    checkpoint_to: str = "all"
    terminal: tuple[int, int] | None = None
    unattended_s: Seconds | None = None
    notify: tuple[tuple[str, str], ...] = ()
    commit: str | None = None
    dirty: bool | None = None
    sbatch: bool = False
    mount: str | None = None


@value(kw_only=True)
class Rewrite:
    """What is new in a job's spec beside its terms; None: as it is.

    `labels` are added to those it has, with None taken away; `group` and `key` "" are none. `submitted` are fields that
    are read only to start it, by name.
    """

    name: str | None = None
    workdir: str | None = None
    output: str | None = None
    error: str | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    after: tuple[Dependency, ...] | None = None
    group: str | None = None
    key: str | None = None
    submitted: tuple[tuple[str, object], ...] = ()
    environment: bytes | None = None


class Park(StrEnum):
    """Why a waiting job stands in no line."""

    HELD = "held"
    BEGIN = "begin"
    RETRY = "retry"
    AFTER = "after"
    NEVER = "never"  # held: what it comes after ended otherwise than it must


@value(kw_only=True)
class Place:
    """Where a waiting job stands: its priority, since when it queues (microseconds), and why it is parked, if so.

    `not_before` is when a parked job may enter its line; it is kept while the job is held as well.
    `attempt` is the next one's number, from 1; `failures` counts those that used up a retry, `mishaps` those that
    failed through no fault of the job's (a lost GPU or node). `attained_s` are the GPU-seconds that its attempts had.
    `awaits`: it still comes after other jobs, also while it is held.
    """

    priority: int = 0
    queued_us: int = 0
    attempt: int = 1
    failures: int = 0
    park: Park | None = None
    not_before: Timestamp | None = None
    mishaps: int = 0
    attained_s: float = 0.0
    awaits: bool = False

    @property
    def plain(self) -> bool:
        """Return whether there is nothing to tell of it but since when it queues."""
        parked = self.park is not None or self.not_before is not None or self.awaits
        return self.attempt == 1 and not (self.priority or self.failures or self.mishaps or self.attained_s or parked)


@value(kw_only=True)
class ArrayState:
    """An array's own row: what has not started, how many may run at once, and how its elements ended.

    `dropped` were cancelled before they started and have no rows of their own.
    """

    pending: IndexSet
    throttle: int | None = None
    live: int = 0  # elements with rows of their own that have not ended
    dropped: IndexSet = IndexSet()
    counts: tuple[tuple[End, int], ...] = ()

    def counted(self, end: End, by: int = 1) -> tuple[tuple[End, int], ...]:
        """Return the counters after `by` more elements ended so."""
        counts = dict(self.counts)
        counts[end] = counts.get(end, 0) + by
        return tuple(sorted((word, count) for word, count in counts.items() if count > 0))


@value(kw_only=True)
class LoadedJob:
    """An unfinished (or, for requeue, finished) job as the store has it. `active` is None while it waits.

    The `not_before` of a finished one is its begin time, also where that came and went.

    `after` is what it was submitted to come after, and `ends` how those of them ended that have, where its place
    awaits them. `array_terms` are an element's array's, from which its own may differ. Of a finished one that is
    asked for again: `group` and `key`, an element's array's, and `rival`, another that has completed under that key.
    """

    job: JobId
    terms: Terms
    place: Place
    active: Active | None = None
    array: ArrayState | None = None
    end: End | None = None
    after: tuple[Dependency, ...] = ()
    ends: tuple[tuple[JobId, End], ...] = ()
    array_terms: Terms | None = None
    group: str | None = None
    key: str | None = None
    rival: JobId | None = None
