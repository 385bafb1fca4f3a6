"""A process that writes until it is killed, or until the disk is full. Run by tests: `writing.py WHAT PATH`."""

import json
import os
import resource
import sys
from pathlib import Path

from stored import TERMS, a_whole_life, added

from gpud.model.job import job_id
from gpud.store.files import StoreError, StoreFullError
from gpud.store.jobs import Store
from gpud.store.lock import lock_state

ROOM = 600 * 1024


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def until_killed(path):
    """Print each job's number once it is durable, and alternate small commits with big ones."""
    store = Store.open(path)
    number = store.load().next_number
    while True:
        size = 1 + 40 * (number % 3)
        batch = range(number, number + size)
        store.commit([change for each in batch for change in (a_whole_life(each) if each % 2 else [added(each)])])
        number += size
        say(number - 1)


def until_full(path, ballast=None):
    """Fill the disk, go on failing for a while, get space, and go on; print what was promised."""
    store, promised, refused, number = Store.open(path), [], 0, 0
    while refused < 3:
        number += 1
        environment = json.dumps({"FILL": os.urandom(20_000).hex()}).encode()
        try:
            store.commit([added(number, environment=environment)])
        except StoreFullError as error:
            refused += bool(error.hint)
            assert [job for job, *_ in store.load().waiting] == promised
        else:
            promised.append(job_id(number))
    if ballast is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        Path(ballast).unlink()
    store.commit([added(number + 1)])
    promised.append(job_id(number + 1))
    assert store.load().waiting[-1][:2] == (job_id(number + 1), TERMS)
    assert [event.job for event in store.commit([added(number + 2)]).events] == [job_id(number + 2)]
    say(json.dumps([*promised, job_id(number + 2)]))


def within_a_limit(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
    until_full(path)


def on_a_small_disk(path):
    ballast = Path(path).with_name("ballast")
    ballast.write_bytes(bytes(200 * 1024))
    until_full(path, ballast)


def as_nobody(path):
    """Print why the database cannot be opened by one who may not write there."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        Store.open(path)
    except StoreError as error:
        say(f"{error}\n{error.hint}")


def locked(path):
    lock_state(path)
    say("locked")
    sys.stdin.read()


if __name__ == "__main__":
    {each.__name__: each for each in (until_killed, within_a_limit, on_a_small_disk, as_nobody, locked)}[sys.argv[1]](
        sys.argv[2]
    )
