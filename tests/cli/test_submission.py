"""What submit makes of a command line, before anything is asked of gpud."""

import os
import resource
from pathlib import Path
from typing import Any

import click
import pytest

from gpuctl import session
from gpuctl.commands.submit import submit
from gpuctl.errors import GpuctlError, UsageError
from gpuctl.submitting import places, submission

WITHOUT_IT = "without it, the job cannot start"


def request_of(*words: str) -> dict[str, Any]:
    context = submit.make_context("submit", list(words))
    return submission.fields(context.params, literal=context.meta["gpuctl.literal"])


def hint_of(*words: str) -> str:
    with pytest.raises(UsageError) as refused:
        request_of(*words)
    return f"{refused.value.message} {refused.value.hint}"


@pytest.fixture(autouse=True)
def nothing_was_said_yet():
    session.note_once.cache_clear()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    return tmp_path


def test_a_job_takes_everything_of_the_shell_along(here, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    os.umask(umask := os.umask(0))

    request = request_of("--", "true")

    assert request["demand"] == {"gpus": 1}
    assert request["workdir"] == str(here)
    assert request["environment"] == dict(os.environ)
    assert request["umask"] == umask
    assert request["limits"]["NOFILE"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))


def test_what_was_not_asked_is_not_sent():
    asked = {"demand", "command", "workdir", "environment", "umask", "limits"}
    assert request_of("-C", "/", "--", "true").keys() == asked


def test_where_the_file_system_of_a_directory_is_mounted_is_sent_along():
    own = Path("/proc/self/ns/mnt").stat().st_ino
    assert {request_of("-C", f"/proc/{place}", "--", "true")["mount"] for place in ("", "1", "gone/too")} == {
        f"{own} /proc"
    }
    assert "mount" not in request_of("-C", "/gone/too", "--", "true")


def test_every_option_arrives(here):
    words = "-g 2 --gpu-memory 24G --gpu-type RTX4090 --cpus 8 --memory 64G -p -3 -n name -t 1h --retries 2"
    more = "--array 0-9%2 --hold --label a=b -e X=1 -C sub -o out-%j --error err --grace 0 --begin 2100-01-01T00:00Z"

    request = request_of(*words.split(), *more.split(), "prog", "-g", "7")

    assert request["command"] == ["prog", "-g", "7"]
    assert request["demand"] == {
        "gpus": 2,
        "gpu_memory_mib": 24 * 1024,
        "gpu_type": "RTX4090",
        "cpus": 8,
        "memory_mib": 64 * 1024,
    }
    assert request["environment"]["X"] == "1"
    assert request["environment"]["PWD"] == f"{here}/sub"
    del request["environment"], request["limits"], request["demand"], request["command"], request["umask"]
    request.pop("mount", None)  # of where the tests are, which may be a file system of its own
    assert request == {
        "workdir": f"{here}/sub",
        "priority": -3,
        "name": "name",
        "time_limit_s": 3600.0,
        "retries": 2,
        "array": "0-9%2",
        "hold": True,
        "labels": {"a": "b"},
        "output": f"{here}/sub/out-%j",
        "error": f"{here}/sub/err",
        "grace_s": 0.0,
        "begin_at": 4_102_444_800.0,
    }


def test_gpus_that_are_named_are_as_many_as_their_names():
    assert request_of("--gpu-ids", "0,2", "true")["demand"] == {"gpus": 2, "gpu_ids": ["0", "2"]}
    assert request_of("--gpu-ids", "0-1,n1:2-3", "true")["demand"] == {"gpus": 4, "gpu_ids": ["0", "1", "n1:2", "n1:3"]}
    assert request_of("--gpu-ids", "0", "--gpu-ids", "2", "true")["demand"] == {"gpus": 2, "gpu_ids": ["0", "2"]}
    assert "names no GPU" in hint_of("--gpu-ids", "0,,2", "true")


@pytest.mark.parametrize(
    ("words", "demand"),
    [
        ("--gpus-per-node 4", {"gpus": 4}),
        ("--nodes 2 --gpus-per-node 8", {"gpus": 16, "nodes": 2}),
        ("-g 16 --gpus-per-node 8", {"gpus": 16, "nodes": 2}),
        ("-g 16 --nodes 2", {"gpus": 16, "nodes": 2}),
        ("--nodes 2", {"gpus": 2, "nodes": 2}),
        ("-g 0 --nodes 2", {"gpus": 0, "nodes": 2}),
        ("-g 0.25", {"gpus": 1, "share_permille": 250}),
        ("-g .5 --gpu-memory 24G", {"gpus": 1, "share_permille": 500, "gpu_memory_mib": 24 * 1024}),
        ("-g 2.0", {"gpus": 2}),
        ("--share --gpu-memory 8G", {"gpus": 1, "share_mib": 8192}),
        ("-g 2 --share --gpu-memory 8G", {"gpus": 2, "share_mib": 8192}),
        ("-g 2 --mig 2g.10gb", {"gpus": 2, "mig": "2g.10gb"}),
        ("--gpu-type A100|H100", {"gpus": 1, "gpu_type": "A100|H100"}),
        ("--not-gpu 0 --not-gpu b:1 --not-node c", {"gpus": 1, "excluded_gpus": ["0", "b:1"], "excluded_nodes": ["c"]}),
        ("--node-label rack=b2 --node-label net=ib", {"gpus": 1, "node_labels": {"rack": "b2", "net": "ib"}}),
        ("--pool debug --spread", {"gpus": 1, "pool": "debug", "spread": True}),
        ("--pack", {"gpus": 1}),
    ],
)
def test_what_is_asked_for_is_what_is_sent(words, demand):
    assert request_of(*words.split(), "true")["demand"] == demand


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("-g 2 --gpus-per-node 4", "leave --gpus out"),
        ("-g 16 --nodes 2 --gpus-per-node 4", "leave --gpus out"),
        ("-g 3 --nodes 2", "--gpus-per-node"),
        ("--share", "--share --gpu-memory 8G; or a part: --gpus 0.25"),
        ("--share --mig 1g.5gb --gpu-memory 8G", "leave --share out, or --mig"),
        ("-g 0.5 --nodes 2", "leave --nodes"),
        ("--retry-on oom", "--retries 3"),
        ("--not-node ,", "gpuctl nodes"),
        ("-t 1h --checkpoint-signal USR1@1h", "behind the @"),
    ],
)
def test_what_does_not_go_together_gets_a_hint(words, hint):
    assert hint in hint_of(*words.split(), "true")


def test_what_it_comes_after_how_it_is_tried_again_and_how_long_it_runs():
    words = "--after 12,13_2 --after any:14-16 --after failed:3 --retries 2 --retry-on oom,exit:75 --retry-on lost"
    request = request_of(*words.split(), "--estimate", "2h", "--no-preemptible", "--tenant", "lab", "true")
    assert request["after"] == {"success": ["12", "13_2"], "any": ["14-16"], "failed": ["3"]}
    assert request["retry_on"] == ["oom", "exit:75", "lost"]
    assert request["estimate_s"] == 7200.0
    assert request["preemptible"] is False
    assert request["tenant"] == "lab"


def test_a_link_s_name_for_the_directory_is_kept(here, monkeypatch):
    (here / "real").mkdir()
    (here / "link").symlink_to("real")
    monkeypatch.chdir(here / "link")
    monkeypatch.setenv("PWD", str(here / "link"))
    assert request_of("true")["workdir"] == str(here / "link")

    monkeypatch.setenv("PWD", "/")
    assert request_of("true")["workdir"] == str(here / "real")


def test_a_script_is_read_and_sent(here):
    (here / "job.sh").write_text("#!/bin/sh\necho\n")

    request = request_of("job.sh", "--flag")

    assert request["command"] == [f"{here}/job.sh", "--flag"]
    assert request["script"] == b"#!/bin/sh\necho\n"


def test_a_program_of_the_path_is_no_script(here, monkeypatch):
    script = here / "tool"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(here))
    assert "script" not in request_of("tool")
    assert "script" in request_of("./tool")


def test_after_two_dashes_words_are_taken_as_they_are(here):
    (here / "job.sh").write_text("#!/bin/sh\n")
    for word in ("job.sh", "a && b", "train.py"):
        request = request_of("-g", "0", "--", word)
        assert request["command"] == [word]
        assert "script" not in request


def test_a_python_file_without_its_first_line_gets_the_command_to_write(here):
    (here / "train.py").write_text("print()\n")
    assert "gpuctl submit -- python train.py --lr 1" in hint_of("train.py", "--lr", "1")
    (here / "train.py").chmod(0o755)
    assert "gpuctl submit -- python ./train.py" in hint_of("./train.py")
    assert "gpuctl submit -- python train.py" in hint_of("train.py")


def test_a_program_without_a_first_line_is_a_program(here):
    (here / "prog").write_bytes(b"\x7fELF")
    (here / "prog").chmod(0o755)
    assert "script" not in request_of("./prog")


def test_a_line_for_a_shell_gets_the_command_to_write():
    assert "gpuctl submit -- bash -c 'a && b'" in hint_of("a && b")
    assert "without a shell" in hint_of("python train.py")


def test_nothing_to_run_is_refused():
    assert "nothing to run" in hint_of()
    assert "nothing to run" in hint_of("--")
    assert "empty" in hint_of("--", "")
    assert "empty" in hint_of(" ")


def test_a_script_that_cannot_be_read_is_refused_with_the_reason():
    with pytest.raises(GpuctlError, match="cannot read the script /proc/self/mem: Input/output error"):
        request_of("/proc/self/mem")  # regular, and unreadable even to root


def test_a_script_that_is_too_large_is_refused(here):
    (here / "big.sh").write_bytes(b"#!/bin/sh\n" + b"#" * places.SCRIPT_MAX)
    assert "larger than 4 MiB" in hint_of("big.sh")


@pytest.mark.parametrize(
    ("word", "here_that_is"),
    [
        ("--gres=gpu:1", "--gpus"),
        ("--wrap=true", "-- bash -c COMMAND"),
        ("-W", "gpuctl run"),
        ("--delay=1h", "--begin"),
    ],
)
def test_what_others_call_it_is_told_what_it_is_here(word, here_that_is):
    with pytest.raises(click.UsageError, match=f"here that is: {here_that_is}"):
        request_of(word, "true")


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_a_script_that_is_piped_in_is_read_and_sent(capfd, word):
    gets, puts = os.pipe()
    kept = os.dup(0)
    os.dup2(gets, 0)
    try:
        os.write(puts, b"#!/bin/sh\n#GPUCTL -g 2\n")
        assert "script that is piped in: gpuctl submit -" in hint_of("-g", "1")
        os.close(puts)
        request = request_of(word, "x")
        assert "/dev/stdin is neither a program nor a script" in hint_of(word)  # it has been read
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(gets)
    assert (request["command"], request["script"]) == (["/dev/stdin", "x"], b"#!/bin/sh\n#GPUCTL -g 2\n")
    assert request["demand"] == {"gpus": 2}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "sought"),
    [
        ("#!/usr/bin/env python3\nimport model, os\n", "(model)"),
        ("#!/usr/bin/python3\nfrom lab.nets import Net\nimport wandb\n", "(lab)"),  # wandb/ is where that puts its runs
        ("#!/usr/bin/python3\nimport os; here = os.path.dirname(__file__)\n", "(__file__)"),
        ("#!/usr/bin/python3\nimport os\n", ""),
        ('#!/bin/bash\ncd "$(dirname "$0")"\n', "($0)"),
        ("#!/bin/bash\ncd ${0%/*}\n", "($0)"),
        ('#!/bin/bash\nDIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\n', "($BASH_SOURCE)"),
        ('#!/bin/bash\n#SBATCH -G 1\ncd "$(dirname "$0")"\n', ""),
        ('#!/bin/bash\necho "usage: $0"; dirname "$1"\n', ""),
    ],
)
def test_a_script_that_looks_for_files_beside_itself_is_told_that_a_copy_runs(
    here, capsys, monkeypatch, script, sought
):
    monkeypatch.setenv("PYTHONPATH", "/lib")
    (here / "model.py").touch()
    (here / "lab").mkdir()
    (here / "lab" / "nets.py").touch()
    (here / "wandb").mkdir()
    (here / "run").write_text(script)
    (here / "run").chmod(0o755)
    request_of("-g", "1", "run")
    told = capsys.readouterr().err
    assert (sought in told, bool(told)) == (True, bool(sought))
    assert not told or told.endswith("gpuctl submit -- ./run\n")
    session.note_once.cache_clear()
    monkeypatch.setenv("PYTHONPATH", f"/lib:{here}")
    request_of("run")
    assert "(model)" not in capsys.readouterr().err
    assert "script" not in request_of("--", "./run")
    assert capsys.readouterr().err == ""


def test_an_option_behind_the_command_is_its_own_and_that_is_said(capsys):
    assert request_of("python3", "train.py", "-g", "2")["demand"] == {"gpus": 1}
    assert "-g stands behind the command" in capsys.readouterr().err
    request_of("python3", "train.py", "--array=1-2")
    assert "--array stands behind the command" in capsys.readouterr().err
    request_of("-g", "2", "--", "python3", "train.py", "--gpus", "2")
    request_of("-g", "2", "python3")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sh", "-c", "CUDA_VISIBLE_DEVICES=0 true"), "CUDA_VISIBLE_DEVICES=0 may be GPUs of other jobs"),
        (("env", "CUDA_VISIBLE_DEVICES=1,2", "true"), "CUDA_VISIBLE_DEVICES=1,2 may be GPUs of other jobs"),
        (("env", "docker", "run", "--rm", "--gpus", "all", "image"), "docker run --gpus all takes those of other jobs"),
        (("env", "torchrun", "--master_port=29501", "x.py"), "--master_port=29501: of two jobs at once"),
        (("env", "train", "--gpus", "all", "--port", "80"), ""),
        (("env", "CUDA_VISIBLE_DEVICES=", "true"), ""),
    ],
)
def test_a_command_that_takes_gpus_of_others_or_their_port_is_told(capsys, words, said):
    request_of("--", *words)
    told = capsys.readouterr().err
    assert (said in told, bool(told)) == (True, bool(said))


def test_a_time_limit_of_hours_and_minutes_says_so_for_sbatch_reads_it_otherwise(here, capsys):
    assert request_of("-t", "30:00", "true")["time_limit_s"] == 30 * 3600
    assert "30:00 are hours and minutes; for minutes and seconds write 30m\n" in capsys.readouterr().err
    (here / "job.sh").write_text("#!/bin/sh\n#GPUCTL -t 1:05\n#SBATCH -t 30:00\ntrue\n")
    assert request_of("./job.sh")["time_limit_s"] == 3900
    assert "1:05 are hours and minutes; for minutes and seconds write 1m5s\n" in capsys.readouterr().err
    (here / "job.sh").write_text("#!/bin/sh\n#SBATCH -t 30:00\ntrue\n")
    assert request_of("-t", "30m", "true")["time_limit_s"] == request_of("./job.sh")["time_limit_s"] == 1800
    assert capsys.readouterr().err == ""


def test_a_directory_that_is_not_there_is_told_and_one_is_no_program(here, capsys):
    request_of("-o", "%x/out", "--error", "err", "-C", ".", "true")
    assert capsys.readouterr().err == ""
    request_of("-o", "logs/out", "-C", "gone", "true")
    told = capsys.readouterr().err
    assert [f"no directory {here}/{name} now" in told for name in ("gone", "gone/logs", "logs")] == [True, True, False]
    assert "is a directory" in hint_of(str(here))


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["true"], ""),
        (["pyhton", "train.py"], "pyhton"),
        (["--", "./here/not"], "./here/not"),
        (["-C", "/bin", "--", "./true"], ""),
        (["-e", "PATH=tools", "--", "true"], "true"),
        (["-e", "PATH=tools", "--", "made"], ""),
    ],
)
def test_a_program_that_is_not_there_when_the_job_looks_for_it_is_told(here, capsys, words, missing):
    (here / "tools").mkdir()
    (here / "tools/made").touch(mode=0o700)
    places.expect_program(request_of(*words))
    assert capsys.readouterr().err == (missing and f"gpuctl: there is no program {missing} now; {WITHOUT_IT}\n")


@pytest.mark.parametrize(
    ("first", "missing"),
    [
        ("#!/no/csh -f", "/no/csh"),
        ("#! /usr/bin/env nopython", "nopython"),
        ("#!/usr/bin/env -S nopython -u", ""),
        ("#!/bin/sh", ""),
    ],
)
def test_an_interpreter_that_is_not_there_is_told(here, capsys, first, missing):
    (here / "job.csh").write_text(f"{first}\ntrue\n")
    places.expect_program(request_of("job.csh"))
    said = missing and f"gpuctl: there is no program {missing} now, which {here}/job.csh names in its first line"
    assert capsys.readouterr().err.rpartition(":")[0] == said
    (here / "job.csh").write_bytes(b"#!/bin/sh\r\ntrue\r\n")
    places.expect_program(request_of("job.csh"))
    assert f"{here}/job.csh has Windows line ends" in capsys.readouterr().err


def test_a_script_whose_own_options_a_shell_does_not_read_is_told(here, capsys):
    (here / "job.sbatch").write_text("#!/bin/sh\n#SBATCH -G 1\n")
    assert "script" not in request_of("bash", "job.sbatch", "x")
    assert "the #SBATCH lines of job.sbatch are not read behind bash" in capsys.readouterr().err
    request_of("--", "bash", "job.sbatch")
    request_of("bash", "-c", "true")
    assert capsys.readouterr().err == ""


def test_a_shell_that_would_read_its_stdin_is_told_that_a_job_has_none(capsys):
    places.expect_program(request_of("-g", "1", "--", "bash"))
    assert "bash alone reads what to do from its stdin, and has none in a job: gpuctl run --pty bash" in (
        capsys.readouterr().err
    )
    places.expect_program(request_of("bash", "-c", "true"))
    places.expect_program(request_of("python3") | {"terminal": [80, 24]})
    assert capsys.readouterr().err == ""


def test_a_directory_may_be_named_where_the_current_one_is_gone(here):
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    (here / "gone").rmdir()
    assert request_of("-C", str(here), "true")["workdir"] == str(here)
    assert "the current directory is gone" in hint_of("-C", "..", "true")


def test_a_variable_in_front_of_the_command_is_told_how_it_is_said(capsys):
    places.expect_program(request_of("SEED=1", "python", "train.py"))
    assert "a variable of the job is -e SEED=1" in capsys.readouterr().err


def test_a_percent_sign_of_the_directory_is_no_pattern_of_the_output(here):
    (here / "top5%a").mkdir()
    request = request_of("-C", "top5%a", "-o", "%j.out", "--error", "/tmp/%j.err", "true")
    assert (request["output"], request["error"]) == (f"{here}/top5%%a/%j.out", "/tmp/%j.err")


@pytest.mark.parametrize("path", ["", "logs/"])
def test_an_output_that_is_no_file_is_refused(path):
    assert "names no file" in hint_of("-o", path, "true")


@pytest.mark.parametrize(
    "words",
    [
        ["-g", "-1"],
        ["-g", "99999999999999999999"],
        ["--gpu-memory", "5 apples"],
        ["--memory", "-5G"],
        ["-t", "0"],
        ["-t", "soon"],
        ["--cpus", "0"],
        ["--label", "x"],
        ["-p", "1.5"],
        ["--begin", "whenever"],
        ["--begin", "yesterday"],
        ["-g", "1.5"],
        ["-g", "0.x"],
        ["--after", "any:"],
        ["--after", "sometimes:12"],
        ["--retry-on", "bad-luck"],
        ["--node-label", "rack"],
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_with_the_option_s_name(words):
    with pytest.raises(click.BadParameter) as refused:
        request_of(*words, "true")
    assert words[0] in refused.value.format_message()


def test_positions_in_words():
    said = [submission.ordinal(number) for number in (1, 3, 10, 11, 12, 13, 21, 22, 101, 111)]
    assert said == ["first", "third", "tenth", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]
    assert submission.next_words("17", {"position": 3, "reason": None}) == "job 17: third in line"
    assert submission.next_words("17", {"position": None, "reason": None}) == "job 17: starts now"
