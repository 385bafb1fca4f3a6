"""The completion files: up to date, and of use to the shells that are here."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import pytest
from gpud_process import until

from gpuctl.cli import COMMANDS, cli
from gpuctl.render import completion, verbs

FOLDER = Path(__file__).parents[2] / "completions"
WRITERS = {"gpuctl.bash": completion.bash, "_gpuctl": completion.zsh, "gpuctl.fish": completion.fish}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_file_is_what_the_commands_are_now(name):
    written = WRITERS[name](verbs.tree(cli))
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
        (["gpuctl", "list", "--state", "=", "ti"], ["timed_out"]),
        (["gpuctl", "list", "--state", "failed,ti"], ["failed,timed_out"]),
        (["gpuctl", "list", "--columns", "id,sub"], ["id,submitted"]),
        (["gpuctl", "submit", "-e", "A", "=", "b", ":", "c", "--gpu-t"], ["--gpu-type"]),
        (["gpuctl", "help", "vari"], ["variables"]),
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
    assert (gpuctl.ok("completion", "running"), gpuctl.ok("completion", "claims")) == ("", "")
    claim = gpuctl.json("claim", "-g", "1", "--for", "1h")["id"]
    assert gpuctl.ok("completion", "running") == f"{claim}\trunning claim"
    assert gpuctl.ok("completion", "waiting") == f"{held}\theld mine"
    assert {verb.takes for verb in verbs.tree(cli).verbs if verb.name in {"rm", "hold", "release"}} == {"waiting"}
    assert gpuctl.ok("completion", "claims") == f"{claim}\trunning claim"
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
        ("gpuctl list --columns id,sub", "id,submitted"),
    ],
)
@pytest.mark.parametrize("fish", [path for path in [shutil.which("fish")] if path])
def test_fish_completes(fish, line, found):
    asked = f"source {FOLDER}/gpuctl.fish; complete -C '{line}'"
    done = subprocess.run([fish, "--no-config", "-c", asked], check=True, capture_output=True, text=True)
    assert found in [answer.partition("\t")[0] for answer in done.stdout.splitlines()]
    assert done.stderr == ""


@pytest.mark.parametrize("fish", [path for path in [shutil.which("fish")] if path])
def test_what_a_job_runs_is_no_command_of_gpuctl_to_fish(fish):
    asked = f"function gpuctl; echo 1234; end; source {FOLDER}/gpuctl.fish; complete -C 'gpuctl %s'"
    for line, offered in (("show ", True), ("submit -- ls ", False), ("run ls --colu", False), ("ls --colu", True)):
        command = [fish, "--no-config", "-c", asked % line]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        assert any(found in done.stdout for found in ("1234\n", "--columns")) is offered, line


@pytest.fixture
def home(gpuctl, tmp_path):
    """Return a home without anything, and the environment of who lives there, with a gpuctl on the PATH."""
    folder = tmp_path / "home"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "gpuctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpuctl "$@"\n')
    program.chmod(0o755)
    (folder / ".config" / "fish").mkdir(parents=True)
    (folder / ".config" / "fish" / "config.fish").write_text("function fish_prompt; echo 'ready> '; end\n")
    dropped = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR", "BASH_COMPLETION_USER_DIR", "ENV")
    kept = {key: value for key, value in gpuctl.environ.items() if key not in dropped}
    gpuctl.environ = kept | {"HOME": str(folder), "PATH": f"{folder}/bin:{kept['PATH']}", "TERM": "dumb"}
    return folder


def typed(gpuctl, shell: str, keys: str, until: str) -> str:
    """Type keys into a shell on a terminal, at its prompt; return what it wrote, once that holds what is waited for."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen(
        ["setsid", "--ctty", shell, "-i"],
        env=gpuctl.environ,
        cwd=gpuctl.directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = "", time.monotonic() + 60
    try:
        for what, wanted in (("", "ready> "), (keys, until)):
            os.write(ours, what.encode())
            while wanted not in seen:
                assert time.monotonic() < deadline, seen
                if select.select([ours], [], [], 1)[0]:
                    seen += os.read(ours, 65_536).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen


@pytest.mark.parametrize("shell", [name for name in ("bash", "zsh", "fish") if shutil.which(name)])
def test_exec_completes_the_job_and_then_a_command(gpuctl, home, shell):
    for file in (home / ".bashrc", home / ".zshrc"):
        file.write_text("PS1='ready> '\n")
    gpuctl.ok("completion", "install", shell)
    job = gpuctl.ok("submit", "-g", "0", "-n", "runs", "--", "sleep", "600")
    until(lambda: gpuctl.json("show", job)["state"] == "running")
    (home / "bin" / "unheard-of").symlink_to("gpuctl")
    found = f"it is gpuctl exec {job} unheard-of"
    typed(gpuctl, shell, "gpuctl exec \tunheard-o\t\x01echo it is \r", found)
    typed(gpuctl, shell, "gpuctl run -- unheard-o\t\x01echo it is \r", "it is gpuctl run -- unheard-of")
    typed(gpuctl, shell, "gpuctl signal \tSTO\t\x01echo it is \r", f"it is gpuctl signal {job} STOP")


@pytest.mark.parametrize("shell", [name for name in ("bash", "zsh", "fish") if shutil.which(name)])
def test_installed_by_one_command_a_shell_completes_commands_jobs_and_groups(gpuctl, home, shell):
    gpuctl.ok("submit", "--hold", "--group", "my $(touch run)", "--", "true")
    startup = [home / ".bashrc", home / ".zshrc"]
    for file in startup:
        file.write_text("PS1='ready> '\n")

    said = gpuctl.ok("completion", "install", shell, "--json")
    assert json.loads(said)["shell"] == shell
    assert json.loads(gpuctl.ok("completion", "install", shell, "--json"))["done"] == []
    # TAB is pressed for the command, the one job, an option and its value; then echo is put before the line.
    found = f"it is gpuctl release 1 --group{'=' if shell == 'zsh' else ' '}my $(touch run)"
    typed(gpuctl, shell, "gpuctl rele\t\t--gro\tmy\t\x01echo it is \r", found)
    assert not (gpuctl.directory / "run").exists()
    typed(gpuctl, shell, "gpuctl cancel 1,\t\x01echo it is \r", "it is gpuctl cancel 1,1")
    typed(gpuctl, shell, "gpuctl list --columns id,subm\t\x01echo it is \r", "list --columns id,submitted")
    script = "it is gpuctl submit --group=my $(touch run) lies-here.sh"
    (gpuctl.directory / "lies-here.sh").touch()
    typed(gpuctl, shell, "gpuctl submit --group=m\tlies-h\t\x01echo it is \r", script)

    removed = json.loads(gpuctl.ok("completion", "install", shell, "--uninstall", "--json"))["done"]
    assert removed
    assert {file.read_text() for file in startup} == {"PS1='ready> '\n"}
    assert not [path for path in home.rglob("*gpuctl*") if path.parent.name != "bin"]
