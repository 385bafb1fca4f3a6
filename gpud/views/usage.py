"""What GPUs were used for, by whom, and what it cost: from the store's hours, and what runs now.

Nobody's jobs are in it one by one. Cost: what `spending` says, in the reading thread, and a look at what runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpud.core import census
from gpud.core.active import ActiveJob
from gpud.core.books import held_of
from gpud.core.placement import type_matches
from gpud.core.world import World
from gpud.instance import Instance
from gpud.model.gpu import GpuId
from gpud.model.units import Seconds, Timestamp
from gpud.store.spending import Spent, hour_of
from gpud.wire.codec import Message
from gpud.wire.statistics import UsageMap


@dataclass(slots=True)
class _Sum:
    gpu_s: Seconds = 0.0
    known_s: Seconds = 0.0
    busy_s: Seconds = 0.0
    idle_s: Seconds = 0.0
    energy_j: float = 0.0
    attempts: int = 0
    starts: int = 0
    wait_s: Seconds = 0.0
    foreign_s: Seconds = 0.0
    cost: float = 0.0

    def add(self, each: Spent, price: float) -> None:
        self.gpu_s += each.gpu_s
        self.known_s += each.known_s
        self.busy_s += each.busy_s
        self.idle_s += each.idle_s
        self.energy_j += each.energy_j
        self.attempts += each.attempts
        self.starts += each.starts
        self.wait_s += each.wait_s
        self.foreign_s += each.foreign_s
        self.cost += each.gpu_s / 3600 * price


class UsageReport:
    """Answers `usage`."""

    def __init__(self, gpud: Instance) -> None:
        self._gpud = gpud

    async def answer(self, message: Message) -> Message:
        """Return a `UsageReply`. Raises StoreError."""
        by, asked = message["by"], Timestamp(min(message["since"], self._gpud.clock()))
        since = Timestamp(float(hour_of(asked)))
        found = await self._gpud.reader.run(lambda reader: reader.spent(by, since))
        world, now = self._gpud.world, self._gpud.clock()
        for active in world.active.values():
            found += _so_far(world, active, by, since, now)
        sums: dict[str, _Sum] = {}
        for each in found:
            sums.setdefault(each.key, _Sum()).add(each, self._price(each.model))
        rows = [self._row(world, by, key, total) for key, total in sums.items()]
        rows.sort(key=lambda row: (-row["gpu_s"], row["name"]))
        there = {"gpus": census.present(world), "there_gpu_s": census.there_s(world.census, since, now)}
        return {"by": by, "since_at": since, "until_at": now, **there, "rows": rows}

    def _price(self, model: str) -> float:
        prices = self._gpud.config.gpu_hour_price
        return next((price for pattern, price in prices if model and type_matches(pattern, model)), 0.0)

    def _row(self, world: World, by: str, key: str, total: _Sum) -> UsageMap:
        name, state = key, world.gpus.get(GpuId(key)) if by == "gpu" else None
        if state is not None:
            name = f"{state.node}:{state.gpu.index}"
        return {
            "name": name,
            "gpu": state.gpu.name if state is not None else None,
            "gpu_s": total.gpu_s,
            "utilization": total.busy_s / total.known_s if total.known_s else None,
            "measured_gpu_s": total.known_s,
            "idle_gpu_s": total.idle_s,
            "energy_j": total.energy_j or None,
            "ended": total.attempts,
            "wait_s": total.wait_s / total.starts if total.starts else None,
            "foreign_gpu_s": total.foreign_s,
            "cost": total.cost if self._gpud.config.gpu_hour_price else None,
        }


def _so_far(world: World, active: ActiveJob, by: str, since: Timestamp, now: Timestamp) -> Sequence[Spent]:
    """Return what an active attempt has had since then: what was seen of its GPUs counts by how much of it is new."""
    terms = active.terms
    if by == "group":
        return ()  # its group is in the store; it counts once it has ended
    shares = active.state.allocation.all_shares
    held_s, new_s = max(0.0, now - active.since), max(0.0, now - max(active.since, since))
    tallies = world.samples.tallies.get(active.job, {})
    found = []
    for share in shares:
        state, tally = world.gpus.get(share.gpu), tallies.get(share.gpu)
        part = new_s / held_s if held_s and tally is not None else 0.0
        found.append(
            Spent(
                key={"user": terms.user, "tenant": terms.tenant, "gpu": share.gpu}[by],
                model="" if state is None else state.gpu.name,
                gpu_s=new_s * held_of(terms.demand, share) / 1000,
                known_s=0.0 if tally is None else part * tally.known_s,
                busy_s=0.0 if tally is None else part * tally.busy_s,
                idle_s=0.0 if tally is None else part * tally.idle_s,
                energy_j=0.0 if tally is None else part * (tally.energy_j or 0.0),
                attempts=0,
                starts=0,
                wait_s=0.0,
            )
        )
    return found
