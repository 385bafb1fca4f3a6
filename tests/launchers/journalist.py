"""A gpud in miniature for crash tests: one job, a journal instead of a store, and a place to be killed at.

Run as `journalist.py STATE PLAN POINT`: does what is left to do of the job by the journal, and kills itself when it
reaches POINT. PLAN says when to stop the job: `never`, `launched` or `started`.
"""

import asyncio
import os
import sys
from pathlib import Path

from launchers.workplace import Workplace, clock

from gpud.launchers import record
from gpud.launchers.local import LocalLauncher
from gpud.model.effects import Forget, Launch, Look, Stop
from gpud.model.gpu import Allocation, NodeName
from gpud.model.job import job_id
from gpud.model.observations import Exited, Started

POINTS = (
    "none",
    "begun",
    "ready",
    "launched",
    "stopped",
    "started",
    "running",
    "exited",
    "written",
    "forgotten",
    "closed",
)
JOB = job_id(1)


async def main(state: Path, plan: str, point: str) -> None:
    journal = state / "journal"

    def reach(here: str) -> None:
        if here == point:
            os.kill(os.getpid(), 9)

    def write(line: str) -> None:
        with journal.open("a") as file:
            file.write(line + "\n")

    before = journal.read_text() if journal.exists() else ""
    seen: asyncio.Queue[Started | Exited] = asyncio.Queue()
    launcher = LocalLauncher(str(state), clock=clock)
    await launcher.start(seen.put_nowait)
    reach("ready")
    order = Workplace(state).order(JOB, command=("sh", "-c", (state / "job").read_text()), grace_s=5.0)
    if not before:
        write("starting")
        reach("begun")
        launcher.perform(Launch(JOB, 1, Allocation(node=NodeName("here"))), order)
        reach("launched")
        if plan == "launched":
            launcher.perform(Stop(JOB, 1, None))
            reach("stopped")
    elif "ended" not in before:
        launcher.perform(Look(JOB, 1, record.boot_id()))
        if plan == "launched":
            launcher.perform(Stop(JOB, 1, None))
    while "ended" not in before:
        news = await seen.get()
        if isinstance(news, Started):
            reach("started")
            write(f"running {news.process.pid}")
            reach("running")
            if plan == "started":
                launcher.perform(Stop(JOB, 1, None))
                reach("stopped")
        else:
            reach("exited")
            write(f"ended {news.exit!r}")
            reach("written")
            break
    launcher.perform(Forget(JOB, 1))
    reach("forgotten")
    await launcher.close()
    reach("closed")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
