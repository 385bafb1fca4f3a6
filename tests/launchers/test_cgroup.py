"""A cgroup for each job, where they may be made; the same promises without, where not."""

import contextlib
import os
from pathlib import Path

import pytest
from launchers.workplace import TREE, Workplace

from gpud.launchers import cgroup


def delegate(name: str) -> Path | None:
    """Make a cgroup of the test's own, marked as systemd marks one; None where the machine does not let us."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            made = Path(mount.split()[4]) / name
            with contextlib.suppress(OSError):
                made.mkdir()
                os.setxattr(made, "trusted.delegate", b"1")
                return made
    return None


@pytest.fixture
def delegated(tmp_path):
    """Give a workplace, and the cgroup that its launcher process may divide, if there is one."""
    group = delegate(f"gpud-test-{os.getpid()}")
    place = Workplace(tmp_path)
    home = None
    try:
        if group is not None:
            home = group.parent / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].split("\n")[0]
            (group / "cgroup.procs").write_text("0")
        place.open()
        if group is not None:
            (home / "cgroup.procs").write_text("0")
        yield place, group
    finally:
        place.clear()
        if group is not None:
            for leaf in group.iterdir():
                if leaf.is_dir():
                    leaf.rmdir()
            group.rmdir()


def groups(group: Path) -> list[str]:
    return sorted(leaf.name for leaf in group.iterdir() if leaf.is_dir())


def test_a_job_has_its_own_cgroup_where_one_is_delegated_and_none_elsewhere(delegated):
    place, group = delegated
    job = place.shell(1, "cat /proc/self/cgroup")
    assert place.ended(job).exit_code == 0
    own = next(line for line in place.output(job).splitlines() if line.startswith("0::"))
    if group is None:
        assert own in Path("/proc/self/cgroup").read_text()
    else:
        assert own.endswith(f"/{group.name}/job-1.1")
        assert groups(group) == ["launcher"]


@pytest.mark.parametrize("killed", [False, True], ids=["shim lives", "shim killed"])
def test_a_whole_tree_is_killed_and_its_cgroup_removed(delegated, killed):
    place, group = delegated
    job = place.launch(1, "python3", "-c", TREE, str(place.state), "1000", grace_s=0.2)
    place.printed(job, "ready")
    if killed:
        os.kill(place.started(job).shim.pid, 9)
    place.stop(job)
    assert place.ended(job).signal == 9
    assert not [pid for pid in place.mine() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if group is not None:
        assert groups(group) == ["launcher"]


def test_a_cgroup_that_nobody_delegated_is_left_alone(tmp_path):
    (tmp_path / "cgroup.procs").touch(mode=0o400)
    tmp_path.chmod(0o500)
    assert not cgroup._delegated(str(tmp_path))
    tmp_path.chmod(0o700)


def test_a_memory_limit_that_killed_is_told_from_one_that_did_not(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 0\noom_group_kill 0\n")
    assert not cgroup.remove(str(tmp_path))
    events.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert cgroup.remove(str(tmp_path))
