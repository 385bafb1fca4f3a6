"""GPUs in parts: shares by memory or fraction, and MIG instances. A GPU is whole or shared, never both."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from playbook import SIZES, Hardware, Play, a_cluster, a_job, a_node, a_process, a_real_cluster

from gpud.core.condition import Condition, condition
from gpud.core.room import share_of
from gpud.core.rules import Limits, Rules
from gpud.core.victims import as_victim
from gpud.model.gpu import GpuId, Node, ProcessIdentity, Share, nominal_mib
from gpud.model.job import Demand, JobId
from gpud.model.units import Mib, Timestamp

ONE, TWO = GpuId("n1-H100-0"), GpuId("n1-H100-1")
SHIM, ITS_CHILD = ProcessIdentity(99, 1), ProcessIdentity(4242, 7)  # as the playbook starts jobs


def a_share(gib: int | None = None, *, permille: int | None = None, **more: object):
    mib = None if gib is None else Mib(gib * 1024)
    return a_job(1, share_mib=mib, share_permille=permille, **more)


def shares(play: Play, job: JobId) -> list[tuple[GpuId, Mib | None]]:
    return [(share.gpu, share.memory_mib) for share in play.world.active[job].state.allocation.all_shares]


def state_of(play: Play, gpu: GpuId = ONE) -> str:
    return condition(play.world, play.world.gpus[gpu], Timestamp(play.now))


def test_jobs_that_share_get_one_gpu_until_it_is_full():
    play = a_cluster(gpus="2xRTX4090")
    jobs = play.submit(*[a_share(8)] * 4)
    assert [play.gpus(job) for job in jobs] == [["n1-RTX4090-0"]] * 3 + [["n1-RTX4090-1"]]


def held(play: Play, job: JobId) -> int:
    return play.world.active[job].milli


def test_a_part_by_memory_counts_as_what_it_is_of_the_gpus_it_got():
    play = a_cluster(a_node("n1", gpus="1xRTX4090"), a_node("n2", gpus="1xH100"))
    on_both = a_job(2, nodes=2, share_mib=Mib(8 * 1024))
    small, tiny, large, gang = play.submit(
        a_share(8, type="4090"), a_job(1, share_mib=Mib(1), type="4090"), a_share(8, type="H100"), on_both
    )

    assert [held(play, job) for job in (small, tiny, large, gang)] == [333, 1, 100, 433]
    assert play.world.books.all.milli == 867


def test_parts_of_a_gpu_of_an_odd_size_come_to_all_of_it_too():
    (gpu,) = a_node(gpus="1xT4").gpus
    odd = replace(gpu, memory_total_mib=Mib(14_500))  # taken for 15 GiB, which would be taken for 16
    play = a_cluster(replace(a_node(gpus="1xT4"), gpus=(odd,)))
    jobs = play.submit(*[a_share(5)] * 3)
    assert [held(play, job) for job in jobs] == [333] * 3


def test_a_part_by_memory_is_charged_as_that_wherever_something_is_charged():
    play = a_cluster(gpus="1xRTX4090")
    (job,) = play.submit(a_share(12, user="ada"))
    play.starts(job)
    play.later(1_000.0)
    active = play.world.active[job]

    lost_s = as_victim(0.0, active, play.now).lost_s
    assert (active.attained_s(play.now), lost_s) == pytest.approx((500.0, 500.0), abs=0.1)
    play.ends(job, code=0)
    assert play.ledger.gpu_s[job] == pytest.approx(500.0, abs=0.1)
    assert play.world.usage.account(active.terms.tenant, "ada", play.now).used_s == pytest.approx(500.0, rel=0.01)


def test_parts_by_memory_fill_a_quota_as_far_as_they_go():
    play = a_cluster(gpus="1xRTX4090", rules=Rules(limits=Limits(gpus_per_user=2)))
    jobs = play.submit(*[a_share(8)] * 3)
    assert (play.running, play.world.books.of_user("ada").milli) == (jobs, 999)


def test_what_a_part_counts_as_outlives_a_restart_whatever_the_gpu_is_by_then():
    play = a_cluster(gpus="1xRTX4090")
    old, new = play.submit(a_share(8), a_share(8))
    row = play.ledger.rows[old]
    unsaid = replace(row.active.allocation, shares=(Share(gpu=play.world.active[old].state.allocation.gpus[0]),))
    row.active = replace(row.active, allocation=unsaid)  # as gpud wrote it before it was noted
    again = play.restarted(surveyed=False)

    assert (held(again, old), held(again, new)) == (1000, 333)


def test_a_gpu_is_given_out_by_the_size_it_is_sold_by():
    play = a_cluster(gpus="1xRTX4090")  # which reports 24,564 MiB
    jobs = play.submit(a_share(12), a_share(12))
    assert play.running == jobs


@given(st.lists(st.integers(1, 999), min_size=1, max_size=20), st.sampled_from(sorted(SIZES)))
def test_fractions_that_add_up_to_one_fit_on_one_gpu(cuts, kind):
    edges = sorted({0, *cuts, 1000})
    capacity = nominal_mib(Mib(SIZES[kind][1]))
    parts = [share_of(Demand(share_permille=to - start), capacity) for start, to in pairwise(edges)]
    assert sum(parts) <= capacity


def test_forty_six_and_fifty_four_hundredths_fill_a_gpu():
    play = a_cluster(gpus="1xH100")
    jobs = play.submit(a_share(permille=460), a_share(permille=540), a_share(permille=10))
    assert play.running == jobs[:2]


def test_a_share_goes_where_it_fits_tightest():
    play = a_cluster(gpus="3xRTX4090")
    big, middle, small = play.submit(a_share(20), a_share(16), a_share(4))
    assert [play.gpus(job) for job in (big, middle, small)] == [
        ["n1-RTX4090-0"],
        ["n1-RTX4090-1"],
        ["n1-RTX4090-0"],
    ]


def test_a_shared_gpu_is_not_given_whole_nor_a_whole_one_shared():
    play = a_cluster(gpus="1xH100")
    shared, whole = play.submit(a_share(8), a_job())
    assert play.running == [shared]
    play.ends(shared)
    assert play.running == [whole]
    (later,) = play.submit(a_share(8))
    assert play.state(later) == "queued"


def test_shares_prefer_a_shared_gpu_of_another_node_to_a_free_one():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"))
    (first,) = play.submit(a_share(8))
    assert play.node(first) == "n1"
    (whole, second) = play.submit(a_job(), a_share(8))
    assert (play.node(whole), play.node(second)) == ("n2", "n1")


def test_shares_of_several_gpus_are_on_different_ones():
    play = a_cluster(gpus="2xH100")
    one, other = play.submit(a_job(2, share_mib=Mib(40 * 1024)), a_job(2, share_mib=Mib(40 * 1024)))
    assert shares(play, one) == shares(play, other) == [(ONE, 40 * 1024), (TWO, 40 * 1024)]


def test_shares_come_back_after_a_restart():
    play = a_cluster(gpus="1xRTX4090")
    play.submit(a_share(8), a_share(8))
    again = play.restarted()
    third, fourth = again.submit(a_share(8), a_share(8))
    assert [again.state(job) for job in (third, fourth)] == ["starting", "queued"]


# -- real GPUs: what is ours on a shared one, and what is not


def ours(*, memory: int = 500):
    return replace(a_process(memory=memory), ancestors=(ITS_CHILD, SHIM, ProcessIdentity(1, 0)))


def test_a_shared_gpu_with_our_processes_on_it_is_given_further():
    play = a_real_cluster("1xH100")
    (first,) = play.submit(a_share(8))
    play.starts(first)
    play.hardware[ONE] = Hardware(used=9000, processes=(ours(),), lease=SHIM)
    play.look()
    (second,) = play.submit(a_share(8))
    assert play.running == [first, second]
    assert state_of(play) == Condition.SHARED


def test_before_a_shared_gpu_is_given_further_it_is_looked_at():
    play = a_real_cluster("1xH100")
    (first,) = play.submit(a_share(8))
    play.starts(first)
    play.later(60)
    (second,) = play.submit(a_share(8))
    assert play.running == [first]
    play.hardware[ONE] = Hardware(used=9000, processes=(ours(),), lease=SHIM)
    play.settle()
    assert play.running == [first, second]


@pytest.mark.parametrize("ancestors", [(), (ProcessIdentity(4243, 1), ProcessIdentity(1, 0))])
def test_a_foreign_process_closes_a_gpu_that_our_jobs_share(ancestors):
    play = a_real_cluster("1xH100")
    (first,) = play.submit(a_share(8))
    play.starts(first)
    play.hardware[ONE] = Hardware(used=9000, processes=(ours(), replace(a_process(), ancestors=ancestors)))
    play.look()
    (second,) = play.submit(a_share(8))
    assert state_of(play) == Condition.FOREIGN
    assert play.state(second) == "queued"
    play.hardware[ONE] = Hardware(used=9000, processes=(ours(),))
    play.look()
    assert play.state(second) == "starting"


def test_the_end_of_one_that_shares_does_not_hold_up_the_others():
    play = a_real_cluster("1xRTX4090")
    gpu = GpuId("n1-RTX4090-0")
    first, second = play.submit(a_share(12), a_share(12))
    play.starts(first, second)
    play.hardware[gpu] = Hardware(used=900, processes=(ours(),))
    play.ends(first)
    (third,) = play.submit(a_share(12))
    play.look()
    assert play.state(third) == "starting"


def test_after_the_last_one_that_shares_the_gpu_must_be_seen_empty():
    play = a_real_cluster("1xH100")
    first, second = play.submit(a_share(8), a_share(8))
    play.starts(first, second)
    play.ends(first)
    play.ends(second)
    (whole,) = play.submit(a_job())
    assert (play.state(whole), state_of(play)) == ("queued", Condition.RELEASING)
    play.look()
    assert play.state(whole) == "starting"


def test_a_drained_gpu_that_is_shared_is_given_no_further():
    play = a_real_cluster("1xH100")
    play.submit(a_share(8))
    play.drain(ONE)
    (second,) = play.submit(a_share(8))
    assert play.state(second) == "queued"


# -- MIG instances


def a_split_node(name: str = "n1", profiles: tuple[str, ...] = ("3g.40gb", "3g.40gb", "1g.10gb")) -> Node:
    """Return a node of two H100, the first of them split."""
    node = a_node(name, "2xH100")
    parent = node.gpus[0]
    instances = tuple(
        replace(
            parent,
            id=GpuId(f"MIG-{name}-{number}"),
            index=10 + number,
            memory_total_mib=Mib(int(profile.split(".")[1].removesuffix("gb")) * 1000),
            mig=profile,
            parent=parent.id,
        )
        for number, profile in enumerate(profiles)
    )
    return replace(node, gpus=(replace(parent, split=True), node.gpus[1], *instances))


def test_an_instance_is_given_to_who_asks_for_its_profile():
    play = a_cluster(a_split_node())
    one, two, three = play.submit(*[a_job(mig="3g.40gb")] * 3)
    assert [play.gpus(job) for job in (one, two)] == [["MIG-n1-0"], ["MIG-n1-1"]]
    assert play.state(three) == "queued"


def test_a_gpu_that_is_named_or_left_out_is_so_with_the_instances_that_it_is_split_into_later():
    node = a_split_node()
    play = a_cluster(node)
    named, behind = play.submit(*[a_job(mig="1g.10gb", gpu_ids=(ONE,))] * 2)
    assert (play.gpus(named), play.state(behind)) == (["MIG-n1-2"], "queued")

    play.sees(replace(node, gpus=(*node.gpus, replace(node.gpus[-1], id=GpuId("MIG-new"), index=20))))
    assert play.gpus(behind) == ["MIG-new"]
    assert "none that suit" in play.refused(a_job(mig="1g.10gb", excluded_gpus=(ONE,)))


def test_who_asks_for_no_instance_gets_none_nor_a_gpu_that_is_split():
    play = a_cluster(a_split_node())
    one, two = play.submit(a_job(), a_job())
    assert play.gpus(one) == [TWO]
    assert play.state(two) == "queued"


REFUSALS = [
    (a_share(100), "no GPU here has 100G of memory; the largest has 80G"),
    (a_share(60, type="H100"), None),
    (a_job(mig="2g.20gb"), "there is no MIG instance 2g.20gb here; there are: 1 x 1g.10gb, 2 x 3g.40gb"),
    (
        a_job(2),
        "2 GPUs are asked for; this machine has 1; the largest possible job here has --gpus 1",
    ),
    (
        a_job(3, mig="3g.40gb"),
        "3 GPUs are asked for; this machine has 2 that suit; the largest possible job here has --gpus 2",
    ),
]


@pytest.mark.parametrize(("spec", "words"), REFUSALS)
def test_what_can_never_be_shared_or_split_so_is_refused(spec, words):
    assert a_cluster(a_split_node()).refused(spec) == (words or "accepted")


def test_where_every_gpu_is_split_a_whole_one_is_refused():
    node = a_split_node()
    play = a_cluster(replace(node, gpus=(node.gpus[0], *node.gpus[2:])))
    assert play.refused(a_job()) == (
        "every GPU here is split into MIG instances; ask for one: --mig 1g.10gb (there are: 1 x 1g.10gb, 2 x 3g.40gb)"
    )


def test_where_every_gpu_is_split_into_nothing_a_gpu_is_refused():
    node = a_node("n1", "1xH100")
    play = a_cluster(replace(node, gpus=(replace(node.gpus[0], split=True),)))
    assert play.refused(a_job()) == "every GPU here is split into MIG instances; see them: gpuctl gpus"


def test_where_no_gpu_is_split_an_instance_is_refused():
    assert a_cluster(gpus="1xH100").refused(a_job(mig="1g.10gb")) == (
        "there is no MIG instance 1g.10gb here; no GPU here is split: nvidia-smi mig -cgi makes instances"
    )
