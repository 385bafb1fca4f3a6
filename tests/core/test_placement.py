"""Best fit: what a job gets, and what it leaves to others."""

from dataclasses import replace

import pytest
from playbook import Play, a_cluster, a_job, a_node, a_real_cluster, an_empty_cluster

from gpud.core.placement import type_matches
from gpud.core.waits import NoCapacity, NoGpus
from gpud.model.gpu import NodeName


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("RTX4090", "NVIDIA GeForce RTX 4090"),
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("rtx-4090", "NVIDIA GeForce RTX 4090"),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB"),
        ("a100", "NVIDIA A100 80GB PCIe"),
        ("A10", "NVIDIA A10"),
        ("L40", "NVIDIA L40"),
        ("L40S", "NVIDIA L40S"),
        ("H*00", "NVIDIA H200"),
        ("T4", "Tesla T4"),
        ("V100", "Tesla V100-SXM2-16GB"),
    ],
)
def test_a_type_is_written_as_people_write_it(pattern, name):
    assert type_matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("A10", "NVIDIA A100-SXM4-80GB"),
        ("A100-40GB", "NVIDIA A100-SXM4-80GB"),
        ("L40", "NVIDIA L40S"),
        ("L40S", "NVIDIA L40"),
        ("H100", "NVIDIA H200"),
        ("409", "NVIDIA GeForce RTX 4090"),
        ("-", "NVIDIA H100 80GB HBM3"),
        ("", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_a_type_means_no_other(pattern, name):
    assert not type_matches(pattern, name)


def test_memory_is_compared_with_the_size_a_gpu_is_sold_by():
    play = a_cluster(gpus="1xRTX4090,1xA10,1xH100,1xT4")
    wanted = play.submit(*(a_job(memory=gib) for gib in (16, 24, 24, 80)))
    assert [play.gpus(job) for job in wanted] == [["n1-T4-3"], ["n1-A10-1"], ["n1-RTX4090-0"], ["n1-H100-2"]]


def test_a_job_gets_the_smallest_gpu_that_suits():
    play = a_cluster(a_node("big", "1xH100"), a_node("small", "1xT4"))
    (job,) = play.submit(a_job())
    assert play.node(job) == "small"


def test_a_job_goes_where_the_fewest_gpus_stay_behind():
    play = a_cluster(a_node("n1", "8xH100"), a_node("n2", "2xH100"), a_node("n3", "4xH100"))
    two, four = play.submit(a_job(2), a_job(4))
    assert (play.node(two), play.node(four)) == ("n2", "n3")


def test_a_job_without_gpus_stays_away_from_those():
    play = a_cluster(a_node("n1", "8xH100"), a_node("n2", ""), a_node("n3", "2xT4"))
    (job,) = play.submit(a_job(0))
    assert play.node(job) == "n2"


def test_the_gpus_of_a_job_are_on_one_node():
    play = a_cluster(a_node("n1", "3xH100"), a_node("n2", "3xH100"))
    first, second, third = play.submit(a_job(2), a_job(2), a_job(2))
    assert {play.node(first), play.node(second)} == {"n1", "n2"}
    assert play.why(third) == NoCapacity(2, 6, 1, "n1")


def test_of_equal_gpus_the_coolest_is_taken():
    play = a_real_cluster("3xH100")
    for gpu, celsius in zip(play.hardware, (60, 35, 50), strict=True):
        play.hardware[gpu].temperature = celsius
    play.look()
    (job,) = play.submit(a_job(2))
    assert play.gpus(job) == ["n1-H100-1", "n1-H100-2"]


def test_cpus_and_memory_are_counted_where_they_are_asked_for():
    play = a_cluster(gpus="4xH100", cpus=8, memory=64)
    unasked, six, three, forty, thirty = play.submit(
        a_job(), a_job(cpus=6), a_job(cpus=3), a_job(ram=40), a_job(ram=30)
    )
    assert play.running == [unasked, six, forty]
    assert play.why(three) == NoCapacity(1, 4, 1, "n1", "CPUs")
    assert play.why(thirty) == NoCapacity(1, 4, 1, "n1", "memory")


def test_a_job_that_asks_for_nothing_counts_one_cpu():
    play = a_cluster(gpus="", cpus=2)
    jobs = play.submit(a_job(0), a_job(0), a_job(0))
    assert play.running == jobs[:2]
    assert play.why(jobs[2]) == NoCapacity(0, 0, 0, "n1", "CPUs")


def test_a_node_whose_cpus_were_cut_still_gives_its_gpus():
    play = a_cluster(gpus="2xH100", cpus=8)
    play.submit(a_job(cpus=8))
    play.sees(a_node("n1", "2xH100", cpus=4))
    free, counted = play.submit(a_job(), a_job(0))
    assert [play.state(job) for job in (free, counted)] == ["starting", "queued"]


def test_excluded_gpus_and_nodes_are_left_alone():
    play = a_cluster(a_node("n1", "2xH100"), a_node("n2", "1xH100"))
    (one,) = play.submit(a_job(excluded_nodes=("n2",), excluded_gpus=("n1-H100-0",)))
    assert play.gpus(one) == ["n1-H100-1"]


def test_a_gpu_may_be_named():
    play = a_cluster(gpus="4xH100")
    first, second = play.submit(*[a_job(gpu_ids=("n1-H100-2",))] * 2)
    assert play.gpus(first) == ["n1-H100-2"]
    assert play.why(second) == NoCapacity(1, 1, 0, "n1")


# -- at the door

REFUSALS = [
    (a_job(9), "9 GPUs are asked for; the largest node has 8; the largest possible job here has --gpus 8"),
    (a_job(type="B200"), "no GPU here is of type 'B200'; there are: 8 x NVIDIA H100 80GB HBM3, 2 x Tesla T4"),
    (a_job(memory=141), "no GPU here has 141G of memory; the largest has 80G"),
    (a_job(type="T4", memory=24), "no T4 here has 24G of memory; the largest has 16G"),
    (
        a_job(3, type="T4"),
        "3 GPUs are asked for; the largest node has 2 that suit; the largest possible job here has --gpus 2",
    ),
    (a_job(cpus=65), "65 CPUs are asked for; the most on one node is 64"),
    (a_job(type="T4", cpus=65), "65 CPUs are asked for; the most on one node is 16"),
    (a_job(0, ram=513), "513G of memory is asked for; the most on one node is 512G"),
    (
        a_job(2, type="T4", cpus=8, excluded_nodes=("n2",)),
        (
            "no single node has the GPUs, CPUs and memory that are asked for together; "
            "see what each node has: gpuctl nodes"
        ),
    ),
    (
        a_job(gpu_ids=("gone",)),
        "a GPU is asked for; the largest node has none that suit; see what there is: gpuctl gpus",
    ),
]


@pytest.mark.parametrize(("spec", "words"), REFUSALS)
def test_what_can_never_fit_is_refused_with_what_could(spec, words):
    play = a_cluster(a_node("n1", "8xH100"), a_node("n2", "2xT4", cpus=16, memory=64))
    assert play.refused(spec) == words
    assert not play.out.changes


def test_lost_and_drained_gpus_count_at_the_door():
    play = a_real_cluster("4xH100")
    play.drain("n1-H100-0")
    play.sees(a_node("n1", "2xH100", simulated=False))
    (job,) = play.submit(a_job(4))
    assert play.why(job) == NoCapacity(4, 4, 1, "n1", None, (("draining", 1), ("lost", 2)))


def test_simulated_gpus_that_are_gone_do_not_count():
    play = a_cluster(gpus="4xH100")
    play.sees(a_node("n1", "2xH100"))
    assert play.refused(a_job(4)).startswith("4 GPUs are asked for; this machine has 2;")
    half = a_cluster(a_node("n1", "1xH100", simulated=False, problem="GPU 1 cannot be identified"))
    assert half.refused(a_job(2)).startswith("2 GPUs are asked for; this machine has 1 (GPU 1 cannot be identified);")
    both = ("n1-H100-0", "n1-H100-1")
    assert play.refused(a_job(excluded_gpus=both)).startswith("a GPU is asked for; this machine has none that suit")


def test_a_simulated_node_of_an_earlier_day_does_not_count():
    play = a_cluster(a_node("n1", "2xT4"), a_node("sim-2", "8xH100", cpus=256))
    play.world.nodes[NodeName("sim-2")].present = False
    again = play.restarted()
    assert again.refused(a_job(type="H100")).startswith("no GPU here is of type 'H100'; there are: 2 x")
    assert again.refused(a_job(0, cpus=100)).startswith("100 CPUs are asked for; the most on one node is 64")


def test_where_no_gpu_was_ever_seen_a_gpu_job_waits_and_a_cpu_job_runs():
    play = a_cluster(a_node("n1", "", problem="no NVIDIA driver"))
    needs, does_not = play.submit(a_job(type="H100"), a_job(0))
    assert play.why(needs) == NoGpus("no NVIDIA driver")
    assert play.running == [does_not]
    play.sees(a_node("n1", "1xH100"))
    assert play.running == [needs, does_not]


def test_before_the_inventory_spoke_every_job_is_taken():
    play = an_empty_cluster()
    jobs = play.submit(a_job(), a_job(0, cpus=1000))
    assert [play.state(job) for job in jobs] == ["queued", "queued"]


def test_a_dry_run_only_says_whether_a_job_would_be_taken():
    play: Play = a_cluster(gpus="1xH100")
    assert play.dry_run(a_job()) == "accepted"
    assert play.dry_run(a_job(2)).startswith("2 GPUs are asked for")
    assert not play.ledger.rows


def test_a_gpu_that_turns_up_on_another_node_is_that_nodes_alone():
    play = a_cluster(a_node("n1", "1xH100"))
    play.submit(a_job(0))  # so that what it has is counted
    play.sees(replace(a_node("n2", ""), gpus=play.world.nodes["n1"].node.gpus))
    first, second = play.submit(a_job(), a_job())
    assert (play.state(first), play.node(first), play.state(second)) == ("starting", "n2", "queued")
