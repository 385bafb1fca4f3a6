"""Processes of gpud and gpuctl whose imports are done: a tenth of what a new Python costs, and there are thousands.

    process = warm.start("gpud", ["--simulate", "1xT4"], env=environment, cwd=folder, files=(nothing, log, log))
    assert process.wait(30) == 0

One process for each worker, which this file is the program of, imports everything once and forks at every start; from
there on it is `python -m gpud` or `python -m gpuctl` as ever, only that /proc has the first one's command line and
environment for it. Who needs those, or a start of Python's own, starts a Python.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_OF_A_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GPUD_KILL_AT")  # only at its start does a process read these


class Process:
    """A process that was started so, with what tests use of a Popen."""

    def __init__(self, template, pid):
        self.pid = pid
        self.returncode = None
        self._template = template
        self._pidfd = os.pidfd_open(pid)  # stays its own: it is reaped only once its status is asked for

    def poll(self):
        """Return its exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        """Return its exit status, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = self._template.reap(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number):
        """Send it a signal, unless its end is known."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self):
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Template:
    """The process that forks, as a worker knows it; it ends with the worker."""

    def __init__(self):
        self._lock = threading.Lock()
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            words = [sys.executable, __file__, str(its.fileno())]
            self.process = subprocess.Popen(
                words, cwd=ROOT, pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )

    def _ask(self, request, files=()):
        with self._lock:
            socket.send_fds(self._socket, [request], files)
            return int(self._socket.recv(64))

    def start(self, order, files):
        with os.fdopen(os.memfd_create("order"), "wb") as memory:  # an environment may be larger than a message
            memory.write(json.dumps(order).encode())
            memory.flush()
            return Process(self, self._ask(b"start", [*files, memory.fileno()]))

    def reap(self, pid):
        return self._ask(b"%d" % pid)


_template = functools.cache(_Template)


def can_start(environment):
    """Return whether a process of this environment starts as one of the template's does."""

    def read_at_start(variables):
        named = (key for key in variables if key.startswith(_OF_A_START) and key != "PYTHONPATH")
        return {key: variables[key] for key in named}

    return read_at_start(environment) == read_at_start(os.environ)


def start(program, words, *, env, cwd, files):
    """Start `gpud` or `gpuctl` with these words and these three open files."""
    order = {"program": program, "words": [str(word) for word in words], "env": env, "cwd": str(cwd)}
    return _template().start(order, [file.fileno() for file in files])


def _serve(asked):
    """Answer a worker until it is gone; return only in the processes that it asked for, with what to be."""
    while True:
        request, files, _, _ = socket.recv_fds(asked, 64, 4)
        if not request:
            os._exit(0)
        if request == b"start":
            pid = os.fork()
            if pid == 0:
                return files
            for file in files:
                os.close(file)
            asked.send(b"%d" % pid)
        else:
            _, status = os.waitpid(int(request), 0)
            asked.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(files):
    """Take on the files, the environment, the directory and the words of an order; return the program's module."""
    *streams, memory = files
    order = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    for number, file in enumerate(streams):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    sys.argv = [f"{ROOT}/{order['program']}/__main__.py", *order["words"]]
    return sys.modules[f"{order['program']}.__main__"]


def _leave(status):
    """End as Python does, but for taking apart what was imported: the dear part, and nobody sees it."""
    if not isinstance(status, int | None):
        sys.stderr.write(f"{status}\n")
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise SystemExit(status) from None  # as Python says it
    os._exit(status if isinstance(status, int) else int(status is not None))


def main():
    """Import all that gpud and gpuctl ever do, then fork, and be what was asked for."""
    sys.path[0] = str(ROOT)
    for package in ("gpuctl", "gpud"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.startswith(("gpud.slurm", "gpud.simulator")):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # so that no collection copies the pages that all of them share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        asked.set_inheritable(False)
        files = _serve(asked)
        asked.detach()
    program = _become(files)
    try:
        program.main()
    except SystemExit as end:
        _leave(end.code)
    _leave(0)


if __name__ == "__main__":
    main()
