"""A launcher process of its own unit: it serves one gpud after the other, and outlives them all."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from launchers.workplace import Workplace, clock, died, kill

from gpud.launchers.link import command
from gpud.launchers.local import LocalLauncher


@pytest.fixture(params=["", "d" * 120])
def listening(request, tmp_path):
    """Give a workplace whose launcher process was started by somebody else; also where no address holds its path."""
    state = tmp_path / request.param
    state.mkdir(exist_ok=True)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(f"\0gpud-test-{os.getpid()}-{tmp_path.name}")
    notices.settimeout(10)
    process = subprocess.Popen(
        command(listen=f"{state}/launcher.sock", records=f"{state}/records"),
        env=os.environ | {"NOTIFY_SOCKET": f"@gpud-test-{os.getpid()}-{tmp_path.name}"},
    )
    made = Workplace(state)
    try:
        assert notices.recv(100) == b"READY=1"
        made.listener = process
        yield made.open(spawns=False)
    finally:
        notices.close()
        kill(process.pid)
        process.wait()
        made.zygotes.clear()
        made.clear()


def test_it_is_used_where_it_listens_and_survives_gpud(listening):
    job = listening.shell(1, "echo ready; sleep 1000")
    listening.printed(job, "ready")
    started = listening.started(job)
    assert listening.launcher.pid == listening.listener.pid

    listening.close()
    listening.open(spawns=False)
    assert listening.launcher.pid == listening.listener.pid
    listening.look(job)
    assert listening.until(lambda: [o for o in listening.seen if o == started][1:])
    assert listening.ended(listening.shell(2, "exit 5")).exit_code == 5

    kill(started.shim.pid)
    listening.stop(job)
    assert listening.ended(job).signal == 15


def test_its_socket_is_for_its_own_user_alone(listening):
    assert (listening.state / "launcher.sock").stat().st_mode & 0o777 == 0o600


def test_where_none_listens_a_gpud_that_may_not_spawn_says_so(tmp_path):
    launcher = LocalLauncher(str(tmp_path), clock=clock, spawns=False)
    with pytest.raises(ConnectionRefusedError, match="no launcher process listens"):
        asyncio.run(launcher.start(print))


def test_while_it_is_away_launches_are_the_machines_fault_and_then_it_is_found_again(listening):
    kill(listening.listener.pid)
    assert died(listening.listener.pid)
    listening.until(lambda: listening.launcher.pid is None)
    assert listening.ended(listening.launch(1, "true")).fault.machine
    listening.listener.wait()
    again = subprocess.Popen(
        command(listen=f"{listening.state}/launcher.sock", records=f"{listening.state}/records"), env=dict(os.environ)
    )
    try:
        listening.until(lambda: listening.launcher.pid == again.pid)
        assert listening.ended(listening.launch(2, "true")).exit_code == 0
    finally:
        kill(again.pid)
        again.wait()


def test_it_hears_that_it_is_to_end_while_it_still_rehearses(tmp_path):
    """Else a unit that is restarted twice in a row hangs, for as long as systemd waits for an end."""
    (records := tmp_path / "records").mkdir(0o700)
    process = subprocess.Popen(command(listen=f"{tmp_path}/launcher.sock", records=str(records)))
    try:
        until = time.monotonic() + 20
        while not any(".rehearsal." in each.name for each in records.iterdir()):
            assert time.monotonic() < until
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        blocked = int(status["SigBlk"], 16)
        assert not blocked & 1 << signal.SIGTERM - 1
        process.terminate()
        process.send_signal(signal.SIGCONT)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
