"""`gpuctl.aio`: the client for asyncio, its examples run as they stand, and what a cancellation leaves."""

import asyncio
import doctest
import math
import threading
import time

import pytest
from gpud_process import until

from gpuctl import Client, JobError, UnreachableError, aio, api
from gpuctl.aio import AsyncClient

pytestmark = pytest.mark.usefixtures("ours")
WITHIN_S = 30


def run(main, *, start=True):
    """Run a coroutine function with a client of its own, and no longer than anything takes."""

    async def bounded():
        async with asyncio.timeout(WITHIN_S), AsyncClient(start=start) as client:
            return await main(client)

    return asyncio.run(bounded())


def test_the_examples_do_what_they_say():
    found = doctest.testmod(aio)

    assert found.attempted > 5
    assert found.failed == 0


@pytest.mark.parametrize("kind", ["Client", "Job"])
def test_it_has_the_methods_of_the_blocking_one(kind):
    own = {"close", "handle", "executor", "connect"}  # aclose; and what is the executor's

    named = {name for name in vars(getattr(api, kind)) if not name.startswith("_")} - own
    assert named <= vars(getattr(aio, f"Async{kind}")).keys()


def test_many_requests_are_under_way_at_once_on_one_connection():
    async def main(client):
        jobs = await asyncio.gather(*(client.submit(["true"], gpus=0, label={"n": str(n)}) for n in range(20)))
        rows = await asyncio.gather(*(job.refresh() for job in jobs))
        return [row.row["labels"]["n"] for row in rows], {job.state for job in await client.wait(jobs)}

    assert run(main) == ([str(n) for n in range(20)], {"completed"})


def test_a_cancelled_request_leaves_the_connection_to_the_others():
    async def main(client):
        requests = [asyncio.create_task(client.request("ping")) for _ in range(10)]
        await asyncio.sleep(0)
        for request in requests[::2]:
            request.cancel()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        return [type(answer) for answer in answers], (await client.request("ping"))["ok"]

    assert run(main) == ([asyncio.CancelledError, dict] * 5, True)


def test_a_cancelled_submit_leaves_no_job_behind():
    async def main(client):
        for _ in range(5):
            submits = asyncio.create_task(client.submit(["sleep", "1000"], gpus=0, name="unwanted"))
            await asyncio.sleep(0)
            submits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submits

    run(main)

    with Client() as client:
        left = client.jobs(name="unwanted", all=True)
        assert {job.state for job in client.wait(left, WITHIN_S)} <= {"cancelled"}


def test_a_wait_has_a_timeout_and_a_cancelled_map_cancels_its_jobs():
    async def main(client):
        job = await client.submit(["sleep", "1000"], gpus=0)
        with pytest.raises(TimeoutError):
            await job.wait(0.05)
        await job.cancel(force=True)
        with pytest.raises(JobError):
            await job.wait(check=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.map(time.sleep, [1000], gpus=0, name="asleep")

    run(main)

    with Client() as client:
        assert {job.state for job in client.wait(client.jobs(name="asleep", all=True), WITHIN_S)} <= {"cancelled"}


def test_a_map_raises_what_was_raised_or_returns_it():
    async def main(client):
        with pytest.raises(ValueError, match="math domain"):
            await client.map(math.sqrt, [1, -1], gpus=0)
        return await client.map(math.sqrt, [-1, 4], gpus=0, return_exceptions=True)

    error, two = run(main)
    assert (type(error), two) == (ValueError, 2.0)


def test_a_log_is_followed_until_nobody_wants_it(shared):
    async def main(client):
        job = await client.submit(["sh", "-c", "echo one; exec sleep 1000"], gpus=0)
        lines = job.logs(follow=True)
        first = await anext(lines)
        waits = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await job.cancel(force=True)
        return first, [line async for line in job.logs(follow=True)]

    assert run(main) == ("one", ["one"])
    assert shared.ask("ping")["ok"]


def test_watching_tells_of_every_change():
    async def main(client):
        seen = client.watch()
        before = await anext(seen)
        job = await client.submit(["sleep", "1000"], gpus=0)
        async for now in seen:
            if job.id in [each["id"] for each in now["jobs"]]:
                break
        await job.cancel(force=True)
        await seen.aclose()
        return job.id in [each["id"] for each in before["jobs"]]

    assert run(main) is False


def test_requests_waits_and_events_outlive_a_restart_of_gpud(a_gpud, monkeypatch):
    gpud = a_gpud("--simulate", "1xRTX4090")
    monkeypatch.setenv("GPUD_STATE_DIR", str(gpud.state))
    go = gpud.work / "go"

    async def main(client):
        job = await client.submit(["sh", "-c", "while test ! -e go; do sleep 0.05; done"], gpus=0, workdir=gpud.work)
        restart = threading.Thread(target=lambda: (gpud.restart(), go.touch()))
        async with client.events(job) as events:
            restart.start()
            ended = await client.wait(job)
            async for event in events:
                if event["kind"] == "completed":
                    break
        await asyncio.to_thread(restart.join)
        return ended[0].state, (await client.request("ping"))["ok"]

    assert run(main, start=False) == ("completed", True)
    until(go.exists)


def test_where_there_is_no_gpud_and_none_is_to_be_started_it_says_so(tmp_path):
    async def main():
        async with AsyncClient(str(tmp_path / "gpud.sock"), start=False):
            pass

    with pytest.raises(UnreachableError, match="does not answer"):
        asyncio.run(main())
