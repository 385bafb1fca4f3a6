"""Words of the command line: what is understood, and that nothing else is."""

import time
from pathlib import Path

import pytest

from gpuctl.errors import UsageError
from gpuctl.parse import (
    gpus_meant,
    parse_count,
    parse_job,
    parse_jobs,
    parse_label,
    parse_positive,
    parse_priority,
    parse_retries,
    parse_time,
    variables,
)

NOON = time.mktime((2026, 5, 1, 12, 0, 0, 0, 0, -1))
HOUR = 3600


@pytest.mark.parametrize("word", ["12", "12_7", "12_3-9", "12_[3-9]", "12_[1,3-5:2]", "3-9"])
def test_ids_are_taken_as_gpud_takes_them(word):
    assert parse_jobs(word) == word


@pytest.mark.parametrize(
    "word", ["", "x", "-5", "12_", "_7", "12_[3", "1-2-3", "3-", "1,", "1,x", "12_x", "\uff11\uff12", "--all"]
)
def test_what_is_no_id_is_refused_with_an_example(word):
    with pytest.raises(ValueError, match="write 12"):
        parse_jobs(word)


def test_gpus_are_named_by_lists_and_ranges():
    assert gpus_meant(["0-2,5", "n1:0-1", "n2:3", "GPU-12-34", "n1-2", "all"]) == [
        *("0", "1", "2", "5", "n1:0", "n1:1", "n2:3", "GPU-12-34", "n1-2", "all")
    ]
    for wrong in ("2-0", "0-99999"):
        with pytest.raises(UsageError, match="no range"):
            gpus_meant([wrong])


def test_one_job_is_not_a_range():
    assert parse_job("12_7") == "12_7"
    with pytest.raises(ValueError, match="12_7 for an array's element"):
        parse_job("3-9")


@pytest.mark.parametrize(("word", "count"), [("0", 0), ("8", 8), ("1000000", 1_000_000)])
def test_counts(word, count):
    assert parse_count(word) == count


@pytest.mark.parametrize("word", ["-1", "1.5", "", "two", "1000001", "9" * 4400, "\u0663"])
def test_negative_and_absurd_counts_are_refused(word):
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        parse_count(word)


@pytest.mark.parametrize(("word", "value"), [("5", 5), ("-5", -5), ("+5", 5), ("0", 0)])
def test_priorities_may_be_negative(word, value):
    assert parse_priority(word) == value


@pytest.mark.parametrize("word", ["", "-", "high", "1e9", "9999999"])
def test_what_is_no_priority_is_refused(word):
    with pytest.raises(ValueError, match="whole number"):
        parse_priority(word)


@pytest.mark.parametrize(
    ("word", "away"),
    [
        ("2h", 2 * HOUR),
        ("+2h", 2 * HOUR),
        ("now+90", 90),
        ("18:30", 6.5 * HOUR),
        ("11:00", 23 * HOUR),
        ("2026-05-01T13:00", HOUR),
        ("2026-05-02", 12 * HOUR),
        ("tomorrow", 12 * HOUR),
        ("tomorrow 9:00", 21 * HOUR),
        ("today 13:00:01", HOUR + 1),
    ],
)
def test_a_moment_to_come(word, away):
    assert parse_time(word, now=NOON) == NOON + away


@pytest.mark.parametrize(
    ("word", "ago"), [("2h", 2 * HOUR), ("yesterday 13:00", 23 * HOUR), ("11:00", HOUR), ("13:00", 23 * HOUR)]
)
def test_a_moment_that_was(word, ago):
    assert parse_time(word, past=True, now=NOON) == NOON - ago


@pytest.mark.parametrize(
    ("day", "word", "hours"), [((3, 28), "09:00", 20), ((10, 24), "09:00", 22), ((3, 29), "13:00", -22)]
)
def test_an_hour_of_a_day_whose_clocks_are_set_otherwise_than_today_s_is_that_day_s(monkeypatch, day, word, hours):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        noon = time.mktime((2026, *day, 12, 0, 0, 0, 0, -1))
        assert parse_time(word, past=hours < 0, now=noon) == noon + hours * HOUR
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_moment_with_a_zone_is_that_zone_s():
    assert parse_time("1970-01-02T00:00:00+00:00") == 86_400


@pytest.mark.parametrize(
    "word", ["", "soon", "25:00", "12:99", "2026-13-01", "99999-01-01", "tomorrow x", "tomorrows", "todayx 9:00"]
)
def test_what_is_no_moment_is_refused(word):
    with pytest.raises(ValueError, match="no time"):
        parse_time(word)


def test_labels_have_a_key_and_may_hold_anything_else():
    assert parse_label("run=a=b") == ("run", "a=b")
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_label("run")


def test_variables_come_from_a_file_and_then_from_the_words(tmp_path: Path, monkeypatch):
    file = tmp_path / "env"
    file.write_text("# of the team\n\nexport A=1\nB='two words'\nC=x\nHERE\n")
    monkeypatch.setenv("HERE", "here")

    assert variables(("C=3",), str(file)) == {"A": "1", "B": "two words", "C": "3", "HERE": "here"}


@pytest.mark.parametrize("word", ["=1", "NOT_SET_HERE", "A=\0", "BAD NAME=1"])
def test_what_is_no_variable_is_refused(word):
    with pytest.raises(UsageError):
        variables((word,), None)


def test_a_file_for_errors_as_sbatch_has_it_is_told_its_option():
    with pytest.raises(UsageError) as refused:
        variables(("logs/%j.err",), None)
    assert refused.value.hint == "for errors in a file write --error logs/%j.err"


@pytest.mark.parametrize(
    ("line", "said"),
    [("BAD NAME=1", "'BAD NAME=1' names no variable"), ("NOT_SET_HERE", "NOT_SET_HERE is not set here")],
)
def test_a_mistake_in_an_env_file_is_told_with_its_line(tmp_path: Path, line, said):
    file = tmp_path / "env"
    file.write_text(f"A=1\n\n{line}\n")
    with pytest.raises(UsageError, match=f"{file}, line 3: .*{said}"):
        variables((), str(file))


def test_counts_say_their_own_limits():
    with pytest.raises(ValueError, match="1 or more"):
        parse_positive("-1")
    with pytest.raises(ValueError, match="at most 1000"):
        parse_retries("1001")


def test_an_env_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="/no/such/file"):
        variables((), "/no/such/file")


def test_an_env_file_without_an_end_is_refused():
    with pytest.raises(UsageError, match="/dev/zero has more than 4 MiB"):
        variables((), "/dev/zero")
