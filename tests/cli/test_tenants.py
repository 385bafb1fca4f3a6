"""`gpuctl tenant` and `gpuctl reserve`: what they print, and how they exit."""

import os
import pwd
import re
import time
from datetime import datetime

import pytest

ME = pwd.getpwuid(os.getuid()).pw_name
TENANT_KEYS = """
    name users groups guaranteed_gpus max_gpus max_running max_queued gpu_types gpu_hours window_s share boost gpus
    gpu_uuids borrow gpus_used gpus_borrowed running queued gpu_hours_used window_ends_at
"""
RESERVATION_KEYS = "reservation begins_at ends_at active gpus gpu_uuids users tenants reason by jobs"
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_a_tenant_is_made_shown_changed_and_deleted(gpuctl):
    gpuctl.ok("tenant", "create", "vision", "--user", ME, "--max-gpus", "1", "--gpu-hours", "500", "--window", "30d")
    assert [line.split() for line in gpuctl.ok("tenant", "list").splitlines()] == [
        ["TENANT", "GPUS", "RUNNING", "QUEUED", "GPU-HOURS", "SHARE", "MEMBERS"],
        ["vision", "0/1", "0", "0", "0/500", "1", ME],
    ]

    gpuctl.ok("tenant", "set", "vision", "--max-gpus", "none", "--share", "3", "--gpus", "0", "--no-borrow")
    shown = gpuctl.ok("tenant", "show", "vision")
    assert re.search(r"^own GPUs +\S+:0$", shown, re.MULTILINE)
    assert re.search(r"^GPU-hours +0/500 in 30d, anew in (30d|29d23h)$", shown, re.MULTILINE)
    tenant = gpuctl.json("tenant", "show", "vision")
    assert tenant.keys() == set(TENANT_KEYS.split())
    assert (tenant["max_gpus"], tenant["share"], tenant["borrow"], tenant["gpu_hours"]) == (None, 3.0, False, 500.0)
    assert RFC_3339.fullmatch(tenant["window_ends_at"])

    gpuctl.ok("tenant", "delete", "vision")
    assert gpuctl.json("tenant", "list") == []


def test_without_tenants_the_list_says_what_that_means(gpuctl):
    done = gpuctl("tenant", "list")

    assert (done.returncode, done.stdout) == (0, "")
    assert "everybody shares everything" in done.stderr


def test_what_a_change_makes_of_a_tenant_is_its_json(gpuctl):
    made = gpuctl.json("tenant", "create", "vision", "--gpu-type", "RTX", "--gpu-type", "4090", "--boost", "-5")
    assert (made["gpu_types"], made["boost"]) == (["RTX", "4090"], -5)

    changed = gpuctl.json("tenant", "set", "vision", "--user", ME, "--gpu-type", "none")
    assert (changed["gpu_types"], changed["users"]) == ([], [ME])
    assert gpuctl.json("tenant", "set", "vision", "--remove-user", ME)["users"] == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("tenant", "show", "vision"), 3, "there is no tenant 'vision'"),
        (("tenant", "set", "vision", "--max-gpus", "1"), 3, "there is no tenant 'vision'"),
        (("tenant", "delete", "vision"), 3, "there is no tenant 'vision'"),
        (("tenant", "create", "vision", "--max-gpus", "many"), 2, "'many' is not a whole number"),
        (("tenant", "create", "vision", "--gpu-hours", "-1"), 2, "'-1' is not a number of GPU-hours"),
        (("tenant", "create", "vision", "--gpus", "9"), 3, "there is no GPU named '9'"),
        (("tenant", "create", "vision", "--gpu-type", "H2000"), 2, "no GPU here is of type 'H2000'"),
        (("reserve", "all"), 2, "Missing option '--to'"),
        (("reserve", "9", "--to", "1h"), 3, "there is no GPU named '9'"),
        (("reserve", "all", "--to", "1h", "--for", "nobody-here"), 3, "there is no tenant and no user 'nobody-here'"),
        (("reserve", "all", "--from", "2h", "--to", "1h"), 2, "must end after it begins"),
        (("reserve", "delete", "9"), 3, "there is no reservation 9"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_status(gpuctl, words, status, said):
    done = gpuctl(*words)

    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_another_window_begins_with_no_hours_used_and_that_is_said(gpuctl):
    gpuctl.ok("tenant", "create", "vision", "--gpu-hours", "5", "--window", "2d")
    anew = "a window of that length has begun now: 0 GPU-hours are used of it"

    assert anew in gpuctl("tenant", "set", "vision", "--window", "1d").stderr
    assert anew not in gpuctl("tenant", "set", "vision", "--window", "1d", "--share", "2").stderr
    assert anew not in gpuctl("tenant", "set", "vision", "--share", "3").stderr


def test_a_reservation_is_told_in_the_same_words_as_it_is_listed(gpuctl):
    for number, (begin, end) in enumerate((("900.4s", "1800.6s"), ("950.6s", "1850.4s")), 1):
        said = gpuctl("reserve", "0", "--from", begin, "--to", end).stderr
        heading, *rows = gpuctl.ok("reserve", "list").splitlines()
        listed = next(row for row in rows if row.startswith(f"{number} "))
        first, last = listed[heading.index("FROM") : heading.index("GPUS")].rstrip().split("  ")
        assert f"reservation {number}, {first} to {last};" in said


def test_gpus_are_reserved_shown_as_such_and_given_back(gpuctl):
    gpuctl.ok("tenant", "create", "vision")
    gpuctl.ok("reserve", "0,1", "--from", "1h", "--to", "3h", "--for", "vision", "--for", ME, "--reason", "deadline")
    assert "reservation 2, now to " in gpuctl("reserve", "create", "1", "--to", "2h").stderr

    heading, now, later = gpuctl.ok("reserve", "list").splitlines()
    assert heading.split()[:5] == ["ID", "FROM", "TO", "GPUS", "FOR"]
    assert now.startswith("2 ")
    assert now.endswith("nobody")
    assert re.search(rf":0,1 +vision, {ME} +deadline$", later)
    first, second = gpuctl.json("reserve", "list")
    assert first.keys() == set(RESERVATION_KEYS.split())
    assert (first["active"], second["active"], second["by"]) == (True, False, ME)
    kept = r"for reservation 1 in (1h|59m\d+s); for reservation 2 for (2h|1h59m)$"
    assert re.search(kept, gpuctl.ok("gpus").splitlines()[2])

    gpuctl.ok("reserve", "delete", "2")
    assert [each["reservation"] for each in gpuctl.json("reserve", "list")] == [1]


def test_a_reservation_over_midnight_ends_the_next_morning(gpuctl):
    now = time.time()
    gpuctl.ok("reserve", "0", "--to", clock(now + 2 * 3600), "--from", clock(now + 20 * 3600))
    gpuctl.ok("reserve", "0", "--from", "now", "--to", "1h")

    first, second = gpuctl.json("reserve", "list")
    assert first["active"] is True
    assert 5 * 3600 < moment(second["ends_at"]) - moment(second["begins_at"]) < 7 * 3600


def clock(at):
    return time.strftime("%H:%M", time.localtime(at))


def moment(text):
    return datetime.fromisoformat(text).timestamp()


def test_the_tenant_of_everybody_else_says_so_and_small_hours_are_shown(gpuctl):
    gpuctl.ok("tenant", "create", "default")
    assert gpuctl.ended("-g", "1", "--", "sleep", "0.5")["state"] == "completed"

    shown = gpuctl.ok("tenant", "show", "default")
    assert re.search(r"^members +everybody else$", shown, re.MULTILINE)
    assert re.search(r"^GPU-hours +0\.00\d+ in", shown, re.MULTILINE)


def test_who_would_run_into_a_reservation_is_told_so(gpuctl):
    gpuctl.ok("reserve", "all", "--from", "1h", "--to", "2h")
    job = gpuctl.ok("submit", "-t", "2h", "--", "true")

    why = gpuctl.ok("why", job)
    assert re.search(r"would run into reservation 1, which begins in (1h|59m\d+s), for 1h$", why, re.MULTILINE)
    assert "--time-limit" in why
    assert gpuctl.ended("-g", "1", "-t", "10m", "--", "true")["state"] == "completed"
