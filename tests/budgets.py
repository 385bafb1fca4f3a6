"""The table of budgets: what bench tests measured, beside the machine's own floors, printed at the end of their run.

    def test_...(budgets):
        budgets.holds("end -> next start", "4.1 ms", "task-spooler 1.2 ms", 4.1 / 1.2, most=6)

A limit is a ratio to something measured in the same run, or a count: a busy or a slow machine moves both sides.
"""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROUNDS = 20
_TABLE = pytest.StashKey()


class Budgets:
    """The rows so far: what, the figure, what it is compared with, the value that has a limit, the limit, if broken."""

    def __init__(self):
        self.rows = []

    def holds(self, what, figure, floor, value, *, most=None, least=None, unit="x"):
        """Add a row, and fail the test where the value is beyond its limit."""
        kept = (most is None or value <= most) and (least is None or value >= least)
        limit = f"<= {most:g}{unit}" if least is None else f">= {least:g}{unit}"
        self.rows.append((what, figure, floor, f"{value:.3g}{unit}", limit, "" if kept else "OVER"))
        assert kept, f"{what}: {value:.3g}{unit}, limit {limit} ({figure}; {floor})"

    def lines(self):
        """Return the table."""
        rows = [("what", "measured", "floor in the same run", "value", "limit", ""), *self.rows]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def p99(values):
    """Return what one in a hundred is beyond."""
    ordered = sorted(values)
    return ordered[len(ordered) * 99 // 100]


def best_ms(act, rounds=ROUNDS):
    """Return what something takes when nothing gets in its way."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return 1000 * min(taken)


def spawn_ms():
    """Return the least that a process costs, from start to end."""
    return best_ms(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))


def sync_ms(folder):
    """Return the least that a durable write costs there."""
    file = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
    try:
        os.pwrite(file, bytes(4096), 0)
        os.fsync(file)
        return best_ms(lambda: (os.pwrite(file, os.urandom(4096), 0), os.fdatasync(file)))
    finally:
        os.close(file)


def machine(folder):
    """Return what to know of the machine when reading the table."""
    python = best_ms(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    load = Path("/proc/loadavg").read_text().split()[0]
    at_best = (
        f"python -c pass {python:.1f} ms, posix_spawn(true) {spawn_ms():.2f} ms, fdatasync {sync_ms(folder):.2f} ms"
    )
    cpus = f"{len(os.sched_getaffinity(0))} CPUs, load {load}"
    return f"{cpus}, Linux {platform.release()}, Python {platform.python_version()}; at best: {at_best}"


@pytest.fixture
def budgets(request):
    """Return the table of this run."""
    return request.config.stash.setdefault(_TABLE, Budgets())


def pytest_terminal_summary(terminalreporter, config):
    """Print the table."""
    table = config.stash.get(_TABLE, None)
    if table is not None:
        terminalreporter.section("budgets")
        terminalreporter.write_line(machine(config.rootpath))
        for line in table.lines():
            terminalreporter.write_line(line)
