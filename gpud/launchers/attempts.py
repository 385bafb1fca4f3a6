"""What gpud knows of one attempt while its record is there."""

import asyncio
from dataclasses import dataclass, field

from gpud.launchers.protocol import Confinement
from gpud.launchers.record import Place
from gpud.model.gpu import ProcessIdentity
from gpud.model.job import JobId

_RETRY_S = 0.005  # how soon to look again where nobody will wake us, the first time


@dataclass(slots=True)
class Attempt:
    """What this gpud knows of an attempt whose record has not gone."""

    job: JobId
    attempt: int
    key: str
    path: str
    boot: str
    pidfd: int | None = None  # of what is watched: the shim, or the job of a killed shim
    attended: bool = False  # it is the shim that is watched, so it can be told to stop
    started: bool = False
    process: ProcessIdentity | None = None  # known once it has started
    shim: ProcessIdentity | None = None
    over: bool = False
    stop: int | None = None  # the signal that is due as soon as there is a shim to take it
    saves: bool = False  # its shim can have it save what it has before that; one of an older gpud would die of it
    retry: asyncio.TimerHandle | None = None
    retry_s: float = _RETRY_S
    limit: tuple[float | None] | None = None  # how long it may run, which its shim is to be told
    ours: bool = True  # this gpud started it, and has not changed since how long it may run
    overran: bool = False  # it was told to end at its time limit by us, for it had nobody else any more
    hears: bool = False  # its shim takes more than to be stopped or interrupted; one of an older gpud would die of it
    refused: bool = False  # the process that might have claimed it was seen to fail
    confinement: Confinement | None = None  # of one that has started
    tmp: Place | None = None  # its TMPDIR, which stands in the record while somebody lives who removes it
    told: dict[int, int] = field(default_factory=dict)  # pids and start times of those that were told to end
