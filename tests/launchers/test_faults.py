"""Whose fault it was that a job could not be started: the machine's sends it back to the queue."""

import errno
import secrets
from pathlib import Path

import pytest

from gpud.launchers.faults import CannotStartError, cannot, check_mounted, no_entry, no_log
from gpud.launchers.leases import Leases

GONE = FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize(
    ("word", "machine"),
    [("ESTALE", True), ("ENOSPC", True), ("EAGAIN", True), ("ENETUNREACH", True), ("EACCES", False), ("ELOOP", False)],
)
def test_what_another_moment_may_not_answer_is_the_machines(word, machine):
    fault = cannot("enter /data", OSError(getattr(errno, word), "so it is")).fault
    assert fault == ("cannot enter /data: so it is", machine, False)


def test_a_directory_of_a_file_system_that_is_not_mounted_yet_is_the_machines(tmp_path):
    fstab = tmp_path / "fstab"
    fstab.write_text(
        "# of the file servers\n"
        f"nas:/home {tmp_path}/my\\040data nfs4 rw,_netdev 0 0\n"
        f"/dev/sdz1 {tmp_path}/stick vfat user,noauto 0 0\n"
        "proc /proc proc defaults 0 0\n"
    )
    for directory, machine in (
        (f"{tmp_path}/my data/runs", True),
        (f"{tmp_path}/my data", True),
        (f"{tmp_path}/my data2", False),
        (f"{tmp_path}/stick/runs", False),  # nobody said that it is to be there
        ("/proc/no-such", False),  # it is mounted, and there is no such directory
    ):
        reason, fault, _ = no_entry(directory, GONE, str(fstab)).fault
        assert fault == machine, directory
        assert ("is not mounted" in reason) == machine
        assert no_log(f"{directory}/log", GONE, str(fstab)).fault[1] == machine


def test_a_directory_whose_file_system_was_mounted_at_submit_and_is_not_now_is_missed_by_the_machine(tmp_path):
    own = Path("/proc/self/ns/mnt").stat().st_ino
    runs, bare = tmp_path / "runs", tmp_path / "bare"
    runs.mkdir()
    bare.mkdir()
    (runs / "train.py").touch()
    for directory, mount in (
        (f"{tmp_path}/gone", None),
        (f"{tmp_path}/gone", f"{own + 1} {tmp_path}"),  # in a container, perhaps
        ("/proc/gone", f"{own} /proc"),
        (runs, f"{own} {tmp_path}"),  # who has put it in the place of the mount has not lost it
    ):
        check_mounted(str(directory), mount)
    for missing in (bare, f"{tmp_path}/gone", f"{runs}/train.py/gone"):
        with pytest.raises(CannotStartError) as refused:
            check_mounted(str(missing), f"{own} {tmp_path}")
        assert refused.value.fault == (f"{tmp_path} is not mounted, where its directory was: {missing}", True, False)


def test_however_many_jobs_share_a_gpu_with_one_that_lasts_each_gets_in_and_no_other_gpuds():
    gpu, first = f"GPU-{secrets.token_hex(8)}", Leases()
    first.hold([gpu], [gpu], "/mine")
    for _ in range(300):
        another = Leases()
        another.hold([gpu], [gpu], "/mine")
        another.release()
        another.close()
    for shared in ([gpu], []):
        stranger = Leases()
        with pytest.raises(CannotStartError, match="held by another gpud"):
            stranger.hold([gpu], shared, "/mine" if not shared else "/theirs")
        stranger.release()
        stranger.close()
    first.release()
    first.close()
    next_one = Leases()
    next_one.hold([gpu])
    next_one.release()
    next_one.close()
