"""The store's tests write with one connection and read with another."""

import pytest

from gpud.store.jobs import Store
from gpud.store.reader import Reader


@pytest.fixture
def store(tmp_path):
    opened = Store.open(str(tmp_path / "gpud.sqlite"))
    yield opened
    opened.close()


@pytest.fixture
def reader(store):
    opened = Reader(store.path)
    yield opened
    opened.close()
