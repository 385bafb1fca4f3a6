"""`gpuctl config`: the settings in force and where each is from, changed by a line; and one's own defaults."""

import json

import pytest
from cli.conftest import Gpuctl


@pytest.fixture
def own(a_gpud, tmp_path):
    """Serve a gpuctl whose gpud reads a file of settings."""
    file = tmp_path / "config.toml"
    file.write_text('# mine\nstarvation = "12h"  # half a day\n\n[node.box]\nlabels = {rack = "b2"}\n')
    gpud = a_gpud("--config", str(file), "--simulate", "2xA100-80GB", "--reservations", "3")
    runner = Gpuctl(gpud)
    runner.environ |= {"GPUD_CONFIG": str(file), "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    return runner, file


def setting(runner, key):
    (found,) = json.loads(runner.ok("config", key, "--json"))
    return found


def test_settings_are_shown_with_where_they_are_from_and_changed_by_a_line(own):
    gpuctl, file = own
    shown = gpuctl.ok("config")
    assert [line.split()[0] for line in shown.splitlines()[1:]][-1] == "node"
    assert str(file) in shown
    assert "box: rack=b2" in shown
    assert (setting(gpuctl, "starvation")["written"], setting(gpuctl, "starvation")["source"]) == ("12h", str(file))
    assert setting(gpuctl, "reservations")["source"] == "--reservations"
    assert setting(gpuctl, "preempt_margin")["source"] == "default"
    assert len(gpuctl.ok("config", "--all").splitlines()) > 50

    assert "is 6h now" in gpuctl("config", "set", "starvation", "6h").stderr
    assert "is yes now" in gpuctl("config", "set", "preemptible", "yes").stderr
    assert "is fair_share now" in gpuctl("config", "set", "policy", "fair_share").stderr
    assert "is priority now" in gpuctl("config", "unset", "policy").stderr
    assert "ada, bob" in gpuctl("config", "set", "admins", "ada,bob").stderr
    assert "--reservations comes before" in gpuctl("config", "set", "reservations", "2").stderr
    assert "simulate stays 2xA100-80GB: --simulate comes before" in gpuctl("config", "set", "simulate", "4xH100").stderr
    gpuctl.ok("config", "unset", "simulate")
    assert "started anew" in gpuctl("config", "set", "gpus", "0").stderr
    above, _, below = file.read_text().partition("[node.box]")
    assert [line for line in above.splitlines() if line] == [
        "# mine",
        'starvation = "6h"  # half a day',
        "preemptible = true",
        'admins = ["ada", "bob"]',
        "reservations = 2",
        "gpus = [0]",
    ]
    assert below == '\nlabels = {rack = "b2"}\n'
    before = file.read_text()
    for words, said in (
        (("starvaton", "1h"), "did you mean 'starvation'"),
        (("starvation", "soon"), "90s"),
        (("node", "x"), "more than a line"),
    ):
        wrong = gpuctl("config", "set", *words)
        assert (wrong.returncode, said in wrong.stderr, file.read_text() == before) == (1, True, True), wrong.stderr
    gpuctl.ok("config", "unset", "preemptible")
    assert setting(gpuctl, "preemptible")["source"] == "default"
    assert gpuctl("config", "starv").returncode == 2
    assert "no setting 'starv'" in gpuctl("config", "unset", "starv").stderr


def test_a_policy_that_was_chosen_by_hand_is_the_one_that_is_shown(own):
    gpuctl, _ = own
    gpuctl.ok("policy", "fair_share", "--set", "half_life=2d")
    assert (setting(gpuctl, "policy")["value"], setting(gpuctl, "policy")["source"]) == ("fair_share", "gpuctl policy")
    assert setting(gpuctl, "half_life")["written"] == "2d"


def test_my_own_defaults_hold_where_nothing_else_is_said(own):
    gpuctl, file = own
    mine = file.parent / ".config" / "gpud" / "gpuctl.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('[submit]\ngpus = 0\ntime-limit = "2h"\nlabel = ["from=me"]\npreemptible = false\n')

    job = gpuctl.json("show", gpuctl.ok("submit", "--hold", "--", "true"))
    assert (job["gpus"], job["time_limit_s"], job["labels"]) == (0, 7200.0, {"from": "me"})
    assert job["preemptible"] is False
    job = gpuctl.json("show", gpuctl.ok("submit", "--hold", "-g", "2", "-t", "1h", "--", "true"))
    assert (job["gpus"], job["time_limit_s"]) == (2, 3600.0)
    script = gpuctl.directory / "job.sh"
    script.write_text("#!/bin/sh\n#GPUCTL --gpus 1\ntrue\n")
    job = gpuctl.json("show", gpuctl.ok("submit", "--hold", "job.sh"))
    assert (job["gpus"], job["time_limit_s"]) == (1, 7200.0)

    for text, said in (("[submit]\ngpsu = 1\n", "--gpus"), ("[sumbit]\n", "sumbit"), ("gpus = \n", "TOML")):
        mine.write_text(text)
        wrong = gpuctl("submit", "--", "true")
        assert (wrong.returncode, said in wrong.stderr, str(mine) in wrong.stderr) == (2, True, True), wrong.stderr
