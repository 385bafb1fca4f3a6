"""Failed attempts that are tried again: which, with what they ask for then, and when that is over."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from playbook import Play, a_cluster, a_job, a_node, a_real_cluster, element

from gpud.core.jobs import stop
from gpud.core.outcome import Outcome
from gpud.core.rules import Rules
from gpud.model.changes import Queued
from gpud.model.job import Demand, JobId, StopCause
from gpud.model.units import Mib, Timestamp

REBOOT = {"lost": "the node was rebooted"}
SHUTDOWN = {"lost": "stopped by the system: a shutdown, or the end of a session"}
OOM = "out of memory: it used more than the 8192 MiB asked for"
CUDA_OOM = "cuda out of memory"


def one(play: Play, **how: object) -> JobId:
    (job,) = play.submit(a_job(**how))
    return job


def demand(play: Play, job: JobId) -> Demand:
    waiting = play.world.waiting(job)
    return waiting.terms.demand if waiting is not None else play.world.active[job].terms.demand


@pytest.mark.parametrize(
    ("retry_on", "end", "again"),
    [
        ((), {"code": 3}, True),
        ((), {"signal": 11}, True),
        (("failure",), {"code": 3}, True),
        (("failure",), {"signal": 11}, True),
        (("failure",), REBOOT, False),
        (("exit:75",), {"code": 75}, True),
        (("exit:75",), {"code": 3}, False),
        (("exit:75", "exit:3"), {"code": 3}, True),
        (("oom",), {"signal": 9, "finding": OOM}, True),
        (("oom",), {"code": 1, "finding": CUDA_OOM}, True),
        (("oom",), {"code": 1}, False),
        (("lost",), REBOOT, True),
        (("lost",), {"code": 1}, False),
        (("lost",), {"signal": 15} | SHUTDOWN, True),
        (("exit:75",), {"code": 75} | SHUTDOWN, True),
        (("exit:75",), {"code": 1} | SHUTDOWN, False),
        (("failure",), {"signal": 15} | SHUTDOWN, True),
        ((), {"signal": 15, "timed_out": True}, False),
        ((), {"code": 75, "timed_out": True}, False),
        (("exit:3", "failure"), {"code": 75, "timed_out": True}, False),
        (("exit:75",), {"code": 75, "timed_out": True}, True),
        (("exit:75",), {"signal": 9, "timed_out": True}, False),
    ],
)
def test_a_job_is_tried_again_for_the_ends_that_it_names(
    retry_on: tuple[str, ...], end: dict[str, object], again: bool
):
    play = a_cluster()
    job = one(play, retries=1, retry_on=retry_on, share_permille=500)
    play.ends(job, **end)
    assert (play.state(job) == "retry") is again


def test_what_runs_out_of_memory_asks_for_a_quarter_more_than_it_had():
    play = a_cluster()
    job = one(play, retries=1, ram=8)
    play.ends(job, signal=9, finding=OOM, rss=8000)
    assert demand(play, job).memory_mib == 10_240
    (said,) = [change.reason for change in play.out.changes if isinstance(change, Queued)]
    assert said == f"attempt 1 ended: killed by SIGKILL ({OOM}); now with 10G of memory"
    assert play.restarted().world.waiting(job) == play.world.waiting(job)
    play.later(3)
    assert play.world.active[job].state.allocation.memory_mib == 10_240


def test_it_asks_for_more_than_the_peak_where_that_was_higher():
    play = a_cluster()
    job = one(play, retries=1, ram=8)
    play.ends(job, signal=9, finding=OOM, rss=16_000)
    assert demand(play, job).memory_mib == 20_000


def test_it_asks_for_no_more_than_there_is_and_is_not_tried_again_once_it_had_that():
    play = a_cluster(memory=9)
    job = one(play, retries=9, ram=8)
    play.ends(job, signal=9, finding=OOM, rss=8192)
    assert demand(play, job).memory_mib == 9 * 1024
    play.later(3)
    play.ends(job, signal=9, finding=OOM, rss=9 * 1024)
    assert play.state(job) == "failed"
    assert play.ledger.reasons[job] == f"killed by SIGKILL ({OOM}); not tried again: no node here has more memory"


def test_what_runs_out_of_a_gpus_memory_asks_for_a_larger_share():
    play = a_cluster()
    job = one(play, retries=1, share_mib=Mib(8192))
    play.ends(job, code=1, finding=CUDA_OOM)
    assert demand(play, job).share_mib == 10_240


def test_what_runs_out_of_a_gpus_memory_asks_for_a_larger_gpu_where_there_is_one():
    play = a_cluster(gpus="1xA10,1xH100")
    job = one(play, retries=2)
    play.ends(job, code=1, finding=CUDA_OOM)
    play.later(3)
    assert play.gpus(job) == ["n1-H100-1"]
    play.ends(job, code=1, finding=CUDA_OOM)
    assert play.state(job) == "failed"  # there is no larger one
    assert play.ledger.reasons[job] == f"exit code 1 ({CUDA_OOM}); not tried again: there is no larger GPU here"


@pytest.mark.parametrize("share", [{"share_mib": Mib(20 * 1024)}, {"share_permille": 900}])
def test_a_share_grows_to_the_whole_gpu_and_no_further(share: dict[str, object]):
    play = a_cluster(gpus="1xRTX4090")
    job = one(play, retries=9, **share)
    play.ends(job, code=1, finding=CUDA_OOM)
    assert demand(play, job).share_mib == 24 * 1024 or demand(play, job).share_permille == 1000
    play.later(3)
    play.ends(job, code=1, finding=CUDA_OOM)
    assert play.ledger.reasons[job] == f"exit code 1 ({CUDA_OOM}); not tried again: there is no larger GPU here"


def test_an_element_of_an_array_may_ask_for_more_than_the_others():
    play = a_cluster(gpus="2xH100")
    array = one(play, array="0-3%2", retries=1, ram=8)
    play.ends(element(array, 0), signal=9, finding=OOM, rss=8192)
    play.ends(element(array, 1), code=1)
    assert demand(play, element(array, 0)).memory_mib == 10_240
    assert demand(play, element(array, 1)).memory_mib == 8192
    play = play.restarted()
    play.ends(element(array, 2), element(array, 3))
    play.later(3)
    held = {job: active.state.allocation.memory_mib for job, active in play.world.active.items()}
    assert held == {element(array, 0): 10_240, element(array, 1): 8192}


def test_such_an_element_is_requeued_as_it_was_and_its_array_as_that_was():
    play = a_cluster(gpus="1xH100")
    array = one(play, array="0-1", retries=1, ram=8)
    grown = element(array, 0)
    play.ends(grown, signal=9, finding=OOM, rss=8192)
    play.cancel(array)
    play.cancel(grown)
    play.requeue(ended=[grown])
    assert demand(play, grown).memory_mib == 10_240
    play.requeue(ended=[element(array, 1)])
    assert demand(play, element(array, 1)).memory_mib == 8192


def test_a_lost_node_is_not_counted_against_the_job_and_is_left_out():
    play = a_cluster(a_node("n1", "1xH100"), a_node("n2", "1xH100"))
    job = one(play, retries=1)
    first = play.node(job)
    play.ends(job, **REBOOT)
    play.later(3)
    assert play.node(job) != first
    play.ends(job, code=1)
    assert play.state(job) == "retry"  # its one retry is there still


def test_the_only_node_is_not_left_out():
    play = a_cluster()
    job = one(play, retries=1)
    play.ends(job, **REBOOT)
    play.later(3)
    assert play.state(job) == "starting"


@pytest.mark.parametrize("cluster", [a_cluster, a_real_cluster])
def test_the_only_node_is_not_left_out_where_its_reboot_is_known_before_it_is_seen(cluster: Callable[[], Play]):
    before = cluster()
    job = one(before, retries=1)
    play = before.restarted(surveyed=False)
    play.ends(job, **REBOOT)
    for state in before.world.nodes.values():
        play.sees(state.node)
    play.later(3)
    play.settle()
    assert play.state(job) == "starting"


def test_a_lost_gpu_is_not_counted_against_the_job_and_is_left_out():
    play = a_real_cluster("2xH100")
    job = one(play, retries=1)
    (lost,) = play.gpus(job)
    play.starts(job)
    play.hardware[lost] = replace(play.hardware[lost], broken="it fell off the bus", lost=True)
    play.look(lost)
    play.ends(job, code=1)
    place = play.ledger.rows[job].place
    assert (place.failures, place.mishaps) == (0, 1)
    assert demand(play, job).excluded_gpus == (lost,)


def test_a_job_without_retries_says_what_was_lost_under_it():
    play = a_real_cluster("1xH100")
    job = one(play)
    (lost,) = play.gpus(job)
    play.starts(job)
    play.hardware[lost] = replace(play.hardware[lost], broken="it fell off the bus", lost=True)
    play.look(lost)
    play.ends(job, code=1)
    assert play.out.changes[-1].reason == "exit code 1; GPU 0 of n1 was lost"


def test_what_takes_down_what_it_touches_is_not_started_for_ever():
    play = a_cluster(rules=Rules(max_mishaps=3))
    job = one(play, retries=100)
    attempts = 0
    while play.state(job) != "lost":
        attempts += 1
        play.ends(job, **REBOOT)
        play.later(60)
    assert attempts == 3
    assert "what it runs on has failed 3 times" in play.ledger.reasons[job]


def test_gpu_seconds_add_up_over_attempts_also_those_that_were_preempted():
    play = a_cluster()
    job = one(play, gpus=2, retries=1)
    play.starts(job)
    play.later(100)
    out = Outcome(Timestamp(play.now))
    stop(play.world, out, play.world.active[job], StopCause.PREEMPTED)
    play.ledger.write(out.changes)
    play.ends(job, signal=15)
    assert play.world.active[job].place.attained_s == pytest.approx(200, abs=1)
    assert play.world.active[job].place.attempt == 2
    play.starts(job)
    play.later(50)
    play.ends(job, code=1)
    assert play.ledger.rows[job].place.attained_s == pytest.approx(300, abs=1)


def test_part_of_a_gpu_counts_as_part_of_one():
    play = a_cluster()
    job = one(play, share_permille=250)
    play.starts(job)
    play.later(100)
    play.ends(job, code=0)
    assert play.ledger.gpu_s[job] == pytest.approx(25, abs=0.1)
