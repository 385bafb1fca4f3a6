"""Jobs on several nodes: equal parts, all or none."""

from dataclasses import replace

import pytest
from playbook import Play, a_cluster, a_job, a_node

from gpud.model.job import JobId


def parts(play: Play, job: JobId) -> list[tuple[str, int, int]]:
    """Return what a job has on each node: its name, GPUs and CPUs."""
    return [(part.node, len(part.shares), part.cpus) for part in play.world.active[job].state.allocation.parts]


def two_nodes(*more: str) -> Play:
    return a_cluster(*(a_node(f"n{number}", gpus) for number, gpus in enumerate(("8xH100", "8xH100", *more), 1)))


def test_a_gang_gets_equal_parts_on_as_many_nodes():
    play = two_nodes()
    (job,) = play.submit(a_job(16, nodes=2, cpus=4))
    assert parts(play, job) == [("n1", 8, 4), ("n2", 8, 4)]


def test_a_gang_gets_all_or_none():
    play = two_nodes()
    one, gang, small = play.submit(a_job(), a_job(16, nodes=2), a_job(4))
    assert play.running == [one, small]  # nothing is kept on the node where the gang would fit
    play.ends(one, small)
    assert parts(play, gang) == [("n1", 8, 0), ("n2", 8, 0)]
    play.ends(gang)
    assert not play.world.nodes["n2"].held


def test_the_nodes_of_a_gang_are_different_ones():
    play = two_nodes("8xH100")
    (job,) = play.submit(a_job(4, nodes=2))
    assert [node for node, _, _ in parts(play, job)] == ["n1", "n2"]


def test_a_gang_gets_like_gpus_where_it_can():
    play = a_cluster(a_node("n1", "1xT4"), a_node("n2", "1xH100"), a_node("n3", "1xH100"))
    alike, other = play.submit(a_job(2, nodes=2), a_job(1))
    assert [node for node, _, _ in parts(play, alike)] == ["n2", "n3"]
    assert play.node(other) == "n1"


def test_a_gang_gets_unlike_gpus_rather_than_none():
    play = a_cluster(a_node("n1", "1xT4"), a_node("n2", "1xH100"))
    (job,) = play.submit(a_job(2, nodes=2))
    assert [node for node, _, _ in parts(play, job)] == ["n1", "n2"]


def test_a_gang_may_share_gpus():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"))
    jobs = play.submit(*[a_job(2, nodes=2, share_permille=500)] * 3)
    assert play.running == jobs[:2]


def test_a_gang_comes_back_after_a_restart():
    play = two_nodes()
    (job,) = play.submit(a_job(8, nodes=2))
    again = play.restarted()
    assert parts(again, job) == parts(play, job)
    (other,) = again.submit(a_job(8))
    assert again.state(other) == "queued"


def test_labels_keep_a_job_to_nodes_that_have_them():
    racks = [replace(a_node(f"n{number}", "1xH100"), labels=(("rack", rack),)) for number, rack in enumerate("aabb")]
    play = a_cluster(*racks)
    first, second, third = play.submit(*[a_job(node_labels=(("rack", "b"),))] * 3)
    assert [play.node(job) for job in (first, second)] == ["n2", "n3"]
    assert play.state(third) == "queued"


def test_parts_that_are_spread_go_where_the_most_of_a_gpu_is_left():
    play = a_cluster(gpus="2xA10")
    packed = play.submit(*[a_job(share_mib=8 * 1024)] * 2)
    spread = play.submit(*[a_job(share_mib=8 * 1024, spread=True)] * 2)
    gpus = [play.world.active[job].state.allocation.all_gpus for job in (*packed, *spread)]
    assert gpus[0] == gpus[1] != gpus[2] == gpus[3]


def test_a_job_may_be_spread_instead_of_packed():
    play = two_nodes()
    jobs = play.submit(*[a_job(spread=True)] * 3)
    assert [play.node(job) for job in jobs] == ["n1", "n2", "n1"]


REFUSALS = [
    (
        a_job(24, nodes=3),
        "3 nodes with 8 GPUs each are asked for; there are 2; the largest possible job of such nodes has --nodes 2",
    ),
    (
        a_job(18, nodes=2),
        (
            "9 GPUs are asked for on each node; the largest node has 8; "
            "the largest possible job here has --gpus-per-node 8"
        ),
    ),
    (
        a_job(16),
        (
            "16 GPUs are asked for; the largest node has 8; "
            "the largest possible job here has --gpus 8; over several nodes: --nodes 2 --gpus-per-node 8"
        ),
    ),
    (a_job(17), "17 GPUs are asked for; the largest node has 8; the largest possible job here has --gpus 8"),
    (a_job(2, nodes=2, cpus=65), "65 CPUs are asked for; the most on each of 2 nodes is 64"),
    (
        a_job(excluded_nodes=("n1", "n2", "n3")),
        "a node is asked for; there is none that is not excluded; see what there is: gpuctl nodes",
    ),
    (a_job(node_labels=(("rack", "c"),)), "no node has the label rack=c; there are: rack=b"),
    (
        a_job(node_labels=(("rack", "b"),), excluded_nodes=("n2",)),
        (
            "a node with the label rack=b is asked for; there is none that is not excluded; "
            "see what there is: gpuctl nodes"
        ),
    ),
    (
        a_job(2, nodes=2, node_labels=(("rack", "b"),)),
        "2 nodes with the label rack=b are asked for; there is one; see what there is: gpuctl nodes",
    ),
]


@pytest.mark.parametrize(("spec", "words"), REFUSALS)
def test_a_gang_that_can_never_run_is_refused_with_what_could(spec, words):
    labelled = replace(a_node("n2", "8xH100"), labels=(("rack", "b"),))
    play = a_cluster(a_node("n1", "8xH100"), labelled, a_node("n3", "1xH100"))
    assert play.refused(spec) == words
