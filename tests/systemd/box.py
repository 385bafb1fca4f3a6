"""A machine of one's own, for seconds: this machine's systemd as PID 1 of fresh namespaces, on a throwaway root.

What is written in it goes to memory, and it has no network. Root only; needs nothing but what a Debian or Ubuntu with
systemd, dbus and libpam-systemd has. It boots in half a second; closing it kills all that runs in it, and leaves
nothing. Should this process be killed, the kernel ends the box, and only its empty cgroup is left.
"""

import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

BOOT_S = 30.0
_SCRIPT = Path(__file__).with_name("box.sh")
_TOOLS = ("unshare", "nsenter", "setpriv", "mount", "pivot_root", "useradd", "systemd-analyze")
_UNSHARE = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--fork", "--kill-child=KILL", "--pid", "--mount", "--uts", "--ipc", "--net"),
    *("--propagation", "private", "--"),
)
_RIGHTS = ("--bounding-set", "-sys_module,-sys_time")  # what no namespace holds: the kernel's modules, the clock


def lacking():
    """Why no box can be had here; None where one can."""
    if os.geteuid() != 0:
        return "boots a systemd in namespaces: root only"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    missing += [] if Path("/lib/systemd/systemd").exists() else ["systemd"]
    missing += [] if any(Path("/usr/lib").glob("*/security/pam_systemd.so")) else ["libpam-systemd"]
    if missing:
        return f"boots a systemd in namespaces: needs {', '.join(missing)}"
    if _cgroups() is None:
        return "boots a systemd in namespaces: needs cgroup v2"
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"boots a systemd in namespaces: {tried.stderr.strip()}" if tried.returncode else None


class Box:
    """A booted machine. `folder` is empty, and used up; `checkout` is seen as /srv/checkout."""

    def __init__(self, folder, checkout, wheels):
        self.shared = folder / "notify"  # /run/host in the box, and still there when that is gone
        self._group = _cgroups() / f"gpud-box-{os.getpid()}-{folder.name}"
        for name in ("notify", "machine"):
            (folder / name).mkdir()
        (folder / "wheels").symlink_to(wheels)
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ready.bind(str(folder / "notify" / "socket"))
        self._group.mkdir()
        self._console = folder / "console"
        with self._console.open("wb") as console:
            self._outside = subprocess.Popen(
                [*_UNSHARE, "bash", str(_SCRIPT)],
                env=os.environ
                | {
                    "BOX": str(folder),
                    "GROUP": str(self._group),
                    "CHECKOUT": str(checkout),
                    "RIGHTS": " ".join(_RIGHTS),
                },
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            with ready:
                self._pid = self._booted(ready)
        except BaseException:
            self.close()
            raise

    def run(self, script, *, user="root", check=True, within_s=30.0):
        """Run shell commands as a user who has just logged in; return how they ended, and what they said."""
        command = ["nsenter", "--target", str(self._pid), "--all", "--"]
        home = "/root" if user == "root" else f"/home/{user}"
        command += ["setpriv", *_RIGHTS]  # nobody in the box has more than its PID 1
        command += [] if user == "root" else ["--reuid", user, "--regid", user, "--init-groups"]
        command += ["--"]
        command += ["env", "-i", f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash", "LANG=C.UTF-8"]
        command += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        command += ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/srv/wheels", "PIP_DISABLE_PIP_VERSION_CHECK=1"]
        # A function: a checkout's user has sudo, a box need not.
        command += ["bash", "-euc", f'sudo() {{ "$@"; }}\ncd ~; export XDG_RUNTIME_DIR=/run/user/$UID\n{script}']
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{user}$ {script}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def says(self, script, *, user="root", within_s=30.0):
        """Return what commands that must work print."""
        return self.run(script, user=user, within_s=within_s).stdout.strip()

    def await_(self, script, expected, *, user="root", within_s=20.0):
        """Wait until commands print what is expected."""
        deadline = time.monotonic() + within_s
        while (said := self.says(script, user=user)) != expected:
            assert time.monotonic() < deadline, f"{script}\nsays {said!r}, never {expected!r}"
            time.sleep(0.05)

    def shut_down(self, *, within_s=60.0):
        """Have its systemd stop everything, and wait until it has."""
        self.run("systemctl --no-block poweroff")
        self._outside.wait(within_s)

    def close(self):
        """End it, and all that runs in it: the kernel ends a pid namespace with its PID 1, whole."""
        self._outside.kill()
        self._outside.wait()
        deadline = time.monotonic() + 10
        while "populated 1" in (self._group / "cgroup.events").read_text():
            assert time.monotonic() < deadline, f"{self._group} does not empty"
            time.sleep(0.01)
        for folder, _, _ in os.walk(self._group, topdown=False):
            Path(folder).rmdir()

    def _booted(self, ready):
        """Return PID 1's pid as it is seen outside, once systemd says that it has started everything."""
        deadline = time.monotonic() + BOOT_S
        while True:
            ready.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                message, control, _, _ = ready.recvmsg(4096, socket.CMSG_SPACE(12))
            except TimeoutError:
                raise AssertionError(f"the box does not boot:\n{self._console.read_text()[-4096:]}") from None
            if b"READY=1" in message.split(b"\n"):
                return struct.unpack("3i", control[0][2][:12])[0]


def _cgroups():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        kind = line.split(" ")
        if kind[2] == "cgroup2":
            return Path(kind[1])
    return None
