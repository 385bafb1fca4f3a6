"""Whatever a cycle may say, in whatever batches: what is loaded is what was said."""

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hypothesis import Phase, given, settings, strategies as st
from stored import PROCESS, SHIM, T0, TERMS, a_spec, a_whole_life, added, for_user

from gpud.model.array import IndexSet, index_set
from gpud.model.changes import Added, ArrayPut, AttemptEnded, Ended, Moved, Queued, Reprioritised, Unfolded
from gpud.model.gpu import Allocation, GpuId, NodeName, Share
from gpud.model.job import End, Exit, Running, Starting, StopCause, Stopping, array_of, job_id
from gpud.model.spec import ArrayState, LoadedJob, Park, Place
from gpud.model.units import Mib
from gpud.store.jobs import Store

moments = st.floats(min_value=T0, max_value=T0 + 1e6)
maybe_moments = st.none() | moments
boots = st.sampled_from(["boot-1", "boot-2"])
processes = st.sampled_from([PROCESS, SHIM])
names = st.text(max_size=6) | st.sampled_from(["\udcff", "\ud800x", "a\x00b"])
shares = st.builds(Share, gpu=st.sampled_from([GpuId("GPU-1"), GpuId("GPU-2")]), memory_mib=st.none() | st.just(Mib(9)))
allocations = st.builds(
    Allocation, node=names.map(NodeName), shares=st.lists(shares, max_size=3).map(tuple), cpus=st.integers(0, 64)
)
places = st.builds(
    Place,
    priority=st.integers(-100, 100),
    queued_us=st.integers(0, 1 << 60),
    attempt=st.integers(1, 3),
    failures=st.integers(0, 2),
    park=st.none() | st.sampled_from(Park),
    not_before=maybe_moments,
)
active = st.one_of(
    st.builds(Starting, moments, allocations, boots),
    st.builds(Running, moments, allocations, boots, processes, processes),
    st.builds(
        Stopping,
        moments,
        allocations,
        boots,
        st.sampled_from(StopCause),
        moments,
        maybe_moments,
        st.none() | processes,
        st.none() | processes,
    ),
)
index_sets = st.sets(st.integers(0, 40)).map(index_set)
ends = st.sampled_from(End)
arrays = st.builds(
    ArrayState,
    pending=index_sets,
    throttle=st.none() | st.integers(1, 9),
    live=st.integers(0, 9),
    dropped=index_sets,
    counts=st.dictionaries(ends, st.integers(1, 9)).map(lambda counts: tuple(sorted(counts.items()))),
)
terms = st.sampled_from([TERMS, for_user(TERMS, "bob"), replace(TERMS, grace_s=5), replace(TERMS, grace_s=5.0)])


class Story:
    """The jobs as the changes said they are."""

    def __init__(self, data):
        self.data = data
        self.jobs = {}

    def tell(self, *choices):
        return self.data.draw(st.sampled_from(choices)) if choices else None

    def next(self):
        """Return the next change, having taken it in."""
        draw, at = self.data.draw, self.data.draw(moments)
        own = [job for job, known in self.jobs.items() if known.array is None]
        whole = [job for job, known in self.jobs.items() if known.array is not None]
        verb = self.tell(
            "add",
            *(["move", "queue", "end", "priority", "attempt"] if own else []),
            *(["put", "unfold"] if whole else []),
        )
        if verb == "add":
            return self.add(at)
        job = self.tell(*(whole if verb in {"put", "unfold"} else own))
        known = self.jobs[job]
        match verb:
            case "move":
                attempt, state = draw(st.integers(1, 3)), draw(active)
                place = replace(known.place, attempt=attempt, park=None, not_before=None)
                self.jobs[job] = replace(known, active=state, place=place, end=None)
                return Moved(job, at, attempt, state) if known.end is None else self.queue(job, known, at)
            case "queue":
                return self.queue(job, known, at)
            case "end":
                end = draw(ends)
                self.jobs[job] = replace(known, active=None, end=end)
                return Ended(job, at, end, None, draw(st.none() | names))
            case "priority":
                self.jobs[job] = replace(known, place=replace(known.place, priority=7))
                return Reprioritised(job, at, 7)
            case "attempt":
                return AttemptEnded(job, known.place.attempt, Exit(at=at, exit_code=1), None, 1, draw(names), 1.0)
            case "put":
                end, array = draw(st.none() | ends), draw(arrays)
                self.jobs[job] = replace(known, array=array, end=end)
                return ArrayPut(job, at, array, end)
            case _:
                return self.unfold(job, known, at)

    def add(self, at):
        number, place, array = len(self.jobs) + 1, self.data.draw(places), self.data.draw(st.none() | arrays)
        spec = a_spec(number, terms=self.data.draw(terms), name=self.data.draw(names))
        spec = replace(spec, array=None if array is None else IndexSet((range(3),)))
        self.jobs[job_id(number)] = LoadedJob(job=job_id(number), terms=spec.terms, place=place, array=array)
        return Added(job_id(number), at, spec, place, array)

    def queue(self, job, known, at):
        place = self.data.draw(places)
        self.jobs[job] = replace(known, place=place, active=None, end=None)
        return Queued(job, at, place, "held", self.data.draw(st.none() | names))

    def unfold(self, job, known, at):
        element = job | (len([each for each in self.jobs if array_of(each) == job]))
        place = self.data.draw(places)
        self.jobs[element] = LoadedJob(job=element, terms=known.terms, place=place)
        return Unfolded(element, at, place)

    def unfinished(self):
        return sorted((known for known in self.jobs.values() if known.end is None), key=lambda known: known.job)


def in_full(loaded):
    plain = [
        LoadedJob(job=job, terms=terms, place=Place(priority=priority, queued_us=queued_us))
        for job, terms, priority, queued_us in loaded.waiting
    ]
    return sorted([*plain, *loaded.others], key=lambda known: known.job)


@settings(max_examples=60, deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking a database takes minutes
@given(st.data())
def test_what_is_loaded_is_what_the_changes_said(data):
    story = Story(data)
    with tempfile.TemporaryDirectory() as folder, closing(Store.open(str(Path(folder) / "gpud.sqlite"))) as store:
        for batch in data.draw(st.lists(st.integers(0, 8), max_size=6)):
            store.commit([story.next() for _ in range(batch)])

        assert in_full(store.load()) == story.unfinished()
        with closing(Store.open(store.path)) as again:
            assert in_full(again.load()) == story.unfinished()


def steps_of_a_load(path):
    """Return how many instructions SQLite runs to load, in hundreds: the same on every machine."""
    steps = []
    with closing(Store.open(path)) as store:
        store._db.set_progress_handler(lambda: steps.append(1), 100)
        store.load(runs=50)
    return len(steps)


def test_a_start_costs_the_same_whatever_the_history(tmp_path):
    path = str(tmp_path / "gpud.sqlite")
    with closing(Store.open(path)) as store:
        store.commit([added(number) for number in range(1, 101)])
        store.commit([change for number in range(101, 201) for change in a_whole_life(number)])
        young = steps_of_a_load(path)
        store.commit([change for number in range(201, 2201) for change in a_whole_life(number)])

    assert steps_of_a_load(path) <= young + 1
