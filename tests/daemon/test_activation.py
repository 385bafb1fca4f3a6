"""gpud on a socket that systemd holds (sd_listen_fds(3)): what is asked while it is away waits, and is answered."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from gpud_process import WITHIN_S, until

from gpuctl.client import Client, TurnedAwayError
from gpuctl.errors import UnreachableError


@pytest.fixture
def activated(a_gpud, tmp_path):
    """A gpud that is not started yet, and its socket, which this test holds in systemd's place."""
    path = tmp_path / "held.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        # As number 3, with the variables that name the process which it is for.
        script = f'exec 3<&{held.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=gpud.socket exec "$@"'
        gpud = a_gpud("--simulate", "2xA10", before=("bash", "-c", script, "bash"), started=False)
        gpud.handed = (held.fileno(),)
        gpud.socket = str(path)
        yield gpud
        gpud.kill()  # before the socket goes: who asks at the end would wait for ever


def test_what_is_asked_while_it_is_away_is_answered_when_it_comes(activated):
    with ThreadPoolExecutor(1) as other, Client(activated.socket) as early:
        asked = other.submit(early.request, "status")
        activated.start()
        assert asked.result(WITHIN_S)["socket"] == activated.socket

        activated.stop()
        late = Client(activated.socket)
        asked = other.submit(late.request, "submit", **activated.request_of("true"))
        activated.start()
        job = asked.result(WITHIN_S)["job"]
        late.close()

    assert activated.ended(job)["state"] == "completed"
    assert not os.path.exists(f"{activated.socket}.stopped")  # noqa: PTH110 - a name beside it
    assert activated.stop() == 0


def test_who_waits_for_one_that_cannot_start_is_told_why(activated):
    activated.options = ("--simulate", "2xA10", "--policy", "none")
    with ThreadPoolExecutor(1) as other, Client(activated.socket) as client:
        asked = other.submit(client.request, "ping")
        activated.start(ready=False)
        with pytest.raises(TurnedAwayError, match="unknown policy 'none'") as told:
            asked.result(WITHIN_S)

    assert isinstance(told.value, UnreachableError)
    assert "fair_share" in told.value.hint
    assert activated.process.wait(WITHIN_S) == 2


def test_a_name_that_vanished_is_made_anew(activated):
    activated.start()
    os.unlink(activated.socket)  # noqa: PTH108 - a name
    until(lambda: os.path.exists(activated.socket))  # noqa: PTH110 - as above
    with Client(activated.socket) as client:
        assert client.request("status")["pid"] == activated.pid


def test_what_is_no_listening_socket_is_said(activated, tmp_path):
    with (tmp_path / "file").open("w") as file:
        activated.handed = (file.fileno(),)
        script = f'exec 3>&{file.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        activated.before = ("bash", "-c", script, "bash")
        activated.start(ready=False)
        assert activated.process.wait(WITHIN_S) == 1
    assert "gpud: " in activated.said()
