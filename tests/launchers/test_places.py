"""What is one attempt's own while it runs: a TMPDIR, a port, a place for what it saves and for how far it is."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from launchers.workplace import Workplace, died, kill

from gpud.launchers import record

WAITS = 'echo "$TMPDIR $MASTER_PORT $PET_MASTER_PORT"; read x < gate'


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory with a short name: what lies below has to fit into the address of a socket."""
    made = Path(tempfile.mkdtemp(prefix="gpud-t"))
    yield made
    shutil.rmtree(made)


def run(workplace: Workplace, number: int, script: str, scratch: Path, uid: int | None = None, **variables: str):
    environment = {"PATH": os.environ["PATH"], "HOME": str(workplace.state), "TMPDIR": str(scratch), **variables}
    return workplace.shell(number, script, environment=environment, private=True, uid=uid)


def told(workplace: Workplace, number: int, script: str, scratch: Path, **how: str) -> list[str]:
    """Return the words that a job prints."""
    job = run(workplace, number, script, scratch, **how)
    assert workplace.ended(job).exit_code == 0, workplace.output(job)
    return workplace.output(job).split()


def empty(workplace: Workplace, scratch: Path) -> bool:
    return workplace.until(lambda: not [*scratch.iterdir()], "the end of what was left")


def test_a_tmpdir_is_the_jobs_own_below_its_submitters_and_goes_with_it(workplace, scratch):
    script = 'mkdir -p "$TMPDIR/a/b"; echo x > "$TMPDIR/a/b/c"; stat -c "%n %a" "$TMPDIR"'
    path, mode = told(workplace, 1, script, scratch)
    assert mode == "700"
    assert Path(path).parent == scratch
    assert Path(path).name.startswith("gpud-1.1-")
    assert empty(workplace, scratch)


def test_sockets_have_room_in_it_as_multiprocessing_makes_them(workplace, scratch):
    script = 'python3 -c "import multiprocessing; print(multiprocessing.Manager().list([7])[0])"'
    assert told(workplace, 1, script, scratch) == ["7"]
    assert empty(workplace, scratch)


def test_what_a_job_points_to_from_its_tmpdir_stays(workplace, scratch, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "data").touch()
    told(workplace, 1, f'ln -s {kept} "$TMPDIR/link"; rm -rf "$TMPDIR.gone"', scratch)
    assert empty(workplace, scratch)
    assert (kept / "data").exists()


@pytest.mark.parametrize("where", ["/no/such", "relative", "/" + "x" * 100])
def test_where_no_tmpdir_can_be_made_the_submitters_stays(workplace, where):
    job = workplace.shell(1, 'echo "$TMPDIR"', environment={"PATH": os.environ["PATH"], "TMPDIR": where}, private=True)
    workplace.ended(job)
    assert workplace.output(job).strip() == where


def test_a_job_that_could_not_start_leaves_no_tmpdir(workplace, scratch):
    environment = {"PATH": "/bin", "TMPDIR": str(scratch)}
    job = workplace.launch(1, "/no/such/program", environment=environment, private=True)
    assert workplace.ended(job).fault
    assert empty(workplace, scratch)


@pytest.mark.parametrize("content", ["", 'touch "$TMPDIR/x"; '])
def test_the_tmpdir_of_a_job_whose_shim_was_killed_goes_as_well(workplace, scratch, content):
    os.mkfifo(workplace.state / "gate")
    job = run(workplace, 1, content + WAITS, scratch)
    workplace.printed(job, str(scratch))
    kill(workplace.started(job).shim.pid)
    (workplace.state / "gate").write_text("\n")
    assert workplace.ended(job).exit_code == 0
    assert empty(workplace, scratch)


@pytest.mark.parametrize("what", ["everybody killed", "record gone", "rebooted"])
def test_the_tmpdir_goes_where_nobody_is_left_who_knows_it_and_no_other_does(workplace, scratch, what):
    anothers = scratch / "gpud-1.1-000000"  # of another gpud's first job
    anothers.mkdir()
    os.mkfifo(workplace.state / "gate")
    job = run(workplace, 1, f'touch "$TMPDIR/x"; {WAITS}', scratch)
    workplace.printed(job, str(scratch))
    started = workplace.started(job)
    path = f"{workplace.state}/records/1.1"
    if what == "everybody killed":
        for pid in (workplace.launcher.pid, started.shim.pid, started.process.pid):
            kill(pid)
    elif what == "record gone":
        Path(path).unlink()
        (workplace.state / "gate").write_text("\n")
    else:
        workplace.close()
        for pid in (workplace.zygotes[-1], started.shim.pid, started.process.pid):
            kill(pid)
        record.overwrite(path, workplace.record(job) | {"boot": "another"})
        workplace.open()
        workplace.look(job, boot="another")
    workplace.ended(job)
    assert workplace.until(lambda: [*scratch.iterdir()] == [anothers], "the end of what was left")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become others")
def test_a_user_who_puts_another_place_there_has_only_their_own_removed(workplace, scratch):
    user = 60_001
    victim = scratch / "victim"
    victim.mkdir()
    (victim / "data").touch()
    theirs = scratch / "theirs"
    theirs.mkdir()
    os.chown(theirs, user, user)
    for path in (scratch, workplace.state, *workplace.state.parents[:3]):
        path.chmod(0o755)
    (workplace.state / "logs").mkdir()
    os.chown(workplace.state / "logs", user, user)
    os.mkfifo(scratch / "gate")
    (scratch / "gate").chmod(0o666)
    script = f'touch "$TMPDIR/x"; mv {theirs} {theirs}.old && ln -s {victim} {theirs} && echo swapped; read x < gate'
    scratch.chmod(0o777)
    environment = {"PATH": "/bin:/usr/bin", "TMPDIR": str(theirs)}
    job = workplace.shell(1, script, environment=environment, private=True, uid=user, workdir=str(scratch))
    workplace.printed(job, "swapped")
    mine = victim / next(path.name for path in Path(f"{theirs}.old").iterdir())
    mine.mkdir()  # of root's, where the user's path leads now
    (mine / "y").touch()
    (scratch / "gate").write_text("\n")
    assert workplace.ended(job).exit_code is not None
    assert died(workplace.started(job).shim.pid)  # which removes what it may
    assert (mine / "y").exists()


def test_a_job_of_a_job_has_its_tmpdir_beside_and_ports_of_its_own(workplace, scratch):
    outer = {"GPUD_JOB_ID": "7_3", "GPUD_JOB_PORT": "1", "MASTER_PORT": "1", "PET_MASTER_PORT": "1"}
    tmp, *ports = told(
        workplace, 1, 'echo "$TMPDIR $MASTER_PORT $PET_MASTER_PORT"', scratch / "gpud-7_3.1-abcdef", **outer
    )
    assert Path(tmp).parent == scratch
    assert "1" not in ports


def test_jobs_at_once_have_ports_that_differ_and_can_be_listened_on(workplace, scratch):
    os.mkfifo(workplace.state / "gate")
    jobs = [run(workplace, number, WAITS, scratch) for number in range(1, 9)]
    ports = []
    for job in jobs:
        _, master, torchrun = workplace.printed(job, "\n").split()
        assert master == torchrun
        ports.append(int(master))
    assert len({*ports}) == 8
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for port in ports:
        assert not low <= port <= high or low < 21_000
        with socket.create_server(("", port)):
            pass
    for job in jobs:
        workplace.stop(job)
        workplace.ended(job)


def test_a_port_that_the_submitter_chose_is_used(workplace, scratch):
    words = told(workplace, 1, 'echo "$MASTER_PORT $PET_MASTER_PORT"', scratch, MASTER_PORT="4711")
    assert words[0] == "4711"
    assert words[1] != "4711"


def test_a_gang_meets_on_its_first_node_and_others_are_told_no_address(workplace, scratch):
    gang = {"GPUD_NODES": "a,b", "MASTER_ADDR": "a", "GPUD_JOB_ID": "1"}  # told to an outer job, not to this one
    assert told(workplace, 1, 'echo "x$MASTER_ADDR"', scratch, **gang) == ["x"]


def test_what_a_job_saves_outlives_its_attempts_and_an_empty_place_does_not(workplace, scratch):
    saves = run(workplace, 1, 'echo 7 > "$GPUD_CHECKPOINT_DIR/step"; exit 1', scratch)
    workplace.ended(saves)
    environment = {"PATH": os.environ["PATH"]}
    again = workplace.shell(1, 'cat "$GPUD_CHECKPOINT_DIR/step"', attempt=2, environment=environment, private=True)
    workplace.ended(again, attempt=2)
    assert workplace.log(again, attempt=2).read_text() == "7\n"
    told(workplace, 2, 'echo 1/2 > "$GPUD_PROGRESS_FILE"; test -d "$GPUD_CHECKPOINT_DIR"', scratch)
    assert [path.name for path in (workplace.state / "checkpoints").iterdir()] == ["1"]
    assert not [*(workplace.state / "progress").iterdir()]


def test_a_record_has_room_for_the_longest_tmpdir_and_all_else(workplace, scratch):
    base = scratch / ("x" * (80 - len("/gpud-16777216_1234567.1000-abcdef") - len(str(scratch)) - 1))
    base.mkdir()
    worst = {
        "state": record.ENDED, "boot": record.boot_id(), "zygote": [4194304, 10**12], "shim": [4194304, 10**12],
        "pid": 4194304, "start": 10**12, "at": 1790000000.123456, "offset": 1790000000.123456,
        "limit_at": 123456789.123, "grace_s": 86400.5, "hears": True, "within": True, "fence": "landlock",
        "checkpoint": [10, 1800.25, 12345.125, "script"], "tmp": ["x" * 80, 4294967294, 4294967294],
        "status": -15, "ended": 1790000000.1234567,
    }  # fmt: skip
    assert record.decode(record.encode(worst)) == worst
    assert told(workplace, 1, 'echo "$TMPDIR"', base)[0].startswith(str(base))


def test_what_a_launcher_process_left_that_was_killed_as_it_began_goes_with_the_next(workplace):
    left, with_something = (Path(tempfile.mkdtemp(prefix="gpud--", dir="/tmp")) for _ in range(2))
    (with_something / "file").touch()
    workplace.reopen()
    workplace.ended(workplace.launch(1, "true"))
    assert (left.exists(), with_something.exists()) == (False, True)
    shutil.rmtree(with_something)
