"""What jobs ask for and what they come after, from the command line to what is shown of it."""

import pytest


def test_a_chain_is_submitted_shown_and_runs(gpuctl):
    first = gpuctl.ok("submit", "-g", "0", "--hold", "--", "true")
    second = gpuctl.ok("submit", "-g", "0", "--after", first, "--", "true")
    last = gpuctl.ok("submit", "-g", "0", "--after", f"any:{first},{second}", "--", "true")

    assert f"waits for job {first} (held) to succeed" in gpuctl.ok("list")
    assert f"waits for job {first} (held) to succeed" in gpuctl.ok("why", second)
    assert gpuctl.json("show", last)["after"] == [f"any:{first}", f"any:{second}"]
    assert gpuctl.json("show", first)["dependents"] == [second, last]
    shown = gpuctl.ok("show", second)
    assert f"after      {first}" in shown
    assert f"before     {last}" in shown

    gpuctl.ok("release", first)
    assert gpuctl("wait", first, second, last).returncode == 0


def test_who_can_never_start_says_why_and_what_to_do(gpuctl):
    failed = gpuctl.ended("--", "false")["id"]
    job = gpuctl.ok("submit", "-g", "0", "--after", failed, "--", "true")

    why = gpuctl.ok("why", job)
    assert f"was to start after job {failed} succeeded, but that failed" in why
    assert f"gpuctl release {job}" in why
    assert f"gpuctl requeue {failed}" in why
    assert gpuctl.json("list", job)[0]["state"] == "held"
    gpuctl.ok("release", job)
    assert gpuctl("wait", job).returncode == 0


@pytest.mark.parametrize("how", ["run", "wait"])
def test_who_waits_for_a_job_that_can_never_start_is_told(gpuctl, how):
    gpuctl.ok("submit", "-g", "0", "--hold", "--", "false")
    words = ("run", "-g", "0", "--after", "1", "--", "true")
    if how == "wait":
        gpuctl.ok("submit", *words[1:])
        words = ("wait", "2")
    with gpuctl.start(*words) as waiting:
        gpuctl.ok("release", "1")
        assert "job 2 is held: was to start after job 1 succeeded, but that failed" in waiting.stderr.readline()
        gpuctl.ok("release", "2")
        assert waiting.wait(30) == 0


def test_a_job_that_is_not_there_cannot_be_waited_for(gpuctl):
    done = gpuctl("submit", "--after", "7", "--", "true")
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no job 7" in done.stderr
    assert gpuctl.json("list", "--all") == []


@pytest.mark.parametrize(
    ("words", "keys", "shown"),
    [
        ("-g 0.25", {"gpus": 0.25, "share": True}, "0.25 GPUs"),
        ("--share --gpu-memory 8G", {"gpus": 1, "share": True, "gpu_memory_mib": 8192}, "1 GPU (8G of each)"),
        ("-g 2 --gpu-memory 24G", {"gpus": 2, "share": False, "gpu_memory_mib": 24576}, "2 GPUs (24G each)"),
        ("--retries 2 --retry-on oom", {"retries": 2, "retry_on": ["oom"]}, "2 retries on oom"),
        ("--estimate 2h --preemptible", {"estimate_s": 7200.0, "preemptible": True}, "about 2h, preemptible"),
        ("--no-preemptible", {"preemptible": False}, "1 GPU, not preemptible"),
        ("--gpu-type H100|4090", {"gpu_type": "H100|4090"}, "1 GPU (H100|4090)"),
    ],
)
def test_what_was_asked_for_is_in_json_and_in_words(gpuctl, words, keys, shown):
    job = gpuctl.ok("submit", "--hold", *words.split(), "--", "true")
    told = gpuctl.json("show", job)
    assert {key: told[key] for key in keys} == keys
    assert shown in gpuctl.ok("show", job)


def test_the_gpus_that_are_named_are_shown_by_node_and_number(gpuctl):
    only = gpuctl.json("show", gpuctl.ok("submit", "--hold", "--gpu-ids", "1", "--", "true"))
    node = gpuctl.json("gpus")[0]["node"]
    assert (only["gpu_ids"], only["excluded"]) == ([f"{node}:1"], [])
    assert f"1 GPU, only {node}:1" in gpuctl.ok("show", only["id"])
    but = gpuctl.ok("submit", "--hold", "--not-gpu", "0", "--", "true")
    assert gpuctl.json("show", but)["excluded"] == [f"{node}:0"]
    assert f"1 GPU, not {node}:0" in gpuctl.ok("show", but)


def test_a_share_stays_one_when_how_many_or_how_much_changes(gpuctl):
    job = gpuctl.ok("submit", "--hold", "--share", "--gpu-memory", "8G", "--", "true")
    for words, shown in (
        (("-g", "2"), (2, True, 8192)),
        (("--gpu-memory", "4G"), (2, True, 4096)),
        (("-g", "0.5"), (0.5, True, None)),
        (("-g", "1"), (1, False, None)),
        (("--share", "--gpu-memory", "2G"), (1, True, 2048)),
        (("--gpu-memory", "none"), (1, False, None)),
    ):
        gpuctl.ok("update", job, *words)
        row = gpuctl.json("list", job)[0]
        assert (row["gpus"], row["share"], row["gpu_memory_mib"]) == shown


def test_a_share_of_memory_is_listed_as_such(gpuctl):
    gpuctl.ok("submit", "--hold", "-n", "one", "--share", "--gpu-memory", "8G", "--", "true")
    gpuctl.ok("submit", "--hold", "-n", "two", "-g", "2", "--share", "--gpu-memory", "8G", "--", "true")
    _, one, two = gpuctl.ok("list").splitlines()
    assert ("  8G  " in one, " 2x8G  " in two) == (True, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("--share", 2, "--share --gpu-memory 8G"),
        ("-g 1.5", 2, "of more than one only whole ones"),
        ("-g x", 2, "is no number of GPUs; write 2, or 0.5"),
        ("-g 3 --nodes 2", 2, "--gpus-per-node"),
        ("--nodes 2", 1, "node"),
        ("--mig 1g.5gb", 1, "1g.5gb"),
        ("--not-node elsewhere", 3, "no node 'elsewhere'"),
        ("--pool debug", 1, "no pool 'debug'"),
        ("--not-gpu 0,1", 1, ""),
    ],
)
@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_what_cannot_be_had_is_refused_and_a_dry_run_says_the_same(gpuctl, words, status, said, how):
    done = gpuctl("submit", *how, *words.split(), "--", "true")
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert gpuctl.json("list", "--all") == []


def test_run_takes_the_same_options(gpuctl):
    first = gpuctl.ok("submit", "-g", "0", "--", "true")
    assert gpuctl.ok("run", "--after", first, "-g", "0.5", "--", "sh", "-c", "echo $GPUD_GPU_COUNT") == "1"
