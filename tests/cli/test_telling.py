"""What people read of jobs and GPUs: everything that gpud knows, in words that fit."""

from gpud_process import until


def test_logs_of_a_job_that_could_not_start_say_why_and_fail(gpuctl):
    for words in (["pyhton"], ["-C", "/nowhere", "--", "true"]):
        job = gpuctl.ended(*words)
        done = gpuctl("logs", job["id"])
        assert (done.returncode, "it never started" in done.stderr) == (1, True)
        assert job["reason"] in done.stderr
        assert "  used  " not in gpuctl.ok("show", job["id"])


def test_a_gpu_that_is_drained_while_busy_is_shown_so(gpuctl):
    gpuctl.ok("submit", "-g", "1", "--", "sleep", "60")
    [index] = [gpu["index"] for gpu in gpuctl.json("gpus") if gpu["jobs"]]
    gpuctl.ok("drain", str(index))
    assert "busy, draining" in gpuctl.ok("gpus")
    assert "busy, draining" in gpuctl.ok("status")


def test_show_tells_the_begin_time_and_what_a_job_left_behind(gpuctl):
    later = gpuctl.ok("submit", "--begin", "2h", "--", "true")
    assert "begins" in gpuctl.ok("show", later)
    assert "(in " in gpuctl.ok("show", later)
    job = gpuctl.ended("--", "sh", "-c", "sleep 100 & exit 0")
    assert "1 of its processes still ran at its end" in gpuctl.ok("show", job["id"])


def test_status_in_json_holds_the_gpus_and_jobs_themselves(gpuctl):
    job = gpuctl.ok("submit", "--hold", "--", "true")
    status = gpuctl.json("status")
    assert (status["jobs"], status["gpus"]) == ({"held": 1}, {"free": 2})
    assert [each["id"] for each in status["job_list"]] == [job]
    assert [each["index"] for each in status["gpu_list"]] == [0, 1]


def test_logs_of_an_earlier_attempt_and_of_the_last_lines_in_json(gpuctl):
    script = "echo attempt $GPUD_ATTEMPT; echo over; test $GPUD_ATTEMPT = 2"
    job = gpuctl.ended("--retries", "1", "--", "sh", "-c", script)["id"]
    assert gpuctl.ok("logs", job) == "attempt 2\nover"
    assert gpuctl.ok("logs", job, "--attempt", "1") == "attempt 1\nover"
    assert gpuctl.json("logs", job, "--attempt", "1", "-n", "1")["lines"] == ["over"]
    assert gpuctl("logs", job, "--attempt", "3").returncode == 1
    assert "lines" not in gpuctl.json("logs", job)


def test_jobs_are_listed_by_their_labels(gpuctl):
    gpuctl.ok("pause")
    one = gpuctl.ok("submit", "--label", "team=vision", "--label", "night=1", "--", "true")
    other = gpuctl.ok("submit", "--label", "team=text", "--", "true")
    gpuctl.ok("submit", "--", "true")

    def listed(*words):
        return [job["id"] for job in gpuctl.json("list", *words)]

    assert listed("--label", "team=vision") == [one]
    assert listed("--label", "team") == [one, other]
    assert listed("--label", "team", "--label", "night") == [one]
    assert listed("--label", "team=vision", "--label", "team=text") == []


def test_run_says_that_what_is_piped_in_reaches_nobody(gpuctl):
    told = "stdin is /dev/null"
    assert told in gpuctl("run", "-g", "0", "--", "cat", stdin="words").stderr
    assert told not in gpuctl("run", "-g", "0", "--", "cat", stdin="").stderr


def test_a_variable_that_gpud_sets_itself_is_told(gpuctl):
    done = gpuctl("submit", "-e", "CUDA_VISIBLE_DEVICES=3", "-e", "MINE=1", "--hold", "--", "true")
    assert (done.returncode, "gpud sets CUDA_VISIBLE_DEVICES itself" in done.stderr) == (0, True)


def test_a_moment_too_far_away_is_told_as_that(gpuctl):
    assert "longer than ten years" in gpuctl("submit", "--begin", "99999999d", "--", "true").stderr


def test_events_name_what_they_list(gpuctl):
    gpuctl.ok("drain", "0", "--reason", "fan")
    line = gpuctl.ok("events").splitlines()[-1]
    uuid = gpuctl.json("gpus")[0]["uuid"]
    assert f"gpus={uuid}" in line
    assert "by " in line


def test_the_history_of_notices_says_what_went_wrong(gpuctl):
    job = gpuctl.ok("submit", "-g", "0", "--notify", "command:echo no such room; exit 3", "--", "true")
    done = until(lambda: (told := gpuctl.ok("notify", "log", job)) and "it ended with 3" in told and told)
    assert "due" in done
