"""What a commit makes durable, and what a start finds."""

from contextlib import closing
from dataclasses import replace

import pytest
from stored import (
    ENVIRONMENT,
    ON_TWO,
    PROCESS,
    SHARED,
    SHIM,
    T0,
    TERMS,
    a_spec,
    a_whole_life,
    added,
    over,
    rows,
    running,
    starting as starts,
)

from gpud.model.array import IndexSet, parse_array
from gpud.model.changes import (
    ArrayPut,
    AttemptEnded,
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
from gpud.model.gpu import Allocation, Gpu, GpuId, Node, NodeName, Share
from gpud.model.job import Demand, End, Exit, Fault, Starting, StopCause, Stopping, job_id
from gpud.model.spec import ArrayState, Dependency, LoadedJob, Park, Place, Terms, When
from gpud.model.units import Mib, Timestamp
from gpud.store import pruning
from gpud.store.coding import encode_allocation
from gpud.store.jobs import NonceTakenError, Store
from gpud.store.reader import Reader
from gpud.store.rows import JobQuery

ONE, TWO = job_id(1), job_id(2)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "gpud ?#%é.sqlite")  # a file's name is no URI


@pytest.fixture
def store(path):
    opened = Store.open(path)
    yield opened
    opened.close()


@pytest.fixture
def reader(store):
    opened = Reader(store.path)
    yield opened
    opened.close()


def reopened(store):
    with closing(Store.open(store.path)) as another:
        return another.load()


def test_a_new_database_knows_nothing_and_starts_at_one(store):
    loaded = store.load()

    assert (loaded.waiting, loaded.others, loaded.nodes, loaded.settings) == ([], [], (), {})
    assert (loaded.next_number, loaded.last_event) == (1, 0)


def test_submitted_jobs_wait_in_order_with_one_terms_object_for_each_line(store):
    other = Terms(demand=Demand(gpus=1), uid=1000, user="ann", tenant="lab")
    store.commit([added(1), added(2, terms=other), added(3, priority=5)])

    loaded = reopened(store)

    assert loaded.waiting == [(ONE, TERMS, 0, 1), (TWO, other, 0, 2), (job_id(3), TERMS, 5, 3)]
    assert loaded.waiting[0][1] is loaded.waiting[2][1]
    assert (loaded.others, loaded.next_number, loaded.last_event) == ([], 4, 3)


def test_a_launch_gets_exactly_what_was_submitted(store):
    strange = a_spec(
        1,
        name="n\udcff\ud800\x00é",  # bytes that are no UTF-8, a lone surrogate, a NUL
        command=("./run\udcfe", ""),
        workdir="/data/\udce9t\udce9",
        script=b"#!/bin/sh\n\xff\x00",
        output="%j-\udcff.log",
        labels={"k\udcff": "v"},
        array=parse_array("0-8:2,1-9:2")[0],
        throttle=3,
        begin_at=T0,
        hold=True,
        priority=-7,
    )
    plain = a_spec(2, labels={}, script=None, environment=b"{}")
    store.commit([added(1, **{key: getattr(strange, key) for key in strange.__slots__}), added(2, environment=b"{}")])

    committed = store.commit([], [(TWO, 1), (ONE, 1), (TWO, 1)])

    assert committed.specs == (plain, strange, plain)


def test_an_element_is_launched_with_its_arrays_spec(store):
    array = added(1, array=parse_array("0-2")[0])
    element = job_id(1, 0)

    committed = store.commit([array, Unfolded(element, T0, Place(queued_us=1)), starts(element)], [(element, 1)])

    assert committed.specs == (a_spec(1, nonce=""),)


def test_events_are_numbered_without_gaps_and_survive(store, reader):
    first = store.commit([added(1), Told(T0, "paused", {"reason": "é"})])
    second = store.commit([starts(ONE), running(ONE), *over(ONE, End.FAILED, code=3)])

    assert [event.seq for event in (*first.events, *second.events)] == [1, 2, 3, 4, 5]
    assert [event.kind for event in second.events] == ["starting", "running", "failed"]
    assert {event.user for event in second.events} == {"ann"}
    assert second.events[0].detail == {"node": "here", "gpus": ["GPU-1", "GPU-2"]}
    assert second.events[2].detail["exit_code"] == 3
    assert reader.events() == [*first.events, *second.events]
    assert reopened(store).last_event == 5


def test_the_start_of_a_gang_names_all_its_nodes_and_gpus(store):
    there = Allocation(node=NodeName("there"), shares=(Share(gpu=GpuId("GPU-9")),))
    committed = store.commit([added(1), starts(ONE, allocation=replace(ON_TWO, rest=(there,)))])
    detail = {"node": "here", "nodes": ["here", "there"], "gpus": ["GPU-1", "GPU-2", "GPU-9"]}
    assert committed.events[1].detail == detail


def test_active_jobs_come_back_in_the_state_they_were_in(store):
    stopping = Stopping(T0 + 9, SHARED, "boot-1", StopCause.TIMED_OUT, T0 + 40, T0 + 1, PROCESS, SHIM)
    unstarted = Stopping(T0 + 9, ON_TWO, "boot-1", StopCause.CANCELLED, T0 + 40, None, None, None)
    store.commit([added(number) for number in (1, 2, 3, 4)])
    store.commit([starts(job_id(number)) for number in (1, 2, 3, 4)])
    store.commit([running(TWO), running(job_id(3), allocation=SHARED)])
    store.commit([Moved(job_id(3), T0 + 9, 1, stopping), Moved(job_id(4), T0 + 9, 1, unstarted)])

    others = reopened(store).others

    assert [each.active for each in others] == [starts(ONE).state, running(TWO).state, stopping, unstarted]
    assert others[0] == LoadedJob(job=ONE, terms=TERMS, place=Place(queued_us=1), active=Starting(T0, ON_TWO, "boot-1"))


def test_what_a_part_by_memory_comes_to_is_kept_and_was_not_known_once(store):
    noted = replace(SHARED, shares=(replace(SHARED.shares[0], milli=333),))
    store.commit([added(1), added(2), starts(ONE, allocation=noted), starts(TWO, allocation=SHARED)])

    assert [each.active.allocation for each in reopened(store).others] == [noted, SHARED]
    assert '"milli"' not in encode_allocation(SHARED)


def test_parked_and_retried_jobs_come_back_where_they_stood(store):
    held = Place(queued_us=1, park=Park.HELD, not_before=T0 + 60)
    retried = Place(priority=3, queued_us=2, attempt=4, failures=1, park=Park.RETRY, not_before=T0 + 30)
    store.commit(
        [added(1, place=held, hold=True), added(2), starts(TWO), over(TWO)[0], Queued(TWO, T0, retried, "retried")]
    )

    assert [(each.place, each.active, each.end) for each in reopened(store).others] == [
        (held, None, None),
        (retried, None, None),
    ]


def test_a_finished_job_is_not_loaded_and_its_number_is_not_given_again(store):
    store.commit(a_whole_life(1))

    loaded = reopened(store)

    assert (loaded.waiting, loaded.others, loaded.next_number) == ([], [], 2)


def test_an_array_is_one_row_until_its_elements_start(store, path):
    indices = parse_array("0-99999")[0]
    store.commit([added(1, array=indices, throttle=2)])
    assert rows(path, "SELECT count(*) FROM job") == [(1,)]

    left = ArrayState(pending=indices.without_first(), throttle=2, live=1)
    store.commit([Unfolded(job_id(1, 0), T0, Place(queued_us=1)), starts(job_id(1, 0)), ArrayPut(ONE, T0, left)])

    array, element = reopened(store).others
    assert (array.job, array.array, array.active) == (ONE, left, None)
    assert (element.job, element.array, element.active) == (job_id(1, 0), None, starts(ONE).state)


def test_an_element_that_starts_while_somebody_looks_is_in_its_arrays_row_or_has_its_own(store, reader):
    element = job_id(1, 0)
    store.commit([added(1, array=parse_array("0-1")[0])])
    left = ArrayState(pending=parse_array("1")[0], live=1)

    def starts_now(_):
        reader._db.set_trace_callback(None)
        store.commit([Unfolded(element, T0, Place(queued_us=1)), starts(element), ArrayPut(ONE, T0, left)])

    reader._db.set_trace_callback(lambda said: starts_now(said) if "FROM job" in said and "json_each" in said else None)
    rows, _ = reader.jobs(JobQuery(spans=((ONE, ONE), (element, element)), limit=10))

    assert [row.job for row in rows] == [ONE]
    assert 0 in rows[0].array_state.pending
    assert [row.job for row in reader.rows([ONE, element])] == [ONE, element]


def test_an_arrays_state_says_what_is_left_of_it(store, path):
    everything, nothing = parse_array("0-1")[0], IndexSet()
    store.commit([added(1, array=everything)])
    states = [rows(path, "SELECT state FROM job")]
    for change in (
        Queued(ONE, T0, Place(queued_us=1, park=Park.HELD), "held"),
        ArrayPut(ONE, T0, ArrayState(pending=nothing, live=2)),
        Queued(ONE, T0, Place(queued_us=1), "priority"),
        ArrayPut(ONE, T0, ArrayState(pending=everything, live=0)),
        ArrayPut(ONE, T0, ArrayState(pending=nothing, counts=((End.FAILED, 2),)), End.FAILED),
    ):
        store.commit([change])
        states.append(rows(path, "SELECT state FROM job"))

    assert [state for ((state,),) in states] == ["queued", "held", "running", "running", "queued", "failed"]
    assert reopened(store).others == []


def test_what_comes_after_others_comes_back_with_how_these_ended(store, path):
    indices = parse_array("0-9")[0]
    dropped = ArrayState(pending=parse_array("0-6")[0], dropped=parse_array("7-9")[0])
    after = (*(Dependency(job) for job in (ONE, TWO, job_id(3), job_id(3, 7))), Dependency(job_id(3, 1), When.ANY))
    places = [Place(queued_us=4, park=park, awaits=True) for park in (Park.AFTER, Park.NEVER, Park.HELD)]
    store.commit(
        [*a_whole_life(1, end=End.FAILED), added(2), added(3, array=indices), ArrayPut(job_id(3), T0, dropped)]
    )
    store.commit([added(4 + number, place=place, after=after) for number, place in enumerate(places)])

    found = [each for each in reopened(store).others if each.array is None]
    assert [each.place for each in found] == places
    assert {each.after for each in found} == {after}
    assert {each.ends for each in found} == {((ONE, End.FAILED), (job_id(3, 7), End.CANCELLED))}
    assert rows(path, "SELECT state FROM job WHERE id >= ?", job_id(4)) == [("queued",), ("held",), ("held",)]


def test_terms_that_change_between_attempts_are_kept(store):
    more = replace(TERMS, demand=replace(TERMS.demand, memory_mib=Mib(10_240)))
    again = Place(queued_us=1, attempt=2, failures=1)
    change = [over(ONE)[0], TermsPut(ONE, T0, more), Queued(ONE, T0, again, "retried")]
    store.commit([added(1), starts(ONE), *change])
    assert reopened(store).others == [LoadedJob(job=ONE, terms=more, place=again)]


def test_an_array_that_ended_says_why(store, path):
    store.commit([added(1, array=parse_array("0-1")[0])])
    over = ArrayPut(ONE, T0, ArrayState(pending=IndexSet()), End.CANCELLED, "was to start after job 7")
    (event,) = store.commit([over]).events
    assert event.detail["reason"] == "was to start after job 7"
    assert rows(path, "SELECT state, reason FROM job") == [("cancelled", "was to start after job 7")]


def test_a_requeued_job_waits_again(store, path):
    store.commit(a_whole_life(1))
    again = Place(queued_us=1, attempt=2)
    store.commit([Queued(ONE, T0 + 5, again, "requeued", "on request")])

    assert reopened(store).others == [LoadedJob(job=ONE, terms=TERMS, place=again)]
    assert rows(path, "SELECT state, ended_at, reason FROM job") == [("queued", None, "on request")]


def test_a_priority_given_to_a_running_job_is_kept(store):
    store.commit([added(1), starts(ONE), Reprioritised(ONE, T0, 9)])

    assert reopened(store).others[0].place.priority == 9


def test_the_same_nonce_twice_makes_no_second_job_and_nothing_else_of_the_batch(store, path):
    store.commit([added(1)])

    with pytest.raises(NonceTakenError) as refused:
        store.commit([added(2), added(3, nonce="nonce-1")])

    assert refused.value.jobs == {"nonce-1": ONE}
    assert rows(path, "SELECT count(*) FROM job") == [(1,)]
    assert store.commit([added(2)]).events[0].seq == 2


def test_a_batch_that_breaks_leaves_nothing_behind_and_the_store_usable(store, path):
    fresh = Terms(demand=Demand(gpus=7), uid=1000, user="ann", tenant="lab")
    with pytest.raises(LookupError):
        store.commit([added(1, terms=fresh, environment=b'{"A": "B"}')], [(job_id(99), 1)])

    assert rows(path, "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM terms)") == [(0, 0)]
    (spec,) = store.commit([added(1, terms=fresh, environment=b'{"A": "B"}')], [(ONE, 1)]).specs
    assert (spec.terms, spec.environment) == (fresh, b'{"A": "B"}')


def test_settings_are_kept_until_they_are_removed(store):
    store.commit([SettingPut("paused", "maintenance"), SettingPut("drained", {"gpus": {"GPU-1": "hot"}})])
    store.commit([SettingPut("paused", None)])

    assert reopened(store).settings == {"drained": {"gpus": {"GPU-1": "hot"}}}


def a_gpu(uuid, index, slot, simulated=False):
    return Gpu(
        id=GpuId(uuid), index=index, name="NVIDIA A10", memory_total_mib=Mib(23028), pci_id=slot, simulated=simulated
    )


def a_node(*gpus, name="here", **changed):
    return Node(name=NodeName(name), cpus=16, memory_mib=Mib(65536), gpus=gpus, **changed)


def test_a_lost_gpu_stays_known_and_a_replaced_one_does_not(store):
    both = a_node(a_gpu("GPU-1", 0, "00:01"), a_gpu("GPU-2", 1, "00:02"), driver="550.54")
    store.commit([InventoryPut(T0, both)])
    store.commit([InventoryPut(T0, a_node(a_gpu("GPU-2", 0, "00:02")))])
    assert {gpu.id for gpu in reopened(store).nodes[0].gpus} == {"GPU-1", "GPU-2"}

    store.commit([InventoryPut(T0, a_node(a_gpu("GPU-3", 0, "00:01"), a_gpu("GPU-2", 1, "00:02"), problem="hot"))])
    assert reopened(store).nodes == (a_node(a_gpu("GPU-3", 0, "00:01"), a_gpu("GPU-2", 1, "00:02"), problem="hot"),)


def test_links_and_instances_are_known_again_until_the_gpu_is_split_anew(store):
    split = replace(a_gpu("GPU-1", 0, "00:01"), split=True, nvlink="nvlink-0", pcie="pcie-0", numa=1)
    first, second = (
        replace(a_gpu(f"MIG-{number}", 1, "00:01"), mig="3g.40gb", parent=split.id, numa=1) for number in range(2)
    )
    store.commit([InventoryPut(T0, a_node(split, first))])
    assert reopened(store).nodes == (a_node(split, first),)

    store.commit([InventoryPut(T0, a_node(split, second))])
    assert reopened(store).nodes == (a_node(split, second),)


def test_simulated_gpus_are_forgotten_with_their_simulation(store):
    store.commit([InventoryPut(T0, a_node(a_gpu("GPU-9", 0, None, simulated=True)))])
    store.commit([InventoryPut(T0, a_node(a_gpu("GPU-1", 0, "00:01")))])

    assert [gpu.id for gpu in store.load().nodes[0].gpus] == ["GPU-1"]


def test_use_is_counted_by_user_day_and_end(store, path):
    day = int(T0 // 86_400)
    preempted = AttemptEnded(job_id(3), 1, Exit(at=T0, signal=15), StopCause.PREEMPTED, 1000, "lab", 7.0)
    lost = AttemptEnded(job_id(4), 1, Exit(at=T0, lost="rebooted"), None, 1000, "lab", 1.0)
    store.commit([*a_whole_life(1), *a_whole_life(2), added(3), starts(job_id(3)), preempted])
    store.commit([added(4), starts(job_id(4)), lost, Ended(job_id(4), T0, End.LOST, lost.exit)])

    assert rows(path, "SELECT uid, tenant, day, outcome, gpu_s, cpu_s, jobs FROM usage ORDER BY outcome") == [
        (1000, "lab", day, "completed", 40.0, 4.0, 2),
        (1000, "lab", day, "lost", 1.0, 0.0, 1),
        (1000, "lab", day, "preempted", 7.0, 0.0, 0),
    ]


def test_environments_and_scripts_are_stored_once_and_removed_when_no_attempt_can_need_them(store, path, reader):
    day = 86_400.0
    count = "SELECT (SELECT count(*) FROM environment), (SELECT count(*) FROM script)"
    store.commit([*a_whole_life(1, script=b"#!/bin/sh"), *a_whole_life(2, at=T0 + 5, script=b"#!/bin/sh")])
    store.commit([added(3, environment=b'{"OTHER": "1"}')])
    assert rows(path, count) == [(2, 1)]

    # A third uses the first environment until much later.
    store.commit([added(4)])
    store.commit([starts(job_id(4), at=T0 + 40 * day), *over(job_id(4), at=T0 + 40 * day)])
    assert store.prune(pruning.environments, T0 + 39 * day) == 1
    assert rows(path, count) == [(2, 0)]

    assert store.prune(pruning.environments, T0 + 41 * day) == 1
    assert rows(path, "SELECT data FROM environment") == [(b'{"OTHER": "1"}',)]
    assert reader.finished([ONE, job_id(3)]) == {ONE: None}

    # What was pruned is stored again when somebody submits with it.
    store.commit([added(5)])
    assert store.commit([], [(job_id(5), 1)]).specs[0].environment == ENVIRONMENT


def test_a_fault_is_told_apart_from_an_exit(store, reader):
    fault = Exit(at=T0, fault=Fault("no such program: x\udcff", machine=False, not_found=True))
    store.commit([added(1), starts(ONE), AttemptEnded(ONE, 1, fault, None, 1000, "lab", 0.0)])
    store.commit([Ended(ONE, T0, End.FAILED, fault, "no such program: x\udcff")])

    row = reader.job(ONE)
    assert (row.state, row.reason, row.run.exit) == ("failed", "no such program: x\udcff", fault)


def test_what_was_used_is_kept_to_the_last_bit(store):
    store.commit([UsePut("lab", "ada", 1.0, 0.0, T0), UsePut("lab", None, 1.0, 0.0, T0)])
    store.commit([UsePut("lab", "ada", 0.1 + 0.2, 5.5, Timestamp(T0 + 1 / 3))])

    kept = [UsePut("lab", None, 1.0, 0.0, T0), UsePut("lab", "ada", 0.1 + 0.2, 5.5, Timestamp(T0 + 1 / 3))]
    assert reopened(store).accounts == kept


def test_runs_are_remembered_in_order_and_whether_they_came_to_their_own_end(store):
    lengths = {1: 50.0, 2: 10.0, 3: 30.0, 4: 70.0}
    for number, end in ((1, End.COMPLETED), (2, End.FAILED), (3, End.TIMED_OUT), (4, End.COMPLETED)):
        job = job_id(number)
        store.commit([added(number), starts(job), running(job), *over(job, end, Timestamp(T0 + lengths[number]))])

    assert reopened(store).runs == [(TERMS, 10.0, False), (TERMS, 30.0, True), (TERMS, 50.0, True), (TERMS, 70.0, True)]
    assert [ran_s for _, ran_s, _ in store.load(runs=1).runs] == [70.0]
