"""Whatever happens to gpud, its machine and its users, in whatever order: see `storm`, which replays a seed's story."""

import pytest
from outside import SimLauncher
from storm import Storm, weather

from gpud.model.observations import Started

# What a killed gpud was about to do is never done: coroutines that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore")

SEEDS, LOTS = 1_000, 8
SOAK, SHORT, LONG = 100_000, 12, 40


@pytest.mark.parametrize("lot", range(LOTS))
def test_promises_are_kept_in_a_storm_and_everything_ends_after_it(lot):
    for seed in range(lot, SEEDS, LOTS):
        weather(seed)


def test_a_seed_tells_the_same_story_again():
    assert weather(7).story == weather(7).story


def test_an_end_that_comes_while_a_submit_is_found_to_be_known_stays_behind_the_start(monkeypatch):
    storm = Storm(7, happenings=1)
    storm.machine.calm = True
    slow = []
    monkeypatch.setattr(storm, "_disk_s", lambda: slow.pop() if slow else 0.001)
    monkeypatch.setattr(storm, "_people_act", lambda: storm.crowd.submit(1))
    monkeypatch.setattr(storm, "_world_acts", lambda: storm.crowd.submit(1))
    post = SimLauncher._post

    def sees(launcher, seen):
        post(launcher, seen)
        if isinstance(seen, Started):
            storm.crowd._send("nonce-0000")
            slow.append(1.0)
            storm.time.after(0.5, storm.machine.end, (seen.job, seen.attempt), "boot-1", {"exit_code": 0})

    monkeypatch.setattr(SimLauncher, "_post", sees)
    storm.run()
    query = "SELECT exit_code, started_at IS NOT NULL FROM attempt"
    assert storm.connection.execute(query).fetchall() == [(0, 1)]


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("lot", range(LOTS))
def test_promises_are_kept_in_100_000_storms(lot):
    for seed in range(SEEDS + lot, SEEDS + SOAK, LOTS):
        weather(seed, LONG if seed % 4 == 0 else SHORT)
