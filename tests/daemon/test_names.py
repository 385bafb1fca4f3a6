"""Names from a name service that is slow, or dead."""

import asyncio
import pwd
import threading

import pytest

from gpud.people.names import Account, Names, NameServiceError

SLOW = 54322


@pytest.fixture
def hangs(monkeypatch):
    """Have the name service hang for one user, until the event is set; for names of users, too."""
    answers, real = threading.Event(), pwd.getpwuid

    def slow(uid):
        if uid == SLOW:
            answers.wait()
        return real(uid)

    def slow_name(name):
        answers.wait()
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwuid", slow)
    monkeypatch.setattr(pwd, "getpwnam", slow_name)
    yield answers
    answers.set()


def test_who_is_not_told_of_in_time_is_their_number_and_nobody_else_waits(hangs):
    async def body():
        names = Names(patience_s=0.2)
        slow = asyncio.create_task(names.account(SLOW))
        await asyncio.sleep(0)
        assert await names.name(0) == pwd.getpwuid(0).pw_name
        assert not slow.done()
        assert await slow == Account(str(SLOW))
        assert names.known(SLOW) is None  # an answer that comes late is still one
        with pytest.raises(NameServiceError):
            await names.uid("eve")
        hangs.set()
        while names.known(SLOW) is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        assert await names.uid("eve") is None

    asyncio.run(asyncio.wait_for(body(), 30))


def test_many_who_are_not_told_of_cost_a_bounded_number_of_threads(hangs):
    async def body():
        names = Names(patience_s=0.2)
        before = threading.active_count()
        asked = [asyncio.create_task(names.uid(f"user{number}")) for number in range(500)]
        await asyncio.sleep(0)
        assert threading.active_count() - before <= 64
        assert {type(each) for each in await asyncio.gather(*asked, return_exceptions=True)} == {NameServiceError}
        hangs.set()

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({}, {"HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/zsh"}),
        ({"HOME": "/scratch"}, {"HOME": "/scratch", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/zsh"}),
    ],
)
def test_what_a_login_sets_is_there_where_it_was_not_sent(sent, told):
    assert Account("ada", "/home/ada", "/bin/zsh").completed(sent) == told
