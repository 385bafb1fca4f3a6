"""How things look to people, and to programs."""

import json
from typing import Any

from gpuctl.render import gpus as render_gpus
from gpuctl.render.jobs import killed_by, rows, where, whole, written_end, written_id
from gpuctl.render.plain import to_json
from gpuctl.render.text import NO_LIMIT, Column, cell_len, clean, clock, cut, table

NOW = 1_000_000.0


def a_job(**facts: Any) -> dict[str, Any]:
    job: dict[str, Any] = {
        "id": "12",
        "uid": 1000,
        "name": "train",
        "user": "ada",
        "labels": {},
        "state": "queued",
        "reason": "waits for 2 GPUs: 1 of 4 that suit are free",
        "priority": 0,
        "command": ["python", "train.py", "a b"],
        "workdir": "/home/ada",
        "gpus": 2,
        "gpu_memory_mib": None,
        "gpu_type": None,
        "cpus": 0,
        "memory_mib": None,
        "array_index": None,
        "attempt": 1,
        "retries": 0,
        "time_limit_s": None,
        "submitted_at": NOW - 60,
        "started_at": None,
        "ended_at": None,
        "expected_start_at": None,
        "exit_code": None,
        "signal": None,
        "allocation": [],
        "output": None,
        "error": None,
    }
    return job | facts


def test_an_attempt_says_how_it_ended_and_why_it_was_stopped():
    ended = {"attempt": 1, "started_at": NOW - 90, "ended_at": NOW - 20, "signal": 15, "stop_cause": "preempted"}
    saved = {"attempt": 2, "started_at": NOW - 20, "ended_at": NOW - 10, "exit_code": 75, "timed_out": True}
    last = {"attempt": 3, "started_at": NOW - 10, "ended_at": None}
    job = a_running_job(attempt=3, workdir="/", labels={})
    lines = whole({"job": job, "attempts": [ended, saved, last], "events": []}, now=NOW)
    ends = ["killed by SIGTERM; preempted", "exit 75; timed out", "running"]
    assert [line.split("  ")[-1] for line in lines[-3:]] == ends


def a_running_job(**facts: Any) -> dict[str, Any]:
    place = [{"node": "box", "gpu_indices": [0, 1]}]
    return a_job(state="running", reason=None, started_at=NOW - 5, allocation=place, **facts)


def a_gpu(**facts: Any) -> dict[str, Any]:
    gpu: dict[str, Any] = {
        "index": 0,
        "node": "box",
        "name": "NVIDIA H100 80GB HBM3",
        "state": "free",
        "memory_used_mib": 4,
        "memory_total_mib": 81559,
        "utilization_percent": 0,
        "temperature_c": 33,
        "power_w": 70.4,
        "health_reason": None,
        "simulated": False,
        "jobs": [],
        "processes": [],
    }
    return gpu | facts


def test_a_waiting_job_shows_why_and_a_running_one_where():
    heading, waiting, running = rows([a_job(), a_running_job(id="13", priority=5)], now=NOW)
    assert heading.split() == ["ID", "STATE", "NAME", "GPUS", "PRIO", "TIME", "WHERE", "OR", "WHY"]
    assert waiting.split("  ")[-1] == "waits for 2 GPUs: 1 of 4 that suit are free"
    assert running.split() == ["13", "\x1b[32mrunning\x1b[0m", "train", "2", "5", "5s", "box:0,1"]


def test_neighbours_are_written_as_a_range():
    place = [{"node": "box", "gpu_indices": [0, 1, 2, 3, 6, 7, None]}, {"node": "other", "gpu_indices": []}]
    assert where(a_job(allocation=place)) == "box:0-3,6,7,? other"


def test_users_are_shown_where_there_are_several():
    assert "USER" not in rows([a_job(), a_job()], now=NOW)[0]
    assert "USER" in rows([a_job(), a_job(user="bob")], now=NOW)[0]


def test_an_array_s_row_says_what_has_not_started():
    assert written_id(a_job(array="0-9", array_pending="3-9")) == "12_[3-9]"
    assert written_id(a_job(array="0-9", array_pending="")) == "12"


def test_long_names_give_way_so_that_a_row_fits_80_columns():
    long = a_job(id="1234567_[0-99999]", name="n" * 70, reason="r" * 200, user="somebody-with-a-name", priority=100)
    lines = rows([long, a_job()], now=NOW, width=80)
    assert max(len(line) for line in lines) <= 80
    assert "…" in lines[1]


def test_an_array_of_which_many_elements_are_left_takes_nothing_from_the_other_jobs():
    left = ",".join(map(str, range(0, 600, 3)))
    array, short = a_job(id="2", array="0-599", array_pending=left), a_job(id="1234567_[3-99999]", reason="no GPU")
    heading, first, second = rows([array, short], now=NOW, width=80)
    assert heading.split()[:3] == ["ID", "STATE", "NAME"]
    assert (first[:13], "…  queued" in first) == ("2_[0,3,6,9,12", True)
    assert (second.split()[:2], second[-6:]) == (["1234567_[3-99999]", short["state"]], "no GPU")
    assert f"2_[{left}]" in rows([array, short], now=NOW)[1]


def test_without_a_terminal_nothing_is_cut():
    assert "r" * 200 in rows([a_job(reason="r" * 200)], now=NOW)[1]


def test_what_users_chose_cannot_move_the_cursor():
    assert clean("a\x1b[2J\r\nb\udcff\u202e") == "a\\x1b[2J\\r\\nb\\xff\\u202e"
    assert "\x1b[2J" not in "\n".join(rows([a_job(name="\x1b[2J")], now=NOW))


def test_columns_stand_under_each_other_in_any_script():
    lines = table([Column("A"), Column("B")], [["漢字", "x"], ["abcd", "x"], ["é", "x"]], width=80)
    assert {cell_len(line) for line in lines} == {7}
    assert cut("漢字漢字", 5) == "漢字…"


def test_everything_about_a_job():
    job = a_running_job(labels={"a": "b"}, gpu_memory_mib=24576, gpu_type="RTX", retries=1, time_limit_s=7200.0)
    lines = whole({"job": job, "attempts": [], "events": [], "environment": ["PATH", "HOME"]}, now=NOW)
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}
    assert lines[0] == "job 12 train: \x1b[32mrunning\x1b[0m"
    assert facts["command"] == "python train.py 'a b'"
    assert facts["demand"] == "2 GPUs (24G each, RTX), at most 2h, 1 retry"
    assert facts["labels"] == "a=b"
    assert facts["on"] == "box:0,1"
    assert "PATH" not in "".join(lines)


def test_a_command_of_several_lines_is_shown_in_lines_and_who_is_stopped_is_told_how_to_go_on():
    job = a_running_job(command=["bash", "-c", "cd here\n\techo \x1b[31m"])
    lines = whole({"job": job, "attempts": [], "events": [], "stopped": True}, now=NOW)
    at = next(at for at, line in enumerate(lines) if line.startswith("  command"))
    assert lines[at : at + 2] == ["  command    bash -c 'cd here", f"{'':13}        echo \\x1b[31m'"]
    assert "  stopped    by a signal; it goes on with: gpuctl signal 12 CONT" in lines


def test_a_signal_is_written_by_its_name():
    cancelled = {"state": "cancelled", "reason": None, "signal": 15, "started_at": NOW - 60, "ended_at": NOW}
    assert written_end(a_job(**cancelled)) == "job 12 cancelled: killed by SIGTERM"
    assert killed_by(99) == "killed by signal 99"


def test_gpus_say_what_is_unknown_and_who_is_on_them():
    foreign = a_gpu(index=1, state="foreign", health_reason="used by bob jupyter (pid 7)", utilization_percent=None)
    busy = a_gpu(index=2, state="busy", jobs=["12"], simulated=True)
    _, free, taken, simulated = render_gpus.rows([a_gpu(), foreign, busy], width=200)
    assert free.split() == ["0", "H100", "80GB", "HBM3", "\x1b[32mfree\x1b[0m", "4M/79.6G", "0%", "33C", "70W"]
    assert "used by bob jupyter (pid 7)" in taken
    assert " - " in taken
    assert "(simulated)" in simulated
    assert "job 12" in simulated


def test_a_stranger_is_told_beside_the_job_whose_gpu_it_is_and_what_is_wrong_with_that():
    eve = {"pid": 7, "user": "eve", "command": "python", "memory_mib": 3000, "kind": "compute", "job": None}
    server = eve | {"command": "nvidia-cuda-mps-server", "since": None}  # what is harmless is not seen as a stranger
    busy = a_gpu(state="busy", health="healthy", jobs=["12"], processes=[server, eve | {"since": NOW}])
    capped = {"level": "degraded", "since": NOW, "reason": "its power is limited", "clears": "nvidia-smi -pl"}
    slow = busy | {"health": "degraded", "health_reason": capped["reason"], "faults": [capped]}

    assert [render_gpus.on_it(gpu) for gpu in (busy, slow, a_gpu(processes=[server]))] == [
        "job 12; foreign: eve python 2.9G",
        "job 12; its power is limited; foreign: eve python 2.9G",
        "",
    ]
    assert ["foreign: eve" in line for line in render_gpus.health([busy | {"faults": []}, slow])[1:]] == [
        True,
        False,
        True,
    ]


def test_what_a_person_drained_is_told_beside_what_is_wrong_with_it():
    fault = {"level": "draining", "since": NOW, "reason": "XID 48", "clears": "a reset"}
    wrong = a_gpu(state="busy", health="draining", health_reason="XID 48", faults=[fault])
    both = wrong | {"health_reason": "fan"}
    drained = both | {"faults": []}

    assert [line.split()[1:2] + line.split()[-2:] for line in render_gpus.health([wrong])[1:]] == [
        ["draining", "a", "reset"]
    ]
    assert ["fan" in line and "gpuctl undrain" in line for line in render_gpus.health([both])[1:]] == [True, False]
    assert ["fan" in line and "gpuctl undrain" in line for line in render_gpus.health([drained])[1:]] == [True]
    split = wrong | {"state": "split", "uuid": "GPU-1"}
    part = wrong | {"uuid": "MIG-1", "parent": "GPU-1", "faults": []}
    assert "undrain" not in "".join(render_gpus.health([split, part]))


def test_a_gpu_that_is_gone_is_named_by_what_undrain_takes():
    gone = a_gpu(index=None, uuid="GPU-1a2b3c4d-0000-0000-0000-000000000000", state="lost")
    assert render_gpus.rows([gone], width=200)[1].split()[0] == "GPU-1a2b3c4d"


def test_gpus_of_several_nodes_are_named_by_their_node():
    assert render_gpus.rows([a_gpu(), a_gpu(node="other")])[1].startswith("box:0")


def test_times_in_json_are_rfc_3339_in_utc_to_the_millisecond():
    document = [
        {
            "submitted_at": 0.0004,
            "ended_at": 1777638605.9996,
            "started_at": None,
            "at": 1,
            "nested": {"x_at": 2, "since": 3},
        }
    ]
    assert json.loads(to_json(document)) == [
        {
            "submitted_at": "1970-01-01T00:00:00.000Z",
            "ended_at": "2026-05-01T12:30:06.000Z",
            "started_at": None,
            "at": "1970-01-01T00:00:01.000Z",
            "nested": {"x_at": "1970-01-01T00:00:02.000Z", "since": "1970-01-01T00:00:03.000Z"},
        }
    ]


def test_json_holds_names_that_are_no_utf_8():
    assert to_json({"name": "\udcff"}) == '{"name": "\\udcff"}'


def test_a_table_on_a_narrow_terminal_keeps_what_matters_most():
    columns = [Column("ID"), Column("HEAT", spare=True), Column("LOAD", spare=True), Column("WHY", elastic=True)]
    rows = [["1", "hot", "full", "a very long reason"]]
    assert table(columns, rows, width=80)[1].split() == ["1", "hot", "full", "a", "very", "long", "reason"]
    assert table(columns, rows, width=18) == ["ID  HEAT  WHY", "1   hot   a very…"]
    assert table(columns, rows, width=12)[0] == "ID  WHY"
    assert all(len(line) <= 5 for line in table(columns, rows, width=5))


def test_a_moment_a_microsecond_before_the_hour_is_the_hour():
    at = 1_900_000_000 // 3600 * 3600
    assert clock(at - 1e-6) == clock(at)
    assert clock(at - 0.5) != clock(at)


def test_a_terminal_with_room_shows_what_jobs_of_one_name_run():
    jobs = [a_job(id=seed, command=["python", "train.py", "--seed", seed, "x" * 99]) for seed in ("1", "2")]
    heading, first, second = rows(jobs, now=NOW, width=120)
    assert heading.endswith("COMMAND")
    assert first[heading.index("COMMAND") :].startswith("python train.py --seed 1 xxx")
    assert second[heading.index("COMMAND") :].startswith("python train.py --seed 2 xxx")
    assert max(map(cell_len, (first, second))) <= 120
    plain = rows(jobs, now=NOW, width=NO_LIMIT)
    assert rows(jobs, now=NOW, width=max(map(cell_len, plain)) + 9) == plain
    assert "COMMAND" not in rows(jobs[:1], now=NOW, width=120)[0]
