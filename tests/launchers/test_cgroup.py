"""A cgroup for each job, where they may be made; the same promises without, where not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launchers.workplace import TREE

from gpud.launchers import cgroup
from gpud.launchers.leases import Leases


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


@pytest.fixture
def stand_in(tmp_path):
    """Give a directory that looks like a job's cgroup with the cpuset controller, and one of NUMA nodes."""
    group, nodes = tmp_path / "job-1.1", tmp_path / "nodes"
    group.mkdir()
    (group / "cpuset.cpus").write_text("\n")
    for number, cpus in enumerate(("0-3,8\n", "4-7,9\n")):
        (nodes / f"node{number}").mkdir(parents=True)
        (nodes / f"node{number}" / "cpulist").write_text(cpus)
    return group, nodes


def test_the_cpus_next_to_a_jobs_gpus_are_chosen_first(stand_in, monkeypatch):
    group, nodes = stand_in
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1, 10)))

    def choices(*numa):
        return cgroup.choices(str(group), numa, str(nodes))

    assert choices() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert choices(1) == [4, 5, 6, 7, 9, 1, 2, 3, 8]
    assert choices(0, 1) == choices(7) == choices()
    (group / "cpuset.cpus").unlink()
    assert choices(1) == []


def test_a_cpu_is_one_jobs_until_that_ends_and_too_few_are_none():
    one, two = Leases(), Leases()
    assert one.hold_cpus([9_003, 9_001, 9_002], 2) == [9_003, 9_001]
    assert two.hold_cpus([9_001, 9_002, 9_003, 9_004], 2) == [9_002, 9_004]
    assert two.hold_cpus([9_001, 9_005], 2) == []
    for each in one.take():  # as for a killed shim
        each.close()
    one.release()
    assert two.hold_cpus([9_001, 9_005], 2) == [9_001, 9_005]
    two.release()
    for each in (one, two):
        each.close()


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (0, 0), (100_000, 0)])
def test_a_job_that_asked_for_cpus_gets_as_many_and_every_other_job_runs_anywhere(stand_in, asked, given):
    group, _ = stand_in
    program = """if True:
        import os, resource, signal, socket, sys
        from gpud.launchers import record, shim
        from gpud.launchers.leases import Leases
        from gpud.launchers.output import Bounds
        records, group, cpus = sys.argv[1:]
        signal.pthread_sigmask(signal.SIG_BLOCK, shim.SIGNALS)
        blobs = os.memfd_create("blobs")
        os.write(blobs, b"{}")
        limits = {"NOFILE": resource.getrlimit(resource.RLIMIT_NOFILE)}
        order = shim.NOTHING | {"record": records + "/1.1", "limits": limits, "cgroup": group, "cpus": int(cpus)}
        lineage = {"zygote": [1, 1], "boot": record.boot_id(), "shim": [1, 1]}
        talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shim.Shim(order, blobs, talk, lineage, Leases(), Bounds(), lambda: None).run()
        print(record.read(order["record"])["status"])
    """
    words = [sys.executable, "-c", program, str(group.parent), str(group), str(asked)]

    done = subprocess.run(words, timeout=30, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("1\n", "")  # `false` ran
    cpus = (group / "cpuset.cpus").read_text().split()
    assert len(cpus) == given
    assert {int(cpu) for cpu in cpus} <= os.sched_getaffinity(0)


def test_what_joins_a_job_is_where_it_is_and_ends_with_it_at_the_latest(delegated):
    place, group = delegated
    if group is None:
        pytest.skip("no cgroup (version 2) can be made here, so none can be joined")
    job = place.shell(1, "sleep 1000")
    place.started(job)
    short = place.shell(2, "cat /proc/self/cgroup", beside="1.1")
    assert place.ended(short).exit_code == 0
    assert f"/{group.name}/job-1.1" in place.output(short)
    assert groups(group) == ["job-1.1", "launcher"]  # and it has not taken the job's with it
    lasting = place.shell(3, "echo here; sleep 1000", beside="1.1")
    place.printed(lasting, "here")

    place.stop(job)

    assert place.ended(job).signal == 15
    assert place.ended(lasting).signal == 9
    place.until(lambda: groups(group) == ["launcher"], "an empty place")
    late = place.shell(4, "true", beside="1.1")
    assert "has ended" in place.ended(late).fault.reason


def test_what_a_jobs_cgroup_can_do_depends_on_what_was_handed_down(tmp_path):
    assert (cgroup.controllers(str(tmp_path)), cgroup.peak_mib(str(tmp_path))) == ([], None)
    (tmp_path / "cgroup.subtree_control").write_text("cpu io memory pids\n")
    (tmp_path / "memory.peak").write_text("62914560\n")
    (tmp_path / "cpu.weight").write_text("100\n")

    assert (cgroup.controllers(str(tmp_path)), cgroup.peak_mib(str(tmp_path))) == (["memory", "cpu"], 60)
    for cpus, weight in ((1, "100"), (4, "400"), (400, "10000")):
        cgroup.weigh(str(tmp_path), cpus)
        assert (tmp_path / "cpu.weight").read_text().split()[0] == weight


def test_a_service_whose_place_for_jobs_is_not_there_does_without(monkeypatch, tmp_path):
    """Below its own cgroup no launcher could follow it while a job runs."""
    own = tmp_path / "gpud-launcher.service"
    own.mkdir()
    (own / "cgroup.procs").touch()
    monkeypatch.setattr(cgroup, "_own", lambda: str(own))
    monkeypatch.setattr(cgroup, "_delegated", os.path.isdir)
    assert cgroup.divide() is None
    own.with_name("gpud-jobs.service").mkdir()
    assert (own.with_name("gpud-jobs.service") / "cgroup.procs").write_text("") == 0
    assert cgroup.divide() == str(tmp_path / "gpud-jobs.service")
