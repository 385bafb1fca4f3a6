"""Files of jobs: what their lines mean, and a sweep that is submitted, looked at, mended and submitted again."""

import shlex
import time
from datetime import datetime

import pytest
from gpud_process import until

from gpuctl.errors import UsageError
from gpuctl.submitting import sweeps, sweeps_toml
from gpuctl.submitting.braces import expanded
from gpud.intake import submitting

SWEEP = """\
# every line is a job
-g 0 -n lr sh -c 'test $0 != 2' {1..3}  # one fails
-g 0 --label kind={a,b} -- true \\
    again
"""


def commands_of(text):
    return [words for _, words in sweeps_toml.jobs(text, "jobs.toml")]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("{a,b}", ["a", "b"]),
        ("x{1..3}y", ["x1y", "x2y", "x3y"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{,x}", ["", "x"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
        ("x{c..a}", ["xc", "xb", "xa"]),
        ("{A..B}", ["A", "B"]),
        ("{a..C}", ["{a..C}"]),
        ("{}", ["{}"]),
        ("{name}", ["{name}"]),
    ],
)
def test_braces_mean_what_they_do_in_bash(word, meant):
    assert [each for (each,) in expanded([word])] == meant


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("true # no", ["true"]),
        ("# nothing", []),
        ("curl http://x/#part", ["curl", "http://x/#part"]),
        ("echo 'a # b' \"c\"", ["echo", "a # b", "c"]),
        ("echo it\\'s", ["echo", "it's"]),
    ],
)
def test_a_line_has_the_words_that_a_shell_makes_of_it(line, words):
    assert sweeps.words_of(line) == words


def test_tables_are_the_same_options_by_name():
    text = """
        defaults = { gpus = 2, label = { kind = "x" } }
        [[job]]
        command = "python train.py --lr {lr} {a,b}"
        name = "lr-{lr}"
        hold = true
        env = { A = 1 }
        [job.grid]
        lr = [0.1, 0.01]
        [[job]]
        command = ["echo", "{a,b}"]
        gpus = 0
    """
    braces = "[[job]]\ncommand = ['awk', '{{print}} ${n} {n} {}']\n[job.grid]\nn = ['{print}']"
    assert commands_of(braces) == [["--", "awk", "{print} ${n} {print} {}"]]
    first, *rest = commands_of(text)
    assert first[:4] == ["--gpus", "2", "--label", "kind=x"]
    assert {*first[4:9]} == {"--name", "lr-0.1", "--hold", "--env", "A=1"}
    assert first[9:] == ["python", "train.py", "--lr", "0.1", "a"]
    assert [each[-2:] for each in rest] == [["0.1", "b"], ["0.01", "a"], ["0.01", "b"], ["echo", "{a,b}"]]
    assert rest[-1][:2] == ["--gpus", "0"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[[job]]\ncommand = 'a'\n\n[[job]]\ngpus = 1", "jobs.toml:4: a job without a command"),
        ("[[job]]\ncommand = 'a'\n[job.grid]\nlr = [1]", "jobs.toml:1: its grid has lr"),
        ("[[jobs]]\ncommand = 'a'", "jobs.toml: 'jobs' is not understood"),
        ("job = [3]", "jobs.toml: 'job' is not understood"),
        ("defaults = 3", "jobs.toml: 'defaults' is not understood"),
        ("[[job]]\ncommand = 'a {lr}'\ngrid = 3", "jobs.toml:1: its grid is no table"),
        ("[[job]]\ncommand = 'a {lr}'\ngrid.lr = []", "jobs.toml:1: its grid is no table"),
        ("[[job]]\ncommand = 'a {lr} {rl}'\n[job.grid]\nlr = [1]", "jobs.toml:1: {rl} is not in its grid"),
        ("[[job]]\ncommand = 'a ${lr}'\n[job.grid]\nlr = [1]", "jobs.toml:1: its grid has lr"),
        (
            f"[[job]]\ncommand = '{{a}}{{b}}'\n[job.grid]\na = {[0] * 400}\nb = {[0] * 400}",
            "jobs.toml:1: its grid makes 160",
        ),
        ("[[job]", "jobs.toml: "),
    ],
)
def test_what_is_wrong_in_a_table_is_told_with_its_line(text, where):
    with pytest.raises(UsageError) as told:
        commands_of(text)
    assert told.value.message.startswith(where)


def test_a_group_ends_with_the_last_of_it_and_nobody_knows_when_while_some_of_it_is_held(gpuctl):
    def left_s():
        (shown,) = gpuctl.json("group", "ends")
        return datetime.fromisoformat(shown["expected_end_at"]).timestamp() - time.time()

    gpuctl.ended("--group", "ends", "--", "true")
    long = gpuctl.ok("submit", "-g", "0", "--group", "ends", "--estimate", "2h", "--", "sleep", "600").strip()
    until(lambda: gpuctl.json("show", long)["state"] == "running")
    assert 7000 < left_s() < 7300, "it runs for longer than the one that completed"
    gpuctl.ok("submit", "-g", "0", "--group", "ends", "--begin", "5h", "--", "true")
    assert 17_800 < left_s() < 18_200
    gpuctl.ok("submit", "-g", "0", "--group", "ends", "--hold", "--", "true")
    (shown,) = gpuctl.json("group", "ends")
    assert shown["expected_end_at"] is None
    gpuctl.ok("cancel", "--group", "ends")


def test_a_sweep_is_submitted_mended_and_submitted_again(gpuctl):
    (gpuctl.directory / "sweep.txt").write_text(SWEEP)
    planned = gpuctl("submit", "-f", "sweep.txt", "--dry-run")
    assert planned.stdout.splitlines()[-1] == "--gpus 0 --label kind=b true again"
    assert "5 would be queued" in planned.stderr
    assert gpuctl.json("list", "--all") == []
    understood = gpuctl.json("submit", "-f", "sweep.txt", "--dry-run", "-t", "5m")
    assert {each["request"]["time_limit_s"] for each in understood} == {300.0}

    jobs = gpuctl.ok("submit", "-f", "sweep.txt", "--group", "s").splitlines()
    assert len(jobs) == 5
    assert gpuctl("wait", *jobs).returncode == 1
    (shown,) = gpuctl.json("group", "s")
    assert (shown["done"], shown["counts"], shown["failed"]) == (5, {"completed": 4, "failed": 1}, jobs[1])
    assert "5/5" in gpuctl.ok("group", "s")
    assert [job["labels"] for job in gpuctl.json("list", *jobs[3:])] == [{"kind": "a"}, {"kind": "b"}]

    again = gpuctl("submit", "-f", "-", "--group", "s", stdin=SWEEP)
    ids = again.stdout.splitlines()
    assert [*ids[:1], *ids[2:]] == [*jobs[:1], *jobs[2:]]
    assert ids[1] not in jobs
    assert "1 queued; already there: 4 completed" in again.stderr
    gpuctl("wait", "--group", "s")
    assert [job["id"] for job in gpuctl.json("list", "--group", "s", "--state", "failed")] == [jobs[1], ids[1]]


def test_what_a_file_says_that_is_not_meant_is_told(gpuctl):
    shell = gpuctl("submit", "-f", "-", "--dry-run", stdin="\ufeff-g 0 echo a > b\nsh -c 'echo a > b'\n")
    assert shell.stdout.splitlines()[0] == "--gpus 0 echo a '>' b"
    assert "stdin:1: > goes to the command as it is" in shell.stderr
    misspelt = gpuctl("submit", "-f", "-", "--dry-run", stdin="-g 0 pyhton {1..3}\ntrue\n")
    assert (misspelt.returncode, misspelt.stderr.count("there is no program")) == (0, 1)
    inside = gpuctl("submit", "-f", "-", stdin="true\n--dry-run true\n")
    assert (inside.returncode, "stdin:2: --dry-run is for all of the file" in inside.stderr) == (2, True)


def test_a_group_that_is_waited_for_too_late_says_how_it_ended_all_the_same(gpuctl):
    once = ("--group", "late", "--key", "k", "-g", "0", "--", "sh", "-c")
    gpuctl.ended(*once, "exit 3")
    late = gpuctl("wait", "--group", "late")
    assert (late.returncode, "1 of it did not complete" in late.stderr) == (3, True)
    gpuctl.ended(*once, "exit 0")  # of a key the newest counts
    assert gpuctl("wait", "--group", "late").returncode == 0
    missing = gpuctl("wait", "--group", "laet")
    assert (missing.returncode, "no group 'laet'" in missing.stderr) == (125, True)


def test_as_many_jobs_as_gpud_takes_are_sent_in_as_many_parts_as_it_takes():
    job = {"environment": {}, "umask": 0, "limits": {}, "command": ["true"]}
    sent = list(sweeps._parts([job] * submitting.MANY_MOST))
    assert len(sent) <= submitting.PARTS_MOST
    assert sum(len(part["jobs"]) for part in sent) == submitting.MANY_MOST


def test_who_waits_for_a_group_that_is_held_is_told_once(gpuctl):
    gpuctl.ok("submit", "-f", "-", "--group", "g", stdin="-g 0 --begin 1h echo {1,2}\n")
    with gpuctl.start("wait", "--group", "g") as waiting:
        gpuctl.ok("submit", "-f", "-", "--group", "g", stdin="-g 0 false {1..3}\n")
        held = "is held: group g had 3 failures in a row"
        assert any(held in line for line in iter(waiting.stderr.readline, ""))  # behind ends that it may have seen
        more = gpuctl("submit", "-f", "-", "--group", "g", stdin="-g 0 true {1,2}\n")
        assert more.stderr.startswith("gpuctl: 2 held")
        gpuctl.ok("cancel", "--group", "g")
        assert waiting.wait(30) == 1
        assert "is held" not in waiting.stderr.read()


def test_who_names_the_failed_of_a_group_means_the_newest_of_each_key_and_of_an_array_its_elements(gpuctl):
    sweep = ("-g", "0", "--group", "odd", "--key", "k", "--array", "0-3", "sh", "-c", "exit $((GPUD_ARRAY_INDEX % 2))")
    gpuctl.ended(*sweep)
    array = gpuctl.ended(*sweep)["id"]
    again = gpuctl("requeue", "--group", "odd", "--state", "failed")
    assert again.stderr.splitlines() == [f"gpuctl: requeued 2 jobs: {array}_1 {array}_3"]
    gpuctl("wait", array)


def test_a_bad_line_refuses_all_and_is_named(gpuctl):
    for text, told in (
        ("-g 0 true\n-g 99 true\n", "stdin:2: 99 GPUs are asked for"),
        ("true\n\n-gx true\n", "stdin:3: Invalid value for '-g' / '--gpus': "),
        ("true\n--gpuss 1 true\n", "stdin:2: No such option '--gpuss'. (Did you mean"),
        ("-g 0 true\n'\n", "stdin:2: no closing quotation"),
        ("-g 0 true\n-g 1\n", "stdin:2: nothing to run"),
        ("-g 0 echo {1, 2}\n", "stdin:1: {1,: a brace that is not closed"),
        ("-g 0 echo {0.1..0.5..0.1}\n", "stdin:1: {0.1..0.5..0.1} is no range of whole numbers"),
        ("-g 0 echo '{' {} {{1,2},3}\n", "stdin:1: {{1,2},3}: braces inside of braces"),
        ("-g 0 echo {1..1000}{1..1000}{1..1000}\n", "stdin:1: the braces make 1,000,000,000 jobs, and 100,000 can be"),
        ("[[job]]\ngpus = 1\n", "stdin:1: a job without a command"),
        ("# nothing\n", "stdin holds no jobs"),
        ("--group g --key k true\n\n--group g --key k false\n", "stdin:3: the key 'k' in group 'g' is that of stdin:1"),
        ("--group g --key k echo {1,2}\n", "stdin:1: the key 'k' in group 'g' is that of several of its jobs"),
    ):
        done = gpuctl("submit", "-f", "-", stdin=text)
        assert done.returncode in (1, 2), text
        assert told in done.stderr
    assert "several files" in gpuctl("submit", "-f", "a.txt", "-f", "b.txt").stderr
    assert gpuctl.json("list", "--all") == []


def test_changes_of_mind_are_typed_as_they_are_thought(gpuctl):
    job = gpuctl.ok("submit", "--hold", "-t", "1h", "-g", "2", "sleep", "1000")
    gpuctl.ok("update", job, "-t", "+30m", "--gpus", "1", "--name", "other", "-e", "A=1")
    shown = gpuctl.json("show", job)
    shown = shown.get("job", shown)
    assert (shown["time_limit_s"], shown["gpus"], shown["name"]) == (5400.0, 1, "other")
    gpuctl.ok("update", job, "--time-limit", "none")
    gpuctl.ok("update", "--mine", "-t", "10m")
    assert gpuctl.json("list", job)[0]["time_limit_s"] == 600.0
    gpuctl.ok("update", job, "--gpu-type", "4090", "--gpu-memory", "8G", "--cpus", "2")
    gpuctl.ok("update", job, "--gpu-type", "none", "--gpu-memory", "none", "--checkpoint-signal", "USR1@1m")
    shown = gpuctl.json("list", job)[0]
    assert (shown["gpu_type"], shown["gpu_memory_mib"], shown["gpus"], shown["cpus"]) == (None, None, 1, 2)
    gpuctl.ok("update", job, "--begin", "2h", "--notify", "desktop", "--retry-on", "oom", "--retries", "2")
    gpuctl.ok("update", job, "--begin", "none", "--notify", "none", "--retry-on", "none")
    shown = gpuctl.json("show", job)
    shown = shown.get("job", shown)
    assert shown["retry_on"] == []
    assert "begins in" not in gpuctl("why", job).stdout
    gpuctl.ok("update", job, "--estimate", "5m")
    gpuctl.ok("update", job, "--estimate", "none", "--checkpoint-signal", "none")
    assert gpuctl.json("list", job)[0]["estimate_s"] is None
    assert "by which signal" in gpuctl("update", job, "--checkpoint-interval", "5m").stderr
    astray = gpuctl("update", job, "--group", "sweep", "-p", "1")
    assert (astray.returncode, "to put them into it: --to-group sweep" in astray.stderr) == (1, True)
    assert "--to-group sweep" in gpuctl("update", job, "--group", "sweep").stderr
    assert gpuctl("update", job, "--output", "none").returncode == 2
    assert "there is no directory" in gpuctl("update", job, "--workdir", "nowhere").stderr
    assert "nothing to change is named" in gpuctl("update", job).stderr
    assert "does not run yet" in gpuctl("signal", job, "USR1").stderr
    assert gpuctl("signal", job, "NOSUCH").returncode == 2
    assert gpuctl("submit", "--key", "k", "true").returncode == 2


def test_who_is_told_and_when_it_saves_can_be_changed_and_whom_it_tells_of_what_runs(gpuctl):
    told, gate = gpuctl.directory / "told", gpuctl.directory / "gate"
    script = f"trap 'echo saved' USR1; echo ready; until test -e {gate}; do sleep 0.1; done"
    job = gpuctl.ok("submit", "--hold", "-g", "0", "--", "bash", "-c", script)
    gpuctl.ok("update", job, "--checkpoint-signal", "USR1", "--checkpoint-interval", "1s")
    gpuctl.ok("release", job)
    until(lambda: "saved" in gpuctl("logs", job).stdout)
    gpuctl.ok("update", job, "--notify", f"command:cat > {told}.new && mv {told}.new {told}")
    assert "cannot be changed" in gpuctl("update", job, "--checkpoint-signal", "USR1").stderr
    gate.touch()
    until(told.exists)
    assert f"job {job} (bash) completed" in told.read_text()


def test_a_script_of_many_jobs_is_remarked_on_once(gpuctl):
    (gpuctl.directory / "job.sbatch").write_text("#!/bin/sh\n#SBATCH -t 5 -p cpu\ntrue\n")
    (gpuctl.directory / "seeds.txt").write_text("./job.sbatch --seed {1..9}\n")
    done = gpuctl("submit", "-f", "seeds.txt")
    assert (len(done.stdout.split()), done.stderr.count("--partition=cpu")) == (9, 1)


def test_a_job_that_nobody_named_is_called_as_its_program_or_as_the_script_that_it_runs(gpuctl):
    named = {
        "python3 -u src/train.py --lr 0.1": "train.py",
        "/usr/bin/python3.11 -m lab.train": "lab.train",
        "bash run.sh": "run.sh",
        "bash -c true": "bash",
        "python": "python",
        "./a.out train.py": "a.out",
    }
    lines = "".join(f"--hold -g 0 -- {command}\n" for command in named)
    gpuctl.ok("submit", "-f", "-", stdin=lines)
    rows = gpuctl.json("list", "--sort", "id")
    assert {shlex.join(row["command"]): row["name"] for row in rows} == named
