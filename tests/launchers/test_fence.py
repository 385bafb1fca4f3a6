"""A job opens the device nodes of its own GPUs and no other's; all else is as it is outside.

No GPU is needed: the kernel asks a fence by the numbers of a node, before any driver. A stand-in that may be opened
says that it has none (ENXIO), one that may not is refused (EPERM, of Landlock EACCES).
"""

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gpud.launchers import fence
from gpud.launchers.protocol import Confinement, Fence

CAPS = 508  # a major that nothing has
OPEN = """
import errno, os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDWR))
        print("open")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def node(path, major, minor):
    """Make a stand-in for a device node, or skip: only root may, and not in every container."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        path.chmod(0o666)
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        pytest.skip("only root makes device nodes, and opens them, where no container keeps it from that")
    except OSError:
        pass  # it stands for nothing
    return path


@pytest.fixture
def nodes(tmp_path):
    """Give stand-ins of /dev/nvidia0, /dev/nvidia1, /dev/nvidiactl, and of two MIG instances' capabilities."""
    numbers = {"one": (195, 0), "two": (195, 1), "all": (195, 255), "cap3": (CAPS, 3), "cap4": (CAPS, 4)}
    return {name: str(node(tmp_path / name, *number)) for name, number in numbers.items()}


@pytest.fixture
def fenced(delegated):
    """Give a workplace whose jobs can have the fence, or skip, with the reason that gpud itself tells."""
    place, _ = delegated
    unfenced = place.launcher.means.unfenced
    if unfenced is not None:
        pytest.skip(f"no device fence: {unfenced}")
    return place


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ((), "EPERM EPERM ENXIO ENXIO ENXIO"),
        (((195, 1),), "EPERM ENXIO ENXIO ENXIO ENXIO"),
        (((195, 0), (195, 1)), "ENXIO ENXIO ENXIO ENXIO ENXIO"),
        (((195, 0), (CAPS, 4)), "ENXIO EPERM ENXIO EPERM ENXIO"),
    ],
    ids=["no GPU", "one", "both", "a MIG instance"],
)
def test_a_job_opens_its_own_gpus_and_no_other(fenced, nodes, devices, expected):
    job = fenced.launch(1, sys.executable, "-c", OPEN, *nodes.values(), fence=Fence("devices", devices))

    assert fenced.ended(job).exit_code == 0
    assert fenced.output(job).split() == expected.split()


def test_the_fence_holds_for_all_that_a_job_starts_and_for_nobody_else(fenced, nodes):
    opens = f'{sys.executable} -c "$0" {nodes["one"]}'
    job = fenced.launch(1, "sh", "-c", f"{opens}; setsid --fork --wait {opens}", OPEN, fence=Fence("devices", ()))
    other = fenced.launch(2, sys.executable, "-c", OPEN, nodes["one"])

    assert fenced.ended(job).exit_code == 0
    assert set(fenced.output(job).split()) == {"EPERM"}
    assert fenced.ended(other).exit_code == 0
    assert fenced.output(other).split() == ["ENXIO"]


def test_what_surrounds_a_job_is_known_while_it_runs_and_found_again_after_a_restart(fenced):
    job = fenced.shell(1, "sleep 1000", fence=Fence("devices", ()))
    fenced.started(job)
    assert fenced.launcher.confinement(job, 1) == Confinement("devices", cgroup=True)

    fenced.reopen()
    fenced.look(job)
    fenced.started(job)

    assert fenced.launcher.confinement(job, 1) == Confinement("devices", cgroup=True)
    fenced.stop(job)
    fenced.ended(job)


def test_a_job_that_shall_be_fenced_and_cannot_be_does_not_start_and_the_machine_is_to_blame(workplace):
    if workplace.launcher.means.cgroup is not None:
        pytest.skip("here every launcher process may make cgroups")
    job = workplace.shell(1, "true", fence=Fence("devices", ()))
    unknown = workplace.shell(2, "true", fence=Fence("landlock", None))

    for each in (job, unknown):
        fault = workplace.ended(each).fault
        assert fault.machine
        assert "the fence cannot be had" in fault.reason
    assert workplace.launcher.means.unfenced


@pytest.fixture
def in_dev():
    """Give a stand-in of a GPU's node where nodes are: Landlock goes by paths."""
    made = Path(f"/dev/nvidia-test-{os.getpid()}")
    try:
        yield node(made, 195, 77)
    finally:
        with contextlib.suppress(FileNotFoundError):
            made.unlink()


@pytest.mark.parametrize("uid", [None, 65534], ids=["as we are", "as another user"])
def test_landlock_keeps_a_job_from_other_gpus_and_leaves_files_as_they_are(workplace, in_dev, uid):
    if fence._syscall(444, None, 0, 1) < 2:
        pytest.skip("this kernel has no Landlock that allows renaming (ABI 2)")
    place = Path(f"/var/tmp/gpud-test-{os.getpid()}-{uid}")
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    there = f"for node in {in_dev} /dev/null /dev/ptmx; do (exec 3<>$node) 2>&1 | sed 's/.*: //' | tr ' ' -; done"
    files = f"cd {place}; mkdir a b; echo hi > a/x; mv a/x b/x; cat b/x; ln b/x b/y; rm -r a b"
    program = f"{files} && grep NoNewPrivs /proc/self/status && {there}"
    spec = {"output": f"{place}/out", "workdir": "/", "uid": uid}
    try:
        kept = workplace.launch(1, "bash", "-c", program, fence=Fence("landlock", ()), **spec)
        assert workplace.ended(kept).exit_code == 0
        found = (place / "out").read_text().split()
        (place / "out").unlink()
        own = workplace.launch(2, "bash", "-c", program, fence=Fence("landlock", ((195, 77),)), **spec)
        assert workplace.ended(own).exit_code == 0
        assert found == ["hi", "NoNewPrivs:", "0", "Permission-denied"]  # who is root needs no such promise
        assert (place / "out").read_text().split() == ["hi", "NoNewPrivs:", "0", "No-such-device-or-address"]
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)


@pytest.mark.usefixtures("fenced")
def test_logins_are_fenced_off_and_let_in_again(nodes, delegated):
    _, group = delegated
    users = group / "user.slice"
    users.mkdir()
    session = users / "session"
    session.mkdir()

    def tried():
        words = ["sh", "-c", f'echo 0 > {session}/cgroup.procs; exec "$@"', "sh", sys.executable, "-c", OPEN]
        done = subprocess.run([*words, nodes["one"], nodes["all"]], capture_output=True, text=True, check=True)
        return done.stdout.split()

    try:
        assert tried() == ["ENXIO", "ENXIO"]
        for _ in range(2):  # twice is as once
            assert fence.fence_logins(str(group), on=True) is None
            assert tried() == ["EPERM", "ENXIO"]
        assert fence.fence_logins(str(group), on=False) is None
        assert tried() == ["ENXIO", "ENXIO"]
        assert fence.fence_logins(str(group / "launcher"), on=True) == "systemd keeps no user.slice here"
    finally:
        session.rmdir()
        users.rmdir()
