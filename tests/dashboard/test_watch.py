"""`gpuctl watch` by its keys: what they show, and what they do to jobs."""

import signal
import time
from pathlib import Path

import pytest
from fakenvml.fixture import fake_gpu
from gpud_process import until
from onlooker import Watched

from gpuctl.dashboard.source import Query, Source
from gpuctl.render.jobs import ACTIVE

FRAME = b"\x1b[?2026h"
UP, DOWN, END, HOME, PAGE_UP = "\x1b[A", "\x1b[B", "\x1b[F", "\x1b[H", "\x1b[5~"
ESCAPE = "\x1b"


@pytest.fixture
def watched(busy):
    """Watch the busy machine, with three jobs that wait."""
    jobs = [busy.submit("echo", word, gpus=1, name=f"wait-{word}") for word in ("one", "two", "three")]
    with Watched(busy) as watched:
        watched.jobs = jobs
        watched.until("wait-three")
        yield watched
    busy.ask("cancel", select={"jobs": jobs})


def state(busy, job):
    return busy.job(job)["state"]


def test_gpus_and_jobs_are_shown_with_who_has_what(watched):
    lines = watched.text.split("\n")
    gpus = [line for line in lines if line[:1].isdigit()]
    assert [line.split()[0] for line in gpus] == ["0", "1", "2", "3"]
    assert sum("train-a" in line for line in gpus) == 2
    assert "0 of 4 GPUs free" in lines[0]
    assert "simulates 4xRTX4090" in lines[0]
    assert any("wait-one" in line and "waits for" in line for line in lines)


def test_tabs_show_what_they_are_named_for(watched):
    waiting = set(watched.jobs)
    watched.type("2")
    watched.until(lambda: "train-a" in watched.jobs_shown and not waiting & watched.ids)
    watched.type("3")
    watched.until(lambda: waiting <= watched.ids and "train-a" not in watched.jobs_shown)
    watched.type("\t")
    watched.until(lambda: not waiting & watched.ids and "train-a" not in watched.jobs_shown)
    watched.type("1")
    watched.until(lambda: waiting <= watched.ids and "train-a" in watched.jobs_shown)


def test_a_search_narrows_letter_by_letter_and_escape_shows_all_again(watched):
    watched.type("/WAIT tw")
    watched.until(lambda: "wait-two" in watched.text and "wait-one" not in watched.text)
    assert "search: WAIT tw" in watched.foot
    watched.type("\r")
    watched.until(lambda: "search:" not in watched.foot)
    assert "wait-one" not in watched.text
    watched.type(ESCAPE)
    watched.until("wait-one")
    watched.type("/neither\rc")
    watched.until("there is no job here")


def test_a_job_is_cancelled_only_after_a_yes(watched, busy):
    job = watched.jobs[1]
    watched.type("/wait-two\rc")
    watched.until(f"cancel job {job} (wait-two, ")
    watched.type("n")
    watched.until("nothing was done")
    assert state(busy, job) == "queued"
    watched.type("c")
    watched.until(f"cancel job {job}")
    watched.type("y")
    watched.until(f"cancelled {job}")
    assert state(busy, job) == "cancelled"


def test_what_is_pasted_is_no_command(watched, busy):
    watched.type("/wait-one\r")
    watched.until(lambda: "wait-two" not in watched.text)
    watched.type("\x1b[200~cyqcy\x1b[201~c")
    watched.until("cancel job")
    watched.type("\x1b[200~y\x1b[201~")
    watched.until("nothing was done")
    assert state(busy, watched.jobs[0]) == "queued"


def test_marked_jobs_are_held_and_released_together(watched, busy):
    watched.type("/wait-t\r")
    watched.until(lambda: "wait-one" not in watched.text)
    watched.type("  h")
    watched.until("hold 2 jobs (")
    watched.type("y")
    watched.until("held ")
    assert [state(busy, job) for job in watched.jobs] == ["queued", "held", "held"]
    watched.type(HOME + "  h")
    watched.until("release ")
    watched.type("y")
    watched.until("released ")
    until(lambda: "held" not in [state(busy, job) for job in watched.jobs])


def test_a_priority_is_asked_for_then_confirmed(watched, busy):
    watched.type("/wait-three\rp")
    watched.until("priority of job")
    watched.type("x\r")
    watched.until("is no priority")
    watched.type("p-3\r")
    watched.until(f"priority -3 for job {watched.jobs[2]}")
    watched.type("y")
    watched.until("set priority -3 of")
    assert busy.job(watched.jobs[2])["priority"] == -3


def test_what_gpud_refuses_is_said(watched, busy):
    watched.type("/wait-one\rh")
    watched.until("hold job")
    busy.ask("cancel", select={"jobs": [watched.jobs[0]]})
    watched.type("y")
    watched.until("has ended already")


def test_of_a_long_queue_the_next_in_line_are_shown(watched, busy):
    first, *_, last = watched.jobs
    busy.ask("priority", select={"jobs": [last]}, priority=9)
    assert [job["id"] for job in busy.ask("list", state=["queued"], limit=1)["jobs"]] == [last]
    assert {job["id"] for job in busy.ask("list", state=["queued", "held"], limit=2)["jobs"]} == {first, last}
    watched.type("3")
    watched.until(lambda: watched.jobs_shown.find(f"\n {last} ") < watched.jobs_shown.find(f"\n {first} ") > 0)


def test_of_those_that_wait_and_those_that_have_ended_all_are_counted(busy):
    jobs = [busy.submit("true", gpus=1) for _ in range(4)]
    busy.ask("cancel", select={"jobs": jobs[:2]})
    with busy.connect() as client:
        source = Source(client)
        source.look(Query(waiting=True, ended=True, mine=False, user=None, most=1, job=None), time.time())
    all_ = busy.ask("list", all=True)["jobs"]
    assert source.seen.more == len([job for job in all_ if job["state"] not in ACTIVE]) - 2
    busy.ask("cancel", select={"jobs": jobs})


def test_the_log_of_a_job_follows_stands_still_and_follows_again(busy):
    script = (
        "for n in $(seq 100); do echo old $n; done; until [ -e go ]; do sleep 0.05; done; echo brand-new; sleep 600"
    )
    job = busy.submit("sh", "-c", script, name="writes")
    busy.running(job)
    with Watched(busy) as watched:
        watched.until("writes")
        watched.type("/writes\r\r")
        watched.until("old 100")
        assert f"job {job} writes: running" in watched.text
        watched.type(PAGE_UP)
        watched.until("lines before its end")
        assert "old 100" not in watched.text
        (busy.work / "go").touch()
        until(lambda: "brand-new" in busy.output(job))
        watched.type(UP)
        watched.until(lambda: "old 99" not in watched.text)
        assert "brand-new" not in watched.text
        watched.type(END)
        watched.until("brand-new")
        watched.type(ESCAPE)
        watched.until("1 all")
    busy.ask("cancel", select={"jobs": [job]}, force=True)


def test_neither_many_events_nor_a_fast_log_draw_more_often_than_anybody_can_read(busy):
    job, waits = busy.submit("sleep", "600", name="chatty"), busy.submit("true", gpus=4)
    log = busy.running(job)["output"]
    with Watched(busy) as watched:
        watched.until("chatty")
        watched.type("/chatty\r\r")
        watched.until("log, ")
        began, frames = time.monotonic(), watched.sent.count(FRAME)
        for number in range(300):
            with Path(log).open("a") as file:
                file.write(f"line {number}\n")
            busy.ask("release" if number % 2 else "hold", select={"jobs": [waits]})
            watched.read(0.0)
        watched.until("line 299")
        drawn, took_s = watched.sent.count(FRAME) - frames, time.monotonic() - began
        assert drawn <= took_s * (1 / 0.2 + 1 / 0.5) + 3
    busy.ask("cancel", select={"jobs": [job, waits]}, force=True)


def test_names_and_logs_do_not_move_the_cursor_and_wide_ones_keep_the_columns(busy):
    job = busy.submit(
        "printf", "\\033[2J\\033]0;title\\007\\033[31mred\\033[0m\\n10%%\\r90%%\\n", gpus=0, name="数据\u202eba"
    )
    busy.ended(job)
    with Watched(busy) as watched:
        watched.until("train-b")
        watched.type("4/" + job + "\r")
        watched.until(lambda: "\\u202e" in watched.jobs_shown)
        line = next(line for line in watched.screen.display if "\\u202e" in line)
        heading = next(line for line in watched.screen.display if "WHERE OR WHY" in line)
        assert (
            line.index(" 0 ") + 1 == heading.index("GPUS") + 3 - 2
        )  # pyte gives a wide character two cells, one empty
        watched.type("\r")
        watched.until("\n90%")
        assert [line.rstrip() for line in watched.screen.display if line.startswith(("red", "90%"))] == ["red", "90%"]
        assert b"\x1b]0;" not in watched.sent


def test_help_tells_every_key_and_any_key_goes_back(watched):
    watched.type("?")
    watched.until("any key goes back")
    watched.type("q")  # by habit: it leaves the help, and watch only then
    watched.until("wait-one")


@pytest.mark.parametrize(
    ("leave", "status"),
    [("q", 0), ("\x03", 0), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)],
    ids=str,
)
def test_the_terminal_is_left_as_it_was(busy, leave, status):
    with Watched(busy) as watched:
        watched.until("train-b")
        if isinstance(leave, str):
            watched.type(leave)
        assert watched.end(None if isinstance(leave, str) else leave) == status
        assert watched.left_clean()


def test_a_gpud_that_cannot_be_reached_any_more_leaves_the_terminal_as_it_was_and_says_why(a_gpud):
    gpud = a_gpud()
    with Watched(gpud) as watched:
        watched.until("free")
        gpud.kill()
        watched.until("waiting for it to come back")
        assert "free" in watched.text
        gpud.start()
        watched.until(lambda: "waiting for it" not in watched.text)
        job = gpud.submit("sleep", "600", gpus=1, name="after-restart")
        watched.until("after-restart")
        gpud.ask("cancel", select={"jobs": [job]})
        watched.type("q")
        assert watched.end() == 0


def test_a_new_size_is_drawn_at_once(watched):
    watched.resize(60, 12)
    watched.until(lambda: "train-a" in watched.text and watched.foot.startswith("q quit"))
    watched.resize(3, 2)
    watched.until(lambda: watched.text.strip() != "")
    watched.resize(200, 50)
    watched.until(lambda: "COMMAND" in watched.text and "wait-three" in watched.jobs_shown)


def test_without_colour_there_is_none_and_with_eight_only_those(busy):
    for without in ({"NO_COLOR": "1"}, {"TERM": "vt220"}):
        with Watched(busy, **without) as watched:
            watched.until("train-b")
            assert not any(b"\x1b[%dm" % code in watched.sent for code in range(30, 38))
    with Watched(busy, TERM="xterm") as watched:
        watched.until("train-b")
        assert b"\x1b[32m" in watched.sent
        assert b"\x1b[38;" not in watched.sent
        assert not any(b"\x1b[%dm" % code in watched.sent for code in (*range(40, 50), *range(90, 108)))


def test_a_terminal_that_cannot_be_drawn_on_is_refused_with_what_to_do(busy):
    with Watched(busy, TERM="dumb") as watched:
        assert watched.end() == 2
        assert "gpuctl list" in watched.text
        assert b"\x1b[" not in watched.sent


def test_while_nothing_changes_nothing_is_written(a_gpud, fake_nvml):
    fake_nvml.write(fake_gpu(0))
    gpud = a_gpud("--nvml-library", fake_nvml.library, environment=fake_nvml.environment)
    with Watched(gpud, columns=60) as watched:  # too narrow for histories, which grow
        watched.until("20W")
        with gpud.connect() as other:
            other.request("subscribe", readings=True)
            frames = watched.sent.count(FRAME)
            for _ in range(3):
                assert other.pushed(wait=True)
                watched.read(0.5)
        assert watched.sent.count(FRAME) - frames <= 1  # a minute may have passed
