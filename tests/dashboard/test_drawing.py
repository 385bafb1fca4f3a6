"""The parts of the screen: gauges, colours, keys, the ends of logs, and lines that are sent once."""

import os

import pytest
from screens import NOW, a_board, colored, drawn, looked_at, running

from gpuctl.dashboard.gauges import BLOCKS, History, bar
from gpuctl.dashboard.keys import PASTE, Keys
from gpuctl.dashboard.paint import ansi
from gpuctl.dashboard.tail import tail


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(0.0, "····"), (0.001, "▏···"), (0.5, "██··"), (0.53, "██▏·"), (1.0, "████"), (1.7, "████"), (None, "    ")],
)
def test_a_bar_tells_nothing_from_little_and_unknown_from_both(share, drawn):
    assert bar(share, 4, BLOCKS) == drawn


def test_a_history_has_a_gap_where_nothing_was_read():
    history = History()
    for ago, value in ((60, 0), (55, 100), (30, 50), (1, 100)):
        history.add(value, NOW - ago)
    history.add(None, NOW)
    assert history.spark(8, 100, NOW - 1, BLOCKS) == "  ▅  ▅ █"


def test_keys_are_named_and_a_lone_escape_is_one():
    keys = Keys()
    assert keys.feed("jé\x1b[A\x1bOB\x1b[5~\x1b[1;5C\x1b[15~\r\x7f\x15".encode()) == [
        *("j", "é", "up", "down", "pgup", "right", "enter", "backspace", "ctrl-u")
    ]
    assert keys.feed(b"\x1b") == []
    assert keys.unfinished
    assert keys.feed(b"", final=True) == ["esc"]
    assert keys.feed(b"\x1b") + keys.feed(b"[B") == ["down"]
    assert keys.feed("é".encode()[:1]) + keys.feed("é".encode()[1:]) == ["é"]


def test_a_paste_is_one_key_however_slowly_it_arrives():
    keys = Keys()
    assert keys.feed(b"\x1b[200~c") == []
    assert not keys.unfinished
    assert keys.feed(b"y\n\x1b[201~q") == [f"{PASTE}cy\n", "q"]


def test_no_name_sends_anything_but_text_and_colours_of_ours():
    sent = "".join(colored(a_board(), 120, 40))
    for sequence in sent.split("\x1b[")[1:]:
        assert sequence[0] == "K" or sequence.partition("m")[0].replace(";", "").isdigit()
    assert "\\x1b[2J" in sent
    assert "\u202e" not in sent


def test_no_colour_is_the_only_carrier_of_meaning():
    bare = "".join(colored(a_board(), 120, 40, color=False))
    assert not any(f"\x1b[{code}m" in bare for code in range(30, 50))
    assert "foreign: eve" in bare
    assert "unhealthy" in bare


def test_a_line_that_fills_the_row_erases_nothing():
    assert ansi([("abcd", "")], 4, color=True) == "abcd"
    assert ansi([("数据", "")], 3, color=True) == "数…"
    assert ansi([("abc", "")], 4, color=True) == "abc\x1b[K"


def test_of_a_log_its_end_is_read_as_a_terminal_would_show_it(tmp_path):
    path = tmp_path / "log"
    assert tail(str(path)).problem == "log, not there yet"
    path.write_bytes(b"a\x1b[31mb\x1b[0m\n10%\r 90%\r\ntab\tbed\n\xff\nlast")
    read = tail(str(path))
    assert read.lines == ("ab", " 90%", "tab     bed", "\\xff", "last")
    assert tail(str(path), read) is read
    with path.open("ab") as log:
        log.truncate(1 << 40)  # as long as no memory is; nothing but its end is looked at
    assert len(tail(str(path)).lines) == 1
    os.truncate(path, 0)
    assert tail(str(path), read).problem == "log, empty as yet"
    os.mkfifo(tmp_path / "fifo")
    assert tail(str(tmp_path / "fifo")).problem == "log, no regular file"


def test_what_is_asked_for_grows_with_how_far_one_scrolls():
    board = a_board(tab="queued")
    few = board.query().most
    board.seen.waiting = board.seen.waiting * 20
    for at, job in enumerate(board.seen.waiting):
        board.seen.waiting[at] = job | {"id": str(1000 + at)}
    drawn(board, 80, 24)
    board.press("end")
    drawn(board, 80, 24)
    assert few <= 100 < board.query().most < 2_000
    board.seen.more = 1
    board.press("end")
    assert board.query().most == 2_000
    board.seen.waiting.append(board.seen.waiting[-1] | {"id": "5000"})
    board.seen.more = 0
    drawn(board, 80, 24)
    assert (board.cursor, board.last) == ("5000", False)
    board.press("up")
    drawn(board, 80, 24)
    assert board.at == len(board.seen.waiting) - 2


def test_when_a_running_job_ends_is_told_by_its_estimate_while_that_lasts_then_by_its_limit():
    board = a_board()
    job = board.seen.active[0]
    job |= {"progress": None, "started_at": NOW - 60, "estimate_s": 660, "time_limit_s": 7_260}
    assert any(" ~10m " in line for line in drawn(board, 80, 40))
    job["estimate_s"] = 60
    assert any(" ≤2h00 " in line for line in drawn(board, 80, 40))


def test_the_cursor_stays_where_it_is_when_its_job_ends():
    board = a_board()
    drawn(board, 80, 40)
    board.press("down")
    drawn(board, 80, 40)
    assert board.cursor == "13_7"
    ended = board.seen.active.pop()
    board.seen.ended.insert(0, ended | {"state": "completed", "ended_at": NOW})
    drawn(board, 80, 40)
    assert board.at == 1
    assert board.cursor == "50"


def test_who_has_not_moved_keeps_the_top_in_sight_when_new_jobs_come():
    board = a_board()
    active, board.seen.active, board.seen.waiting = board.seen.active, [], []
    drawn(board, 80, 24)
    assert board.cursor == board.seen.ended[0]["id"]
    board.seen.active = active * 10
    drawn(board, 80, 24)
    assert (board.top, board.cursor) == (0, active[0]["id"])


def test_every_line_of_the_help_has_room_in_eighty_columns():
    board = a_board()
    board.press("?")
    assert not [line for line in drawn(board, 80, 40) if line.endswith("…")]


def test_the_user_that_is_offered_goes_with_the_first_letter_typed():
    board = a_board()
    drawn(board, 80, 40)
    for key in ("u", "b", "o", "b", "enter"):
        board.press(key)
    assert board.user == "bob"
    board.press("u")
    board.press("enter")
    assert board.user == "bob"


def test_a_question_is_about_the_jobs_of_its_moment():
    board = a_board()
    drawn(board, 80, 40)
    assert board.press("c") is None
    assert "cancel job 12 (pretrain-llama, ada, running)?" in drawn(board, 120, 40)[-1]
    board.seen.active.clear()
    drawn(board, 80, 40)
    asked = board.press("f")
    assert (asked.op, asked.jobs, asked.more) == ("cancel", ("12",), {"force": True})


def test_a_question_leaves_room_for_its_answers_however_long_a_name_is():
    board = a_board()
    board.seen.active[0]["name"] = "语言模型" * 20
    drawn(board, 80, 24)
    board.press("c")
    assert drawn(board, 80, 24)[-1].startswith(" cancel job 12 (语")
    assert drawn(board, 80, 24)[-1].endswith("?  y: yes   f: kill at once   any other key: no")
    assert "?  y: yes" in drawn(board, 40, 10)[-1]


def test_of_a_job_all_its_gpus_are_shown_and_how_long_it_takes_still():
    shown = drawn(looked_at(a_board(), 12), 80, 24)
    assert [line[:1] for line in shown if " H100 " in line] == ["0", "1", "2", "3"]
    assert any(line.startswith("  progress") and "about 3h left" in line for line in shown)
    late = looked_at(a_board(), 12)
    late.seen.answer["job"]["progress"] |= {"ends_first": True}
    assert any("about 3h left, and its time limit" in line for line in drawn(late, 120, 24))


def test_what_has_no_log_has_the_whole_screen_for_what_is_known_of_it():
    board = looked_at(a_board(), 13)
    elements = [running(f"13_{n}", [n], name="sweep") for n in range(8)]
    board.seen.answer["elements"] = elements
    shown = drawn(board, 80, 30)
    assert sum(line.startswith("    13_") for line in shown) == len(elements)
    assert shown[-1].startswith(" Esc back")
    assert "an array: each of its elements has a log of its own" in shown
    assert "  ...  (all of it: gpuctl show)" in drawn(board, 80, 16)


def test_why_an_array_waits_has_room_however_many_elements_are_left():
    board = a_board()
    [array] = [job for job in board.rows() if job["id"] == "13"]
    array["array_pending"] = ",".join(map(str, range(8, 600, 3)))
    while board.cursor != "13":
        board.press("j")
    assert any("… sweep: 4 of its elements run" in line for line in drawn(board, 80, 40))


def test_a_log_that_is_scrolled_back_says_how_far_and_never_past_its_beginning():
    board = looked_at(a_board(), 12)
    drawn(board, 100, 30)
    board.press("home")
    shown = drawn(board, 100, 30)
    first = next(at for at, line in enumerate(shown) if line.startswith("step 0:"))
    assert shown[first + 1 : first + 3] == ["step 1: loss 0.500", "step 2: loss 0.333"]
    assert any("before its end" in line for line in shown)
    board.press("end")
    assert drawn(board, 100, 30)[-2].startswith("step 99:")
