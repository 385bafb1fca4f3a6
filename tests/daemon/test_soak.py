"""Long lives: what gpud holds does not grow with what it has done."""

from pathlib import Path

import pytest

ROUNDS, SINGLES, ELEMENTS = 20, 200, 800  # 20,000 jobs


def holds(pid):
    """Return what a process holds: memory of its own in KiB, and how many descriptors."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))
    return own, len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_memory_and_descriptors_stay_flat_over_20_000_jobs(a_gpud):
    gpud = a_gpud("--simulate", "8xRTX4090")
    looked = []
    with gpud.connect() as subscriber:
        subscriber.request("subscribe")
        for round_number in range(ROUNDS):
            gpud.ask("submit", **gpud.request_of("/bin/true", gpus=1, array=f"0-{ELEMENTS - 1}", name="sweep"))
            for each in range(SINGLES):
                gpud.submit("/bin/true", gpus=each % 2, name=f"job-{round_number}-{each}", labels={"n": str(each)})
                gpud.ask("status")
            last = gpud.submit("/bin/true")
            gpud.ask("priority", select={"jobs": [last]}, priority=-10)
            drain_until_idle(gpud, subscriber)
            gpud.ask("list", limit=100)
            gpud.ask("gpus")
            looked.append(holds(gpud.pid))
    memory, files = zip(*looked, strict=True)
    half = ROUNDS // 2  # by then SQLite's two caches are full
    assert max(files) <= files[0] + 8, files
    assert memory[-1] - memory[half] < 3 * 1024, memory  # KiB
    assert memory[-1] < 45 * 1024, memory


def drain_until_idle(gpud, subscriber):
    """Read events until nothing is left to run."""
    unfinished = {"state": ["queued", "starting", "running", "stopping"], "limit": 1}
    while gpud.ask("list", **unfinished)["jobs"]:
        subscriber.pushed(wait=True)
        while subscriber.has_pushed():
            subscriber.pushed(wait=False)
