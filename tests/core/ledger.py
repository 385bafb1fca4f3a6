"""What a store would know after a world's changes, and whether they tell the same story as the world.

The ledger believes nothing: a change that could not follow what it knows is an assertion.
"""

from dataclasses import dataclass, replace
from typing import Any

from gpud.core.active import ActiveJob
from gpud.core.queue import job_of
from gpud.core.world import Array, World
from gpud.model.changes import (
    Added,
    ArrayPut,
    AttemptEnded,
    Change,
    Ended,
    InventoryPut,
    Moved,
    Queued,
    Reprioritised,
    SettingPut,
    TermsPut,
    Told,
    Unfolded,
    UsePut,
)
from gpud.model.gpu import Node, NodeName
from gpud.model.job import Active, End, JobId, Running, Starting, array_of, index_of, number_of
from gpud.model.spec import ArrayState, Dependency, LoadedJob, Place, Terms


@dataclass
class Row:
    """One job, element or array."""

    terms: Terms
    place: Place
    active: Active | None = None
    array: ArrayState | None = None
    end: End | None = None
    launched: int = 0  # the newest attempt that ever began
    after: tuple[Dependency, ...] = ()


class Ledger:
    def __init__(self) -> None:
        self.rows: dict[JobId, Row] = {}
        self.runs: list[tuple[Terms, float, bool]] = []  # and whether they came to their own end
        self.nodes: dict[NodeName, Node] = {}
        self.settings: dict[str, object] = {}
        self.accounts: dict[tuple[str, str | None], UsePut] = {}
        self.ends: dict[JobId, int] = {}
        self.reasons: dict[JobId, str | None] = {}
        self.gpu_s: dict[JobId, float] = {}

    def write(self, changes: list[Change]) -> None:
        for change in changes:
            self._write(change)

    def _write(self, change: Change) -> None:
        rows = self.rows
        match change:
            case Added(job, _, spec, place, array):
                assert job not in rows
                assert all(number_of(job) > number_of(other) for other in rows)
                rows[job] = Row(spec.terms, place, array=array, after=spec.after)
            case Unfolded(job, _, place):
                assert job not in rows
                rows[job] = Row(rows[array_of(job)].terms, place, after=rows[array_of(job)].after)
            case ArrayPut(job, _, array, end):
                rows[job].array, rows[job].end = array, end
            case Queued(job, _, place):
                row = rows[job]
                assert place.attempt == 1 or place.attempt >= row.launched, "an attempt is never run again"
                row.place, row.active, row.end = place, None, None
            case Moved(job, _, attempt, state):
                self._move(rows[job], attempt, state)
            case AttemptEnded(job, attempt, ended, cause, gpu_s=gpu_s):
                self.gpu_s[job] = self.gpu_s.get(job, 0.0) + gpu_s
                row = rows[job]
                assert row.active is not None
                assert attempt == row.place.attempt
                own_end = cause is None and (ended.exit_code == 0 or ended.timed_out)
                ran_s = ended.at - ActiveJob(job, row.terms, row.place, row.active, 0).since
                self.runs.append((row.terms, ran_s, own_end))
                row.active = None
            case Ended(job, _, end, _, reason):
                self.reasons[job] = reason
                row = rows[job]
                assert row.active is None
                assert row.end is None, "ended twice"
                row.end = end
                self.ends[job] = self.ends.get(job, 0) + 1
            case Reprioritised(job, _, priority):
                rows[job].place = replace(rows[job].place, priority=priority)
            case TermsPut(job, _, terms):
                row = rows[job]
                # Of a job that runs only how long it may can be changed.
                assert row.active is None or replace(row.terms, time_limit_s=terms.time_limit_s) == terms
                row.terms = terms
            case InventoryPut(_, node):
                known = self.nodes.get(node.name)
                gone = [gpu for gpu in (known.gpus if known else ()) if gpu.id not in {each.id for each in node.gpus}]
                lost = tuple(gpu for gpu in gone if not gpu.simulated)
                self.nodes[node.name] = replace(node, gpus=(*node.gpus, *lost))
            case UsePut(tenant, user):
                self.accounts[tenant, user] = change
            case SettingPut(key, value):
                self.settings[key] = value
            case Told():
                pass

    def _move(self, row: Row, attempt: int, state: Active) -> None:
        assert attempt == row.place.attempt
        assert row.end is None
        if isinstance(state, Starting):
            assert row.active is None, "started while active"
            assert row.place.park is None, "started while parked"
            assert attempt > row.launched, "an attempt is never started twice"
            row.launched = attempt
        elif isinstance(state, Running):
            assert isinstance(row.active, Starting)
        else:
            assert isinstance(row.active, Active)
        row.active = state

    def unfinished(self) -> dict[JobId, Row]:
        return {job: row for job, row in self.rows.items() if row.end is None}

    def loaded(self) -> tuple[list[tuple[JobId, Terms, int, int]], list[LoadedJob]]:
        """Return what the store would load: plain waiting jobs, and the others."""
        waiting, others = [], []
        for job, row in sorted(self.unfinished().items()):
            place = row.place
            plain = replace(place, priority=0, queued_us=0) == Place() and row.active is None and row.array is None
            if plain:
                waiting.append((job, row.terms, place.priority, place.queued_us))
            else:
                others.append(self._loaded(job, row, row.array))
        return waiting, others

    def finished(self, job: JobId) -> LoadedJob:
        """Return an ended job, or an element that never had a row, as the store gives it for a requeue."""
        array = self.rows[array_of(job)]
        row = self.rows.get(job)
        if row is None:
            row = replace(array, end=End.CANCELLED)
        return replace(self._loaded(job, row, array.array), array_terms=array.terms if job != array_of(job) else None)

    def end_of(self, job: JobId) -> End | None:
        """Return how a job, element or array ended; None where it has not."""
        row, index = self.rows.get(job), index_of(job)
        if row is not None:
            return row.end
        array = self.rows[array_of(job)].array
        return End.CANCELLED if array is not None and index is not None and index in array.dropped else None

    def ends_of(self, after: tuple[Dependency, ...]) -> tuple[tuple[JobId, End], ...]:
        """Return how these ended, as the store gives it."""
        return tuple((each.job, end) for each in after if (end := self.end_of(each.job)) is not None)

    def _loaded(self, job: JobId, row: Row, array: ArrayState | None) -> LoadedJob:
        ends = self.ends_of(row.after)
        return LoadedJob(
            job=job,
            terms=row.terms,
            place=row.place,
            active=row.active,
            array=array,
            end=row.end,
            after=row.after,
            ends=ends,
        )


def picture(world: World) -> dict[str, Any]:
    """Return what of a world its changes must have told."""
    jobs: dict[JobId, tuple[Terms, Place, Active | None]] = {
        job: (active.terms, active.place, active.state) for job, active in world.active.items()
    }
    elements = [job for array in world.arrays.values() for job in array.elements]
    for job in {*world.parked, *world.places, *elements, *(job_of(entry) for _, entry in world.queue.standing())}:
        waiting = world.waiting(job)
        if waiting is not None:
            assert job not in world.active, "waits and runs"
            jobs[job] = (waiting.terms, waiting.place, None)
    return {
        "jobs": {job: each for job, each in jobs.items() if job not in world.arrays},
        "arrays": {job: (array.terms, where(array), array.state) for job, array in world.arrays.items()},
        "paused": world.paused,
        "drained": {**world.drained, **{gpu: state.drained for gpu, state in world.gpus.items() if state.drained}},
    }


def where(array: Array) -> Place | None:
    """Return where what is pending of an array waits."""
    return array.place if array.state.pending else None


def told(ledger: Ledger) -> dict[str, Any]:
    """Return the same picture, from the changes alone."""
    rows = ledger.unfinished()
    drained = ledger.settings.get("drained")
    return {
        "jobs": {job: (row.terms, row.place, row.active) for job, row in rows.items() if row.array is None},
        "arrays": {
            job: (row.terms, row.place if row.array.pending else None, row.array)
            for job, row in rows.items()
            if row.array is not None
        },
        "paused": ledger.settings.get("paused"),
        "drained": drained["gpus"] if isinstance(drained, dict) else {},
    }
