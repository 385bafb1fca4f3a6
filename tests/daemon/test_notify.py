import os
import socket

import pytest

from gpud.notify import Notifier


@pytest.fixture
def systemd(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        yield listener


def test_systemd_hears_how_a_life_goes(systemd):
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})

    notifier.ready("4 GPUs")
    notifier.status("4 GPUs")
    notifier.status("3 jobs")
    notifier.alive()
    notifier.stopping()

    assert [systemd.recv(1000).decode() for _ in range(4)] == [
        "READY=1\nSTATUS=4 GPUs",
        "STATUS=3 jobs",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_a_reload_says_when_it_began(systemd):
    Notifier({"NOTIFY_SOCKET": systemd.getsockname()}).reloading()

    word, _, since = systemd.recv(1000).decode().partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert since.isdigit()


def test_an_abstract_socket_is_spoken_to():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0gpud-test-{os.getpid()}")
        listener.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@gpud-test-{os.getpid()}"}).alive()

        assert listener.recv(1000) == b"WATCHDOG=1"


def test_nobody_who_listens_is_no_trouble(tmp_path):
    Notifier({}).ready("alone")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("alone")


def test_a_listener_that_does_not_listen_holds_up_nothing(systemd):
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})

    for number in range(5000):
        notifier.status(str(number))


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [("2000000", None, 1.0), ("2000000", "self", 1.0), ("2000000", "1", None), ("0", None, None), ("x", None, None)],
)
def test_the_watchdog_is_fed_twice_in_its_time_and_only_ones_own(usec, pid, interval_s):
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "HOME": "/"}
    if pid is not None:
        environ["WATCHDOG_PID"] = str(os.getpid()) if pid == "self" else pid

    assert Notifier(environ).watchdog_s == interval_s
    assert environ == {"HOME": "/"}  # gpud's children shall not speak for it
