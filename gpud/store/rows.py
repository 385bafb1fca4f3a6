"""What the store gives out: the state to start from, what a commit made, and the history as values."""

from dataclasses import dataclass, field
from typing import NamedTuple

from gpud.model.array import IndexSet
from gpud.model.changes import UsePut
from gpud.model.gpu import Allocation, Node, ProcessIdentity
from gpud.model.job import Exit, JobId, StopCause
from gpud.model.spec import ArrayState, Dependency, JobSpec, LoadedJob, Place, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.model.use import GpuUse


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, numbered from 1 without gaps. `user`, `uid` are the job's; `detail` is plain (JSON)."""

    seq: int
    at: Timestamp
    kind: str
    job: JobId | None
    attempt: int | None
    user: str | None
    detail: dict[str, object]
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit made durable: its events in order, and the spec for each launch asked for, in order."""

    events: tuple[Event, ...]
    specs: tuple[JobSpec, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state to start from. Ended jobs are not part of it.

    `waiting` holds plain waiting jobs (first attempt, not parked, no array) as (job, terms, priority, queued_us), in
    the order of their ids; equal terms are one object. `others` holds everything else that has not ended. `nodes`
    have every GPU ever seen on them. `next_number` is the first job number never given. `runs` are the newest runs
    and whether they came to their own end, the oldest first; `accounts` what everybody has used; `grouped` are
    unfinished jobs and arrays of groups, with whose they are, their group and their key.
    """

    waiting: list[tuple[JobId, Terms, int, int]]
    others: list[LoadedJob]
    nodes: tuple[Node, ...]
    settings: dict[str, object]
    next_number: int
    last_event: int
    runs: list[tuple[Terms, Seconds, bool]]
    accounts: list[UsePut]
    grouped: list[tuple[JobId, int, str, str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt. `started_at`, `process` and `shim` are None while (or when) it never started; `exit` until it ended.

    `gpu_s`: GPU-seconds held, and `uses`, what was seen of the GPUs: known at its end.
    """

    job: JobId
    attempt: int
    starting_at: Timestamp
    started_at: Timestamp | None
    boot: str
    allocation: tuple[Allocation, ...]
    process: ProcessIdentity | None
    shim: ProcessIdentity | None
    cause: StopCause | None
    kill_at: Timestamp | None
    exit: Exit | None
    gpu_s: Seconds | None
    uses: tuple[GpuUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job with everything people may ask of it. `state` is one of the words that people see.

    `array` is what an array was submitted with and `array_state` what is left of it; both None for what is no array.
    `run` is the attempt of number `place.attempt`, None while that has not been started. `terminal`: it has one.
    """

    job: JobId
    state: str
    reason: str | None
    terms: Terms
    place: Place
    name: str
    command: tuple[str, ...]
    workdir: str
    labels: dict[str, str]
    output: str | None
    error: str | None
    begin_at: Timestamp | None
    submitted_at: Timestamp
    updated_at: Timestamp
    ended_at: Timestamp | None
    array: IndexSet | None
    array_state: ArrayState | None
    run: AttemptRow | None
    after: tuple[Dependency, ...] = ()
    group: str | None = None
    key: str | None = None
    terminal: bool = False


class Standing(NamedTuple):
    """What must be known of a job to choose it: of a `JobRow` little, so that very many are told at once."""

    job: JobId
    state: str
    terms: Terms
    group: str | None
    park: str | None
    array_state: ArrayState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group of one user. Of several jobs with one key the newest counts, and of an array its elements do.

    `failed` names the failed job that ended last.
    """

    name: str
    uid: int
    user: str
    counts: dict[str, int]
    submitted_at: Timestamp
    ended_at: Timestamp | None
    failed: JobId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list: by default every one that has not ended; the filters after `limit` narrow.

    `spans` names jobs instead, ended or not, as inclusive ranges of ids (all of 12 is one range). `ended` adds every
    job that ended, `own` those of one user that ended since a moment. `since` keeps what changed at or after it,
    `shown` leaves out arrays of which every element has a row of its own. `limit` leaves out what ended before it
    leaves out what has not, and of that what is not among `first`.
    """

    spans: tuple[tuple[JobId, JobId], ...] | None = None
    ended: bool = False
    own: tuple[str, Timestamp] | None = None
    limit: int = 1000
    user: str | None = None
    states: frozenset[str] = field(default_factory=frozenset)
    name: str | None = None
    group: str | None = None
    labels: tuple[tuple[str, str | None], ...] = ()  # all of these; with None: of any value
    since: Timestamp | None = None
    shown: bool = False
    first: tuple[JobId, ...] = ()
