"""The words of the command line: help, topics, manual pages, aliases, and what is said to who mistypes."""

import re
import shutil
import subprocess

import click
import pytest
from gpud_process import until

from gpuctl.cli import ALIASES, COMMANDS, cli
from gpuctl.render import man
from gpuctl.topics import ALSO, EXAMPLES, TOPICS

REQUEST = re.compile(r"^\.([A-Z]+)")


@pytest.fixture(scope="module")
def pages():
    return man.pages(cli, "1.2.3")


def test_every_command_and_topic_has_its_manual_page_in_macros_that_there_are(pages):
    assert set(pages) == {"gpuctl.1", *(f"gpuctl-{name}.1" for _, name, _, _ in COMMANDS)}
    for name, text in pages.items():
        lines = text.splitlines()
        assert lines[0].startswith(".TH ")
        assert lines[1] == ".SH NAME"
        assert " \\- " in lines[2]
        requests = {found[1] for line in lines if (found := REQUEST.match(line))}
        assert requests <= {"TH", "SH", "SS", "TP", "PP", "B", "BR"}, name
        assert "\b" not in text
    assert all(f".SH {topic.upper()}" in pages["gpuctl.1"] for topic in TOPICS)
    assert "\\-\\-gpu\\-memory" in pages["gpuctl-submit.1"]
    assert ".SH DAEMON INSTALL" in pages["gpuctl-daemon.1"]


@pytest.mark.parametrize("groff", [path for path in [shutil.which("groff")] if path])
def test_groff_has_nothing_to_say_about_the_pages(groff, pages, tmp_path):
    files = []
    for name in ("gpuctl.1", "gpuctl-submit.1", "gpuctl-daemon.1", "gpuctl-list.1"):
        (tmp_path / name).write_text(pages[name])
        files.append(tmp_path / name)
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", *files], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    plain = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout).replace("\u2010", "-")
    assert "gpuctl submit -f jobs.txt --group sweep" in plain


def test_aliases_stand_for_commands_and_are_told_in_help(alone):
    told = alone.ok("--help")
    assert all(re.search(rf"\b{alias}\b", told.partition("Aliases:")[2]) for alias in ALIASES)
    names = {name for _, name, _, _ in COMMANDS}
    assert {words[0] for words in ALIASES.values()} <= names
    assert names.isdisjoint(ALIASES)


def test_aliases_do_what_hands_expect(gpuctl):
    running = gpuctl.ok("submit", "-g", "0", "--", "sleep", "1000")
    held = gpuctl.ok("submit", "--hold", "--", "true")
    until(lambda: gpuctl.json("show", running)["state"] == "running")
    assert gpuctl.ok("ls", "--sort", "id", "--format", "{id}").split() == [running, held]
    assert gpuctl.ok("ps", "--format", "{id}") == running
    assert gpuctl.ok("ls", "-s", "held,lost", "--format", "{id}") == held
    assert "'hold' is not one of" in gpuctl("cancel", "-s", "held,hold").stderr

    assert "to stop what runs: gpuctl cancel" in gpuctl("rm", running).stderr
    assert gpuctl.json("show", running)["state"] == "running"
    for words, said in (
        (("rm",), "no job named"),
        (("cancel", "--mine", "--group", ""), "--group is empty"),
        (("ls", "--user", ""), "--user is empty"),
        (("ls", "--format", ""), "--format is empty"),
        (("usage", "--since", "9000-01-01"), "is still to come"),
    ):
        nothing = gpuctl(*words)
        assert (nothing.returncode, said in nothing.stderr) == (2, True)
    assert gpuctl.json("show", held)["state"] == "held"
    gpuctl.ok("rm", held, "-s", "failed,held")
    assert gpuctl.json("show", held)["state"] == "cancelled"
    array = gpuctl.ok("submit", "-g", "0", "--array", "0-3%1", "--", "sleep", "1000")
    until(lambda: gpuctl.json("show", array)["array_counts"].get("running"))
    gpuctl.ok("rm", array)
    assert gpuctl.json("show", array)["array_counts"] == {"running": 1, "cancelled": 3}
    assert "sent SIGURG to 1 job" in gpuctl("kill", "-URG", running).stderr
    gpuctl.ok("kill", "-s", "KILL", running)
    assert gpuctl("tail", "-5", running).returncode == 0
    assert gpuctl("wait", running).returncode == 137


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["squeue"], "gpuctl list"),
        (["lst"], "did you mean list"),
        (["submit", "-d", "afterok:1", "--", "true"], "--after"),
        (["submit", "--gpu", "2", "--", "true"], "--gpus"),
        (["list", "--stat", "held"], "--state"),
        (["list", "--state", "runing"], "running"),
        (["show"], "for example: gpuctl show 12"),
        (["notify", "test"], "for example: gpuctl notify test desktop"),
        (["kernel", "list"], "there is: gpuctl kernel install"),
        (["logs", "x"], "12_7"),
        (["submit"], "gpuctl submit -- python train.py"),
        (["submit", "-t", "soon", "--", "true"], "10m"),
        (["submit", "--gpu-memory", "much", "--", "true"], "8G"),
        (["signal", "1", "USR9"], "USR1"),
        (["cancel"], "--mine"),
        (["config", "set"], "gpuctl config set KEY VALUE"),
        (["completion", "install", "tcsh"], "zsh"),
        (["help", "nothing-like-it"], "gpuctl help lists"),
        (["help", "stat"], "did you mean"),
        (["daemon", "strat"], "start"),
        (["tenant", "creat"], "create"),
    ],
)
def test_who_mistypes_is_told_what_to_type(alone, words, said):
    done = alone(*words)
    assert done.returncode in (2, 125)
    assert said in done.stderr, done.stderr


def test_whoever_leaves_out_what_a_command_needs_is_shown_an_example():
    def lacking(command, path=()):
        for name, each in getattr(command, "commands", {}).items():
            yield from lacking(each, (*path, name))
        if any(parameter.required for parameter in command.params):
            yield " ".join(path)

    root = click.Context(cli)
    found = {name for each in cli.list_commands(root) for name in lacking(cli.get_command(root, each), (each,))}
    assert found == set(EXAMPLES)


def test_a_change_has_no_defaults():
    of_update, of_submit = (cli.get_command(click.Context(cli), name) for name in ("update", "submit"))
    told = {option.name: "(default" in (option.help or "") for option in of_submit.params if hasattr(option, "help")}
    assert (told["gpus"], told["workdir"], told["cpus"]) == (True, True, True)
    assert not [option.name for option in of_update.params if "(default" in (getattr(option, "help", "") or "")]


def test_help_explains_commands_and_topics(alone):
    assert "Queue a command" in alone.ok("help", "submit")
    assert "Usage: gpuctl daemon start" in alone.ok("help", "daemon", "start")
    assert "GPUD_JOB_ID" in alone.ok("help", "variables")
    assert alone.ok("help", "env") == alone.ok("help", "variables")
    assert "Usage: gpuctl list" in alone.ok("help", "ls")
    whole = alone.ok("help")
    assert all(f"  {topic} " in whole for topic in TOPICS)
    assert set(ALSO.values()) <= set(TOPICS)
    assert max(len(line) for _, text in TOPICS.values() for line in text.splitlines()) <= 120
