"""In system mode gpud and its launcher are root: no path that a user chose gets that user more than their own rights.

Each test is an attack by ada on what is bob's or root's, by paths that she chooses and directories that she has.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon.test_many_users import ADA, BOB, System, being
from gpud_process import ENDS, ROOT, until

from gpuctl.dashboard.tail import tail
from gpuctl.errors import RefusedError

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root becomes other users"),
    pytest.mark.xdist_group("path_attacks"),
]
SECRET = "bob's own: CUDA out of memory\n"  # noqa: S105 - to be looked for
MARK = "written-by-ada"


@pytest.fixture(scope="module")
def system():
    """Start a gpud for every user; ada and bob have had a job each, so that their directories are there."""
    system = System.made('simulate = "2xRTX4090"\n')
    system.start()
    for uid in (ADA, BOB):
        assert system.ended(system.submitted(uid, "true"))["state"] == "completed"
    yield system
    system.gone()


@pytest.fixture
def bobs(system, tmp_path_factory):
    """Give a file of bob's that nobody else may read or write, in a directory that all may enter."""
    place = system.work / f"bob-{tmp_path_factory.mktemp('x').name}"
    place.mkdir(mode=0o755)
    file = place / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    for path in (file, place):
        os.chown(path, BOB, BOB)
    yield file
    assert file.read_text() == SECRET
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (BOB, 0o600)


def attacked(system, prepare, *command, **fields):
    """Submit a job of ada's, let her `prepare` its way as its id tells, let it go, and return its end."""
    words = command or ("sh", "-c", f"echo {MARK}")
    job = system.submitted(ADA, *words, hold=True, **fields)
    with being(ADA):
        prepare(job)
    system.ask("release", select={"jobs": [job]})
    return system.ended(job)


def own(system, kind, job):
    """Return where ada's log or script of a job will be."""
    return system.state / kind / str(ADA) / (f"{job}.1.log" if kind == "logs" else f"{job}.1")


@pytest.mark.parametrize("made", [os.symlink, os.link], ids=["symbolic link", "hard link"])
def test_a_log_that_leads_to_anothers_file_is_not_opened(system, bobs, made):
    def prepare(job):
        os.seteuid(0)  # who may make hard links to others' files depends on the kernel (fs.protected_hardlinks)
        made(bobs, own(system, "logs", job))
        os.seteuid(ADA)

    ended = attacked(system, prepare)

    assert ended["state"] == "failed"
    assert "cannot open the log" in ended["reason"]
    assert "Permission denied" in ended["reason"]


def test_a_log_that_is_swapped_while_the_job_runs_tells_nothing_of_anothers_file(system, bobs):
    shell = f"cd {system.state}/logs/{ADA} && rm $GPUD_JOB_ID.1.log && ln -s {bobs} $GPUD_JOB_ID.1.log; exit 3"

    ended = attacked(system, lambda _: None, "sh", "-c", shell)

    assert ended["exit_code"] == 3
    assert "memory" not in ended["reason"]


def test_root_who_looks_at_a_log_reads_what_its_user_could_and_no_more(system, bobs):
    own_log, leads = system.work / "adas.log", f"rm adas.log; ln -s {bobs} adas.log"
    for shell, shown in ((f"echo {MARK}; exit 3", MARK), (f"echo {MARK}; {leads}; exit 3", None)):
        ended = attacked(system, lambda _: None, "sh", "-c", shell, output=str(own_log), workdir=str(system.work))
        assert ended["exit_code"] == 3
        for words in (("show",), ("logs",), ("logs", "-f"), ("logs", "-n", "5"), ("--json", "logs", "-n", "5")):
            told = printed(system, *words, ended["id"], check=False)
            assert SECRET.strip() not in told, words
            assert shown is None or shown in told, words
        assert tail(str(own_log), owner=ADA).lines == (() if shown is None else (shown,))


def test_root_who_looks_at_notices_reads_no_more_of_their_logs_than_their_user_could(system, bobs):
    system.ended(system.submitted(ADA, "true", notify=[["end", "command:echo said-by-ada; exit 1"]]))
    notice = until(lambda: next((each for each in system.ask("notices")["notices"] if each["error"]), None))
    log = Path(notice["log"])
    assert log.exists()
    for make in (lambda: log.symlink_to(bobs), lambda: os.mkfifo(log)):
        with being(ADA):
            log.unlink()
            make()
        told = printed(system, "notify", "log")
        assert SECRET.strip() not in told
        assert "said-by-ada" not in told.replace("command:echo said-by-ada", "")
        assert str(notice["number"]) in told


def test_a_chosen_output_gets_no_further_than_its_user(system, bobs):
    for path in (
        str(bobs),
        f"{bobs.parent}/new",
        "/etc/gpud-test",
        *(f"{system.state}/{name}" for name in ("records/x", "gpud.db")),
    ):
        for field in ("output", "error"):
            ended = attacked(system, lambda _: None, **{field: path})
            assert ended["state"] == "failed", (path, ended)
            assert "cannot open the log" in ended["reason"]
    assert not os.path.lexists("/etc/gpud-test")


def test_a_directory_that_is_swapped_between_submit_and_start_leads_nowhere(system, bobs):
    with being(ADA):
        place = system.work / "adas"
        place.mkdir(mode=0o755)

    def prepare(_):
        place.rename(system.work / "adas-old")
        place.symlink_to(bobs.parent)

    ended = attacked(system, prepare, output=f"{place}/secret", workdir=str(place))
    assert ended["state"] == "failed"
    assert "Permission denied" in ended["reason"]
    for kind in ("logs", "scripts"):
        mine = system.state / kind / str(ADA)
        with being(ADA), pytest.raises(PermissionError):  # nor can what is gpud's be swapped
            mine.rename(system.state / kind / "mine")
        with being(ADA), pytest.raises(PermissionError):
            (system.state / kind / str(BOB)).rename(mine)


def test_a_scripts_copy_follows_no_link_and_removes_nothing_of_anothers(system, bobs):
    script = {"script": f"#!/bin/sh\necho {MARK}\n".encode()}

    def prepare(job):
        own(system, "scripts", job).symlink_to(bobs)

    ended = attacked(system, prepare, "job.sh", **script)
    assert ended["state"] == "failed"
    assert "cannot keep a copy of the script" in ended["reason"]

    theirs = system.work / "adas-own"  # ... and not her own file either: it is no place for a script
    with being(ADA):
        theirs.write_text("hers")
    attacked(system, lambda job: own(system, "scripts", job).symlink_to(theirs), "job.sh", **script)
    assert theirs.read_text() == "hers"


def test_a_fifo_holds_up_neither_a_start_nor_gpud(system):
    def prepare(job):
        os.mkfifo(own(system, "logs", job))

    ended = attacked(system, prepare)

    assert (ended["state"], ended["exit_code"]) == ("failed", None)
    assert "cannot open the log" in ended["reason"]


def test_what_the_launcher_has_open_is_not_reached_through_proc(system):
    before = (system.state / "launcher.log").stat().st_size
    words = ("sh", "-c", f"echo {MARK}")
    paths = ["/proc/self/fd/%a", "/proc/thread-self/fd/%a", "/dev/fd/%a"]
    arrays = [system.submitted(ADA, *words, array="0-15", output=path) for path in paths]
    others = [
        f"/proc/{system.pid}/fd/3",
        "/proc/self/mem",
        "/proc/self/root/etc/gpud-test",
        "/proc/self/oom_score_adj/x",
    ]
    singles = [system.submitted(ADA, *words, output=path) for path in others]
    for job in (*arrays, *singles):
        assert system.ended(job)["state"] in ENDS

    assert (system.state / "launcher.log").stat().st_size == before
    assert not os.path.lexists("/etc/gpud-test")
    for path in system.state.rglob("*"):
        if path.is_file() and path.parent.name not in {str(ADA), "backups"} and not path.name.startswith("gpud.db"):
            assert MARK.encode() not in path.read_bytes(), path
    assert system.ended(system.submitted(BOB, "true"))["state"] == "completed"


def test_names_that_are_too_long_are_refused_or_fail_their_own_job(system):
    for fields in ({"name": "x" * 10_000}, {"output": "/" + "x" * 10_000}, {"labels": {"x" * 10_000: "y"}}):
        with pytest.raises(RefusedError):
            system.submitted(ADA, "true", **fields)
    for fields in ({"output": "x" * 4_000}, {"output": "%x/" * 1_300}, {"workdir": "/" + "x" * 10_000}):
        ended = system.ended(system.submitted(ADA, "true", **fields))
        assert (ended["state"], ended["exit_code"]) == ("failed", None), ended
    command = "x" * 10_000
    assert system.ended(system.submitted(ADA, command))["state"] == "failed"


def test_nothing_that_a_user_chose_moves_the_cursor_of_who_looks(system):
    evil = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31mroot\u202e"
    for fields in ({"name": evil}, {"group": evil}, {"key": evil}, {"labels": {"k": evil}}):
        with pytest.raises(RefusedError):
            system.submitted(ADA, "true", **fields)
    jobs = [
        system.submitted(ADA, evil, evil),
        system.submitted(ADA, "true", workdir=f"/{evil}"),
        system.submitted(ADA, "true", output=f"/{evil}"),
        system.submitted(ADA, "sh", "-c", "exit 3", env={evil: evil}, name="a\u2028b\u202e", group="a\u2028b\u202e"),
    ]
    for job in jobs:
        system.ended(job)
    raw = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")
    looks = [("list", "--all"), ("events",), ("why",), ("status",), *(("show", job) for job in jobs)]
    looks += [("logs", jobs[2]), ("completion", "ids"), ("completion", "groups")]
    assert "\\x1b[2J" in printed(system, "show", jobs[0])
    for words in looks:  # as root, who sees all of it
        told = printed(system, *words, check=words[0] != "logs")
        assert not raw.search(told.replace("\t", " ") if words[0] == "completion" else told), words
    assert printed(system, "show", *jobs, "--csv").count("\n") == 1 + len(jobs)  # a line each
    assert not raw.search(system.said().replace("\t", ""))


def printed(system, *words, check=True):
    """Return what gpuctl prints."""
    environment = {**os.environ, "GPUD_SOCKET": system.socket, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "gpuctl", *words]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=check, timeout=60)
    return done.stdout + done.stderr
