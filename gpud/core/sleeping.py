"""Demands that sleep: nobody of them can start until something changes, and they are asked again only then.

Once nobody who is blocked may reserve or preempt any more, a round has no use for most demands of a long queue: they
fit nowhere, or only where reservations bind even the shortest of their jobs. Such a demand sleeps until a node that has
got something back has all that it needs; or, if reservations keep it off, until there are others, or they bind fewer,
or one of its jobs is shorter (the queue wakes it then).

Cost: a comparison for each demand in a round, and a look at those that may fit where something was given back.
"""

from collections.abc import Sequence

from gpud.core.guard import Guard
from gpud.core.queue import Bound, Group
from gpud.core.room import Free, Room
from gpud.core.world import World


class Sleeping:
    """Which demands sleep on in one round, as of what was given back since the last one in which that was asked."""

    def __init__(self, world: World, guard: Guard) -> None:
        self._world = world
        self._guard = guard
        reserved = [(each.job, each.allocation) for each in world.reservations.values()]
        self._as_before = reserved == world.slept_for
        world.slept_for = reserved
        self._grown = world.spaces.grown()
        self._free: dict[Bound, Free] = {}

    def sleeps_on(self, group: Group) -> bool:
        """Return whether a demand sleeps still, or falls asleep."""
        if self._world.policy.by_burst:  # its ranks change with time
            self._rank_anew(group)
        bound = group.asleep
        if bound is None or (bound and not (self._as_before and self._guard.bind(group.lasts_s) == bound)):
            return self.falls_asleep(group)
        free, needs = self._free.get(bound) or self._most(bound), group.needs
        if needs.gpus <= free.gpus and needs.cpus <= free.cpus and needs.memory_mib <= free.memory_mib:
            return self.falls_asleep(group)
        return True

    def falls_asleep(self, group: Group) -> bool:
        """Return whether nobody with a demand can start now."""
        spaces, demand = self._world.spaces, group.demand
        group.asleep = None
        if group.needs.gpus > spaces.most_free or not spaces.fits(demand):
            group.asleep = ()
        else:
            group.lasts_s = self._world.queue.shortest_s(group)
            bound = self._guard.bind(group.lasts_s)
            if bound and not spaces.fits(demand, self._guard.holds(bound)):
                group.asleep = bound
        return group.asleep is not None

    def _rank_anew(self, group: Group) -> None:
        queue = self._world.queue
        while (first := queue.first(group)) is not None and queue.moved(first[2]):
            pass

    def _most(self, bound: Bound) -> Free:
        """Return the most of each that a node may have now which it did not have before, beside what is reserved."""
        rooms, holds = self._world.spaces.rooms, self._guard.holds(bound)
        nodes = dict.fromkeys(self._grown) | dict.fromkeys(holds)  # until later more is given back of what is reserved
        beside = [rooms[name].within(holds[name]) if name in holds else rooms[name] for name in nodes if name in rooms]
        free = self._free[bound] = _most(beside)
        return free


def _most(rooms: Sequence[Room]) -> Free:
    """Return the most of each that any node has; nothing where less than nothing is left."""
    return Free(
        max([len(room.free) for room in rooms], default=0),
        max([0, *[room.cpus for room in rooms]]),
        max([0, *[room.memory_mib for room in rooms]]),
    )
