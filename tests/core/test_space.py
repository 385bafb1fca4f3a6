"""Spaces: what is remembered between cycles answers as what is counted anew, and nothing is given twice."""

from dataclasses import replace

from hypothesis import given, strategies as st
from playbook import SIZES, a_node

from gpud.core.fleet import GpuState, NodeState
from gpud.core.fragmentation import Fragmentation
from gpud.core.room import Hold, Room, Stocks
from gpud.core.scoring import BestFit, Score, Spread
from gpud.core.space import Spaces
from gpud.model.gpu import Allocation, Gpu, GpuId, Node, NodeName, nominal_mib
from gpud.model.job import Demand
from gpud.model.units import Mib

MIX = {Demand(gpus=1, share_permille=300, cpus=2): 3.0, Demand(gpus=2, cpus=8): 1.0, Demand(gpus=1, cpus=4): 2.0}
RULES = [BestFit, Spread, lambda: Fragmentation(MIX), lambda: Fragmentation(least=3)]


@st.composite
def nodes(draw: st.DrawFn, name: str) -> NodeState:
    kinds = draw(st.lists(st.sampled_from(["H100", "A10", "T4"]), max_size=2, unique=True)) * draw(st.integers(1, 2))
    gpus = [
        Gpu(
            id=GpuId(f"{name}-{index}"),
            index=index,
            name=SIZES[kind][0],
            memory_total_mib=Mib(SIZES[kind][1]),
            simulated=True,
            nvlink=draw(st.sampled_from([None, "a", "b"])),
            numa=index % 2,
        )
        for index, kind in enumerate(kinds)
    ]
    if gpus and draw(st.booleans()):
        parent = gpus[-1]
        gpus[-1] = replace(parent, id=GpuId(f"{parent.id}-mig"), mig="1g.10gb", parent=parent.id)
    labels = draw(st.sampled_from([(), (("rack", "b2"),)]))
    node = Node(name=NodeName(name), cpus=16, memory_mib=Mib(64 * 1024), gpus=tuple(gpus), labels=labels)
    return NodeState(node, [GpuState(gpu, node.name, present=True) for gpu in gpus], present=True)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    count = draw(st.integers(0, 3))
    gang = draw(st.sampled_from([1, 1, 1, 2])) if count else 1
    share = draw(st.sampled_from([{}, {}, {"share_mib": Mib(8192)}, {"share_permille": 460}, {"share_permille": 540}]))
    return Demand(
        gpus=count * gang,
        nodes=gang,
        cpus=draw(st.integers(0, 6)),
        memory_mib=Mib(draw(st.sampled_from([0, 0, 4096, 20_000]))),
        gpu_memory_mib=draw(st.sampled_from([None, None, Mib(24 * 1024)])),
        gpu_type=draw(st.sampled_from([None, None, "A10|T4"])),
        mig=draw(st.sampled_from([None, None, None, "1g.10gb"])),
        gpu_ids=(GpuId("n1-0"), GpuId("n2-0")) if draw(st.integers(0, 9)) == 0 else (),
        excluded_gpus=(GpuId("n1-1"),) if draw(st.integers(0, 9)) == 0 else (),
        excluded_nodes=(NodeName("n2"),) if draw(st.integers(0, 9)) == 0 else (),
        node_labels=(("rack", "b2"),) if draw(st.integers(0, 9)) == 0 else (),
        spread=draw(st.integers(0, 9)) == 0,
        **(share if count else {}),
    )


def holds_on(room: Room, pick: int) -> Hold:
    """Half of one GPU, nothing of another, and few CPUs."""
    gpus = {state.gpu.id: 0 if index % 2 else 6000 for index, state in enumerate(room.node.gpus) if index != pick}
    return Hold(gpus=gpus, cpus=3, memory_mib=8192)


def an_empty_room(node: NodeState) -> Room:
    return Room(node, list(node.gpus), node.node.cpus, node.node.memory_mib)


def could_give(demand: Demand, room: Room, hold: Hold | None) -> bool:
    """Whether a node has what is asked for, by the words of the promise."""
    cpus, memory_mib = room.cpus, room.memory_mib
    held = {}
    if hold is not None:
        cpus, memory_mib, held = min(cpus, hold.cpus), min(memory_mib, hold.memory_mib), hold.gpus
    counted = demand.cpus if demand.cpus or demand.gpus else 1
    if counted > cpus or demand.memory_mib > memory_mib or room.name in demand.excluded_nodes:
        return False
    if any(label not in room.node.node.labels for label in demand.node_labels):
        return False
    able = 0
    for state in room.node.gpus:
        gpu, size = state.gpu, nominal_mib(state.gpu.memory_total_mib)
        names = {gpu.id, gpu.parent}  # who is named with a GPU is so with its instances
        if gpu.mig != demand.mig or names & {*demand.excluded_gpus}:
            continue
        if demand.gpu_ids and not names & {*demand.gpu_ids}:
            continue
        if demand.gpu_memory_mib is not None and size < demand.gpu_memory_mib:
            continue
        if demand.gpu_type is not None and "H100" in gpu.name:
            continue
        if demand.share_mib is None and demand.share_permille is None:
            able += state in room.free and gpu.id not in held
            continue
        need = demand.share_mib if demand.share_mib is not None else size * demand.share_permille // 1000
        left = size if state in room.free else room.shared.get(gpu.id, -1)
        able += need <= min(left, held.get(gpu.id, left))
    return able >= demand.gpus // demand.nodes


def check(demand: Demand, allocation: Allocation | None, spaces: Spaces, holds: dict[NodeName, Hold]) -> None:
    able = [name for name, room in spaces.rooms.items() if could_give(demand, room, holds.get(name))]
    assert (allocation is not None) == (len(able) >= demand.nodes)
    if allocation is None:
        return
    names = [part.node for part in allocation.parts]
    assert len(names) == demand.nodes == len(set(names))
    assert set(names) <= set(able)
    for part in allocation.parts:
        assert len(set(part.gpus)) == len(part.gpus) == demand.gpus // demand.nodes
        room, hold = spaces.rooms[part.node], holds.get(part.node)
        for share in part.shares:
            left = room.left_mib(share.gpu)
            assert (share.memory_mib is None) == (not demand.shared)
            if share.memory_mib is None:
                assert share.gpu not in room.shared
                assert share.gpu in {state.gpu.id for state in room.free}
                assert hold is None or share.gpu not in hold.gpus
            else:
                assert share.memory_mib <= min(left, left if hold is None else hold.gpus.get(share.gpu, left))


@given(st.data(), st.sampled_from(RULES))
def test_what_is_remembered_answers_as_what_is_counted_anew(data, rule):
    there = [data.draw(nodes(f"n{number}")) for number in range(data.draw(st.integers(1, 5)))]
    wanted = data.draw(st.lists(demands(), min_size=1, max_size=5))
    spaces = Spaces(rule())
    for node in there:
        spaces.put(an_empty_room(node))
    held: list[Allocation] = []
    for _ in range(data.draw(st.integers(1, 25))):
        act = data.draw(st.sampled_from(["ask", "ask", "ask", "ask", "end", "drop", "put", "learn"]))
        node = data.draw(st.sampled_from(there))
        name = node.node.name
        if act == "learn":
            spaces.learn(data.draw(st.sampled_from(wanted)))
        elif act == "drop":
            spaces.drop(name)
        elif act == "put":
            room = an_empty_room(node)
            for part in (part for each in held for part in each.parts if part.node == name):
                room.take(part)
            spaces.put(room)
        elif act == "end" and held:
            for part in held.pop(data.draw(st.integers(0, len(held) - 1))).parts:
                if part.node in spaces.rooms:
                    room = spaces.rooms[part.node].copy()
                    room.give_back(part)
                    spaces.put(room)
        else:
            demand = data.draw(st.sampled_from(wanted))
            holds = {name: holds_on(spaces.rooms[name], data.draw(st.integers(0, 2)))} if name in spaces.rooms else {}
            holds = holds if data.draw(st.booleans()) else {}
            found = spaces.best(demand, holds)
            check(demand, found, spaces, holds)
            anew = Spaces(spaces.placement)
            for room in reversed(spaces.rooms.values()):
                anew.put(room.copy())
            assert found == anew.best(demand, holds)
            if found is not None and data.draw(st.booleans()):
                spaces.take(found)
                held.append(found)
    for name, room in spaces.rooms.items():
        taken = [share for each in held for part in each.parts if part.node == name for share in part.shares]
        whole = [share.gpu for share in taken if share.memory_mib is None]
        assert len(whole) == len(set(whole))
        assert not set(whole) & {share.gpu for share in taken if share.memory_mib is not None}
        assert all(left >= 0 for left in room.shared.values())


class Counting(BestFit):
    """Best fit that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, demand: Demand, room: Room, after: Stocks) -> Score:
        self.asked += 1
        return super().score(demand, room, after)


def many_nodes(count: int, *, alike: bool = False) -> tuple[Spaces, Counting]:
    rule = Counting()
    spaces = Spaces(rule)
    for number in range(count):
        node = a_node(f"n{number:03}", "2xH100", cpus=64 if alike else 64 + number)
        state = NodeState(node, [GpuState(gpu, node.name, present=True) for gpu in node.gpus], present=True)
        spaces.put(an_empty_room(state))
    return spaces, rule


def end(spaces: Spaces, allocation: Allocation) -> None:
    room = spaces.rooms[allocation.node].copy()
    room.give_back(allocation)
    spaces.put(room)


def test_after_one_change_one_node_is_looked_at():
    spaces, rule = many_nodes(50)
    spaces.take(spaces.best(Demand()))
    assert rule.asked == 50
    spaces.take(spaces.best(Demand()))
    assert rule.asked == 51
    assert spaces.best(Demand(gpus=2)).node == "n001"
    assert rule.asked == 51 + 49  # one is full, and needs no score


def test_nodes_that_are_alike_are_scored_once():
    spaces, rule = many_nodes(50, alike=True)
    given = [spaces.best(Demand())]
    assert rule.asked == 1
    for _ in range(99):
        spaces.take(given[-1])
        given.append(spaces.best(Demand()))
    assert len({gpu for each in given for gpu in each.gpus}) == 100
    assert rule.asked == 2  # with both of its GPUs free, and with the second one


def test_that_nothing_fits_is_remembered():
    spaces, rule = many_nodes(3)
    while (found := spaces.best(Demand(gpus=2))) is not None:
        spaces.take(found)
    asked = rule.asked
    assert [spaces.best(Demand(gpus=2)) for _ in range(10)] == [None] * 10
    assert rule.asked == asked


def test_a_node_that_is_counted_anew_and_has_not_changed_is_not_looked_at():
    spaces, rule = many_nodes(3)
    spaces.best(Demand())
    spaces.put(an_empty_room(spaces.rooms[NodeName("n001")].node))
    spaces.best(Demand())
    assert rule.asked == 3


def test_a_demand_that_nobody_asks_for_is_forgotten_and_answered_again():
    spaces, rule = many_nodes(3)
    spaces.best(Demand(gpus=2))
    asked = rule.asked
    for _ in range(400):
        found = spaces.best(Demand())
        spaces.take(found)
        end(spaces, found)
    assert rule.asked < asked + 3 + 2 * 400 + 3 * 10
    assert len(spaces._rankings) == 1
    assert len(spaces._log) < 300
    assert spaces.best(Demand(gpus=2)).node == "n000"
