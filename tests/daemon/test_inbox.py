import asyncio
import threading
import time

from gpud.inbox import Inbox


def test_what_came_is_one_batch_in_its_order():
    async def story():
        inbox = Inbox()
        inbox.post("a")
        inbox.post("b")
        return await inbox.drain(None)

    assert asyncio.run(story()) == ["a", "b"]


def test_a_batch_waits_until_something_is_there():
    async def story():
        inbox = Inbox()
        waiting = asyncio.create_task(inbox.drain(None))
        await asyncio.sleep(0)
        inbox.post("a")
        inbox.post("b")
        return await waiting, await inbox.drain(asyncio.get_running_loop().time())

    assert asyncio.run(story()) == (["a", "b"], [])


def test_a_deadline_ends_the_wait():
    async def story():
        began = time.monotonic()
        batch = await Inbox().drain(asyncio.get_running_loop().time() + 0.05)
        return batch, time.monotonic() - began

    batch, waited_s = asyncio.run(story())
    assert batch == []
    assert waited_s >= 0.045


def test_other_threads_post_too_and_nothing_is_lost():
    async def story():
        inbox = Inbox()

        def post(name):
            for number in range(1000):
                inbox.post_threadsafe((name, number))

        threads = [threading.Thread(target=post, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        got = []
        async with asyncio.timeout(30):
            while len(got) < 2000:
                got += await inbox.drain(None)
        for thread in threads:
            thread.join()
        return got

    got = asyncio.run(story())
    assert [number for name, number in got if name == "a"] == list(range(1000))
    assert [number for name, number in got if name == "b"] == list(range(1000))


def test_a_post_after_the_end_harms_nobody():
    async def make():
        return Inbox()

    asyncio.run(make()).post_threadsafe("late")


def test_an_inbox_that_never_runs_dry_starves_nobody():
    async def story():
        inbox = Inbox()
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(100):
            inbox.post("more")
            assert await inbox.drain(None) == ["more"]
        task.cancel()
        return turns

    assert asyncio.run(story()) >= 100


def test_what_nobody_waits_for_comes_with_the_next_batch_in_its_order():
    async def story():
        inbox = Inbox()
        inbox.post_soon("started", 60.0)
        waiting = asyncio.create_task(inbox.drain(None))
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.post("ended")
        return await waiting

    assert asyncio.run(story()) == ["started", "ended"]


def test_what_nobody_waits_for_comes_alone_once_its_time_is_over():
    async def story():
        inbox = Inbox()
        began = time.monotonic()
        inbox.post_soon("started", 0.05)
        inbox.post_soon("started too", 60.0)
        return await inbox.drain(None), time.monotonic() - began

    batch, waited_s = asyncio.run(story())
    assert batch == ["started", "started too"]
    assert 0.045 <= waited_s < 30
