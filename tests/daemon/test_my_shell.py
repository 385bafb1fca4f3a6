"""A job is my shell: what works in the submitter's shell works in the job, apart from the GPUs that are not its own."""

import json
import os
import resource
import subprocess
import sys

import pytest
from gpud_process import ROOT
from launchers.workplace import within

TELL = """
import json, os, resource, signal
limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
umask = os.umask(0); os.umask(umask)
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
os.makedirs("a", exist_ok=True); os.makedirs("b", exist_ok=True)
open("a/file", "w").close(); os.rename("a/file", "b/file")
seen = {
    "environment": dict(os.environ), "limits": limits, "umask": umask, "directory": os.getcwd(),
    "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
    # 32 and 33 are the C library's own signals: posix_spawn(3) leaves them ignored, and who uses them sets them.
    "ignored": int(status["SigIgn"], 16) & ~(3 << 31),
    "status": {key: status[key] for key in ("NoNewPrivs", "CapEff", "CapBnd", "Seccomp", "SigBlk")},
    "mounts": sorted(line.split(" ", 4)[4] for line in open("/proc/self/mountinfo")),
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid", "user", "ipc", "uts")},
    "files": sorted(os.listdir("/proc/self/fd")), "renamed": os.path.exists("b/file"), "nice": os.nice(0),
    "score": open("/proc/self/oom_score_adj").read(),
}
print(json.dumps(seen))
"""


@pytest.fixture(params=["plain", "fenced"])
def gpud(request, delegation, a_gpud):
    """Start a gpud whose jobs have GPUs of others to keep away from, or not."""
    if request.param == "plain":
        return a_gpud()
    if delegation is None:
        pytest.skip("no cgroup (version 2) can be made here, and the fence is on one")
    started = a_gpud("--simulate", "2xRTX4090", "--fence", "devices", before=within(delegation))
    unfenced = started.ask("status")["launcher"]["unfenced"]
    if unfenced is not None:
        pytest.skip(f"no fence: {unfenced}")
    return started


@pytest.fixture
def as_submitted(gpud):
    """Return a function that submits by gpuctl from a shell of its own, and returns what the job then wrote."""

    def run(*command, before="", variables=None):
        environment = {**os.environ, **gpud.own, "GPUD_SOCKET": gpud.socket, **(variables or {})}
        for name in ("PWD", "PYTHONUNBUFFERED", "TMPDIR", "MASTER_PORT", "PET_MASTER_PORT"):
            environment.pop(name, None)
        submit = [sys.executable, "-m", "gpuctl", "submit", "-g", "0", "--", *command]
        shell = ["bash", "-c", f'{before}\nexec "$@"', "bash"]
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [*shell, *submit], env=environment, cwd=gpud.work, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        assert gpud.ended(job)["exit_code"] == 0, gpud.output(job)
        outside = subprocess.run(
            [*shell, *command], env=environment, cwd=gpud.work, capture_output=True, text=True, check=True
        )
        return gpud.output(job), outside.stdout

    return run


def test_a_job_has_its_submitters_environment_limits_umask_groups_and_directory(as_submitted):
    before = "umask 0027; ulimit -Sn 777; ulimit -Sc 0; ulimit -Ss 4096; export TOKEN=secret; export ODD=$'\\xff\\xfe'"
    session = {"SSH_AUTH_SOCK": "/tmp/agent", "DISPLAY": ":0", "TMUX": "x", "XDG_RUNTIME_DIR": "/no/such"}

    inside, outside = map(json.loads, as_submitted(sys.executable, "-c", TELL, before=before, variables=session))

    gained, kept = inside.pop("environment"), outside.pop("environment")
    for what, there in outside.items():
        assert inside[what] == there, what
    assert kept["ODD"] == os.fsdecode(b"\xff\xfe")
    assert inside["limits"]["RLIMIT_NOFILE"][0] == 777
    assert {name for name in kept if gained.get(name) != kept[name]} - {"_"} == {*session}
    added = {name for name in gained if name not in kept}
    assert {name for name in added if not name.startswith("GPUD_")} == {
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "PYTHONUNBUFFERED"),
        *("TMPDIR", "MASTER_PORT", "PET_MASTER_PORT"),
    }


def test_what_a_shell_says_of_itself_is_the_same_inside(as_submitted):
    before = "ulimit -Sn 512; umask 077"
    said = "ulimit -a; umask; id; pwd; ps -o ni= $$; locale"
    inside, outside = as_submitted("bash", "-c", said, before=before, variables={"LANG": "C"})
    assert inside == outside


def test_a_program_that_is_setuid_works(as_submitted, gpud):
    program = gpud.folder / "as-nobody"
    program.write_bytes(subprocess.run(["cat", "/usr/bin/id"], capture_output=True, check=True).stdout)
    owner = 65534 if os.getuid() == 0 else os.getuid()
    os.chown(program, owner, -1)
    program.chmod(0o4755)

    inside, outside = as_submitted(str(program), "-u")

    assert inside == outside == f"{owner}\n"


def test_a_hard_limit_that_the_submitter_may_set_is_set(as_submitted):
    before = "ulimit -n 700"
    inside, outside = as_submitted("bash", "-c", "ulimit -Hn; ulimit -Sn", before=before)
    assert inside == outside
    assert inside.split()[0] == "700"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 700


def test_gpuds_own_signals_and_files_are_not_the_jobs(as_submitted):
    inside, _ = as_submitted("bash", "-c", "ls /proc/$$/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/$$/status")
    assert inside.split()[:3] == ["0", "1", "2"]
