"""Real sockets, real clients; the loop behind the server is a list of what reached it."""

import array
import asyncio
import contextlib
import errno
import os
import random
import socket
import stat
import struct
from pathlib import Path

import pytest

from gpud.server.connections import UNREAD_MAX, Server
from gpud.server.credentials import _many_groups
from gpud.server.listen import ListenError
from gpud.wire.address import address_file, reachable
from gpud.wire.codec import FRAME_MAX, PROTOCOL, PROTOCOL_OLDEST, Frames, pack

HELLO = {"protocol": [0, 1], "version": "0.1.0"}
LIST = {"op": "list", "id": 7}


class Client:
    """The other side: says what it is told to, and hears message by message."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.frames = Frames()
        self.heard = []

    def say(self, *messages):
        self.writer.write(b"".join(map(pack, messages)))

    async def hear(self):
        """The next message; None when the server hung up."""
        async with asyncio.timeout(20):
            while not self.heard:
                try:
                    data = await self.reader.read(1 << 16)
                except ConnectionResetError:  # bytes of ours were unread when the server hung up
                    return None
                if not data:
                    return None
                self.heard += self.frames.feed(data)
        return self.heard.pop(0)

    async def rest(self):
        """Every message until the server hangs up."""
        messages = []
        while (message := await self.hear()) is not None:
            messages.append(message)
        return messages


class Daemon:
    """A server whose requests pile up in `asked`, with who asked."""

    def __init__(self, path, **settings):
        self.asked = []
        self.gone = []
        self.path = str(path)
        self.server = Server(
            self.path,
            on_request=lambda peer, request: self.asked.append((peer, request)),
            welcome=lambda: {"version": "0.1.0", "pid": os.getpid()},
            on_gone=self.gone.append,
            **settings,
        )
        self.clients = []

    async def client(self, *messages):
        client = Client(*await asyncio.open_unix_connection(reachable(self.path)))
        self.clients.append(client)
        client.say(*messages)
        return client

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for is a state, not an event
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def serving(path, **settings):
    """A daemon that listens, and its clients' ends afterwards."""
    daemon = Daemon(path, **settings)
    await daemon.server.start()
    try:
        yield daemon
    finally:
        for client in daemon.clients:
            client.writer.close()
        await daemon.server.close()


def story(body, tmp_path, **settings):
    """Run `body` with a daemon."""

    async def tell():
        async with serving(tmp_path / "gpud.sock", **settings) as daemon:
            return await body(daemon)

    return asyncio.run(tell())


def test_a_client_may_ask_behind_its_hello_without_waiting(tmp_path):
    async def body(daemon):
        client = await daemon.client(HELLO, LIST)
        welcome = await client.hear()
        await daemon.until(lambda: daemon.asked)
        peer, request = daemon.asked[0]
        peer.reply(request["id"], {"jobs": []})
        return welcome, request, await client.hear(), (peer.uid, peer.gid, peer.pid, peer.protocol, set(peer.groups()))

    welcome, request, reply, who = story(body, tmp_path)

    assert welcome == {"protocol": 1, "version": "0.1.0", "pid": os.getpid()}
    assert request == LIST
    assert reply == {"id": 7, "ok": True, "jobs": []}
    assert who == (os.getuid(), os.getgid(), os.getpid(), 1, set(os.getgroups()))


@pytest.mark.parametrize(
    ("spoken", "agreed"),
    [([0, 0], 0), ([0, 1], 1), ([1, 1], 1), ([1, 2], 1), ([0, 9], 1), ([-5, 0], 0)],
)
def test_older_and_newer_clients_are_served_in_a_version_that_both_speak(tmp_path, spoken, agreed):
    async def body(daemon):
        client = await daemon.client({"protocol": spoken, "a_key_of": "a later version"}, {"op": "ping", "id": 1})
        return [await client.hear(), await client.hear()]

    welcome, pong = story(body, tmp_path)

    assert welcome["protocol"] == agreed
    assert pong == {"id": 1, "ok": True}


@pytest.mark.parametrize(("spoken", "older"), [([2, 3], "gpud"), ([-3, -1], "gpuctl")])
def test_a_client_of_another_protocol_is_told_who_is_to_be_updated(tmp_path, spoken, older):
    async def body(daemon):
        client = await daemon.client({"protocol": spoken})
        return await client.rest()

    (refusal,) = story(body, tmp_path)
    assert (refusal["ok"], refusal["id"], refusal["error"]["code"]) == (False, None, "protocol")
    assert refusal["protocol"] == [PROTOCOL_OLDEST, PROTOCOL]
    assert refusal["error"]["hint"] == f"update the older of the two: {older}"


@pytest.mark.parametrize("first", [{}, LIST, {"protocol": 1}, {"protocol": [1]}, {"protocol": [0, True]}])
def test_who_does_not_say_hello_is_told_so_and_left(tmp_path, first):
    async def body(daemon):
        client = await daemon.client(first, LIST)
        return await client.rest(), daemon.asked

    (refusal,), asked = story(body, tmp_path)
    assert refusal["error"]["code"] == "protocol"
    assert asked == []


def test_who_has_not_said_hello_may_not_say_much(tmp_path):
    async def body(daemon):
        client = await daemon.client()
        client.writer.write((FRAME_MAX).to_bytes(4, "big"))
        return await client.rest()

    (refusal,) = story(body, tmp_path)
    assert (refusal["id"], refusal["error"]["code"]) == (None, "frame")
    assert "at most 4096 are read" in refusal["error"]["message"]


def test_ping_is_answered_before_everything_else(tmp_path):
    async def body(daemon):
        client = await daemon.client(HELLO, LIST, {"op": "ping", "id": 8})
        await client.hear()
        return await client.hear()

    assert story(body, tmp_path) == {"id": 8, "ok": True}


@pytest.mark.parametrize(
    ("request_", "complaint", "hint"),
    [
        ({"op": "sumbit", "id": 3}, "unknown request 'sumbit'", "did you mean 'submit'?"),
        ({"op": ["list"], "id": 3}, "op must be text, not a list", None),
        ({"id": 3}, "op must be text, not null", None),
        ({"op": "list", "id": 3, "lmit": 5}, "unknown key 'lmit'", "did you mean 'limit'?"),
        ({"op": "show", "id": 3, "job": 12}, "job must be text, not a whole number", None),
    ],
)
def test_a_wrong_request_costs_an_answer_and_nothing_else(tmp_path, request_, complaint, hint):
    async def body(daemon):
        client = await daemon.client(HELLO, request_, {"op": "ping", "id": 4})
        await client.hear()
        return await client.hear(), await client.hear(), daemon.asked

    refusal, pong, asked = story(body, tmp_path)

    assert refusal == {"id": 3, "ok": False, "error": {"code": "usage", "message": complaint, "hint": hint}}
    assert pong == {"id": 4, "ok": True}
    assert asked == []


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x01\xc1", b"\0\0\0\x01\x90", (FRAME_MAX + 1).to_bytes(4, "big"), b"\0\0\0\0"],
)
def test_garbage_closes_its_own_connection_with_a_word_and_no_other(tmp_path, garbage):
    async def body(daemon):
        bystander = await daemon.client(HELLO)
        await bystander.hear()
        client = await daemon.client(HELLO, LIST)
        client.writer.write(garbage)
        heard = await client.rest()
        bystander.say({"op": "ping", "id": 1})
        return heard, await bystander.hear(), [request for _, request in daemon.asked]

    (_, refusal), pong, asked = story(body, tmp_path)

    assert (refusal["id"], refusal["error"]["code"]) == (None, "frame")
    assert pong == {"id": 1, "ok": True}
    assert asked == [LIST]  # what was said before the garbage was said


def test_a_thousand_garbage_connections_do_no_harm(tmp_path):
    rng = random.Random(1)  # noqa: S311 - garbage that is the same every time

    async def body(daemon):
        writers = []
        for number in range(1000):
            _, writer = await asyncio.open_unix_connection(daemon.path)
            writer.write(rng.randbytes(rng.randint(0, 600)) if number % 2 else pack(HELLO) + rng.randbytes(50))
            if number % 3:
                writer.close()
            else:
                writers.append(writer)
        client = await daemon.client(HELLO, {"op": "ping", "id": 1})
        heard = [await client.hear(), await client.hear()]
        for writer in writers:
            writer.close()
        await daemon.until(lambda: len(daemon.gone) == 1000)
        return heard[1], daemon.asked

    assert story(body, tmp_path) == ({"id": 1, "ok": True}, [])


def test_who_says_nothing_is_cut_off(tmp_path):
    async def body(daemon):
        silent = await daemon.client()
        talker = await daemon.client(HELLO)
        await talker.hear()
        heard = await silent.rest()
        talker.say({"op": "ping", "id": 1})
        return heard, await talker.hear()

    assert story(body, tmp_path, hello_timeout_s=0.05) == ([], {"id": 1, "ok": True})


def test_half_a_frame_has_its_time_and_a_whole_one_any_time(tmp_path):
    async def body(daemon):
        half = await daemon.client(HELLO)
        half.writer.write(pack(LIST)[:-1])
        whole = await daemon.client(HELLO)
        slow = await daemon.client(HELLO)
        slow.writer.write(pack(LIST)[:5])
        await slow.hear()
        slow.writer.write(pack(LIST)[5:])
        heard = await half.rest()
        await whole.hear()
        for client in (whole, slow):
            client.say({"op": "ping", "id": 1})
        return heard[1:], await whole.hear(), await slow.hear()

    pong = {"id": 1, "ok": True}
    assert story(body, tmp_path, half_frame_s=0.1) == ([], pong, pong)


def test_who_does_not_read_is_cut_off_and_holds_up_nobody(tmp_path):
    async def body(daemon):
        deaf = await daemon.client(HELLO, LIST)
        await daemon.until(lambda: daemon.asked)
        deaf.writer.transport.pause_reading()
        peer = daemon.asked[0][0]
        pushed = 0
        while not peer.closed:
            peer.push({"event": {"detail": bytes(100_000)}})
            pushed += 100_000
            assert pushed < UNREAD_MAX + 10_000_000
            await asyncio.sleep(0)
        peer.push({"event": "into the void"})
        peer.reply(1, {})
        client = await daemon.client(HELLO, {"op": "ping", "id": 1})
        await client.hear()
        return pushed, await client.hear()

    pushed, pong = story(body, tmp_path)
    assert pushed > UNREAD_MAX
    assert pong == {"id": 1, "ok": True}


def test_an_answer_too_large_for_a_frame_becomes_an_error(tmp_path):
    async def body(daemon):
        client = await daemon.client(HELLO, LIST)
        await daemon.until(lambda: daemon.asked)
        daemon.asked[0][0].reply(7, {"jobs": [bytes(FRAME_MAX)]})
        await client.hear()
        return await client.hear()

    refusal = story(body, tmp_path)
    assert (refusal["id"], refusal["error"]["code"], refusal["error"]["hint"]) == (7, "frame", "ask for less at once")


def test_one_connection_too_many_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("gpud.server.connections._FOR_ROOT", 0)  # who may be root

    async def body(daemon):
        first = [await daemon.client(HELLO), await daemon.client(HELLO)]
        welcomes = [await client.hear() for client in first]
        refused = await (await daemon.client(HELLO)).rest()
        first[0].writer.close()
        await daemon.until(lambda: len(daemon.gone) == 2)
        again = await (await daemon.client(HELLO)).hear()
        return [welcome["protocol"] for welcome in (*welcomes, again)], refused

    welcomes, (refusal,) = story(body, tmp_path, max_connections=2)
    assert welcomes == [1, 1, 1]
    assert refusal["error"]["code"] == "busy"


def test_answers_given_before_the_end_are_read_after_it(tmp_path):
    async def body(daemon):
        client = await daemon.client(HELLO, LIST)
        await daemon.until(lambda: daemon.asked)
        answer = os.urandom(1_000_000)
        daemon.asked[0][0].reply(7, {"answer": answer})
        ending = asyncio.create_task(daemon.server.close())
        heard = await client.rest()
        await ending
        return heard[1]["answer"] == answer

    assert story(body, tmp_path)
    assert not (tmp_path / "gpud.sock").exists()


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_the_socket_is_open_to_whom_it_should_be(tmp_path, mode):
    async def body(_):
        return stat.S_IMODE(path.stat().st_mode)

    path = tmp_path / "gpud.sock"
    assert story(body, tmp_path, mode=mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="connects as another user")
@pytest.mark.parametrize(("mode", "heard"), [(0o600, {"not_permitted"}), (0o666, set())])
def test_one_users_gpud_serves_no_other_even_where_its_socket_was_opened(tmp_path, monkeypatch, mode, heard):
    async def body(_):
        path.chmod(0o666)
        with socket.socket(socket.AF_UNIX) as other:
            os.seteuid(65534)
            try:
                other.connect(path.name)
            finally:
                os.seteuid(0)
            client = Client(*await asyncio.open_unix_connection(sock=other))
            client.say(HELLO, LIST)
            first = await client.hear()
        return {first["error"]["code"]} if "error" in first else set()

    path = tmp_path / "gpud.sock"
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the directories above it are closed
    assert story(body, tmp_path, mode=mode) == heard


@pytest.mark.parametrize(("mode", "folder"), [(0o600, 0o700), (0o666, 0o755)])
def test_a_directory_made_for_the_socket_lets_in_whom_the_socket_does(tmp_path, mode, folder):
    async def body(_):
        return stat.S_IMODE(path.parent.stat().st_mode)

    path = tmp_path / "run" / "gpud.sock"
    umask = os.umask(0o077)
    try:
        assert story(body, path.parent, mode=mode) == folder
    finally:
        os.umask(umask)


def test_a_socket_that_vanished_is_bound_anew(tmp_path):
    async def body(daemon):
        before = await daemon.client(HELLO)
        await before.hear()
        for _ in range(3):
            path.unlink()
            await daemon.until(path.exists)
        after = await daemon.client(HELLO, {"op": "ping", "id": 2})
        await after.hear()
        before.say({"op": "ping", "id": 1})
        return await before.hear(), await after.hear()

    path = tmp_path / "gpud.sock"
    assert story(body, tmp_path) == ({"id": 1, "ok": True}, {"id": 2, "ok": True})


def test_a_path_too_long_to_bind_has_a_short_address(tmp_path):
    folder = tmp_path / ("x" * 60) / ("y" * 60)

    async def body(daemon):
        client = await daemon.client(HELLO)
        return (await client.hear())["protocol"], reachable(daemon.path)

    agreed, short = story(body, folder)

    assert agreed == 1
    assert len(short) < 108
    assert not Path(short).exists()
    assert not Path(address_file(str(folder / "gpud.sock"))).exists()


def test_what_a_killed_gpud_left_is_taken_and_what_lives_is_not(tmp_path):
    path = tmp_path / "gpud.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def body(daemon):
        with pytest.raises(ListenError, match="another gpud answers"):
            await Daemon(path).server.start()
        client = await daemon.client(HELLO)
        return (await client.hear())["protocol"]

    assert story(body, tmp_path) == 1


def test_a_file_that_is_no_socket_is_let_be(tmp_path):
    (tmp_path / "gpud.sock").write_text("precious")

    with pytest.raises(ListenError, match="is there already, and is not a socket"):
        story(None, tmp_path)
    assert (tmp_path / "gpud.sock").read_text() == "precious"


def test_a_place_where_no_socket_can_be_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ListenError, match=r"cannot be made: File exists \(.*/file\)") as refused:
        story(None, tmp_path / "file")
    assert "--socket" in refused.value.hint


def test_a_socket_passed_on_is_listened_on_and_left_where_it_was(tmp_path):
    path = tmp_path / "passed.sock"
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(str(path))
    passed.listen()

    async def tell():
        daemon = Daemon(path)
        await daemon.server.start(passed.detach())
        client = await daemon.client(HELLO)
        welcome = await client.hear()
        client.writer.close()
        await daemon.server.close()
        return welcome["protocol"]

    assert asyncio.run(tell()) == 1
    assert path.is_socket()


def test_groups_beyond_what_one_call_takes_are_all_there():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        groups = array.array("I", _many_groups(ours.fileno()))
        assert sorted(groups) == sorted(os.getgroups())
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            _many_groups(-1)
    assert struct.calcsize("I") == 4
