import os
import re
import tomllib
from dataclasses import replace

import pytest

from gpud.core.rules import Rules
from gpud.settings.config import Config
from gpud.settings.sources import ConfigError, load, misspelt, taken

NONE = "/nonexistent/config.toml"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, and none of our variables."""
    for name in [name for name in os.environ if name.startswith(("GPUD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def own_file(home, text):
    path = home / ".config" / "gpud" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_a_word_gpud_serves_its_own_user(home):
    config = load([], {}, NONE)

    assert config.socket == f"{config.state_dir}/gpud.sock"
    assert config.state_dir.startswith(f"{home}/.local/state/gpud/")
    assert (config.system, config.simulate, config.gpus, config.policy, config.files) == (
        False,
        None,
        None,
        "priority",
        (),
    )
    assert config.assumed_runtime_s == 24 * 3600


def test_a_home_that_is_no_directory_holds_no_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null")
    assert load(["--state-dir", str(tmp_path)], {}, NONE).files == ()


def test_another_users_queue_is_not_gone_on_with(home, monkeypatch):
    state = home / "state"
    words = ["--state-dir", str(state)]
    assert load(words, {}, NONE).state_dir == str(state)  # there is nothing yet
    state.mkdir()
    (state / "gpud.db").touch()
    assert load(words, {}, NONE).state_dir == str(state)
    monkeypatch.setattr(os, "getuid", lambda: (state / "gpud.db").stat().st_uid + 1)
    with pytest.raises(ConfigError, match=f"the queue in {state} is user .* its jobs would run as you"):
        load(words, {}, NONE)


def test_the_later_word_wins(home):
    machine = home / "etc.toml"
    machine.write_text('policy = "a"\naging_per_hour = 1\nlog_level = "error"\nassumed_runtime = "1h"\n')
    own = own_file(home, 'policy = "b"\naging_per_hour = 2\nlog_level = "warning"\n')

    config = load(["--policy", "d"], {"GPUD_POLICY": "c", "GPUD_AGING_PER_HOUR": "3"}, str(machine))

    assert (config.policy, config.aging_per_hour, config.log_level, config.assumed_runtime_s) == (
        "d",
        3.0,
        "warning",
        3600,
    )
    assert config.files == (str(machine), str(own))


def test_a_named_file_is_read_alone(home):
    machine = home / "etc.toml"
    machine.write_text('policy = "a"\n')
    own_file(home, "aging_per_hour = 2\n")
    named = home / "named.toml"
    named.write_text('log_level = "debug"\n')

    by_option = load(["--config", str(named)], {}, str(machine))
    by_variable = load([], {"GPUD_CONFIG": str(named)}, str(machine))

    assert by_option == by_variable
    assert (by_option.policy, by_option.aging_per_hour, by_option.log_level) == ("priority", 1.0, "debug")


def test_every_setting_is_written_alike_in_a_file_a_variable_and_an_option(home):
    text = (
        'socket = "/s/gpud.sock"\nstate_dir = "/s"\nsimulate = "4xH100"\nnvml_library = "/lib/x.so"\nsystem = false\n'
        'gpus = [0, 2]\nforeign_ignore = ["Xorg", "obs"]\ncuda_visible_devices = "uuid"\npolicy = "fcfs"\n'
        'aging_per_hour = 0.5\nassumed_runtime = "1d12h"\nlog_level = "debug"\nadmin_groups = ["wheel"]\n'
    )
    own = own_file(home, text)
    in_file = load([], {}, NONE)
    own.unlink()
    words = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in tomllib.loads(text).items()
    }
    in_variables = load([], {f"GPUD_{key.upper()}": word for key, word in words.items()}, NONE)
    options = [f"--{key.replace('_', '-')}={word}" for key, word in words.items() if key != "system"]
    in_options = load([*options, "--no-system"], {}, NONE)

    assert in_variables == in_options
    assert in_file.files == (str(own),)
    assert in_options == Config(
        socket="/s/gpud.sock",
        state_dir="/s",
        simulate="4xH100",
        nvml_library="/lib/x.so",
        gpus=(0, 2),
        foreign_ignore=("Xorg", "obs"),
        cuda_visible_devices="uuid",
        policy="fcfs",
        aging_per_hour=0.5,
        assumed_runtime_s=36 * 3600,
        log_level="debug",
        admin_groups=("wheel",),
    )
    assert taken(in_file, in_options) == (in_options, [])


@pytest.mark.parametrize(
    ("line", "complaint", "hint"),
    [
        ('simulte = "4xH100"', "unknown key 'simulte'", "did you mean 'simulate'?"),
        ("simulate = 4", "simulate must be text, not a whole number", None),
        ("gpus = [0, true]", "gpus[1] must be a whole number, not true or false", None),
        ("gpus = [1, 1]", "gpus: GPUs are counted from 0, and named once", None),
        (
            'log_level = "inf"',
            "log_level must be one of debug, error, info, warning; not 'inf'",
            "did you mean 'info'?",
        ),
        ('assumed_runtime = "5 apples"', "assumed_runtime: it cannot be '5 apples'; write 90s, 2h", None),
        ('assumed_runtime = "0"', "assumed_runtime: it cannot be '0'; write 90s, 2h or 7d; 1s at", None),
        ("preempt_margin = 0", "preempt_margin: it cannot be 0; write a whole number; 1 at least", None),
        ("preemptible = 1", "preemptible must be true or false, not a whole number", None),
        ("aging_per_hour = nan", "aging_per_hour must be a number, not nan", None),
        ("aging_per_hour = -1", "aging_per_hour: it cannot be -1; write a number, like 1.5; 0 at least", None),
        ('state_dir = "here"', "state_dir: 'here' is not a full path", None),
        ("gpus = [", "is not TOML", None),
        ("[pool.debug]\ngpu = [1]", "config.toml: unknown key 'pool.debug.gpu'", "did you mean 'gpus'?"),
        ("pool = {a = {gpus = [1]}, b = {gpus = ['vm:1']}}", "pool: the pools a and b both have GPU vm:1", None),
    ],
)
def test_a_file_that_is_not_understood_is_named_with_its_key_and_what_is_known(home, line, complaint, hint):
    own = own_file(home, line)

    with pytest.raises(ConfigError, match=re.escape(complaint)) as refused:
        load([], {}, NONE)

    assert str(own) in str(refused.value)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint", "hint"),
    [
        (["--simulat", "x"], {}, "unrecognized arguments: --simulat x", "did you mean '--simulate'?"),
        (["--simulate"], {}, "argument --simulate: expected one argument", "gpud --help lists what it takes"),
        (["--gpus", "a"], {}, "--gpus: 'a' is not a list of GPUs", None),
        ([], {"GPUD_SYSTEM": "maybe"}, "$GPUD_SYSTEM: 'maybe' is neither yes nor no", None),
        ([], {"GPUD_CONFIG": "/nonexistent.toml"}, "/nonexistent.toml: no such file", "--config names a file"),
    ],
)
def test_a_word_that_is_not_understood_is_named_with_where_it_stands(arguments, variables, complaint, hint):
    with pytest.raises(ConfigError, match=re.escape(complaint)) as refused:
        load(arguments, variables, NONE)

    assert hint is None or hint in refused.value.hint


@pytest.mark.parametrize("off", ["0", "off"])
def test_what_scheduling_keeps_to_is_set_like_everything_else_and_changed_by_a_reload(home, off):
    own_file(home, 'preempt_after = "5m"\npreempt_margin = 10\npreemptible = true\nstarvation = "2d"\n')

    config = load(["--starvation", off], {"GPUD_RESERVATIONS": "4"}, NONE)

    rules = config.rules
    assert (rules.reservations, rules.starvation_s) == (4, 0.0)
    assert (rules.preempt_after_s, rules.preempt_margin, rules.preemptible) == (300.0, 10, True)
    assert taken(Config(), config)[0].rules == rules


def test_without_a_word_deciding_keeps_to_its_own_rules():
    config = Config()
    assert config.rules == Rules(parameters=config.parameters, sample_every_s=15.0)  # where nothing is real: none


def test_a_users_gpud_leaves_the_places_of_the_machines_own_alone(home):
    machine = home / "etc.toml"
    machine.write_text('socket = "/run/lab.sock"\nstate_dir = "/var/lib/lab"\npolicy = "fcfs"\n')

    config = load([], {}, str(machine))

    assert config.state_dir.startswith(str(home))
    assert config.policy == "fcfs"


def test_variables_that_are_empty_say_nothing():
    assert load([], {"GPUD_SIMULATE": "", "GPUD_GPUS": ""}, NONE) == load([], {}, NONE)


def test_a_variable_that_is_nearly_a_setting_is_named_with_the_one_that_it_may_mean():
    meant = (
        "GPUD_SOCKET",
        "GPUD_CONFIG",
        "GPUD_HOST",
        "GPUD_CLAIM",
        "GPUD_NOTICE",
        "GPUD_OF_MY_LAB",
        "GPUS",
    )
    assert misspelt(dict.fromkeys(meant, "x")) == []
    assert misspelt({"GPUD_SOKET": "x"}) == [
        "$GPUD_SOKET is not read, there is no setting 'soket': did you mean 'socket'?"
    ]
    assert misspelt({"GPUD_JOB_ID": "12", "GPUD_GPU_UUIDS": "x", "GPUD_DOCKER_ARGS": "x"}) == []  # inside of a job


def test_places_are_meant_from_where_one_stands(home, monkeypatch):
    monkeypatch.chdir(home)

    config = load(["--state-dir", "here"], {"GPUD_SOCKET": "~/there.sock"}, NONE)

    assert (config.state_dir, config.socket) == (str(home / "here"), str(home / "there.sock"))


def test_a_reload_takes_what_it_can_change_and_names_the_rest():
    old = load([], {}, NONE)

    new = load(["--policy", "x", "--log-level", "debug"], {}, NONE)
    assert taken(old, new) == (new, [])
    new = load(["--simulate", "4xH100", "--gpus", "1", "--log-level", "debug"], {}, NONE)
    assert taken(old, new) == (replace(old, log_level="debug"), ["simulate", "gpus"])


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_questions_are_answered_on_stdout(capsys, option):
    with pytest.raises(SystemExit) as done:
        load([option], {}, NONE)

    assert done.value.code == 0
    assert "gpud" in capsys.readouterr().out
