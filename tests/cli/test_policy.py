"""`gpuctl policy`: what it shows, what it changes, and what a restart remembers."""

import pytest

from gpud.core.policies import POLICIES
from gpud.settings.config import Config

POLICY_KEYS, PARAMETER_KEYS = {"name", "says", "parameters"}, {"name", "kind", "value", "default", "says"}


def parameters_of(shown, policy):
    (found,) = (each for each in shown["policies"] if each["name"] == policy)
    return {each["name"]: each["value"] for each in found["parameters"]}


def test_it_shows_the_policy_in_force_explains_its_parameters_and_names_the_others(gpuctl):
    shown = gpuctl.ok("policy")

    assert shown.startswith("priority: higher priority first")
    assert "aging_per_hour      1  priority that a job gains by each hour of waiting" in shown
    assert {line.split()[0] for line in shown.splitlines() if line} >= {"fcfs", "sjf", "fair_share", "las"}
    found = gpuctl.json("policy")
    assert (found.keys(), found["policy"]) == ({"policy", "policies"}, "priority")
    assert all(each.keys() == POLICY_KEYS for each in found["policies"])
    assert all(each.keys() == PARAMETER_KEYS for policy in found["policies"] for each in policy["parameters"])


def test_a_change_holds_at_once_and_a_reset_takes_it_back(gpuctl):
    first = [gpuctl.ok("submit", "--hold", "-p", str(priority), "true").strip() for priority in (0, 0)]
    assert gpuctl.json("policy", "fair_share", "--set", "half_life=2d", "--set", "head_start=90") == {"changed": True}
    assert gpuctl.json("policy", "fair_share") == {"changed": False}
    assert gpuctl.json("status")["policy"] == "fair_share"
    found = gpuctl.json("policy")
    assert found["policy"] == "fair_share"
    assert parameters_of(found, "fair_share") == {"half_life": 172_800.0, "head_start": 90.0, "aging_per_hour": 1.0}
    assert "half_life          2d  after how long GPU-time counts half (7d by default)" in gpuctl.ok("policy")

    gpuctl.ok("policy", "--set", "head_start=default")
    assert parameters_of(gpuctl.json("policy"), "fair_share")["head_start"] == 3600.0
    gpuctl.ok("policy", "--reset")
    assert gpuctl.json("policy")["policy"] == "priority"
    assert [job["id"] for job in gpuctl.json("list")] == first


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("sfj",), 2, "there is no policy 'sfj'\n  hint: did you mean 'sjf'?"),
        (("las", "--set", "half_life=2d"), 2, "the policy las has no parameter 'half_life'"),
        (("las", "--set", "level_factor=1"), 2, "level_factor cannot be '1'"),
        (("fair_share", "--set", "half_life=soon"), 2, "half_life cannot be 'soon'"),
        (("las", "--set", "level_factor=inf"), 2, "level_factor cannot be 'inf'"),
        (("fair_share", "--set", "half_life=off"), 2, "write 90s, 2h or 7d; 1m at least, ten years at most"),
        (("fcfs", "--reset"), 2, "a policy and --reset contradict each other"),
        (("las", "--set", "level_factor"), 2, "'level_factor' sets nothing; write KEY=VALUE"),
    ],
)
def test_what_cannot_be_set_is_refused_with_what_can(gpuctl, words, status, said):
    done = gpuctl("policy", *words)

    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert gpuctl.json("policy")["policy"] == "priority"


def test_what_was_chosen_survives_a_restart_and_the_order_with_it(a_gpud):
    gpud = a_gpud("--simulate", "1xA10")
    running = gpud.submit("sleep", "600", gpus=1)
    gpud.running(running)
    long, short = (gpud.submit("true", gpus=1, time_limit_s=limit_s) for limit_s in (900.0, 60.0))
    gpud.ask("policy_set", policy="sjf", parameters={"aging_per_hour": "2"})
    before = [gpud.job(job)["queue_position"] for job in (short, long)]
    gpud.kill()
    gpud.start()

    reply = gpud.ask("policies")
    assert (reply["policy"], parameters_of(reply, "sjf")) == ("sjf", {"aging_per_hour": 2.0})
    assert before == [gpud.job(job)["queue_position"] for job in (short, long)] == [1, 2]


def test_the_configuration_names_a_policy_and_its_parameters_and_whoever_chooses_another_comes_before_it(a_gpud):
    gpud = a_gpud("--simulate", "1xA10", "--policy", "las", "--first-level", "1h")
    assert (gpud.ask("policies")["policy"], parameters_of(gpud.ask("policies"), "las")["first_level"]) == ("las", 3600)
    gpud.ask("policy_set", parameters={"first_level": "2h"})
    assert parameters_of(gpud.ask("policies"), "las")["first_level"] == 7200
    gpud.ask("policy_set", parameters={"first_level": "default"})
    assert parameters_of(gpud.ask("policies"), "las")["first_level"] == 3600


def test_a_parameter_is_a_key_of_the_configuration_with_the_same_default():
    for described in POLICIES.values():
        for each in described.parameters:
            assert Config().parameters[each.name] == each.default
