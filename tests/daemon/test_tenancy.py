"""Tenants and reservations, asked of a real gpud over its socket."""

import os
import pwd
import time

import pytest
from gpud_process import until

from gpuctl.errors import RefusedError

ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_members_jobs_are_their_tenants_and_its_limits_hold(gpud):
    gpud.ask("tenant_create", name="vision", users=[ME], max_gpus=1)
    first, second = gpud.submit("sleep", "60", gpus=1), gpud.submit("sleep", "60", gpus=1)
    gpud.running(first)

    waiting = gpud.job(second)
    assert (waiting["tenant"], waiting["state"], waiting["reason"]) == (
        "vision",
        "queued",
        "tenant vision has 1 of 1 GPU in use",
    )
    (why,) = gpud.ask("why", job=second)["jobs"]
    assert (why["code"], why["hint"]) == ("quota", "see its limits: gpuctl tenant show vision")
    gpud.ask("tenant_set", name="vision", clear=["max_gpus"])
    gpud.running(second)


def test_a_users_group_makes_them_a_member(gpud):
    import grp  # noqa: PLC0415 - this test alone

    gpud.ask("tenant_create", name="lab", groups=[grp.getgrgid(os.getgid()).gr_name])

    job = gpud.submit("true")

    assert gpud.ended(job)["tenant"] == "lab"


def test_tenants_and_reservations_and_what_was_used_survive_kill_9(gpud):
    gpud.ask("tenant_create", name="vision", users=[ME], max_gpus=2, gpu_hours=100.0)
    gpud.ask("reserve", targets=["1"], until=time.time() + 3600, whose=["vision"], reason="deadline")
    gpud.ended(gpud.submit("sleep", "0.2", gpus=1))
    before = gpud.ask("tenants")["tenants"], gpud.ask("reservations")["reservations"]
    assert before[0][0]["gpu_hours_used"] >= 0.2 / 3600

    gpud.kill()
    gpud.start()

    assert (gpud.ask("tenants")["tenants"], gpud.ask("reservations")["reservations"]) == before


def test_a_running_job_keeps_counting_through_a_restart(gpud):
    gpud.ask("tenant_create", name="vision", users=[ME])
    gpud.running(gpud.submit("sleep", "60", gpus=2))

    gpud.restart()

    def used():
        (tenant,) = gpud.ask("tenants", name="vision")["tenants"]
        return tenant

    before = used()
    assert (before["gpus_used"], before["running"]) == (2.0, 1)
    assert until(lambda: used()["gpu_hours_used"] > before["gpu_hours_used"])


def test_jobs_that_share_a_gpu_use_what_it_is_and_cost_what_it_does_through_a_kill_9(a_gpud, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('simulate = "1xRTX4090"\ngpu_hour_price = {"*" = 3600}\n')  # that is a second's
    gpud = a_gpud("--config", str(file))
    gpud.ask("tenant_create", name="vision", users=[ME])
    jobs = [gpud.submit("sleep", "60", demand={"gpus": 1, "share_mib": 8 * 1024}) for _ in range(3)]
    for job in jobs:
        gpud.running(job)

    gpud.kill()
    gpud.start()

    def tells():
        """Return what is used now, and what was."""
        (tenant,), (user,) = gpud.ask("tenants")["tenants"], gpud.ask("stats")["users"]
        (gpu,) = gpud.ask("usage", by="gpu", since=0.0)["rows"]
        assert gpu["cost"] == pytest.approx(gpu["gpu_s"])
        return (tenant["gpus_used"], user["gpus"]), tenant["gpu_hours_used"] * 3600, gpu["gpu_s"]

    held, hours_s, usage_s = tells()
    assert held == (0.999, 0.999)
    assert hours_s == pytest.approx(usage_s, abs=0.3)
    begun = min(gpud.job(job)["started_at"] for job in jobs)
    assert 0 < hours_s <= time.time() - begun
    gpud.ask("cancel", select={"jobs": jobs[:2]})
    lasted_s = [ended["ended_at"] - ended["started_at"] for ended in map(gpud.ended, jobs[:2])]
    held, hours_s, usage_s = tells()
    assert held == (0.333, 0.333)
    so_far_s = time.time() - gpud.job(jobs[2])["started_at"]
    assert hours_s == pytest.approx((sum(lasted_s) + so_far_s) / 3, abs=0.3)
    assert usage_s == pytest.approx(hours_s, abs=0.3)


def test_a_reservation_keeps_others_off_and_ends_by_itself(gpud):
    gpud.ask("reserve", targets=["all"], until=time.time() + 3.0)
    job = gpud.submit("true", gpus=1)
    assert gpud.job(job)["state"] == "queued"
    assert gpud.ask("gpus")["gpus"][0]["kept_for"][0].startswith("reservation 1 for ")

    assert gpud.ended(job)["state"] == "completed"
    assert gpud.ask("reservations")["reservations"] == []
    kinds = [event["kind"] for event in gpud.ask("events")["events"]]
    assert kinds.index("reserved") < kinds.index("reservation_ended") < kinds.index("completed")


@pytest.mark.parametrize(
    ("op", "fields", "code", "message"),
    [
        ("tenant_create", {"name": "a b"}, "usage", "'a b' cannot be a tenant's name"),
        ("tenant_create", {"name": "x", "users": ["no-such-user"]}, "usage", "there is no user 'no-such-user' on"),
        ("tenant_create", {"name": "x", "groups": ["no-such-group"]}, "usage", "there is no group 'no-such-group' on"),
        ("tenant_create", {"name": "x", "share": 0.0}, "usage", "the share must be from 0.001"),
        ("tenant_create", {"name": "x", "window_s": 20.0}, "usage", "the window must be from 1m to 3660d, not 20s"),
        ("tenant_create", {"name": "x", "gpus": ["7"]}, "no_such_gpu", "there is no GPU named '7'"),
        (
            "tenant_create",
            {"name": "x", "guaranteed_gpus": 3},
            "refused",
            "3 GPUs would be guaranteed in all; there are 2",
        ),
        ("tenant_create", {"name": "x", "clear": ["name"]}, "usage", "clear[0] must be one of"),
        ("tenant_set", {"name": "x", "max_gpus": 1}, "no_such_tenant", "there is no tenant 'x'"),
        ("tenant_delete", {"name": "x"}, "no_such_tenant", "there is no tenant 'x'"),
        ("tenants", {"name": "x"}, "no_such_tenant", "there is no tenant 'x'"),
        ("reserve", {"targets": ["all"], "until": 1.0}, "usage", "a reservation must end after it begins"),
        ("reserve", {"targets": ["all"], "at": 9e9, "until": 8e9}, "usage", "a reservation must end after it begins"),
        ("reserve", {"targets": [], "until": 9e9}, "no_such_gpu", "no GPU is named"),
        ("reserve", {"targets": ["all"], "until": 9e9}, "usage", "a reservation lasts ten years at most"),
        (
            "reserve",
            {"targets": ["0"], "until": time.time() + 60, "whose": ["nobody-here"]},
            "no_such_tenant",
            "there is no",
        ),
        ("reservation_delete", {"reservation": 9}, "no_such_reservation", "there is no reservation 9"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_done(gpud, op, fields, code, message):
    with pytest.raises(RefusedError) as refused:
        gpud.ask(op, **fields)

    assert refused.value.code == code
    assert refused.value.message.startswith(message)
    assert gpud.ask("tenants")["tenants"] == gpud.ask("reservations")["reservations"] == []


def test_nodes_have_the_labels_that_the_configuration_gives_them(a_gpud, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('simulate = "2x1xRTX4090"\n[node.sim-2.labels]\nrack = "b2"\n[node.sim-9.labels]\nrack = "b3"\n')
    gpud = a_gpud("--config", str(file))

    job = gpud.submit("sleep", "60", demand={"gpus": 1, "node_labels": {"rack": "b2"}})
    assert gpud.running(job)["allocation"][0]["node"] == "sim-2"
    assert [node["labels"] for node in gpud.ask("nodes")["nodes"]] == [{}, {"rack": "b2"}]
    assert "configuration: there is no node sim-9" in gpud.said()

    file.write_text('simulate = "2x1xRTX4090"\n[node.sim-1.labels]\nrack = "b2"\n')
    gpud.signal(1)  # HUP
    until(lambda: [node["labels"] for node in gpud.ask("nodes")["nodes"]] == [{"rack": "b2"}, {}])


def test_pools_of_gpus_that_are_not_there_are_told(a_gpud, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('simulate = "2xRTX4090"\n[pool.debug]\ngpus = [7]\n')
    gpud = a_gpud("--config", str(file))

    assert gpud.ask("gpus")["problem"] == "pool debug names GPU 7, and there is none"
    assert "configuration: pool debug names GPU 7, and there is none" in gpud.said()


def test_limits_and_pools_come_from_the_configuration_and_may_change_while_gpud_runs(a_gpud, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('simulate = "2xRTX4090"\nmax_queued_per_user = 1\n[pool.debug]\ngpus = [1]\nmax_time = "30m"\n')
    gpud = a_gpud("--config", str(file))
    gpud.running(gpud.submit("sleep", "60", gpus=0, time_limit_s=60.0))
    gpud.submit("true", hold=True)
    with pytest.raises(RefusedError, match=f"user {ME} has 1 of 1 job waiting") as refused:
        gpud.submit("true")
    assert 0 < refused.value.retry_after_s <= 65
    assert "submit it when some have started; the next end of a job is expected in " in refused.value.hint
    gpud.ask("pause")
    with pytest.raises(RefusedError, match=f"user {ME} has 1 of 1 job waiting") as refused:
        gpud.submit("true")
    assert (refused.value.hint, refused.value.retry_after_s) == ("submit it when some have started", None)

    file.write_text('simulate = "2xRTX4090"\n[pool.debug]\ngpus = ["0"]\n')
    gpud.signal(1)  # HUP
    until(lambda: "configuration read again" in gpud.said())
    gpud.ask("resume")

    job = gpud.submit("sleep", "60", gpus=1)
    assert gpud.running(job)["allocation"][0]["gpu_indices"] == [1]
    assert gpud.ask("gpus")["gpus"][0]["kept_for"] == ["pool debug"]


def test_why_says_that_a_pool_made_since_left_too_few_gpus_whatever_else_keeps_the_job(a_gpud, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('simulate = "4xRTX4090"\n')
    gpud = a_gpud("--config", str(file))
    gpud.ask("tenant_create", name="vision", users=[ME], gpu_hours=1e-6)
    gpud.ask("pause")
    wide = gpud.submit("sleep", "60", gpus=4)

    file.write_text('simulate = "4xRTX4090"\n[pool.debug]\ngpus = [3]\n')
    gpud.signal(1)  # HUP
    until(lambda: gpud.ask("gpus")["gpus"][3]["kept_for"] == ["pool debug"])
    gpud.ask("resume")
    until(lambda: gpud.job(wide)["reason"] == "what is free is for pool debug")
    message = "4 GPUs of one node are asked for; beside those for pool debug there are 3 that suit"
    assert told(gpud, wide) == ("never_fits", message, "it cannot start here")

    gpud.ended(gpud.submit("sleep", "0.1", gpus=1))
    until(lambda: "GPU-hours" in gpud.job(wide)["reason"])
    assert told(gpud, wide) == ("never_fits", message, "it cannot start here")


def told(gpud, job):
    (why,) = gpud.ask("why", job=job)["jobs"]
    assert why["expected_start_at"] is None
    return why["code"], why["reason"], why["expected_start_unknown"]
