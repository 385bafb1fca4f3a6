"""What of the submitter's environment a job gets, and what gpud adds."""

import contextlib
import csv
import ctypes
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import pytest

from gpud.launchers import places
from gpud.launchers.environment import additions, compose
from gpud.launchers.job import as_user
from gpud.launchers.logs import jobs_directory, log_path
from gpud.model.job import job_id

ADDED = additions(job="12", attempt=1, node="box", uuids=("GPU-a", "GPU-b"), indices=(0, 3), of="box")


def test_everything_is_kept_but_what_dies_with_the_session():
    shell = {
        "HF_TOKEN": "secret",
        "PATH": "/bin",
        "LD_PRELOAD": "x.so",
        "GPUD_SOCKET": "/s",
        "BASH_FUNC_f%%": "() { :; }",
        "DISPLAY": ":0",
        "SSH_AUTH_SOCK": "/tmp/ssh",
        "TMUX": "/tmp/tmux",
        "WINDOWID": "7",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x",
        "VSCODE_PID": "1",
        "_": "/usr/bin/env",
    }
    kept = compose(shell, {}, runtime_dir_exists=True)
    assert kept == {
        "HF_TOKEN": "secret",
        "PATH": "/bin",
        "LD_PRELOAD": "x.so",
        "GPUD_SOCKET": "/s",
        "BASH_FUNC_f%%": "() { :; }",
        "PYTHONUNBUFFERED": "1",
    }


def test_an_outer_jobs_gpus_and_ids_do_not_reach_a_job_submitted_from_it():
    outer = ADDED | {"GPUD_ARRAY_ID": "9", "GPUD_ARRAY_INDEX": "3", "GPUD_SCRIPT": "/x.sh", "GPUD_CLAIM": "12"}
    inner = compose(
        outer, additions(job="13", attempt=2, node="box", uuids=(), indices=(), of="box"), runtime_dir_exists=True
    )
    labels = "--label=gpud.job=13 --label=gpud.attempt=2 --label=gpud.of=box"
    assert inner == {
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "GPUD_JOB_ID": "13",
        "GPUD_ATTEMPT": "2",
        "GPUD_GPU_COUNT": "0",
        "GPUD_GPU_UUIDS": "",
        "GPUD_NODE": "box",
        "GPUD_DOCKER_ARGS": f"--init {labels} -e GPUD_JOB_ID -e GPUD_ATTEMPT",
    }


def test_a_shell_splits_what_docker_is_to_be_told():
    words = ["sh", "-c", 'printf "%s\\n" $GPUD_DOCKER_ARGS']
    args = subprocess.run(words, env=ADDED, capture_output=True, text=True, check=True).stdout.splitlines()
    gpus, *rest = args
    labels = ["--label=gpud.job=12", "--label=gpud.attempt=1", "--label=gpud.of=box"]
    assert rest == ["--init", *labels, "-e", "GPUD_JOB_ID", "-e", "GPUD_ATTEMPT"]
    assert next(csv.reader([gpus.removeprefix("--gpus=")])) == ["device=GPU-a,GPU-b"]  # as docker reads it


def test_gpus_are_numbered_or_named_and_always_named_to_gpud_and_to_containers():
    named = additions(job="12", attempt=1, node="box", uuids=("GPU-a", "GPU-b"), indices=(0, 3), by="uuid")
    assert ADDED["CUDA_VISIBLE_DEVICES"] == "0,3"
    assert named["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert ADDED["GPUD_GPU_UUIDS"] == ADDED["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert ADDED["GPUD_GPU_COUNT"] == "2"


def test_an_element_knows_its_array_and_a_script_its_first_home():
    element = additions(job="12_7", attempt=1, node="box", uuids=(), indices=(), script="/home/me/x.sh")
    assert [element[name] for name in ("GPUD_JOB_ID", "GPUD_ARRAY_ID", "GPUD_ARRAY_INDEX", "GPUD_SCRIPT")] == [
        "12_7",
        "12",
        "7",
        "/home/me/x.sh",
    ]
    assert not {"GPUD_ARRAY_ID", "GPUD_ARRAY_INDEX", "GPUD_SCRIPT"} & set(ADDED)


def test_a_gang_knows_its_nodes_and_who_shares_a_gpu_its_part():
    gang = additions(job="1", attempt=1, node="a", uuids=("GPU-a",), indices=(0,), nodes=("a", "b"), share_mib=8192)
    assert (gang["GPUD_NODES"], gang["GPUD_NODE_COUNT"], gang["GPUD_GPU_MEMORY_MIB"]) == ("a,b", "2", "8192")
    assert not {"GPUD_NODES", "GPUD_NODE_COUNT", "GPUD_GPU_MEMORY_MIB"} & set(ADDED)
    assert compose(gang, {}, runtime_dir_exists=True) == {
        "PYTHONUNBUFFERED": "1",
        **{name: gang[name] for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")},
    }


@pytest.mark.parametrize(("exists", "kept"), [(True, {"XDG_RUNTIME_DIR": "/run/user/7"}), (False, {})])
def test_a_runtime_directory_is_kept_while_it_exists(exists, kept):
    made = compose({"XDG_RUNTIME_DIR": "/run/user/7"}, {}, runtime_dir_exists=exists)
    assert made == {"PYTHONUNBUFFERED": "1"} | kept


def test_a_submitter_who_wants_buffered_output_gets_it():
    assert compose({"PYTHONUNBUFFERED": ""}, {}, runtime_dir_exists=True)["PYTHONUNBUFFERED"] == ""


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("out.%j", "/w/out.12_7"),
        ("%A/%a.log", "/w/12/7.log"),
        ("%03a-%4A", "/w/007-0012"),
        ("/abs/%x", "/abs/a_b"),
        ("100%%j", "/w/100%j"),
        ("%q%", "/w/%q%"),
    ],
)
def test_log_patterns_name_job_array_index_and_name(pattern, path):
    assert log_path(pattern, job=job_id(12, 7), name="a/b", workdir="/w") == path


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("/w/logs/%A/%a.log", "/w/logs/%A"),
        ("/w/5%%j/of-%j/x/y", "/w/5%%j/of-%j"),
        ("/w/5%%/%j", None),
        ("/w/out", None),
        (None, None),
    ],
)
def test_a_directory_that_is_called_by_the_job_is_the_first_of_a_pattern(pattern, directory):
    assert jobs_directory(pattern) == directory


@contextlib.contextmanager
def stopped_sweeper(left, become=lambda: None):
    """Return who removes a directory, as `become` has made them, before they do."""
    trace, here, go_on = ctypes.CDLL(None).ptrace, 0, 7  # ptrace(2): PTRACE_TRACEME, PTRACE_CONT
    sweeper = os.fork()
    if not sweeper:
        become()
        left.mkdir()
        (left / "file").touch()
        trace(here, 0, None, None)  # so that it stops once it is another program
        places.become_sweeper(str(left))
    assert os.WIFSTOPPED(os.waitpid(sweeper, 0)[1])
    try:
        yield sweeper
    finally:
        trace(go_on, sweeper, None, None)
        assert os.waitpid(sweeper, 0)[1] == 0


def test_who_removes_a_tmpdir_as_the_jobs_user_has_no_variable_of_the_launchers(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUD_WEBHOOK_SECRET", "hunter2")
    with stopped_sweeper(tmp_path / "left") as sweeper:
        assert Path(f"/proc/{sweeper}/environ").read_bytes() == b""
    assert not (tmp_path / "left").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes other users")
def test_who_removes_a_tmpdir_as_the_jobs_user_is_not_theirs_to_turn_into_something_else():
    """It is outside the job's fence: made to open a GPU, it would open any."""
    uid = 54321
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, uid, uid)
        become = partial(as_user, {"uid": uid, "gid": uid, "groups": ()}, ours=True)
        with stopped_sweeper(Path(place, "left"), become) as sweeper:
            words = ["cat", f"/proc/{sweeper}/environ"]
            theirs = subprocess.run(words, user=uid, group=uid, extra_groups=(), capture_output=True, check=False)
        assert b"Permission denied" in theirs.stderr
        assert not any(Path(place).iterdir())
