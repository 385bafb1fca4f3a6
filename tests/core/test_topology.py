"""Which of a node's GPUs a job gets: those that reach each other best, and that break up the fewest that do."""

from dataclasses import replace

import pytest
from playbook import a_cluster, a_job, a_node

from gpud.model.gpu import Node


def a_linked_node(name: str = "n1", *, nvlink: str = "", pcie: str = "", numa: str = "") -> Node:
    """Return a node with a GPU for each letter: those with the same one are linked, `.` is linked to none."""
    count = max(map(len, (nvlink, pcie, numa)))
    node = a_node(name, f"{count}xH100")
    gpus = tuple(
        replace(
            gpu,
            nvlink=_name(nvlink, gpu.index),
            pcie=_name(pcie, gpu.index),
            numa=None if not numa else int(numa[gpu.index]),
        )
        for gpu in node.gpus
    )
    return replace(node, gpus=gpus)


def _name(letters: str, index: int) -> str | None:
    return letters[index] if letters and letters[index] != "." else None


def given(node: Node, *counts: int) -> list[str]:
    """Return the indices of the GPUs that jobs of so many get, one after the other."""
    play = a_cluster(node)
    jobs = play.submit(*map(a_job, counts))
    return ["".join(gpu.rpartition("-")[2] for gpu in play.gpus(job)) for job in jobs]


@pytest.mark.parametrize(
    ("node", "counts", "expected"),
    [
        (a_linked_node(nvlink="abab"), (2, 2), ["02", "13"]),  # pairs stay pairs
        (a_linked_node(nvlink="abba"), (1, 2, 1), ["0", "12", "3"]),  # one alone breaks up what is broken already
        (a_linked_node(nvlink="abab"), (1, 1, 2), ["0", "2", "13"]),
        (a_linked_node(nvlink="bb.."), (1, 2), ["2", "01"]),
        (a_linked_node(pcie="abab"), (2,), ["02"]),
        (a_linked_node(numa="0101"), (2,), ["02"]),
        (a_linked_node(nvlink="aabbccdd", numa="00001111"), (4, 4), ["0123", "4567"]),
        (a_linked_node(nvlink="acbdacbd", numa="00110011"), (4,), ["0145"]),  # two pairs of one socket
        (a_linked_node(nvlink="aaaaaaaa", pcie="aabbccdd", numa="00001111"), (1, 2, 4, 1), ["0", "23", "4567", "1"]),
        (a_linked_node(nvlink="aabbcc"), (3,), ["012"]),  # a pair, and one more
        (a_linked_node(nvlink="......"), (3,), ["012"]),
    ],
)
def test_a_job_gets_the_gpus_that_are_linked_closest(node, counts, expected):
    assert given(node, *counts) == expected


def test_of_equally_close_gpus_the_coolest_are_taken():
    node = a_linked_node(nvlink="aabbcc")
    node = replace(node, gpus=tuple(replace(gpu, simulated=False) for gpu in node.gpus))
    play = a_cluster(node)
    for gpu, celsius in zip(play.hardware, (60, 50, 40, 41, 30, 70), strict=True):
        play.hardware[gpu].temperature = celsius
    play.look()
    pair, one = play.submit(a_job(2), a_job(1))
    assert play.gpus(pair) == ["n1-H100-2", "n1-H100-3"]
    assert play.gpus(one) == ["n1-H100-4"]


def test_of_equally_free_nodes_the_one_with_the_closer_gpus_is_taken():
    play = a_cluster(a_linked_node("n1", numa="01"), a_linked_node("n2", nvlink="aa"), a_linked_node("n3", numa="00"))
    jobs = play.submit(*[a_job(2)] * 3)
    assert [play.node(job) for job in jobs] == ["n2", "n3", "n1"]
