"""Whose processes are a job's: its own, its containers', and those of who claimed the GPUs by hand."""

from dataclasses import replace

import pytest
from playbook import Hardware, Play, a_job, a_process, a_real_cluster

from gpud.core.rules import Rules
from gpud.model.gpu import GpuId
from gpud.model.job import JobId, format_job

ONE = GpuId("n1-H100-0")
OURS, OTHERS = 1000, 1001


def held(**terms: object) -> tuple[Play, JobId]:
    """Return a cluster of one real GPU, and the job of user 1000 that runs on it."""
    play = a_real_cluster("1xH100", rules=Rules(sample_every_s=15.0))
    spec = a_job()
    (job,) = play.submit(replace(spec, terms=replace(spec.terms, uid=OURS, **terms)))
    play.settle()
    play.starts(job)
    return play, job


def occupied_by(play: Play, job: JobId, *, uid: int, says: str | None = None) -> bool:
    """Return whether a process that is no descendant of the job is one of the job's all the same."""
    return play.world.active[job].owns(replace(a_process(), uid=uid, job=says))


def test_what_a_user_starts_on_a_claimed_gpu_is_the_claims_and_others_are_strangers():
    play, job = held(claim=True)
    assert occupied_by(play, job, uid=OURS)
    assert not occupied_by(play, job, uid=OTHERS)
    play, job = held()
    assert not occupied_by(play, job, uid=OURS)


@pytest.mark.parametrize(("uid", "its_own"), [(OURS, True), (0, True), (OTHERS, False)])
def test_a_process_that_says_to_be_of_the_job_is_if_its_user_may_say_so(uid, its_own):
    play, job = held()

    assert occupied_by(play, job, uid=uid, says=format_job(job)) is its_own
    assert not occupied_by(play, job, uid=uid, says="77")


def looked_at(play: Play, *, percent: int, uid: int | None, times: int) -> None:
    """Let time pass, in looks 15 s apart, at a GPU that is so busy and has a process of this user on it."""
    processes = () if uid is None else (replace(a_process(), uid=uid),)
    play.hardware[ONE] = Hardware(processes=processes, utilization=percent)
    for _ in range(times):
        play.later(15.0)
        play.look(ONE)


def test_a_claim_that_nobody_uses_is_given_back_and_says_so():
    play, job = held(claim=True, idle_after_s=60.0)
    looked_at(play, percent=0, uid=OURS, times=6)
    assert play.state(job) == "running"  # it thinks
    looked_at(play, percent=30, uid=None, times=6)
    assert play.state(job) == "running"
    looked_at(play, percent=0, uid=OTHERS, times=6)
    assert play.state(job) == "stopping(unused)"
    play.ends(job, signal=15)
    assert play.state(job) == "cancelled"


def test_a_claim_may_be_for_however_long():
    play, job = held(claim=True)
    looked_at(play, percent=0, uid=None, times=20)

    assert play.state(job) == "running"
