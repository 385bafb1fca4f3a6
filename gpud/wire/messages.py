"""The protocol. How a job is asked for, the machine, what operators ask and `stats` have pages of their own.

A connection carries frames: 4 bytes, big-endian, the length, then one msgpack map. The client's first frame is a
`Hello`; it may send its request at once behind it, without waiting for the `Welcome`. Every request has an `id`
that its reply repeats and an `op` that names it; a reply has `ok`, and either what the request asked for or an
`error`. After a `subscribe` the daemon pushes maps with `event` and no `id`.

Strings are UTF-8, bytes that are no UTF-8 travel as surrogate escapes. Times are seconds since 1970, memory is MiB,
a job's id is a string ("12", element "12_7"). A request with a key that is on no page, or a value of another
type, is refused and costs nothing; a client ignores keys it does not know in replies. Versions: a client says which
it speaks, from and to; gpud answers with the highest that both do; N-1, N and N+1 talk (the numbers: `codec`).
"""

from typing import Literal, NotRequired, TypedDict

from gpud.wire.administration import ADMINISTRATION, INSPECTION
from gpud.wire.changes import CHANGES
from gpud.wire.errands import ERRANDS
from gpud.wire.machine import MACHINE
from gpud.wire.notices import NOTICES
from gpud.wire.statistics import Stats, Usage
from gpud.wire.submission import Submit, SubmitMany


class Hello(TypedDict):
    """The client's first frame. `version` is the package's, for people only."""

    protocol: list[int]
    version: NotRequired[str]


class Welcome(TypedDict):
    """The answer to `Hello`; or an `ErrorReply` with code `protocol` and the range that gpud speaks."""

    protocol: int
    version: str
    pid: int
    simulated: bool
    system: bool


class List(TypedDict):
    """Jobs as rows. Reply: `ListReply`. Default: every job that has not ended, then one's own that ended in 24 h.

    `all` takes ended ones of everybody; `since` narrows to those updated after. `jobs` names jobs (and arrays: one
    row for what has not started, one for each started element). Newest last; at most `limit` rows (10,000 at most;
    by default all that have not ended and 1,000 others, with `all` 10,000), and what one frame has room for: the
    newest that run, then the newest that wait (asked for these alone, the next in line first), then the newest that
    ended. Of a `command` of more than 1,000 characters the words within them, and `...`. `results` asks for those of
    each row, too.
    """

    op: Literal["list"]
    id: int
    jobs: NotRequired[list[str]]
    all: NotRequired[bool]
    mine: NotRequired[bool]
    user: NotRequired[str]
    state: NotRequired[list[str]]
    name: NotRequired[str]
    group: NotRequired[str]
    labels: NotRequired[list[str]]  # `K=V`, or `K` with any value: those that bear all of them
    since: NotRequired[float]
    limit: NotRequired[int]
    results: NotRequired[bool]


class Job(TypedDict):
    """A job as everybody sees it (what `gpud.views.jobs` does not name of others' is empty in system mode).

    `expected_start_at` is None where nobody can tell, and `expected_start_unknown` then says why, of who waits.
    `time`s are seconds since 1970. `gpus` is a fraction for a part of one; with `share`, `gpu_memory_mib` is the share.
    `gpu_ids` are the only GPUs it may get, `excluded` GPUs and nodes that it must not get; GPUs as `NODE:INDEX`.
    `after` is as on the command line: `12`, `any:13`. `array_index` is None for what is no element; the last three
    `array*` keys are there for an array's own row only. `terminal` is the socket at which it is attended, for a job
    with a terminal that has not ended.
    """

    id: str
    uid: int
    name: str
    user: str
    tenant: str
    group: str | None
    key: str | None
    labels: dict[str, str]
    state: str
    reason: str | None
    priority: int
    command: list[str] | None
    workdir: str | None
    gpus: float
    gpu_memory_mib: int | None
    gpu_type: str | None
    gpu_ids: list[str]
    excluded: list[str]
    share: bool
    mig: str | None
    nodes: int
    pool: str | None
    cpus: int
    memory_mib: int | None
    array_index: int | None
    attempt: int
    retries: int
    retry_on: list[str]
    preemptible: bool | None
    after: list[str]
    time_limit_s: float | None
    estimate_s: float | None
    submitted_at: float
    begin_at: float | None
    started_at: float | None
    ended_at: float | None
    updated_at: float
    expected_start_at: float | None
    expected_start_unknown: str | None
    exit_code: int | None
    signal: int | None
    allocation: list[dict[str, object]]
    output: str | None
    error: str | None
    progress_file: str | None
    queue_position: int | None
    claim: bool
    terminal: str | None
    array_limit: int | None
    array: NotRequired[str]
    array_pending: NotRequired[str]
    array_counts: NotRequired[dict[str, int]]


class ListReply(TypedDict):
    """The rows, and how many more there would have been (10,000: so many or more).

    Where they were asked for, each has `results` beside what it always has: see `Results`. `storage` is as in `status`:
    what happened since then is in no row.
    """

    jobs: list[Job]
    more: int
    storage: str | None


class Show(TypedDict):
    """One job, or array, whole. Reply: `ShowReply`. Error `no_such_job`.

    `soon`: without working out when it is expected to start, for who only waits for it.
    """

    op: Literal["show"]
    id: int
    job: str
    soon: NotRequired[bool]


class Results(TypedDict):
    """What an attempt used, of what was asked for; what was not measured is None.

    GPUs were looked at for `measured_s` of its `run_s`; `utilization` is their mean, from 0 to 1, and `gpus_unused`
    those that were never seen to do anything. `wasted` says what was asked for and not used, in words. `by_gpu`:
    `gpu_uuid node gpu_index readings measured_s utilization busiest_percent idle_s memory_peak_mib energy_j` of each.
    """

    attempt: int
    wait_s: float | None
    run_s: float
    cpu_s: float | None
    memory_peak_mib: int | None
    gpus: int
    gpu_memory_peak_mib: int | None
    gpu_memory_declared_mib: int | None
    utilization: float | None
    measured_s: float
    energy_j: float | None
    gpus_unused: int
    wasted: str | None
    by_gpu: list[dict[str, object]]


class ShowReply(TypedDict):
    """The job (an array: aggregated, `elements` its started ones), its attempts, its events.

    An attempt: `attempt started_at ended_at exit_code signal reason allocation cpu_s max_rss_mib peak_mib pid output`;
    `max_rss_mib` is its largest process's memory, `peak_mib` what all had at once, None where it has no cgroup.
    `confined`, of a job that runs: its `fence` ("devices", "landlock" or None), and `limits`, the controllers of its
    cgroup, None where it has none.
    `commit` is that of the directory that it was submitted in, `dirty` whether files there differed from it.
    `environment` names the variables that were sent (never their values), to the owner only. `dependents` are the jobs
    that wait for this one; `lost_gpu_s` what its preempted attempts had, in GPU-seconds. `happened` says who or what
    ended it, and `results` what its last attempt used, to the owner only.
    """

    job: Job
    attempts: list[dict[str, object]]
    events: list[dict[str, object]]
    elements: NotRequired[list[Job]]
    environment: list[str] | None
    commit: str | None
    dirty: bool | None
    confined: dict[str, object] | None
    dependents: list[str]
    lost_gpu_s: float
    happened: str | None
    results: Results | None


class Why(TypedDict):
    """Why a job waits, or without `job` why every waiting one does (at most `limit`). Reply: `WhyReply`."""

    op: Literal["why"]
    id: int
    job: NotRequired[str]
    limit: NotRequired[int]


class WhyReply(TypedDict):
    """For each job: `id state code reason hint position expected_start_at expected_start_unknown`, and `details`.

    Those are to print line by line.

    `predicted_s predicted_from predicted_runs`: how long it is expected to run, from what that is known, and of how
    many runs it is the mean. `reservation`: None, or `starts_at nodes gpus preempting` (jobs give way for it).
    `yields_to`: the job that it must not delay. `quota`: None, or `whose what used limit wanted renewed_at`. Asked for
    one job, also `blockers` (`job user gpus expected_end_at ends_by_at`): who would have to end, the soonest first,
    and `gpus` (`node index uuid state reason`): those that would suit and are not given. Both: the first 20.
    """

    jobs: list[dict[str, object]]


class Events(TypedDict):
    """The history after `since`, or else the newest; oldest first. Reply: `events`, and `last`, to go on from."""

    op: Literal["events"]
    id: int
    since: NotRequired[int]
    jobs: NotRequired[list[str]]
    limit: NotRequired[int]


class Event(TypedDict):
    """Something that happened, numbered. `kind` is a job's new state, or `submitted`, `priority`, `paused` ..."""

    seq: int
    at: float
    kind: str
    job: str | None
    attempt: int | None
    user: str | None
    detail: dict[str, object]


class Subscribe(TypedDict):
    """Push every event from now on, or after `since`. Reply: `last`; then `{"event": Event}` frames.

    `jobs` narrows to jobs and arrays (with their elements). `readings`: push `{"readings": True}` whenever GPUs
    were read anew, and read them every two seconds while the subscription lasts.
    """

    op: Literal["subscribe"]
    id: int
    since: NotRequired[int]
    jobs: NotRequired[list[str]]
    readings: NotRequired[bool]


class Ping(TypedDict):
    """Answered at once, before everything else. Reply: nothing but `ok`."""

    op: Literal["ping"]
    id: int


class Error(TypedDict):
    """What was wrong. `code` is stable and decides the exit status; `message` and `hint` are for people.

    Codes: `usage` (2), `no_such_job`, `no_such_gpu`, `no_such_node`, `no_such_tenant`, `no_such_reservation`,
    `no_such_group` (3), `not_permitted` (4), `unavailable` (69: gpud cannot start), and `refused`, `never_fits`,
    `storage`, `busy`, `protocol`, `frame` (1). `busy`: somebody asks for too much at once; the same request may be
    taken in `retry_after_s`, where that is known. So may one that is `refused` because too many jobs wait.
    """

    code: str
    message: str
    hint: NotRequired[str | None]
    retry_after_s: NotRequired[float]


class ErrorReply(TypedDict):
    """The answer to a request that was not done; nothing of it was."""

    id: int | None
    ok: Literal[False]
    error: Error


REQUESTS: dict[str, type] = {
    **ADMINISTRATION,
    **INSPECTION,
    **MACHINE,
    **NOTICES,
    **CHANGES,
    **ERRANDS,
    "submit": Submit,
    "submit_many": SubmitMany,
    "list": List,
    "show": Show,
    "why": Why,
    "stats": Stats,
    "usage": Usage,
    "events": Events,
    "subscribe": Subscribe,
    "ping": Ping,
}
