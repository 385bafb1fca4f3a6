"""`gpuctl doctor` says what is wrong with a machine, and what to do, one line each."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import pytest
from cli.conftest import Gpuctl

from gpuctl.checks import running
from gpuctl.checks.finding import Patient
from gpuctl.client import Client
from gpuctl.session import Session


@pytest.fixture
def findings(alone):
    def ask(**environ):
        done = alone("--json", "doctor", environ=environ)
        return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}

    return ask


def test_every_part_of_a_machine_is_looked_at(alone, findings):
    status, found = findings()

    assert status == 0
    assert {"python", "GPUs", "clock", "state", "disk", "gpud", "units", "RemoveIPC"} <= found.keys() | {"RemoveIPC"}
    assert {each["result"] for each in found.values()} <= {"ok", "warning"}
    lines = alone.ok("doctor").splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == len(found)
    assert all(each["hint"] for each in found.values() if each["result"] != "ok")


def test_a_state_directory_that_others_may_read_is_said(alone, findings):
    alone.state.mkdir(mode=0o755)
    alone.state.chmod(0o755)

    found = findings()[1]["permissions"]

    assert found["result"] == "warning"
    assert found["hint"] == f"chmod 700 {alone.state}"


def test_what_keeps_ones_own_gpud_from_starting_is_said_whatever_its_socket_is_named_by(alone):
    alone.state.mkdir(mode=0o700)
    (alone.state / "gpud.db").write_bytes(b"no database" * 1000)
    for words in ((), ("--socket", str(alone.state / "gpud.sock"))):
        done = alone(*words, "--json", "doctor")
        found = {each["check"]: each for each in json.loads(done.stdout)}
        assert done.returncode == 1
        assert "gpud.db is damaged" in found["configuration"]["message"]
        assert "put a backup in its place" in found["configuration"]["hint"]
        assert "systemctl" not in (found["gpud"]["hint"] or "")


def test_another_program_called_gpud_and_a_misspelt_variable_are_said(alone, findings):
    folder = alone.directory / "bin"
    folder.mkdir()
    (folder / "gpud").write_text("#!/bin/sh\necho lepton\n")
    (folder / "gpud").chmod(0o755)

    found = findings(PATH=f"{folder}:{alone.environ['PATH']}", GPUD_SOKET="/run/lab.sock")[1]

    assert (found["name"]["result"], found["configuration"]["result"]) == ("warning", "warning")
    assert f"{folder}/gpud is another program" in found["name"]["message"]
    assert "did you mean 'socket'?" in found["configuration"]["message"]


def test_a_gpud_that_does_not_answer_is_named(a_gpud):
    gpud = a_gpud("--simulate", "2xRTX4090", warm=False)  # by whose command line it is known
    gpuctl = Gpuctl(gpud)
    os.unlink(gpud.socket)  # noqa: PTH108 - a name
    gpud.signal(signal.SIGSTOP)  # so that it does not make it anew
    try:
        done = gpuctl("doctor")
    finally:
        gpud.signal(signal.SIGCONT)

    assert done.returncode == 1
    assert f"process {gpud.pid} has the state directory, and does not answer" in done.stdout


def test_a_gpud_that_was_stopped_is_named_to_who_waits_and_not_waited_for_by_doctor(monkeypatch, gpud):
    monkeypatch.setattr("gpuctl.client.SILENT_S", 0.2)
    patient, said = Patient(Session(), None, None, system=False), Queue()
    patient.session.socket = str(gpud.socket)
    gpud.signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        try:
            [found] = running.daemon(patient)
            answer = pool.submit(Client(patient.session.socket, told=said.put).request, "status")
            told = said.get(timeout=30)
        finally:
            gpud.signal(signal.SIGCONT)

    assert answer.result()["pid"] == gpud.pid
    assert (found.result, found.message) == ("problem", told)
    assert f"process {gpud.pid}) has not answered" in told
    assert f"it is stopped; kill -CONT {gpud.pid} lets it go on" in told
