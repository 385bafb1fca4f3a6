"""GPUs by hand, and notebooks' kernels, as a shell and as Jupyter use them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Gpuctl
from gpud_process import Gpud, until

KERNEL = """
import os, signal, sys, time
path = sys.argv[sys.argv.index("-f") + 1]
def interrupted(*_):
    with open(path, "a") as file:
        file.write("interrupted\\n")
signal.signal(signal.SIGINT, interrupted)
with open(path, "a") as file:
    file.write(f"began {os.environ['CUDA_VISIBLE_DEVICES']} {os.environ.get('JPY_PARENT_PID')}\\n")
while True:
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve one gpud for all of these tests; each ends what it starts."""
    gpud = Gpud(tmp_path_factory.mktemp("claims"), "--simulate", "2xRTX4090").start()
    yield gpud
    assert gpud.close() == []


@pytest.fixture
def gpuctl(served):
    """Serve a gpuctl for it."""
    return Gpuctl(served)


def test_a_shell_exports_what_a_claim_prints_and_gives_it_back(gpuctl, served):
    sourced = (
        'eval "$("$0" -m gpuctl claim -g 2 --for 2h)" && echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $GPUD_CLAIM'
    )
    shell = subprocess.run(
        ["sh", "-c", sourced, sys.executable],
        env=gpuctl.environ,
        cwd=gpuctl.directory,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    visible, order, job = shell.stdout.split()
    assert (visible, order) == ("0,1", "PCI_BUS_ID")
    assert "claim --release" in shell.stderr
    shown = gpuctl.json("show", job)
    assert (shown["state"], shown["claim"], shown["command"], shown["time_limit_s"]) == ("running", True, [], 7200.0)

    plain = gpuctl.ok("submit", "-g", "1", "--", "sleep", "600")
    assert gpuctl("claim", "--release", plain).returncode == 1  # only claims are given back so
    gpuctl.environ = {**gpuctl.environ, "GPUD_CLAIM": job}
    assert "unset CUDA_VISIBLE_DEVICES" in gpuctl("claim", "--release").stderr
    assert served.ended(job)["state"] == "cancelled"
    assert "given back" in gpuctl.ok("list", job)
    assert served.running(plain)["state"] == "running"

    for number, status in ((signal.SIGINT, 130), (signal.SIGHUP, 1)):  # a terminal that is closed gives up, too
        with gpuctl.start("claim", "-g", "2", "--json") as waiting:
            held = until(lambda: [row for row in gpuctl.json("list", "--state", "queued") if row["claim"]])
            waiting.send_signal(number)
            assert waiting.wait(30) == status
        assert gpuctl.json("show", held[0]["id"])["state"] == "cancelled"
    gpuctl.ok("cancel", plain)
    served.ended(plain)


def test_a_claim_of_its_own_command_is_refused(gpuctl):
    done = gpuctl("claim", "--", "12")

    assert (done.returncode, done.stdout) == (2, "")


def test_a_kernel_is_a_job_that_jupyter_interrupts_and_ends(gpuctl, served, tmp_path):
    (tmp_path / "ipykernel_launcher.py").write_text(KERNEL)
    environ = {"JUPYTER_DATA_DIR": str(tmp_path / "data")}
    options = ("-g", "1", "--time-limit", "1h")
    path = gpuctl.ok("kernel", "install", "--python", sys.executable, *options, environ=environ)
    spec = json.loads((tmp_path / "data/kernels/gpud/kernel.json").read_text())
    assert path == str(tmp_path / "data/kernels/gpud/kernel.json")
    assert (spec["interrupt_mode"], spec["language"]) == ("signal", "python")

    connection = tmp_path / "kernel-1.json"
    argv = [word.format(connection_file=connection) for word in spec["argv"]]
    paths = {"PYTHONPATH": f"{gpuctl.environ['PYTHONPATH']}:{tmp_path}", "JPY_PARENT_PID": str(os.getpid())}
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "click.py").write_text("raise SystemExit('not the one that is meant')")
    environ = gpuctl.environ | paths
    with subprocess.Popen(argv, env=environ, cwd=tmp_path / "beside", start_new_session=True) as kernel:
        until(lambda: connection.exists() and re.match(r"began [01] None\n", connection.read_text()))
        job = gpuctl.json("list", "--state", "running")[0]
        assert (job["name"], job["time_limit_s"]) == ("kernel-gpud", 3600.0)
        for times in (1, 2, 3):  # more often than a person's Ctrl-C, which cancels the second time
            os.killpg(kernel.pid, signal.SIGINT)
            until(lambda times=times: connection.read_text().count("interrupted") == times)
        kernel.terminate()
        assert kernel.wait(30) == 128 + signal.SIGTERM
    assert served.ended(job["id"])["state"] == "cancelled"


@pytest.mark.parametrize("killed", ["jupyter", "the kernel"])
def test_a_kernel_goes_with_a_jupyter_that_is_killed_or_kills_it(gpuctl, served, killed, tmp_path):
    program = "import os, subprocess as s, sys; os.environ['JPY_PARENT_PID'] = str(os.getpid()); s.run(sys.argv[1:])"
    gpuctl_run = [sys.executable, "-P", "-m", "gpuctl", "run", "--pass-signals"]
    words = [*gpuctl_run, "-n", "left", "-g", "0", "--", "sleep", "600"]
    (tmp_path / "click.py").write_text("raise SystemExit('not the one that is meant')")
    with subprocess.Popen([sys.executable, "-c", program, *words], env=gpuctl.environ, cwd=tmp_path) as jupyter:
        try:
            [job] = until(lambda: gpuctl.json("list", "--name", "left", "--state", "running"))
            if killed == "the kernel":
                os.kill(int(Path(f"/proc/{jupyter.pid}/task/{jupyter.pid}/children").read_text()), signal.SIGKILL)
        finally:
            jupyter.kill()
    assert served.ended(job["id"])["state"] == "cancelled"


def test_a_kernel_with_options_that_run_does_not_have_is_not_installed(gpuctl, tmp_path):
    done = gpuctl("kernel", "install", "--gpu", "1", environ={"JUPYTER_DATA_DIR": str(tmp_path)})

    assert done.returncode == 2
    done = gpuctl("kernel", "install", "-g", "1", "--", "python", environ={"JUPYTER_DATA_DIR": str(tmp_path)})
    assert "'python' is no option" in done.stderr
    assert list(tmp_path.iterdir()) == []
