"""What gpud asks of whoever starts processes for it; containers or a cluster would be another implementation.

Every call may be made twice and must do no harm then. What became of an attempt is only ever told as an observation.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from gpud.model.effects import Forget, Interrupt, Launch, Look, SendSignal, SetLimit, Stop
from gpud.model.gpu import GpuId
from gpud.model.job import JobId
from gpud.model.observations import Observation
from gpud.model.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a launcher can do here: `cgroup` holds the controllers of a job's own, None where it has none.

    `unfenced` says why no job can have a device fence, None where each can; `logins` why logins are not fenced off from
    GPUs although they should be.
    """

    cgroup: tuple[str, ...] | None = None
    unfenced: str | None = None
    logins: str | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """What keeps a job from the GPUs that are not its own: `kind` is "devices" or "landlock", see `fence`.

    `devices` are the numbers (major, minor) of what it may open; None: not known, so it cannot be had.
    """

    kind: str
    devices: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, slots=True)
class Confinement:
    """What surrounds an attempt that has started: its `fence`'s kind, and whether it has a cgroup of its own."""

    fence: str | None
    cgroup: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """What a launch needs beside the effect.

    `log` is the default log's absolute path, `script_dir` where a script's kept copy goes while it runs; both are made
    as the job's user. `offset` turns seconds since boot into a Timestamp. `env` is `environment.additions`: what gpud
    adds to the submitter's. `cpus` is how many of its own the job asked for (0: none), and `numa` the nodes that they
    should be of. `leases` are the real GPUs to hold against other gpuds. `log_max` is how many bytes of its output are
    kept (None: all). `keeper` are the words of a program that is run instead, with the job's program and its arguments
    behind them. `beside` is the key ("12.1") of a running attempt whose cgroup this one shares, fence and limits
    with it: it ends with that one at the latest. `private`: it gets a TMPDIR, a port and places of its own. `uid` None:
    stay who we are.
    """

    spec: JobSpec
    log: str
    offset: float
    env: dict[str, str]
    keeper: tuple[str, ...] = ()
    cpus: int = 0
    numa: tuple[int, ...] = ()
    leases: tuple[GpuId, ...] = ()
    script_dir: str = ""
    fence: Fence | None = None
    log_max: int | None = None
    beside: str | None = None
    private: bool = False
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()


Performed = Launch | Stop | Interrupt | SendSignal | SetLimit | Look | Forget


class Launcher(Protocol):
    """Starts attempts, stops them, and finds them again."""

    @property
    def pid(self) -> int | None:
        """Return the pid of the process that starts jobs here; None while there is none."""

    @property
    def means(self) -> Means:
        """Return what can be done here; nothing, while nobody starts jobs."""

    def confinement(self, job: JobId, attempt: int) -> Confinement | None:
        """Return what surrounds an attempt; None for one that does not run."""

    async def start(self, post: Callable[[Observation], None]) -> None:
        """Be ready to launch. `post` is called on the event loop's thread."""

    def keep(self, attempts: Iterable[tuple[JobId, int]]) -> None:
        """Forget whatever is over of earlier gpuds' attempts, but these."""

    def perform(self, effect: Performed, order: LaunchOrder | None = None) -> None:
        """Do what the effect says, without blocking; `order` comes with a `Launch` only."""

    async def close(self) -> None:
        """Leave: jobs run on, and are found again by `Look`."""
