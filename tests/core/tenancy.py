"""Tenants and reservations in words, on top of the playbook; and the history that GPU-hours are counted from."""

from dataclasses import replace
from itertools import chain

import pytest
from playbook import Play, a_job
from tallies import held

from gpud.core.commands import DeleteReservation, DeleteTenant, PutTenant, Reserve, Reserved
from gpud.model.changes import AttemptEnded
from gpud.model.gpu import GpuId
from gpud.model.units import Timestamp
from gpud.model.window import Window


def a_job_of(tenant: str, gpus: int = 1, **more):
    spec = a_job(gpus, **more)
    return replace(spec, terms=replace(spec.terms, tenant=tenant))


def create(play: Play, name: str, **values):
    return play._ask(PutTenant(1, name, True, tuple(values.items())))


def change(play: Play, name: str, *, remove=(), **values):
    return play._ask(PutTenant(1, name, False, tuple(values.items()), remove))


def delete(play: Play, name: str):
    return play._ask(DeleteTenant(1, name))


def reserve(play: Play, *gpus: GpuId, at: float = 0.0, until: float, users=(), tenants=(), reason: str = ""):
    """Return its number, or why it is refused; `at` and `until` are seconds from now."""
    moments = {"at": Timestamp(play.now + at), "until": Timestamp(play.now + until)}
    window = Window(number=0, gpus=gpus, users=tuple(users), tenants=tuple(tenants), reason=reason, **moments)
    reply = play._ask(Reserve(1, window))
    return reply.number if isinstance(reply, Reserved) else reply


def unreserve(play: Play, number: int):
    return play._ask(DeleteReservation(1, number))


class History:
    """Every attempt that ever held something: of whom, how many GPUs, from when until when."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.ended: list[tuple[str, int, float, float]] = []
        self._before = {}

    def note(self) -> None:
        """Take in what the last cycle changed."""
        for change_ in self.play.out.changes:
            if isinstance(change_, AttemptEnded):
                was = self._before[change_.job]
                gpus = held(self.play.world, was) / 1000
                assert change_.gpu_s == pytest.approx(gpus * max(0.0, change_.exit.at - was.since))
                self.ended.append((was.terms.tenant, held(self.play.world, was), was.since, change_.exit.at))
        self._before = dict(self.play.world.active)

    def hours(self, tenant: str, start: float) -> float:
        """GPU-hours that a tenant used since then."""
        now = self.play.now
        world = self.play.world
        active = [(each.terms.tenant, held(world, each), each.since, now) for each in self._before.values()]
        used = (
            weight * max(0.0, end - max(since, start))
            for name, weight, since, end in chain(self.ended, active)
            if name == tenant
        )
        return sum(used) / 1000 / 3600
