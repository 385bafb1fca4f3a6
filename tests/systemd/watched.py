"""Jobs and services in a box, watched from outside: is it the same process still, and how did it end?"""


def state(machine, unit="gpud", *, systemctl="systemctl", user="root"):
    """What systemd knows of a unit: its main process and how it is."""
    shown = machine.says(f"{systemctl} show {unit} -p MainPID,ActiveState,Result", user=user)
    return dict(line.split("=", 1) for line in shown.splitlines())


def succeeded(machine, before, unit="gpud", *, systemctl="systemctl", user="root"):
    """Wait until a unit's main process has a successor that is ready. `before`: its state with the old one."""
    new = f"[ $({systemctl} show {unit} -p MainPID --value) != {before['MainPID']} ]"
    machine.await_(f"{new} && {systemctl} is-active {unit} || true", "active", user=user)


class Running:
    """A job of alice's that has begun, says who it is, and waits to be told its exit status."""

    def __init__(self, machine):
        self.machine = machine
        self._run("rm -f said told; mkfifo said told")
        script = 'echo $$ >said; read status <told; echo "told $status"; exit $status'
        self.id = self._run(f"gpuctl submit -g 1 -t 1h -- bash -c '{script}'").stdout.strip()
        self.pid = self._run("cat said").stdout.strip()
        self._born = self._birth()

    def lives(self):
        """Whether it is the same process still."""
        return self._birth() == self._born

    def gone(self):
        """Wait until its process has ended."""
        self.machine.await_(f"test -e /proc/{self.pid} && echo lives || echo gone", "gone")

    def tell(self, status):
        """Have it exit with a status."""
        self._run(f"echo {status} > told")

    def end(self, status):
        """Have it exit; return what `gpuctl wait` exits with, and what the job printed."""
        self.tell(status)
        waited = self._run(f"gpuctl wait {self.id}", check=False)
        return waited.returncode, self._run(f"gpuctl logs {self.id}").stdout.strip()

    def _birth(self):
        return self.machine.says(f"cut -d' ' -f22 /proc/{self.pid}/stat 2>&- || true")

    def _run(self, script, *, check=True):
        return self.machine.run(f"PATH=~/.local/bin:$PATH; {script}", user="alice", check=check)
