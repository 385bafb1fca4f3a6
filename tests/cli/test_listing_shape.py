"""`--columns`, `--format` and `--sort`; colours and the pager: what a listing looks like is its reader's choice."""

import os
import pty
import re
import subprocess
import sys

import pytest

from gpuctl.errors import UsageError
from gpuctl.render import fields
from gpuctl.session import color_wanted

JOBS = [
    {"id": "12_10", "state": "running", "gpus": 2, "labels": {}, "name": "a\tb", "ended_at": None},
    {"id": "12_9", "state": "failed", "gpus": 0.5, "labels": {"k": "v"}, "name": "b", "ended_at": 0.0},
    {"id": "3", "state": "queued", "gpus": 1, "labels": {}, "name": "c", "ended_at": None},
]


def test_a_format_takes_any_key_of_the_json_and_a_line_is_a_job():
    lines = fields.formatted(r"{id}\t{state} {labels} {ended_at} {{{name}}}", JOBS, [])
    assert lines == [
        "12_10\trunning {} - {a\\tb}",
        '12_9\tfailed {"k": "v"} 1970-01-01T00:00:00.000Z {b}',
        "3\tqueued {} - {c}",
    ]


@pytest.mark.parametrize(
    ("template", "hint"), [("{stat}", "state"), ("{id", "{key}"), ("{}", "there is"), ("{id:>9}", "--columns id")]
)
def test_a_format_that_means_nothing_says_what_would(template, hint):
    with pytest.raises(UsageError) as error:
        fields.formatted(template, JOBS, [])
    assert hint in error.value.hint


@pytest.mark.parametrize("command", ["list", "gpus", "nodes"])
def test_the_example_of_a_format_is_one_that_works(gpuctl, command):
    (example,) = re.findall(r"A line each: '(.+)',", " ".join(gpuctl.ok(command, "--help").split()))
    gpuctl.ok(command, "--format", example)


def test_what_is_sorted_is_sorted_as_numbers_and_what_is_not_known_is_last():
    assert [job["id"] for job in fields.sorted_by(JOBS, "id")] == ["3", "12_9", "12_10"]
    assert [job["gpus"] for job in fields.sorted_by(JOBS, "-gpus")] == [2, 1, 0.5]
    assert next(job["id"] for job in fields.sorted_by(JOBS, "-ended_at")) == "12_9"


def test_colours_are_wanted_as_the_environment_says():
    assert color_wanted({"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm"}) is False
    assert color_wanted({"FORCE_COLOR": "1", "TERM": "dumb"}) is True
    assert color_wanted({"TERM": "dumb"}) is False
    assert color_wanted({"TERM": "xterm", "NO_COLOR": ""}) is None


def test_every_column_can_be_shown_of_jobs_gpus_and_nodes(gpuctl):
    held = gpuctl.ok("submit", "--hold", "--label", "k=v", "--group", "g", "--", "true")
    over = gpuctl.ended("--", "sh", "-c", "exit 3")["id"]

    heading, *rows = gpuctl.ok("list", "--columns", "id,state,group,exit,wait").splitlines()
    assert heading.split() == ["ID", "STATE", "GROUP", "EXIT", "WAITED"]
    assert [row.split()[:2] for row in rows] == [[held, "held"], [over, "failed"]]
    for command, known in (("list", fields.JOBS), ("gpus", fields.GPUS), ("nodes", fields.NODES)):
        every = gpuctl.ok(command, "--columns", ",".join(known))
        assert all(field.column.heading in every.splitlines()[0] for field in known.values())
    assert gpuctl.ok("list", "--sort=-id", "--format", "{id}={exit_code}") == f"{over}=3\n{held}=-"
    assert gpuctl.ok("gpus", "--format", "{index} {state}") == "0 free\n1 free"
    assert [job["id"] for job in gpuctl.json("list", "--sort=-id")] == [over, held]
    wrong = gpuctl("list", "--columns", "id,stat")
    assert (wrong.returncode, "state" in wrong.stderr) == (2, True)
    assert gpuctl("list", "--format", "{id}", "--columns", "id").returncode == 2
    assert gpuctl("list", "--format", "{id}", "--json").returncode == 2


def on_a_terminal(gpuctl, *words, **environ):
    """Return what gpuctl writes to a terminal of 24 lines."""
    ours, theirs = pty.openpty()
    dropped = ("NO_COLOR", "FORCE_COLOR", "LINES", "COLUMNS", "PAGER", "GPUD_PAGER", "LESS")
    kept = {key: value for key, value in gpuctl.environ.items() if key not in dropped}
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuctl", *words],
        env=kept | {"TERM": "xterm", "LINES": "24", "COLUMNS": "80"} | environ,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        cwd=gpuctl.directory,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(30) == 0
    return seen.decode()


def test_what_is_longer_than_the_terminal_goes_through_the_pager_and_colours_are_a_choice(gpuctl):
    gpuctl.ok("submit", "--array", "0-39", "--", "true")
    gpuctl.ok("wait", "1")
    pager = "sed s/^/paged:/"

    long = on_a_terminal(gpuctl, "list", "1", GPUD_PAGER=pager)
    assert long.count("paged:") == 41
    assert "\x1b[32m" in long
    assert "\x1b[" not in on_a_terminal(gpuctl, "list", "1", "--color", "never", GPUD_PAGER=pager)
    for words, environ in ((["--no-pager"], {"PAGER": pager}), ([], {"PAGER": pager, "GPUD_PAGER": ""})):
        whole = on_a_terminal(gpuctl, "list", "1", *words, **environ)
        assert (whole.count("completed"), whole.count("paged:")) == (40, 0)
    assert "paged" not in on_a_terminal(gpuctl, "list", "1_3", PAGER=pager)
    assert on_a_terminal(gpuctl, "list", "1", PAGER="no-such-pager").count("completed") == 40
    assert "\x1b[32m" in gpuctl.ok("list", "1_3", "--color", "always", environ={"NO_COLOR": "1"})
