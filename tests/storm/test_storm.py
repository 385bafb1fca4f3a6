"""Whatever happens to gpud, its machine and its users, in whatever order: see `storm`, which replays a seed's story."""

import pytest
from storm import weather

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


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("lot", range(LOTS))
def test_promises_are_kept_in_100_000_storms(lot):
    for seed in range(SEEDS + lot, SEEDS + SOAK, LOTS):
        weather(seed, LONG if seed % 4 == 0 else SHORT)
