"""How jobs are changed, and groups looked at: a page of the protocol, whose first, `messages`, says how to ask."""

from typing import Literal, NotRequired, TypedDict

from gpud.wire.submission import DemandParts


class Selection(TypedDict):
    """Which jobs: ids (`12`, `12_7`, `12_3-9`, `12_[3-9]`, `3-9`), or every job that the filters leave.

    Ids that do not exist refuse the whole request, and so does a group in which there never was a job; gaps in ranges
    are skipped. Filters narrow either way.
    """

    jobs: NotRequired[list[str]]
    mine: NotRequired[bool]
    user: NotRequired[str]
    state: NotRequired[list[str]]
    group: NotRequired[str]


class Change(TypedDict):
    """Change jobs: cancel, hold, release, requeue, or interrupt (INT to a running job). Reply: `ChangeReply`.

    `force`, for cancel: no grace. Naming a job that does not exist, or is not the caller's to change, changes nothing.
    """

    op: Literal["cancel", "hold", "release", "requeue", "interrupt"]
    id: int
    select: Selection
    force: NotRequired[bool]


class Priority(TypedDict):
    """Set the priority of waiting jobs. Reply: `ChangeReply`."""

    op: Literal["priority"]
    id: int
    select: Selection
    priority: int


class Signal(TypedDict):
    """Send a signal, by its number, to every process of running jobs. Reply: `ChangeReply`."""

    op: Literal["signal"]
    id: int
    select: Selection
    signal: int


class PartOfDemand(DemandParts):
    """What is new of a job's `DemandMap`; what is left out stays. `whole`: no fraction of a GPU.

    `without` are keys that it shall not ask for any more. `gpu_memory_mib` of a job that shares memory is what it
    takes, and without it the job has whole GPUs.
    """

    gpus: NotRequired[int]
    whole: NotRequired[bool]
    without: NotRequired[list[str]]


class Update(TypedDict):
    """Change what jobs ask for that wait, and of those that run how long they may, their priority and `notify`.

    Reply: `ChangeReply`. What is left out stays. `time_limit_more_s` is added to the limit, or taken off it where it is
    negative; `unlimited` takes it away. `labels` and `variables` are added to what the job has; `notify` takes the
    place of what it had, and so do the three of a checkpoint together, and `after`. `unlabel` names labels to take
    away, `*` all. An empty `group` or `key` is none, and so is an `estimate_s` or a `checkpoint_signal` of 0;
    `throttle` is how many of an array may run at once, 0: all.
    """

    op: Literal["update"]
    id: int
    select: Selection
    demand: NotRequired[PartOfDemand]
    name: NotRequired[str]
    priority: NotRequired[int]
    time_limit_s: NotRequired[float]
    time_limit_more_s: NotRequired[float]
    unlimited: NotRequired[bool]
    estimate_s: NotRequired[float]
    grace_s: NotRequired[float]
    preemptible: NotRequired[bool]
    retries: NotRequired[int]
    retry_on: NotRequired[list[str]]
    begin_at: NotRequired[float]
    checkpoint_signal: NotRequired[int]
    checkpoint_before_s: NotRequired[float]
    checkpoint_every_s: NotRequired[float]
    notify: NotRequired[list[list[str]]]
    after: NotRequired[dict[str, list[str]]]
    group: NotRequired[str]
    key: NotRequired[str]
    throttle: NotRequired[int]
    labels: NotRequired[dict[str, str]]
    unlabel: NotRequired[list[str]]
    variables: NotRequired[dict[str, str]]
    workdir: NotRequired[str]
    mount: NotRequired[str]
    output: NotRequired[str]
    error: NotRequired[str]


class ChangeReply(TypedDict):
    """What was done: ids that changed, and for the others a note ("12 has ended already: completed")."""

    changed: list[str]
    notes: dict[str, str]


class Groups(TypedDict):
    """The group of this name (of every user who has one), or those with unfinished jobs or ends in the last 24 h.

    Reply: `GroupsReply`. Error `no_such_group`.
    """

    op: Literal["groups"]
    id: int
    name: NotRequired[str]


class Group(TypedDict):
    """A group's jobs by state: elements of arrays by themselves, of jobs with one key the newest.

    `held`: why it is, None while it is not. `failed` names the job that failed last. `expected_end_at` is when the
    last of it is expected to end: known once something of it has completed, and where it is of each that has not.
    """

    name: str
    uid: int
    user: str
    counts: dict[str, int]
    total: int
    done: int
    held: str | None
    failed: str | None
    submitted_at: float
    ended_at: float | None
    expected_end_at: float | None


class GroupsReply(TypedDict):
    """The groups, those that were begun last at the end, and how many more there would have been.

    Of more than 1,000 one's own, then those that were begun last.
    """

    groups: list[Group]
    more: int


CHANGES: dict[str, type] = {
    "cancel": Change,
    "hold": Change,
    "release": Change,
    "requeue": Change,
    "interrupt": Change,
    "priority": Priority,
    "signal": Signal,
    "update": Update,
    "groups": Groups,
}
