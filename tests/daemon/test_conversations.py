"""What was said in each version of the protocol, byte for byte, must still be understood and answered.

`tests/wire/protocol_N.txt` holds a conversation with a gpud of that time: `>` and a frame the client sent, `<` and
the frame that answered it (both in hex), `*` and the kind of event that a subscriber then waited for. It is recorded
once, when version N is released, and never changed:

    python tests/daemon/test_conversations.py > tests/wire/protocol_N.txt
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpud.wire.codec import PROTOCOL, Frames, pack, unpack

RECORDED = sorted((Path(__file__).parent.parent / "wire").glob("protocol_*.txt"))
TIMEOUT_S = 30


@contextmanager
def a_gpud(folder):
    """A real gpud of its own, on four simulated GPUs of two nodes; yields its socket's path."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GPUD_", "XDG_"))}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(f"{folder}/notify")
        notified.settimeout(TIMEOUT_S)
        process = subprocess.Popen(
            [sys.executable, "-m", "gpud", "--simulate", "2x2xRTX4090", "--state-dir", f"{folder}/state"],
            env={**environ, "HOME": str(folder), "NOTIFY_SOCKET": f"{folder}/notify"},
            cwd=Path(__file__).parent.parent.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while "READY=1" not in notified.recv(4096).decode():
                pass
            yield f"{folder}/state/gpud.sock"
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log


class Line:
    """A connection on which raw frames are said, and the answer to each is waited for."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(path)
        self.frames = Frames()
        self.unheard = []

    def ask(self, frame):
        """The answer, with the pushes before it put aside."""
        self.socket.sendall(frame)
        asked = unpack(frame[4:]).get("id")
        return self.until(lambda message: "event" not in message and message.get("id") == asked)

    def event(self, kind):
        """The next pushed event of a kind."""
        return self.until(lambda message: message.get("event", {}).get("kind") == kind)

    def until(self, wanted):
        while True:
            for message in self.unheard:
                if wanted(message):
                    self.unheard.remove(message)
                    return message
            data = self.socket.recv(1 << 16)
            assert data, "gpud hung up"
            self.unheard += self.frames.feed(data)


# Maps whose keys are what there is to tell, not what a client asks for: of them, one value is like another.
TALLIES = {"notes", "array_counts", "labels", "detail", "jobs", "gpus", "launcher"}


def unlike(then, now, where="answer"):
    """Where an answer of today lacks what a client of then reads; empty if nowhere. More keys are no harm."""
    if then is None or now is None:
        return []
    if isinstance(then, dict) and isinstance(now, dict) and where.rpartition(".")[2] in TALLIES:
        then, now = list(then.values()), list(now.values())
    if isinstance(then, dict) and isinstance(now, dict):
        found = [f"{where} has no {key}" for key in then if key not in now]
        for key in then.keys() & now.keys():
            found += unlike(then[key], now[key], f"{where}.{key}")
        return found
    if isinstance(then, list) and isinstance(now, list):
        return unlike(then[0], now[0], f"{where}[0]") if then and now else []
    numbers = {type(then), type(now)} <= {int, float}
    return [] if numbers or type(then) is type(now) else [f"{where} was {then!r}, is {now!r}"]


@pytest.mark.parametrize(
    ("then", "now", "found"),
    [
        ({"a": 1}, {"a": 2.5, "b": None}, []),
        ({"a": 1}, {"a": None}, []),
        ({"a": 1}, {}, ["answer has no a"]),
        ({"a": [{"b": True}]}, {"a": [{"b": 1}]}, ["answer.a[0].b was True, is 1"]),
        ({"a": {"b": "x"}}, {"a": {"b": 1}}, ["answer.a.b was 'x', is 1"]),
        ({"notes": {"12": "x"}}, {"notes": {"13": "y"}}, []),
        ({"notes": {"12": "x"}}, {"notes": ["y"]}, ["answer.notes was {'12': 'x'}, is ['y']"]),
    ],
)
def test_an_answer_that_an_old_client_could_not_read_is_noticed(then, now, found):
    assert unlike(then, now) == found


@pytest.mark.parametrize("spoken", [[0, 0], [0, 1], [1, 1], [1, 2], None], ids=str)
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_a_conversation_of_a_released_version_can_still_be_had(tmp_path, recorded, spoken):
    with a_gpud(tmp_path) as path:
        line = Line(path)
        asked = None
        for text in recorded.read_text().splitlines():
            mark, _, rest = text.partition(" ")
            if mark == ">":
                asked = bytes.fromhex(rest)
                if spoken is not None and "protocol" in unpack(asked[4:]):
                    asked = pack({"protocol": spoken})
                answer = line.ask(asked)
            elif mark == "<":
                then = unpack(bytes.fromhex(rest)[4:])
                assert unlike(then, answer) == []
                assert then.get("ok") == answer.get("ok")
                assert then.get("error", {}).get("code") == answer.get("error", {}).get("code")
            elif mark == "*":
                line.event(rest)
        line.socket.close()
    assert asked is not None


def test_the_version_spoken_now_is_among_the_recorded():
    assert f"protocol_{PROTOCOL}" in [path.stem for path in RECORDED]


SUBMIT = {
    "op": "submit",
    "nonce": "recorded-1",
    "demand": {"gpus": 1, "gpu_memory_mib": 20480, "gpu_type": "*4090*", "cpus": 1, "memory_mib": 512},
    "command": ["sh", "-c", "echo $GPUD_JOB_ID"],
    "workdir": "/",
    "environment": {"PATH": "/usr/bin:/bin", "NOT_UTF8": "\udcff"},
    "umask": 0o22,
    "limits": {"NOFILE": [1024, 4096], "CORE": [0, -1]},
    "name": "recorded",
    "priority": 0,
    "time_limit_s": 60.0,
    "grace_s": 1,
    "retries": 1,
    "labels": {"made": "once"},
    "next": True,
}
HELD = {**SUBMIT, "nonce": "recorded-2", "hold": True, "command": ["sleep", "60"]}
SCRIPT = {**SUBMIT, "nonce": "recorded-3", "script": b"#!/bin/sh\nsleep 60\n", "command": ["/tmp/job.sh", "1"]}
ARRAY = {**HELD, "nonce": "recorded-4", "array": "0-9%2", "begin_at": 4_000_000_000.0}
CONVERSATION = [
    {"protocol": [0, 1], "version": "0.1.0"},
    {"op": "ping"},
    {"op": "gpus"},
    {"op": "nodes"},
    {"op": "subscribe", "readings": False},
    SUBMIT,
    "completed",
    {**SUBMIT, "retry": True},
    {**SUBMIT, "nonce": "recorded-0", "dry_run": True},
    HELD,
    SCRIPT,
    "running",
    ARRAY,
    {"op": "list"},
    {"op": "list", "all": True, "mine": True, "state": ["held"], "name": "recorded", "since": 0.0, "limit": 5},
    {"op": "show", "job": "1"},
    {"op": "show", "job": "4"},
    {"op": "why"},
    {"op": "why", "job": "2", "limit": 1},
    {"op": "priority", "select": {"jobs": ["2"]}, "priority": -1},
    {"op": "release", "select": {"jobs": ["2"]}},
    {"op": "hold", "select": {"jobs": ["4"], "mine": True}},
    {"op": "interrupt", "select": {"jobs": ["3"]}},
    {"op": "cancel", "select": {"jobs": ["2-4"]}, "force": True},
    "cancelled",
    "cancelled",
    "cancelled",
    {"op": "requeue", "select": {"jobs": ["1"]}},
    "completed",
    {"op": "cancel", "select": {"jobs": ["1"]}},
    {"op": "drain", "targets": ["sim-1:0"], "reason": "recorded"},
    {"op": "gpus", "fresh": True},
    {"op": "undrain", "targets": ["sim-1:0"]},
    {"op": "pause", "reason": "recorded"},
    {"op": "status"},
    {"op": "resume"},
    {"op": "events", "since": 0, "jobs": ["1"], "limit": 5},
    {"op": "show", "job": "99"},
    {"op": "drain", "targets": ["sim-9"]},
    {"op": "list", "lmit": 5},
    {**SUBMIT, "nonce": "recorded-5", "demand": {"gpus": 9}},
]


def record():
    """Write down a conversation with the gpud of today."""
    lines = [f"# Recorded with protocol {PROTOCOL}; see tests/daemon/test_conversations.py."]
    with tempfile.TemporaryDirectory(prefix="gpud-") as folder, a_gpud(folder) as path:
        line = Line(path)
        for number, step in enumerate(CONVERSATION):
            if isinstance(step, str):
                line.event(step)
                lines.append(f"* {step}")
                continue
            frame = pack({**step, "id": number} if "op" in step else step)
            answer = line.ask(frame)
            refused = f", refused: {answer['error']['message']}" if "error" in answer else ""
            lines += [f"# {step.get('op', 'hello')}{refused}", f"> {frame.hex()}", f"< {pack(answer).hex()}"]
        line.socket.close()
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    record()
