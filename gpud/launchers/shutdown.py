"""The machine goes down, or a user's last session ends: jobs are stopped while all that they need is still there.

`gpud-launcher.service` runs it whenever it is stopped (ExecStop=, `python -m gpud.launchers.shutdown [--user]`), and it
does nothing unless systemd stops everything. Jobs would be told to end anyway, but not before network and file servers
are gone, too late to save anything; those below a user's systemd would be killed without a word.
"""

import contextlib
import subprocess
import sys
import time
from signal import SIGTERM

from gpud.launchers import tree
from gpud.launchers.deadlines import SHUTDOWN

_LOOK_S = 0.2


def main() -> None:
    """Tell every job to end, and wait for it: each for its grace, all of them for the unit's TimeoutStopSec."""
    if not _everything_stops(*sys.argv[1:]):
        return
    tree.rename(SHUTDOWN)
    told: set[int] = set()
    while attending := _attending():
        tree.send(SIGTERM, attending - told)
        told |= attending
        time.sleep(_LOOK_S)


def _everything_stops(*which: str) -> bool:
    words = ["systemctl", *which, "is-system-running"]
    with contextlib.suppress(OSError):
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() == "stopping"
    return False


def _attending() -> set[int]:
    """Return the shims and keepers of this unit, of its earlier launchers too, that have a job; idle ones never end."""
    unit, parents = _content("self", "cgroup"), tree.parents()
    busy = {parent for parent, _ in parents.values()}
    return {
        pid
        for pid in parents
        if (name := _content(pid, "comm")) == b"gpud-keeper\n" or (name == b"gpud-shim\n" and pid in busy)
        if _content(pid, "cgroup") == unit
    }


def _content(pid: int | str, part: str) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{part}", "rb") as file:
        return file.read()
    return b""


if __name__ == "__main__":
    main()
