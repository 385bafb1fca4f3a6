"""What people ask of the scheduler, after the edge has checked it, and what it answers.

Every command carries the `token` that its reply goes back to. Jobs in a command exist and are the caller's to
change: the edge has seen to that. Whatever ended meanwhile is answered with a note, not an error.
"""

from dataclasses import field
from typing import Any

from gpud.core.admit import Refused
from gpud.core.groups import Key
from gpud.core.waits import Wait
from gpud.model.array import IndexSet
from gpud.model.gpu import GpuId, NodeName
from gpud.model.job import End, JobId
from gpud.model.spec import JobSpec, LoadedJob, Rewrite, Terms
from gpud.model.units import Seconds, Timestamp
from gpud.model.value import value
from gpud.model.window import Window


@value()
class Submit:
    """Queue a job. `dry_run`: only say whether it would be taken. `tell`: say what happens next.

    `ends` is how those of the jobs that it comes after ended that had ended when somebody looked; `there` the job that
    was found then under its key: one that has completed, or (None) that has not ended; `done` are elements of its array
    that have completed under that key, and do not run again. `where` it was written, where it is one of many.
    """

    token: int
    spec: JobSpec
    dry_run: bool = False
    tell: bool = False
    ends: tuple[tuple[JobId, End], ...] = ()
    there: tuple[JobId, End | None] | None = None
    done: IndexSet = IndexSet()
    where: str = ""

    @property
    def nonce(self) -> str:
        """Return what tells whether it was sent before."""
        return self.spec.nonce

    @property
    def left(self) -> IndexSet | None:
        """Return the elements that are to run, None of what is no array."""
        return self.spec.array and self.spec.array - self.done


@value()
class SubmitMany:
    """Queue many jobs, or none of them. `dry_run`: only say whether they would be taken."""

    token: int
    jobs: tuple[Submit, ...]
    dry_run: bool = False

    @property
    def nonce(self) -> str:
        """Return what tells whether they were sent before."""
        return self.jobs[0].spec.nonce  # of a request that is sent again it is the same


@value()
class Update:
    """Change what jobs ask for. Of one that runs, its time limit and its priority can be changed.

    `jobs` are those to change, each with its `terms` from then on; `more_s` is added to a time limit as it is then.
    They may be a part of those that were `named`, each of which is to have some of the terms `in_all`: what cannot be
    of any of them changes none. `rewrite` is what the store has of them, the same for all but for their environments.
    `priority`, `begin_at` and `throttle` None: as they are; a throttle of 0 is none. `ends` and `there` are of the jobs
    that they are to come after, and of those that have the keys that they are to have, as in `Submit`. `said` are the
    words of what is changed, `waiting_only` those of it that running jobs must not change. `by` is who asked, by name.
    """

    token: int
    jobs: tuple[tuple[JobId, Terms], ...]
    said: tuple[str, ...]
    named: tuple[JobId, ...] = ()
    in_all: tuple[Terms, ...] = ()
    waiting_only: tuple[str, ...] = ()
    rewrite: Rewrite = Rewrite()
    environments: dict[JobId, bytes] = field(default_factory=dict)
    more_s: Seconds = 0.0
    priority: int | None = None
    begin_at: Timestamp | None = None
    throttle: int | None = None
    ends: tuple[tuple[JobId, End], ...] = ()
    there: dict[Key, tuple[JobId, End | None]] = field(default_factory=dict)
    by: str = ""


@value()
class Signal:
    """Send a signal to every process of running jobs. `by` is who asked, by name."""

    token: int
    jobs: tuple[JobId, ...]
    number: int
    by: str = ""


@value()
class Cancel:
    """End jobs; `force`: without grace. `by` is who asked, by name. `waiting`: not what runs, of arrays neither."""

    token: int
    jobs: tuple[JobId, ...]
    force: bool = False
    by: str = ""
    waiting: bool = False


@value()
class Hold:
    """Keep waiting jobs from starting."""

    token: int
    jobs: tuple[JobId, ...]


@value()
class Release:
    """Let held jobs start."""

    token: int
    jobs: tuple[JobId, ...]


@value()
class Requeue:
    """Run jobs again: running ones are stopped first, `finished` ones come from the store, as they are there now.

    An element in `finished` carries its array's state in `array`; one that was cancelled before it started, and so has
    no row, the array's place and `end` cancelled.
    """

    token: int
    jobs: tuple[JobId, ...]
    finished: tuple[LoadedJob, ...] = ()


@value()
class SetPriority:
    """Change the priority of jobs."""

    token: int
    jobs: tuple[JobId, ...]
    priority: int


@value()
class Interrupt:
    """Send INT to running jobs; one that waits is cancelled. `by` is who asked, by name."""

    token: int
    jobs: tuple[JobId, ...]
    by: str = ""


@value()
class Drain:
    """Give out these GPUs and nodes no more; `reason` None: give them out again. `by` is who asked, by name."""

    token: int
    gpus: tuple[GpuId, ...]
    nodes: tuple[NodeName, ...]
    reason: str | None
    by: str = ""


@value()
class Pause:
    """Start nothing more; `reason` None: go on. `by` is who asked, by name."""

    token: int
    reason: str | None
    by: str = ""


@value()
class PutTenant:
    """Make a tenant (`create`), or change one. `values` are fields of it; users and groups among them are added.

    `remove` are users and groups to take out. `by` is who asked, by name.
    """

    token: int
    name: str
    create: bool
    values: tuple[tuple[str, Any], ...]
    remove: tuple[tuple[str, tuple[str, ...]], ...] = ()
    by: str = ""


@value()
class DeleteTenant:
    """Remove a tenant that has no jobs. `by` is who asked, by name."""

    token: int
    name: str
    by: str = ""


@value()
class Reserve:
    """Set GPUs aside; the window gets its number."""

    token: int
    window: Window


@value()
class DeleteReservation:
    """Give back GPUs that were set aside. `by` is who asked, by name."""

    token: int
    number: int
    by: str = ""


@value()
class ChoosePolicy:
    """Order the queue by this policy (None: by the same), with these values of its parameters.

    A value of None is the configuration's again, `reset` is that for everything.
    """

    token: int
    policy: str | None = None
    parameters: tuple[tuple[str, float | None], ...] = ()
    reset: bool = False


@value()
class Asked:
    """A read: answered by the edge once everything before it is durable."""

    token: int


Command = (
    Submit
    | SubmitMany
    | Update
    | Signal
    | Cancel
    | Hold
    | Release
    | Requeue
    | SetPriority
    | Interrupt
    | Drain
    | Pause
    | PutTenant
    | DeleteTenant
    | Reserve
    | DeleteReservation
    | ChoosePolicy
    | Asked
)


@value()
class Accepted:
    """A submit was taken; `job` is None on a dry run. `position` and `wait` only where asked for.

    `there`: it was not queued, for `job` has its key and this state. `done`: elements that do not run again.
    """

    job: JobId | None
    position: int | None = None
    wait: Wait | None = None
    there: str | None = None
    done: IndexSet = IndexSet()


@value()
class Submitted:
    """Many submits were taken, each as `Accepted` says it of one: the job, and its state if it was there already.

    `done`: elements that do not run again; `held`: how many were queued held.
    """

    jobs: tuple[tuple[JobId | None, str | None], ...]
    done: tuple[tuple[JobId, IndexSet], ...] = ()
    held: int = 0


@value()
class Changed:
    """What was done: the jobs that changed, and why others did not."""

    changed: tuple[JobId, ...]
    notes: tuple[tuple[JobId, str], ...] = ()


@value()
class Done:
    """A command that is not about jobs took effect; `changed` False: it was so already."""

    changed: bool


@value()
class Reserved:
    """GPUs were set aside, under this number."""

    number: int


Reply = Accepted | Submitted | Changed | Done | Reserved | Refused
