"""Waiting for a job to begin, for those who then have something to do with it; Ctrl-C is handed on meanwhile."""

import select
import time
from typing import Any

from gpuctl.client import Client, ConnectionLostError
from gpuctl.following.follower import Interrupts
from gpuctl.following.waiting import Stuck, await_back, subscribe

_WAITS = ("queued", "held", "starting")


def has_begun(job: dict[str, Any]) -> bool:
    """Return whether a job runs, or has ended."""
    return job["state"] not in _WAITS


def until_begun(
    client: Client, job: str, *, within_s: float | None = None, interrupts: Interrupts | None = None
) -> dict[str, Any]:
    """Return what `show` says of a job once it has begun, or when time is over."""
    end = None if within_s is None else time.monotonic() + within_s
    stuck = Stuck()
    while True:
        try:
            subscribe(client, [job])
            while True:
                answer = client.request("show", job=job, soon=True)
                left = None if end is None else max(0.0, end - time.monotonic())
                if has_begun(answer["job"]) or left == 0:
                    return answer
                stuck.tell(answer["job"])
                until_told(client, job, interrupts, waits=True, within_s=left)
        except ConnectionLostError as lost:
            await_back(client, lost)


def until_told(
    client: Client, job: str, interrupts: Interrupts | None, *, waits: bool, within_s: float | None = None
) -> None:
    """Return once gpud has told of something after a `subscribe`, an interrupt came, or time is over."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    if interrupts is not None:
        interrupts.hand_on(job, waits=waits)
        poll.register(interrupts.wake, select.POLLIN)
    if client.has_pushed() or client.fileno() in dict(poll.poll(None if within_s is None else within_s * 1000 + 1)):
        client.pushed(wait=False)
    if interrupts is not None:
        interrupts.hand_on(job, waits=waits)
