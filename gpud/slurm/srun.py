"""A small `srun`: starts a command as several processes of this job, tells each its rank, and waits for all.

    srun [-n TASKS] [--gpus-per-task N] [-l] [-K] COMMAND...

Tasks are local processes that share srun's output; the exit status is the highest of theirs. Standard library only,
and little of it.
"""

import contextlib
import os
import re
import signal
import stat
import sys
import threading
import time
from typing import Any

from gpud.slurm.jobs import gpuctl, job_name
from gpud.slurm.scontrol import hostnames
from gpud.slurm.step import NODE, Step, environment, fail, number, parse, programs, say, step_of

_UNKEPT = {
    "mpi": "ranks learn of each other by SLURM_PROCID alone: there is no PMI here",
    "time": "a step has no time limit of its own",
    "container-image": None,
    "bcast": None,
}
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_FORWARDED |= {signal.SIGCONT, signal.SIGALRM}
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python; what it starts would ignore them, too
_GRACE_S = 30.0  # between TERM and KILL of what is ended because another task failed; Slurm's KillWait


class Running:
    """The tasks of a step, from their start to the last one's end."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.pids: dict[int, int] = {}  # of those that live: pid to rank
        self.worst = 0
        self.kill_at: float | None = None
        self.labels: list[threading.Thread] = []
        self.shared: dict[str, int] = {}
        self.fed: list[tuple[int, int]] = []  # pipes into tasks, of which each gets all that comes in

    def start(self) -> None:
        """Start every task, in a process group of its own."""
        commands = programs(self.step) if "multi-prog" in self.step.options else [self.step.command] * self.step.tasks
        for rank, command in enumerate(commands):
            pipes: list[tuple[int, int]] = []
            actions: list[Any] = self._streams(rank, pipes)
            try:
                pid = os.posix_spawnp(
                    command[0],
                    command,
                    environment(self.step, rank),
                    file_actions=actions,
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_IGNORED,
                )
            except OSError as error:
                say(f"error: {NODE}: task {rank}: execve(): {command[0]}: {error.strerror}")
                self.worst = max(self.worst, 2)
                break
            finally:
                for _, far in pipes:
                    os.close(far)
            self.pids[pid] = rank
            self.labels += [_labelled(near, to, rank) for to, (near, _) in zip((1, 2), pipes, strict=False)]
        for near, _ in self.fed:
            os.close(near)
        if self.fed:
            threading.Thread(target=_feed, args=([far for _, far in self.fed],), daemon=True).start()

    def attend(self) -> int:
        """Pass signals on until every task has ended; return the highest exit status."""
        signals = {signal.SIGCHLD, *_FORWARDED}
        steps = int(os.environ.get("GPUD_STEP_SIGNAL") or 0)
        while self.pids:
            left = 60.0 if self.kill_at is None else max(0.0, self.kill_at - time.monotonic())
            info = signal.sigtimedwait(signals, left)
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.tell(signal.SIGKILL)
                self.kill_at = time.monotonic() + 1.0
            elif info is not None and info.si_signo != signal.SIGCHLD:
                known = info.si_signo != steps and _is_shim(info.si_pid)  # who tells every process of a job itself
                self.tell(0 if known else info.si_signo)
            self.reap()
        for thread in self.labels:
            thread.join(10.0)
        return self.worst

    def tell(self, signo: int) -> None:
        """Send a signal to every task and what it started."""
        for pid in self.pids:
            with contextlib.suppress(OSError):
                os.killpg(pid, signo)

    def reap(self) -> None:
        """Take the ends that are there."""
        while self.pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            rank = self.pids.pop(pid, None)
            if rank is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code:
                how = f"Exited with exit code {code}" if code > 0 else signal.strsignal(-code) or f"signal {-code}"
                say(f"error: {NODE}: task {rank}: {how}")
            if code >= 0 or self.kill_at is None:  # else it was ended for another's failure, which counts
                self.worst = max(self.worst, code if code >= 0 else 128 - code)
            self._after(code)

    def _after(self, code: int) -> None:
        """End the others where one that ended is to end all: because it failed, or some time after the first."""
        bad = self.step.options.get("kill-on-bad-exit", os.environ.get("SLURM_KILL_BAD_EXIT", "0"))
        if self.kill_at is not None or not self.pids:
            return
        if code and bad != "0":
            say("ends the other tasks: --kill-on-bad-exit")
            self.tell(signal.SIGTERM)
            self.kill_at = time.monotonic() + _GRACE_S
        elif (wait_s := number(self.step.options, "wait")) is not None and wait_s:
            self.kill_at = time.monotonic() + wait_s

    def _streams(self, rank: int, pipes: list[tuple[int, int]]) -> list[Any]:
        """Return how a task's descriptors are made; add the pipes that its lines come through."""
        actions: list[Any] = []
        given = self.step.options.get("input", "all")
        if given not in {"all", "none"} and os.path.exists(given):
            actions.append((os.POSIX_SPAWN_OPEN, 0, given, os.O_RDONLY, 0))
        elif given == "all" and self.step.tasks > 1 and _comes_in():
            self.fed.append(os.pipe())
            actions.append((os.POSIX_SPAWN_DUP2, self.fed[-1][0], 0))
        elif given == "none" or rank != (int(given) if given.isdecimal() else 0):
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        out, err = self.step.options.get("output"), self.step.options.get("error")
        for name, to in ((out, 1), (err or out, 2)):
            if name is not None:
                actions.append((os.POSIX_SPAWN_DUP2, self._file(name, rank), to))
            elif "label" in self.step.options:
                pipes.append(os.pipe())
                actions.append((os.POSIX_SPAWN_DUP2, pipes[-1][1], to))
        return actions

    def _file(self, pattern: str, rank: int) -> int:
        job, env = os.environ.get("SLURM_JOB_ID", "0"), os.environ
        words = {"t": str(rank), "n": "0", "N": NODE, "j": job, "J": f"{job}.{os.getpid()}", "s": str(os.getpid())}
        words |= {"x": env.get("SLURM_JOB_NAME", ""), "u": env.get("USER", ""), "%": "%"}
        words |= {"a": env.get("SLURM_ARRAY_TASK_ID", "0"), "A": env.get("SLURM_ARRAY_JOB_ID", job)}
        path = re.sub(
            r"%(\d*)(.)",
            lambda found: words[found[2]].zfill(int(found[1] or 0)) if found[2] in words else found[0],
            os.devnull if pattern == "none" else pattern,
        )
        if path not in self.shared:
            how = os.O_APPEND if self.step.options.get("open-mode", "").startswith("a") else os.O_TRUNC
            try:
                self.shared[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o666)
            except OSError as error:
                fail(f"{path}: {error.strerror}")
        return self.shared[path]


def _comes_in() -> bool:
    """Return whether stdin is a pipe or a file: what a terminal or /dev/null has is for the first task."""
    try:
        return not stat.S_ISCHR(os.fstat(0).st_mode)
    except OSError:
        return False


def _feed(tasks: list[int]) -> None:
    """Pass stdin on to every task that still reads."""
    while tasks and (data := os.read(0, 65_536)):
        for far in tuple(tasks):
            try:
                os.write(far, data)
            except OSError:
                tasks.remove(far)
                os.close(far)
    for far in tasks:
        os.close(far)


def _labelled(near: int, to: int, rank: int) -> threading.Thread:
    """Return a thread that passes a task's lines on, its rank before each."""

    def copy() -> None:
        with os.fdopen(near, "rb") as lines:
            for line in lines:
                os.write(to, b"%d: %b" % (rank, line if line.endswith(b"\n") else line + b"\n"))

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _is_shim(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().strip() == b"gpud-shim"
    except OSError:
        return False


def main(words: list[str]) -> int:
    """Run a step; return its exit status."""
    options, command = parse(words)
    if "help" in options or "version" in options:
        sys.stdout.write("srun of gpud: srun [-n TASKS] [--gpus-per-task N] [-l] [-K] COMMAND...\n")
        return 0
    for name in options.keys() & _UNKEPT.keys():
        why = _UNKEPT[name]
        if why is None:
            fail(f"--{name} cannot be had here")
        if options[name] != "none":
            say(f"--{name}={options[name]}: {why}; left out")
    part = options.get("het-group", options.get("pack-group", "0"))
    if "0" not in part.split(","):
        fail(f"--het-group={part}: of a job of several parts only the first was queued")
    if not command:
        fail("no command given to execute")
    if ":" in command:
        fail("behind a `:` there is another part of a job: of several parts only the first was queued")
    own = os.environ.get("SLURM_JOB_ID", "")
    if (job := job_name(options.get("jobid", own))) != job_name(own):
        say(f"--jobid={job}: runs there once, by gpuctl exec")
        return gpuctl("exec", job, "--", *command)
    if not {*hostnames(options.get("nodelist", NODE))} & {NODE, *os.environ.get("SLURM_JOB_NODELIST", "").split(",")}:
        say(f"--nodelist={options['nodelist']}: that is no node of this job; it runs here")
    if "chdir" in options:
        try:
            os.chdir(options["chdir"])
        except OSError as error:
            fail(f"--chdir={options['chdir']}: {error.strerror}")
    with open("/proc/self/comm", "w", encoding="ascii") as name_of_this:
        name_of_this.write("gpud-srun")
    step = step_of(options, command)
    if "pty" in options:
        for ignored in _IGNORED:
            signal.signal(ignored, signal.SIG_DFL)
        os.execvpe(command[0], command, environment(step, 0))  # noqa: S606 - as asked, without a shell
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_FORWARDED})
    if saves := int(os.environ.get("GPUD_STEP_SIGNAL") or 0):
        signal.signal(saves, lambda *_: None)  # not called: in /proc it shows that this listens
    running = Running(step)
    running.start()
    return running.attend()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
