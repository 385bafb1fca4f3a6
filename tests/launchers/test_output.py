"""What a job writes is kept, up to a bound: then the oldest of it goes, and nothing of anybody else's."""

import os

import pytest

MIB = 1 << 20
BEFORE = b"not the job's\n" * 400_000  # 5 MiB


@pytest.fixture
def log(tmp_path):
    """Give a file with something in it on a file system where a hole can be made."""
    path = tmp_path / "out"
    path.write_bytes(BEFORE)
    return path


def holds(path):
    """Return how much of the disk a file takes."""
    return path.stat().st_blocks * 512


def test_a_log_that_grows_too_long_loses_its_head_and_the_job_notices_nothing(workplace, log, tmp_path):
    done = tmp_path / "done"
    program = f"yes the-head | head -c 64M; echo the-tail; until [ -e {done} ]; do sleep 0.01; done; echo the-end"
    job = workplace.shell(1, program, output=str(log), log_max=16 * MIB)
    workplace.until(lambda: log.stat().st_size > 64 * MIB and holds(log) < 24 * MIB, "the cut")
    done.touch()

    ended = workplace.ended(job)

    assert ended.exit_code == 0
    assert ended.finding == "it wrote more than 16 MiB: the log's head was dropped"
    content = log.read_bytes()
    assert content[: len(BEFORE)] == BEFORE  # to the byte, although holes are made of whole blocks
    assert content.endswith(b"the-tail\nthe-end\n")
    assert content[len(BEFORE) + MIB :].startswith(bytes(MIB))
    kept = content[-15 * MIB :]
    assert bytes(1) not in kept


def test_a_log_within_its_bound_stays_whole_and_so_does_what_is_no_plain_file(workplace, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    program = "yes x | head -c 2M; sleep 1.5"  # longer than it is until the first look
    job = workplace.shell(1, program, log_max=4 * MIB)
    with os.fdopen(os.open(tmp_path / "fifo", os.O_RDWR), "rb", buffering=0) as reader:
        piped = workplace.shell(2, "echo hi", output=str(tmp_path / "fifo"), log_max=1)
        assert workplace.ended(piped).exit_code == 0
        assert reader.read(100) == b"hi\n"

    ended = workplace.ended(job)

    assert ended.finding is None
    assert workplace.log(job).read_bytes() == b"x\n" * MIB


def test_a_log_that_was_written_too_fast_to_be_looked_at_is_cut_at_the_end(workplace, log):
    job = workplace.shell(1, "yes x | head -c 8M", output=str(log), log_max=MIB)

    assert workplace.ended(job).finding == "it wrote more than 1 MiB: the log's head was dropped"
    assert holds(log) < len(BEFORE) + 2 * MIB
