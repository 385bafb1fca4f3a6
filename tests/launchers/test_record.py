"""The record: one winner, whole or not at all, no space needed."""

import os
import subprocess
import sys

import pytest

from gpud.launchers import record

CLAIMER = """
import sys
sys.path.insert(0, sys.argv[1])
from gpud.launchers import record
sys.stdin.read()
won = record.claim(sys.argv[2], record.encode({"state": "done", "pid": __import__("os").getpid()}))
print("won" if won is not None else "lost")
"""


def test_of_many_processes_that_claim_one_attempt_exactly_one_wins(tmp_path):
    root = str(record.__file__).rpartition("/gpud/")[0]
    record.prepare(str(tmp_path))
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, root, f"{tmp_path}/1.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for rival in rivals:
        rival.stdin.close()
    answers = {rival.pid: rival.stdout.read() for rival in rivals}
    for rival in rivals:
        rival.stdout.close()
        rival.wait()

    winners = [pid for pid, answer in answers.items() if answer == b"won\n"]
    assert len(winners) == 1
    assert record.read(f"{tmp_path}/1.1") == {"state": "done", "pid": winners[0]}
    assert sorted(left.name for left in tmp_path.iterdir()) == [record.TOMBSTONE_FILE, "1.1"]


def test_what_is_buried_cannot_be_claimed_and_what_is_claimed_cannot_be_buried(tmp_path):
    record.prepare(str(tmp_path))
    assert record.bury(f"{tmp_path}/1.1")
    assert record.claim(f"{tmp_path}/1.1", record.encode({"state": record.CLAIMED})) is None
    assert record.read(f"{tmp_path}/1.1")["state"] == record.TOMBSTONE

    os.close(record.claim(f"{tmp_path}/2.1", record.encode({"state": record.DONE})))
    assert not record.bury(f"{tmp_path}/2.1")
    assert record.read(f"{tmp_path}/2.1") == {"state": record.DONE}


def test_tombstones_stay_until_the_machine_has_booted_anew(tmp_path):
    record.prepare(str(tmp_path))
    record.bury(f"{tmp_path}/1.1")
    record.prepare(str(tmp_path))
    assert record.read(f"{tmp_path}/1.1") is not None

    record.overwrite(f"{tmp_path}/{record.TOMBSTONE_FILE}", {"state": record.TOMBSTONE, "boot": "another"})
    os.close(record.claim(f"{tmp_path}/2.1", record.encode({"state": record.DONE})))
    (tmp_path / ".rehearsal.7.saves").mkdir()  # of a launcher process that was killed
    record.prepare(str(tmp_path))
    assert record.read(f"{tmp_path}/1.1") is None
    assert not (tmp_path / ".rehearsal.7.saves").exists()
    assert record.read(f"{tmp_path}/2.1") is not None


@pytest.mark.parametrize("reason", ["", "no such command: x", "ä" * 300, "\udc80" * 600, '"' * 600])
def test_a_record_is_512_bytes_whatever_its_reason(reason):
    written = {"state": "done", "pid": 4194304, "fault": [reason, True, False], "boot": "0" * 36, "at": 1.8e9}
    raw = record.encode(written)
    read = record.decode(raw)

    assert len(raw) == record.SIZE
    assert reason.startswith(read["fault"][0])
    assert read | {"fault": None} == written | {"fault": None}


def test_of_what_a_record_says_beside_the_end_the_least_needed_goes_first():
    written = {"state": "done", "status": 1, "finding": "cuda out of memory", "containers": "stopped x" * 60}
    read = record.decode(record.encode(written | {"docker": "/var/run/docker.sock"}))

    assert written["containers"].startswith(read["containers"])
    assert read["containers"]
    assert read | {"containers": None} == written | {"containers": None}


def test_a_record_of_which_a_byte_has_flipped_is_none():
    raw = record.encode({"state": "done", "status": 0})
    flipped = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw.rstrip()))]
    assert [record.decode(wrong) for wrong in flipped] == [None] * len(flipped)


def test_a_damaged_record_is_told_from_a_missing_one(tmp_path):
    (tmp_path / "1.1").write_bytes(b"\0" * record.SIZE)
    with pytest.raises(ValueError, match="damaged"):
        record.read(f"{tmp_path}/1.1")
    assert record.read(f"{tmp_path}/2.1") is None


@pytest.mark.parametrize(
    "content",
    [
        [1],
        1,
        {"state": "claimed"},
        {"state": "tombstone"},
        {"state": []},
        {"state": "done", "fault": ["x"]},
        {"state": "done", "tmp": ["/tmp/x"]},
        {"pid": "1"},
    ],
)
def test_a_right_checksum_makes_no_record_of_what_is_none(content):
    assert record.decode(record.encode(content)) is None


def test_what_is_over_and_nobody_knows_of_is_removed_and_nothing_else(tmp_path):
    record.prepare(str(tmp_path))
    about = {"boot": record.boot_id(), "zygote": [1, 1], "shim": [1, 1], "pid": 1, "start": 1}
    about |= {"at": 0.0, "offset": 0.0, "grace_s": 1.0, "limit_at": None}
    there = {
        "1.1": about | {"state": record.DONE},
        "2.1": about | {"state": record.DONE},  # known: its end has not been told
        "3.1": about | {"state": record.CLAIMED},  # it runs
        "4_7.2": about | {"state": record.CLAIMED, "boot": "another"},
        "0_3.1": about | {"state": record.DONE},  # a delivery's
    }
    for name, content in there.items():
        os.close(record.claim(f"{tmp_path}/{name}", record.encode(content)))
    record.bury(f"{tmp_path}/5.1")
    record.set_limit(f"{tmp_path}/1.1", 5.0, None)

    record.clear(str(tmp_path), {"2.1"})

    left = {path.name for path in tmp_path.iterdir()}
    assert left == {record.TOMBSTONE_FILE, "2.1", "3.1", "0_3.1", "5.1"}
