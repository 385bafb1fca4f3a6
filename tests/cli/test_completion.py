"""The completion files: up to date, and of use to the shells that are here."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from gpuctl.cli import COMMANDS, cli
from gpuctl.render import completion

FOLDER = Path(__file__).parents[2] / "completions"
WRITERS = {"gpuctl.bash": completion.bash, "_gpuctl": completion.zsh, "gpuctl.fish": completion.fish}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_file_is_what_the_commands_are_now(name):
    written = WRITERS[name](completion.tree(cli))
    assert (FOLDER / name).read_text() == written, "stale: gpuctl completion SHELL > completions/FILE"


def test_the_table_of_commands_says_what_the_commands_say():
    context = click.Context(cli, info_name="gpuctl")
    for _, name, _, _ in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name


def bash_completes(*words: str) -> list[str]:
    asked = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gpuctl; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f"source {FOLDER}/gpuctl.bash; {asked}"
    command = ["bash", "--norc", "-c", script, "bash", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["gpuctl", "subm"], ["submit"]),
        (["gpuctl", "--json", "wat"], ["watch"]),
        (["gpuctl", "--socket", "list", "wat"], ["watch"]),
        (["gpuctl", "submit", "--gpu-t"], ["--gpu-type"]),
        (["gpuctl", "submit", "-g", "2", "--gpu-t"], ["--gpu-type"]),
        (["gpuctl", "daemon", "rest"], ["restart"]),
        (["gpuctl", "list", "--state", "ti"], ["timed_out"]),
        (["gpuctl", "completion", "f"], ["fish"]),
        (["gpuctl", "submit", "--", "cat", "/etc/hostna"], ["/etc/hostname"]),
        (["gpuctl", "submit", "-C", "/et"], ["/etc"]),
    ],
)
def test_bash_completes(words, found):
    assert bash_completes(*words) == found


def test_bash_completes_paths_with_spaces(tmp_path):
    (tmp_path / "my jobs").mkdir()
    assert bash_completes("gpuctl", "submit", "-C", f"{tmp_path}/my") == [f"{tmp_path}/my jobs"]
    assert bash_completes("gpuctl", "submit", "--", "cat", f"{tmp_path}/my") == [f"{tmp_path}/my jobs"]


def test_what_is_asked_for_on_tab_is_what_the_command_could_take(gpuctl):
    over = gpuctl.ended("--", "true")["id"]
    held = gpuctl.ok("submit", "--hold", "-n", "mine", "--", "true")
    assert gpuctl.ok("completion", "live") == f"{held}\theld mine"
    assert {line.partition("\t")[0] for line in gpuctl.ok("completion", "ids").splitlines()} == {over, held}
    node = gpuctl.json("nodes")[0]["name"]
    assert [line.partition("\t")[0] for line in gpuctl.ok("completion", "gpus").splitlines()] == ["0", "1", node]
    wrong = gpuctl("completion", "tcsh").stderr
    assert ("bash" in wrong, "ids" in wrong, "live" in wrong) == (True, False, False)


@pytest.mark.parametrize("shell", [name for name in ("bash", "zsh", "fish") if shutil.which(name)])
def test_a_shell_that_is_here_takes_its_file_without_a_word(shell):
    file = {"bash": "gpuctl.bash", "zsh": "_gpuctl", "fish": "gpuctl.fish"}[shell]
    read = subprocess.run([shell, "-n", FOLDER / file], check=False, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("gpuctl subm", "submit"),
        ("gpuctl submit -g 2 --gpu-type H100 -- pri", "printf"),
        ("gpuctl run pri", "printf"),
    ],
)
@pytest.mark.parametrize("fish", [path for path in [shutil.which("fish")] if path])
def test_fish_completes(fish, line, found):
    asked = f"source {FOLDER}/gpuctl.fish; complete -C '{line}'"
    done = subprocess.run([fish, "--no-config", "-c", asked], check=True, capture_output=True, text=True)
    assert found in [answer.partition("\t")[0] for answer in done.stdout.splitlines()]
    assert done.stderr == ""
